//! The HTTP server.
//!
//! A handler extracts, parses into the model, asks one actor or reads the Directory, and maps
//! the answer. It knows no SQL, no Redis and no writer. The endpoints are in [`v1`],
//! [`gateway_center`], [`ops`], [`openapi`] and [`console`]; the other modules are what they
//! share.

mod access;
mod code;
mod compression;
mod conditional;
mod connections;
mod console;
mod context;
mod cross_origin;
mod dialect;
mod endpoint;
mod extract;
mod facade;
mod gateway_center;
mod guard;
mod lifecycle;
mod malformed;
mod openapi;
mod ops;
mod presence;
mod problem;
mod routes;
mod v1;

use std::sync::Arc;
use std::time::Duration;

pub use self::code::Code;
pub(crate) use self::conditional::BodyCache;
pub(crate) use self::connections::Connections;
pub(crate) use self::cross_origin::cross_origin;
pub(crate) use self::facade::Facades;
pub(crate) use self::lifecycle::Lifecycle;
pub(crate) use self::malformed::count as malformed_requests;
pub use self::malformed::log_to;
pub(crate) use self::ops::LastProbe;
pub(crate) use self::problem::Problem;
pub(crate) use self::routes::configure;
pub use self::routes::routes;
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::actor::{HeartbeatActor, Mailbox, RegistryActor, RollCallReport, SchedulerActor};
use crate::admission::{ConcurrencyLimits, LimitExceeded, Permit, RequestClass};
use crate::auth::Tokens;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::history::{CountSamples, History};
use crate::lease::LeaseStore;
use crate::liveness::{ExpiryHandler, Protection, Reconciler, Replicas, UnregisteredLeases};
use crate::metrics::Metrics;
use crate::model::{ReplicaId, Ttl};
use crate::replication::{EventBroadcast, ScopeIndexes};
use crate::store::RegistryReader;

/// The state that handlers use; one per HTTP worker.
pub(crate) struct Api {
    /// This replica.
    pub(crate) replica: ReplicaId,
    /// All replicas that run.
    pub(crate) replicas: Arc<Replicas>,
    /// When it started.
    pub(crate) started_at: DateTime<Utc>,
    /// Changes the registry.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// Records heartbeats; this worker's own.
    pub(crate) heartbeat: Mailbox<HeartbeatActor>,
    /// Calls the roll.
    pub(crate) scheduler: Mailbox<SchedulerActor>,
    /// Its statistics.
    pub(crate) roll_calls: Arc<Mutex<RollCallReport>>,
    /// Reads the registry store.
    pub(crate) reader: Arc<dyn RegistryReader>,
    /// Reads the leases; this worker's own connection.
    pub(crate) leases: Arc<dyn LeaseStore>,
    /// Answers all reads.
    pub(crate) directory: Arc<Directory>,
    /// The leases of addresses that never registered.
    pub(crate) unregistered: Arc<UnregisteredLeases>,
    /// The state of protection mode.
    pub(crate) protection: Arc<Protection>,
    /// Ends protection mode.
    pub(crate) expiry: Arc<ExpiryHandler>,
    /// Has statistics of reconciles.
    pub(crate) reconciler: Arc<Reconciler>,
    /// The events for subscribers.
    pub(crate) feed: Arc<EventBroadcast>,
    /// The latest events.
    pub(crate) history: Arc<History>,
    /// Samples of the numbers of instances.
    pub(crate) counts: Arc<CountSamples>,
    /// The indexes of the scopes.
    pub(crate) indexes: Arc<ScopeIndexes>,
    /// Spreads heartbeats over the interval.
    pub(crate) clock: Arc<dyn Clock>,
    /// The time between roll calls.
    pub(crate) roll_call_interval: Duration,
    /// The TTL of instances without one of their own.
    pub(crate) default_ttl: Ttl,
    /// The phase of the daemon.
    pub(crate) lifecycle: Lifecycle,
    /// The known tokens.
    pub(crate) tokens: Arc<Tokens>,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    /// Whether client certificates are required.
    pub(crate) client_certificates: bool,
    /// The limits of requests in flight.
    pub(crate) admission: Arc<ConcurrencyLimits>,
    /// The connections of all workers.
    pub(crate) connections: Arc<Connections>,
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The bodies of lists over all scopes.
    pub(crate) bodies: Arc<BodyCache>,
    /// The protocols of other registries.
    pub(crate) facades: Arc<Facades>,
    /// The last result of `/readyz`.
    pub(crate) last_probe: LastProbe,
}

impl Api {
    /// Rejects a request that would hold its connection for long while connections are scarce.
    fn spare_connection(&self) -> Result<(), Problem> {
        if self.connections.are_scarce() {
            Err(Problem::new(
                Code::Overloaded,
                "almost all connections are in use (--max-connections); retry later",
            ))
        } else {
            Ok(())
        }
    }

    /// Returns a permit of a class, or the response to a request that gets none.
    fn acquire(&self, class: RequestClass) -> Result<Permit, Problem> {
        let permit = self.admission.acquire(class);
        permit.map_err(|exceeded| self.shed(exceeded))
    }

    /// Counts a request that got no permit, and returns its response.
    fn shed(&self, exceeded: LimitExceeded) -> Problem {
        let work = match exceeded {
            LimitExceeded::RequestClass(work) => work,
            LimitExceeded::Client => RequestClass::Stream,
            LimitExceeded::Memory => RequestClass::Body,
        };
        self.metrics.shed(work.as_str()).inc();
        if work == RequestClass::Heartbeat {
            self.protection.heartbeat_rejected();
        }
        Problem::shed(exceeded)
    }
}
