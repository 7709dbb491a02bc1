-- Looks at many leases at once, all of them at one moment.
--
-- KEYS[1]   what is there for as long as nobody has flushed the database
-- KEYS[2..] the lease of each instance
--
-- Returns which life of Redis this is, and for each lease its startTime and how many
-- milliseconds it still lives; an empty startTime and 0 where there is no lease. In its last
-- millisecond, with 0 left, it lives: a renewal then goes on with it. A key that never expires
-- proves nothing: the original's heartbeat could leave one behind.

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

local answer = {}
for i = 2, #KEYS do
  local start = redis.pcall('HGET', KEYS[i], 'startTime')
  local left = redis.call('PTTL', KEYS[i])
  if type(start) == 'string' and left >= 0 then
    answer[i - 1] = { start, left }
  else
    answer[i - 1] = { '', 0 }
  end
end
return { run .. '.' .. mark, answer }
