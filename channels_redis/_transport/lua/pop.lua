-- Takes the oldest messages from a queue, after dropping expired messages and invalid scores.
--
-- KEYS[1] queue: sorted set of message -> unix time in seconds
-- ARGV[1] limit: maximum number of messages to take; 0 only drops expired messages
-- ARGV[2] limit_bytes: stop after the messages taken reach this size in bytes
-- ARGV[3] expiry_s: age in seconds at which messages are dropped
-- ARGV[4] reader_now_s: the reader's unix time in seconds, used only where TIME is refused
--
-- Returns {now_s, expired, member, score, member, score, ...}: the unix time that was used, the
-- number of messages dropped, and the messages taken, oldest first
local queue = KEYS[1]
local limit = tonumber(ARGV[1])
local limit_bytes = tonumber(ARGV[2])
local expiry_s = tonumber(ARGV[3])
local now_s = tonumber(ARGV[4])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local oldest_s = string.format('%.17g', math.floor(now_s) - expiry_s)
local expired = redis.call('ZREMRANGEBYSCORE', queue, '-inf', oldest_s)
-- No clock is a day ahead: members with a higher score, such as +inf, are not messages.
local no_time_s = '(' .. string.format('%.17g', now_s + 86400)
expired = expired + redis.call('ZREMRANGEBYSCORE', queue, no_time_s, '+inf')
local reply = {string.format('%.17g', now_s), expired}
local taken_bytes = 0
while limit > 0 and taken_bytes < limit_bytes do
    -- In small steps, so that large messages do not make one very large reply.
    local step = math.min(limit, 16)
    local popped = redis.pcall('ZPOPMIN', queue, step)
    if popped.err then
        -- Once it is empty, a queue that is moving to another cluster node does not exist here any more.
        if #reply == 2 and expired == 0 then
            return popped
        end
        break
    end
    for i = 1, #popped, 2 do
        reply[#reply + 1] = popped[i]
        reply[#reply + 1] = popped[i + 1]
        taken_bytes = taken_bytes + #popped[i]
    end
    if #popped < 2 * step then
        break
    end
    limit = limit - step
end
return reply
