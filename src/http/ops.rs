//! Probes and metrics, for operators.

use std::fmt::Write;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Caller;
use super::extract::Query;
use super::openapi::responses::{AuthErrors, BadRequest};
use super::v1::overview::RollCallResponse;
use crate::actor::{AskError, Ping};
use crate::model::{Scope, ScopeKind};

/// Answers while the process runs. Checks no backend.
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = "daemon", security(()),
    responses((status = 200, description = "the process answers", body = String, content_type = "text/plain"))
)]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The time for which a result is reused: the route is public, and a check asks each backend.
const FRESH: Duration = Duration::from_millis(250);

/// The last result, and its time. Requests during a check wait for it.
#[derive(Default)]
pub(crate) struct LastProbe(Mutex<Option<(Instant, Probe)>>);

#[derive(Clone)]
struct Probe {
    all_answer: bool,
    checks: Map<String, Value>,
}

/// The query parameters of `/readyz`.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadinessQuery {
    /// `required`: the daemon is ready only while every backend answers.
    #[param(inline, required = false)]
    backends: Option<RequiredBackends>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RequiredBackends {
    Required,
}

impl LastProbe {
    async fn get(&self, api: &Api) -> Probe {
        let mut last = self.0.lock().await;
        match &*last {
            Some((at, probe)) if at.elapsed() < FRESH => probe.clone(),
            _ => {
                let probe = Probe::new(api).await;
                *last = Some((Instant::now(), probe.clone()));
                probe
            }
        }
    }
}

impl Probe {
    async fn new(api: &Api) -> Self {
        let (store, leases, registry, heartbeat, scheduler) = tokio::join!(
            api.reader.ping(),
            api.leases.probe(),
            api.registry.ask(Ping),
            api.heartbeat.ask(Ping),
            api.scheduler.ask(Ping),
        );
        api.metrics.backends.store.set(store.is_ok().into());
        let mut probe = Self {
            all_answer: true,
            checks: Map::new(),
        };
        let mut check = |name: &str, answers: bool, failure: &str| {
            probe.all_answer &= answers;
            let state = if answers { "ok" } else { failure };
            probe.checks.insert(name.to_owned(), state.into());
        };
        check("store", store.is_ok(), "unavailable");
        check("leases", leases.is_ok(), "unavailable");
        for (name, error) in [
            ("registry_actor", registry.err()),
            ("heartbeat_actor", heartbeat.err()),
            ("scheduler_actor", scheduler.err()),
        ] {
            check(name, error.is_none(), failure(error));
        }
        probe
    }
}

/// Whether the daemon accepts requests, and which of its parts answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    status: &'static str,
    #[schema(value_type = HashMap<String, String>)]
    checks: Map<String, Value>,
    roll_call: RollCallResponse,
}

/// Checks each actor and each backend. 200 if this replica can answer discovery: an outage of a
/// backend does not end that, and is reported as `degraded`. With `backends=required` it is 503.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "daemon", security(()),
    params(ReadinessQuery),
    responses(
        (status = 200, description = "`ready`, or `degraded` with the checks that failed", body = Readiness),
        (status = 503, description = "`starting`, `stopping` or `not_ready`, with the checks that failed", body = Readiness),
        BadRequest,
    )
)]
pub(super) async fn readyz(
    api: web::Data<Api>,
    Query(query): Query<ReadinessQuery>,
) -> HttpResponse {
    let probe = api.last_probe.get(&api).await;
    let (started, draining) = (api.lifecycle.has_started(), api.lifecycle.is_draining());
    let (code, status) = if draining {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if !started {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    } else if probe.all_answer {
        (StatusCode::OK, "ready")
    } else if query.backends.is_some() {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    } else {
        (StatusCode::OK, "degraded")
    };
    HttpResponse::build(code).json(Readiness {
        status,
        checks: probe.checks,
        roll_call: RollCallResponse::of(&api),
    })
}

/// Returns the metrics of this replica. Asks no backend.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "daemon",
    responses(
        (status = 200, description = "Prometheus' text format 0.0.4", body = String, content_type = "text/plain"),
        AuthErrors,
    )
)]
pub(super) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, METRICS_TEXT))
        .body(api.metrics.encode())
}

/// Returns the numbers of instances of each scope. Their number of series grows with the scopes,
/// so they are apart from `/metrics`. A token that is limited to scopes sees these.
#[utoipa::path(
    get, path = "/metrics/scopes", operation_id = "scope_metrics", tag = "daemon",
    responses(
        (status = 200, description = "Prometheus' text format 0.0.4", body = String, content_type = "text/plain"),
        AuthErrors,
    )
)]
pub(super) async fn scope_metrics(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let name = "rollcall_scope_instances";
    let mut text = format!(
        "# HELP {name} Instances of a scope by state: registered includes online and held, and online includes available and suspect.\n# TYPE {name} gauge\n"
    );
    let kinds = [ScopeKind::Service, ScopeKind::Group].into_iter();
    let scopes = kinds.flat_map(|kind| api.directory.scopes(kind));
    for scope in scopes {
        let Some(record) = &scope.record else {
            continue;
        };
        if caller.check(&record.scope).is_err() {
            continue;
        }
        let Scope { kind, key } = &record.scope;
        for (state, count) in scope.counts.by_state() {
            // A key needs no escape. Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name}{{kind=\"{}\",scope=\"{key}\",state=\"{state}\"}} {count}",
                kind.as_str()
            );
        }
    }
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, METRICS_TEXT))
        .body(text)
}

fn failure(error: Option<AskError>) -> &'static str {
    match error {
        Some(AskError::Overloaded) => "overloaded",
        Some(AskError::TimedOut) => "timed_out",
        Some(AskError::Ended) => "ended",
        None => "ok",
    }
}
