//! Groups and services: `/v1/groups`, `/v1/services` and the paths directly below.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actor::DeclareScope;
use crate::directory::ScopeSnapshot;
use crate::http::access::Caller;
use crate::http::conditional::{Conditional, WaitQuery};
use crate::http::extract::{Json, KindPath, Query, ScopePath};
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, BodyErrors, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::openapi::schema;
use crate::http::problem::Document;
use crate::http::{Api, Problem, presence};
use crate::model::{DisplayName, ScopeKind, ScopeRecord, rfc3339_millis};

/// The body of PUT.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Declaration {
    /// The name for people; the key by default.
    #[schema(schema_with = schema::display_name)]
    name: Option<DisplayName>,
}

/// A group or service.
#[derive(Serialize, ToSchema)]
#[schema(as = Scope)]
pub(in crate::http) struct ScopeResponse<'a> {
    id: String,
    key: &'a str,
    name: &'a str,
    created_at: String,
}

/// A group or service with the numbers of its instances.
#[derive(Serialize, ToSchema)]
#[schema(as = CountedScope)]
pub(in crate::http) struct ScopeSummaryResponse<'a> {
    #[serde(flatten)]
    scope: ScopeResponse<'a>,
    /// Registered instances.
    instances: usize,
    /// Online instances.
    online: usize,
    /// Online and enabled instances.
    available: usize,
    /// Online instances without a lease, which protection mode keeps listed.
    suspect: usize,
    /// Instances that an operator holds.
    held: usize,
    /// Instances that are not enabled yet, or not any more.
    disabled: usize,
    /// When an instance of it last changed or went online or offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    changed_at: Option<String>,
}

/// All scopes of one kind.
#[derive(Serialize, ToSchema)]
#[schema(as = ScopeList)]
pub(in crate::http) struct ScopeListResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    groups: Option<Vec<ScopeSummaryResponse<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    services: Option<Vec<ScopeSummaryResponse<'a>>>,
}

impl<'a> ScopeResponse<'a> {
    fn of(record: &'a ScopeRecord) -> Self {
        Self {
            id: record.id.0.to_string(),
            key: record.scope.key.as_str(),
            name: record.display_name(),
            created_at: rfc3339_millis(record.created_at),
        }
    }
}

impl<'a> ScopeSummaryResponse<'a> {
    /// Returns `None` if the scope is not declared.
    fn of(view: &'a ScopeSnapshot) -> Option<Self> {
        let counts = view.counts;
        Some(Self {
            scope: ScopeResponse::of(view.record.as_ref()?),
            instances: counts.instances,
            online: counts.online,
            available: counts.available,
            suspect: counts.suspect,
            held: counts.held,
            disabled: counts.disabled,
            changed_at: view.changed_at().map(rfc3339_millis),
        })
    }
}

/// Declares a group or service.
#[utoipa::path(
    put, path = "/v1/{kind}/{key}", operation_id = "declare_scope", tag = "scopes",
    params(ScopePathParams), request_body = Declaration,
    responses(
        (status = 201, description = "created", body = ScopeResponse<'_>),
        (status = 200, description = "updated", body = ScopeResponse<'_>),
        BodyErrors, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn declare(
    api: web::Data<Api>,
    caller: Caller,
    ScopePath(scope): ScopePath,
    Json(body): Json<Declaration>,
) -> Result<HttpResponse, Problem> {
    let name = body.name;
    let declared = presence::write(&api, &caller, DeclareScope { scope, name }).await?;
    caller.log_action(&api, format_args!("declared {}", declared.record.scope));
    let status = if declared.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(HttpResponse::build(status).json(ScopeResponse::of(&declared.record)))
}

/// Returns the scopes of a kind that the caller's token permits, by key.
pub(super) fn visible(api: &Api, caller: &Caller, kind: ScopeKind) -> Vec<Arc<ScopeSnapshot>> {
    let mut scopes = api.directory.scopes(kind);
    if caller.limit().is_some() {
        scopes.retain(|view| {
            view.record
                .as_ref()
                .is_some_and(|it| caller.check(&it.scope).is_ok())
        });
    }
    scopes
}

/// Lists all groups or all services; for a token that is limited to scopes, these.
#[utoipa::path(
    get, path = "/v1/{kind}", operation_id = "list_scopes", tag = "scopes",
    params(
        ("kind" = String, Path, pattern = "^(groups|services)$"), WaitQuery,
        ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has"),
    ),
    responses(
        (status = 200, description = "the groups or services, sorted by key", body = ScopeListResponse<'_>, headers(("ETag" = String, description = "depends on the content only"))),
        (status = 304, description = "the client has the current list"),
        BadRequest, NotFound, AuthErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    KindPath(kind): KindPath,
    Query(query): Query<WaitQuery>,
) -> Result<HttpResponse, Problem> {
    let conditional = Conditional::new(&request, &api, query.wait)?;
    let list = format!("{} {:?}", kind.plural(), caller.limit());
    let answer = || {
        let version = api.directory.version();
        let make = || scope_list(&api, &caller, kind);
        conditional.unless_known(api.bodies.get(version, &list, make))
    };
    let changed = api.directory.wait_for_any(conditional.deadline, answer);
    Ok(conditional.answer(&api, changed).await)
}

fn scope_list(api: &Api, caller: &Caller, kind: ScopeKind) -> Vec<u8> {
    let scopes = visible(api, caller, kind);
    let views = scopes
        .iter()
        .filter_map(|view| ScopeSummaryResponse::of(view));
    let views = Some(views.collect());
    let (groups, services) = match kind {
        ScopeKind::Group => (views, None),
        ScopeKind::Service => (None, views),
    };
    // Serialising plain data cannot fail.
    serde_json::to_vec(&ScopeListResponse { groups, services }).unwrap_or_default()
}

/// Returns one group or service.
#[utoipa::path(
    get, path = "/v1/{kind}/{key}", operation_id = "get_scope", tag = "scopes",
    params(ScopePathParams),
    responses(
        (status = 200, description = "the scope", body = ScopeSummaryResponse<'_>),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn show(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let view = api.directory.declared(&scope).await?;
    let summary = view.as_deref().and_then(ScopeSummaryResponse::of);
    match summary {
        Some(summary) => Ok(HttpResponse::Ok().json(summary)),
        None => Err(Problem::scope_not_found(&scope)),
    }
}

/// Removes a group or service without instances.
#[utoipa::path(
    delete, path = "/v1/{kind}/{key}", operation_id = "remove_scope", tag = "scopes",
    params(ScopePathParams),
    responses(
        (status = 204, description = "removed"),
        (status = 409, description = "the scope has instances", body = Document<'_>, content_type = "application/problem+json"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn remove(
    api: web::Data<Api>,
    caller: Caller,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    presence::remove_scope(&api, &caller, &scope).await?;
    Ok(HttpResponse::NoContent().finish())
}
