-- Removes channels of a group from its presence, and on core from the group.
--
-- KEYS[1] presence: hash, as in presence_join.lua
-- KEYS[2] group: only on core, sorted set of channel name -> unix time of joining in seconds
-- ARGV[1] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[2] events: "1" if joins and leaves are announced, so that channels are counted
-- ARGV[3] grace_s: seconds until a person without channels has left
-- ARGV[4..] channel, expected: the name of a channel, and the value of its field that was read; a
--   channel with another value is kept, and with "" it is removed in any case
--
-- Returns the persons who will have left when the grace is over
local presence = KEYS[1]
local group = KEYS[2]
local now_s = tonumber(ARGV[1])
local events = ARGV[2] == '1'
local grace_s = tonumber(ARGV[3])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local leaving = {}
for i = 4, #ARGV, 2 do
    local channel, expected = ARGV[i], ARGV[i + 1]
    local value = redis.call('HGET', presence, 'm:' .. channel)
    local is_right = expected == '' or value == expected
    if group and is_right then
        redis.call('ZREM', group, channel)
    end
    if value and is_right then
        redis.call('HDEL', presence, 'm:' .. channel)
        local person, info = string.match(value, '^[^\n]*\n([^\n]*)\n[^\n]*\n(.*)$')
        if events and person and redis.call('HINCRBY', presence, 'c:' .. person, -1) <= 0 then
            redis.call('HDEL', presence, 'c:' .. person)
            redis.call('HSET', presence, 'l:' .. person, string.format('%.17g', now_s + grace_s) .. '\n0\n' .. info)
            leaving[#leaving + 1] = person
        end
    end
end
return leaving
