//! For whoever runs the daemon: is it alive, is it ready.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Api;
use crate::actor::{AskError, Ping, RollCallStatus};
use crate::model::rfc3339_millis;

/// GET: the process answers. Asks nobody.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Map<String, Value>,
    roll_call: Value,
}

/// GET: asks each actor and each backend; 503 while one of them does not answer.
pub(super) async fn readyz(api: web::Data<Api>) -> HttpResponse {
    let (store, leases, registry, heartbeat, scheduler) = tokio::join!(
        api.directory.ping_store(),
        api.directory.ping_leases(),
        api.registry.ask(Ping),
        api.heartbeat.ask(Ping),
        api.scheduler.ask(RollCallStatus),
    );
    let roll_call = match &scheduler {
        Ok(report) => serde_json::json!({
            "sent": report.sent,
            "sent_by_others": report.sent_by_others,
            "skipped": report.skipped,
            "last_sent_at": report.last_sent_at.map(rfc3339_millis),
        }),
        Err(_) => Value::Null,
    };
    let mut ready = api.started.get();
    let mut checks = Map::new();
    let mut check = |name: &str, answers: bool, trouble: &str| {
        ready &= answers;
        let state = if answers { "ok" } else { trouble };
        checks.insert(name.to_owned(), state.into());
    };
    check("store", store.is_ok(), "unavailable");
    check("leases", leases.is_ok(), "unavailable");
    for (name, error) in [
        ("registry_actor", registry.err()),
        ("heartbeat_actor", heartbeat.err()),
        ("scheduler_actor", scheduler.err()),
    ] {
        check(name, error.is_none(), trouble(error));
    }
    let (code, status) = match (ready, api.started.get()) {
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
