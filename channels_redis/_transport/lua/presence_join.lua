-- Writes who is in a group, and on core adds the channels to the group.
--
-- KEYS[1] presence: hash of "m:" and channel -> process, person, unix time of joining in seconds, and
--   info, one a line; of "c:" and person -> number of channels; of "l:" and person -> unix time in
--   seconds at which the person has left, that at which this was announced or 0, and info
-- KEYS[2] group: only on core, sorted set of channel name -> unix time of joining in seconds
-- ARGV[1] expiry_s: seconds after which the keys expire if no channel joins
-- ARGV[2] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[3] process: the client prefix of a layer object
-- ARGV[4] events: "1" if joins and leaves are announced, so that channels are counted
-- ARGV[5] grace_s: seconds until a person without channels has left
-- ARGV[6..] channel, person, age_s, info: the name of a channel, what identifies its user, seconds
--   since it joined, and encoded info, bytes
--
-- Returns {joined, leaving}: the persons who have joined, with their first channel and not after a
-- short absence, and those who will have left when the grace is over, as a channel has another person
local presence = KEYS[1]
local group = KEYS[2]
local expiry_s = tonumber(ARGV[1])
local now_s = tonumber(ARGV[2])
local process = ARGV[3]
local events = ARGV[4] == '1'
local grace_s = tonumber(ARGV[5])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local joined, leaving = {}, {}
for i = 6, #ARGV, 4 do
    local channel, person = ARGV[i], ARGV[i + 1]
    local joined_s = string.format('%.17g', now_s - tonumber(ARGV[i + 2]))
    local info = ARGV[i + 3]
    local before = events and redis.call('HGET', presence, 'm:' .. channel)
    redis.call('HSET', presence, 'm:' .. channel, process .. '\n' .. person .. '\n' .. joined_s .. '\n' .. info)
    if group then
        redis.call('ZADD', group, joined_s, channel)
    end
    local was, was_info
    if before then
        was, was_info = string.match(before, '^[^\n]*\n([^\n]*)\n[^\n]*\n(.*)$')
    end
    if events and was ~= person then
        if was and redis.call('HINCRBY', presence, 'c:' .. was, -1) <= 0 then
            redis.call('HDEL', presence, 'c:' .. was)
            redis.call('HSET', presence, 'l:' .. was, string.format('%.17g', now_s + grace_s) .. '\n0\n' .. was_info)
            leaving[#leaving + 1] = was
        end
        if redis.call('HINCRBY', presence, 'c:' .. person, 1) == 1 then
            local absence = redis.call('HGET', presence, 'l:' .. person)
            redis.call('HDEL', presence, 'l:' .. person)
            -- One that was already announced, or is being announced, is followed by a join.
            if not (absence and string.match(absence, '^[^\n]*\n0\n')) then
                joined[#joined + 1] = person
            end
        end
    end
end
redis.call('EXPIRE', presence, math.ceil(expiry_s))
if group then
    redis.call('EXPIRE', group, math.ceil(expiry_s))
end
return {joined, leaving}
