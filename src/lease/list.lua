-- Lists one page of the leases on this server.
--
-- KEYS  a key on this server, which routes the call to it
-- ARGV  the cursor of the page, the pattern of lease keys, the number of keys to examine
--
-- Returns the cursor of the next page, and the keys. A key without a TTL is not a lease: the
-- heartbeat of the original gateway center could leave one behind.

local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'hash')
local alive = {}
for _, key in ipairs(page[2]) do
  if redis.call('PTTL', key) >= 0 then
    alive[#alive + 1] = key
  end
end
return { page[1], alive }
