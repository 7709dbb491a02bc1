//! New leases on their way to the registry store.

use std::collections::HashSet;
use std::mem;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, Addr, AsyncContext, Context, Handler, Message};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::HeartbeatActor;
use crate::actor::RecordOnline;
use crate::directory::HeartbeatInfo;
use crate::lease::{Renewal, Renewed};
use crate::store::LeaseStart;

/// The most leases in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// The most leases that wait to be recorded. More are dropped: the store is unavailable, and
/// the next heartbeats report them again.
const MAX_WAITING: usize = 20_000;

/// How long a heartbeat waits for the record of its new lease, so that a client that lists
/// instances after its heartbeat finds its own.
const RECORDED: Duration = Duration::from_millis(600);

/// The leases among the results of renewals that must be recorded.
pub(super) struct NewLeases {
    /// Leases that began with this renewal.
    pub(super) begun: Vec<LeaseStart>,
    /// Leases that began before, of instances that are recorded as offline or with an earlier
    /// lease: the report was lost, the instance had a lease before it registered, or another lease
    /// store lost its lease. The renewal is proof of life, whatever the epochs are.
    pub(super) unrecorded: Vec<LeaseStart>,
}

impl NewLeases {
    pub(super) fn of(renewals: &[Renewal], renewed: &[Renewed], infos: &[HeartbeatInfo]) -> Self {
        let mut starts = Self {
            begun: Vec::new(),
            unrecorded: Vec::new(),
        };
        for ((renewal, renewed), info) in renewals.iter().zip(renewed).zip(infos) {
            let start = || LeaseStart {
                key: renewal.key.clone(),
                epoch: renewed.epoch.after(info.epoch),
            };
            let is_recorded = info.online && info.epoch >= Some(renewed.epoch);
            if renewed.created {
                starts.begun.push(start());
            } else if info.slot.is_some() && !is_recorded {
                starts.unrecorded.push(start());
            }
        }
        starts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.unrecorded.is_empty()
    }
}

/// Records leases and waits for that, at most [`RECORDED`]: a report that is still in flight
/// when its heartbeat is answered could be taken for one of a later registration of the same
/// address.
pub(super) async fn record_and_wait(actor: &Addr<HeartbeatActor>, starts: Vec<LeaseStart>) {
    if starts.is_empty() {
        return;
    }
    let (done, recorded) = oneshot::channel();
    actor.do_send(Record(starts, done));
    // The heartbeat is answered without the record.
    let _ = timeout(RECORDED, recorded).await;
}

/// Leases that wait to be recorded, with the heartbeats that wait for that.
#[derive(Default)]
pub(super) struct PendingTransitions {
    waiting: Vec<(Vec<LeaseStart>, oneshot::Sender<()>)>,
    /// The number of leases that wait.
    count: usize,
    under_way: bool,
}

/// Adds leases to be recorded. The actor sends this message to itself.
#[derive(Message)]
#[rtype(result = "()")]
struct Record(Vec<LeaseStart>, oneshot::Sender<()>);

impl Handler<Record> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, Record(starts, done): Record, context: &mut Context<Self>) {
        let unrecorded = &mut self.unrecorded;
        if unrecorded.count < MAX_WAITING {
            unrecorded.count += starts.len();
            unrecorded.waiting.push((starts, done));
        }
        self.record(context);
    }
}

impl HeartbeatActor {
    /// Records the waiting leases, unless a record is in flight. A lost report is repeated by the
    /// next heartbeat, or found by a reconcile.
    fn record(&mut self, context: &mut Context<Self>) {
        let unrecorded = &mut self.unrecorded;
        if unrecorded.under_way || unrecorded.waiting.is_empty() {
            return;
        }
        unrecorded.under_way = true;
        let (mut starts, mut waiting) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for (begun, recorded) in mem::take(&mut unrecorded.waiting) {
            // An instance with two new leases in one round trip: the later one is recorded next.
            let repeated = begun.iter().any(|start| known.contains(&start.key));
            if repeated || starts.len() + begun.len() > MAX_RECORD && !starts.is_empty() {
                unrecorded.waiting.push((begun, recorded));
            } else {
                known.extend(begun.iter().map(|start| start.key.clone()));
                starts.extend(begun);
                waiting.push(recorded);
            }
        }
        unrecorded.count -= starts.len();
        let registry = self.expiry.registry.clone();
        let recording = async move {
            for part in starts.chunks(MAX_RECORD) {
                let failure = match registry.ask(RecordOnline(part.to_vec())).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                log::debug!(
                    "{} new leases could not be recorded, the next heartbeats retry: {failure}",
                    part.len()
                );
            }
            for recorded in waiting {
                // The heartbeat may have been answered without the record.
                let _ = recorded.send(());
            }
        };
        context.spawn(wrap_future(recording).map(
            |(), actor: &mut Self, context: &mut Context<Self>| {
                actor.unrecorded.under_way = false;
                actor.record(context);
            },
        ));
    }
}
