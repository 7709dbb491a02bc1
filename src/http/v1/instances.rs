//! Instances: registration, lists, changes by operators, deregistration.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::instance_response::{InstanceResponse, ListedInstanceResponse};
use crate::actor::DeregisterInstance;
use crate::auth::Role;
use crate::http::access::Caller;
use crate::http::extract::{InstancePath, Json};
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, BodyErrors, InstancePathParams, NotFound, OutcomeErrors,
};
use crate::http::openapi::schema;
use crate::http::{Api, Problem, presence};
use crate::model::{
    DisplayName, Field, Hold, InstanceChange, Metadata, Note, Registration, Status, StatusChange,
    Ttl, Weight,
};
use crate::store::Deregistration;

/// The body of PUT. A field that is omitted keeps its value while the lease of the instance is
/// alive, and takes the default otherwise; one that is `null` takes the default.
#[derive(Deserialize, ToSchema)]
#[schema(as = Registration)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RegistrationBody {
    /// The name for people; the address by default.
    #[serde(default)]
    #[schema(schema_with = schema::display_name)]
    name: Field<DisplayName>,
    /// The share of traffic; 1 by default.
    #[serde(default)]
    #[schema(schema_with = schema::weight)]
    weight: Field<Weight>,
    /// At most 64 entries and 8 KiB of text; none by default.
    #[serde(default)]
    #[schema(schema_with = schema::metadata)]
    metadata: Field<Metadata>,
    /// The TTL of the lease in seconds; `--lease-ttl` by default.
    #[serde(default)]
    #[schema(schema_with = schema::ttl)]
    ttl_seconds: Field<Ttl>,
}

/// The body of PATCH. A weight or metadata override those that the instance registers, until they
/// are set to `null`.
#[derive(Deserialize, ToSchema)]
#[schema(as = Change)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ChangeBody {
    #[schema(value_type = Option<String>, pattern = "^(enabled|disabled|held)$")]
    status: Option<Status>,
    /// The reason of a hold.
    #[schema(schema_with = schema::note)]
    reason: Option<Note>,
    /// When the hold ends and the instance is enabled; by default only an operator ends it.
    #[schema(value_type = Option<String>, format = DateTime)]
    held_until: Option<DateTime<Utc>>,
    /// Who holds the instance; the name of the token by default.
    #[schema(schema_with = schema::display_name)]
    held_by: Option<DisplayName>,
    #[serde(default)]
    #[schema(schema_with = schema::weight)]
    weight: Field<Weight>,
    #[serde(default)]
    #[schema(schema_with = schema::metadata)]
    metadata: Field<Metadata>,
}

impl ChangeBody {
    pub(super) fn into_change(
        self,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Result<InstanceChange, Problem> {
        if self.status.is_none() && self.weight.is_omitted() && self.metadata.is_omitted() {
            return Err(Problem::invalid(
                "body",
                "must contain status, weight or metadata",
            ));
        }
        for (field, is_given) in [
            ("reason", self.reason.is_some()),
            ("held_by", self.held_by.is_some()),
            ("held_until", self.held_until.is_some()),
        ] {
            if is_given && self.status != Some(Status::Held) {
                let reason = "is allowed only with \"status\":\"held\"";
                return Err(Problem::invalid(field, reason));
            }
        }
        if self.held_until.is_some_and(|until| until <= now) {
            return Err(Problem::invalid("held_until", "must be in the future"));
        }
        let status = self.status.map(|status| match status {
            Status::Enabled => StatusChange::Enable,
            Status::Disabled => StatusChange::Disable,
            Status::Held => StatusChange::Hold(Hold {
                by: self
                    .held_by
                    .map_or_else(|| caller.name().to_owned(), String::from),
                reason: self.reason,
                until: self.held_until,
            }),
        });
        Ok(InstanceChange {
            status,
            weight: self.weight,
            metadata: self.metadata,
            ..InstanceChange::default()
        })
    }
}

/// Registers an instance.
#[utoipa::path(
    put, path = "/v1/{kind}/{key}/instances/{address}", operation_id = "register",
    tag = "instances", params(InstancePathParams), request_body = RegistrationBody,
    responses(
        (status = 201, description = "created", body = InstanceResponse<'_>),
        (status = 200, description = "updated", body = InstanceResponse<'_>),
        BodyErrors, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn register(
    api: web::Data<Api>,
    caller: Caller,
    InstancePath(key): InstancePath,
    Json(body): Json<RegistrationBody>,
) -> Result<HttpResponse, Problem> {
    let registration = Registration {
        name: body.name,
        weight: body.weight,
        metadata: body.metadata,
        ttl: body.ttl_seconds,
        by: Some(caller.registrant()),
        ..Registration::of(key)
    };
    let registered = presence::register(&api, registration).await?;
    let status = if registered.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(HttpResponse::build(status)
        .json(InstanceResponse::of(&registered.instance, api.default_ttl)))
}

/// Returns one instance.
#[utoipa::path(
    get, path = "/v1/{kind}/{key}/instances/{address}", operation_id = "get_instance",
    tag = "instances", params(InstancePathParams),
    responses(
        (status = 200, description = "the instance", body = ListedInstanceResponse<'_>),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn show(
    api: web::Data<Api>,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    match api.directory.instance(&key).await? {
        Some(listed) => {
            Ok(HttpResponse::Ok().json(ListedInstanceResponse::of(&listed, api.default_ttl)))
        }
        None => Err(Problem::instance_not_found(&key)),
    }
}

/// Changes an instance.
#[utoipa::path(
    patch, path = "/v1/{kind}/{key}/instances/{address}", operation_id = "update_instance",
    tag = "instances", params(InstancePathParams), request_body = ChangeBody,
    responses(
        (status = 200, description = "the instance after the change", body = InstanceResponse<'_>),
        BodyErrors, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn change(
    api: web::Data<Api>,
    caller: Caller,
    InstancePath(key): InstancePath,
    Json(body): Json<ChangeBody>,
) -> Result<HttpResponse, Problem> {
    let change = body.into_change(&caller, api.clock.now())?;
    match presence::change(&api, &caller, &key, change).await? {
        Some(instance) => {
            Ok(HttpResponse::Ok().json(InstanceResponse::of(&instance, api.default_ttl)))
        }
        None => Err(Problem::instance_not_found(&key)),
    }
}

/// Deregisters an instance and revokes its lease: nothing of it stays. A token of the role agent
/// may not deregister an instance to which an operator's decision is attached. If the outcome is
/// unknown, repeating the request completes it.
#[utoipa::path(
    delete, path = "/v1/{kind}/{key}/instances/{address}", operation_id = "deregister",
    tag = "instances", params(InstancePathParams),
    responses(
        (status = 204, description = "deregistered"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn deregister(
    api: web::Data<Api>,
    caller: Caller,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    let is_operator = caller.has_role(Role::Admin);
    let message = DeregisterInstance {
        key: key.clone(),
        keep_decided: !is_operator,
    };
    let outcome = presence::write(&api, &caller, message).await;
    if let Ok(Deregistration::Kept(instance)) = &outcome {
        return Err(Problem::decided(instance));
    }
    match presence::then_revoke(&api, &key, outcome).await? {
        Deregistration::Removed(_) => {
            if is_operator {
                caller.log_action(&api, format_args!("deregistered {key}"));
            }
            Ok(HttpResponse::NoContent().finish())
        }
        Deregistration::Kept(_) | Deregistration::Unknown => Err(Problem::instance_not_found(&key)),
    }
}

/// Marks an instance offline at once because it ends, and revokes its lease. Its registration is
/// removed, unless an operator's decision is attached to it: a hold, the approval of a gateway, or
/// an override. If the outcome is unknown, repeating the request completes it.
#[utoipa::path(
    post, path = "/v1/{kind}/{key}/instances/{address}/leave", operation_id = "leave",
    tag = "instances", params(InstancePathParams),
    responses(
        (status = 204, description = "the instance is offline, or removed"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn leave(
    api: web::Data<Api>,
    caller: Caller,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    match presence::leave(&api, &caller, &key).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(Problem::instance_not_found(&key)),
    }
}

/// Marks an instance offline at once because it is not able to serve. It stays registered, and its
/// next heartbeat begins a new lease.
#[utoipa::path(
    delete, path = "/v1/{kind}/{key}/instances/{address}/heartbeat", operation_id = "end_lease",
    tag = "heartbeats", params(InstancePathParams),
    responses(
        (status = 204, description = "the instance is offline"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn end_lease(
    api: web::Data<Api>,
    caller: Caller,
    InstancePath(key): InstancePath,
) -> Result<HttpResponse, Problem> {
    match presence::end_lease(&api, &caller, &key).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(Problem::instance_not_found(&key)),
    }
}
