//! The list of the instances of a scope: from memory, with an ETag, and on request once it has
//! changed.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::instance_response::ListedInstanceResponse;
use super::selection_query::{Accepts, FilterParams, SelectionQuery};
use crate::directory::{Body, InstanceFilter, ScopeSnapshot};
use crate::http::conditional::Conditional;
use crate::http::extract::ScopePath;
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::{Api, Problem};
use crate::model::{ScopeKind, Selection, Ttl};

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
    params(ScopePathParams, FilterParams, ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has")),
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
) -> Result<HttpResponse, Problem> {
    let SelectionQuery {
        selection, wait, ..
    } = SelectionQuery::of(&request, &[Accepts::Filters])?;
    if scope.kind == ScopeKind::Group && api.directory.declared(&scope).await?.is_none() {
        return Err(Problem::scope_not_found(&scope));
    }
    let conditional = Conditional::new(&request, &api, wait)?;
    let answer = |view: Option<&ScopeSnapshot>| {
        let body = body(view, &selection, api.directory.is_stale(), api.default_ttl);
        conditional.unless_known(body)
    };
    let changed = api.directory.wait(&scope, conditional.deadline, answer);
    Ok(Conditional::answer(&api, changed).await)
}

/// Returns the body of a list. Without other conditions than presence it is serialised once per
/// snapshot.
fn body(
    view: Option<&ScopeSnapshot>,
    selection: &Selection,
    stale: bool,
    default_ttl: Ttl,
) -> Body {
    let nothing = ScopeSnapshot::default();
    let view = view.unwrap_or(&nothing);
    match InstanceFilter::of(selection) {
        Some(filter) => {
            let make = |view: &ScopeSnapshot| bytes(view, selection, stale, default_ttl);
            view.body(filter, stale, make).clone()
        }
        None => Body::new(bytes(view, selection, stale, default_ttl)),
    }
}

fn bytes(view: &ScopeSnapshot, selection: &Selection, stale: bool, default_ttl: Ttl) -> Vec<u8> {
    let selected = view.select(selection);
    let list = InstanceListResponse {
        stale,
        instances: selected
            .map(|listed| ListedInstanceResponse::of(listed, default_ttl))
            .collect(),
    };
    // Serialising plain data cannot fail.
    serde_json::to_vec(&list).unwrap_or_default()
}
