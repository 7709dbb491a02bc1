//! Metrics that are the state of another component: read when `/metrics` is requested.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;

use super::Metrics;

/// The numbers of a kind of scope and of its instances.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindFigures {
    /// `group` or `service`.
    pub kind: &'static str,
    /// The number of scopes.
    pub scopes: usize,
    /// The number of instances by state.
    pub instances: [(&'static str, usize); 4],
}

/// The permits of a class of requests.
#[derive(Debug, Clone, Copy)]
pub struct WorkFigures {
    /// The class.
    pub work: &'static str,
    /// Permits in use.
    pub taken: usize,
    /// The limit.
    pub limit: usize,
}

/// The states of other components at one moment.
#[derive(Debug, Default)]
pub struct MetricsSnapshot {
    /// Requests are served, and the daemon is not stopping.
    pub ready: bool,
    /// No tokens are configured.
    pub auth_disabled: bool,
    /// By kind of scope.
    pub kinds: Vec<KindFigures>,
    /// By class of requests.
    pub works: Vec<WorkFigures>,
    /// Open client connections, and their limit.
    pub http_connections: [usize; 2],
    /// Malformed requests since the start.
    pub malformed: u64,
    /// Lists may be out of date.
    pub stale: bool,
    /// Protection mode is active.
    pub protection: bool,
    /// No instance is marked offline at present.
    pub detection_suspended: bool,
    /// Connections to the registry store: open, idle, and waiting reads.
    pub pool: Option<[usize; 3]>,
    /// Statistics of the SchedulerActor; `None` if it does not answer.
    pub schedule: Option<ScheduleFigures>,
}

/// Statistics of the SchedulerActor since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScheduleFigures {
    /// Roll calls by outcome.
    pub roll_calls: [(&'static str, u64); 4],
    /// The time of the last roll call in Unix seconds; 0 if there was none.
    pub roll_call_at: i64,
    /// Jumps of the wall clock.
    pub clock_jumps: u64,
    /// Completed reconciles.
    pub reconciles: u64,
    /// The time of the last reconcile in Unix seconds; 0 if there was none.
    pub reconcile_at: i64,
    /// Corrected records by new state.
    pub repairs: [(&'static str, u64); 2],
}

impl Metrics {
    pub(super) fn set_snapshot(&self, figures: &MetricsSnapshot) {
        self.ready.set(figures.ready.into());
        self.auth_disabled.set(figures.auth_disabled.into());
        self.stale.set(figures.stale.into());
        self.protection.set(figures.protection.into());
        self.detection_suspended
            .set(figures.detection_suspended.into());
        for kind in &figures.kinds {
            let label = ("kind", kind.kind);
            self.scopes.get_or_create(&[label]).set(count(kind.scopes));
            for (state, instances) in kind.instances {
                let labels = [label, ("state", state)];
                self.instances.get_or_create(&labels).set(count(instances));
            }
        }
        for WorkFigures { work, taken, limit } in &figures.works {
            let label = [("work", *work)];
            self.in_flight.get_or_create(&label).set(count(*taken));
            self.limits.get_or_create(&label).set(count(*limit));
        }
        let [open, limit] = figures.http_connections;
        self.http_connections.set(count(open));
        self.http_connections_limit.set(count(limit));
        set(&self.malformed, figures.malformed);
        if let Some([open, idle, waiting]) = figures.pool {
            for (state, connections) in [("open", open), ("idle", idle)] {
                let connection = self.connections.get_or_create_owned(&[("state", state)]);
                connection.set(count(connections));
            }
            self.connections_waiting.set(count(waiting));
        }
        if let Some(schedule) = &figures.schedule {
            for (outcome, count) in schedule.roll_calls {
                set(
                    &self.roll_calls.get_or_create(&[("outcome", outcome)]),
                    count,
                );
            }
            for (to, count) in schedule.repairs {
                set(&self.repairs.get_or_create(&[("to", to)]), count);
            }
            set(&self.clock_jumps, schedule.clock_jumps);
            set(&self.reconciles, schedule.reconciles);
            self.roll_call_at.set(schedule.roll_call_at);
            self.reconcile_at.set(schedule.reconcile_at);
        }
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Sets a counter that another component maintains.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
