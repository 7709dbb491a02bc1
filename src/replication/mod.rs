//! Applies the events of all replicas to this one's Directory, and sends them to subscribers.

mod comparison;
mod feed;
mod follower;
mod scope_index;

pub(crate) use self::feed::{EventBroadcast, FeedItem, PublishedEvent};
pub(crate) use self::follower::Follower;
pub use self::follower::LoadError;
pub(crate) use self::scope_index::ScopeIndexes;
