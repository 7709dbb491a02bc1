//! The lease store: the leases that prove which instances are alive, in memory or on Redis.
//!
//! The HeartbeatActor owns the leases and renews them; the background jobs only read them. The
//! lease store does not know which instances are registered.

mod health;
mod memory;
mod observed;
mod redis;
mod redis_key;
mod redis_reply;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::health::Health;
pub use self::observed::ObservedLeaseStore;
use crate::backend::{BackendError, OpenError, UrlError};
use crate::clock::Clock;
use crate::model::{Epoch, InstanceKey, Ttl, Weight};
use crate::redis::{FORMS, RedisBackend, RedisUrl};

/// A lease to create or renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The instance.
    pub key: InstanceKey,
    /// Stored in the lease, for the gateways that read it.
    pub weight: Weight,
    /// The TTL from now on.
    pub ttl: Ttl,
    /// Whether clients that read the store must not see it: the instance is not enabled.
    pub is_hidden: bool,
}

/// The result of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// Whether the lease is new, because there was none or it had expired.
    pub created: bool,
    /// When the lease was created.
    pub epoch: Epoch,
}

/// A lease that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The time until it expires without another renewal.
    pub left: Duration,
    /// When it was created.
    pub epoch: Epoch,
}

/// The identity of the data in the lease store: one text for each server that holds a part of
/// it. The text of a server changes when it is restarted, flushed or replaced by another
/// server: then a lease that is missing there proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity(BTreeSet<String>);

impl Identity {
    /// Creates the identity of servers with these texts.
    pub fn of(servers: impl IntoIterator<Item = String>) -> Self {
        Self(servers.into_iter().collect())
    }

    /// Returns whether all servers of `part` belong to this identity.
    pub fn contains(&self, part: &Self) -> bool {
        part.0.is_subset(&self.0)
    }
}

/// One text, which is equal for equal identities.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{server}")?;
        }
        Ok(())
    }
}

/// The result of [`LeaseStore::inspect`]. The leases of one server were read atomically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSnapshot {
    /// The leases in the order of the keys; `None` for a missing lease.
    pub leases: Vec<Option<Lease>>,
    /// The servers that were read, each with its identity at the moment of its reply.
    pub identity: Identity,
}

/// The beginning of a page of [`LeaseStore::list`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCursor {
    /// The index of the server that holds the leases, in an order that is private to the store.
    pub server: usize,
    /// The position on that server.
    pub position: u64,
}

/// One page of [`LeaseStore::list`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeasePage {
    /// The instances whose leases are alive. Another page may repeat one.
    pub keys: Vec<InstanceKey>,
    /// The beginning of the next page; `None` after the last one.
    pub next: Option<ListCursor>,
}

/// Leases with a TTL. They expire by the store's own clock.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Creates or renews leases in one atomic round trip: no lease is ever visible without its
    /// TTL or without one of its fields. The results are in the order of `renewals`; if a lease
    /// occurs twice, its second renewal renews the first.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError>;

    /// Returns the current state of each lease.
    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError>;

    /// Hides a lease from clients that read the store, or shows it, until its next renewal says
    /// otherwise. Returns whether that changed anything. Fails while a cluster moves its slot.
    async fn set_hidden(&self, key: &InstanceKey, is_hidden: bool) -> Result<bool, BackendError>;

    /// Deletes leases. A missing lease is not an error.
    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError>;

    /// Writes to and reads from every server that holds leases, and returns the identity of all
    /// of them. Fails if one of them does not answer or refuses the write.
    async fn probe(&self) -> Result<Identity, BackendError>;

    /// Returns one page of all leases; the default cursor selects the first page. A lease that
    /// is alive from the first page to the last is listed at least once.
    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, BackendError>;
}

/// The lease store that `--leases` selects. The event log and the coordinator use the same one.
#[derive(Clone, PartialEq, Eq)]
pub enum LeaseUrl {
    /// `memory:`: the memory of this process, for a single replica; lost when it ends.
    Memory,
    /// Redis, shared by any number of replicas: one server, Sentinel, or a cluster.
    Redis(Box<RedisUrl>),
}

impl FromStr for LeaseUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some((scheme, _)) if RedisUrl::has_scheme(scheme) => {
                Ok(Self::Redis(Box::new(text.parse()?)))
            }
            _ => Err(UrlError::new(format!("must be memory:, {FORMS}"))),
        }
    }
}

/// Hides the password.
impl fmt::Display for LeaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for LeaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseUrl({self})")
    }
}

/// Creates handles to one lease store, so that each thread has its own connection.
#[derive(Clone)]
pub struct LeaseBackend(Backend);

#[derive(Clone)]
enum Backend {
    Memory(Arc<memory::MemoryLeaseStore>),
    Redis(Arc<RedisBackend>),
}

/// Opens a lease store, without connecting. Only a store in memory uses `clock`.
pub fn open(url: &LeaseUrl, clock: Arc<dyn Clock>) -> Result<LeaseBackend, OpenError> {
    Ok(LeaseBackend(match url {
        LeaseUrl::Memory => Backend::Memory(Arc::new(memory::MemoryLeaseStore::new(clock))),
        LeaseUrl::Redis(url) => Backend::Redis(RedisBackend::open(url)?),
    }))
}

impl LeaseBackend {
    /// Returns a handle; its connection, if it needs one, runs on the current runtime.
    pub fn connect(&self) -> Arc<dyn LeaseStore> {
        match &self.0 {
            Backend::Memory(store) => Arc::clone(store) as Arc<dyn LeaseStore>,
            Backend::Redis(backend) => Arc::new(redis::RedisLeaseStore::new(backend)),
        }
    }

    /// Returns the Redis that holds the leases; `None` for leases in memory.
    pub fn redis(&self) -> Option<&Arc<RedisBackend>> {
        match &self.0 {
            Backend::Memory(_) => None,
            Backend::Redis(backend) => Some(backend),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_a_lease_url_selects_the_store() {
        assert_eq!("memory:".parse(), Ok(LeaseUrl::Memory));
        assert!(matches!(
            "redis://localhost:6379/3".parse(),
            Ok(LeaseUrl::Redis(_))
        ));
        assert!(matches!(
            "rediss://u:p@localhost".parse(),
            Ok(LeaseUrl::Redis(_))
        ));
    }

    #[test]
    fn the_error_for_an_invalid_lease_url_says_what_is_wrong() {
        let forms = format!("must be memory:, {FORMS}");
        for (text, why) in [
            ("", &*forms),
            ("memory", &forms),
            ("memory:x", &forms),
            ("http://localhost", &forms),
            ("redis://", "a host is missing"),
            ("redis://h:99999", "invalid port number"),
        ] {
            assert_eq!(
                text.parse::<LeaseUrl>().unwrap_err().to_string(),
                why,
                "{text}"
            );
        }
        assert!("redis://h/notadb".parse::<LeaseUrl>().is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: LeaseUrl = "redis://u:s3cret@h:1/0".parse().unwrap();
        assert_eq!(format!("{url}"), "redis://u:***@h:1/0");
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
