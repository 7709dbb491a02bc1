-- Creates or renews many leases at once. Redis runs a script whole or not at all, so
-- no lease is left without its time to live or without one of its fields.
--
-- KEYS[1]   the last epoch given out, so that a later life has a later epoch even if
--           the clock was set back
-- KEYS[2..] the lease of each instance
-- ARGV      for each lease: address, weight, time to live in seconds
--
-- Returns for each lease its startTime, behind a '+' where a new life began; in one text,
-- with spaces between them.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- Unix milliseconds as RFC 3339 in UTC, after Howard Hinnant's civil_from_days.
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

local last_time = rfc3339(now)
local epoch = nil
local answer = {}

for i = 2, #KEYS do
  local key, a = KEYS[i], 3 * (i - 2)
  local start = redis.pcall('HGET', key, 'startTime')
  if type(start) == 'string' and string.match(start, '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then
    redis.call('HSET', key, 'lastTime', last_time, 'url', ARGV[a + 1], 'weight', ARGV[a + 2])
    answer[i - 1] = start
  else
    if epoch == nil then
      local last = tonumber(redis.call('GET', KEYS[1]) or 0)
      epoch = rfc3339(math.max(now, last + 1))
      redis.call('SET', KEYS[1], string.format('%.0f', math.max(now, last + 1)))
    end
    -- What else may be there was not made by this script: another type, or a part of a lease.
    redis.call('DEL', key)
    redis.call('HSET', key, 'lastTime', last_time, 'startTime', epoch, 'url', ARGV[a + 1], 'weight', ARGV[a + 2])
    answer[i - 1] = '+' .. epoch
  end
  redis.call('EXPIRE', key, ARGV[a + 3])
end

return table.concat(answer, ' ')
