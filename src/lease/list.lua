-- A page of all leases of this server.
--
-- KEYS  a key of this server, so that it is this one that is asked
-- ARGV  where the page begins, what every lease key looks like, how many keys to look at
--
-- Returns where the next page begins and the keys. One that never expires proves nothing, and
-- is not listed: the original's heartbeat could leave one behind.

local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'hash')
local alive = {}
for _, key in ipairs(page[2]) do
  if redis.call('PTTL', key) >= 0 then
    alive[#alive + 1] = key
  end
end
return { page[1], alive }
