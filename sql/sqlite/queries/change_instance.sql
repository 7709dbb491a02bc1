-- Changes an instance for an operator. NULL keeps the present value; the holder, the reason
-- and the end of a hold change only together with the status. The weight and the metadata override those that the
-- instance registered.
-- Called by RegistryTransaction::change_instance.
-- ?1 kind, ?2 key, ?3 address, ?4 status, ?5 held_by, ?6 held_reason, ?7 weight, ?8 metadata,
-- ?9 now; ?10 weight, ?11 metadata: whether to clear the override; ?12 a name: an instance that
-- another one holds stays as it is; ?13 when the hold ends
UPDATE instance
SET status            = COALESCE(?4, status),
    held_by           = CASE WHEN ?4 IS NULL THEN held_by ELSE ?5 END,
    held_reason       = CASE WHEN ?4 IS NULL THEN held_reason ELSE ?6 END,
    held_until        = CASE WHEN ?4 IS NULL THEN held_until ELSE ?13 END,
    override_weight   = COALESCE(?7, CASE WHEN NOT ?10 THEN override_weight END),
    override_metadata = COALESCE(?8, CASE WHEN NOT ?11 THEN override_metadata END),
    updated_at        = ?9,
    revision          = revision + 1
WHERE scope_id = (SELECT scope.id FROM scope WHERE scope.kind = ?1 AND scope.key = ?2)
  AND address = ?3
  AND (?12 IS NULL OR status <> 'held' OR held_by = ?12)
RETURNING id, ?1 AS kind, ?2 AS key, address, name, weight, metadata,
          ttl_seconds, status, held_by, held_reason, held_until,
       override_weight, override_metadata, registered_by,
          online, lease_epoch, online_changed_at,
          registered_at, updated_at, revision
