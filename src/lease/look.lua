-- Looks at many leases at once, each at one moment.
--
-- KEYS the lease of each instance
--
-- Returns for each lease its startTime and how many milliseconds it still lives; an empty
-- startTime and 0 where there is no lease. A key that never expires proves nothing: the
-- original's heartbeat could leave one behind.

local answer = {}
for i = 1, #KEYS do
  local start = redis.pcall('HGET', KEYS[i], 'startTime')
  local left = redis.call('PTTL', KEYS[i])
  if type(start) == 'string' and left > 0 then
    answer[2 * i - 1], answer[2 * i] = start, left
  else
    answer[2 * i - 1], answer[2 * i] = '', 0
  end
end
return answer
