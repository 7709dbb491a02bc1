-- Takes a claim and publishes a message in one atomic step, so that no replica can take the
-- claim, fail, and leave the message unpublished.
--
-- KEYS[1] the claim
-- ARGV    channel, message, TTL of the claim in milliseconds
--
-- Returns 1 if the message was published, 0 if the claim was already taken.

if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[3]) then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
  return 1
end
return 0
