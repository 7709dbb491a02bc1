-- Reads many leases atomically.
--
-- KEYS  if ARGV[1] is 'mark', first the mark, a key that exists until the database is flushed;
--       then the lease of each instance, which may be hidden. Without the mark, one lease by
--       this key alone
-- ARGV  'mark' or ''; on a master of a cluster also the leases, which are in several slots
--
-- Returns the identity of this server, and for each lease its startTime and its remaining
-- milliseconds; an empty startTime and 0 if the lease is missing. In its last millisecond, with
-- 0 remaining, a lease is still alive, and a renewal continues it. A key without a TTL is not a
-- lease: the heartbeat of the original gateway center could leave one behind.

local identity, first = '', 1
if ARGV[1] == 'mark' then
  local mark = redis.call('GET', KEYS[1])
  if not mark then
    local clock = redis.call('TIME')
    mark = clock[1] .. '.' .. clock[2]
    redis.call('SET', KEYS[1], mark)
  end
  -- Each Redis server has its own run ID, and a new one after each start. If the ACL forbids
  -- INFO, the identity is the mark alone.
  local server = redis.pcall('INFO', 'server')
  local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
  identity, first = run .. '.' .. mark, 2
end

local answer = {}
local function read(key)
  local start = redis.pcall('HGET', key, 'startTime')
  if type(start) == 'table' and not string.find(start.err, 'WRONGTYPE', 1, true) then
    error(start.err)
  end
  local left = redis.call('PTTL', key)
  return type(start) == 'string' and left >= 0 and { start, left }
end
local function inspect(key)
  local lease = read(key) or first == 2 and read('rollcall:hidden:{' .. key .. '}')
  answer[#answer + 1] = lease or { '', 0 }
end
for i = first, #KEYS do inspect(KEYS[i]) end
for i = 2, #ARGV do inspect(ARGV[i]) end
return { identity, answer }
