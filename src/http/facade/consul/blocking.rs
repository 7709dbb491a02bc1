//! Blocking queries: a request with the index of the list that its client has is held until the list
//! changes.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use tokio::time::Instant;

use super::duration::go_duration;
use crate::admission::RequestClass;
use crate::http::conditional::MAX_WAIT;
use crate::http::facade::parameter;
use crate::http::{Api, Problem, context};
use crate::model::Scope;

/// Waits until the index of a scope, or of all services, is greater than that of the request, if it
/// has one, and returns it. The list that is read afterwards is at least as new.
pub(super) async fn wait(
    request: &HttpRequest,
    api: &Api,
    scope: Option<&Scope>,
) -> Result<u64, Problem> {
    let wrong = |name| move || Problem::invalid(name, "is not valid");
    let known = match parameter(request, "index").filter(|index| !index.is_empty()) {
        None => 0,
        Some(index) => index.parse::<u64>().ok().ok_or_else(wrong("index"))?,
    };
    let longest = match parameter(request, "wait").filter(|wait| !wait.is_empty()) {
        None => MAX_WAIT,
        Some(wait) => go_duration(&wait).ok_or_else(wrong("wait"))?,
    };
    // As Consul, which takes 0 for the default.
    let longest = match longest {
        Duration::ZERO => MAX_WAIT,
        longest => longest.min(MAX_WAIT),
    };
    let index = api.indexes.index(scope);
    if known == 0 || index > known {
        return Ok(index);
    }
    api.spare_connection()?;
    let _permit = api.acquire(RequestClass::Wait)?;
    context::release_permit(request);
    context::note_wait(request);
    let deadline = Instant::now() + longest;
    Ok(tokio::select! {
        biased;
        index = api.indexes.after(scope, known, deadline) => index,
        () = api.lifecycle.stopping() => api.indexes.index(scope),
    })
}

/// Answers with JSON and an index.
pub(super) fn respond(api: &Api, index: u64, body: Bytes) -> HttpResponse {
    let is_current = if api.directory.is_stale() {
        "false"
    } else {
        "true"
    };
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("X-Consul-Index", index.to_string()))
        .insert_header(("X-Consul-KnownLeader", is_current))
        .insert_header(("X-Consul-LastContact", "0"))
        .body(body)
}
