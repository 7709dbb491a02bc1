//! Rollcall, a registry daemon: an overview of the crate.
//!
//! ```text
//! http handler ──ask──► actor ──► port (store, lease, event_log) ──► backend
//!      └──reads──► directory, replication ◄── changes committed by this or another replica
//! ```
//!
//! - [`model`] contains the domain types: scopes, instances, addresses.
//! - [`store`], [`lease`], [`event_log`] and [`coordination`] are the ports, each a trait with two backends.
//! - [`redis`] contains all connections to Redis.
//! - [`actor`] contains the three actors, which own writes, leases and the roll call.
//! - [`directory`] answers which instances are registered and online; [`replication`] keeps it
//!   current and sends the changes to subscribers.
//! - [`liveness`] decides whether instances whose leases are missing are marked offline.
//! - [`auth`] decides which requests a caller may make, and [`admission`] limits concurrency.
//! - [`http`] maps requests to messages and replies to JSON, also in the protocols of other registries;
//!   [`dns`] answers queries of DNS.
//! - [`metrics`] contains the metrics of the daemon.
//! - [`tls`] holds the certificates of HTTPS.
//! - [`client`] calls a daemon over HTTP, for the [`agent`], which registers the instances on
//!   its machine, and for the commands in [`operator`].
//! - [`settings`] parses the settings, [`program`] runs the command, and [`daemon`] starts all
//!   parts of a daemon.
//!
//! ARCHITECTURE.md explains the design; `tests/it/layering.rs` checks the dependencies between
//! modules.

pub mod actor;
mod admission;
mod agent;
pub mod auth;
pub mod backend;
mod client;
pub mod clock;
pub mod coordination;
pub mod daemon;
pub mod directory;
mod dns;
pub mod event_log;
mod history;
#[expect(unused_qualifications, reason = "utoipa's macros write them")]
pub mod http;
pub mod lease;
pub mod liveness;
pub mod metrics;
pub mod model;
mod operator;
pub mod program;
pub mod redis;
pub mod replication;
pub mod settings;
pub mod store;
mod tls;
