//! Rollcall, a registry daemon: the map of the crate.
//!
//! ```text
//! http handler ──ask──► actor ──► port (store, lease, bus) ──► backend
//!      └──reads──► directory, feed ◄── what was committed, here or elsewhere
//! ```
//!
//! - [`model`] is the vocabulary: scopes, instances, addresses, lease keys.
//! - [`store`], [`lease`] and [`bus`] are the ports, each a trait with two backends.
//! - [`actor`] has the three actors that own writes, leases and time.
//! - [`directory`] answers questions about who is registered and present, and [`feed`]
//!   tells when that changes.
//! - [`protection`] decides whether those who are gone are believed to be.
//! - [`http`] maps requests to messages and answers to JSON.
//! - [`daemon`] puts them together and [`config`] says how.
//!
//! ARCHITECTURE.md tells the story; `tests/it/layering.rs` keeps who may know whom.

pub mod actor;
pub mod bus;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod error;
pub mod feed;
pub mod http;
pub mod lease;
pub mod model;
pub mod protection;
mod redis_link;
pub mod store;
