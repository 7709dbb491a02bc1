//! Rollcall, a registry daemon: the map of the crate.
//!
//! ```text
//! http handler ──ask──► actor ──► port (store, lease, bus) ──► backend
//!      └──reads──► directory ──► ports, for reading only
//! ```
//!
//! - [`model`] is the vocabulary: scopes, instances, addresses, lease keys.
//! - [`store`], [`lease`] and [`bus`] are the ports, each a trait with two backends.
//! - [`actor`] has the three actors that own writes, leases and time.
//! - [`directory`] answers questions about who is registered and present.
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
pub mod http;
pub mod lease;
pub mod model;
mod redis_link;
pub mod store;
