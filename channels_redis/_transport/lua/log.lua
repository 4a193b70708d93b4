-- Appends one message to the log of a group and publishes it, or writes a break: an entry that
-- says that messages before it may be missing.
-- A break also comes before the message where the log does not have the position that the sender
-- knows, as the server has lost what was there. It gets an offset above that position, so that no
-- offset is given twice as far as anybody knows.
--
-- KEYS[1] log: stream of offset-0 -> m (mark), b (mark of the entry before), p (payload, bytes)
-- KEYS[2] pos: string of the offset, the mark, the offset of the last break, and the offset and the mark of the position of a sender that was found in the log last
-- ARGV[1] payload: the message, bytes; or the kind of a break: nothing, if one is written only where the log does not have the known position; one byte 193, if always
-- ARGV[2] mark: 16 hex digits for the new entry
-- ARGV[3] known: number of the offset that the sender knows; 0 if none
-- ARGV[4] known_mark: the mark at this offset
-- ARGV[5] size: number of entries that are kept, about
-- ARGV[6] ttl_s: seconds that the log is kept after its last entry
-- ARGV[7] pos_ttl_s: seconds that the position is kept
-- ARGV[8] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[9] way: PUBLISH, SPUBLISH, or nothing where the sender delivers the message
-- ARGV[10] topic: the Pub/Sub topic of the group, in the slot of the keys
-- ARGV[11] head: bytes in front of what is published
-- ARGV[12] again: 1 if the same call may have been executed before
--
-- Returns {offset, mark} of the newest entry, the offset as text
local log = KEYS[1]
local pos = KEYS[2]
local payload = ARGV[1]
local mark = ARGV[2]
local known = tonumber(ARGV[3])
local known_mark = ARGV[4]
local size = tonumber(ARGV[5])
local way = ARGV[9]
local topic = ARGV[10]

local function text(offset)
    return string.format('%.0f', offset)
end

-- Returns the offset in the id of an entry, and its fields by name.
local function read(entry)
    local fields = {}
    for i = 1, #entry[2], 2 do
        fields[entry[2][i]] = entry[2][i + 1]
    end
    return tonumber(string.match(entry[1], '^%d+')), fields
end

local function newest()
    local found = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
    if found[1] then
        return read(found[1])
    end
end

if ARGV[12] == '1' then
    for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-')) do
        local offset, fields = read(entry)
        if fields.m == mark then
            return {text(offset), mark}
        end
    end
end

local top, top_mark, last_break = nil, '0000000000000000', 0
local found, found_mark
local kept = redis.call('GET', pos) or ''
local offset, its_mark, its_break, its_found, its_found_mark = string.match(kept, '^(%d+) (%x+) (%d+) ?(%d*) ?(%x*)$')
if offset then
    top, top_mark, last_break = tonumber(offset), its_mark, tonumber(its_break)
    found, found_mark = tonumber(its_found), its_found_mark
else
    local last, fields = newest()
    if last then
        top, top_mark = last, fields.m or top_mark
    end
end

local lost = false
if not top then
    -- Above all offsets of an earlier log, as no group gets a million messages a second for long.
    local time = redis.pcall('TIME')
    if time.err then
        top = math.floor(tonumber(ARGV[8]) * 1000000)
    else
        top = tonumber(time[1]) * 1000000 + tonumber(time[2])
    end
    lost = known >= top
elseif known >= top then
    lost = known > top or known_mark ~= top_mark
elseif known > last_break and not (known == found and known_mark == found_mark) then
    -- What was trimmed is of no account: whoever is as far back gets no complete answer anyway.
    local at = redis.call('XRANGE', log, text(known), text(known))
    if at[1] then
        local _, fields = read(at[1])
        lost = fields.m ~= known_mark
    end
end

local top_text = top and text(top)
-- Returns nothing, or an error reply. The first command that writes adds the entry: after any
-- other, a server whose memory is full would not refuse.
local function append(its_mark, its_payload)
    local offset = top + 1
    local offset_text = text(offset)
    local added = redis.pcall('XADD', log, 'MAXLEN', '~', size, offset_text .. '-0',
        'm', its_mark, 'b', top_mark, 'p', its_payload)
    if added.err then
        return added
    end
    top, top_text, top_mark = offset, offset_text, its_mark
    if way ~= '' then
        local frame = ARGV[11] .. '\193' .. string.format('%016x', offset) .. its_mark .. its_payload
        if way == 'SPUBLISH' then
            redis.call('SPUBLISH', topic, frame)
        else
            redis.call('PUBLISH', topic, frame)
        end
    end
end

-- Of breaks in a row only the last is of use.
local function append_break(its_mark, kind)
    local before, fields = newest()
    top = math.max(top, known)
    local failed = append(its_mark, kind)
    if failed then
        return failed
    end
    last_break = top
    if before and (fields.p == '' or fields.p == '\193') then
        redis.call('XDEL', log, text(before))
    end
end

local is_break = payload == '' or payload == '\193'
-- Returns nothing, or an error reply.
local function write()
    if is_break then
        return (lost or payload == '\193') and append_break(mark, payload) or nil
    end
    return lost and append_break(string.reverse(mark), '') or append(mark, payload)
end

local failed = write()
if failed and string.find(failed.err, 'equal or smaller', 1, true) then
    -- The log is newer than the position: one of them was restored or replaced.
    top, lost = newest(), true
    failed = write()
end
if failed then
    return failed
end
redis.call('EXPIRE', log, ARGV[6])
local new_pos = top_text .. ' ' .. top_mark .. ' ' .. text(last_break)
if known > last_break and not lost then
    new_pos = new_pos .. ' ' .. ARGV[3] .. ' ' .. known_mark
end
redis.call('SET', pos, new_pos, 'EX', ARGV[7])
return {top_text, top_mark}
