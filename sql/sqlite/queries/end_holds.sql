-- Enables the instances whose holds have ended.
-- Called by RegistryTransaction::end_holds.
-- ?1 now, ?2 the most rows
UPDATE instance
SET status      = 'enabled',
    held_by     = NULL,
    held_reason = NULL,
    held_until  = NULL,
    updated_at  = ?1,
    revision    = revision + 1
WHERE id IN (
    SELECT ended.id FROM instance AS ended
    WHERE ended.status = 'held' AND ended.held_until <= ?1
    LIMIT ?2
)
RETURNING id,
          (SELECT scope.kind FROM scope WHERE scope.id = scope_id) AS kind,
          (SELECT scope.key FROM scope WHERE scope.id = scope_id) AS key,
          address, name, weight, metadata,
          ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
          online, lease_epoch, online_changed_at,
          registered_at, updated_at, revision
