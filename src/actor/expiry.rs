//! What becomes of those whose leases are expired: the one way from a deadline that passed,
//! or a lease that a reconcile missed, to the record that an instance is offline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{AppendEvents, Mailbox, RecordOffline, RegistryActor};
use crate::clock::Clock;
use crate::directory::{Directory, InstanceEntry, Stale};
use crate::lease::{Health, Lease, LeaseError, LeaseStore};
use crate::metrics::Metrics;
use crate::model::{Event, EventKind, InstanceKey, Ttl};
use crate::protection::{OVERDUE, Protection, Sample, Verdict};
use crate::store::LeaseStart;

/// The most leases to ask about in one round trip.
const LOOK: usize = 1000;

/// About how many instances to look at before some are proven to be expired.
const SAMPLE: usize = 2000;

/// The most instances in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// When those are looked at again who could not be looked at or not be recorded.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks at leases and has those who are expired recorded, or held as suspects.
#[derive(Clone)]
pub struct ExpiryHandler {
    /// Says who is alive.
    pub leases: Arc<dyn LeaseStore>,
    /// Whether its answers are evidence.
    pub health: Arc<Health>,
    /// Knows who is listed as online.
    pub directory: Arc<Directory>,
    /// Decides whether those who are expired are proven to be.
    pub protection: Arc<Protection>,
    /// Records them, and appends the events of protection.
    pub registry: Mailbox<RegistryActor>,
    /// The time of that.
    pub clock: Arc<dyn Clock>,
    /// Counts what came of it.
    pub metrics: Arc<Metrics>,
}

/// Whose lease is expired, and since when, where that was seen here.
pub(super) struct ExpiredLease {
    pub(super) listed: Arc<InstanceEntry>,
    pub(super) since: Option<Instant>,
}

fn keys<'a>(listed: impl IntoIterator<Item = &'a Arc<InstanceEntry>>) -> Vec<InstanceKey> {
    let keys = listed.into_iter().map(|listed| listed.instance.key.clone());
    keys.collect()
}

impl ExpiryHandler {
    /// Looks at leases whose deadlines have passed here. Who is alive was renewed by
    /// another daemon, which watches it now.
    pub async fn process_expired(&self, passed: Vec<(Arc<InstanceEntry>, Instant)>) {
        let mut expired = Vec::new();
        let mut rest = passed.as_slice();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(rest.len().min(LOOK));
            let Ok(leases) = self
                .inspect(&keys(part.iter().map(|(listed, _)| listed)))
                .await
            else {
                // The store is away, and would be for the others.
                let keys = keys(rest.iter().map(|(listed, _)| listed));
                self.rearm(&keys, Instant::now() + AGAIN);
                break;
            };
            // The instance as it was before the look: an answer proves nothing of what was
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

    /// Has those recorded as offline, or held, whose leases are expired.
    pub(super) async fn evaluate(&self, expired: Vec<ExpiredLease>) {
        let proven = self.proven(expired);
        if proven.is_empty() {
            return;
        }
        let totals = self.directory.totals();
        let Ok(sample) = self.sample().await else {
            let keys = keys(proven.iter().map(|expired| &expired.listed));
            return self.rearm(&keys, Instant::now() + AGAIN);
        };
        let now = self.clock.now();
        match self.protection.assess(totals.instances.online, sample, now) {
            Verdict::Expired => self.record(&proven).await,
            Verdict::Suspect(began) => {
                let keys = keys(proven.iter().map(|expired| &expired.listed));
                self.directory.set_suspect(&keys, true);
                if let Some(reason) = began {
                    self.append_protection(EventKind::ProtectionEntered { reason })
                        .await;
                }
            }
        }
    }

    /// Those of `expired` whose missing lease is evidence. The others are watched until it is.
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

    /// Looks at everybody who is online, marks the suspects, and ends protection when it
    /// is time.
    pub(super) async fn review(&self) -> Result<(), LeaseError> {
        let online = self.directory.online();
        let mut suspects = 0;
        for part in online.chunks(LOOK) {
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
        if let Some(reason) = self.protection.review(online.len(), suspects) {
            self.end_protection(reason).await;
        }
        Ok(())
    }

    /// Ends protection, on every daemon, and lets the suspects go; whether it had begun,
    /// and how many they are.
    pub async fn end_protection(&self, reason: String) -> Option<usize> {
        if !self.protection.leave(&reason) {
            return None;
        }
        self.append_protection(EventKind::ProtectionLeft { reason })
            .await;
        Some(self.release_suspects().await)
    }

    /// Has all instances recorded as offline that have no lease, those included that are not
    /// suspects yet; returns how many. Where a missing lease is no evidence, none.
    pub(super) async fn release_suspects(&self) -> usize {
        let online = self.directory.online();
        let mut expired = Vec::new();
        for part in online.chunks(LOOK) {
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
                Err(_) => self.rearm(&keys, Instant::now() + AGAIN),
            }
        }
        let expired = self.proven(expired);
        self.record(&expired).await;
        expired.len()
    }

    /// Asks the lease store whether it can be written and read.
    pub(super) async fn probe(&self) {
        if let Err(error) = self.leases.probe().await {
            log::debug!("the probe failed: {error}");
        }
        self.directory
            .set_stale(Stale::Leases, !self.health.is_working());
    }

    /// Each lease as it is, where the answer is evidence.
    pub(super) async fn inspect(
        &self,
        keys: &[InstanceKey],
    ) -> Result<Vec<Option<Lease>>, LeaseError> {
        let look = self.leases.inspect(keys).await?;
        if self.health.proves(&look.identity) {
            Ok(look.leases)
        } else {
            Err(LeaseError::Unavailable("its answer is no evidence".into()))
        }
    }

    /// How many of those who are online are expiring, by the leases of some of them.
    async fn sample(&self) -> Result<Sample, LeaseError> {
        let chosen = self.directory.sample_online(SAMPLE);
        let keys = keys(&chosen);
        let mut expiring = 0;
        for (keys, chosen) in keys.chunks(LOOK).zip(chosen.chunks(LOOK)) {
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
            let failure = match self.registry.ask(RecordOffline(leases)).await {
                Ok(Ok(_)) => {
                    let lateness = &self.metrics.expiry_lateness;
                    for since in part.iter().filter_map(|expired| expired.since) {
                        lateness.observe(since.elapsed().as_secs_f64());
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            log::debug!("{} not recorded as offline yet: {failure}", keys.len());
            self.rearm(&keys, Instant::now() + AGAIN);
        }
    }

    fn rearm(&self, keys: &[InstanceKey], at: Instant) {
        for key in keys {
            if let Some(slot) = self.directory.find(key).and_then(|listed| listed.slot()) {
                self.directory.deadlines().arm(slot, at);
            }
        }
    }

    fn ttl(&self, listed: &InstanceEntry) -> Ttl {
        listed.instance.ttl.unwrap_or(self.protection.limits().ttl)
    }

    /// Appends events to the event log, after those of earlier commits.
    pub(super) async fn append(&self, events: Vec<Event>) {
        while let Err(error) = self.registry.ask(AppendEvents(events.clone())).await {
            log::debug!("events cannot be appended yet: {error}");
            sleep(AGAIN).await;
        }
    }

    async fn append_protection(&self, kind: EventKind) {
        let at = self.clock.now();
        self.append(vec![Event { at, kind }]).await;
    }
}
