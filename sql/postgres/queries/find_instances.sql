-- Returns those of the given instances that are registered, in no order.
-- Called by RegistryReader::find_instances.
-- $1 kinds, $2 keys, $3 addresses
SELECT instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
FROM unnest($1::text[], $2::text[], $3::text[]) AS given (kind, key, address)
JOIN scope ON scope.kind = given.kind AND scope.key = given.key
JOIN instance ON instance.scope_id = scope.id AND instance.address = given.address
