//! The HeartbeatActor: owner of the leases, one on each HTTP worker's own thread.
//!
//! It sends what has arrived as one round trip, and gathers what arrives meanwhile
//! for the next: no timer, and no delay when idle. When the SchedulerActor says so it
//! sweeps its share of the deadlines. It never writes to the database.

mod lives;
mod renewals;

use std::collections::HashSet;
use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::time::Instant;

use self::lives::{Lives, Unrecorded, recorded};
use self::renewals::{Renew, Renewals, ended};
use super::{Expiry, Lifeline, Ping, admit};
use crate::directory::{Directory, DirectoryError, Profile};
use crate::lease::{Lease, LeaseError, LeaseStore, Renewal, Renewed};
use crate::metrics::{HeartbeatMetrics, Metrics};
use crate::model::{InstanceKey, Ttl, Weight};

/// How many leases are looked at in one round trip.
const LOOK: usize = 1000;

/// Owns one handle to the lease store.
pub struct HeartbeatActor {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    expiry: Expiry,
    default_ttl: Ttl,
    metrics: Arc<Metrics>,
    renewals: Renewals,
    unrecorded: Unrecorded,
    sweeping: bool,
    _lifeline: Lifeline,
}

impl HeartbeatActor {
    /// Renews leases where `expiry` looks for them.
    pub fn new(expiry: Expiry, lifeline: Lifeline) -> Self {
        Self {
            leases: Arc::clone(&expiry.leases),
            directory: Arc::clone(&expiry.directory),
            default_ttl: expiry.protection.limits().ttl,
            metrics: Arc::clone(&expiry.metrics),
            expiry,
            renewals: Renewals::default(),
            unrecorded: Unrecorded::default(),
            sweeping: false,
            _lifeline: lifeline,
        }
    }
}

impl Actor for HeartbeatActor {
    type Context = Context<Self>;
}

admit!(HeartbeatActor);

/// Why a heartbeat was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BeatError {
    /// The lease store gave no answer.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// It could not be found out whether the instance is registered.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// What a heartbeat did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Its lease lives on; with its time to live.
    Renewed(Ttl),
    /// A new life began; with its time to live.
    Created(Ttl),
    /// No such instance is registered, and no lease was left behind.
    Unknown,
}

/// Heartbeats of registered instances, in order; each creates or renews a lease.
/// Idempotent but for the time.
///
/// Whether an instance is registered is asked before, of what is known here, and
/// where a lease was created once more afterwards, of the store: an instance that
/// was deregistered elsewhere has no lease, so a beat that was under way creates
/// one, finds that out, and takes it back.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<BeatOutcome>, BeatError>")]
pub struct Beat {
    /// Whose heartbeats, none of them twice.
    pub keys: Vec<InstanceKey>,
}

impl Handler<Beat> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<BeatOutcome>, BeatError>>;

    fn handle(&mut self, beat: Beat, context: &mut Context<Self>) -> Self::Result {
        let (directory, leases) = (Arc::clone(&self.directory), Arc::clone(&self.leases));
        let (me, default_ttl) = (context.address(), self.default_ttl);
        let (metrics, count) = (Arc::clone(&self.metrics), beat.keys.len());
        let outcomes = async move {
            let known = directory.resolve(&beat.keys).await?;
            let (mut renewals, mut profiles) = (Vec::new(), Vec::new());
            for (key, profile) in beat.keys.iter().zip(&known) {
                if let Some(profile) = *profile {
                    renewals.push(Renewal {
                        key: key.clone(),
                        weight: profile.weight,
                        ttl: profile.ttl.unwrap_or(default_ttl),
                    });
                    profiles.push(profile);
                }
            }
            if renewals.is_empty() {
                return Ok(vec![BeatOutcome::Unknown; beat.keys.len()]);
            }
            let renewed = me.send(Renew(renewals.clone())).await;
            // Also where no answer came: the lease may live all the same, until then.
            watch(&directory, &renewals, &profiles);
            let renewed = renewed.unwrap_or_else(|_| Err(ended()))?;
            let Lives {
                mut begun,
                unrecorded,
            } = Lives::of(&renewals, &renewed, &profiles);
            let created: Vec<InstanceKey> = begun.iter().map(|life| life.key.clone()).collect();
            let gone = directory.vanished(&created).await;
            leases.revoke(&gone).await?;
            let gone: HashSet<InstanceKey> = gone.into_iter().collect();
            begun.retain(|life| !gone.contains(&life.key));
            begun.extend(unrecorded);
            recorded(&me, begun).await;
            let mut renewed = renewals.iter().zip(renewed);
            let outcomes = known.iter().map(|profile| {
                let live = profile.and_then(|_| renewed.next());
                match live {
                    Some((renewal, _)) if gone.contains(&renewal.key) => BeatOutcome::Unknown,
                    Some((renewal, Renewed { created: true, .. })) => {
                        BeatOutcome::Created(renewal.ttl)
                    }
                    Some((renewal, _)) => BeatOutcome::Renewed(renewal.ttl),
                    None => BeatOutcome::Unknown,
                }
            });
            Ok(outcomes.collect::<Vec<_>>())
        };
        Box::pin(async move {
            let outcomes = outcomes.await;
            tally(&metrics.heartbeats, count, outcomes.as_deref().ok());
            outcomes
        })
    }
}

/// Counts what became of that many heartbeats; `None` where there was no answer.
fn tally(metrics: &HeartbeatMetrics, count: usize, outcomes: Option<&[BeatOutcome]>) {
    let Some(outcomes) = outcomes else {
        metrics.rejected.inc_by(count as u64);
        return;
    };
    for outcome in outcomes {
        let counter = match outcome {
            BeatOutcome::Renewed(_) => &metrics.renewed,
            BeatOutcome::Created(_) => &metrics.created,
            BeatOutcome::Unknown => &metrics.unknown,
        };
        counter.inc();
    }
}

/// A heartbeat in the original's manner: also of an address that never registered.
/// Creates or renews one lease. Idempotent but for the time.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Renewed, BeatError>")]
pub struct KeepAlive {
    /// Whose heartbeat.
    pub key: InstanceKey,
    /// Its weight, where it says so itself; else the registered one, else 1.
    pub weight: Option<Weight>,
}

impl Handler<KeepAlive> for HeartbeatActor {
    type Result = ResponseFuture<Result<Renewed, BeatError>>;

    fn handle(&mut self, message: KeepAlive, context: &mut Context<Self>) -> Self::Result {
        let directory = Arc::clone(&self.directory);
        let (me, default_ttl) = (context.address(), self.default_ttl);
        let metrics = Arc::clone(&self.metrics);
        let renewed = async move {
            let profile = directory.resolve_keep_alive(&message.key).await;
            let known = profile.unwrap_or_default();
            let renewals = vec![Renewal {
                key: message.key,
                weight: message.weight.unwrap_or(known.weight),
                ttl: known.ttl.unwrap_or(default_ttl),
            }];
            let renewed = me.send(Renew(renewals.clone())).await;
            watch(&directory, &renewals, &[known]);
            let renewed = renewed.unwrap_or_else(|_| Err(ended()))?;
            if profile.is_some() {
                let mut lives = Lives::of(&renewals, &renewed, &[known]);
                lives.begun.extend(lives.unrecorded);
                recorded(&me, lives.begun).await;
            }
            let renewed = renewed.first().copied().ok_or_else(ended)?;
            Ok((renewed, renewals.first().map_or(default_ttl, |own| own.ttl)))
        };
        Box::pin(async move {
            let outcome = renewed.await;
            let tallied = outcome
                .as_ref()
                .map(|(renewed, ttl)| match renewed.created {
                    true => vec![BeatOutcome::Created(*ttl)],
                    false => vec![BeatOutcome::Renewed(*ttl)],
                });
            tally(&metrics.heartbeats, 1, tallied.ok().as_deref());
            outcome.map(|(renewed, _)| renewed)
        })
    }
}

/// From now on these leases are watched here: they live no longer than their time to live.
fn watch(directory: &Directory, renewals: &[Renewal], profiles: &[Profile]) {
    let now = Instant::now();
    for (renewal, profile) in renewals.iter().zip(profiles) {
        if let Some(slot) = profile.slot {
            let deadline = now + renewal.ttl.as_duration();
            directory.deadlines().arm(slot, deadline);
        }
    }
}

/// Ends leases at once. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), LeaseError>")]
pub struct Revoke {
    /// Whose leases.
    pub keys: Vec<InstanceKey>,
}

impl Handler<Revoke> for HeartbeatActor {
    type Result = ResponseFuture<Result<(), LeaseError>>;

    fn handle(&mut self, message: Revoke, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.revoke(&message.keys).await })
    }
}

/// Says how long each lease still lives; `None` where there is none. No effect.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Option<Lease>>, LeaseError>")]
pub struct LookAtLeases {
    /// Whose leases.
    pub keys: Vec<InstanceKey>,
}

impl Handler<LookAtLeases> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Option<Lease>>, LeaseError>>;

    fn handle(&mut self, message: LookAtLeases, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move {
            let mut found = Vec::with_capacity(message.keys.len());
            for keys in message.keys.chunks(LOOK) {
                found.extend(leases.look(keys).await?.leases);
            }
            Ok(found)
        })
    }
}

/// Looks at those leases of one share of the deadlines whose time is over, and has those
/// recorded that are gone. Not while the last one is still under way.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Sweep {
    /// Which share, counted from 0.
    pub share: usize,
    /// Of how many.
    pub of: usize,
}

impl Handler<Sweep> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, Sweep { share, of }: Sweep, context: &mut Context<Self>) {
        if self.sweeping {
            return;
        }
        let passed = self.directory.deadlines().take_passed(share, of);
        if passed.is_empty() {
            return;
        }
        self.sweeping = true;
        let expiry = self.expiry.clone();
        let sweep = async move { expiry.settle(passed).await };
        context.spawn(
            wrap_future(sweep)
                .map(|(), actor: &mut Self, _: &mut Context<Self>| actor.sweeping = false),
        );
    }
}

/// Asks the lease store whether it answers. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), LeaseError>")]
pub struct ProbeLeases;

impl Handler<ProbeLeases> for HeartbeatActor {
    type Result = ResponseFuture<Result<(), LeaseError>>;

    fn handle(&mut self, _: ProbeLeases, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.look(&[]).await.map(drop) })
    }
}

impl Handler<Ping> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
