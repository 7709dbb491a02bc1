//! The API of the original gateway center, for its clients: the same paths, the same
//! messages, and `{"code":1|0,"msg":…,"data":…}` with status 200 whatever happens.
//!
//! Bodies may have members that are not known, as they may there.

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use serde::{Deserialize, Serialize};

use super::error::InField;
use super::extract::{Json, Query};
use super::{Api, Problem};
use crate::actor::{DisableServiceInstance, KeepAlive, RegisterInstance};
use crate::model::{
    Address, DisplayName, InstanceId, InstanceKey, Registration, Scope, ScopeId, ScopeKey,
    ScopeKind, Weight,
};

const NO_GROUP_GIVEN: &str = "请选择所属网关实例";
const UNKNOWN_GROUP: &str = "网关实例不存在";
const REGISTRATION_FAILED: &str = "注册创建失败";
const UNKNOWN_SERVICE: &str = "服务不存在";
const SUCCESS: &str = "success";

/// An answer: `data` on success, a message on failure.
pub(super) struct Answer<T>(Result<T, String>);

#[derive(Serialize)]
struct Envelope<'a, T> {
    code: u8,
    msg: &'a str,
    data: Option<T>,
}

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

/// A body that may turn out to be wrong, which the answer then says.
type Body<T> = Result<Json<T>, Problem>;

fn body<T>(body: Body<T>) -> Result<T, String> {
    body.map(|Json(body)| body).map_err(message)
}

fn message(problem: impl Into<Problem>) -> String {
    problem.into().to_string()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateBody {
    group_key: Option<String>,
    name: Option<DisplayName>,
    address: Address,
    weight: Option<Weight>,
}

/// The original's `create`: a known gateway's id, or that of a new, disabled one.
pub(super) async fn create(api: web::Data<Api>, request: Body<CreateBody>) -> Answer<i64> {
    Answer(create_gateway(&api, request).await)
}

async fn create_gateway(api: &Api, request: Body<CreateBody>) -> Result<i64, String> {
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
    // A known gateway is left as it is, other than by a registration.
    let known = api.directory.instance(&key).await.map_err(message)?;
    if let Some(listed) = known {
        return Ok(listed.instance.id.0);
    }
    let registration = Registration {
        name: request.name,
        weight: request.weight,
        ..Registration::of(key)
    };
    let registered = api.registry.ask(RegisterInstance(registration)).await;
    match registered.map_err(message)?.map_err(message)? {
        Some(registered) => Ok(registered.instance.id.0),
        None => Err(UNKNOWN_GROUP.to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegisterBody {
    server_id: ServerId,
    server_address: Address,
}

/// A service's id, or its key.
#[derive(Deserialize)]
#[serde(untagged)]
enum ServerId {
    Id(i64),
    Text(String),
}

/// The original's `register`: enables a known service instance, or adds a new one.
pub(super) async fn register(api: web::Data<Api>, request: Body<RegisterBody>) -> Answer<bool> {
    Answer(match register_instance(&api, request).await {
        Ok(()) => Ok(true),
        Err(problem) => {
            log::debug!("{REGISTRATION_FAILED}: {problem}");
            Err(REGISTRATION_FAILED.to_owned())
        }
    })
}

async fn register_instance(api: &Api, request: Body<RegisterBody>) -> Result<(), Problem> {
    let Json(request) = request?;
    let key = InstanceKey {
        scope: service(api, request.server_id).await?,
        address: request.server_address,
    };
    let registration = Registration::of(key);
    api.registry.ask(RegisterInstance(registration)).await??;
    Ok(())
}

/// A number is an id. A text is the key of a service that is declared; or else the id of
/// one, as the API writes it; or else the key of a new one.
async fn service(api: &Api, server_id: ServerId) -> Result<Scope, Problem> {
    let (id, key) = match server_id {
        ServerId::Id(id) => (Some(id), None),
        ServerId::Text(text) => {
            let id = text.parse().ok().filter(|id: &i64| id.to_string() == text);
            let key = ScopeKind::Service.with(text.try_into().in_field("serverId")?);
            if id.is_none() || api.directory.declared(&key).await?.is_some() {
                return Ok(key);
            }
            (id, Some(key))
        }
    };
    if let Some(id) = id
        && let Some(record) = api.directory.scope_by_id(ScopeId(id)).await?
        && record.scope.kind == ScopeKind::Service
    {
        return Ok(record.scope);
    }
    key.ok_or_else(|| Problem::invalid("serverId", "is not the id of a service"))
}

#[derive(Deserialize)]
pub(super) struct ServerBeat {
    server: ScopeKey,
    addr: Address,
}

/// The original's `keepAlive`: also of an address that never registered.
pub(super) async fn keep_server_alive(
    api: web::Data<Api>,
    request: Body<ServerBeat>,
) -> Answer<bool> {
    Answer(match body(request) {
        Ok(ServerBeat { server, addr }) => {
            keep_alive(&api, ScopeKind::Service.with(server), addr, None).await
        }
        Err(message) => Err(message),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GatewayBeat {
    group_key: ScopeKey,
    addr: Address,
    weight: Option<Weight>,
}

/// `keepAlive` for a gateway.
pub(super) async fn keep_gateway_alive(
    api: web::Data<Api>,
    request: Body<GatewayBeat>,
) -> Answer<bool> {
    Answer(match body(request) {
        Ok(GatewayBeat {
            group_key,
            addr,
            weight,
        }) => keep_alive(&api, ScopeKind::Group.with(group_key), addr, weight).await,
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
    let renewed = api.heartbeat.ask(KeepAlive { key, weight }).await;
    renewed.map_err(message)?.map_err(message)?;
    Ok(true)
}

#[derive(Deserialize)]
pub(super) struct OfflineQuery {
    id: i64,
}

/// Disables a service instance by its id.
pub(super) async fn offline(
    api: web::Data<Api>,
    query: Result<Query<OfflineQuery>, Problem>,
) -> Answer<bool> {
    let Ok(Query(OfflineQuery { id })) = query else {
        return Answer(Err(UNKNOWN_SERVICE.to_owned()));
    };
    let id = InstanceId(id);
    let disabled = api.registry.ask(DisableServiceInstance { id }).await;
    Answer(match disabled.map_err(message) {
        Ok(Ok(Some(_))) => Ok(true),
        Ok(Ok(None)) => Err(UNKNOWN_SERVICE.to_owned()),
        Ok(Err(error)) => Err(message(error)),
        Err(message) => Err(message),
    })
}
