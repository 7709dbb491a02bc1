-- Appends events to the event log, in order.
--
-- Two replicas that record two transitions of one instance one after the other may append them
-- in the opposite order. The revisions tell which one was first: a transition that arrives too
-- late is dropped. A transition that repeats the previous one means that its opposite is still
-- on its way, so the opposite is appended first. Each transition is therefore in the log once,
-- and the transitions of an instance alternate.
--
-- An event named 'resync' means that the registry store differs from what was published, and may
-- have smaller revisions again. It voids the transitions remembered from before it.
--
-- KEYS[1]   the event log, a stream whose ids are the log's epoch and a sequence without gaps
-- KEYS[2]   the id of the last 'resync', kept for as long as earlier transitions are remembered
-- KEYS[3]   the run id of the server that appended last. A server with another run id, after a
--           failover or a restart, may lack events that were read already, so it begins a new
--           epoch: no id ever names two events
-- KEYS[4..] per event, the hash that remembers the last transitions of some instances, among them
--           its own; for an event that is no transition, the event log itself
-- ARGV[1]   about how many events are kept
-- ARGV[2]   how long a transition is remembered at least, in milliseconds
-- ARGV[3..] per event, its name and its JSON; for a transition also the instance's ID and revision
--           and the name of the opposite transition, otherwise three empty strings

-- Without the permission to read the run id, the server counts as the same one.
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local epoch, sequence
if #tail > 0 then
  epoch, sequence = string.match(tail[1][1], '^(%d+)-(%d+)$')
  sequence = tonumber(sequence)
end
local begins = not epoch or redis.call('GET', KEYS[3]) ~= run
if begins then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  epoch, sequence = string.format('%.0f', math.max(now, tonumber(epoch or 0) + 1)), 0
end

local resync_epoch, resync_sequence = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
resync_epoch, resync_sequence = tonumber(resync_epoch or 0), tonumber(resync_sequence or 0)

local function append(name, event)
  sequence = sequence + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], epoch .. '-' .. string.format('%.0f', sequence),
    'name', name, 'event', event)
end

-- What is remembered about the instances of the batch: one call for each hash, not for each instance.
local hashes = {}
for i = 4, #KEYS do
  local id = ARGV[5 * (i - 4) + 5]
  if id ~= '' then
    local hash = hashes[KEYS[i]] or { ids = {}, last = {}, changed = {} }
    hashes[KEYS[i]] = hash
    hash.ids[#hash.ids + 1] = id
  end
end
for key, hash in pairs(hashes) do
  local values = redis.call('HMGET', key, unpack(hash.ids))
  for i, id in ipairs(hash.ids) do
    hash.last[id] = values[i]
  end
end

for i = 4, #KEYS do
  local a = 5 * (i - 4) + 2
  local name, event, id, revision, opposite = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  if id == '' then
    append(name, event)
    if name == 'resync' then
      resync_epoch, resync_sequence = tonumber(epoch), sequence
      redis.call('SET', KEYS[2], epoch .. ' ' .. string.format('%.0f', sequence), 'PX', ARGV[2])
    end
  else
    local hash = hashes[KEYS[i]]
    local last_revision, last_epoch, last_sequence, last_name =
      string.match(hash.last[id] or '', '^(%d+) (%d+) (%d+) (.+)$')
    if last_revision then
      last_epoch, last_sequence = tonumber(last_epoch), tonumber(last_sequence)
      if last_epoch < resync_epoch or (last_epoch == resync_epoch and last_sequence < resync_sequence) then
        last_revision, last_name = nil, nil
      end
    end
    if not last_revision or tonumber(last_revision) < tonumber(revision) then
      if last_name == name then
        append(opposite, event)
      end
      append(name, event)
      hash.last[id] = string.format('%s %s %.0f %s', revision, epoch, sequence, name)
      hash.changed[id] = true
    end
  end
end
for key, hash in pairs(hashes) do
  local fields = {}
  for id in pairs(hash.changed) do
    fields[#fields + 1] = id
    fields[#fields + 1] = hash.last[id]
  end
  if #fields > 0 then
    redis.call('HSET', key, unpack(fields))
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
-- Recorded only once an event is in the new epoch: until then the next append must begin one.
if begins and sequence > 0 then
  redis.call('SET', KEYS[3], run)
end
return 1
