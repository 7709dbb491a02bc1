-- Checks that this server accepts writes and reads.
--
-- KEYS[1]   the mark, a key that exists until the database is flushed
-- KEYS[2]   the key that the probe writes; it expires after 60 seconds
--
-- Returns the identity of this server, as inspect.lua does.

local clock = redis.call('TIME')
redis.call('SET', KEYS[2], clock[1] .. '.' .. clock[2], 'EX', 60)

local mark = redis.call('GET', KEYS[1])
if not mark then
  mark = clock[1] .. '.' .. clock[2]
  redis.call('SET', KEYS[1], mark)
end

local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
return run .. '.' .. mark
