-- Hides a lease, or shows it.
--
-- KEYS  the key that the lease has now
-- ARGV  the key that it gets, in the same slot
--
-- Fails while the slot is moved between masters of a cluster.
--
-- Returns 1 if the lease was moved, 0 if there is none or it was so already.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('RENAME', KEYS[1], ARGV[1])
return 1
