-- Counts the channels of a group, except those that joined too long ago.
--
-- KEYS[1] group: sorted set of channel name -> unix time of joining in seconds
-- ARGV[1] group_expiry_s: seconds after which a channel leaves, unless it joins again
-- ARGV[2] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
--
-- Returns the number of channels
local group = KEYS[1]
local group_expiry_s = tonumber(ARGV[1])
local now_s = tonumber(ARGV[2])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

return redis.call('ZCOUNT', group, string.format('(%.17g', math.floor(now_s) - group_expiry_s), '+inf')
