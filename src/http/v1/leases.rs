//! `/v1/{scope}/leases`: the remaining time of each lease of a scope, for operators. Clients
//! list available instances instead.

use std::future::ready;
use std::ptr;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::directory::{Body, ScopeSnapshot, etag};
use crate::http::conditional::{Conditional, Wait, WaitQuery};
use crate::http::extract::ScopePath;
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::problem::InField;
use crate::http::{Api, Problem};
use crate::model::{Address, InstanceKey, Scope, rfc3339_millis};

/// The most leases in one round trip to the lease store.
const INSPECT_BATCH: usize = 1000;

/// The most addresses in a request.
const MAX_ADDRESSES: usize = 100;

/// The lease of an instance.
#[derive(Serialize, ToSchema)]
#[schema(as = ActiveLease)]
pub(in crate::http) struct LeaseResponse<'a> {
    address: &'a str,
    /// The time until the lease ends without another heartbeat, in milliseconds.
    remaining_ms: u64,
    /// When the lease began, by the clock of the lease store.
    started_at: String,
}

/// The leases of a scope.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseList)]
pub(in crate::http) struct LeaseListResponse<'a> {
    leases: Vec<LeaseResponse<'a>>,
}

/// Returns the leases of the registered instances of a group or service, as the lease store has
/// them now.
#[utoipa::path(
    get, path = "/v1/{kind}/{key}/leases", operation_id = "list_leases", tag = "instances",
    params(ScopePathParams, WaitQuery, ("address" = Option<String>, Query, description = "Only the lease of this instance; may be repeated, up to 100 times."), ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has")),
    responses(
        (status = 200, description = "the leases, sorted by address", body = LeaseListResponse<'_>, headers(("ETag" = String, description = "changes when a lease begins or ends, not with the remaining time"))),
        (status = 304, description = "no lease has begun or ended"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let LeaseQuery { wait, addresses } = LeaseQuery::of(&request)?;
    let conditional = Conditional::new(&request, &api, wait)?;
    let mut before = api.directory.scope(&scope);
    let mut body = conditional.unless_known(read(&api, &scope, &addresses).await?);
    while body.is_none() && Instant::now() < conditional.deadline {
        let is_new = |view: Option<&ScopeSnapshot>| {
            let is_same = match (view, &before) {
                (Some(view), Some(before)) => ptr::eq(view, &raw const **before),
                (view, before) => view.is_none() && before.is_none(),
            };
            (!is_same).then_some(())
        };
        tokio::select! {
            changed = api.directory.wait(&scope, conditional.deadline, is_new) => {
                if changed.is_none() {
                    break;
                }
            }
            () = api.lifecycle.stopping() => break,
        }
        before = api.directory.scope(&scope);
        body = conditional.unless_known(read(&api, &scope, &addresses).await?);
    }
    Ok(conditional.answer(&api, ready(body)).await)
}

/// The parameters of a list of leases.
#[derive(Default)]
struct LeaseQuery {
    wait: Wait,
    /// The instances; all of the scope if there is none.
    addresses: Vec<Address>,
}

impl LeaseQuery {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let (mut query, mut waits) = (Self::default(), 0);
        for (name, text) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            match &*name {
                "wait" => {
                    waits += 1;
                    query.wait = Wait::try_from(text.into_owned())
                        .map_err(|_| Problem::invalid("wait", "must be a duration such as 30s"))?;
                }
                "address" => query.addresses.push(text.parse().in_field("address")?),
                _ => {
                    let reason = "is not a parameter of this route; it has address, wait";
                    return Err(Problem::invalid(name, reason));
                }
            }
        }
        if waits > 1 {
            return Err(Problem::invalid("wait", "must not be given twice"));
        }
        if query.addresses.len() > MAX_ADDRESSES {
            let reason = format!("must not be given more than {MAX_ADDRESSES} times");
            return Err(Problem::invalid("address", reason));
        }
        Ok(query)
    }
}

/// Reads the leases of a scope, or of some of its instances. The tag of the body depends on the leases
/// alone.
async fn read(api: &Api, scope: &Scope, addresses: &[Address]) -> Result<Body, Problem> {
    let view = api.directory.scope(scope);
    let all = view.iter().flat_map(|view| view.iter());
    let keys = all.map(|listed| listed.instance.key.clone());
    let keys: Vec<InstanceKey> = match addresses {
        [] => keys.collect(),
        some => keys.filter(|key| some.contains(&key.address)).collect(),
    };
    let mut leases = Vec::with_capacity(keys.len());
    for keys in keys.chunks(INSPECT_BATCH) {
        leases.extend(api.leases.inspect(keys).await?.leases);
    }
    let alive = keys.iter().zip(leases);
    let alive: Vec<_> = alive
        .filter_map(|(key, lease)| Some((key.address.as_str(), lease?)))
        .collect();
    let identities: Vec<_> = alive
        .iter()
        .map(|(address, lease)| (*address, lease.epoch))
        .collect();
    let views = alive.iter().map(|(address, lease)| LeaseResponse {
        address,
        remaining_ms: u64::try_from(lease.left.as_millis()).unwrap_or(u64::MAX),
        started_at: rfc3339_millis(lease.epoch.at()),
    });
    let list = LeaseListResponse {
        leases: views.collect(),
    };
    // Serialising plain data cannot fail.
    let etag = etag(&serde_json::to_vec(&identities).unwrap_or_default());
    let list = serde_json::to_vec(&list).unwrap_or_default();
    Ok(Body::with_etag(list, etag))
}
