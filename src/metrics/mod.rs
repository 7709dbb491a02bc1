//! What the daemon tells of itself, in Prometheus' terms.
//!
//! Whoever does something counts it here, by a handle that was made at the start. What is
//! a state of something else, such as how many are online, is read when it is asked for.
//! Names follow <https://prometheus.io/docs/practices/naming/>; no label has a value that a
//! client chooses.

mod figures;
mod process;
mod text;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::{Metric, Registry};

pub use self::figures::{KindFigures, MetricsSnapshot, ScheduleFigures, WorkFigures};

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

/// Two labels and their values.
type Labels = [(&'static str, &'static str); 2];

/// The same, and a status.
type StatusLabels = (Labels, [(&'static str, u16); 1]);

/// A gauge that may have a fraction.
pub type Figure = Gauge<f64, AtomicU64>;

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// From half a millisecond to what nobody waits for, in seconds.
fn durations() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// How late something was that may be a second late, in seconds.
fn lateness() -> Histogram {
    Histogram::new([
        0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 16.0, 30.0, 60.0,
    ])
}

/// How many of something were done at once.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// The requests of one route, as one thread counts them.
pub struct RouteMetrics {
    labels: Labels,
    requests: Family<StatusLabels, Counter>,
    /// The counters of the statuses that there were, so that they are looked up once.
    by_status: RefCell<Vec<(u16, Counter)>>,
    duration: Option<Histogram>,
}

impl RouteMetrics {
    /// A request was answered.
    pub fn answered(&self, status: u16) {
        let mut by_status = self.by_status.borrow_mut();
        if let Some((_, counter)) = by_status.iter().find(|(known, _)| *known == status) {
            counter.inc();
            return;
        }
        let labels = (self.labels, [("status", status)]);
        let counter = self.requests.get_or_create_owned(&labels);
        counter.inc();
        by_status.push((status, counter));
    }

    /// It took that long.
    pub fn took(&self, duration: Duration) {
        if let Some(durations) = &self.duration {
            durations.observe(duration.as_secs_f64());
        }
    }
}

/// The questions to one kind of actor.
#[derive(Clone)]
pub struct MailboxMetrics {
    /// Questions that have a place.
    pub waiting: Gauge,
    /// How long they waited for the actor, in seconds.
    pub wait: Histogram,
    /// Questions for which there was no place.
    pub refused: Counter,
}

/// One operation of the lease store.
#[derive(Clone)]
pub struct RoundTripMetrics {
    /// How long it took, in seconds.
    pub duration: Histogram,
    /// How often there was no answer.
    pub errors: Counter,
}

/// What became of heartbeats.
pub struct HeartbeatMetrics {
    /// A new life began.
    pub created: Counter,
    /// A lease lives on.
    pub renewed: Counter,
    /// No such instance is registered.
    pub unknown: Counter,
    /// There was no answer.
    pub rejected: Counter,
}

/// The backends, each 1 if it answered when it was last asked.
pub struct BackendMetrics {
    /// The registry store.
    pub store: Gauge,
    /// The lease store.
    pub leases: Gauge,
    /// The log of events.
    pub bus: BothWays,
    /// Whether the lease store may evict leases, for want of memory.
    pub leases_evicted: Gauge,
}

/// A backend that is up while it can be read and takes what it is given.
pub struct BothWays {
    up: Gauge,
    reads: AtomicBool,
    writes: AtomicBool,
}

impl BothWays {
    fn new(up: Gauge) -> Self {
        Self {
            up,
            reads: AtomicBool::new(false),
            writes: AtomicBool::new(true),
        }
    }

    /// Whether the last read was answered.
    pub fn reads(&self, answered: bool) {
        self.reads.store(answered, Ordering::Relaxed);
        self.update();
    }

    /// Whether what was given last was taken.
    pub fn writes(&self, taken: bool) {
        self.writes.store(taken, Ordering::Relaxed);
        self.update();
    }

    fn update(&self) {
        self.up.set(self.is_up().into());
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.reads.load(Ordering::Relaxed) && self.writes.load(Ordering::Relaxed)
    }
}

/// Everything that is told.
pub struct Metrics {
    registry: Registry,
    requests: Family<StatusLabels, Counter>,
    request_durations: Histograms<Labels>,
    shed: Family<Label, Counter>,
    http_connections: Gauge,
    http_connections_limit: Gauge,
    malformed: Counter,
    in_flight: Family<Label, Gauge>,
    limits: Family<Label, Gauge>,
    mailbox_pending: Family<Label, Gauge>,
    mailbox_waits: Histograms<Label>,
    mailbox_rejected: Family<Label, Counter>,
    round_trips: Histograms<Label>,
    lease_errors: Family<Label, Counter>,
    scopes: Family<Label, Gauge>,
    instances: Family<Labels, Gauge>,
    transitions: Family<Label, Counter>,
    events: Family<Label, Counter>,
    roll_calls: Family<Label, Counter>,
    roll_call_at: Gauge,
    clock_jumps: Counter,
    reconciles: Counter,
    reconcile_at: Gauge,
    repairs: Family<Label, Counter>,
    ready: Gauge,
    auth_disabled: Gauge,
    stale: Gauge,
    protection: Gauge,
    detection_suspended: Gauge,
    connections: Family<Label, Gauge>,
    connections_waiting: Gauge,
    process: process::ProcessMetrics,
    /// What became of heartbeats.
    pub heartbeats: HeartbeatMetrics,
    /// Leases renewed in one round trip.
    pub lease_batch: Histogram,
    /// Writes in one transaction.
    pub commit_size: Histogram,
    /// How long it took, in seconds.
    pub commit_duration: Histogram,
    /// Transactions that failed.
    pub commit_errors: Counter,
    /// From the end of a lease until it was recorded, in seconds.
    pub expiry_lateness: Histogram,
    /// Events that the log has not taken yet.
    pub events_waiting: Gauge,
    /// From when something happened until it was known here, in seconds.
    pub event_lag: Histogram,
    /// Streams whose reader was too slow.
    pub streams_dropped: Counter,
    /// Whether the backends answer.
    pub backends: BackendMetrics,
    /// Whether the last reload was taken.
    pub reloaded: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at 0.
    pub fn new() -> Self {
        let mut all = Registering(Registry::default());
        let build = Family::<Label, Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        all.add("build_info", "The version of the daemon; always 1", build);
        let heartbeats = all.add(
            "heartbeats",
            "Heartbeats by what became of them",
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
            "Whether a backend answered when it was last asked",
            Family::<Label, Gauge>::default(),
        );
        let backend = |backend| backends.get_or_create_owned(&[("backend", backend)]);
        let backends = BackendMetrics {
            store: backend("store"),
            leases: backend("leases"),
            bus: BothWays::new(backend("bus")),
            leases_evicted: all.add(
                "lease_store_evicts",
                "Whether Redis may evict leases: it has a maxmemory, and a maxmemory-policy other than noeviction",
                Gauge::default(),
            ),
        };
        let metrics = Self {
            requests: all.add(
                "http_requests",
                "Requests by route and status",
                Family::default(),
            ),
            request_durations: all.add(
                "http_request_duration_seconds",
                "How long requests took, but for streams and those that wait for a change",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            in_flight: all.add(
                "http_in_flight",
                "Requests under way by kind of work: wait is long polls, stream is event streams",
                Family::default(),
            ),
            limits: all.add(
                "http_limit",
                "How many requests of a kind of work may be under way",
                Family::default(),
            ),
            shed: all.add(
                "http_requests_rejected",
                "Requests that were refused because as many were under way as may be",
                Family::default(),
            ),
            http_connections: all.add(
                "http_connections",
                "Connections of clients that are open",
                Gauge::default(),
            ),
            http_connections_limit: all.add(
                "http_connections_limit",
                "How many connections of clients may be open",
                Gauge::default(),
            ),
            malformed: all.add(
                "http_malformed_requests",
                "Requests that could not be read as HTTP",
                Counter::default(),
            ),
            heartbeats,
            lease_batch: all.add("lease_batch_size", "Leases renewed in one round trip", sizes()),
            round_trips: all.add(
                "lease_round_trip_seconds",
                "How long the lease store took to answer",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            lease_errors: all.add(
                "lease_errors",
                "Questions to the lease store that it did not answer",
                Family::default(),
            ),
            commit_size: all.add("commit_size", "Writes in one transaction", sizes()),
            commit_duration: all.add(
                "commit_duration_seconds",
                "How long a transaction took until its commit was confirmed",
                durations(),
            ),
            commit_errors: all.add("commit_errors", "Transactions that failed", Counter::default()),
            scopes: all.add("scopes", "Declared groups and services", Family::default()),
            instances: all.add(
                "instances",
                "Instances by state: registered contains online, which contains available and suspect",
                Family::default(),
            ),
            transitions: all.add(
                "transitions",
                "Instances that this daemon recorded as online or offline",
                Family::default(),
            ),
            expiry_lateness: all.add(
                "expiry_lateness_seconds",
                "From the end of a lease until its instance was recorded as offline",
                lateness(),
            ),
            roll_calls: all.add("roll_calls", "Roll calls by what became of them: late ones were not sent, because their moment had passed", Family::default()),
            roll_call_at: all.add(
                "roll_call_last_timestamp_seconds",
                "When the roll was called last, by this daemon or as it saw another do it; 0 is never",
                Gauge::default(),
            ),
            clock_jumps: all.add(
                "clock_jumps",
                "How often the wall clock was found to have been set by more than a second",
                Counter::default(),
            ),
            reconciles: all.add(
                "reconciles",
                "Comparisons of the registry with the leases that this daemon completed",
                Counter::default(),
            ),
            reconcile_at: all.add(
                "reconcile_last_timestamp_seconds",
                "When this daemon completed one last; 0 is never",
                Gauge::default(),
            ),
            repairs: all.add(
                "reconcile_repairs",
                "Instances that a reconcile found to be other than recorded",
                Family::default(),
            ),
            events_waiting: all.add(
                "events_waiting",
                "Events of what was committed here that the log of events has not taken yet",
                Gauge::default(),
            ),
            events: all.add(
                "events",
                "Events that this daemon read from the log, by type",
                Family::default(),
            ),
            event_lag: all.add(
                "event_lag_seconds",
                "From when something happened, by the clock of whoever did it, until it was known here",
                lateness(),
            ),
            streams_dropped: all.add(
                "streams_dropped",
                "Event streams that ended because their reader was too slow",
                Counter::default(),
            ),
            backends,
            stale: all.add(
                "directory_stale",
                "Whether what is listed may be old",
                Gauge::default(),
            ),
            connections: all.add(
                "store_connections",
                "Connections to the registry store",
                Family::default(),
            ),
            connections_waiting: all.add(
                "store_pool_pending",
                "Reads that wait for a connection to the registry store",
                Gauge::default(),
            ),
            protection: all.add(
                "protection_active",
                "Whether instances are held instead of recorded as offline",
                Gauge::default(),
            ),
            detection_suspended: all.add(
                "detection_suspended",
                "Whether no instance is marked offline for now: the lease store does not work or has just begun to, or the replicas do not agree on it",
                Gauge::default(),
            ),
            mailbox_pending: all.add(
                "mailbox_pending",
                "Questions to an actor that are not answered yet",
                Family::default(),
            ),
            mailbox_waits: all.add(
                "mailbox_wait_seconds",
                "How long a question waited until the actor took it up",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            mailbox_rejected: all.add(
                "mailbox_rejected",
                "Questions to an actor for which there was no place",
                Family::default(),
            ),
            ready: all.add(
                "ready",
                "Whether requests are served: 1 from the start to the stop",
                Gauge::default(),
            ),
            auth_disabled: all.add(
                "auth_disabled",
                "Whether there are no tokens, so that everybody may do everything",
                Gauge::default(),
            ),
            reloaded: all.add(
                "config_last_reload_successful",
                "Whether the tokens and certificates that were read last are those in use",
                Gauge::default(),
            ),
            process: process::ProcessMetrics::default(),
            registry: Registry::default(),
        };
        let mut registry = all.0;
        metrics.process.register(&mut registry);
        // What has not happened yet is told as 0, so that the first time is seen.
        for state in ["open", "idle"] {
            metrics.connections.get_or_create_owned(&[("state", state)]);
        }
        metrics.reloaded.set(1);
        for to in ["online", "offline"] {
            metrics.transitions.get_or_create_owned(&[("to", to)]);
        }
        Self {
            registry,
            ..metrics
        }
    }

    /// For one route, by its pattern and method.
    pub fn route(&self, route: &'static str, method: &'static str) -> RouteMetrics {
        let labels = [("route", route), ("method", method)];
        RouteMetrics {
            labels,
            requests: self.requests.clone(),
            by_status: RefCell::default(),
            duration: Some(self.request_durations.get_or_create_owned(&labels)),
        }
    }

    /// For what a route does not take, and for what is no route.
    pub fn refusals(&self, route: &'static str) -> RouteMetrics {
        RouteMetrics {
            labels: [("route", route), ("method", "other")],
            requests: self.requests.clone(),
            by_status: RefCell::default(),
            duration: None,
        }
    }

    /// Requests that were refused.
    pub fn shed(&self, work: &'static str) -> Counter {
        self.shed.get_or_create_owned(&[("work", work)])
    }

    /// For the mailboxes of a kind of actor.
    pub fn mailbox(&self, actor: &'static str) -> MailboxMetrics {
        let labels = [("actor", actor)];
        MailboxMetrics {
            waiting: self.mailbox_pending.get_or_create_owned(&labels),
            wait: self.mailbox_waits.get_or_create_owned(&labels),
            refused: self.mailbox_rejected.get_or_create_owned(&labels),
        }
    }

    /// For an operation of the lease store.
    pub fn round_trip(&self, operation: &'static str) -> RoundTripMetrics {
        let labels = [("operation", operation)];
        RoundTripMetrics {
            duration: self.round_trips.get_or_create_owned(&labels),
            errors: self.lease_errors.get_or_create_owned(&labels),
        }
    }

    /// An instance was recorded as online, or as offline.
    pub fn transition(&self, online: bool) {
        let to = if online { "online" } else { "offline" };
        self.transitions.get_or_create(&[("to", to)]).inc();
    }

    /// An event was read, that many seconds after it happened.
    pub fn event(&self, kind: &'static str, lag: f64) {
        self.events.get_or_create(&[("type", kind)]).inc();
        self.event_lag.observe(lag.max(0.0));
    }

    /// Everything, in Prometheus' text format.
    pub fn encode(&self, figures: &MetricsSnapshot) -> String {
        self.set_snapshot(figures);
        self.process.read();
        let mut text = String::new();
        // A text takes whatever is written to it.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text::from_open_metrics(&text)
    }
}

/// Registers what it hands back.
struct Registering(Registry);

impl Registering {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0
            .register(format!("rollcall_{name}"), help, metric.clone());
        metric
    }
}
