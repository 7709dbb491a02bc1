-- Declares a service that is not known yet.
-- Called by RegistryTransaction::register_instances, before each instance.
-- ?1 key, ?2 now
INSERT INTO scope (kind, key, created_at)
VALUES ('service', ?1, ?2)
ON CONFLICT (kind, key) DO NOTHING
