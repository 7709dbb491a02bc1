//! Instances: registration, discovery, operators' changes, deregistration.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::extract::{InstancePath, Json, Query, ScopePath};
use super::{Api, Problem};
use crate::actor::{ChangeInstance, DeregisterInstance, RegisterInstance, Revoke};
use crate::directory::Listed;
use crate::model::{
    DisplayName, Hold, Instance, InstanceChange, Metadata, Note, Registration, ScopeKind, Status,
    StatusChange, Ttl, Weight, rfc3339_millis,
};

/// Who holds an instance while nobody has to say who they are.
const ANONYMOUS: &str = "anonymous";

/// The body of PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationBody {
    name: Option<DisplayName>,
    weight: Option<Weight>,
    metadata: Option<Metadata>,
    ttl_seconds: Option<Ttl>,
}

/// The body of PATCH.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBody {
    status: Option<Status>,
    reason: Option<Note>,
    weight: Option<Weight>,
    metadata: Option<Metadata>,
}

impl ChangeBody {
    fn into_change(self) -> Result<InstanceChange, Problem> {
        if self.status.is_none() && self.weight.is_none() && self.metadata.is_none() {
            return Err(Problem::invalid(
                "body",
                "must have status, weight or metadata: there is nothing to change",
            ));
        }
        if self.reason.is_some() && self.status != Some(Status::Held) {
            return Err(Problem::invalid(
                "reason",
                "goes only with \"status\":\"held\"",
            ));
        }
        let status = self.status.map(|status| match status {
            Status::Enabled => StatusChange::Enable,
            Status::Disabled => StatusChange::Disable,
            Status::Held => StatusChange::Hold(Hold {
                by: ANONYMOUS.to_owned(),
                reason: self.reason,
            }),
        });
        Ok(InstanceChange {
            status,
            weight: self.weight,
            metadata: self.metadata,
        })
    }
}

/// The query of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only those that may be sent traffic.
    #[serde(default)]
    available: bool,
    /// Only those whose lease is alive.
    #[serde(default)]
    online: bool,
}

/// A registered instance in an answer.
#[derive(Serialize)]
struct View<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    address: &'a str,
    name: &'a str,
    weight: Weight,
    metadata: &'a Metadata,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a Note>,
    ttl_seconds: Ttl,
    registered_at: String,
    updated_at: String,
}

/// The same with what its lease says.
#[derive(Serialize)]
struct ListedView<'a> {
    #[serde(flatten)]
    instance: View<'a>,
    online: bool,
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_changed_at: Option<String>,
}

#[derive(Serialize)]
struct ListView<'a> {
    instances: Vec<ListedView<'a>>,
}

impl<'a> View<'a> {
    fn of(instance: &'a Instance, default_ttl: Ttl) -> Self {
        let scope = &instance.key.scope;
        let key = |kind| (scope.kind == kind).then_some(scope.key.as_str());
        let hold = instance.hold.as_ref();
        Self {
            id: instance.id.to_string(),
            group: key(ScopeKind::Group),
            service: key(ScopeKind::Service),
            address: instance.key.address.as_str(),
            name: instance.display_name(),
            weight: instance.weight(),
            metadata: &instance.metadata,
            status: instance.status,
            held_by: hold.map(|hold| hold.by.as_str()),
            reason: hold.and_then(|hold| hold.reason.as_ref()),
            ttl_seconds: instance.ttl.unwrap_or(default_ttl),
            registered_at: rfc3339_millis(instance.registered_at),
            updated_at: rfc3339_millis(instance.updated_at),
        }
    }
}

impl<'a> ListedView<'a> {
    fn of(listed: &'a Listed, default_ttl: Ttl) -> Self {
        let recorded = listed.instance.presence;
        // What is not recorded yet has no time yet.
        let changed_at = recorded
            .changed_at
            .filter(|_| recorded.online == listed.online);
        Self {
            online_changed_at: changed_at.map(rfc3339_millis),
            instance: View::of(&listed.instance, default_ttl),
            online: listed.online,
            available: listed.available(),
        }
    }
}

/// PUT: registers an instance.
pub(super) async fn register(
    api: web::Data<Api>,
    InstancePath(key): InstancePath,
    Json(body): Json<RegistrationBody>,
) -> Result<HttpResponse, Problem> {
    let registration = Registration {
        key: key.clone(),
        name: body.name,
        weight: body.weight,
        metadata: body.metadata,
        ttl: body.ttl_seconds,
    };
    let registered = api.registry.ask(RegisterInstance(registration)).await??;
    let registered = registered.ok_or_else(|| Problem::scope_not_found(&key.scope))?;
    let status = match registered.created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok(HttpResponse::build(status).json(View::of(&registered.instance, api.default_ttl)))
}

/// GET: the instances of a group or service. A service that nobody registered with
/// has none; a group must be declared.
pub(super) async fn list(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
    Query(filter): Query<Filter>,
) -> Result<HttpResponse, Problem> {
    let all = api.directory.instances(&scope).await?;
    if all.is_empty()
        && scope.kind == ScopeKind::Group
        && !api.directory.is_declared(&scope).await?
    {
        return Err(Problem::scope_not_found(&scope));
    }
    let instances = all
        .iter()
        .filter(|listed| !filter.available || listed.available())
        .filter(|listed| !filter.online || listed.online)
        .map(|listed| ListedView::of(listed, api.default_ttl))
        .collect();
    Ok(HttpResponse::Ok().json(ListView { instances }))
}

/// GET: one instance.
pub(super) async fn show(
    api: web::Data<Api>,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    match api.directory.instance(&key).await? {
        Some(listed) => Ok(HttpResponse::Ok().json(ListedView::of(&listed, api.default_ttl))),
        None => Err(Problem::instance_not_found(&key)),
    }
}

/// PATCH: an operator's change.
pub(super) async fn change(
    api: web::Data<Api>,
    InstancePath(key): InstancePath,
    Json(body): Json<ChangeBody>,
) -> Result<HttpResponse, Problem> {
    let message = ChangeInstance {
        key: key.clone(),
        change: body.into_change()?,
    };
    match api.registry.ask(message).await?? {
        Some(instance) => Ok(HttpResponse::Ok().json(View::of(&instance, api.default_ttl))),
        None => Err(Problem::instance_not_found(&key)),
    }
}

/// DELETE: deregisters an instance, then revokes its lease. In that order, because a
/// heartbeat that creates a lease looks for the instance afterwards: either it finds
/// none, or the lease is revoked here. Also where the outcome is unknown or there was no
/// instance: so that repeating it mends what went wrong the first time.
pub(super) async fn deregister(
    api: web::Data<Api>,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    let message = DeregisterInstance { key: key.clone() };
    let deregistered = api.registry.ask(message).await;
    let keys = vec![key.clone()];
    let revoked = api.heartbeat.ask(Revoke { keys }).await;
    let known = deregistered??;
    revoked??;
    match known {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(Problem::instance_not_found(&key)),
    }
}
