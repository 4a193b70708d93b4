-- Adds one message to a queue unless it is full, and drops expired messages.
-- The score is the server's time, and always above the last one: the order is the order of
-- arrival, and does not depend on the senders' clocks.
--
-- KEYS[1] queue: sorted set of message -> unix time in seconds
-- ARGV[1] member: the encoded message, bytes
-- ARGV[2] expiry_s: age in seconds at which messages are dropped
-- ARGV[3] capacity: number of messages at which the queue is full
-- ARGV[4] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[5] budget_bytes: size at which a queue with that many messages is full; 0 if at any
--
-- Returns 1 if added, 0 if full; plus 2 where the sender's clock was used
local queue = KEYS[1]
local member = ARGV[1]
local expiry_s = tonumber(ARGV[2])
local capacity = tonumber(ARGV[3])
local now_s = tonumber(ARGV[4])
local budget_bytes = tonumber(ARGV[5])
local clock = 2

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
    clock = 0
end

-- No clock is a day ahead: members with a higher score, such as +inf, are not messages.
local no_time_s = '(' .. string.format('%.17g', now_s + 86400)
local ahead = redis.call('ZCOUNT', queue, string.format('%.17g', now_s), '+inf')
if ahead > 0 and redis.call('ZCOUNT', queue, no_time_s, '+inf') > 0 then
    ahead = ahead - redis.call('ZREMRANGEBYSCORE', queue, no_time_s, '+inf')
end

local expired_s = string.format('%.17g', math.floor(now_s) - expiry_s)
local waiting = redis.call('ZCOUNT', queue, '(' .. expired_s, '+inf')
if waiting >= capacity then
    -- The sender took all messages to be as large as its own, but there may be thousands of short
    -- ones.  How large they are is seen in some of them, at even distances and others each time; the
    -- two largest are left out, as a long message or two among many short ones tell nothing.
    local seen_bytes, largest_bytes, second_bytes = 0, 0, 0
    local step = math.max(1, math.floor(waiting / 16))
    local rank = -1 - math.floor(now_s * 1000000) % step
    for _ = 1, budget_bytes > 0 and 16 or 0 do
        local size_bytes = #(redis.call('ZRANGE', queue, rank, rank)[1] or '')
        seen_bytes = seen_bytes + size_bytes
        second_bytes = math.max(second_bytes, math.min(largest_bytes, size_bytes))
        largest_bytes = math.max(largest_bytes, size_bytes)
        rank = rank - step
    end
    if waiting * (seen_bytes - largest_bytes - second_bytes) >= 14 * budget_bytes then
        return clock
    end
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
