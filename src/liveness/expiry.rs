//! The only way from an expired lease to the record that its instance is offline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::UnregisteredLeases;
use super::protection::{OVERDUE, Protection, Sample, Verdict};
use crate::actor::{Mailbox, RecordOffline, RegistryActor};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::directory::{Directory, InstanceEntry, Stale};
use crate::lease::{Health, Lease, LeaseStore};
use crate::metrics::Metrics;
use crate::model::{Event, EventKind, InstanceKey, ProtectionReason, Registrant, Ttl};
use crate::store::LeaseStart;

/// The most leases in one round trip to the lease store.
const INSPECT_BATCH: usize = 1000;

/// About how many online instances are checked before expired ones are marked offline.
const SAMPLE: usize = 2000;

/// The most instances in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// The time until an instance is checked again whose lease or record failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Checks leases, and marks instances without one offline or as suspects.
pub struct ExpiryHandler {
    /// The leases.
    pub leases: Arc<dyn LeaseStore>,
    /// Whether answers of the lease store are evidence.
    pub health: Arc<Health>,
    /// The online instances and their deadlines.
    pub directory: Arc<Directory>,
    /// Decides whether instances without a lease are marked offline or as suspects.
    pub protection: Arc<Protection>,
    /// Records the transitions, and appends the events of protection mode.
    pub registry: Mailbox<RegistryActor>,
    /// The time of these events.
    pub clock: Arc<dyn Clock>,
    /// Counts the lateness of transitions.
    pub metrics: Arc<Metrics>,
}

/// An instance whose lease is missing, and the deadline that passed, if this replica had one.
pub(super) struct ExpiredLease {
    pub(super) listed: Arc<InstanceEntry>,
    pub(super) since: Option<Instant>,
}

fn keys<'a>(listed: impl IntoIterator<Item = &'a Arc<InstanceEntry>>) -> Vec<InstanceKey> {
    let keys = listed.into_iter().map(|listed| listed.instance.key.clone());
    keys.collect()
}

impl ExpiryHandler {
    /// Checks the leases whose deadlines have passed on this replica. A lease that is alive was
    /// renewed by another replica, which has its deadline now.
    pub(super) async fn sweep(&self) {
        let passed = self.directory.deadlines().take_passed();
        let mut expired = Vec::new();
        let mut rest = passed.as_slice();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(rest.len().min(INSPECT_BATCH));
            let Ok(leases) = self
                .inspect(&keys(part.iter().map(|(listed, _)| listed)))
                .await
            else {
                // The lease store is unavailable, and would be for the rest as well.
                let keys = keys(rest.iter().map(|(listed, _)| listed));
                self.rearm(&keys, Instant::now() + RETRY_DELAY);
                break;
            };
            // The entry as it was before the check: an answer proves nothing about what was
            // recorded after the question.
            let missing = part.iter().zip(leases).filter(|(_, lease)| lease.is_none());
            expired.extend(missing.map(|((listed, deadline), _)| ExpiredLease {
                listed: Arc::clone(listed),
                since: Some(*deadline),
            }));
            rest = others;
        }
        self.evaluate(expired).await;
    }

    /// Announces the ends of leases of addresses that never registered.
    pub(super) async fn sweep_unregistered(&self, leases: &UnregisteredLeases) {
        let passed = leases.take_passed();
        let mut has_ended = false;
        for keys in passed.chunks(INSPECT_BATCH) {
            let now = Instant::now();
            let Ok(found) = self.inspect(keys).await else {
                // The lease store is unavailable: its answer later is as good.
                keys.iter()
                    .for_each(|key| leases.follow(key.clone(), now + RETRY_DELAY));
                continue;
            };
            for (key, lease) in keys.iter().zip(found) {
                match lease {
                    // Another replica renewed it.
                    Some(lease) => leases.follow(key.clone(), now + lease.left + RETRY_DELAY),
                    None => has_ended = true,
                }
            }
        }
        if has_ended {
            self.registry.announce_services().await;
        }
    }

    /// Marks instances without a lease offline, or as suspects.
    pub(super) async fn evaluate(&self, expired: Vec<ExpiredLease>) {
        let proven = self.proven(expired);
        if proven.is_empty() {
            return;
        }
        let totals = self.directory.totals();
        let Ok(sample) = self.sample().await else {
            let keys = keys(proven.iter().map(|expired| &expired.listed));
            return self.rearm(&keys, Instant::now() + RETRY_DELAY);
        };
        let now = self.clock.now();
        match self.protection.assess(totals.instances.online, sample, now) {
            Verdict::Expired => self.record(&proven).await,
            Verdict::Suspect(began) => {
                let keys = keys(proven.iter().map(|expired| &expired.listed));
                self.directory.set_suspect(&keys, true);
                if let Some(why) = began {
                    self.append_protection(EventKind::ProtectionEntered(why), None)
                        .await;
                }
            }
        }
    }

    /// Returns the instances whose missing lease is evidence, and arms the deadlines of the others.
    fn proven(&self, expired: Vec<ExpiredLease>) -> Vec<ExpiredLease> {
        let is_proven = |expired: &ExpiredLease| {
            let instance = &expired.listed.instance;
            match self.protection.grace_deadline(self.ttl(&expired.listed)) {
                _ if !instance.presence.online => false,
                Some(until) => {
                    self.rearm(std::slice::from_ref(&instance.key), until);
                    false
                }
                None => true,
            }
        };
        expired.into_iter().filter(is_proven).collect()
    }

    /// Checks all online instances, marks the suspects, and ends protection mode when it is due.
    pub(super) async fn review(&self) -> Result<(), BackendError> {
        if !self.protection.is_active() {
            return Ok(());
        }
        let online = self.directory.online();
        let mut suspects = 0;
        for part in online.chunks(INSPECT_BATCH) {
            let leases = self.inspect(&keys(part)).await?;
            let (mut missing, mut alive) = (Vec::new(), Vec::new());
            for (listed, lease) in part.iter().zip(leases) {
                match lease {
                    None => missing.push(listed.instance.key.clone()),
                    Some(_) if listed.suspect => alive.push(listed.instance.key.clone()),
                    Some(_) => {}
                }
            }
            suspects += missing.len();
            self.directory.set_suspect(&missing, true);
            self.directory.set_suspect(&alive, false);
        }
        if let Some(why) = self.protection.review(online.len(), suspects) {
            self.end_protection(why, None).await;
        }
        Ok(())
    }

    /// Ends protection mode on every replica and marks the suspects without a lease offline.
    /// Returns how many, or `None` if protection mode was not active. `by` is the operator who
    /// requested it.
    pub(crate) async fn end_protection(
        &self,
        why: ProtectionReason,
        by: Option<Registrant>,
    ) -> Option<usize> {
        if !self.protection.leave(&why) {
            return None;
        }
        self.append_protection(EventKind::ProtectionLeft(why), by)
            .await;
        Some(self.release_suspects().await)
    }

    /// Marks all instances without a lease offline, suspects or not, and returns how many. Marks
    /// none while a missing lease is no evidence.
    pub(crate) async fn release_suspects(&self) -> usize {
        let online = self.directory.online();
        let mut expired = Vec::new();
        for part in online.chunks(INSPECT_BATCH) {
            let keys = keys(part);
            self.directory.set_suspect(&keys, false);
            match self.inspect(&keys).await {
                Ok(leases) => {
                    let missing = part.iter().zip(leases).filter(|(_, lease)| lease.is_none());
                    expired.extend(missing.map(|(listed, _)| ExpiredLease {
                        listed: Arc::clone(listed),
                        since: None,
                    }));
                }
                Err(_) => self.rearm(&keys, Instant::now() + RETRY_DELAY),
            }
        }
        let expired = self.proven(expired);
        self.record(&expired).await;
        expired.len()
    }

    /// Checks that the lease store can be written and read.
    pub(super) async fn probe(&self) {
        if let Err(error) = self.leases.probe().await {
            log::debug!("probe of the lease store failed: {error}");
        }
        self.directory
            .set_stale(Stale::Leases, !self.health.is_working());
    }

    /// Returns each lease, if the answer of the lease store is evidence.
    pub(super) async fn inspect(
        &self,
        keys: &[InstanceKey],
    ) -> Result<Vec<Option<Lease>>, BackendError> {
        let snapshot = self.leases.inspect(keys).await?;
        if self.health.proves(&snapshot.identity) {
            Ok(snapshot.leases)
        } else {
            Err(BackendError::Unavailable(
                "the lease store has changed or just recovered, so its answer is not evidence"
                    .into(),
            ))
        }
    }

    /// Estimates from a sample of the online instances how many are about to expire.
    async fn sample(&self) -> Result<Sample, BackendError> {
        let chosen = self.directory.sample_online(SAMPLE);
        let keys = keys(&chosen);
        let mut expiring = 0;
        for (keys, chosen) in keys.chunks(INSPECT_BATCH).zip(chosen.chunks(INSPECT_BATCH)) {
            let leases = self.inspect(keys).await?;
            let overdue = chosen.iter().zip(leases).filter(|(listed, lease)| {
                let ttl = self.ttl(listed).as_duration();
                lease.is_none_or(|lease| lease.left.as_millis() * 100 < ttl.as_millis() * OVERDUE)
            });
            expiring += overdue.count();
        }
        Ok(Sample {
            checked: keys.len(),
            expiring,
        })
    }

    async fn record(&self, expired: &[ExpiredLease]) {
        for part in expired.chunks(MAX_RECORD) {
            let leases = part.iter().filter_map(|ExpiredLease { listed, .. }| {
                Some(LeaseStart {
                    key: listed.instance.key.clone(),
                    epoch: listed.instance.presence.epoch?,
                })
            });
            let leases: Vec<LeaseStart> = leases.collect();
            let keys = leases
                .iter()
                .map(|lease| lease.key.clone())
                .collect::<Vec<_>>();
            if let Err(error) = self.registry.write(RecordOffline(leases)).await {
                log::debug!(
                    "{} instances could not be marked offline, retrying: {error}",
                    keys.len()
                );
                self.rearm(&keys, Instant::now() + RETRY_DELAY);
                continue;
            }
            let lateness = &self.metrics.expiry_lateness;
            for since in part.iter().filter_map(|expired| expired.since) {
                lateness.observe(since.elapsed().as_secs_f64());
            }
        }
    }

    fn rearm(&self, keys: &[InstanceKey], at: Instant) {
        for key in keys {
            if let Some(slot) = self.directory.find(key).and_then(|listed| listed.slot()) {
                self.directory.deadlines().arm(slot, at);
            }
        }
    }

    /// Returns the TTL of instances without one of their own.
    pub(crate) fn default_ttl(&self) -> Ttl {
        self.protection.limits().ttl
    }

    fn ttl(&self, listed: &InstanceEntry) -> Ttl {
        listed.instance.ttl.unwrap_or(self.default_ttl())
    }

    async fn append_protection(&self, kind: EventKind, by: Option<Registrant>) {
        let event = Event {
            by,
            ..Event::new(self.clock.now(), kind)
        };
        self.registry.append_events(vec![event]).await;
    }
}
