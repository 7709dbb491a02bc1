//! The state of the daemon as metrics.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Core;
use crate::admission::{ConcurrencyLimits, RequestClass};
use crate::auth::Tokens;
use crate::http::{Connections, Lifecycle, malformed_requests};
use crate::metrics::{State, StateWriter};
use crate::model::ScopeKind;

/// The parts whose state is shown.
pub(super) struct DaemonState {
    /// Weak, because the core has the metrics.
    pub(super) core: Weak<Core>,
    pub(super) lifecycle: Lifecycle,
    pub(super) tokens: Arc<Tokens>,
    pub(super) admission: Arc<ConcurrencyLimits>,
    pub(super) connections: Arc<Connections>,
    pub(super) roll_call_interval: Duration,
}

/// Writes metrics: of each its kind, its name, its help, and its value or values.
macro_rules! write_metrics {
    ($out:ident; $($kind:ident $name:literal, $help:literal, $value:expr;)+) => {
        $($out.$kind(concat!("rollcall_", $name), $help, $value)?;)+
    };
}

impl State for DaemonState {
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        let is_ready = self.lifecycle.has_started() && !self.lifecycle.is_draining();
        let classes = RequestClass::ALL.map(|class| {
            let (taken, limit) = self.admission.taken(class);
            ([("work", class.as_str())], taken, limit)
        });
        write_metrics! { out;
            gauge "ready", "Whether the daemon serves requests: 1 between start and stop",
                u32::from(is_ready);
            gauge "auth_disabled",
                "Whether clients without a token may do everything",
                u32::from(self.tokens.is_open());
            gauge "http_connections", "Open client connections", self.connections.open();
            gauge "http_connections_limit", "Limit of open client connections",
                self.connections.limit();
            gauge "roll_call_interval_seconds", "Time between roll calls",
                self.roll_call_interval.as_secs();
            counter "http_malformed_requests", "Requests that are not valid HTTP",
                malformed_requests();
            gauges "http_in_flight",
                "HTTP requests in flight by class: wait is long polls, stream is event streams",
                classes.map(|(class, taken, _)| (class, taken));
            gauges "http_limit", "Limit of HTTP requests in flight by class",
                classes.map(|(class, _, limit)| (class, limit));
        }
        match self.core.upgrade() {
            Some(core) => core.write(out),
            None => Ok(()),
        }
    }
}

impl Core {
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        let kinds = [ScopeKind::Group, ScopeKind::Service];
        let totals = kinds.map(|kind| (("kind", kind.as_str()), self.directory.totals_of(kind)));
        let by_state = totals.into_iter().flat_map(|(kind, totals)| {
            let counts = totals.instances.by_state();
            counts.map(|(state, count)| ([kind, ("state", state)], count))
        });
        let scopes = totals.into_iter().flat_map(|(kind, totals)| {
            [
                ("available", totals.available),
                ("unavailable", totals.unavailable),
                ("empty", totals.empty),
            ]
            .map(|(state, count)| ([kind, ("state", state)], count))
        });
        let online = self.directory.totals().instances.online;
        let (reconciles, roll_calls) = (self.reconciler.report(), *self.roll_calls.lock());
        let pool = self.reader.pool().unwrap_or_default();
        write_metrics! { out;
            gauge "degraded",
                "Whether a backend does not answer, while lists are answered from memory",
                u32::from(!self.metrics.backends.are_up());
            gauge "directory_stale", "Whether lists may be out of date",
                u32::from(self.directory.is_stale());
            gauges "scopes",
                "Declared groups and services by state: with available instances, with none of them available, or empty",
                scopes;
            gauges "instances",
                "Instances by state: registered includes online and held, and online includes available and suspect",
                by_state;
            gauge "protection_active",
                "Whether protection mode is active: instances without a lease stay listed as suspects",
                u32::from(self.protection.is_active());
            gauge "detection_suspended",
                "Whether detection is suspended: no instance is marked offline, because the lease store is unavailable or has just recovered, or the replicas use different lease stores",
                u32::from(self.protection.report(online).is_suspended());
            counter "clock_jumps", "Jumps of the wall clock by more than one second",
                self.clock_watch.jumps();
            counter "reconciles", "Reconciles that this replica completed", reconciles.completed;
            gauge "reconcile_last_timestamp_seconds",
                "Time of the last reconcile that this replica completed; 0 if there was none",
                seconds(reconciles.last_at);
            counters "reconcile_repairs", "Instances whose record a reconcile corrected, by new state",
                [("online", reconciles.recovered), ("offline", reconciles.expired)]
                    .map(|(to, count)| ([("to", to)], count));
            counters "roll_calls",
                "Roll calls by outcome; a late one was not sent because its time had passed",
                [
                    ("sent", roll_calls.sent),
                    ("sent_by_others", roll_calls.sent_by_others),
                    ("skipped", roll_calls.skipped - roll_calls.late),
                    ("late", roll_calls.late),
                ]
                .map(|(outcome, count)| ([("outcome", outcome)], count));
            gauge "roll_call_last_timestamp_seconds",
                "Time of the last roll call, by this replica or another one; 0 if there was none",
                seconds(roll_calls.last_at);
            gauges "store_connections", "Connections to the registry store",
                [("open", pool.open), ("idle", pool.idle)]
                    .map(|(state, count)| ([("state", state)], count));
            gauge "store_pool_pending", "Reads waiting for a connection to the registry store",
                pool.waiting;
        }
        Ok(())
    }
}

fn seconds(at: Option<DateTime<Utc>>) -> i64 {
    at.map_or(0, |at| at.timestamp())
}
