//! The integration tests: one binary, every test in parallel, each with a database,
//! a Redis or a folder of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, in its helpers too"
)]

mod support;

mod access;
mod actix_facts;
mod actors;
mod agent;
mod api;
mod bad_input;
mod commands;
mod conformance;
mod console;
mod container;
mod decisions;
mod deploy;
mod discovery;
mod docs;
mod durability;
mod events;
mod expiry;
mod facades;
mod faults;
mod gateway_center;
mod history;
mod large_lists;
mod layering;
mod lease_faults;
mod limits;
mod methods;
mod metrics;
mod model;
mod openapi;
mod pgbouncer;
mod postgres;
mod postgres_failover;
mod presence;
mod prometheus;
mod protection;
mod proxies;
mod redis_cluster;
mod redis_leases;
mod redis_servers;
mod registrations;
mod roll_call;
mod search;
mod sentinel;
mod shutdown;
mod soak;
mod sqlite_file;
mod start_and_stop;
mod tls;
mod valkey;
mod visible_faults;
