-- Extends the lease of a process, and returns its previous end: a process that did not
-- write this end last knows that the server has lost data. The end always increases.
-- Then finds dead processes: those whose lease has run out. They are marked, so that a
-- process that was taken for dead learns of it at its next renewal.
--
-- KEYS[1] leases: sorted set of process -> unix time in seconds at which its lease ends;
--   of a dead process, minus the unix time in seconds at which it was found dead
-- ARGV[1] process: the client prefix of a layer object
-- ARGV[2] lease_s: seconds from now until the lease ends; 0 to leave it as it is
-- ARGV[3] kept_s: seconds for which a lease is kept after its end
-- ARGV[4] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
-- ARGV[5] asked_s: the server's unix time in seconds at which this was sent, as the sender
--   estimates it; 0 from a process that must not judge others
-- ARGV[6] since_s: unix time in seconds after which processes were found dead that are returned
--
-- Returns {end_s, known_end_s, now_s, process, ...}: the new end, the one until now if there was
-- one, the server's unix time in seconds, and the dead processes
local leases = KEYS[1]
local process = ARGV[1]
local lease_s = tonumber(ARGV[2])
local kept_s = tonumber(ARGV[3])
local now_s = tonumber(ARGV[4])
local asked_s = tonumber(ARGV[5])
local since_s = tonumber(ARGV[6])
-- A command that waited for longer was held up together with the renewals of others.
local longest_wait_s = 2

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local now = string.format('%.17g', now_s)

-- Adds zero to the score of an existing member, which reads it with only the permission for ZADD.
local known_end_s = redis.call('ZADD', leases, 'XX', 'INCR', 0, process)
local written = '0'
if lease_s > 0 then
    local end_s = now_s + lease_s
    if known_end_s and tonumber(known_end_s) == end_s then
        end_s = end_s + 0.000001
    end
    written = string.format('%.17g', end_s)
    redis.call('ZADD', leases, written, process)
    local kept = string.format('%.17g', now_s - kept_s)
    redis.call('ZREMRANGEBYSCORE', leases, '-' .. kept, kept)
    redis.call('EXPIRE', leases, math.ceil(lease_s + kept_s))
end

-- A process whose own lease has run out was cut off, or the server was: then others were, too.
local in_time = known_end_s and tonumber(known_end_s) >= now_s
local overdue = redis.pcall('ZCOUNT', leases, '(0', '(' .. now)
local may_judge = asked_s > 0 and in_time and not time.err and now_s - asked_s < longest_wait_s
if may_judge and tonumber(overdue) and overdue > 0 then
    local marked = redis.call('ZCOUNT', leases, '-inf', '(0')
    for _, name in ipairs(redis.call('ZRANGE', leases, marked, marked + overdue - 1)) do
        redis.call('ZADD', leases, '-' .. now, name)
    end
end

local reply = {written, known_end_s, now}
local found = redis.pcall('ZCOUNT', leases, '-inf', string.format('%.17g', -since_s))
if tonumber(found) and found > 0 then
    for _, name in ipairs(redis.call('ZRANGE', leases, 0, found - 1)) do
        reply[#reply + 1] = name
    end
end
return reply
