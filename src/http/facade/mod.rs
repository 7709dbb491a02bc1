//! The protocols of other registries, on the same messages and the same Directory. Each is off
//! unless `--facades` names it.
//!
//! A handler translates a request into the model, sends the same messages as the endpoints of
//! Rollcall's own API, and writes the answer as the clients of its protocol expect it. The values that
//! only these clients use are in a reserved entry of the metadata
//! ([`Protocol::entry`](crate::model::Protocol::entry)).

mod consul;
mod eureka;
mod key;
mod lists;
mod nacos;
mod published;
#[cfg(test)]
mod random;
pub(super) mod table;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use self::consul::ConsulList;
use self::eureka::EurekaList;
use self::lists::ListCache;
use super::access::Caller;
use super::extract::BODY_LIMIT;
use super::{Api, Code, Problem, dialect, extract};
use crate::directory::{Directory, InstanceEntry, KeyParts, ScopeSnapshot};
use crate::model::{Address, Field, InstanceKey, Protocol, Registration, ScopeKind};

/// The protocols of other registries that are served, and the state that their handlers share.
pub(crate) struct Facades {
    protocols: Vec<Protocol>,
    /// The bodies of Eureka's lists.
    eureka: ListCache<EurekaList>,
    /// The bodies of Consul's lists.
    consul: ListCache<ConsulList>,
    started: Instant,
    /// Whether a worker renews the leases that have no client.
    has_keeper: AtomicBool,
}

impl Facades {
    /// Serves these protocols.
    pub(crate) fn new(mut protocols: Vec<Protocol>, directory: &Directory) -> Self {
        protocols.sort_unstable();
        protocols.dedup();
        if protocols.contains(&Protocol::Eureka) {
            directory.keep_changes(eureka::DELTA_TIME);
        }
        Self {
            protocols,
            eureka: ListCache::default(),
            consul: ListCache::default(),
            started: Instant::now(),
            has_keeper: AtomicBool::new(false),
        }
    }

    /// Starts the background work of the protocols; called by every worker.
    pub(super) fn start(api: &web::Data<Api>) {
        let facades = &api.facades;
        if facades.protocols.contains(&Protocol::Consul)
            && !facades.has_keeper.swap(true, Ordering::AcqRel)
        {
            actix_web::rt::spawn(consul::keep_online(api.clone()));
        }
    }

    /// Returns the protocols.
    pub(super) fn protocols(&self) -> &[Protocol] {
        &self.protocols
    }
}

/// A problem as the protocols of other registries have it: plain text.
#[derive(Debug)]
pub(super) struct Refusal(Problem);

impl<P: Into<Problem>> From<P> for Refusal {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        dialect::text(&self.0)
    }
}

/// The result of a handler.
type Answer = Result<HttpResponse, Refusal>;

/// A body of at most 64 KiB, of any type.
pub(super) struct AnyBody(Bytes);

impl FromRequest for AnyBody {
    type Error = Refusal;
    type Future = LocalBoxFuture<'static, Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if matches!(payload, Payload::None) {
            return Box::pin(async { Ok(Self(Bytes::new())) });
        }
        let payload = web::Payload::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let payload = payload
                .await
                .map_err(|_| Problem::new(Code::IncompleteBody, "the body was not readable"))?;
            let body = extract::read(&request, payload, BODY_LIMIT).await;
            Ok(Self(body.map_err(Problem::closing)?))
        })
    }
}

/// Returns the percent-decoded variables of a path.
fn variables<T: DeserializeOwned + 'static>(request: &HttpRequest) -> Result<T, Problem> {
    web::Path::<T>::extract(request)
        .into_inner()
        .map(web::Path::into_inner)
        .map_err(|_| Problem::invalid("path", "is not UTF-8 when percent-decoded"))
}

/// Returns the value of the first parameter of a query with this name.
fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    dialect::parameter(request, name).map(Cow::into_owned)
}

/// Returns the services that a caller may see, by key.
fn visible_services(api: &Api, caller: &Caller) -> Vec<Arc<ScopeSnapshot>> {
    let mut scopes = api.directory.scopes(ScopeKind::Service);
    scopes.retain(|view| {
        let record = view.record.as_ref();
        record.is_some_and(|record| caller.check(&record.scope).is_ok())
    });
    scopes
}

/// Returns the instances of all services that a caller may see.
fn visible_instances(api: &Api, caller: &Caller) -> Vec<Arc<InstanceEntry>> {
    let scopes = visible_services(api, caller);
    let entries = scopes.iter().flat_map(|view| view.entries());
    entries.cloned().collect()
}

/// Keeps the reserved entries of other protocols while the lease is alive: a process may register the
/// same address by several protocols.
fn keep_other_entries(api: &Api, registration: &mut Registration, own: Protocol) {
    let Field::Given(metadata) = &mut registration.metadata else {
        return;
    };
    let known = api.directory.find(&registration.key);
    let Some(known) = known.filter(|known| known.instance.presence.online) else {
        return;
    };
    for protocol in Protocol::ALL.into_iter().filter(|one| *one != own) {
        let entry = known.instance.given_metadata.of_protocol(protocol);
        // Entries that are too large together are registered by this protocol alone.
        if let Some(entry) = entry
            && let Ok(with_entry) = metadata.with_protocol(protocol, Some(entry.to_owned()))
        {
            *metadata = with_entry;
        }
    }
}

/// Returns the ID of an instance that has none in a protocol: `host:service:port`.
fn computed_id(key: &InstanceKey) -> String {
    let (address, service) = (&key.address, &key.scope.key);
    format!("{}:{service}:{}", address.host(), address.port())
}

/// Returns the instance with this computed ID.
fn find_computed(directory: &Directory, id: &str) -> Option<Arc<InstanceEntry>> {
    let (rest, port) = id.rsplit_once(':')?;
    let (host, key) = rest.rsplit_once(':')?;
    directory.find_by_parts(KeyParts {
        kind: ScopeKind::Service,
        key,
        address: &Address::text_of(host, port),
    })
}
