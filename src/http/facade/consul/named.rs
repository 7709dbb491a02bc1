//! The services and checks that requests name by their IDs.

use std::sync::Arc;

use actix_web::HttpRequest;
use serde::Deserialize;
use serde_json::Value;

use super::entry::service_id;
use crate::directory::InstanceEntry;
use crate::http::access::Caller;
use crate::http::facade::key::scope_key;
use crate::http::facade::{AnyBody, Refusal, find_computed, variables};
use crate::http::problem::InField;
use crate::http::{Api, Code, Problem, presence};
use crate::model::{Protocol, Scope, ScopeKind};

/// A name in a path.
#[derive(Deserialize)]
pub(super) struct NamePath {
    pub(super) name: String,
}

/// Returns the service that a path names.
pub(super) fn named_scope(request: &HttpRequest, caller: &Caller) -> Result<Scope, Problem> {
    let NamePath { name } = variables(request)?;
    let scope = ScopeKind::Service.with(scope_key(&name).in_field("service")?);
    caller.check(&scope)?;
    Ok(scope)
}

/// Reads a body in JSON.
pub(super) fn body(AnyBody(body): &AnyBody) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let reason = format!("the body is not JSON: {error}");
        Problem::new(Code::InvalidJson, reason)
    })
}

/// Returns the instance that a path names by the ID of its service.
pub(super) async fn named_service(
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
pub(super) async fn named(
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

/// Refuses an ID, in the words of Consul.
pub(super) fn unknown(kind: &str, id: &str) -> Refusal {
    let detail = format!(
        "Unknown {kind} ID {id:?}. Ensure that the {kind} ID is passed, not the {kind} name."
    );
    Problem::new(Code::InstanceNotFound, detail).into()
}
