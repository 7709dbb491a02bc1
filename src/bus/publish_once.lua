-- Publishes a message unless it was already claimed: whoever claims it publishes it
-- in the same step, so no daemon can claim it, die, and leave it unsent.
--
-- KEYS[1] the claim
-- ARGV    channel, message, how long the claim is remembered in milliseconds
--
-- Returns 1 if it was published, 0 if the claim was taken.

if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[3]) then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
  return 1
end
return 0
