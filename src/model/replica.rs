//! Replicas: the running daemons that share a registry.

use std::fmt;

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

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
