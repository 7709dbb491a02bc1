-- Appends events to the log, in order.
--
-- Two daemons that record two transitions of one instance one after the other may come here
-- in the other order. Their revisions say what was first: a transition that comes too late is
-- dropped, and one that repeats the last shows that its opposite is still to come, which is
-- appended before it. So each transition is told once, and they alternate.
--
-- KEYS[1]   the log, a stream whose ids are the number of the log and a place without gaps
-- KEYS[2..] for each event what is remembered of its instance's last transition; the log
--           itself for an event that is none
-- ARGV[1]   about how many events are kept
-- ARGV[2]   how long a transition is remembered, in milliseconds
-- ARGV[3..] for each event: its name, the event, and for a transition the instance's
--           revision and the name of the opposite, else two empty texts

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local log, place
if #last == 0 then
  local clock = redis.call('TIME')
  log, place = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), 0
else
  log, place = string.match(last[1][1], '^(%d+)-(%d+)$')
end

local function append(name, event)
  place = place + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], log .. '-' .. string.format('%.0f', place),
    'name', name, 'event', event)
end

for i = 2, #KEYS do
  local a = 4 * (i - 2) + 2
  local name, event, revision, opposite = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  if revision == '' then
    append(name, event)
  else
    local told = redis.call('GET', KEYS[i])
    local told_revision, told_name = string.match(told or '', '^(%d+) (.+)$')
    if not told_revision or tonumber(told_revision) < tonumber(revision) then
      if told_name == name then
        append(opposite, event)
      end
      append(name, event)
      redis.call('SET', KEYS[i], revision .. ' ' .. name, 'PX', ARGV[2])
    end
  end
end
return 1
