//! The agent of Consul: registrations, checks, maintenance.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::entry::{CheckStatus, service_id};
use super::named::{body, named_scope, named_service, unknown};
use super::registration::registration;
use super::show::{DATACENTER, Shown, node_id};
use crate::http::access::Caller;
use crate::http::facade::{
    Answer, AnyBody, keep_other_entries, parameter, published, visible_instances,
};
use crate::http::problem::InField;
use crate::http::{Api, Problem};
use crate::model::{Hold, Note, Protocol, StatusChange};

/// The name of the only agent.
const AGENT: &str = "rollcall";

fn done() -> HttpResponse {
    HttpResponse::Ok().finish()
}

/// Registers a service. It is passing at once if it has no check, or if all its checks say so.
pub(in crate::http) async fn register(
    api: web::Data<Api>,
    caller: Caller,
    given: AnyBody,
) -> Answer {
    let mut given = registration(body(&given)?, caller.peer(), caller.registrant())?;
    let key = given.registration.key.clone();
    caller.check(&key.scope)?;
    keep_other_entries(&api, &mut given.registration, Protocol::Consul);
    if given.is_online {
        published::register_online(&api, given.registration).await?;
    } else {
        published::register(&api, given.registration).await?;
    }
    // The same ID of the same machine is the same service: it has moved.
    let peer = caller.peer().to_string();
    for before in api
        .directory
        .find_by_id(Protocol::Consul, &service_id(&given.id))
    {
        let known = &before.instance;
        let registrant = known.registered_by.as_ref();
        let is_same = known.key.address.host() == key.address.host()
            || registrant.is_some_and(|by| by.peer() == peer);
        if known.key != key && is_same && caller.check(&known.key.scope).is_ok() {
            published::leave(&api, &caller, &known.key).await?;
        }
    }
    Ok(done())
}

/// Lets a service leave.
pub(in crate::http) async fn deregister(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named_service(&request, &api, &caller).await?;
    published::leave(&api, &caller, &listed.instance.key).await?;
    Ok(done())
}

/// Takes a service out of traffic, or ends that.
pub(in crate::http) async fn maintenance(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let change = match parameter(&request, "enable").as_deref() {
        Some("true" | "True" | "1") => {
            let reason = parameter(&request, "reason").filter(|reason| !reason.is_empty());
            let reason = reason.unwrap_or_else(|| "Consul maintenance".to_owned());
            StatusChange::Hold(Hold {
                until: None,
                by: caller.name().to_owned(),
                reason: Some(Note::try_from(reason).in_field("reason")?),
            })
        }
        Some("false" | "False" | "0") => StatusChange::Enable,
        _ => return Err(Problem::invalid("enable", "must be true or false").into()),
    };
    let listed = named_service(&request, &api, &caller).await?;
    published::set_own_status(&api, &caller, &listed.instance.key, change).await?;
    Ok(done())
}

/// Lists the services by their IDs.
pub(in crate::http) async fn services(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let listed = visible_instances(&api, &caller);
    let shown = listed.iter().map(|listed| Shown::of(listed));
    let services: BTreeMap<String, Value> =
        shown.map(|one| (one.id.clone(), one.agent())).collect();
    HttpResponse::Ok().json(services)
}

/// Lists the checks by their IDs.
pub(in crate::http) async fn checks(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let listed = visible_instances(&api, &caller);
    let checks = listed.iter().flat_map(|listed| Shown::of(listed).checks());
    let checks: BTreeMap<String, _> = checks
        .map(|check| (check.check_id.clone(), check))
        .collect();
    HttpResponse::Ok().json(checks)
}

/// Shows a service.
pub(in crate::http) async fn service(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named_service(&request, &api, &caller).await?;
    Ok(HttpResponse::Ok().json(Shown::of(&listed).agent()))
}

fn status_of(status: CheckStatus) -> StatusCode {
    match status {
        CheckStatus::Passing => StatusCode::OK,
        CheckStatus::Warning => StatusCode::TOO_MANY_REQUESTS,
        CheckStatus::Critical => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn health(shown: &Shown<'_>) -> Value {
    json!({
        "AggregatedStatus": shown.status(),
        "Service": shown.agent(),
        "Checks": shown.checks(),
    })
}

/// Shows the health of a service, also by the status of the answer.
pub(in crate::http) async fn health_by_id(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named_service(&request, &api, &caller).await?;
    let shown = Shown::of(&listed);
    Ok(HttpResponse::build(status_of(shown.status())).json(health(&shown)))
}

/// Shows the health of all services with a name, of which the best one counts.
pub(in crate::http) async fn health_by_name(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let scope = named_scope(&request, &caller)?;
    let view = api.directory.scope(&scope).unwrap_or_default();
    let named: Vec<Shown<'_>> = view.iter().map(Shown::of).collect();
    let has = |status| named.iter().any(|one| one.status() == status);
    let best = match (has(CheckStatus::Passing), has(CheckStatus::Warning)) {
        _ if named.is_empty() => return Err(unknown("service", scope.key.as_str())),
        (true, _) => CheckStatus::Passing,
        (_, true) => CheckStatus::Warning,
        _ => CheckStatus::Critical,
    };
    let body: Vec<Value> = named.iter().map(health).collect();
    Ok(HttpResponse::build(status_of(best)).json(body))
}

/// Describes the agent.
pub(in crate::http) async fn self_() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "Config": {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": AGENT,
            "NodeID": node_id(AGENT),
            "Server": true,
            "Revision": "",
            "Version": env!("CARGO_PKG_VERSION"),
        },
        "Coord": null,
        "Member": member(),
        "Meta": {},
    }))
}

fn member() -> Value {
    json!({
        "Name": AGENT,
        "Addr": "127.0.0.1",
        "Port": 8301,
        "Tags": { "dc": DATACENTER, "role": "consul" },
        "Status": 1,
    })
}

/// Lists the members of the cluster: the agent.
pub(in crate::http) async fn members() -> HttpResponse {
    HttpResponse::Ok().json([member()])
}

/// Names the leader, for probes: each replica is one.
pub(in crate::http) async fn leader() -> HttpResponse {
    HttpResponse::Ok().json("127.0.0.1:8300")
}

/// Names the servers.
pub(in crate::http) async fn peers() -> HttpResponse {
    HttpResponse::Ok().json(["127.0.0.1:8300"])
}

/// Says that a key of the key-value store is not there: Rollcall has none.
pub(in crate::http) async fn no_key() -> HttpResponse {
    HttpResponse::NotFound().finish()
}
