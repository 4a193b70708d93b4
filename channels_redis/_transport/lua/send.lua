-- Adds one message to a queue unless it is full, and drops what has expired.
-- The score is the server's time, and always above the last one: the order is the order of
-- arrival, and no sender's clock can delete or overtake anything.
--
-- KEYS[1] queue: sorted set of message -> unix time in seconds
-- ARGV[1] member: the message as its readers get it, bytes
-- ARGV[2] expiry_s: age in seconds at which messages are dropped
-- ARGV[3] capacity: number of messages at which the queue is full
-- ARGV[4] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
--
-- Returns 1 if added, 0 if full; plus 2 where the sender's clock was used
local queue = KEYS[1]
local member = ARGV[1]
local expiry_s = tonumber(ARGV[2])
local capacity = tonumber(ARGV[3])
local now_s = tonumber(ARGV[4])
local clock = 2

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
    clock = 0
end

-- No clock is a day ahead: what is in the queue beyond that, +inf for example, is no message.
local no_time_s = '(' .. string.format('%.17g', now_s + 86400)
local ahead = redis.call('ZCOUNT', queue, string.format('%.17g', now_s), '+inf')
if ahead > 0 and redis.call('ZCOUNT', queue, no_time_s, '+inf') > 0 then
    ahead = ahead - redis.call('ZREMRANGEBYSCORE', queue, no_time_s, '+inf')
end

local expired_s = string.format('%.17g', math.floor(now_s) - expiry_s)
if redis.call('ZCOUNT', queue, '(' .. expired_s, '+inf') >= capacity then
    return clock
end

-- The last score is read only when it is not in the past: reading it copies its message.
if ahead > 0 then
    now_s = tonumber(redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]) + 0.000001
end
-- The first command that writes, as a rule: after any other, a server whose memory is full would not refuse.
redis.call('ZADD', queue, string.format('%.17g', now_s), member)
redis.call('ZREMRANGEBYSCORE', queue, '-inf', expired_s)
redis.call('EXPIRE', queue, math.ceil(expiry_s))
return 1 + clock
