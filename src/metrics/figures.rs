//! What is a state of something else: read when the metrics are asked for.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;

use super::Metrics;

/// How many of a kind of scope there are, and their instances.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindFigures {
    /// `group` or `service`.
    pub kind: &'static str,
    /// The scopes.
    pub scopes: usize,
    /// Instances by state, each with its name.
    pub instances: [(&'static str, usize); 4],
}

/// How many places of a kind of work are taken.
#[derive(Debug, Clone, Copy)]
pub struct WorkFigures {
    /// The kind.
    pub work: &'static str,
    /// Taken.
    pub taken: usize,
    /// There are.
    pub limit: usize,
}

/// What others know, read when the metrics are asked for.
#[derive(Debug, Default)]
pub struct MetricsSnapshot {
    /// Requests are served, and go on to be.
    pub ready: bool,
    /// There are no tokens.
    pub auth_disabled: bool,
    /// What is registered.
    pub kinds: Vec<KindFigures>,
    /// What is under way.
    pub works: Vec<WorkFigures>,
    /// Connections of clients that are open, and that may be.
    pub http_connections: [usize; 2],
    /// Requests that were no HTTP, since the start.
    pub malformed: u64,
    /// What is listed may be old.
    pub stale: bool,
    /// Suspects are held.
    pub protection: bool,
    /// Whether no instance is marked offline for now.
    pub detection_suspended: bool,
    /// Connections to the registry store: open, idle, and how many wait for one.
    pub pool: Option<[usize; 3]>,
    /// What the SchedulerActor did; `None` if it does not say.
    pub schedule: Option<ScheduleFigures>,
}

/// What was done by the clock, since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScheduleFigures {
    /// Roll calls by outcome, each with its name.
    pub roll_calls: [(&'static str, u64); 4],
    /// When the last one was sent, in seconds of Unix time; 0 is never.
    pub roll_call_at: i64,
    /// How often the wall clock was found to have been set.
    pub clock_jumps: u64,
    /// Reconciles that were completed.
    pub reconciles: u64,
    /// When the last one was.
    pub reconcile_at: i64,
    /// What they found different, by what it became.
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

/// A counter that somebody else keeps.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
