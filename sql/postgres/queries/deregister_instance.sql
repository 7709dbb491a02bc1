-- Removes an instance, and returns its last state. Returns no row if it is unknown.
-- Called by RegistryTransaction::deregister_instance.
-- $1 kind, $2 key, $3 address
DELETE FROM instance
USING scope
WHERE scope.id = instance.scope_id AND scope.kind = $1 AND scope.key = $2 AND instance.address = $3
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
