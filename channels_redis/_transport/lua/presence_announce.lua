-- Takes the leaves whose grace is over, to be announced, or removes those that were.
-- A leave is kept until it was announced, so that another process can do it. The unix time
-- of leaving makes it the same leave for all.
--
-- KEYS[1] presence: hash, as in presence_join.lua
-- ARGV[1] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[2] again_s: seconds after which a leave is taken again that was taken and not removed
-- ARGV[3..] person, left_s: what identifies a user; and to remove the leave, the unix time of leaving
--   in seconds that was returned, otherwise ""
--
-- Returns person, left_s, info of each leave to announce
local presence = KEYS[1]
local now_s = tonumber(ARGV[1])
local again_s = tonumber(ARGV[2])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local taken = {}
for i = 3, #ARGV, 2 do
    local person = ARGV[i]
    local value = redis.call('HGET', presence, 'l:' .. person)
    local left_s, taken_s, info = string.match(value or '', '^([^\n]*)\n([^\n]*)\n(.*)$')
    if left_s and left_s == ARGV[i + 1] then
        redis.call('HDEL', presence, 'l:' .. person)
    elseif left_s and ARGV[i + 1] == '' and tonumber(left_s) <= now_s and tonumber(taken_s) + again_s <= now_s then
        redis.call('HSET', presence, 'l:' .. person, left_s .. '\n' .. string.format('%.17g', now_s) .. '\n' .. info)
        taken[#taken + 1] = person
        taken[#taken + 1] = left_s
        taken[#taken + 1] = info
    end
end
return taken
