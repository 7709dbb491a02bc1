-- Disables a service instance by its ID; a held one stays held.
-- Called by RegistryTransaction::disable_service_instance.
-- ?1 id, ?2 now
UPDATE instance
SET status     = CASE status WHEN 'held' THEN 'held' ELSE 'disabled' END,
    updated_at = ?2,
    revision   = revision + 1
WHERE id = ?1 AND scope_id IN (SELECT scope.id FROM scope WHERE scope.kind = 'service')
RETURNING id, 'service' AS kind, (SELECT scope.key FROM scope WHERE scope.id = scope_id) AS key, address, name,
       weight, metadata, ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
       online, lease_epoch, online_changed_at,
       registered_at, updated_at, revision
