//! The lease store: who was alive a moment ago, in memory or on Redis.
//!
//! Called by the HeartbeatActor, which owns the leases, and by the chores, which only
//! look. It knows nothing of what is registered.

mod health;
mod memory;
mod observed;
mod redis;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::health::Health;
pub use self::observed::ObservedLeaseStore;
use crate::clock::Clock;
use crate::error::{OpenError, UrlError};
use crate::model::{Epoch, InstanceKey, Ttl, Weight};
use crate::redis::{FORMS, LinkError, RedisBackend, RedisUrl};

/// Why a call of the lease store gave no answer. A renewal may still have happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// The store cannot be reached or did not answer in time.
    #[error("the lease store is unavailable: {0}")]
    Unavailable(String),
    /// The store is there and refused.
    #[error("the lease store refused: {0}")]
    Refused(String),
}

impl From<LinkError> for LeaseError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unavailable(reason) => Self::Unavailable(reason),
            LinkError::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// A lease to create or renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Whose lease.
    pub key: InstanceKey,
    /// Written to the lease for the gateways that read it.
    pub weight: Weight,
    /// How long it lives from now.
    pub ttl: Ttl,
}

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// Whether a new life began: there was no lease, or it had expired.
    pub created: bool,
    /// When the life began.
    pub epoch: Epoch,
}

/// A lease that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// How long it lives without another renewal.
    pub left: Duration,
    /// When its life began.
    pub epoch: Epoch,
}

/// Which data the lease store holds: one text for each server that holds a part of it. A
/// server has another text after it was restarted, flushed or replaced by another server:
/// then a lease that is missing there proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity(BTreeSet<String>);

impl Identity {
    /// Of servers with these texts.
    pub fn of(servers: impl IntoIterator<Item = String>) -> Self {
        Self(servers.into_iter().collect())
    }

    /// Whether all servers of `part` belong to this.
    pub fn contains(&self, part: &Self) -> bool {
        part.0.is_subset(&self.0)
    }
}

/// As one text, which is equal for equal identities.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{server}")?;
        }
        Ok(())
    }
}

/// What [`LeaseStore::look`] found. What one server holds was read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSnapshot {
    /// Each lease in the order of the keys, `None` where there is none.
    pub leases: Vec<Option<Lease>>,
    /// The servers that were asked, each as it was at the moment of its answer.
    pub identity: Identity,
}

/// Where a page of [`LeaseStore::list`] begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCursor {
    /// Which of the servers that hold leases, in an order that only the store knows.
    pub server: usize,
    /// The position on that server.
    pub position: u64,
}

/// One page of [`LeaseStore::list`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeasePage {
    /// The keys of leases that are alive. Over all pages one may come twice.
    pub keys: Vec<String>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<ListCursor>,
}

/// Leases with a time to live. ExpiryHandler is by the store's own clock.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Creates or renews leases in one atomic round trip: no lease is ever seen
    /// without its time to live or with only some of its fields. Answers in order;
    /// where a lease is named twice the second one renews the first.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, LeaseError>;

    /// Returns each lease as it is now.
    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, LeaseError>;

    /// Ends leases at once; harmless where there is none.
    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), LeaseError>;

    /// Writes to and reads from every server that holds leases, and returns the whole
    /// identity of the store. Fails where one of them does not answer, or refuses to write.
    async fn probe(&self) -> Result<Identity, LeaseError>;

    /// Pages through all leases, beginning with the default cursor. A lease that lives
    /// throughout is listed at least once.
    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, LeaseError>;
}

/// Which lease store, from `--leases`. The bus is on the same one.
#[derive(Clone, PartialEq, Eq)]
pub enum LeaseUrl {
    /// `memory:`: this process alone; gone with it.
    Memory,
    /// A Redis, shared by any number of daemons: one server, one behind Sentinel, or a cluster.
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

/// Without the password.
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

/// Makes handles to one lease store, for threads that each want their own connection.
#[derive(Clone)]
pub struct LeaseBackend(Backend);

#[derive(Clone)]
enum Backend {
    Memory(Arc<memory::MemoryLeaseStore>),
    Redis(Arc<RedisBackend>),
}

/// Names a lease store; connects to nothing yet. `clock` is for a store in memory.
pub fn open(url: &LeaseUrl, clock: Arc<dyn Clock>) -> Result<LeaseBackend, OpenError> {
    Ok(LeaseBackend(match url {
        LeaseUrl::Memory => Backend::Memory(Arc::new(memory::MemoryLeaseStore::new(clock))),
        LeaseUrl::Redis(url) => Backend::Redis(RedisBackend::open(url)?),
    }))
}

impl LeaseBackend {
    /// A handle whose connection, if it needs one, lives on the current runtime.
    pub fn connect(&self) -> Arc<dyn LeaseStore> {
        match &self.0 {
            Backend::Memory(store) => Arc::clone(store) as Arc<dyn LeaseStore>,
            Backend::Redis(backend) => Arc::new(redis::RedisLeaseStore::new(backend)),
        }
    }

    /// The Redis that the leases are on, if they are on one.
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
    fn a_lease_url_is_chosen_by_its_scheme() {
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
    fn a_wrong_lease_url_says_what_is_wrong() {
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
