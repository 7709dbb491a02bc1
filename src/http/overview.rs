//! `/v1/overview`, one document for a dashboard, and an operator's word on protection.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::{Api, Problem};
use crate::actor::{EndProtection, ReconcileReport, ReportProgress, RollCallReport};
use crate::directory::Counts;
use crate::model::rfc3339_millis;

#[derive(Serialize)]
struct Overview {
    scopes: usize,
    #[serde(flatten)]
    totals: Totals,
    /// Whether what is listed may be old.
    stale: bool,
    roll_call: RollCallView,
    reconcile: ReconcileView,
    protection: ProtectionView,
    events: EventsView,
}

#[derive(Serialize)]
struct Totals {
    instances: usize,
    online: usize,
    available: usize,
    suspect: usize,
}

impl From<Counts> for Totals {
    fn from(counts: Counts) -> Self {
        Self {
            instances: counts.instances,
            online: counts.online,
            available: counts.available,
            suspect: counts.suspect,
        }
    }
}

/// What became of the roll calls.
#[derive(Serialize)]
pub(super) struct RollCallView {
    interval_seconds: u64,
    sent: u64,
    sent_by_others: u64,
    skipped: u64,
    last_sent_at: Option<String>,
}

impl RollCallView {
    pub(super) fn of(report: &RollCallReport, api: &Api) -> Self {
        Self {
            interval_seconds: api.roll_interval.as_secs(),
            sent: report.sent,
            sent_by_others: report.sent_by_others,
            skipped: report.skipped,
            last_sent_at: report.last_sent_at.map(rfc3339_millis),
        }
    }
}

/// What this daemon's turns at reconciling came to.
#[derive(Serialize)]
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

#[derive(Serialize)]
struct ProtectionView {
    /// Whether instances are held instead of recorded as offline.
    active: bool,
    /// Why; or why nobody is judged for the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// For how much longer, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_in_seconds: Option<u64>,
    lease_store_away: bool,
}

impl ProtectionView {
    fn of(api: &Api) -> Self {
        let report = api.protection.report();
        let lease_store_away = report.leases_away;
        if let Some((held, left)) = report.held {
            return Self {
                active: true,
                reason: Some(held.reason),
                since: Some(rfc3339_millis(held.at)),
                ends_in_seconds: Some(left.as_secs()),
                lease_store_away,
            };
        }
        let grace = |reason| format!("{reason}: nobody is judged for one time to live");
        let (reason, left) = match report.grace {
            _ if lease_store_away => (
                Some("the lease store does not answer: nobody goes offline".to_owned()),
                None,
            ),
            Some((reason, left)) => (Some(grace(reason)), Some(left.as_secs())),
            None => (None, None),
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

#[derive(Serialize)]
struct EventsView {
    subscribers: usize,
}

/// GET: how it stands.
pub(super) async fn show(api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let report = api.scheduler.ask(ReportProgress).await?;
    let (scopes, totals) = api.directory.totals();
    Ok(HttpResponse::Ok().json(Overview {
        scopes,
        totals: totals.into(),
        stale: api.directory.is_stale(),
        roll_call: RollCallView::of(&report.roll_call, &api),
        reconcile: report.reconcile.into(),
        protection: ProtectionView::of(&api),
        events: EventsView {
            subscribers: api.feed.subscribers(),
        },
    }))
}

#[derive(Serialize)]
struct Confirmation {
    /// Whether protection was on until now.
    ended: bool,
    /// How many suspects went offline by it.
    let_go: usize,
}

/// POST: an operator confirms that those who are missing are gone.
pub(super) async fn confirm(api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let reason = "an operator confirmed that those who are missing are gone".to_owned();
    let ended = api.scheduler.ask(EndProtection { reason }).await?;
    Ok(HttpResponse::Ok().json(Confirmation {
        ended: ended.is_some(),
        let_go: ended.unwrap_or_default(),
    }))
}
