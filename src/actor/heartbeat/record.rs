//! A heartbeat, from its message to its answer.

use std::collections::HashSet;
use std::sync::Arc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Addr, AsyncContext, Context, Handler, Message, ResponseFuture};

use super::HeartbeatActor;
use super::new_leases::{NewLeases, record_and_wait};
use super::renewals::{Renew, Renewals, Waiter, ended};
use crate::backend::BackendError;
use crate::directory::{Directory, DirectoryError, HeartbeatInfo};
use crate::lease::{LeaseStore, Renewal, Renewed};
use crate::metrics::Metrics;
use crate::model::{InstanceKey, Ttl, Weight};

/// Why a heartbeat failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HeartbeatError {
    /// The lease store gave no answer.
    #[error(transparent)]
    Leases(#[from] BackendError),
    /// The registry store did not answer whether the instance is registered.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// The result of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The lease was renewed; with its TTL.
    Renewed(Ttl),
    /// A new lease began; with its TTL.
    Created(Ttl),
    /// The instance is not registered, and no lease was left behind.
    Unknown,
}

pub(super) type Outcomes = Result<Vec<HeartbeatOutcome>, HeartbeatError>;

/// Heartbeats of registered instances; each creates or renews a lease. Answers in the same
/// order. Idempotent but for the time.
///
/// The Directory tells beforehand whether an instance is registered. After a lease was created,
/// the registry store is asked again: an instance that another replica deregistered has no
/// lease, so a heartbeat that was in flight creates one, finds no row, and revokes the lease.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<HeartbeatOutcome>, HeartbeatError>")]
pub struct RecordHeartbeats {
    /// The instances, each at most once, with what the Directory knows of each.
    pub instances: Vec<(InstanceKey, Option<HeartbeatInfo>)>,
}

impl Handler<RecordHeartbeats> for HeartbeatActor {
    type Result = HeartbeatReply;

    fn handle(
        &mut self,
        RecordHeartbeats { instances }: RecordHeartbeats,
        context: &mut Context<Self>,
    ) -> HeartbeatReply {
        // Most heartbeats are of known instances and wait only for a round trip.
        if instances.iter().all(|(_, known)| known.is_some()) {
            self.send(context);
            return HeartbeatReply(Answer::RoundTrip {
                instances,
                default_ttl: self.default_ttl,
                queue: self.renewals.clone(),
            });
        }
        let keys = instances.into_iter().map(|(key, _)| key).collect();
        HeartbeatReply(Answer::Later(Box::pin(self.recorder(context).record(keys))))
    }
}

impl HeartbeatInfo {
    fn renewal(&self, key: InstanceKey, default_ttl: Ttl) -> Renewal {
        Renewal {
            key,
            weight: self.weight,
            ttl: self.ttl.unwrap_or(default_ttl),
        }
    }
}

/// The reply to [`RecordHeartbeats`].
pub struct HeartbeatReply(Answer);

enum Answer {
    /// Sent at the end of the next round trip, without a task of its own.
    RoundTrip {
        instances: Vec<(InstanceKey, Option<HeartbeatInfo>)>,
        default_ttl: Ttl,
        queue: Renewals,
    },
    /// Sent by a task.
    Later(ResponseFuture<Outcomes>),
}

impl MessageResponse<HeartbeatActor, RecordHeartbeats> for HeartbeatReply {
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
                let renewal = |(key, known): (_, Option<HeartbeatInfo>)| {
                    known.map(|known| (known.renewal(key, default_ttl), known))
                };
                let renewals = instances.into_iter().filter_map(renewal);
                queue.push(renewals, Waiter::RecordHeartbeats(answer));
            }
            Answer::Later(outcomes) => {
                MessageResponse::<HeartbeatActor, RecordHeartbeats>::handle(
                    outcomes, context, answer,
                );
            }
        }
    }
}

impl HeartbeatActor {
    /// Answers the heartbeats of a finished round trip at once if it renewed all their leases, and
    /// returns whether it did. Otherwise a task answers them.
    pub(super) fn reply_if_renewed(
        &self,
        renewals: &[Renewal],
        renewed: &[Renewed],
        infos: &[HeartbeatInfo],
        answer: Option<OneshotSender<Outcomes>>,
        context: &Context<Self>,
    ) -> bool {
        let starts = NewLeases::of(renewals, renewed, infos);
        if starts.is_empty() {
            let outcomes = renewals
                .iter()
                .map(|own| HeartbeatOutcome::Renewed(own.ttl));
            // The caller may have given up, here and below.
            let _ = answer.map(|answer| answer.send(Ok(outcomes.collect())));
            return true;
        }
        let (renewals, renewed) = (renewals.to_vec(), renewed.to_vec());
        let recorder = self.recorder(context);
        actix::spawn(async move {
            let outcomes = recorder
                .record_new_leases(&renewals, &renewed, starts)
                .await;
            recorder.count(renewals.len(), &outcomes);
            answer.map(|answer| answer.send(outcomes))
        });
        false
    }

    fn recorder(&self, context: &Context<Self>) -> HeartbeatRecorder {
        HeartbeatRecorder {
            directory: Arc::clone(&self.directory),
            leases: Arc::clone(&self.leases),
            metrics: Arc::clone(&self.metrics),
            default_ttl: self.default_ttl,
            actor: context.address(),
        }
    }
}

/// What a heartbeat needs that takes more than one round trip.
struct HeartbeatRecorder {
    directory: Arc<Directory>,
    leases: Arc<dyn LeaseStore>,
    metrics: Arc<Metrics>,
    default_ttl: Ttl,
    actor: Addr<HeartbeatActor>,
}

impl HeartbeatRecorder {
    /// Records heartbeats of instances of which some are not in the Directory.
    async fn record(self, keys: Vec<InstanceKey>) -> Outcomes {
        let count = keys.len();
        let outcomes = self.outcomes(keys).await;
        self.count(count, &outcomes);
        outcomes
    }

    async fn outcomes(&self, keys: Vec<InstanceKey>) -> Outcomes {
        let known = self.directory.resolve(&keys).await?;
        let registered = keys.into_iter().zip(&known);
        let registered = registered.filter_map(|(key, info)| Some((key, (*info)?)));
        let (renewals, infos): (Vec<_>, Vec<_>) = registered
            .map(|(key, info)| (info.renewal(key, self.default_ttl), info))
            .unzip();
        let outcomes = if renewals.is_empty() {
            Vec::new()
        } else {
            let (renewed, leases) = self.renew(&renewals, &infos).await?;
            self.record_new_leases(&renewals, &renewed, leases).await?
        };
        let mut outcomes = outcomes.into_iter();
        let each = known.iter().map(|info| {
            let outcome = info.and_then(|_| outcomes.next());
            outcome.unwrap_or(HeartbeatOutcome::Unknown)
        });
        Ok(each.collect())
    }

    /// Renews leases in the next round trip, and returns the results and the new leases among them.
    async fn renew(
        &self,
        renewals: &[Renewal],
        infos: &[HeartbeatInfo],
    ) -> Result<(Vec<Renewed>, NewLeases), BackendError> {
        let renew = Renew(renewals.to_vec(), infos.to_vec());
        let renewed = self.actor.send(renew).await;
        let renewed = renewed.unwrap_or_else(|_| Err(ended()))?;
        let starts = NewLeases::of(renewals, &renewed, infos);
        Ok((renewed, starts))
    }

    /// Records the new leases, and revokes those of instances that are no longer registered.
    async fn record_new_leases(
        &self,
        renewals: &[Renewal],
        renewed: &[Renewed],
        starts: NewLeases,
    ) -> Outcomes {
        let NewLeases {
            mut begun,
            unrecorded,
        } = starts;
        let created: Vec<InstanceKey> = begun.iter().map(|start| start.key.clone()).collect();
        let removed = self.directory.vanished(&created).await;
        self.leases.revoke(&removed).await?;
        let removed: HashSet<InstanceKey> = removed.into_iter().collect();
        begun.retain(|start| !removed.contains(&start.key));
        begun.extend(unrecorded);
        record_and_wait(&self.actor, begun).await;
        let outcome = |(renewal, renewed): (&Renewal, &Renewed)| match renewed.created {
            _ if removed.contains(&renewal.key) => HeartbeatOutcome::Unknown,
            true => HeartbeatOutcome::Created(renewal.ttl),
            false => HeartbeatOutcome::Renewed(renewal.ttl),
        };
        Ok(renewals.iter().zip(renewed).map(outcome).collect())
    }

    /// Counts heartbeats by outcome.
    fn count(&self, count: usize, outcomes: &Outcomes) {
        let metrics = &self.metrics.heartbeats;
        let Ok(outcomes) = outcomes else {
            metrics.rejected.inc_by(count as u64);
            return;
        };
        for outcome in outcomes {
            let counter = match outcome {
                HeartbeatOutcome::Renewed(_) => &metrics.renewed,
                HeartbeatOutcome::Created(_) => &metrics.created,
                HeartbeatOutcome::Unknown => &metrics.unknown,
            };
            counter.inc();
        }
    }
}

/// A heartbeat in the original's form, also of an address that never registered. Creates or
/// renews one lease. Idempotent but for the time.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Renewed, HeartbeatError>")]
pub struct KeepAlive {
    /// The instance.
    pub key: InstanceKey,
    /// The weight in the request; `None` for the registered one, or 1.
    pub weight: Option<Weight>,
}

impl Handler<KeepAlive> for HeartbeatActor {
    type Result = ResponseFuture<Result<Renewed, HeartbeatError>>;

    fn handle(&mut self, message: KeepAlive, context: &mut Context<Self>) -> Self::Result {
        let recorder = self.recorder(context);
        Box::pin(async move {
            let outcome = recorder.keep_alive(message).await;
            let heartbeats = &recorder.metrics.heartbeats;
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

impl HeartbeatRecorder {
    async fn keep_alive(
        &self,
        KeepAlive { key, weight }: KeepAlive,
    ) -> Result<Renewed, HeartbeatError> {
        let info = self.directory.resolve_keep_alive(&key).await;
        let known = info.unwrap_or_default();
        let renewal = Renewal {
            weight: weight.unwrap_or(known.weight),
            ..known.renewal(key, self.default_ttl)
        };
        let (renewed, mut starts) = self.renew(&[renewal], &[known]).await?;
        if info.is_some() {
            starts.begun.extend(starts.unrecorded);
            record_and_wait(&self.actor, starts.begun).await;
        }
        Ok(renewed.first().copied().ok_or_else(ended)?)
    }
}
