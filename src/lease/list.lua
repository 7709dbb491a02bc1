-- A page of all leases of this server.
--
-- KEYS  a key of this server, by which the call is routed
-- ARGV  the cursor of the page, the pattern of lease keys, the number of keys to examine
--
-- Returns the cursor of the next page and the keys. A key without a TTL is not listed: the
-- original's heartbeat could leave one behind.

local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'hash')
local alive = {}
for _, key in ipairs(page[2]) do
  if redis.call('PTTL', key) >= 0 then
    alive[#alive + 1] = key
  end
end
return { page[1], alive }
