//! The metrics of the daemon.
//!
//! A component records its own events here, through handles that are created at the start. The
//! state of a component, such as the number of online instances, is read when `/metrics` is
//! requested. Names follow <https://prometheus.io/docs/practices/naming/>; no label has a value
//! that a client chooses.

mod handles;
mod process;
mod state;
mod text;

use std::cell::RefCell;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
pub(crate) use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::{Metric, Registry};

pub use self::handles::MailboxMetrics;
pub(crate) use self::handles::{
    BackendMetrics, BothWays, HeartbeatMetrics, RoundTripMetrics, RouteMetrics,
};
use self::state::StateCollector;
pub(crate) use self::state::{State, StateWriter};

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

/// Two labels and their values.
type Labels = [(&'static str, &'static str); 2];

/// Two labels and a status.
type StatusLabels = (Labels, [(&'static str, u16); 1]);

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Buckets of durations, in seconds: from half a millisecond to beyond every time limit.
fn durations() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// Buckets of delays that may last a second, in seconds.
fn lateness() -> Histogram {
    Histogram::new([
        0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 16.0, 30.0, 60.0,
    ])
}

/// Buckets of batch sizes.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// All metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<StatusLabels, Counter>,
    request_durations: Histograms<Labels>,
    shed: Family<Label, Counter>,
    mailbox_pending: Family<Label, Gauge>,
    mailbox_waits: Histograms<Label>,
    mailbox_rejected: Family<Label, Counter>,
    round_trips: Histograms<Label>,
    lease_errors: Family<Label, Counter>,
    transitions: Family<Label, Counter>,
    events: Family<Label, Counter>,
    /// Heartbeats by outcome.
    pub(crate) heartbeats: HeartbeatMetrics,
    /// Leases renewed in one round trip.
    pub(crate) lease_batch: Histogram,
    /// Writes in one transaction.
    pub(crate) commit_size: Histogram,
    /// The duration of transactions, in seconds.
    pub(crate) commit_duration: Histogram,
    /// Transactions that failed.
    pub(crate) commit_errors: Counter,
    /// The time from the end of a lease until its instance was marked offline, in seconds.
    pub(crate) expiry_lateness: Histogram,
    /// Events that wait to be appended to the event log.
    pub(crate) events_waiting: Gauge,
    /// The time from an event until this replica read it, in seconds.
    pub(crate) event_lag: Histogram,
    /// Event streams ended because their client read too slowly.
    pub(crate) streams_dropped: Counter,
    /// Whether the backends answer.
    pub(crate) backends: BackendMetrics,
    /// Whether the last reload succeeded.
    pub(crate) reloaded: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates all metrics with the value 0.
    pub fn new() -> Self {
        let mut all = Registering(Registry::default());
        let build = Family::<Label, Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        all.add(
            "build_info",
            "Version of the daemon; the value is always 1",
            build,
        );
        let heartbeats = all.add(
            "heartbeats",
            "Heartbeats by outcome: created or renewed a lease, of an unknown instance, or rejected",
            Family::<Label, Counter>::default(),
        );
        let outcome = |outcome| heartbeats.get_or_create_owned(&[("outcome", outcome)]);
        let heartbeats = HeartbeatMetrics {
            created: outcome("created"),
            renewed: outcome("renewed"),
            unknown: outcome("unknown"),
            rejected: outcome("rejected"),
        };
        let backends = all.add(
            "backend_up",
            "Whether a backend answered the last call: 1 or 0",
            Family::<Label, Gauge>::default(),
        );
        let backend = |backend| backends.get_or_create_owned(&[("backend", backend)]);
        let backends = BackendMetrics {
            store: backend("store"),
            leases: backend("leases"),
            event_log: BothWays::new(backend("event_log")),
            leases_evicted: all.add(
                "lease_store_evicts",
                "Whether Redis may evict leases: maxmemory is set and maxmemory-policy is not noeviction",
                Gauge::default(),
            ),
        };
        let metrics = Self {
            requests: all.add(
                "http_requests",
                "HTTP requests by route and status",
                Family::default(),
            ),
            request_durations: all.add(
                "http_request_duration_seconds",
                "Duration of HTTP requests, without event streams and long polls",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            shed: all.add(
                "http_requests_rejected",
                "HTTP requests rejected because the limit of their class was reached",
                Family::default(),
            ),
            heartbeats,
            lease_batch: all.add("lease_batch_size", "Leases renewed in one round trip", sizes()),
            round_trips: all.add(
                "lease_round_trip_seconds",
                "Duration of calls to the lease store",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            lease_errors: all.add(
                "lease_errors",
                "Calls to the lease store that failed",
                Family::default(),
            ),
            commit_size: all.add("commit_size", "Writes in one transaction of the registry store", sizes()),
            commit_duration: all.add(
                "commit_duration_seconds",
                "Duration of transactions of the registry store, from BEGIN to the confirmed commit",
                durations(),
            ),
            commit_errors: all.add("commit_errors", "Transactions of the registry store that failed", Counter::default()),
            transitions: all.add(
                "transitions",
                "Transitions to online or offline that this replica recorded",
                Family::default(),
            ),
            expiry_lateness: all.add(
                "expiry_lateness_seconds",
                "Time from the end of a lease until its instance was marked offline",
                lateness(),
            ),
            events_waiting: all.add(
                "events_waiting",
                "Events of committed changes that wait to be appended to the event log",
                Gauge::default(),
            ),
            events: all.add(
                "events",
                "Events read from the event log, by type",
                Family::default(),
            ),
            event_lag: all.add(
                "event_lag_seconds",
                "Time from an event, by the clock of the replica that recorded it, until this replica read it",
                lateness(),
            ),
            streams_dropped: all.add(
                "streams_dropped",
                "Event streams ended because their client read too slowly",
                Counter::default(),
            ),
            backends,
            mailbox_pending: all.add(
                "mailbox_pending",
                "Messages to an actor that are not answered yet",
                Family::default(),
            ),
            mailbox_waits: all.add(
                "mailbox_wait_seconds",
                "Time a message waits until the actor handles it",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            mailbox_rejected: all.add(
                "mailbox_rejected",
                "Messages to an actor rejected because its mailbox was full",
                Family::default(),
            ),
            reloaded: all.add(
                "config_last_reload_successful",
                "Whether the last reload of tokens and certificates succeeded",
                Gauge::default(),
            ),
            registry: Mutex::new(all.0),
        };
        metrics.show(process::Process);
        // Created with the value 0, so that the first increment is visible.
        metrics.reloaded.set(1);
        for to in ["online", "offline"] {
            metrics.transitions.get_or_create_owned(&[("to", to)]);
        }
        metrics
    }

    /// Shows the state of components as well.
    pub(crate) fn show(&self, state: impl State) {
        let collector = Box::new(StateCollector(state));
        self.registry.lock().register_collector(collector);
    }

    /// Returns the metrics of a route, by pattern and method.
    pub(crate) fn route(&self, route: &'static str, method: &'static str) -> RouteMetrics {
        let labels = [("route", route), ("method", method)];
        RouteMetrics {
            labels,
            requests: self.requests.clone(),
            by_status: RefCell::default(),
            duration: Some(self.request_durations.get_or_create_owned(&labels)),
        }
    }

    /// Returns the metrics of a method that the route does not support, and of unknown paths.
    pub(crate) fn refusals(&self, route: &'static str) -> RouteMetrics {
        RouteMetrics {
            labels: [("route", route), ("method", "other")],
            requests: self.requests.clone(),
            by_status: RefCell::default(),
            duration: None,
        }
    }

    /// Returns the counter of rejected requests.
    pub(crate) fn shed(&self, work: &'static str) -> Counter {
        self.shed.get_or_create_owned(&[("work", work)])
    }

    /// Returns the metrics of the mailboxes of a kind of actor.
    pub fn mailbox(&self, actor: &'static str) -> MailboxMetrics {
        let labels = [("actor", actor)];
        MailboxMetrics {
            waiting: self.mailbox_pending.get_or_create_owned(&labels),
            wait: self.mailbox_waits.get_or_create_owned(&labels),
            refused: self.mailbox_rejected.get_or_create_owned(&labels),
        }
    }

    /// Returns the metrics of an operation of the lease store.
    pub(crate) fn round_trip(&self, operation: &'static str) -> RoundTripMetrics {
        let labels = [("operation", operation)];
        RoundTripMetrics {
            duration: self.round_trips.get_or_create_owned(&labels),
            errors: self.lease_errors.get_or_create_owned(&labels),
        }
    }

    /// Counts a transition that this replica recorded.
    pub(crate) fn transition(&self, online: bool) {
        let to = if online { "online" } else { "offline" };
        self.transitions.get_or_create(&[("to", to)]).inc();
    }

    /// Counts an event that this replica read, `lag` seconds after it happened.
    pub(crate) fn event(&self, kind: &'static str, lag: f64) {
        self.events.get_or_create(&[("type", kind)]).inc();
        self.event_lag.observe(lag.max(0.0));
    }

    /// Returns all metrics in the text format of Prometheus.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text::from_open_metrics(&text)
    }
}

/// Registers metrics and returns them.
struct Registering(Registry);

impl Registering {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0
            .register(format!("rollcall_{name}"), help, metric.clone());
        metric
    }
}
