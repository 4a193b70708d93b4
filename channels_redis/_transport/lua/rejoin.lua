-- Adds channels to a group again, with the age of their memberships.
--
-- KEYS[1] group: sorted set of channel name -> unix time of joining in seconds
-- ARGV[1] group_expiry_s: seconds after which the group expires if no channel joins
-- ARGV[2] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[3] precision_s: seconds by which the time of joining of a member may be older and is kept
-- ARGV[4..] age_s, channel: pairs of seconds since joining, and the full channel name
--
-- Returns the number of channels that were not in the group
local group = KEYS[1]
local group_expiry_s = tonumber(ARGV[1])
local now_s = tonumber(ARGV[2])
local precision_s = tonumber(ARGV[3])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local added = 0
for i = 4, #ARGV, 2 do
    local joined_s = now_s - tonumber(ARGV[i])
    local channel = ARGV[i + 1]
    local written = string.format('%.17g', joined_s)
    if redis.call('ZADD', group, 'NX', written, channel) == 1 then
        added = added + 1
    elseif tonumber(redis.call('ZADD', group, 'XX', 'INCR', 0, channel)) < joined_s - precision_s then
        redis.call('ZADD', group, written, channel)
    end
end
redis.call('EXPIRE', group, math.ceil(group_expiry_s))
return added
