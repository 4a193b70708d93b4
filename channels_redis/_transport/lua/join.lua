-- Adds a channel to a group, or refreshes its time of joining.
--
-- KEYS[1] group: sorted set of channel name -> unix time of joining in seconds
-- ARGV[1] channel: the full channel name
-- ARGV[2] group_expiry_s: seconds after which the group expires if no channel joins
-- ARGV[3] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
--
-- Returns 1 if the channel is new in the group, else 0
local group = KEYS[1]
local channel = ARGV[1]
local group_expiry_s = tonumber(ARGV[2])
local now_s = tonumber(ARGV[3])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local added = redis.call('ZADD', group, string.format('%.17g', now_s), channel)
redis.call('EXPIRE', group, math.ceil(group_expiry_s))
return added
