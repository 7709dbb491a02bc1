//! The background jobs: each is a loop, so it never runs twice at once and delays no other.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::protection::TICK;
use super::{Agreement, ClockWatch, ExpiryHandler, Protection, Reconciler, UnregisteredLeases};
use crate::actor::{EndHolds, Mailbox, PurgeActions, PurgeOffline, RegistryActor, Spawner};
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::directory::Directory;

/// The time between reviews of the suspects during protection mode.
const REVIEW_INTERVAL: Duration = Duration::from_secs(2);

/// The time between purges of offline instances: a tenth of `--remove-offline-after`, within
/// these limits.
const PURGE_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The time between looks for holds that have ended.
const HOLD_INTERVAL: Duration = Duration::from_secs(1);

/// The time between deletions of old actions.
const AUDIT_INTERVAL: Duration = Duration::from_secs(60);

/// The name of the claim that makes the purge run on one replica at a time.
const PURGE_CLAIM: &str = "purge";

/// The background jobs of one replica.
pub(crate) struct Jobs {
    /// Watches whether this process runs.
    pub(crate) protection: Arc<Protection>,
    /// Watches the wall clock.
    pub(crate) clock_watch: Arc<ClockWatch>,
    /// Processes expired leases, probes the lease store, and reviews suspects.
    pub(crate) expiry: Arc<ExpiryHandler>,
    /// The leases of addresses that never registered.
    pub(crate) unregistered: Arc<UnregisteredLeases>,
    /// Compares the online instances with the leases.
    pub(crate) reconciler: Arc<Reconciler>,
    /// Compares the lease stores of the replicas.
    pub(crate) agreement: Agreement,
    /// Removes offline instances; `None` disables it.
    pub(crate) purge: Option<Purge>,
    /// Enables the instances whose holds have ended.
    pub(crate) holds: Holds,
    /// Deletes old actions of operators; `None` keeps them for ever.
    pub(crate) audit: Option<AuditPurge>,
}

/// Ends the holds that have an end.
pub(crate) struct Holds {
    /// Has the held instances.
    pub(crate) directory: Arc<Directory>,
    /// Enables them.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// Says whether the end has come.
    pub(crate) clock: Arc<dyn Clock>,
}

/// Deletes the actions of operators that are older than a time.
pub(crate) struct AuditPurge {
    /// How long they are kept.
    pub(crate) keep: Duration,
    /// Deletes them.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// Gives the time to compare the recorded times with.
    pub(crate) clock_watch: Arc<ClockWatch>,
}

/// Removes instances that have been offline for a time.
pub(crate) struct Purge {
    /// For how long.
    pub(crate) after: Duration,
    /// Shows whether there is one: the statement reads all rows, and other writes wait for it.
    pub(crate) directory: Arc<Directory>,
    /// Removes them.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// Makes it run on one replica at a time.
    pub(crate) coordinator: Arc<dyn Coordinator>,
    /// Gives the time to compare the recorded times with.
    pub(crate) clock_watch: Arc<ClockWatch>,
}

impl Jobs {
    /// Starts all jobs.
    pub(crate) fn start(self, spawner: &Spawner) {
        spawner.spawn("clock watch loop", watch(self.protection, self.clock_watch));
        spawner.spawn("sweep loop", sweep(Arc::clone(&self.expiry)));
        spawner.spawn(
            "unregistered leases loop",
            sweep_unregistered(Arc::clone(&self.expiry), self.unregistered),
        );
        spawner.spawn("lease probe loop", probe(Arc::clone(&self.expiry)));
        spawner.spawn("review loop", review(self.expiry));
        spawner.spawn("reconcile loop", reconcile(self.reconciler));
        spawner.spawn("agreement loop", attest(self.agreement));
        if let Some(purge) = self.purge {
            spawner.spawn("purge loop", purge.run());
        }
        spawner.spawn("holds loop", self.holds.run());
        if let Some(audit) = self.audit {
            spawner.spawn("audit purge loop", audit.run());
        }
    }
}

/// Returns ticks that are `period` apart, of which the first comes after one. Those that a job
/// missed because it was busy are skipped.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn watch(protection: Arc<Protection>, clock_watch: Arc<ClockWatch>) -> Infallible {
    let mut ticks = every(TICK);
    loop {
        ticks.tick().await;
        clock_watch.read();
        protection.tick();
    }
}

async fn sweep(expiry: Arc<ExpiryHandler>) -> Infallible {
    let mut ticks = every(TICK);
    loop {
        ticks.tick().await;
        expiry.sweep().await;
    }
}

async fn sweep_unregistered(
    expiry: Arc<ExpiryHandler>,
    leases: Arc<UnregisteredLeases>,
) -> Infallible {
    let mut ticks = every(TICK);
    loop {
        ticks.tick().await;
        expiry.sweep_unregistered(&leases).await;
    }
}

/// An outage of the lease store that is not noticed at once would later make living instances
/// look expired.
async fn probe(expiry: Arc<ExpiryHandler>) -> Infallible {
    let mut ticks = every(TICK);
    loop {
        ticks.tick().await;
        expiry.probe().await;
    }
}

async fn review(expiry: Arc<ExpiryHandler>) -> Infallible {
    let mut ticks = every(REVIEW_INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = expiry.review().await {
            log::debug!("cannot review suspects, retrying: {error}");
        }
    }
}

async fn reconcile(reconciler: Arc<Reconciler>) -> Infallible {
    let mut ticks = every(Reconciler::INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = reconciler.run().await {
            log::warn!("reconcile aborted, the next one starts again: {error}");
        }
    }
}

async fn attest(agreement: Agreement) -> Infallible {
    let mut ticks = every(Agreement::INTERVAL);
    loop {
        ticks.tick().await;
        agreement.attest().await;
    }
}

impl Holds {
    /// The replicas may all do it: each hold is ended by one statement.
    async fn run(self) -> Infallible {
        let mut ticks = every(HOLD_INTERVAL);
        loop {
            ticks.tick().await;
            if self.directory.has_ended_hold(self.clock.now()) {
                match self.registry.write(EndHolds).await {
                    Ok(enabled) => {
                        for instance in enabled {
                            log::info!("the hold of {} has ended", instance.key);
                        }
                    }
                    Err(error) => log::debug!("cannot end holds, retrying: {error}"),
                }
            }
        }
    }
}

impl AuditPurge {
    /// A wall clock that jumped ahead deletes nothing, as for [`Purge`].
    async fn run(self) -> Infallible {
        let keep = TimeDelta::from_std(self.keep).unwrap_or(TimeDelta::MAX);
        let mut ticks = every(AUDIT_INTERVAL);
        loop {
            ticks.tick().await;
            let now = self.clock_watch.slowest();
            let Some(before) = now.and_then(|now| now.checked_sub_signed(keep)) else {
                continue;
            };
            loop {
                match self.registry.write(PurgeActions { before }).await {
                    Ok(deleted) if deleted == usize::from(PurgeActions::LIMIT) => {}
                    Ok(_) => break,
                    Err(error) => {
                        log::debug!("cannot delete old actions, retrying: {error}");
                        break;
                    }
                }
            }
        }
    }
}

impl Purge {
    /// A jump of the wall clock removes no instance, in either direction, if this process has seen
    /// it: the times in the rows are compared with the slowest time of the clock within the last
    /// `after` (see [`ClockWatch`]). A clock that has been ahead since before the start is trusted
    /// after an hour, or a tenth of `after` if that is less.
    async fn run(self) -> Infallible {
        let interval = (self.after / 10).clamp(*PURGE_INTERVAL.start(), *PURGE_INTERVAL.end());
        let after = TimeDelta::from_std(self.after).unwrap_or(TimeDelta::MAX);
        let mut ticks = every(interval);
        loop {
            ticks.tick().await;
            let now = self.clock_watch.slowest();
            let Some(before) = now.and_then(|now| now.checked_sub_signed(after)) else {
                continue;
            };
            if !self.directory.has_offline_since(before) {
                continue;
            }
            // The claim lasts a little less than the interval.
            let claim = self
                .coordinator
                .try_claim(PURGE_CLAIM, interval * 9 / 10)
                .await;
            if matches!(claim, Ok(true)) {
                self.remove(before).await;
            }
        }
    }

    /// Removes all instances that have been offline since before `before`.
    async fn remove(&self, before: DateTime<Utc>) {
        loop {
            let removed = match self.registry.write(PurgeOffline { before }).await {
                Ok(removed) => removed.instances.len(),
                Err(error) => {
                    return log::warn!(
                        "cannot remove instances offline for more than {} (--remove-offline-after), retrying later: {error}",
                        humantime::format_duration(self.after)
                    );
                }
            };
            if removed > 0 {
                log::info!(
                    "removed {removed} instances offline for more than {} (--remove-offline-after)",
                    humantime::format_duration(self.after)
                );
            }
            if removed < usize::from(PurgeOffline::LIMIT) {
                return;
            }
        }
    }
}
