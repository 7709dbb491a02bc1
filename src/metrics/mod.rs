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
use std::hash::Hash;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
pub(crate) use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

pub use self::handles::MailboxMetrics;
pub(crate) use self::handles::{
    BackendMetrics, DnsMetrics, HeartbeatMetrics, RoundTripMetrics, RouteMetrics,
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

/// Durations by labels.
fn histograms<L: Clone + Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(durations as fn() -> Histogram)
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

/// Declares the metrics. Each has a handle, the metric that is registered, its name without the
/// prefix, and its help.
macro_rules! metrics {
    ($($vis:vis $field:ident: $handle:ty = $metric:expr, $name:literal, $help:literal;)+) => {
        /// All metrics.
        pub struct Metrics {
            registry: Mutex<Registry>,
            $(#[doc = $help] $vis $field: $handle,)+
        }

        impl Metrics {
            fn registered() -> Self {
                let mut registry = Registry::default();
                $(
                    let $field = $metric;
                    registry.register(concat!("rollcall_", $name), $help, $field.clone());
                )+
                Self {
                    registry: Mutex::new(registry),
                    $($field: $field.into(),)+
                }
            }
        }
    };
}

metrics! {
    build: Family<Label, Gauge> = Family::<Label, Gauge>::default(),
        "build_info", "Version of the daemon; the value is always 1";
    requests: Family<StatusLabels, Counter> = Family::<StatusLabels, Counter>::default(),
        "http_requests", "HTTP requests by route and status";
    request_durations: Histograms<Labels> = histograms::<Labels>(),
        "http_request_duration_seconds",
        "Duration of HTTP requests, without event streams and long polls";
    shed: Family<Label, Counter> = Family::<Label, Counter>::default(),
        "http_requests_rejected",
        "HTTP requests rejected because the limit of their class was reached";
    mailbox_pending: Family<Label, Gauge> = Family::<Label, Gauge>::default(),
        "mailbox_pending", "Messages to an actor that are not answered yet";
    mailbox_waits: Histograms<Label> = histograms::<Label>(),
        "mailbox_wait_seconds", "Time a message waits until the actor handles it";
    mailbox_rejected: Family<Label, Counter> = Family::<Label, Counter>::default(),
        "mailbox_rejected", "Messages to an actor rejected because its mailbox was full";
    round_trips: Histograms<Label> = histograms::<Label>(),
        "lease_round_trip_seconds", "Duration of calls to the lease store";
    lease_errors: Family<Label, Counter> = Family::<Label, Counter>::default(),
        "lease_errors", "Calls to the lease store that failed";
    transitions: Family<Label, Counter> = Family::<Label, Counter>::default(),
        "transitions", "Transitions to online or offline that this replica recorded";
    pub(crate) operator_actions: Counter = Counter::default(),
        "operator_actions", "Actions of operators that this replica did";
    events: Family<Label, Counter> = Family::<Label, Counter>::default(),
        "events", "Events read from the event log, by type";
    pub(crate) heartbeats: HeartbeatMetrics = Family::<Label, Counter>::default(),
        "heartbeats",
        "Heartbeats by outcome: created or renewed a lease, of an unknown instance, or rejected";
    pub(crate) lease_batch: Histogram = sizes(),
        "lease_batch_size", "Leases renewed in one round trip";
    pub(crate) commit_size: Histogram = sizes(),
        "commit_size", "Writes in one transaction of the registry store";
    pub(crate) commit_duration: Histogram = durations(),
        "commit_duration_seconds",
        "Duration of transactions of the registry store, from BEGIN to the confirmed commit";
    pub(crate) commit_errors: Counter = Counter::<u64>::default(),
        "commit_errors", "Transactions of the registry store that failed";
    pub(crate) expiry_lateness: Histogram = lateness(),
        "expiry_lateness_seconds",
        "Time from the end of a lease until its instance was marked offline";
    pub(crate) events_waiting: Gauge = Gauge::<i64>::default(),
        "events_waiting", "Events of committed changes that wait to be appended to the event log";
    pub(crate) event_lag: Histogram = lateness(),
        "event_lag_seconds",
        "Time from an event, by the clock of the replica that recorded it, until this replica read it";
    pub(crate) streams_dropped: Counter = Counter::<u64>::default(),
        "streams_dropped", "Event streams ended because their client read too slowly";
    pub(crate) backends: BackendMetrics = Family::<Label, Gauge>::default(),
        "backend_up", "Whether a backend answered the last call: 1 or 0";
    pub(crate) dns: DnsMetrics = Family::<Label, Counter>::default(),
        "dns_queries",
        "Queries of DNS by the code of the answer, or dropped: malformed or over a limit";
    pub(crate) leases_evicted: Gauge = Gauge::<i64>::default(),
        "lease_store_evicts",
        "Whether Redis may evict leases: maxmemory is set and maxmemory-policy is not noeviction";
    pub(crate) reloaded: Gauge = Gauge::<i64>::default(),
        "config_last_reload_successful",
        "Whether the last reload of tokens and certificates succeeded";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates all metrics with the value 0, so that the first increment is visible.
    pub fn new() -> Self {
        let metrics = Self::registered();
        metrics.show(process::Process);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        metrics.build.get_or_create_owned(&version).set(1);
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
