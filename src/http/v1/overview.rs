//! `/v1/overview`, one document for dashboards, and the release of protection mode.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::scopes;
use crate::actor::{AskError, RecordAction, until_next};
use crate::admission::RequestClass;
use crate::directory::Totals;

use crate::http::access::Caller;
use crate::http::openapi::responses::{AuthErrors, OutcomeErrors};
use crate::http::{Api, Problem, compression};
use crate::liveness::ReconcileReport;
use crate::model::{Action, ProtectionCause, ProtectionReason, ScopeKind, Ttl, rfc3339_millis};

/// The time limit for the release of protection mode.
const RELEASE: Duration = Duration::from_secs(8);

/// The state of the registry.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Overview<'a> {
    version: &'static str,
    /// The host name of the replica that answers.
    replica: &'a str,
    /// When that replica started.
    started_at: String,
    /// Clients without a token may do everything.
    auth_disabled: bool,
    #[serde(flatten)]
    totals: TotalsResponse,
    groups: TotalsResponse,
    services: TotalsResponse,
    /// The TTL of instances without one of their own, in seconds.
    #[schema(value_type = u32)]
    lease_ttl_seconds: Ttl,
    backends: BackendsResponse,
    /// Whether lists may be out of date.
    stale: bool,
    roll_call: RollCallResponse,
    reconcile: ReconcileResponse,
    protection: ProtectionResponse,
    events: EventsResponse,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Totals)]
struct TotalsResponse {
    scopes: usize,
    instances: usize,
    online: usize,
    available: usize,
    suspect: usize,
    held: usize,
    /// The number of scopes that have instances, none of them available.
    unavailable_scopes: usize,
    /// The number of scopes without instances.
    empty_scopes: usize,
}

/// Whether each backend answered the last call.
#[derive(Serialize, ToSchema)]
#[schema(as = Backends)]
struct BackendsResponse {
    store: bool,
    leases: bool,
    event_log: bool,
    /// Whether the lease store may evict leases: see its `maxmemory-policy`.
    leases_evicted: bool,
}

impl From<Totals> for TotalsResponse {
    fn from(totals: Totals) -> Self {
        let counts = totals.instances;
        Self {
            scopes: totals.scopes(),
            instances: counts.instances,
            online: counts.online,
            available: counts.available,
            suspect: counts.suspect,
            held: counts.held,
            unavailable_scopes: totals.unavailable,
            empty_scopes: totals.empty,
        }
    }
}

/// Statistics of the roll calls of this replica.
#[derive(Serialize, ToSchema)]
#[schema(as = RollCall)]
pub(in crate::http) struct RollCallResponse {
    interval_seconds: u64,
    sent: u64,
    sent_by_others: u64,
    skipped: u64,
    last_sent_at: Option<String>,
    /// The time until the next roll call, in milliseconds.
    next_in_ms: u64,
}

impl RollCallResponse {
    pub(in crate::http) fn of(api: &Api) -> Self {
        let report = *api.roll_calls.lock();
        let next = until_next(api.clock.now(), api.roll_call_interval);
        Self {
            interval_seconds: api.roll_call_interval.as_secs(),
            sent: report.sent,
            sent_by_others: report.sent_by_others,
            skipped: report.skipped,
            last_sent_at: report.last_sent_at.map(rfc3339_millis),
            next_in_ms: u64::try_from(next.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Statistics of the reconciles of this replica.
#[derive(Serialize, ToSchema)]
#[schema(as = Reconcile)]
struct ReconcileResponse {
    completed: u64,
    checked: u64,
    expired: u64,
    recovered: u64,
    last_at: Option<String>,
}

impl From<ReconcileReport> for ReconcileResponse {
    fn from(report: ReconcileReport) -> Self {
        Self {
            completed: report.completed,
            checked: report.checked,
            expired: report.expired,
            recovered: report.recovered,
            last_at: report.last_at.map(rfc3339_millis),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Protection)]
struct ProtectionResponse {
    /// Whether protection mode is active.
    active: bool,
    /// Why it is active, or why no instance is marked offline at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// The reason of protection mode for programs: `code`, and the numbers in the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    cause: Option<ProtectionCause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    since: Option<String>,
    /// The time after which protection mode or the suspension of detection ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ends_in_seconds: Option<u64>,
    lease_store_unavailable: bool,
    /// How many of the online instances would have to go offline within one TTL for protection mode to
    /// begin; absent while it is active or cannot begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    begins_with: Option<usize>,
}

impl ProtectionResponse {
    fn of(api: &Api) -> Self {
        let report = api
            .protection
            .report(api.directory.totals().instances.online);
        let lease_store_unavailable = report.lease_store_failure.is_some();
        if let Some((active, remaining)) = report.active {
            return Self {
                active: true,
                reason: Some(active.why.reason),
                cause: active.why.cause,
                begins_with: None,
                since: Some(rfc3339_millis(active.at)),
                ends_in_seconds: Some(remaining.as_secs()),
                lease_store_unavailable,
            };
        }
        let grace = |reason| format!("{reason}: no instance is marked offline for one TTL");
        let failure = report.lease_store_failure.or(report.disagreement);
        let (reason, remaining) = match (failure, report.grace) {
            (Some(failure), _) => (
                Some(format!("{failure}: no instance is marked offline")),
                None,
            ),
            (None, Some((reason, remaining))) => (Some(grace(reason)), Some(remaining.as_secs())),
            (None, None) => (None, None),
        };
        Self {
            active: false,
            reason,
            begins_with: report.begins_with,
            cause: None,
            since: None,
            ends_in_seconds: remaining,
            lease_store_unavailable,
        }
    }
}

/// Returns the totals of the scopes that the caller's token permits; without a limit in constant
/// time.
fn totals(api: &Api, caller: &Caller, kind: ScopeKind) -> Totals {
    match caller.limit() {
        None => api.directory.totals_of(kind),
        Some(_) => scopes::visible(api, caller, kind)
            .iter()
            .fold(Totals::default(), |sum, view| sum + Totals::of(view)),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Subscriptions)]
struct EventsResponse {
    subscribers: usize,
    /// Requests that wait for a change.
    waiting: usize,
}

/// Returns the state of the registry, from memory; for a token that is limited to scopes, with the
/// totals of these.
#[utoipa::path(
    get, path = "/v1/overview", operation_id = "get_overview", tag = "daemon",
    responses((status = 200, description = "the state of the registry", body = Overview<'_>), AuthErrors, OutcomeErrors)
)]
pub(in crate::http) async fn show(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let backends = &api.metrics.backends;
    let (groups, services) = (
        totals(&api, &caller, ScopeKind::Group),
        totals(&api, &caller, ScopeKind::Service),
    );
    Ok(compression::json(
        &request,
        &Overview {
            version: env!("CARGO_PKG_VERSION"),
            replica: api.replica.host(),
            started_at: rfc3339_millis(api.started_at),
            auth_disabled: api.tokens.is_open(),
            lease_ttl_seconds: api.default_ttl,
            totals: (groups + services).into(),
            groups: groups.into(),
            services: services.into(),
            backends: BackendsResponse {
                store: backends.store.get() == 1,
                leases: backends.leases.get() == 1,
                event_log: backends.event_log.is_up(),
                leases_evicted: api.metrics.leases_evicted.get() == 1,
            },
            stale: api.directory.is_stale(),
            roll_call: RollCallResponse::of(&api),
            reconcile: api.reconciler.report().into(),
            protection: ProtectionResponse::of(&api),
            events: EventsResponse {
                subscribers: api.feed.subscribers(),
                waiting: api.admission.taken(RequestClass::Wait).0,
            },
        },
    ))
}

/// The result of the release.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ReleaseResponse {
    /// Whether protection mode was active.
    ended: bool,
    /// The number of instances that were marked offline.
    released: usize,
}

/// Ends protection mode: the instances that have no lease are marked offline.
#[utoipa::path(
    post, path = "/v1/protection/release", operation_id = "release_protection", tag = "daemon",
    responses((status = 200, description = "the result", body = ReleaseResponse), AuthErrors, OutcomeErrors)
)]
pub(in crate::http) async fn release(
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let (expiry, by) = (Arc::clone(&api.expiry), caller.registrant());
    let registry = api.registry.clone();
    // A task of its own, because it must run to its end also if the client disconnects.
    let release = actix_web::rt::spawn(async move {
        let why = ProtectionReason {
            reason: "an operator released it".to_owned(),
            cause: Some(ProtectionCause::Released),
        };
        let released = expiry.end_protection(why, Some(by.clone())).await?;
        let action = Action::of_release(&by, released);
        if let Err(error) = registry.write(RecordAction(action)).await {
            log::error!("cannot record an action of {:?}: {error}", by.token());
        }
        Some(released)
    });
    let ended = timeout(RELEASE, release).await;
    let ended = ended
        .map_err(|_| AskError::TimedOut)?
        .map_err(|_| AskError::Ended)?;
    if let Some(released) = ended {
        caller.log_action(
            &api,
            format_args!("released protection mode: {released} instances were marked offline"),
        );
    }
    Ok(HttpResponse::Ok().json(ReleaseResponse {
        ended: ended.is_some(),
        released: ended.unwrap_or_default(),
    }))
}
