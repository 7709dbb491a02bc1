//! The agent of Consul: registrations, checks, maintenance.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::catalog::NamePath;
use super::entry::{CheckStatus, Entry, Members, check_id, registration, service_id};
use super::show::{DATACENTER, Shown, node_id};
use crate::directory::InstanceEntry;
use crate::http::access::Caller;
use crate::http::facade::{
    Answer, AnyBody, Refusal, find_computed, keep_other_entries, parameter, published, variables,
    visible_services,
};
use crate::http::problem::InField;
use crate::http::{Api, Code, Problem, presence};
use crate::model::{Hold, Note, Protocol, StatusChange};

/// The longest output of a check that is kept, in characters.
const OUTPUT: usize = 200;

/// The name of the only agent.
const AGENT: &str = "rollcall";

fn done() -> HttpResponse {
    HttpResponse::Ok().finish()
}

fn body(AnyBody(body): &AnyBody) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let reason = format!("the body is not JSON: {error}");
        Problem::new(Code::InvalidJson, reason)
    })
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
            published::leave(&api, &known.key).await?;
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
    published::leave(&api, &listed.instance.key).await?;
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

/// Reports that a check passes.
pub(in crate::http) async fn check_pass(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Passing).await
}

/// Reports that a check warns.
pub(in crate::http) async fn check_warn(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Warning).await
}

/// Reports that a check fails.
pub(in crate::http) async fn check_fail(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Critical).await
}

async fn report(request: &HttpRequest, api: &Api, caller: &Caller, status: CheckStatus) -> Answer {
    let NamePath { name } = variables(request)?;
    let note = parameter(request, "note").unwrap_or_default();
    update(api, caller, &name, status, &note).await
}

/// Reports the status of a check.
pub(in crate::http) async fn check_update(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    given: AnyBody,
) -> Answer {
    let NamePath { name } = variables(&request)?;
    let members = Members::of(body(&given)?, "body")?;
    let status = members.status()?;
    let status = status.ok_or_else(|| Problem::invalid("Status", "is missing"))?;
    let output = members.text("output")?.unwrap_or_default();
    update(&api, &caller, &name, status, &output).await
}

/// Changes the status of a check, and renews or ends the lease. A check that goes on passing changes
/// nothing, so it costs as much as a heartbeat.
async fn update(api: &Api, caller: &Caller, id: &str, status: CheckStatus, output: &str) -> Answer {
    let listed = named(api, caller, &check_id(id)).await?;
    let listed = match listed {
        Some(listed) => listed,
        // The check of an instance that came by another protocol.
        None => {
            let service = id.strip_prefix("service:");
            let listed = service.and_then(|id| find_computed(&api.directory, id));
            listed.ok_or_else(|| unknown("check", id))?
        }
    };
    let instance = &listed.instance;
    caller.check(&instance.key.scope)?;
    let mut is_critical = status == CheckStatus::Critical;
    if let Some(mut entry) = Entry::of(instance) {
        if let Some(check) = entry.checks.iter_mut().find(|check| check.id == id)
            && check.status != status
        {
            check.status = status;
            check.output = output.chars().take(OUTPUT).filter(|c| *c != '\0').collect();
            is_critical = entry.is_critical();
            published::register(api, entry.change(instance, caller.registrant())?).await?;
        } else {
            is_critical = entry.is_critical();
        }
    }
    if !is_critical {
        published::renew(api, &listed).await?;
    } else if instance.presence.online {
        published::end_lease(api, &instance.key).await?;
    }
    Ok(done())
}

/// Adds a check to a service, or replaces it.
pub(in crate::http) async fn check_register(
    api: web::Data<Api>,
    caller: Caller,
    given: AnyBody,
) -> Answer {
    let members = Members::of(body(&given)?, "body")?;
    let name = members.text("name")?;
    let name = name.ok_or_else(|| Problem::invalid("Name", "is missing"))?;
    let id = members.text("checkid")?.or(members.text("id")?);
    let service = members.text("serviceid")?.ok_or_else(|| {
        let reason = "is missing: a check belongs to a service, because a machine has none";
        Problem::invalid("ServiceID", reason)
    })?;
    let check = members.check(id.unwrap_or_else(|| name.clone()), name)?;
    let listed = named(&api, &caller, &service_id(&service)).await?;
    let listed = listed.ok_or_else(|| unknown("service", &service))?;
    let instance = &listed.instance;
    let mut entry = Entry::of(instance).unwrap_or_default();
    entry.checks.retain(|known| known.id != check.id);
    entry.checks.push(check);
    change(&api, &caller, &listed, entry).await
}

/// Removes a check.
pub(in crate::http) async fn check_deregister(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let NamePath { name: id } = variables(&request)?;
    let listed = named(&api, &caller, &check_id(&id)).await?;
    let listed = listed.ok_or_else(|| unknown("check", &id))?;
    let mut entry = Entry::of(&listed.instance).unwrap_or_default();
    entry.checks.retain(|known| known.id != id);
    change(&api, &caller, &listed, entry).await
}

/// Changes the checks of a service. It is offline exactly if one of them is critical.
async fn change(api: &Api, caller: &Caller, listed: &InstanceEntry, entry: Entry) -> Answer {
    let (instance, is_critical) = (&listed.instance, entry.is_critical());
    let registration = entry.change(instance, caller.registrant())?;
    if is_critical {
        published::register(api, registration).await?;
        published::end_lease(api, &instance.key).await?;
    } else {
        published::register_online(api, registration).await?;
    }
    Ok(done())
}

/// Returns the service that a path names.
async fn named_service(
    request: &HttpRequest,
    api: &Api,
    caller: &Caller,
) -> Result<Arc<InstanceEntry>, Refusal> {
    let NamePath { name: id } = variables(request)?;
    if let Some(listed) = named(api, caller, &service_id(&id)).await? {
        return Ok(listed);
    }
    let listed = find_computed(&api.directory, &id).ok_or_else(|| unknown("service", &id))?;
    caller.check(&listed.instance.key.scope)?;
    Ok(listed)
}

/// Returns the instance with an entry in the index. Where several machines have services with the
/// same ID, it is that of the caller's machine.
async fn named(
    api: &Api,
    caller: &Caller,
    id: &str,
) -> Result<Option<Arc<InstanceEntry>>, Refusal> {
    let mut found = presence::find_by_id(api, Protocol::Consul, id).await;
    let Some(first) = found.first().cloned() else {
        return Ok(None);
    };
    if found.len() > 1 {
        let peer = caller.peer().to_string();
        found.retain(|listed| {
            let registrant = listed.instance.registered_by.as_ref();
            listed.instance.key.address.host() == peer
                || registrant.is_some_and(|by| by.peer() == peer)
        });
    }
    match found.as_slice() {
        [one] => {
            caller.check(&one.instance.key.scope)?;
            Ok(Some(Arc::clone(one)))
        }
        _ => {
            let address = &first.instance.key.address;
            let (_, id) = id.split_once('/').unwrap_or_default();
            let detail =
                format!("ID {id:?} is that of several machines, of which {address} is one");
            Err(Problem::new(Code::InvalidField, detail).into())
        }
    }
}

fn unknown(kind: &str, id: &str) -> Refusal {
    let detail = format!(
        "Unknown {kind} ID {id:?}. Ensure that the {kind} ID is passed, not the {kind} name."
    );
    Problem::new(Code::InstanceNotFound, detail).into()
}

/// Returns the instances of all services that a caller may see.
fn all(api: &Api, caller: &Caller) -> Vec<Arc<InstanceEntry>> {
    let scopes = visible_services(api, caller);
    scopes
        .iter()
        .flat_map(|view| view.entries().cloned())
        .collect()
}

/// Lists the services by their IDs.
pub(in crate::http) async fn services(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let listed = all(&api, &caller);
    let shown = listed.iter().map(|listed| Shown::of(listed));
    let services: BTreeMap<String, Value> =
        shown.map(|one| (one.id.clone(), one.agent())).collect();
    HttpResponse::Ok().json(services)
}

/// Lists the checks by their IDs.
pub(in crate::http) async fn checks(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let listed = all(&api, &caller);
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
    let NamePath { name } = variables(&request)?;
    let listed = all(&api, &caller);
    let shown = listed.iter().map(|listed| Shown::of(listed));
    let named: Vec<Shown<'_>> = shown.filter(|one| one.name() == name).collect();
    let has = |status| named.iter().any(|one| one.status() == status);
    let best = match (has(CheckStatus::Passing), has(CheckStatus::Warning)) {
        _ if named.is_empty() => return Err(unknown("service", &name)),
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
