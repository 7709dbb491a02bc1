-- Removes an instance, and returns its last state. Returns no row if it is unknown, or if an
-- operator's decision is attached to it (Instance::is_decided) and these are kept.
-- Called by RegistryTransaction::deregister_instance.
-- $1 kind, $2 key, $3 address, $4 whether decided instances are kept
DELETE FROM instance
USING scope
WHERE scope.id = instance.scope_id AND scope.kind = $1 AND scope.key = $2 AND instance.address = $3
  AND NOT ($4 AND (instance.status = 'held' OR (scope.kind = 'group' AND instance.status = 'enabled')
     OR instance.override_weight IS NOT NULL OR instance.override_metadata IS NOT NULL))
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
