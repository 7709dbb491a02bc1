//! Replicas: the running daemons that share a registry.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The ID of one run of a daemon. After a restart it is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplicaId(pub String);

impl ReplicaId {
    /// The ID of a run on a host, with a random number.
    pub(crate) fn new(host: &str, random: u64) -> Self {
        Self(format!("{host}-{random:016x}"))
    }

    /// Returns the name of the host.
    pub(crate) fn host(&self) -> &str {
        self.0.rsplit_once('-').map_or(&self.0, |(host, _)| host)
    }
}

/// What a running replica says about itself, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// The version of the daemon.
    pub version: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// The number of instances that it knows.
    pub instances: u64,
    /// How many of them are online.
    pub online: u64,
    /// The number of event streams that it serves.
    pub streams: u64,
    /// The number of roll calls that it sent.
    pub roll_calls_sent: u64,
    /// When it last completed a reconcile.
    pub last_reconcile_at: Option<DateTime<Utc>>,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
