//! Groups and services: `/v1/groups`, `/v1/services` and what is directly below.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::extract::{Json, KindPath, ScopePath};
use super::{Api, Problem};
use crate::actor::{DeclareScope, DeleteScope};
use crate::directory::Counts;
use crate::model::{DisplayName, ScopeRecord, rfc3339_millis};
use crate::store::ScopeDeletion;

/// The body of PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    name: Option<DisplayName>,
}

/// A scope in an answer.
#[derive(Serialize)]
struct View<'a> {
    id: String,
    key: &'a str,
    name: &'a str,
    created_at: String,
    #[serde(flatten)]
    counts: Option<CountsView>,
}

#[derive(Serialize)]
struct CountsView {
    instances: usize,
    online: usize,
    available: usize,
}

impl<'a> View<'a> {
    fn of(record: &'a ScopeRecord, counts: Option<Counts>) -> Self {
        Self {
            id: record.id.0.to_string(),
            key: record.scope.key.as_str(),
            name: record.display_name(),
            created_at: rfc3339_millis(record.created_at),
            counts: counts.map(|counts| CountsView {
                instances: counts.instances,
                online: counts.online,
                available: counts.available,
            }),
        }
    }
}

/// PUT: declares a group or service.
pub(super) async fn declare(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
    Json(body): Json<Declaration>,
) -> Result<HttpResponse, Problem> {
    let name = body.name;
    let declared = api.registry.ask(DeclareScope { scope, name }).await??;
    let status = match declared.created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok(HttpResponse::build(status).json(View::of(&declared.record, None)))
}

/// GET: all groups, or all services.
pub(super) async fn list(api: web::Data<Api>, KindPath(kind): KindPath) -> HttpResponse {
    let scopes = api.directory.scopes(kind);
    let views: Vec<View<'_>> = scopes
        .iter()
        .filter_map(|scope| Some(View::of(scope.record.as_ref()?, Some(scope.counts))))
        .collect();
    HttpResponse::Ok().json(BTreeMap::from([(kind.plural(), views)]))
}

/// GET: one group or service.
pub(super) async fn show(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let view = api.directory.declared(&scope).await?;
    match view
        .as_ref()
        .and_then(|view| view.record.as_ref().zip(Some(view.counts)))
    {
        Some((record, counts)) => Ok(HttpResponse::Ok().json(View::of(record, Some(counts)))),
        None => Err(Problem::scope_not_found(&scope)),
    }
}

/// DELETE: removes a group or service without instances.
pub(super) async fn remove(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let message = DeleteScope {
        scope: scope.clone(),
    };
    match api.registry.ask(message).await?? {
        ScopeDeletion::Deleted(_) => Ok(HttpResponse::NoContent().finish()),
        ScopeDeletion::Unknown => Err(Problem::scope_not_found(&scope)),
        ScopeDeletion::HasInstances => Err(Problem::new(
            StatusCode::CONFLICT,
            "scope_not_empty",
            format!("it has instances: deregister those of /v1/{scope}/instances first"),
        )),
    }
}
