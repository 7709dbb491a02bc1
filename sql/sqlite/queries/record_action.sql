-- Records an action of an operator.
-- Called by RegistryTransaction::record_action.
-- ?1 at, ?2 token, ?3 peer, ?4 action, ?5 kind, ?6 key, ?7 address, ?8 before, ?9 after,
-- ?10 reason, ?11 count
INSERT INTO action (at, token, peer, action, kind, key, address, before, after, reason, count)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
