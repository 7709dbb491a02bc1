//! Rollcall, a registry daemon: an overview of the crate.
//!
//! ```text
//! http handler ──ask──► actor ──► port (store, lease, event_log) ──► backend
//!      └──reads──► directory, feed ◄── changes committed by this or another replica
//! ```
//!
//! - [`model`] contains the domain types: scopes, instances, addresses, lease keys.
//! - [`store`], [`lease`], [`event_log`] and [`coordination`] are the ports, each a trait with two backends.
//! - [`redis`] contains all connections to Redis.
//! - [`actor`] contains the three actors, which own writes, leases and the schedule.
//! - [`directory`] answers which instances are registered and online, and [`feed`] sends the
//!   changes to subscribers.
//! - [`protection`] decides whether instances whose leases are missing are marked offline.
//! - [`auth`] decides which requests a caller may make, and [`admission`] limits concurrency.
//! - [`http`] maps requests to messages and replies to JSON.
//! - [`metrics`] contains the metrics of the daemon.
//! - [`tls`] holds the certificates of HTTPS.
//! - [`client`] calls a daemon over HTTP, for the [`agent`], which registers the instances on
//!   its machine, and for the operator commands in [`command`].
//! - [`config`] parses the settings, and [`daemon`] starts all parts with them.
//!
//! ARCHITECTURE.md explains the design; `tests/it/layering.rs` checks the dependencies between
//! modules.

pub mod actor;
pub mod admission;
pub mod agent;
pub mod auth;
pub mod backend;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod coordination;
pub mod daemon;
pub mod directory;
pub mod event_log;
pub mod feed;
pub mod healthcheck;
#[expect(unused_qualifications, reason = "utoipa's macros write them")]
pub mod http;
pub mod lease;
pub mod metrics;
pub mod model;
mod open_files;
pub mod protection;
pub mod redis;
pub mod store;
pub mod tls;
