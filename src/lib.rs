//! Rollcall, a registry daemon: the map of the crate.
//!
//! ```text
//! http handler ──ask──► actor ──► port (store, lease, bus) ──► backend
//!      └──reads──► directory, feed ◄── what was committed, here or elsewhere
//! ```
//!
//! - [`model`] is the vocabulary: scopes, instances, addresses, lease keys.
//! - [`store`], [`lease`] and [`bus`] are the ports, each a trait with two backends.
//! - [`redis`] is every connection to Redis.
//! - [`actor`] has the three actors that own writes, leases and time.
//! - [`directory`] answers questions about who is registered and present, and [`feed`]
//!   tells when that changes.
//! - [`protection`] decides whether those who are gone are believed to be.
//! - [`auth`] knows who may do what, and [`admission`] how much may be under way at once.
//! - [`http`] maps requests to messages and answers to JSON.
//! - [`metrics`] is what the daemon tells of itself.
//! - [`tls`] holds the certificates of HTTPS.
//! - [`client`] speaks to a daemon from elsewhere: for the [`agent`], which answers for what
//!   runs on its machine, and for every [`command`] of an operator.
//! - [`daemon`] puts them together and [`config`] says how.
//!
//! ARCHITECTURE.md tells the story; `tests/it/layering.rs` keeps who may know whom.

pub mod actor;
pub mod admission;
pub mod agent;
pub mod auth;
pub mod bus;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod error;
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
