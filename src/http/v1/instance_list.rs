//! The list of the instances of a scope: from memory, with an ETag, and on request once it has
//! changed.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, ETag, EntityTag, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::instances::ListedInstanceResponse;
use crate::admission::{Permit, RequestClass};
use crate::directory::{Body, InstanceFilter, ScopeSnapshot};
use crate::http::context;
use crate::http::extract::{Query, ScopePath};
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::{Api, Problem};
use crate::model::{ScopeKind, Ttl};

/// The query parameters of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ListQuery {
    /// Only available instances: online and enabled.
    #[serde(default)]
    available: bool,
    /// Only online instances.
    #[serde(default)]
    online: bool,
    /// The time to wait for a change, if the client has the current list: a duration such as
    /// `30s`, at most 45 s.
    #[serde(default)]
    #[param(value_type = Option<String>, example = "30s")]
    wait: Wait,
}

/// A duration such as `30s`, at most [`MAX_WAIT`].
#[derive(Default, Deserialize)]
#[serde(try_from = "String")]
struct Wait(Duration);

/// The proxies of the field cut a request after 50 or 60 seconds, unless they are configured.
const MAX_WAIT: Duration = Duration::from_secs(45);

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(wait) => Ok(Self(wait.min(MAX_WAIT))),
            Err(_) => Err("wait must be a duration such as 30s".to_owned()),
        }
    }
}

/// The instances of a scope.
#[derive(Serialize, ToSchema)]
#[schema(as = InstanceList)]
pub(in crate::http) struct InstanceListResponse<'a> {
    /// The list may be out of date: the lease store or the event log is unavailable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    instances: Vec<ListedInstanceResponse<'a>>,
}

/// Lists the instances of a group or service. An unknown service has none; a group must be
/// declared. With `If-None-Match` and `wait`, the request is held until the list differs.
#[utoipa::path(
    get, path = "/v1/{kind}/{key}/instances", operation_id = "list_instances", tag = "instances",
    params(ScopePathParams, ListQuery, ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has")),
    responses(
        (status = 200, description = "the instances, sorted by address", body = InstanceListResponse<'_>, headers(("ETag" = String, description = "depends on the content only"))),
        (status = 304, description = "the client has the current list"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
    Query(query): Query<ListQuery>,
) -> Result<HttpResponse, Problem> {
    if scope.kind == ScopeKind::Group && api.directory.declared(&scope).await?.is_none() {
        return Err(Problem::scope_not_found(&scope));
    }
    let _permit = if query.wait.0.is_zero() {
        None
    } else {
        Some(exchange_permit_for_long_poll(&request, &api)?)
    };
    // A header that does not parse matches no list.
    let known = IfNoneMatch::parse(&request).unwrap_or(IfNoneMatch::Items(Vec::new()));
    let filter = InstanceFilter::of(query.available, query.online);
    let answer = |view: Option<&ScopeSnapshot>| {
        let body = body(view, filter, api.directory.is_stale(), api.default_ttl);
        (!matches(&known, &body)).then_some(body)
    };
    let deadline = Instant::now() + query.wait.0;
    let wait = api.directory.wait(&scope, deadline, answer);
    let changed = tokio::select! {
        biased;
        changed = wait => changed,
        () = api.lifecycle.stopping() => None,
    };
    Ok(match changed {
        Some(Body { bytes, etag }) => HttpResponse::Ok()
            .insert_header(ETag(EntityTag::new_strong(etag)))
            .insert_header((CACHE_CONTROL, "no-cache"))
            .content_type("application/json")
            .body(bytes),
        None => HttpResponse::NotModified()
            .insert_header((CACHE_CONTROL, "no-cache"))
            .finish(),
    })
}

/// Returns whether the client has this body: RFC 9110, section 13.1.2.
fn matches(known: &IfNoneMatch, body: &Body) -> bool {
    let etag = EntityTag::new_strong(body.etag.clone());
    match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|tag| tag.weak_eq(&etag)),
    }
}

/// Exchanges the permit of a read for one of a long poll.
fn exchange_permit_for_long_poll(request: &HttpRequest, api: &Api) -> Result<Permit, Problem> {
    api.spare_connection()?;
    let permit = api.acquire(RequestClass::Wait)?;
    context::release_permit(request);
    context::note_wait(request);
    Ok(permit)
}

/// Returns the body of a list, which is serialised once per snapshot.
fn body(
    view: Option<&ScopeSnapshot>,
    filter: InstanceFilter,
    stale: bool,
    default_ttl: Ttl,
) -> Body {
    let make = |view: &ScopeSnapshot| {
        let instances = view.list(filter);
        let list = InstanceListResponse {
            stale,
            instances: instances
                .map(|listed| ListedInstanceResponse::of(listed, default_ttl))
                .collect(),
        };
        // Serialising plain data cannot fail.
        serde_json::to_vec(&list).unwrap_or_default()
    };
    match view {
        Some(view) => view.body(filter, stale, make).clone(),
        None => ScopeSnapshot::default().body(filter, stale, make).clone(),
    }
}
