//! For whoever runs the daemon: is it alive, is it ready.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Api;
use super::overview::RollCallView;
use crate::actor::{AskError, Ping, ProbeLeases, ReportProgress};

/// GET: the process answers. Asks nobody.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Map<String, Value>,
    roll_call: Option<RollCallView>,
}

/// GET: asks each actor and each backend; 503 while one of them does not answer.
pub(super) async fn readyz(api: web::Data<Api>) -> HttpResponse {
    let (store, registry, heartbeat, scheduler) = tokio::join!(
        api.directory.ping_store(),
        api.registry.ask(Ping),
        api.heartbeat.ask(ProbeLeases),
        api.scheduler.ask(ReportProgress),
    );
    let roll_call = scheduler
        .as_ref()
        .ok()
        .map(|report| RollCallView::of(&report.roll_call, &api));
    let started = api.progress.has_started();
    let mut ready = started;
    let mut checks = Map::new();
    let mut check = |name: &str, answers: bool, trouble: &str| {
        ready &= answers;
        let state = if answers { "ok" } else { trouble };
        checks.insert(name.to_owned(), state.into());
    };
    check("store", store.is_ok(), "unavailable");
    let leases = matches!(heartbeat, Ok(Ok(())));
    check("leases", leases, "unavailable");
    for (name, error) in [
        ("registry_actor", registry.err()),
        ("heartbeat_actor", heartbeat.err()),
        ("scheduler_actor", scheduler.err()),
    ] {
        check(name, error.is_none(), trouble(error));
    }
    let (code, status) = match (ready, started) {
        (true, _) => (StatusCode::OK, "ready"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    HttpResponse::build(code).json(Readiness {
        status,
        checks,
        roll_call,
    })
}

fn trouble(error: Option<AskError>) -> &'static str {
    match error {
        Some(AskError::Overloaded) => "overloaded",
        Some(AskError::TimedOut) => "timed_out",
        Some(AskError::Gone) => "gone",
        None => "ok",
    }
}
