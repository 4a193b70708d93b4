-- Reads the newest position of a group, and the entries of its log from an offset on.
--
-- KEYS[1] log: stream of offset-0 -> m (mark), b (mark of the entry before), p (payload, bytes)
-- KEYS[2] pos: string of the offset, the mark, and more
-- ARGV[1] from: number of the offset of the first entry that is wanted
-- ARGV[2] limit: maximum number of entries; the newest if there are more
-- ARGV[3] mark: 16 hex digits for the position of a group without one
-- ARGV[4] pos_ttl_s: seconds that the position is kept
-- ARGV[5] reader_now_s: the reader's unix time in seconds, used only where TIME is refused
--
-- Returns {offset, mark, entries}: the newest position, the offset as text, and the entries as
-- XREVRANGE returns them, newest first
local log = KEYS[1]
local pos = KEYS[2]
local from = ARGV[1]
local limit = tonumber(ARGV[2])

local entries = {}
if limit > 0 then
    entries = redis.call('XREVRANGE', log, '+', from, 'COUNT', limit)
end
local offset, mark = string.match(redis.call('GET', pos) or '', '^(%d+) (%x+)')
if not offset then
    local last = entries[1] or redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    if last then
        -- The log has outlived its position, or somebody else has written one of the two.
        return {string.match(last[1], '^%d+'), string.match(last[2][2], '^%x+$') or ARGV[3], entries}
    end
    local time = redis.pcall('TIME')
    local top = tonumber(ARGV[5]) * 1000000
    if not time.err then
        top = tonumber(time[1]) * 1000000 + tonumber(time[2])
    end
    offset, mark = string.format('%.0f', top), ARGV[3]
    redis.call('SET', pos, offset .. ' ' .. mark .. ' 0', 'EX', ARGV[4])
end
return {offset, mark, entries}
