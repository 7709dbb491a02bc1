//! A heartbeat, from its message to its answer.

use std::collections::HashSet;
use std::sync::Arc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Addr, AsyncContext, Context, Handler, Message, ResponseFuture};

use super::HeartbeatActor;
use super::lives::{Lives, recorded};
use super::renewals::{Asker, Renew, Renewals, ended};
use crate::directory::{Directory, DirectoryError, Profile};
use crate::lease::{LeaseError, LeaseStore, Renewal, Renewed};
use crate::metrics::Metrics;
use crate::model::{InstanceKey, Ttl, Weight};

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

/// What became of each heartbeat of a message.
pub(super) type Outcomes = Result<Vec<BeatOutcome>, BeatError>;

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
    /// Whose heartbeats, none of them twice, and what the Directory knows of each.
    pub instances: Vec<(InstanceKey, Option<Profile>)>,
}

impl Handler<Beat> for HeartbeatActor {
    type Result = BeatAnswer;

    fn handle(&mut self, Beat { instances }: Beat, context: &mut Context<Self>) -> BeatAnswer {
        // Most are of instances that are known here, and wait for a round trip alone.
        if instances.iter().all(|(_, known)| known.is_some()) {
            self.send(context);
            return BeatAnswer(Answer::RoundTrip {
                instances,
                default_ttl: self.default_ttl,
                queue: self.renewals.clone(),
            });
        }
        let keys = instances.into_iter().map(|(key, _)| key).collect();
        BeatAnswer(Answer::Later(Box::pin(self.beats(context).beat(keys))))
    }
}

impl Profile {
    fn renewal(&self, key: InstanceKey, default_ttl: Ttl) -> Renewal {
        Renewal {
            key,
            weight: self.weight,
            ttl: self.ttl.unwrap_or(default_ttl),
        }
    }
}

/// The answer of a [`Beat`].
pub struct BeatAnswer(Answer);

enum Answer {
    /// Given with the next round trip, without a task of its own.
    RoundTrip {
        instances: Vec<(InstanceKey, Option<Profile>)>,
        default_ttl: Ttl,
        queue: Renewals,
    },
    /// Given when this has found it.
    Later(ResponseFuture<Outcomes>),
}

impl MessageResponse<HeartbeatActor, Beat> for BeatAnswer {
    fn handle(
        self,
        context: &mut Context<HeartbeatActor>,
        answer: Option<OneshotSender<Outcomes>>,
    ) {
        match self.0 {
            Answer::RoundTrip {
                instances,
                default_ttl,
                queue,
            } => {
                let renewal = |(key, known): (_, Option<Profile>)| {
                    known.map(|known| (known.renewal(key, default_ttl), known))
                };
                let renewals = instances.into_iter().filter_map(renewal);
                queue.push(renewals, Asker::Beat(answer));
            }
            Answer::Later(outcomes) => {
                MessageResponse::<HeartbeatActor, Beat>::handle(outcomes, context, answer);
            }
        }
    }
}

impl HeartbeatActor {
    /// Answers a heartbeat whose round trip is over and was answered: at once, where all its
    /// leases live on. Whether it was.
    pub(super) fn told(
        &self,
        renewals: &[Renewal],
        renewed: &[Renewed],
        profiles: &[Profile],
        answer: Option<OneshotSender<Outcomes>>,
        context: &Context<Self>,
    ) -> bool {
        let lives = Lives::of(renewals, renewed, profiles);
        if lives.is_empty() {
            let outcomes = renewals.iter().map(|own| BeatOutcome::Renewed(own.ttl));
            // Whoever asked may have given up meanwhile, here and below.
            let _ = answer.map(|answer| answer.send(Ok(outcomes.collect())));
            return true;
        }
        let (renewals, renewed) = (renewals.to_vec(), renewed.to_vec());
        let beats = self.beats(context);
        actix::spawn(async move {
            let outcomes = beats.settle(&renewals, &renewed, lives).await;
            beats.tally(renewals.len(), &outcomes);
            answer.map(|answer| answer.send(outcomes))
        });
        false
    }

    fn beats(&self, context: &Context<Self>) -> Beats {
        Beats {
            directory: Arc::clone(&self.directory),
            leases: Arc::clone(&self.leases),
            metrics: Arc::clone(&self.metrics),
            default_ttl: self.default_ttl,
            actor: context.address(),
        }
    }
}

/// What a heartbeat needs that waits for more than one round trip.
struct Beats {
    directory: Arc<Directory>,
    leases: Arc<dyn LeaseStore>,
    metrics: Arc<Metrics>,
    default_ttl: Ttl,
    actor: Addr<HeartbeatActor>,
}

impl Beats {
    /// A heartbeat of instances of which some are not known here.
    async fn beat(self, keys: Vec<InstanceKey>) -> Outcomes {
        let count = keys.len();
        let outcomes = self.outcomes(keys).await;
        self.tally(count, &outcomes);
        outcomes
    }

    async fn outcomes(&self, keys: Vec<InstanceKey>) -> Outcomes {
        let known = self.directory.resolve(&keys).await?;
        let registered = keys.into_iter().zip(&known);
        let registered = registered.filter_map(|(key, profile)| Some((key, (*profile)?)));
        let (renewals, profiles): (Vec<_>, Vec<_>) = registered
            .map(|(key, profile)| (profile.renewal(key, self.default_ttl), profile))
            .unzip();
        let mut outcomes = match renewals.is_empty() {
            true => Vec::new(),
            false => {
                let (renewed, lives) = self.renew(&renewals, &profiles).await?;
                self.settle(&renewals, &renewed, lives).await?
            }
        }
        .into_iter();
        let each = known.iter().map(|profile| {
            let outcome = profile.and_then(|_| outcomes.next());
            outcome.unwrap_or(BeatOutcome::Unknown)
        });
        Ok(each.collect())
    }

    /// Joins a round trip; what it did, and the lives that it tells of.
    async fn renew(
        &self,
        renewals: &[Renewal],
        profiles: &[Profile],
    ) -> Result<(Vec<Renewed>, Lives), LeaseError> {
        let renew = Renew(renewals.to_vec(), profiles.to_vec());
        let renewed = self.actor.send(renew).await;
        let renewed = renewed.unwrap_or_else(|_| Err(ended()))?;
        let lives = Lives::of(renewals, &renewed, profiles);
        Ok((renewed, lives))
    }

    /// Has recorded what lives began, and takes those back whose instances are gone.
    async fn settle(&self, renewals: &[Renewal], renewed: &[Renewed], lives: Lives) -> Outcomes {
        let Lives {
            mut begun,
            unrecorded,
        } = lives;
        let created: Vec<InstanceKey> = begun.iter().map(|life| life.key.clone()).collect();
        let gone = self.directory.vanished(&created).await;
        self.leases.revoke(&gone).await?;
        let gone: HashSet<InstanceKey> = gone.into_iter().collect();
        begun.retain(|life| !gone.contains(&life.key));
        begun.extend(unrecorded);
        recorded(&self.actor, begun).await;
        let outcome = |(renewal, renewed): (&Renewal, &Renewed)| match renewed.created {
            _ if gone.contains(&renewal.key) => BeatOutcome::Unknown,
            true => BeatOutcome::Created(renewal.ttl),
            false => BeatOutcome::Renewed(renewal.ttl),
        };
        Ok(renewals.iter().zip(renewed).map(outcome).collect())
    }

    /// Counts what became of that many heartbeats.
    fn tally(&self, count: usize, outcomes: &Outcomes) {
        let metrics = &self.metrics.heartbeats;
        let Ok(outcomes) = outcomes else {
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
        let beats = self.beats(context);
        Box::pin(async move {
            let outcome = beats.keep_alive(message).await;
            let heartbeats = &beats.metrics.heartbeats;
            let counter = match &outcome {
                Ok(Renewed { created: true, .. }) => &heartbeats.created,
                Ok(Renewed { created: false, .. }) => &heartbeats.renewed,
                Err(_) => &heartbeats.rejected,
            };
            counter.inc();
            outcome
        })
    }
}

impl Beats {
    async fn keep_alive(&self, KeepAlive { key, weight }: KeepAlive) -> Result<Renewed, BeatError> {
        let profile = self.directory.resolve_keep_alive(&key).await;
        let known = profile.unwrap_or_default();
        let renewal = Renewal {
            weight: weight.unwrap_or(known.weight),
            ..known.renewal(key, self.default_ttl)
        };
        let (renewed, mut lives) = self.renew(&[renewal], &[known]).await?;
        if profile.is_some() {
            lives.begun.extend(lives.unrecorded);
            recorded(&self.actor, lives.begun).await;
        }
        Ok(renewed.first().copied().ok_or_else(ended)?)
    }
}
