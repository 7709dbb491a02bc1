//! The HeartbeatActor: owner of the leases, one on each HTTP worker's own thread.
//!
//! It sends what has arrived as one round trip, and gathers what arrives meanwhile
//! for the next: no timer, and no delay when idle. When the SchedulerActor says so it
//! sweeps its share of the deadlines. It never writes to the database.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{Expiry, Lifeline, Ping, RecordOnline, admit};
use crate::directory::{Directory, DirectoryError, Profile};
use crate::lease::{LeaseError, LeaseStore, Renewal, Renewed};
use crate::model::{InstanceKey, Ttl, Weight};
use crate::store::Life;

/// The most leases in one round trip: a script holds up everybody else on Redis.
const MAX_BATCH: usize = 1000;

/// The most new lives in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// How long a heartbeat waits until the life that it began is recorded, so that whoever
/// beat and then asks here is listed. It goes on without.
const RECORDED: Duration = Duration::from_millis(600);

/// How long a round trip may take before those who wait for it are told.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// Owns one handle to the lease store.
pub struct HeartbeatActor {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    expiry: Expiry,
    default_ttl: Ttl,
    waiting: Vec<Waiting>,
    under_way: bool,
    /// New lives that wait to be recorded.
    begun: Vec<(Vec<Life>, oneshot::Sender<()>)>,
    recording: bool,
    sweeping: bool,
    _lifeline: Lifeline,
}

struct Waiting {
    renewals: Vec<Renewal>,
    answer: oneshot::Sender<Result<Vec<Renewed>, LeaseError>>,
}

impl HeartbeatActor {
    /// Renews leases where `expiry` looks for them.
    pub fn new(expiry: Expiry, lifeline: Lifeline) -> Self {
        Self {
            leases: Arc::clone(&expiry.leases),
            directory: Arc::clone(&expiry.directory),
            default_ttl: expiry.protection.limits().ttl,
            expiry,
            waiting: Vec::new(),
            under_way: false,
            begun: Vec::new(),
            recording: false,
            sweeping: false,
            _lifeline: lifeline,
        }
    }

    /// Has the new lives recorded that wait for it, unless some are being recorded. What is
    /// lost here is found by the next reconcile.
    fn record(&mut self, context: &mut Context<Self>) {
        if self.recording || self.begun.is_empty() {
            return;
        }
        self.recording = true;
        let (mut lives, mut waiting) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for (begun, recorded) in mem::take(&mut self.begun) {
            // Two lives of one instance within a round trip: the later one is recorded next.
            let repeated = begun.iter().any(|life| known.contains(&life.key));
            if repeated || lives.len() + begun.len() > MAX_RECORD && !lives.is_empty() {
                self.begun.push((begun, recorded));
            } else {
                known.extend(begun.iter().map(|life| life.key.clone()));
                lives.extend(begun);
                waiting.push(recorded);
            }
        }
        let registry = self.expiry.registry.clone();
        let recording = async move {
            for part in lives.chunks(MAX_RECORD) {
                let failure = match registry.ask(RecordOnline(part.to_vec())).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                log::debug!("{} new lives not recorded yet: {failure}", part.len());
            }
            for recorded in waiting {
                // The heartbeat may have been answered without it.
                let _ = recorded.send(());
            }
        };
        context.spawn(wrap_future(recording).map(
            |(), actor: &mut Self, context: &mut Context<Self>| {
                actor.recording = false;
                actor.record(context);
            },
        ));
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
        Box::pin(async move {
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
            record(&me, unrecorded);
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
        Box::pin(async move {
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
                let lives = Lives::of(&renewals, &renewed, &[known]);
                record(&me, lives.unrecorded);
                recorded(&me, lives.begun).await;
            }
            renewed.first().copied().ok_or_else(|| ended().into())
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

/// Has lives recorded; the receiver hears when that is done.
fn record(actor: &Addr<HeartbeatActor>, lives: Vec<Life>) -> Option<oneshot::Receiver<()>> {
    (!lives.is_empty()).then(|| {
        let (done, recorded) = oneshot::channel();
        actor.do_send(Record(lives, done));
        recorded
    })
}

/// Has new lives recorded, and waits for that a while.
async fn recorded(actor: &Addr<HeartbeatActor>, begun: Vec<Life>) {
    if let Some(recorded) = record(actor, begun) {
        // The heartbeat goes on without.
        let _ = timeout(RECORDED, recorded).await;
    }
}

/// New lives that are to be recorded. Private: the actor sends it to itself.
#[derive(Message)]
#[rtype(result = "()")]
struct Record(Vec<Life>, oneshot::Sender<()>);

impl Handler<Record> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, Record(lives, done): Record, context: &mut Context<Self>) {
        self.begun.push((lives, done));
        self.record(context);
    }
}

/// What renewals tell of lives that are to be recorded.
struct Lives {
    /// They began with this renewal.
    begun: Vec<Life>,
    /// They began before, and that is not known here: the report was lost, or the instance
    /// had a lease before it registered.
    unrecorded: Vec<Life>,
}

impl Lives {
    fn of(renewals: &[Renewal], renewed: &[Renewed], profiles: &[Profile]) -> Self {
        let mut lives = Self {
            begun: Vec::new(),
            unrecorded: Vec::new(),
        };
        for ((renewal, renewed), profile) in renewals.iter().zip(renewed).zip(profiles) {
            let life = || Life {
                key: renewal.key.clone(),
                epoch: renewed.epoch,
            };
            if renewed.created {
                lives.begun.push(life());
            } else if profile.slot.is_some() && profile.epoch < Some(renewed.epoch) {
                lives.unrecorded.push(life());
            }
        }
        lives
    }
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
