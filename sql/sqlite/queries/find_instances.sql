-- Returns an instance, if it is registered.
-- Called by RegistryReader::find_instances, once per instance.
-- ?1 kind, ?2 key, ?3 address
SELECT instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
FROM instance
JOIN scope ON scope.id = instance.scope_id
WHERE scope.kind = ?1 AND scope.key = ?2 AND instance.address = ?3
