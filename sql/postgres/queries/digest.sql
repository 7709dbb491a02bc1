-- What changes with every change of a scope or an instance, and costs little to compare.
-- Called by RegistryReader::digest.
SELECT scopes.count AS scopes, scopes.sum AS scope_sum, instances.count AS instances, instances.sum AS instance_sum
FROM (SELECT count(*), COALESCE(sum(id + revision), 0)::bigint AS sum FROM scope) AS scopes,
     (SELECT count(*), COALESCE(sum(id + revision), 0)::bigint AS sum FROM instance) AS instances
