//! The HTTP API of Nacos, version 1: naming only.
//!
//! A service of the public namespace and the default group has its name as key; others have a key
//! that is made of all three names. An instance is known by its service, IP and port.

mod list;
mod params;
mod service;

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::params::Params;
use self::service::{ServiceName, address, beat_interval, registration};
use super::{Answer, AnyBody, Refusal, keep_other_entries, published, visible_services};
use crate::actor::DeclareScope;
use crate::auth::Role;
use crate::directory::{InstanceEntry, KeyParts};
use crate::http::access::Caller;
use crate::http::dialect::{parameter, plain};
use crate::http::{Api, Code, Problem, presence};
use crate::model::{Address, Instance, InstanceKey, Protocol, Scope, ScopeKind};

/// The time after which a client logs in again, in seconds. Its token is a token of the daemon, and
/// stays valid.
const TOKEN_SECONDS: u32 = 18_000;

/// The code of a beat that renewed a lease.
const BEAT_RENEWED: u32 = 10_200;

/// The code of a beat of an unknown instance: its client registers it.
const BEAT_UNKNOWN: u32 = 20_404;

fn ok() -> HttpResponse {
    plain(StatusCode::OK, "ok")
}

/// Reads the parameters of the query and of a form.
fn params<'a>(request: &'a HttpRequest, AnyBody(body): &'a AnyBody) -> Params<'a> {
    let media_type = request.headers().get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    let is_form = media_type.is_some_and(|it| it.contains("form-urlencoded"));
    Params::of(request, if is_form { body } else { b"" })
}

/// Logs a client in. Its password is the token that it is to send.
pub(in crate::http) async fn login(
    request: HttpRequest,
    api: web::Data<Api>,
    body: AnyBody,
) -> Answer {
    let params = params(&request, &body);
    let password = params.get("password").unwrap_or_default();
    let is_admin = match api.tokens.identify(password) {
        Some(identity) => identity.role >= Role::Admin,
        None if api.tokens.is_empty() => true,
        None => {
            let refusal = "unknown user: the password must be a token";
            let refused = Problem::new(Code::Forbidden, refusal);
            return Err(refused.into());
        }
    };
    Ok(HttpResponse::Ok().json(json!({
        "accessToken": password,
        "tokenTtl": TOKEN_SECONDS,
        "globalAdmin": is_admin,
    })))
}

/// Registers an instance, which is then healthy.
pub(in crate::http) async fn register(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    let params = params(&request, &body);
    let service = ServiceName::of(&params)?;
    let mut registration = registration(&service, &params, caller.registrant())?;
    caller.check(&registration.key.scope)?;
    keep_other_entries(&api, &mut registration, Protocol::Nacos);
    if params.flag("healthy")? == Some(false) {
        published::register(&api, registration).await?;
    } else {
        published::register_online(&api, registration).await?;
    }
    Ok(ok())
}

/// Changes an instance. Parameters that are not given keep their values.
pub(in crate::http) async fn change(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    let params = params(&request, &body);
    let key = key(&params, &caller)?;
    let listed = api.directory.instance(&key).await?;
    let listed = listed.ok_or_else(|| unknown(&key))?;
    let mut change = service::change(&listed.instance, &params, caller.registrant())?;
    keep_other_entries(&api, &mut change, Protocol::Nacos);
    let changed = published::register(&api, change).await?;
    presence::show_status(&api, &changed.instance).await;
    Ok(ok())
}

/// Lets an instance leave, also an unknown one.
pub(in crate::http) async fn leave(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    let key = key(&params(&request, &body), &caller)?;
    published::leave(&api, &caller, &key).await?;
    Ok(ok())
}

/// Shows an instance.
pub(in crate::http) async fn show(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let params = Params::of(&request, b"");
    let key = key(&params, &caller)?;
    let listed = api.directory.instance(&key).await?;
    let listed = listed.ok_or_else(|| unknown(&key))?;
    Ok(HttpResponse::Ok().json(list::detail(&listed)))
}

/// Returns the instance that the parameters name.
fn key(params: &Params<'_>, caller: &Caller) -> Result<InstanceKey, Problem> {
    Ok(InstanceKey {
        scope: scope(params, caller)?,
        address: address(params)?,
    })
}

/// Renews the lease of an instance. A beat that describes an unknown one registers it; after a beat
/// that does not, the client registers it itself.
pub(in crate::http) async fn beat(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    if let Some(listed) = beating(&api, &request) {
        caller.check(&listed.instance.key.scope)?;
        if published::renew(&api, &listed).await? {
            return Ok(renewed(&api, &listed.instance));
        }
    }
    let params = params(&request, &body);
    let described = params.get("beat").map(described).transpose()?;
    let described = described.as_ref().map(Params::of_beat);
    let key = InstanceKey {
        scope: scope(&params, &caller)?,
        address: address(described.as_ref().unwrap_or(&params))?,
    };
    // It may have been registered at another replica a moment ago.
    if let Some(listed) = api.directory.instance(&key).await?
        && published::renew(&api, &listed).await?
    {
        return Ok(renewed(&api, &listed.instance));
    }
    let Some(described) = described else {
        return Ok(beat_answer(service::DEFAULT_INTERVAL_MS, BEAT_UNKNOWN));
    };
    let service = ServiceName::of(&params)?;
    let registration = registration(&service, &described, caller.registrant())?;
    let registered = published::register_online(&api, registration).await?;
    Ok(renewed(&api, &registered.instance))
}

/// The members of a beat that name the instance.
#[derive(Deserialize)]
struct BeatAddress<'a> {
    #[serde(borrow)]
    ip: Cow<'a, str>,
    port: u16,
}

/// Returns the instance that the query of a beat names, if it is known. Nearly all beats are such.
fn beating(api: &Api, request: &HttpRequest) -> Option<Arc<InstanceEntry>> {
    let given = |name| parameter(request, name);
    let address = match given("beat") {
        Some(beat) => {
            let BeatAddress { ip, port } = serde_json::from_str(&beat).ok()?;
            Address::text_of(&ip, port)
        }
        None => Address::text_of(&given("ip")?, given("port")?),
    };
    let (name, group) = (given("serviceName")?, given("groupName"));
    let namespace = given("namespaceId");
    api.directory.find_by_parts(KeyParts {
        kind: ScopeKind::Service,
        key: ServiceName::plain_key(&name, group.as_deref(), namespace.as_deref())?,
        address: &address,
    })
}

fn renewed(api: &Api, instance: &Instance) -> HttpResponse {
    beat_answer(beat_interval(instance, api.default_ttl), BEAT_RENEWED)
}

fn beat_answer(interval: u64, code: u32) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(format!(
            "{{\"clientBeatInterval\":{interval},\"code\":{code},\"lightBeatEnabled\":true}}"
        ))
}

/// Reads the description of the instance that a beat has.
fn described(beat: &str) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_str(beat) {
        Ok(Value::Object(beat)) => Ok(beat),
        Ok(_) => Err(Problem::invalid("beat", "must be a JSON object")),
        Err(error) => Err(Problem::invalid("beat", format!("is not JSON: {error}"))),
    }
}

/// Lists the instances of a service.
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let params = Params::of(&request, b"");
    let (service, scope) = service(&params, &caller)?;
    let healthy_only = params.flag("healthyOnly")? == Some(true);
    let view = api.directory.scope(&scope);
    let asked = params.get("clusters").unwrap_or_default();
    let body = list::hosts(
        view.as_deref(),
        &params.clusters(),
        healthy_only,
        api.clock.now(),
    );
    Ok(list::answer(&service, asked, &body, api.clock.now()))
}

/// Lists the names of services.
pub(in crate::http) async fn services(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let params = Params::of(&request, b"");
    let number = |name: &'static str, default: usize| match params.get(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(Problem::invalid(name, "must be a whole number from 1")),
        },
    };
    let (page, size) = (number("pageNo", 1)?, number("pageSize", 20)?);
    let namespace = params.get("namespaceId").unwrap_or(service::PUBLIC);
    let group = params.get("groupName").unwrap_or(service::DEFAULT_GROUP);
    let scopes = visible_services(&api, &caller);
    let all = scopes.iter().filter_map(|view| list::name_of(view));
    let asked = all.filter(|name| name.namespace == namespace && name.group == group);
    let mut names: Vec<String> = asked.map(|name| name.name).collect();
    names.sort();
    let count = names.len();
    let skipped = (page - 1).saturating_mul(size);
    let names: Vec<String> = names.into_iter().skip(skipped).take(size).collect();
    Ok(HttpResponse::Ok().json(json!({ "count": count, "doms": names })))
}

/// Shows a service.
pub(in crate::http) async fn show_service(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let params = Params::of(&request, b"");
    let (service, scope) = service(&params, &caller)?;
    if api.directory.declared(&scope).await?.is_none() {
        return Err(Problem::scope_not_found(&scope).into());
    }
    Ok(HttpResponse::Ok().json(json!({
        "namespaceId": service.namespace,
        "groupName": service.group,
        "name": service.name,
        "protectThreshold": 0.0,
        "metadata": {},
        "selector": {"type": "none"},
        "clusters": [],
    })))
}

/// Declares a service.
pub(in crate::http) async fn declare(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    let scope = scope(&params(&request, &body), &caller)?;
    presence::write(&api, &caller, DeclareScope { scope, name: None }).await?;
    Ok(ok())
}

/// Removes a service without instances.
pub(in crate::http) async fn remove(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    body: AnyBody,
) -> Answer {
    let scope = scope(&params(&request, &body), &caller)?;
    presence::remove_scope(&api, &caller, &scope).await?;
    Ok(ok())
}

fn scope(params: &Params<'_>, caller: &Caller) -> Result<Scope, Problem> {
    service(params, caller).map(|(_, scope)| scope)
}

/// Returns the service that the parameters name, which the caller may see and change.
fn service(params: &Params<'_>, caller: &Caller) -> Result<(ServiceName, Scope), Problem> {
    let service = ServiceName::of(params)?;
    let scope = service.scope()?;
    caller.check(&scope)?;
    Ok((service, scope))
}

/// Says that the server works, for clients that ask before they register.
pub(in crate::http) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let totals = api.directory.totals_of(ScopeKind::Service);
    HttpResponse::Ok().json(json!({
        "status": "UP",
        "serviceCount": totals.scopes(),
        "instanceCount": totals.instances.instances,
    }))
}

/// Lists the servers: the one that received the request.
pub(in crate::http) async fn servers(request: HttpRequest) -> HttpResponse {
    plain(StatusCode::OK, request.connection_info().host())
}

/// Says that the server is ready.
pub(in crate::http) async fn ready(api: web::Data<Api>) -> Answer {
    match api.lifecycle.has_started() {
        true => Ok(plain(StatusCode::OK, "OK")),
        false => Err(Problem::new(Code::Starting, "the daemon is starting").into()),
    }
}

/// Refuses the configuration of applications, which is not a matter of a registry.
pub(in crate::http) async fn configuration() -> HttpResponse {
    let detail = "configuration is not served, only naming (/nacos/v1/ns)";
    plain(StatusCode::NOT_IMPLEMENTED, detail)
}

fn unknown(key: &InstanceKey) -> Refusal {
    let detail = format!("{key} is not registered");
    Problem::new(Code::InstanceNotFound, detail).into()
}
