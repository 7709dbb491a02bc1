//! Heartbeats that share a round trip to the lease store.

use std::mem;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::new_leases::LeaseStarts;
use super::{HeartbeatOutcome, HeartbeatReply, RecordHeartbeats};
use crate::backend::BackendError;
use crate::directory::{Directory, HeartbeatInfo};
use crate::lease::{LeaseStore, Renewal, Renewed};
use crate::metrics::HeartbeatMetrics;
use crate::model::Ttl;

/// The most leases in one round trip: a script delays all other clients of Redis.
const MAX_BATCH: usize = 1000;

/// The time limit of a round trip.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// Requests in the order of their arrival, with their leases one after another.
#[derive(Default)]
pub(super) struct Batch {
    requests: Vec<Request>,
    renewals: Vec<Renewal>,
    /// What the Directory knows of their instances.
    infos: Vec<HeartbeatInfo>,
}

/// A message whose sender waits for the outcomes.
pub(super) struct Request {
    /// The number of its leases.
    count: usize,
    /// The indices of its instances that are not registered, and have no lease in the batch.
    unknown: Vec<usize>,
    must_be_registered: bool,
    reply: HeartbeatReply,
}

/// The results of one request.
pub(super) struct Answer {
    /// Of its leases, in their order.
    pub(super) outcomes: Vec<HeartbeatOutcome>,
    /// Those of its leases that must be recorded before the reply.
    pub(super) leases: LeaseStarts,
}

impl Batch {
    pub(super) fn push(&mut self, message: RecordHeartbeats, default_ttl: Ttl) {
        let RecordHeartbeats {
            instances,
            must_be_registered,
            reply,
        } = message;
        let (before, mut unknown) = (self.renewals.len(), Vec::new());
        for (index, (key, info)) in instances.into_iter().enumerate() {
            let Some(info) = info else {
                unknown.push(index);
                continue;
            };
            self.renewals.push(Renewal {
                key,
                weight: info.weight,
                ttl: info.ttl.unwrap_or(default_ttl),
                is_hidden: info.is_hidden,
            });
            self.infos.push(info);
        }
        self.requests.push(Request {
            count: self.renewals.len() - before,
            unknown,
            must_be_registered,
            reply,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Takes the oldest requests, with at most [`MAX_BATCH`] leases, but at least one request.
    pub(super) fn split_off_first(&mut self) -> Self {
        let (mut requests, mut leases) = (0, 0);
        for Request { count, .. } in &self.requests {
            if requests > 0 && leases + count > MAX_BATCH {
                break;
            }
            requests += 1;
            leases += count;
        }
        let rest = Self {
            requests: self.requests.split_off(requests),
            renewals: self.renewals.split_off(leases),
            infos: self.infos.split_off(leases),
        };
        mem::replace(self, rest)
    }

    /// Renews the leases in as few round trips as possible, and stops at the first failure.
    pub(super) async fn renew(
        &self,
        leases: &dyn LeaseStore,
    ) -> Result<Vec<Renewed>, BackendError> {
        let mut renewed = Vec::with_capacity(self.renewals.len());
        for part in self.renewals.chunks(MAX_BATCH) {
            match timeout(ROUND_TRIP, leases.renew(part)).await {
                Ok(outcome) => renewed.extend(outcome?),
                Err(_) => {
                    let late = format!("no answer within {ROUND_TRIP:?}");
                    return Err(BackendError::Unavailable(late));
                }
            }
        }
        Ok(renewed)
    }

    /// Arms the deadlines of the leases on this replica: none lasts longer than its TTL.
    pub(super) fn arm_deadlines(&self, directory: &Directory) {
        let now = Instant::now();
        for (renewal, info) in self.renewals.iter().zip(&self.infos) {
            if let Some(slot) = info.slot {
                let deadline = now + renewal.ttl.as_duration();
                directory.deadlines().arm(slot, deadline);
            }
        }
    }

    /// Returns each request with its part of the outcome. The lease store answers all renewals or
    /// none.
    pub(super) fn into_answers(
        self,
        outcome: Result<Vec<Renewed>, BackendError>,
    ) -> impl Iterator<Item = (Request, Result<Answer, BackendError>)> {
        let Self {
            requests,
            renewals,
            infos,
        } = self;
        let mut begin = 0;
        requests.into_iter().map(move |request| {
            let own = begin..begin + request.count;
            begin = own.end;
            let answer = outcome.as_ref().map_err(Clone::clone).map(|renewed| {
                let (renewals, renewed) = (&renewals[own.clone()], &renewed[own.clone()]);
                let outcomes = renewals.iter().zip(renewed).map(HeartbeatOutcome::of);
                Answer {
                    outcomes: outcomes.collect(),
                    leases: LeaseStarts::of(
                        renewals,
                        renewed,
                        &infos[own],
                        request.must_be_registered,
                    ),
                }
            });
            (request, answer)
        })
    }
}

impl HeartbeatOutcome {
    fn of((renewal, renewed): (&Renewal, &Renewed)) -> Self {
        if renewed.created {
            Self::Created(renewal.ttl)
        } else {
            Self::Renewed(renewal.ttl)
        }
    }
}

impl Request {
    /// Counts the outcomes, and sends them to the caller, who may have given up.
    pub(super) fn reply(
        self,
        outcomes: Result<Vec<HeartbeatOutcome>, BackendError>,
        metrics: &HeartbeatMetrics,
    ) {
        let outcomes = outcomes.map(|outcomes| with_unknown(outcomes, &self.unknown));
        match &outcomes {
            Ok(outcomes) => {
                for outcome in outcomes {
                    let counter = match outcome {
                        HeartbeatOutcome::Renewed(_) => &metrics.renewed,
                        HeartbeatOutcome::Created(_) => &metrics.created,
                        HeartbeatOutcome::Unknown => &metrics.unknown,
                    };
                    counter.inc();
                }
            }
            Err(_) => {
                metrics
                    .rejected
                    .inc_by((self.count + self.unknown.len()) as u64);
            }
        }
        let _ = self.reply.send(outcomes);
    }
}

/// Inserts [`HeartbeatOutcome::Unknown`] at these indices, which ascend.
fn with_unknown(outcomes: Vec<HeartbeatOutcome>, unknown: &[usize]) -> Vec<HeartbeatOutcome> {
    if unknown.is_empty() {
        return outcomes;
    }
    let count = outcomes.len() + unknown.len();
    let mut outcomes = outcomes.into_iter();
    let mut unknown = unknown.iter().peekable();
    let outcome = |index: usize| match unknown.next_if_eq(&&index) {
        Some(_) => HeartbeatOutcome::Unknown,
        None => outcomes.next().unwrap_or(HeartbeatOutcome::Unknown),
    };
    (0..count).map(outcome).collect()
}
