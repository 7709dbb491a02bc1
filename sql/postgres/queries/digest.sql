-- Counts and sums that change with every change of a scope or an instance.
-- Called by RegistryReader::digest; Digest::term is the term of an instance.
SELECT scopes.count AS scopes, scopes.sum AS scope_sum, instances.count AS instances, instances.sum AS instance_sum
FROM (SELECT count(*), COALESCE(sum(id + revision), 0)::bigint AS sum FROM scope) AS scopes,
     (SELECT count(*),
             COALESCE(sum(id + 1009 * revision + 500009 * online::integer + COALESCE(lease_epoch, 0) % 1000000007
                          + floor(date_part('epoch', updated_at))::bigint % 1000000007), 0)::bigint AS sum
      FROM instance) AS instances
