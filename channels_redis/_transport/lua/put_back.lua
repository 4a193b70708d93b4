-- Puts messages without a receiver back into their queue, at their old places.
-- Ignores the capacity, because they were in the queue before.
--
-- KEYS[1] queue: sorted set of message -> unix time in seconds
-- ARGV[1] expiry_s: age in seconds at which messages are dropped
-- ARGV[2..] score_s, member: pairs of unix time in seconds and message, bytes
--
-- Returns the number of messages added
local queue = KEYS[1]
local expiry_s = tonumber(ARGV[1])

local added = 0
for i = 2, #ARGV, 2 do
    added = added + redis.call('ZADD', queue, ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', queue, math.ceil(expiry_s))
return added
