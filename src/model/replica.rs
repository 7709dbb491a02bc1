//! Replicas: the running daemons that share one registry.

use std::fmt;

/// Names one run of a daemon among its replicas. A daemon that is started again has another
/// id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplicaId(pub String);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
