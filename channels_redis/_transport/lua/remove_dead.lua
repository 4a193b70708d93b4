-- Removes channels of dead processes from a group, unless they have joined again meanwhile.
--
-- KEYS[1] group: sorted set of channel name -> unix time of joining in seconds
-- ARGV[1..] joined_s, channel: pairs of the unix time of joining in seconds that was read, and the
--   full channel name
--
-- Returns the number of channels that were removed
local group = KEYS[1]

local removed = 0
for i = 1, #ARGV, 2 do
    local channel = ARGV[i + 1]
    -- Adds zero to the score of an existing member, which reads it with only the permission for ZADD.
    local joined_s = redis.call('ZADD', group, 'XX', 'INCR', 0, channel)
    if joined_s and tonumber(joined_s) == tonumber(ARGV[i]) then
        removed = removed + redis.call('ZREM', group, channel)
    end
end
return removed
