//! Applies the events of all replicas to this one's Directory, and sends them to subscribers.

mod comparison;
mod feed;
mod follower;

pub use self::feed::{EventBroadcast, FeedItem, PublishedEvent};
pub use self::follower::{Follower, LoadError};
