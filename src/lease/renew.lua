-- Creates or renews many leases atomically: no lease is ever without its TTL or without one of
-- its fields.
--
-- KEYS    the lease of each instance; on a master of a cluster only the first lease, because
--         all KEYS of a script must be in one slot
-- ARGV    the number of leases that are passed in ARGV instead of KEYS, these leases, and for
--         each lease: address, weight, TTL in seconds
--
-- Returns one text with the startTime of each lease, separated by spaces. A '+' precedes the
-- startTime of a new lease.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- Formats Unix milliseconds as RFC 3339 in UTC, by Howard Hinnant's civil_from_days.
local function rfc3339(millis)
  local seconds = math.floor(millis / 1000)
  local days = math.floor(seconds / 86400)
  local second = seconds - days * 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, millis - seconds * 1000)
end

-- The key of the same lease while it is visible, if it is hidden, and the other way round.
local function other_key(key)
  return string.match(key, '^rollcall:hidden:{(.*)}$') or 'rollcall:hidden:{' .. key .. '}'
end

local keys, named = {}, tonumber(ARGV[1])
if named == 0 then
  keys = KEYS
else
  -- If another master holds a lease, or the lease is being moved, EXISTS fails here, before
  -- anything is written.
  for i = 1, named do
    keys[i] = ARGV[1 + i]
    redis.call('EXISTS', keys[i])
  end
end

local time = rfc3339(now)
local answer = {}

for i = 1, #keys do
  local key, a = keys[i], 3 * (i - 1) + named + 1
  local start = redis.pcall('HGET', key, 'startTime')
  if not start then
    -- It may have been visible and be hidden from now on, or the other way round.
    -- RENAME has two keys, and fails while their slot is moved.
    local other = other_key(key)
    start = redis.pcall('HGET', other, 'startTime')
    if type(start) == 'string' then
      redis.call('DEL', other)
      redis.call('HSET', key, 'startTime', start)
    end
  end
  if type(start) == 'table' and not string.find(start.err, 'WRONGTYPE', 1, true) then
    return start
  end
  if type(start) == 'string' and string.match(start, '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then
    redis.call('HSET', key, 'lastTime', time, 'url', ARGV[a + 1], 'weight', ARGV[a + 2])
    answer[i] = start
  else
    -- Another program may have left a key of another type, or an incomplete lease. DEL runs
    -- only if the key exists: after a DEL, Redis lets a script write in spite of OOM.
    if redis.call('EXISTS', key) == 1 then
      redis.call('DEL', key)
    end
    redis.call('HSET', key, 'lastTime', time, 'startTime', time, 'url', ARGV[a + 1], 'weight', ARGV[a + 2])
    answer[i] = '+' .. time
  end
  redis.call('EXPIRE', key, ARGV[a + 3])
end

return table.concat(answer, ' ')
