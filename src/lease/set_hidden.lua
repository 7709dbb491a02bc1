-- Hides a lease, or shows it.
--
-- KEYS  the visible key of the lease
-- ARGV  '1' to hide it, '' to show it
--
-- Returns 1 if the lease was moved, 0 if there is none or it was so already.

local from, to = 'rollcall:hidden:{' .. KEYS[1] .. '}', KEYS[1]
if ARGV[1] == '1' then from, to = to, from end
if redis.call('EXISTS', from) == 0 then return 0 end
redis.call('RENAME', from, to)
return 1
