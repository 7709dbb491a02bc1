-- Changes an instance for an operator. NULL keeps the present value; the holder, the reason
-- and the end of a hold change only together with the status. The weight and the metadata override those that the
-- instance registered.
-- Called by RegistryTransaction::change_instance.
-- $1 kind, $2 key, $3 address, $4 status, $5 held_by, $6 held_reason, $7 weight, $8 metadata,
-- $9 now; $10 weight, $11 metadata: whether to clear the override; $12 a name: an instance that
-- another one holds stays as it is; $13 when the hold ends
UPDATE instance
SET status            = COALESCE($4::text, instance.status),
    held_by           = CASE WHEN $4::text IS NULL THEN instance.held_by ELSE $5::text END,
    held_reason       = CASE WHEN $4::text IS NULL THEN instance.held_reason ELSE $6::text END,
    held_until        = CASE WHEN $4::text IS NULL THEN instance.held_until ELSE $13::timestamptz END,
    override_weight   = COALESCE($7::integer, CASE WHEN NOT $10 THEN instance.override_weight END),
    override_metadata = COALESCE($8::jsonb, CASE WHEN NOT $11 THEN instance.override_metadata END),
    updated_at        = $9,
    revision          = instance.revision + 1
FROM scope
WHERE scope.id = instance.scope_id AND scope.kind = $1 AND scope.key = $2 AND instance.address = $3
  AND ($12::text IS NULL OR instance.status <> 'held' OR instance.held_by = $12)
RETURNING instance.id, scope.kind, scope.key, instance.address, instance.name, instance.weight, instance.metadata,
       instance.ttl_seconds, instance.status, instance.held_by, instance.held_reason, instance.held_until,
       instance.override_weight, instance.override_metadata, instance.registered_by,
       instance.online, instance.lease_epoch, instance.online_changed_at,
       instance.registered_at, instance.updated_at, instance.revision
