//! The HeartbeatActor: owner of the leases, one on the thread of each HTTP worker.
//!
//! It sends the renewals that have arrived as one round trip, and collects those that arrive
//! during it for the next one: no timer, and no delay when idle. When the SchedulerActor asks,
//! it sweeps its share of the deadlines. It never writes to the database.

mod new_leases;
mod record;
mod renewals;

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};

use self::new_leases::PendingTransitions;
pub use self::record::{
    HeartbeatError, HeartbeatOutcome, HeartbeatReply, KeepAlive, RecordHeartbeats,
};
use self::renewals::Renewals;
use super::{Lifeline, Ping, admit};
use crate::backend::BackendError;
use crate::directory::Directory;
use crate::lease::{Lease, LeaseStore};
use crate::liveness::ExpiryHandler;
use crate::metrics::Metrics;
use crate::model::{InstanceKey, Ttl};

/// The most leases in one round trip of [`GetLeases`].
const INSPECT_BATCH: usize = 1000;

/// Owns one handle to the lease store.
pub struct HeartbeatActor {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    expiry: ExpiryHandler,
    default_ttl: Ttl,
    metrics: Arc<Metrics>,
    renewals: Renewals,
    /// Whether a round trip of renewals is in flight.
    under_way: bool,
    unrecorded: PendingTransitions,
    sweeping: bool,
    _lifeline: Lifeline,
}

impl HeartbeatActor {
    /// Renews leases in the lease store of `expiry`.
    pub fn new(expiry: ExpiryHandler, lifeline: Lifeline) -> Self {
        Self {
            leases: Arc::clone(&expiry.leases),
            directory: Arc::clone(&expiry.directory),
            default_ttl: expiry.protection.limits().ttl,
            metrics: Arc::clone(&expiry.metrics),
            expiry,
            renewals: Renewals::default(),
            under_way: false,
            unrecorded: PendingTransitions::default(),
            sweeping: false,
            _lifeline: lifeline,
        }
    }
}

impl Actor for HeartbeatActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // The senders limit themselves; with a capacity, each sender beyond 16 would get a handle
        // of its own.
        context.set_mailbox_capacity(0);
    }
}

admit!(HeartbeatActor);

/// Ends leases at once. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), BackendError>")]
pub struct Revoke {
    /// The instances that are deregistered.
    pub keys: Vec<InstanceKey>,
}

impl Handler<Revoke> for HeartbeatActor {
    type Result = ResponseFuture<Result<(), BackendError>>;

    fn handle(&mut self, message: Revoke, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.revoke(&message.keys).await })
    }
}

/// Returns the remaining time of each lease, `None` where there is none. No effect.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Option<Lease>>, BackendError>")]
pub struct GetLeases {
    /// The instances of the leases.
    pub keys: Vec<InstanceKey>,
}

impl Handler<GetLeases> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Option<Lease>>, BackendError>>;

    fn handle(&mut self, message: GetLeases, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move {
            let mut found = Vec::with_capacity(message.keys.len());
            for keys in message.keys.chunks(INSPECT_BATCH) {
                found.extend(leases.inspect(keys).await?.leases);
            }
            Ok(found)
        })
    }
}

/// Processes the deadlines of one share that have passed. Ignored while the previous sweep
/// runs.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Sweep {
    /// The number of the share, counted from 0.
    pub share: usize,
    /// The number of shares.
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
        let sweep = async move { expiry.process_expired(passed).await };
        context.spawn(
            wrap_future(sweep)
                .map(|(), actor: &mut Self, _: &mut Context<Self>| actor.sweeping = false),
        );
    }
}

/// Checks that the lease store answers. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), BackendError>")]
pub struct ProbeLeases;

impl Handler<ProbeLeases> for HeartbeatActor {
    type Result = ResponseFuture<Result<(), BackendError>>;

    fn handle(&mut self, _: ProbeLeases, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.probe().await.map(drop) })
    }
}

impl Handler<Ping> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
