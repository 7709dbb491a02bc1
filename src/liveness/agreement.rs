//! The agreement of the replicas on one lease store. It is checked every second.
//!
//! A replica that is connected to another Redis than the others, for example to the old master
//! after a failover, sees leases end that are renewed on the new one. So each replica attests
//! its lease store in the registry store. While two running replicas attest different ones, or
//! one of them cannot renew leases, no replica marks instances offline.

use std::sync::Arc;
use std::time::Duration;

use super::{Protection, Replicas};
use crate::actor::{Attest, Mailbox, RegistryActor};
use crate::lease::Health;
use crate::model::ReplicaId;
use crate::store::Attestation;

/// Attests this replica's lease store and compares it with those of the others.
pub(crate) struct Agreement {
    /// The ID of this replica.
    pub(crate) replica: ReplicaId,
    /// The state of this replica's lease store.
    pub(crate) health: Arc<Health>,
    /// Receives the attestation.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// Says what this replica says about itself, and remembers what the others said.
    pub(crate) replicas: Arc<Replicas>,
    /// Suspends the detection while the replicas disagree.
    pub(crate) protection: Arc<Protection>,
}

impl Agreement {
    /// The time between two attestations: much shorter than the shortest TTL, so that replicas
    /// notice a difference before a lease ends because of it.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

    /// Attests once.
    pub(crate) async fn attest(&self) {
        // Until its lease store has worked once, a replica serves no heartbeats, and must not keep
        // the others from marking instances offline.
        if !self.health.has_worked() {
            return;
        }
        let own = Attestation {
            replica: self.replica.clone(),
            lease_store: self.health.identity(),
            state: Some(self.replicas.own()),
        };
        match self.registry.write(Attest(own.clone())).await {
            Ok(others) => {
                self.protection.attested(disagreement(&own, &others));
                self.replicas.set_others(others);
            }
            Err(error) => self.protection.not_attested(&error),
        }
    }
}

/// Returns why the replicas do not agree, or `None` if they do. The failure of this replica's
/// own lease store is handled elsewhere.
fn disagreement(own: &Attestation, others: &[Attestation]) -> Option<String> {
    let own = own.lease_store.as_ref()?;
    others.iter().find_map(|other| match &other.lease_store {
        Some(theirs) if theirs == own => None,
        Some(_) => Some(format!(
            "replica {} uses another lease store than this one: compare --leases of both",
            other.replica
        )),
        None => Some(format!("replica {} cannot renew leases", other.replica)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation(replica: &str, lease_store: Option<&str>) -> Attestation {
        Attestation {
            replica: ReplicaId(replica.to_owned()),
            lease_store: lease_store.map(ToOwned::to_owned),
            state: None,
        }
    }

    #[test]
    fn replicas_agree_when_all_of_them_work_on_the_same_lease_store() {
        let own = attestation("a", Some("x"));
        let disagreement = |other| disagreement(&own, &[attestation("b", Some("x")), other]);
        assert_eq!(disagreement(attestation("c", Some("x"))), None);
        assert_eq!(
            disagreement(attestation("c", Some("y"))).unwrap(),
            "replica c uses another lease store than this one: compare --leases of both"
        );
        assert_eq!(
            disagreement(attestation("c", None)).unwrap(),
            "replica c cannot renew leases"
        );
    }
}
