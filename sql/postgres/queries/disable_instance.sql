-- Disables a service instance by its ID; a held one stays held.
-- Called by RegistryTransaction::disable_service_instance.
-- $1 id, $2 now
UPDATE instance
SET status     = CASE instance.status WHEN 'held' THEN 'held' ELSE 'disabled' END,
    updated_at = $2,
    revision   = instance.revision + 1
FROM scope
WHERE scope.id = instance.scope_id AND scope.kind = 'service' AND instance.id = $1
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
