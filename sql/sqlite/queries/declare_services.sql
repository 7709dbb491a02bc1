-- Declares an unknown service.
-- Called by RegistryTransaction::register_instances, before the first instance of a service.
-- ?1 key, ?2 now
INSERT INTO scope (kind, key, created_at, declared)
VALUES ('service', ?1, ?2, 0)
RETURNING id, kind, key, name, created_at, revision
