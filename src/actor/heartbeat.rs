//! The HeartbeatActor: owner of the leases, one on each HTTP worker's own thread.
//!
//! It sends what has arrived as one round trip, and gathers what arrives meanwhile
//! for the next: no timer, and no delay when idle. It never writes to the database.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Lifeline, Mailbox, Ping, RecordOnline, RegistryActor, admit};
use crate::directory::{Directory, DirectoryError, Profile};
use crate::lease::{LeaseError, LeaseStore, Renewal, Renewed};
use crate::model::{InstanceKey, Ttl, Weight};
use crate::store::Life;

/// The most leases in one round trip: a script holds up everybody else on Redis.
const MAX_BATCH: usize = 1000;

/// The most new lives in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// How long a round trip may take before those who wait for it are told.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// Owns one handle to the lease store.
pub struct HeartbeatActor {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    registry: Mailbox<RegistryActor>,
    default_ttl: Ttl,
    waiting: Vec<Waiting>,
    under_way: bool,
    _lifeline: Lifeline,
}

struct Waiting {
    renewals: Vec<Renewal>,
    answer: oneshot::Sender<Result<Vec<Renewed>, LeaseError>>,
}

impl HeartbeatActor {
    /// `default_ttl` is for instances that gave none of their own.
    pub fn new(
        leases: Arc<dyn LeaseStore>,
        directory: Arc<Directory>,
        registry: Mailbox<RegistryActor>,
        default_ttl: Ttl,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            leases,
            directory,
            registry,
            default_ttl,
            waiting: Vec::new(),
            under_way: false,
            _lifeline: lifeline,
        }
    }

    /// Sends what waits, unless a round trip is under way.
    fn send(&mut self, context: &mut Context<Self>) {
        if self.under_way || self.waiting.is_empty() {
            return;
        }
        self.under_way = true;
        let batch = mem::take(&mut self.waiting);
        let leases = Arc::clone(&self.leases);
        let round_trips = async move { renew(&*leases, batch).await };
        context.spawn(wrap_future(round_trips).map(
            |outcome, actor: &mut Self, context: &mut Context<Self>| {
                actor.under_way = false;
                if let Err(error @ LeaseError::Unavailable(_)) = outcome {
                    actor.fail(&error);
                }
                actor.send(context);
            },
        ));
    }

    /// Tells those who waited for a round trip that failed, and would now wait for the
    /// next failure.
    fn fail(&mut self, error: &LeaseError) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }
}

/// Renews a batch, in as few round trips as it fits, and answers each caller as soon
/// as its own leases are through. After a failure nothing more is tried.
async fn renew(leases: &dyn LeaseStore, batch: Vec<Waiting>) -> Result<(), LeaseError> {
    let mut batch = batch.into_iter().peekable();
    let mut failure = None;
    while let Some(first) = batch.next() {
        let mut together = vec![(first.renewals.len(), first.answer)];
        let mut renewals = first.renewals;
        while let Some(next) =
            batch.next_if(|next| renewals.len() + next.renewals.len() <= MAX_BATCH)
        {
            together.push((next.renewals.len(), next.answer));
            renewals.extend(next.renewals);
        }
        let mut renewed = Vec::with_capacity(renewals.len());
        for part in renewals.chunks(MAX_BATCH) {
            if failure.is_some() {
                break;
            }
            match round_trip(leases, part).await {
                Ok(part) => renewed.extend(part),
                Err(error) => failure = Some(error),
            }
        }
        let mut renewed = renewed.into_iter();
        for (count, answer) in together {
            let own = match &failure {
                None => Ok(renewed.by_ref().take(count).collect()),
                Some(error) => Err(error.clone()),
            };
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(own);
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn round_trip(
    leases: &dyn LeaseStore,
    renewals: &[Renewal],
) -> Result<Vec<Renewed>, LeaseError> {
    match timeout(ROUND_TRIP, leases.renew(renewals)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(LeaseError::Unavailable(format!(
            "no answer within {ROUND_TRIP:?}"
        ))),
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
        let registry = self.registry.clone();
        Box::pin(async move {
            let known = directory.resolve(&beat.keys).await?;
            let renewals: Vec<Renewal> = beat
                .keys
                .iter()
                .zip(&known)
                .filter_map(|(key, profile)| {
                    let Profile { weight, ttl } = (*profile)?;
                    Some(Renewal {
                        key: key.clone(),
                        weight,
                        ttl: ttl.unwrap_or(default_ttl),
                    })
                })
                .collect();
            if renewals.is_empty() {
                return Ok(vec![BeatOutcome::Unknown; beat.keys.len()]);
            }
            let renewed = me.send(Renew(renewals.clone())).await;
            let renewed = match renewed.unwrap_or_else(|_| Err(ended())) {
                Ok(renewed) => renewed,
                Err(error) => {
                    directory.doubt(&beat.keys);
                    return Err(error.into());
                }
            };
            let mut begun = begun(&renewals, &renewed);
            let created: Vec<InstanceKey> = begun.iter().map(|life| life.key.clone()).collect();
            let gone = directory.vanished(&created).await;
            leases.revoke(&gone).await?;
            let gone: HashSet<InstanceKey> = gone.into_iter().collect();
            begun.retain(|life| !gone.contains(&life.key));
            record(registry, begun);
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
            Ok(outcomes.collect())
        })
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
        let registry = self.registry.clone();
        Box::pin(async move {
            let profile = directory.resolve_keep_alive(&message.key).await;
            let renewal = Renewal {
                key: message.key,
                weight: message
                    .weight
                    .or(profile.map(|profile| profile.weight))
                    .unwrap_or_default(),
                ttl: profile
                    .and_then(|profile| profile.ttl)
                    .unwrap_or(default_ttl),
            };
            let renewals = vec![renewal];
            let renewed = me
                .send(Renew(renewals.clone()))
                .await
                .unwrap_or_else(|_| Err(ended()))?;
            record(registry, begun(&renewals, &renewed));
            renewed.first().copied().ok_or_else(|| ended().into())
        })
    }
}

/// The lives that began with these renewals.
fn begun(renewals: &[Renewal], renewed: &[Renewed]) -> Vec<Life> {
    let pairs = renewals.iter().zip(renewed);
    let begun = pairs.filter(|(_, renewed)| renewed.created);
    begun
        .map(|(renewal, renewed)| Life {
            key: renewal.key.clone(),
            epoch: renewed.epoch,
        })
        .collect()
}

/// Has new lives recorded, without keeping the heartbeat waiting. What is lost here is
/// found by the next reconcile.
fn record(registry: Mailbox<RegistryActor>, mut begun: Vec<Life>) {
    if begun.is_empty() {
        return;
    }
    actix::spawn(async move {
        while !begun.is_empty() {
            let rest = begun.split_off(begun.len().min(MAX_RECORD));
            match registry
                .ask(RecordOnline(mem::replace(&mut begun, rest)))
                .await
            {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return log::debug!("new leases not recorded: {error}"),
                Err(error) => return log::debug!("new leases not recorded: {error}"),
            }
        }
    });
}

/// Renewals that join the next round trip.
#[derive(Message)]
#[rtype(result = "Result<Vec<Renewed>, LeaseError>")]
struct Renew(Vec<Renewal>);

impl Handler<Renew> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Renewed>, LeaseError>>;

    fn handle(&mut self, Renew(renewals): Renew, context: &mut Context<Self>) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.waiting.push(Waiting { renewals, answer });
        self.send(context);
        Box::pin(async { answered.await.unwrap_or_else(|_| Err(ended())) })
    }
}

fn ended() -> LeaseError {
    LeaseError::Unavailable("the heartbeat actor has ended".into())
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

impl Handler<Ping> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
