//! The state of the daemon as metrics.

use std::fmt;
use std::sync::{Arc, Weak};

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
}

impl State for DaemonState {
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        let is_ready = self.lifecycle.has_started() && !self.lifecycle.is_draining();
        out.gauge(
            "rollcall_ready",
            "Whether the daemon serves requests: 1 between start and stop",
            u32::from(is_ready),
        )?;
        out.gauge(
            "rollcall_auth_disabled",
            "Whether no tokens are configured, so that every client may do everything",
            u32::from(self.tokens.anonymous().is_some()),
        )?;
        self.write_http(out)?;
        match self.core.upgrade() {
            Some(core) => core.write(out),
            None => Ok(()),
        }
    }
}

impl DaemonState {
    fn write_http(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        out.gauge(
            "rollcall_http_connections",
            "Open client connections",
            self.connections.open(),
        )?;
        out.gauge(
            "rollcall_http_connections_limit",
            "Limit of open client connections",
            self.connections.limit(),
        )?;
        out.counter(
            "rollcall_http_malformed_requests",
            "Requests that are not valid HTTP",
            malformed_requests(),
        )?;
        let classes = RequestClass::ALL.map(|class| {
            let (taken, limit) = self.admission.taken(class);
            ([("work", class.as_str())], taken, limit)
        });
        out.gauges(
            "rollcall_http_in_flight",
            "HTTP requests in flight by class: wait is long polls, stream is event streams",
            classes.map(|(class, taken, _)| (class, taken)),
        )?;
        out.gauges(
            "rollcall_http_limit",
            "Limit of HTTP requests in flight by class",
            classes.map(|(class, _, limit)| (class, limit)),
        )
    }
}

impl Core {
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        self.write_directory(out)?;
        self.write_liveness(out)?;
        self.write_roll_calls(out)?;
        let pool = self.reader.pool().unwrap_or_default();
        out.gauges(
            "rollcall_store_connections",
            "Connections to the registry store",
            [
                ([("state", "open")], pool.open),
                ([("state", "idle")], pool.idle),
            ],
        )?;
        out.gauge(
            "rollcall_store_pool_pending",
            "Reads waiting for a connection to the registry store",
            pool.waiting,
        )
    }

    fn write_directory(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        out.gauge(
            "rollcall_directory_stale",
            "Whether lists may be out of date",
            u32::from(self.directory.is_stale()),
        )?;
        let kinds = [ScopeKind::Group, ScopeKind::Service];
        let totals = kinds.map(|kind| (("kind", kind.as_str()), self.directory.totals_of(kind)));
        out.gauges(
            "rollcall_scopes",
            "Declared groups and services",
            totals.map(|(kind, totals)| ([kind], totals.scopes)),
        )?;
        let by_state = totals.into_iter().flat_map(|(kind, totals)| {
            let counts = totals.instances;
            [
                ("registered", counts.instances),
                ("online", counts.online),
                ("available", counts.available),
                ("suspect", counts.suspect),
            ]
            .map(|(state, count)| ([kind, ("state", state)], count))
        });
        out.gauges(
            "rollcall_instances",
            "Instances by state: registered includes online, and online includes available and suspect",
            by_state,
        )
    }

    fn write_liveness(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        out.gauge(
            "rollcall_protection_active",
            "Whether protection mode is active: instances without a lease stay listed as suspects",
            u32::from(self.protection.is_active()),
        )?;
        out.gauge(
            "rollcall_detection_suspended",
            "Whether detection is suspended: no instance is marked offline, because the lease store is unavailable or has just recovered, or the replicas use different lease stores",
            u32::from(self.protection.report().is_suspended()),
        )?;
        out.counter(
            "rollcall_clock_jumps",
            "Jumps of the wall clock by more than one second",
            self.clock_watch.jumps(),
        )?;
        let reconciles = self.reconciler.report();
        out.counter(
            "rollcall_reconciles",
            "Reconciles that this replica completed",
            reconciles.completed,
        )?;
        out.gauge(
            "rollcall_reconcile_last_timestamp_seconds",
            "Time of the last reconcile that this replica completed; 0 if there was none",
            seconds(reconciles.last_at),
        )?;
        out.counters(
            "rollcall_reconcile_repairs",
            "Instances whose record a reconcile corrected, by new state",
            [
                ([("to", "online")], reconciles.recovered),
                ([("to", "offline")], reconciles.expired),
            ],
        )
    }

    fn write_roll_calls(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        let roll_calls = *self.roll_calls.lock();
        out.counters(
            "rollcall_roll_calls",
            "Roll calls by outcome; a late one was not sent because its time had passed",
            [
                ([("outcome", "sent")], roll_calls.sent),
                ([("outcome", "sent_by_others")], roll_calls.sent_by_others),
                (
                    [("outcome", "skipped")],
                    roll_calls.skipped - roll_calls.late,
                ),
                ([("outcome", "late")], roll_calls.late),
            ],
        )?;
        out.gauge(
            "rollcall_roll_call_last_timestamp_seconds",
            "Time of the last roll call, by this replica or another one; 0 if there was none",
            seconds(roll_calls.last_at),
        )
    }
}

fn seconds(at: Option<DateTime<Utc>>) -> i64 {
    at.map_or(0, |at| at.timestamp())
}
