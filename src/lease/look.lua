-- Looks at many leases at once, all of them at one moment.
--
-- KEYS  if ARGV[1] is 'mark', first what is there for as long as nobody has flushed the database;
--       then the lease of each instance
-- ARGV  'mark' or '', and on a node of a cluster the leases, which are of several slots
--
-- Returns which life of Redis this is, and for each lease its startTime and how many
-- milliseconds it still lives; an empty startTime and 0 where there is no lease. In its last
-- millisecond, with 0 left, it lives: a renewal then goes on with it. A key that never expires
-- proves nothing: the original's heartbeat could leave one behind.

local identity, first = '', 1
if ARGV[1] == 'mark' then
  local mark = redis.call('GET', KEYS[1])
  if not mark then
    local clock = redis.call('TIME')
    mark = clock[1] .. '.' .. clock[2]
    redis.call('SET', KEYS[1], mark)
  end
  -- The server's own number, another one after each start and of each replica. One that may
  -- not be asked for it is known by the mark alone.
  local server = redis.pcall('INFO', 'server')
  local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
  identity, first = run .. '.' .. mark, 2
end

local answer = {}
local function look(key)
  local start = redis.pcall('HGET', key, 'startTime')
  if type(start) == 'table' and not string.find(start.err, 'WRONGTYPE', 1, true) then
    error(start.err)
  end
  local left = redis.call('PTTL', key)
  if type(start) == 'string' and left >= 0 then
    answer[#answer + 1] = { start, left }
  else
    answer[#answer + 1] = { '', 0 }
  end
end
for i = first, #KEYS do look(KEYS[i]) end
for i = 2, #ARGV do look(ARGV[i]) end
return { identity, answer }
