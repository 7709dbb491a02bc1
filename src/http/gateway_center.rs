//! The API of the original gateway center, for its clients: the same paths and messages, and
//! `{"code":1|0,"msg":…,"data":…}` with status 200 for success and failure.
//!
//! As in the original, bodies may have unknown fields.

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::dialect::{Envelope, SUCCESS};
use super::extract::{Json, Query};
use super::openapi::schema;
use super::presence::{self, show_status};
use super::problem::InField;
use super::{Api, Problem};
use crate::actor::{DisableServiceInstance, HeartbeatOutcome, RecordHeartbeats, RegisterInstance};
use crate::auth::Role;
use crate::model::{
    Address, DisplayName, Field, InstanceId, InstanceKey, Registration, Scope, ScopeId, ScopeKey,
    ScopeKind, Weight,
};

const NO_GROUP_GIVEN: &str = "请选择所属网关实例";
const UNKNOWN_GROUP: &str = "网关实例不存在";
const REGISTRATION_FAILED: &str = "注册创建失败";
const UNKNOWN_SERVICE: &str = "服务不存在";
const WRONG_SAFE_KEY: &str = "安全密钥错误";

/// A response: `data` on success, a message on failure.
pub(super) struct Answer<T>(Result<T, String>);

impl<T: Serialize> Responder for Answer<T> {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(match &self.0 {
            Ok(data) => Envelope {
                code: 1,
                msg: SUCCESS,
                data: Some(data),
            },
            Err(msg) => Envelope {
                code: 0,
                msg,
                data: None,
            },
        })
    }
}

/// A body, or why it is invalid: the response reports that with status 200.
type Body<T> = Result<Json<T>, Problem>;

fn body<T>(body: Body<T>) -> Result<T, String> {
    body.map(|Json(body)| body).map_err(message)
}

fn message(problem: impl Into<Problem>) -> String {
    problem.into().to_string()
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateBody {
    group_key: Option<String>,
    #[schema(schema_with = schema::display_name)]
    name: Option<DisplayName>,
    #[schema(schema_with = schema::address)]
    address: Address,
    #[schema(schema_with = schema::weight)]
    weight: Option<Weight>,
}

/// `create` of the original: returns the ID of a known gateway, or of a new, disabled one.
#[utoipa::path(
    post, path = "/gateway-group-detail/create", operation_id = "gateway_center_create", tag = "gateway center",
    request_body = CreateBody,
    responses((status = 200, description = "success or failure", body = Envelope<'_, Option<i64>>))
)]
pub(super) async fn create(
    api: web::Data<Api>,
    caller: Caller,
    request: Body<CreateBody>,
) -> Answer<i64> {
    Answer(create_gateway(&api, &caller, request).await)
}

async fn create_gateway(
    api: &Api,
    caller: &Caller,
    request: Body<CreateBody>,
) -> Result<i64, String> {
    let request = body(request)?;
    let group_key = request.group_key.unwrap_or_default();
    if group_key.trim().is_empty() {
        return Err(NO_GROUP_GIVEN.to_owned());
    }
    // A key that does not parse was never declared.
    let group: ScopeKey = group_key.try_into().map_err(|_| UNKNOWN_GROUP)?;
    let key = InstanceKey {
        scope: ScopeKind::Group.with(group),
        address: request.address,
    };
    caller.check(&key.scope).map_err(message)?;
    // A known gateway is not changed, unlike by a registration.
    let known = api.directory.instance(&key).await.map_err(message)?;
    if let Some(listed) = known {
        return Ok(listed.instance.id.0);
    }
    let registration = Registration {
        name: request.name.map_or(Field::Omitted, Field::Given),
        weight: request.weight.map_or(Field::Omitted, Field::Given),
        by: Some(caller.registrant()),
        ..Registration::of(key)
    };
    let registered = api.registry.write(RegisterInstance(registration)).await;
    match registered.map_err(message)? {
        Some(registered) => Ok(registered.instance.id.0),
        None => Err(UNKNOWN_GROUP.to_owned()),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegisterBody {
    /// The ID or the key of the service.
    #[schema(value_type = String)]
    server_id: ServerId,
    #[schema(schema_with = schema::address)]
    server_address: Address,
}

/// The ID of a service, or its key.
#[derive(Deserialize)]
#[serde(untagged)]
enum ServerId {
    Id(i64),
    Text(String),
}

/// `register` of the original: enables a known service instance, or adds a new one.
#[utoipa::path(
    post, path = "/gateway-server-detail/register", operation_id = "gateway_center_register", tag = "gateway center",
    request_body = RegisterBody,
    responses((status = 200, description = "success or failure", body = Envelope<'_, Option<bool>>))
)]
pub(super) async fn register(
    api: web::Data<Api>,
    caller: Caller,
    request: Body<RegisterBody>,
) -> Answer<bool> {
    Answer(match register_instance(&api, &caller, request).await {
        Ok(()) => Ok(true),
        Err(problem) => {
            log::debug!("{REGISTRATION_FAILED}: {problem}");
            Err(REGISTRATION_FAILED.to_owned())
        }
    })
}

async fn register_instance(
    api: &Api,
    caller: &Caller,
    request: Body<RegisterBody>,
) -> Result<(), Problem> {
    let Json(request) = request?;
    let key = InstanceKey {
        scope: service(api, request.server_id).await?,
        address: request.server_address,
    };
    caller.check(&key.scope)?;
    let registration = Registration {
        by: Some(caller.registrant()),
        ..Registration::of(key)
    };
    api.registry.write(RegisterInstance(registration)).await?;
    Ok(())
}

/// A number is an ID. A text is the key of a declared service, otherwise the ID of one, otherwise
/// the key of a new service; but a numeric text, which is an ID of the original's database, never
/// makes a new service.
async fn service(api: &Api, server_id: ServerId) -> Result<Scope, Problem> {
    let id = match server_id {
        ServerId::Id(id) => Some(id),
        ServerId::Text(text) => {
            let id = text.parse().ok().filter(|id: &i64| id.to_string() == text);
            let key = ScopeKind::Service.with(text.try_into().in_field("serverId")?);
            if id.is_none() || api.directory.declared(&key).await?.is_some() {
                return Ok(key);
            }
            id
        }
    };
    if let Some(id) = id
        && let Some(record) = api.directory.scope_by_id(ScopeId(id)).await?
        && record.scope.kind == ScopeKind::Service
    {
        return Ok(record.scope);
    }
    Err(Problem::invalid("serverId", "is not the ID of a service"))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerHeartbeat {
    /// A token that is limited to the service.
    safe_key: Option<String>,
    /// The key of the service, unless `safeKey` is given.
    #[schema(schema_with = schema::optional_scope_key)]
    server: Option<ScopeKey>,
    #[schema(schema_with = schema::address)]
    addr: Address,
}

/// `keepAlive` of the original: renews a lease, also of an address that never registered. Its
/// clients send no header: `safeKey` is the token, and names the service.
#[utoipa::path(
    put, path = "/gateway-server-detail/keep-alive", operation_id = "gateway_center_keep_server_alive", tag = "gateway center",
    request_body = ServerHeartbeat,
    responses((status = 200, description = "success or failure", body = Envelope<'_, Option<bool>>))
)]
pub(super) async fn keep_server_alive(
    api: web::Data<Api>,
    caller: Option<Caller>,
    request: Body<ServerHeartbeat>,
) -> Answer<bool> {
    Answer(keep_server(&api, caller, request).await)
}

async fn keep_server(
    api: &Api,
    caller: Option<Caller>,
    request: Body<ServerHeartbeat>,
) -> Result<bool, String> {
    let ServerHeartbeat {
        safe_key,
        server,
        addr,
    } = match (body(request), &caller) {
        // Without a token nothing is said about the body.
        (Err(_), None) => return Err(message(Problem::unauthorized())),
        (body, _) => body?,
    };
    let of_key = safe_key.as_deref().and_then(|key| api.tokens.identify(key));
    let own_service = of_key.filter(|identity| identity.role >= Role::Agent);
    let own_service = own_service.and_then(|identity| identity.only_scope());
    let scope = match (own_service, server, caller) {
        (Some(scope), ..) if scope.kind == ScopeKind::Service => scope,
        (_, Some(server), Some(caller)) => {
            let scope = ScopeKind::Service.with(server);
            caller.check(&scope).map_err(message)?;
            scope
        }
        _ if safe_key.is_some() => return Err(WRONG_SAFE_KEY.to_owned()),
        (_, Some(_), None) => return Err(message(Problem::unauthorized())),
        (_, None, _) => return Err(UNKNOWN_SERVICE.to_owned()),
    };
    keep_alive(api, scope, addr, None).await
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GatewayHeartbeat {
    #[schema(schema_with = schema::scope_key)]
    group_key: ScopeKey,
    #[schema(schema_with = schema::address)]
    addr: Address,
    #[schema(schema_with = schema::weight)]
    weight: Option<Weight>,
}

/// `keepAlive` of the original, for a gateway: renews its lease.
#[utoipa::path(
    put, path = "/gateway-group-detail/keep-alive", operation_id = "gateway_center_keep_gateway_alive", tag = "gateway center",
    request_body = GatewayHeartbeat,
    responses((status = 200, description = "success or failure", body = Envelope<'_, Option<bool>>))
)]
pub(super) async fn keep_gateway_alive(
    api: web::Data<Api>,
    caller: Caller,
    request: Body<GatewayHeartbeat>,
) -> Answer<bool> {
    Answer(match body(request) {
        Ok(GatewayHeartbeat {
            group_key,
            addr,
            weight,
        }) => {
            let scope = ScopeKind::Group.with(group_key);
            match caller.check(&scope) {
                Ok(()) => keep_alive(&api, scope, addr, weight).await,
                Err(problem) => Err(message(problem)),
            }
        }
        Err(message) => Err(message),
    })
}

async fn keep_alive(
    api: &Api,
    scope: Scope,
    address: Address,
    weight: Option<Weight>,
) -> Result<bool, String> {
    let key = InstanceKey { scope, address };
    let mut info = api
        .directory
        .resolve_keep_alive(&key)
        .await
        .unwrap_or_default();
    info.weight = weight.unwrap_or(info.weight);
    let renewed = api.heartbeat.ask_with(|reply| RecordHeartbeats {
        instances: vec![(key.clone(), Some(info))],
        must_be_registered: false,
        reply,
    });
    let outcomes = renewed.await.map_err(message)?.map_err(message)?;
    if info.slot.is_none() && key.scope.kind == ScopeKind::Service {
        follow(api, key, &outcomes).await;
    }
    Ok(true)
}

/// Follows the lease of an address that never registered: gateways refresh when it begins and when
/// it ends.
async fn follow(api: &Api, key: InstanceKey, outcomes: &[HeartbeatOutcome]) {
    for outcome in outcomes {
        match outcome {
            HeartbeatOutcome::Created(ttl) | HeartbeatOutcome::Renewed(ttl) => {
                let until = Instant::now() + ttl.as_duration();
                api.unregistered.follow(key.clone(), until);
            }
            HeartbeatOutcome::Unknown => {}
        }
    }
    if let [HeartbeatOutcome::Created(_)] = outcomes {
        api.registry.announce_services().await;
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfflineQuery {
    id: i64,
}

/// `offline` of the original: disables a service instance by its ID.
#[utoipa::path(
    put, path = "/gateway-server-detail/offline", operation_id = "gateway_center_offline", tag = "gateway center",
    params(OfflineQuery),
    responses((status = 200, description = "success or failure", body = Envelope<'_, Option<bool>>))
)]
pub(super) async fn offline(
    api: web::Data<Api>,
    caller: Caller,
    query: Result<Query<OfflineQuery>, Problem>,
) -> Answer<bool> {
    let Ok(Query(OfflineQuery { id })) = query else {
        return Answer(Err(UNKNOWN_SERVICE.to_owned()));
    };
    let id = InstanceId(id);
    let disabled = presence::write(&api, &caller, DisableServiceInstance { id }).await;
    Answer(match disabled {
        Ok(Some(instance)) => {
            show_status(&api, &instance).await;
            caller.log_action(&api, format_args!("disabled {}", instance.key));
            Ok(true)
        }
        Ok(None) => Err(UNKNOWN_SERVICE.to_owned()),
        Err(error) => Err(message(error)),
    })
}
