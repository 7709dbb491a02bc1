//! The handles by which components record their own events.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Gauge, Histogram, Label, Labels, StatusLabels};

/// The requests of one route, as one thread counts them.
pub(crate) struct RouteMetrics {
    pub(super) labels: Labels,
    pub(super) requests: Family<StatusLabels, Counter>,
    /// The counters by status, so that each is looked up once.
    pub(super) by_status: RefCell<Vec<(u16, Counter)>>,
    pub(super) duration: Option<Histogram>,
}

impl RouteMetrics {
    /// Counts a response.
    pub(crate) fn answered(&self, status: u16) {
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

    /// Records the duration of a request.
    pub(crate) fn took(&self, duration: Duration) {
        if let Some(durations) = &self.duration {
            durations.observe(duration.as_secs_f64());
        }
    }
}

/// The mailboxes of one kind of actor.
#[derive(Clone)]
pub struct MailboxMetrics {
    /// Pending messages.
    pub(crate) waiting: Gauge,
    /// The time until the actor handled a message, in seconds.
    pub(crate) wait: Histogram,
    /// Rejected messages.
    pub(crate) refused: Counter,
}

/// One operation of the lease store.
#[derive(Clone)]
pub(crate) struct RoundTripMetrics {
    /// The duration, in seconds.
    pub(crate) duration: Histogram,
    /// Failed calls.
    pub(crate) errors: Counter,
}

/// Heartbeats by outcome.
pub(crate) struct HeartbeatMetrics {
    /// A new lease began.
    pub(crate) created: Counter,
    /// The lease was renewed.
    pub(crate) renewed: Counter,
    /// The instance is not registered.
    pub(crate) unknown: Counter,
    /// The heartbeat was not answered.
    pub(crate) rejected: Counter,
}

impl From<Family<Label, Counter>> for HeartbeatMetrics {
    fn from(all: Family<Label, Counter>) -> Self {
        let outcome = |name| all.get_or_create_owned(&[("outcome", name)]);
        Self {
            created: outcome("created"),
            renewed: outcome("renewed"),
            unknown: outcome("unknown"),
            rejected: outcome("rejected"),
        }
    }
}

/// Queries of DNS by the code of the answer.
pub(crate) struct DnsMetrics {
    /// An answer, also one without records.
    pub(crate) no_error: Counter,
    /// No service has the name.
    pub(crate) no_name: Counter,
    /// The name is not in the zone.
    pub(crate) refused: Counter,
    /// Another code: the query is wrong or not supported.
    pub(crate) failed: Counter,
    /// Without an answer.
    pub(crate) dropped: Counter,
}

impl From<Family<Label, Counter>> for DnsMetrics {
    fn from(all: Family<Label, Counter>) -> Self {
        let outcome = |name| all.get_or_create_owned(&[("outcome", name)]);
        Self {
            no_error: outcome("no_error"),
            no_name: outcome("no_name"),
            refused: outcome("refused"),
            failed: outcome("failed"),
            dropped: outcome("dropped"),
        }
    }
}

/// Whether each backend answered the last call: 1 or 0.
pub(crate) struct BackendMetrics {
    /// The registry store.
    pub(crate) store: Gauge,
    /// The lease store.
    pub(crate) leases: Gauge,
    /// The event log.
    pub(crate) event_log: BothWays,
}

impl BackendMetrics {
    /// Returns whether every backend answered its last call.
    pub(crate) fn are_up(&self) -> bool {
        self.store.get() == 1 && self.leases.get() == 1 && self.event_log.is_up()
    }
}

impl From<Family<Label, Gauge>> for BackendMetrics {
    fn from(all: Family<Label, Gauge>) -> Self {
        let backend = |name| all.get_or_create_owned(&[("backend", name)]);
        Self {
            store: backend("store"),
            leases: backend("leases"),
            event_log: BothWays::new(backend("event_log")),
        }
    }
}

/// A backend that is up while it answers reads and accepts writes.
pub(crate) struct BothWays {
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

    /// Records whether a read was answered.
    pub(crate) fn reads(&self, answered: bool) {
        self.reads.store(answered, Ordering::Relaxed);
        self.update();
    }

    /// Records whether a write was accepted.
    pub(crate) fn writes(&self, accepted: bool) {
        self.writes.store(accepted, Ordering::Relaxed);
        self.update();
    }

    fn update(&self) {
        self.up.set(self.is_up().into());
    }

    /// Returns whether the last read was answered and the last write accepted.
    pub(crate) fn is_up(&self) -> bool {
        self.reads.load(Ordering::Relaxed) && self.writes.load(Ordering::Relaxed)
    }
}
