//! `/v1/overview`, one document for a dashboard, and an operator's word on protection.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::gate::Caller;
use super::openapi::{Refused, Unknown};
use super::{Api, Problem};
use crate::actor::{EndProtection, ReconcileReport, ReportProgress, RollCallReport, until_next};
use crate::admission::Work;
use crate::directory::Totals;
use crate::model::{ScopeKind, rfc3339_millis};

/// How it stands.
#[derive(Serialize, ToSchema)]
pub(super) struct Overview {
    version: &'static str,
    /// There are no tokens: everybody who can reach the daemon may do everything.
    anonymous: bool,
    #[serde(flatten)]
    totals: TotalsView,
    groups: TotalsView,
    services: TotalsView,
    backends: BackendsView,
    /// Whether what is listed may be old.
    stale: bool,
    roll_call: RollCallView,
    reconcile: ReconcileView,
    protection: ProtectionView,
    events: EventsView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Totals)]
struct TotalsView {
    scopes: usize,
    instances: usize,
    online: usize,
    available: usize,
    suspect: usize,
}

/// Whether each backend answered when it was last asked.
#[derive(Serialize, ToSchema)]
#[schema(as = Backends)]
struct BackendsView {
    store: bool,
    leases: bool,
    bus: bool,
    /// Whether the lease store may evict leases: see its `maxmemory-policy`.
    leases_evicted: bool,
}

impl From<Totals> for TotalsView {
    fn from(totals: Totals) -> Self {
        let counts = totals.instances;
        Self {
            scopes: totals.scopes,
            instances: counts.instances,
            online: counts.online,
            available: counts.available,
            suspect: counts.suspect,
        }
    }
}

/// What became of the roll calls.
#[derive(Serialize, ToSchema)]
#[schema(as = RollCall)]
pub(super) struct RollCallView {
    interval_seconds: u64,
    sent: u64,
    sent_by_others: u64,
    skipped: u64,
    last_sent_at: Option<String>,
    /// When it is called next, in milliseconds from now.
    next_in_ms: u64,
}

impl RollCallView {
    pub(super) fn of(report: &RollCallReport, api: &Api) -> Self {
        let next = until_next(api.clock.now(), api.roll_interval);
        Self {
            interval_seconds: api.roll_interval.as_secs(),
            sent: report.sent,
            sent_by_others: report.sent_by_others,
            skipped: report.skipped,
            last_sent_at: report.last_sent_at.map(rfc3339_millis),
            next_in_ms: u64::try_from(next.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What this daemon's turns at reconciling came to.
#[derive(Serialize, ToSchema)]
#[schema(as = Reconcile)]
struct ReconcileView {
    completed: u64,
    looked: u64,
    gone: u64,
    online: u64,
    last_at: Option<String>,
}

impl From<ReconcileReport> for ReconcileView {
    fn from(report: ReconcileReport) -> Self {
        Self {
            completed: report.completed,
            looked: report.looked,
            gone: report.gone,
            online: report.online,
            last_at: report.last_at.map(rfc3339_millis),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Protection)]
struct ProtectionView {
    /// Whether instances are held instead of recorded as offline.
    active: bool,
    /// Why; or why nobody is judged for the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    since: Option<String>,
    /// For how much longer, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ends_in_seconds: Option<u64>,
    lease_store_away: bool,
}

impl ProtectionView {
    fn of(api: &Api) -> Self {
        let report = api.protection.report();
        let lease_store_away = report.lease_store_failure.is_some();
        if let Some((held, left)) = report.held {
            return Self {
                active: true,
                reason: Some(held.reason),
                since: Some(rfc3339_millis(held.at)),
                ends_in_seconds: Some(left.as_secs()),
                lease_store_away,
            };
        }
        let grace = |reason| format!("{reason}: no instance is marked offline for one TTL");
        let failure = report.lease_store_failure.or(report.disagreement);
        let (reason, left) = match (failure, report.grace) {
            (Some(failure), _) => (
                Some(format!("{failure}: no instance is marked offline")),
                None,
            ),
            (None, Some((reason, left))) => (Some(grace(reason)), Some(left.as_secs())),
            (None, None) => (None, None),
        };
        Self {
            active: false,
            reason,
            since: None,
            ends_in_seconds: left,
            lease_store_away,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Subscriptions)]
struct EventsView {
    subscribers: usize,
    /// Requests that wait for a change.
    waiting: usize,
}

/// GET: how it stands, from memory, in the same time however much there is.
#[utoipa::path(
    get, path = "/v1/overview", operation_id = "overview", tag = "daemon",
    responses((status = 200, description = "how it stands", body = Overview), Refused, Unknown)
)]
pub(super) async fn show(api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let report = api.scheduler.ask(ReportProgress).await?;
    let backends = &api.metrics.backends;
    Ok(HttpResponse::Ok().json(Overview {
        version: env!("CARGO_PKG_VERSION"),
        anonymous: api.tokens.anonymous().is_some(),
        totals: api.directory.totals().into(),
        groups: api.directory.totals_of(ScopeKind::Group).into(),
        services: api.directory.totals_of(ScopeKind::Service).into(),
        backends: BackendsView {
            store: backends.store.get() == 1,
            leases: backends.leases.get() == 1,
            bus: backends.bus.is_up(),
            leases_evicted: backends.leases_evicted.get() == 1,
        },
        stale: api.directory.is_stale(),
        roll_call: RollCallView::of(&report.roll_call, &api),
        reconcile: report.reconcile.into(),
        protection: ProtectionView::of(&api),
        events: EventsView {
            subscribers: api.feed.subscribers(),
            waiting: api.admission.taken(Work::Wait).0,
        },
    }))
}

/// What an operator's word came to.
#[derive(Serialize, ToSchema)]
pub(super) struct Confirmation {
    /// Whether protection was on until now.
    ended: bool,
    /// How many suspects went offline by it.
    let_go: usize,
}

/// POST: an operator confirms that those who are missing are gone.
#[utoipa::path(
    post, path = "/v1/protection/confirm", operation_id = "confirm", tag = "daemon",
    responses((status = 200, description = "it is ended", body = Confirmation), Refused, Unknown)
)]
pub(super) async fn confirm(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    let reason = "an operator confirmed that those who are missing are gone".to_owned();
    let ended = api.scheduler.ask(EndProtection { reason }).await?;
    if let Some(gone) = ended {
        let name = caller.name();
        log::info!("{name:?} ended protection: {gone} instances were let go");
    }
    Ok(HttpResponse::Ok().json(Confirmation {
        ended: ended.is_some(),
        let_go: ended.unwrap_or_default(),
    }))
}
