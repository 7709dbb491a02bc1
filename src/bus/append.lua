-- Appends events to the log, in order.
--
-- Two daemons that record two transitions of one instance one after the other may append them
-- in the other order. Their revisions say which one was first: a transition that comes too late
-- is dropped. A transition that repeats the last one shows that its opposite is still to come,
-- so the opposite is appended before it. So each transition is in the log once, and they
-- alternate.
--
-- An event named 'resync' says that what is recorded is not what was told: the registry store
-- may have smaller revisions again, so what is remembered from before it is void.
--
-- KEYS[1]   the log, a stream whose ids are the number of the log and a place without gaps
-- KEYS[2]   where the last 'resync' stands, for as long as transitions before it are remembered
-- KEYS[3]   the server's run that appended last. Another one, after a failover or a restart, may
--           lack what was read already, and begins another log, so that no id names two events
-- KEYS[4..] for each event what is remembered of its instance's last transition; the log
--           itself for an event that is none
-- ARGV[1]   about how many events are kept
-- ARGV[2]   how long a transition is remembered, in milliseconds
-- ARGV[3..] for each event: its name, the event, and for a transition the instance's
--           revision and the name of the opposite, else two empty texts

-- A server that may not be asked for its run is taken for the same one.
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local log, place
if #last > 0 then
  log, place = string.match(last[1][1], '^(%d+)-(%d+)$')
  place = tonumber(place)
end
local begins = not log or redis.call('GET', KEYS[3]) ~= run
if begins then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  log, place = string.format('%.0f', math.max(now, tonumber(log or 0) + 1)), 0
end

local resync_log, resync_place = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
resync_log, resync_place = tonumber(resync_log or 0), tonumber(resync_place or 0)

local function append(name, event)
  place = place + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], log .. '-' .. string.format('%.0f', place),
    'name', name, 'event', event)
end

for i = 4, #KEYS do
  local a = 4 * (i - 4) + 2
  local name, event, revision, opposite = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  if revision == '' then
    append(name, event)
    if name == 'resync' then
      resync_log, resync_place = tonumber(log), place
      redis.call('SET', KEYS[2], log .. ' ' .. string.format('%.0f', place), 'PX', ARGV[2])
    end
  else
    local told = redis.call('GET', KEYS[i])
    local told_revision, told_log, told_place, told_name =
      string.match(told or '', '^(%d+) (%d+) (%d+) (.+)$')
    if told_revision then
      told_log, told_place = tonumber(told_log), tonumber(told_place)
      if told_log < resync_log or (told_log == resync_log and told_place < resync_place) then
        told_revision, told_name = nil, nil
      end
    end
    if not told_revision or tonumber(told_revision) < tonumber(revision) then
      if told_name == name then
        append(opposite, event)
      end
      append(name, event)
      redis.call('SET', KEYS[i],
        string.format('%s %s %.0f %s', revision, log, place, name), 'PX', ARGV[2])
    end
  end
end
-- Only once an event is in the new log: until then the next append must begin one.
if begins and place > 0 then
  redis.call('SET', KEYS[3], run)
end
return 1
