-- Returns a page of all instances, by ID.
-- Called by RegistryReader::list_instances.
-- ?1 the ID before the page, ?2 the limit
SELECT instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
FROM instance
JOIN scope ON scope.id = instance.scope_id
WHERE instance.id > ?1
ORDER BY instance.id
LIMIT ?2
