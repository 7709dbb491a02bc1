//! The lists of Consul: health and catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::blocking::{respond, wait};
use super::entry::CheckStatus;
use super::named::{NamePath, named_scope};
use super::show::{Check, DATACENTER, Node, Shown};
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::http::access::Caller;
use crate::http::facade::{Answer, parameter, variables, visible_instances, visible_services};
use crate::http::{Api, Problem};
use crate::model::{Scope, ScopeKind};

/// A kept list over all services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::http::facade) enum ConsulList {
    Services,
    Checks(Option<CheckStatus>),
    Nodes,
}

/// Returns plain data as JSON, which cannot fail.
pub(super) fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Refuses a filter, and another data center, which the registry does not have.
fn check_parameters(request: &HttpRequest) -> Result<(), Problem> {
    let given = |name| parameter(request, name).filter(|text| !text.is_empty());
    if given("filter").is_some() {
        return Err(Problem::invalid("filter", "is not supported"));
    }
    match given("dc") {
        Some(other) if other != DATACENTER => {
            let reason = format!("No path to datacenter: the only one is {DATACENTER}");
            Err(Problem::invalid("dc", reason))
        }
        _ => Ok(()),
    }
}

/// Returns the tags of a query, all of which an instance must have.
fn tags(request: &HttpRequest) -> Vec<String> {
    let pairs = form_urlencoded::parse(request.query_string().as_bytes());
    let tags = pairs.filter(|(name, tag)| name == "tag" && !tag.is_empty());
    tags.map(|(_, tag)| tag.into_owned()).collect()
}

/// Returns whether only passing instances are asked for: `passing` alone or with another value than
/// `false`.
fn passing(request: &HttpRequest) -> bool {
    parameter(request, "passing").is_some_and(|value| !matches!(value.as_str(), "false" | "0"))
}

/// Answers with a list over all services, which is kept if the caller may see all.
async fn over_all(
    request: &HttpRequest,
    api: &Api,
    caller: &Caller,
    list: ConsulList,
    make: impl Fn(&[Arc<ScopeSnapshot>]) -> Vec<u8>,
) -> Answer {
    check_parameters(request)?;
    let index = wait(request, api, None).await?;
    let body = if caller.limit().is_none() {
        let version = || api.directory.version();
        let make = || async { make(&api.directory.scopes(ScopeKind::Service)).into() };
        api.facades.consul.get(list, version, make).await
    } else {
        make(&visible_services(api, caller)).into()
    };
    Ok(respond(api, index, body))
}

/// Lists the instances of a service with their health.
pub(in crate::http) async fn health(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    check_parameters(&request)?;
    let scope = named_scope(&request, &caller)?;
    let index = wait(&request, &api, Some(&scope)).await?;
    let (tags, passing) = (tags(&request), passing(&request));
    let make = |view: &ScopeSnapshot| {
        let shown = view.iter().map(Shown::of);
        let passing_only = |one: &Shown<'_>| !passing || one.status() == CheckStatus::Passing;
        let selected = shown.filter(|one| one.has_tags(&tags) && passing_only(one));
        json_bytes(&Vec::from_iter(selected.map(|one| one.health())))
    };
    let name = if passing {
        "consul.passing"
    } else {
        "consul.health"
    };
    let body = of_view(&api, &scope, tags.is_empty().then_some(name), make);
    Ok(respond(&api, index, body))
}

/// Returns a body about a service, which is kept with its snapshot if it has a name.
fn of_view(
    api: &Api,
    scope: &Scope,
    name: Option<&'static str>,
    make: impl FnOnce(&ScopeSnapshot) -> Vec<u8>,
) -> Bytes {
    match (api.directory.scope(scope), name) {
        (None, _) => Bytes::from_static(b"[]"),
        (Some(view), Some(name)) => view.named_body(name, make),
        (Some(view), None) => make(&view).into(),
    }
}

/// Lists the checks of a service.
pub(in crate::http) async fn checks_of_service(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    check_parameters(&request)?;
    let scope = named_scope(&request, &caller)?;
    let index = wait(&request, &api, Some(&scope)).await?;
    let body = of_view(&api, &scope, Some("consul.checks"), checks_of);
    Ok(respond(&api, index, body))
}

/// Lists the instances of a service.
pub(in crate::http) async fn service(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    check_parameters(&request)?;
    let scope = named_scope(&request, &caller)?;
    let index = wait(&request, &api, Some(&scope)).await?;
    let tags = tags(&request);
    let make = |view: &ScopeSnapshot| {
        let shown = view.iter().map(Shown::of).filter(|one| one.has_tags(&tags));
        json_bytes(&Vec::from_iter(shown.map(|one| one.catalog())))
    };
    let name = tags.is_empty().then_some("consul.catalog");
    let body = of_view(&api, &scope, name, make);
    Ok(respond(&api, index, body))
}

/// Lists all services with their tags.
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let make = |scopes: &[Arc<ScopeSnapshot>]| {
        let members = scopes
            .iter()
            .map(|view| view.named_body("consul.tags", tags_of));
        let mut members: Vec<Bytes> = members.filter(|member| !member.is_empty()).collect();
        // Consul lists its own servers.
        if !members
            .iter()
            .any(|member| member.starts_with(b"\"consul\":"))
        {
            members.push(Bytes::from_static(b"\"consul\":[]"));
        }
        [b"{", &*members.join(&b','), b"}"].concat()
    };
    over_all(&request, &api, &caller, ConsulList::Services, make).await
}

/// Returns the name of a service with its tags, a member of a JSON object; nothing for a service
/// without instances.
fn tags_of(view: &ScopeSnapshot) -> Vec<u8> {
    let (mut name, mut tags) = (None, BTreeSet::new());
    for shown in view.iter().map(Shown::of) {
        tags.extend(shown.tags().iter().cloned());
        name.get_or_insert_with(|| shown.name().to_owned());
    }
    let member = |name: String| [json_bytes(&name), json_bytes(&tags)].join(&b':');
    name.map(member).unwrap_or_default()
}

/// Returns the checks of a service, a list in JSON.
fn checks_of(view: &ScopeSnapshot) -> Vec<u8> {
    let checks = view.iter().flat_map(|listed| Shown::of(listed).checks());
    json_bytes(&Vec::from_iter(checks))
}

/// Lists the checks with a status, over all services.
pub(in crate::http) async fn checks_in_state(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let NamePath { name } = variables(&request)?;
    let state = match name.as_str() {
        "any" => None,
        name => {
            let state = CheckStatus::parse(name);
            let reason = "must be any, passing, warning or critical";
            Some(state.ok_or_else(|| Problem::invalid("state", reason))?)
        }
    };
    let make = |scopes: &[Arc<ScopeSnapshot>]| {
        if state.is_none() {
            let lists = scopes
                .iter()
                .map(|view| view.named_body("consul.checks", checks_of));
            let lists = lists.map(|list| list.slice(1..list.len() - 1));
            let lists: Vec<Bytes> = lists.filter(|list| !list.is_empty()).collect();
            return [b"[", &*lists.join(&b','), b"]"].concat();
        }
        let listed = scopes.iter().flat_map(|view| view.iter());
        let checks = listed.flat_map(|listed| Shown::of(listed).checks());
        let selected = checks.filter(|check| state.is_none_or(|state| check.status == state));
        json_bytes(&Vec::from_iter(selected))
    };
    over_all(&request, &api, &caller, ConsulList::Checks(state), make).await
}

/// Returns the instances of a node.
fn of_node<'a>(listed: &'a [Arc<InstanceEntry>], name: &str) -> impl Iterator<Item = Shown<'a>> {
    let shown = listed.iter().map(|listed| Shown::of(listed));
    shown.filter(move |one| one.host() == name)
}

/// Lists the checks of a node.
pub(in crate::http) async fn checks_of_node(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    check_parameters(&request)?;
    let NamePath { name } = variables(&request)?;
    let index = wait(&request, &api, None).await?;
    let listed = visible_instances(&api, &caller);
    let checks: Vec<Check> = of_node(&listed, &name)
        .flat_map(|one| one.checks())
        .collect();
    Ok(respond(&api, index, json_bytes(&checks).into()))
}

/// Lists the nodes: the hosts of all instances.
pub(in crate::http) async fn nodes(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let make = |scopes: &[Arc<ScopeSnapshot>]| {
        let listed = scopes.iter().flat_map(|view| view.iter());
        let hosts: BTreeSet<&str> = listed.map(|it| it.instance.key.address.host()).collect();
        json_bytes(&Vec::from_iter(hosts.into_iter().map(Node::of)))
    };
    over_all(&request, &api, &caller, ConsulList::Nodes, make).await
}

/// Shows a node with its services.
pub(in crate::http) async fn node(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    check_parameters(&request)?;
    let NamePath { name } = variables(&request)?;
    let index = wait(&request, &api, None).await?;
    let listed = visible_instances(&api, &caller);
    let services = of_node(&listed, &name).map(|one| (one.id.clone(), one.agent()));
    let services: BTreeMap<String, Value> = services.collect();
    let shown = match services.is_empty() {
        true => Value::Null,
        false => json!({ "Node": Node::of(&name), "Services": services }),
    };
    Ok(respond(&api, index, json_bytes(&shown).into()))
}

/// Lists the data centers.
pub(in crate::http) async fn datacenters() -> HttpResponse {
    HttpResponse::Ok().json([DATACENTER])
}
