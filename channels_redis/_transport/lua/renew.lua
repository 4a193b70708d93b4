-- Extends the lease of a process, and returns its previous end: a process that did not
-- write this end last knows that the server has lost data. The end always increases.
--
-- KEYS[1] leases: sorted set of process -> unix time in seconds at which its lease ends
-- ARGV[1] process: the client prefix of a layer object
-- ARGV[2] lease_s: seconds from now until the lease ends
-- ARGV[3] kept_s: seconds for which a lease is kept after its end
-- ARGV[4] sender_now_s: the sender's unix time in seconds, used only where TIME is refused
--
-- Returns {end_s, known_end_s}: the new end, and the one until now if there was one
local leases = KEYS[1]
local process = ARGV[1]
local lease_s = tonumber(ARGV[2])
local kept_s = tonumber(ARGV[3])
local now_s = tonumber(ARGV[4])

local time = redis.pcall('TIME')
if not time.err then
    now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Adds zero to the score of an existing member, which reads it with only the permission for ZADD.
local known_end_s = redis.call('ZADD', leases, 'XX', 'INCR', 0, process)
local end_s = now_s + lease_s
if known_end_s and tonumber(known_end_s) == end_s then
    end_s = end_s + 0.000001
end
local written = string.format('%.17g', end_s)
redis.call('ZADD', leases, written, process)
redis.call('ZREMRANGEBYSCORE', leases, '-inf', string.format('%.17g', now_s - kept_s))
redis.call('EXPIRE', leases, math.ceil(lease_s + kept_s))
return {written, known_end_s}
