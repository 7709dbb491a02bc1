-- The replicas of the daemon that run, and the lease store that each of them uses. While
-- they use different ones no instance is marked offline. Not logged, because a replica
-- writes its row every second and what is lost in a crash is written again.

CREATE UNLOGGED TABLE replica (
    id          text        PRIMARY KEY,
    -- NULL while the replica cannot renew leases.
    lease_store text,
    -- By this server's clock.
    seen_at     timestamptz NOT NULL
);
