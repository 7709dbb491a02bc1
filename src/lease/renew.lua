-- Creates or renews many leases atomically: no lease is ever without its TTL or without one of
-- its fields.
--
-- KEYS    the lease of each instance; on a master of a cluster only the first lease, because
--         all KEYS of a script must be in one slot
-- ARGV    the number of leases that are passed in ARGV instead of KEYS, these leases, and for
--         each lease: address, weight, TTL in seconds
--
-- Returns one text with 24 bytes for each lease, separated by spaces: its startTime, whose last
-- byte is '+' instead of 'Z' if the lease is new. The caller checks that they are times.
--
-- Each call of Redis, each function and each pattern in here costs a part of every heartbeat.

local call, pcall, arguments = redis.call, redis.pcall, ARGV
local keys, named = KEYS, tonumber(arguments[1])
if named > 0 then
  -- If another master holds a lease, or the lease is being moved, EXISTS fails here, before
  -- anything is written.
  keys = {}
  for i = 1, named do
    keys[i] = arguments[1 + i]
    call('EXISTS', keys[i])
  end
end

-- The time as RFC 3339 in UTC, by Howard Hinnant's civil_from_days.
local clock = call('TIME')
local seconds, floor = tonumber(clock[1]), math.floor
local second = seconds % 86400
local z = (seconds - second) / 86400 + 719468
local doe = z % 146097
local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
local mp = floor((5 * doy + 2) / 153)
local month = mp < 10 and mp + 3 or mp - 9
local year = yoe + (z - doe) / 146097 * 400 + (month <= 2 and 1 or 0)
local until_z = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d', year, month, doy - floor((153 * mp + 2) / 5) + 1,
  floor(second / 3600), floor(second / 60) % 60, second % 60, floor(tonumber(clock[2]) / 1000))
local time, created = until_z .. 'Z', until_z .. '+'

local answer, a = {}, named + 2
for i = 1, #keys do
  local key = keys[i]
  local start = pcall('HGET', key, 'startTime')
  if not start then
    -- It may have been visible and be hidden from now on, or the other way round.
    -- RENAME has two keys, and fails while their slot is moved.
    local other = string.match(key, '^rollcall:hidden:{(.*)}$') or 'rollcall:hidden:{' .. key .. '}'
    start = pcall('HGET', other, 'startTime')
    if type(start) == 'string' then
      call('DEL', other)
      call('HSET', key, 'startTime', start)
    end
  end
  if type(start) == 'table' and not string.find(start.err, 'WRONGTYPE', 1, true) then
    return start
  end
  if type(start) == 'string' and #start == 24 then
    call('HSET', key, 'lastTime', time, 'url', arguments[a], 'weight', arguments[a + 1])
    answer[i] = start
  else
    -- Another program may have left an incomplete lease, or a key of another type. DEL runs only
    -- then: after a DEL, Redis lets a script write in spite of OOM.
    if type(start) == 'table' then
      call('DEL', key)
    end
    call('HSET', key, 'lastTime', time, 'startTime', time, 'url', arguments[a], 'weight', arguments[a + 1])
    answer[i] = created
  end
  call('EXPIRE', key, arguments[a + 2])
  a = a + 3
end

return table.concat(answer, ' ')
