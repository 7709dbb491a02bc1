//! `/v1/{scope}/leases`: the remaining time of each lease of a scope, for operators. Clients
//! list available instances instead.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::directory::InstanceFilter;
use crate::http::extract::ScopePath;
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::{Api, Problem};
use crate::model::{InstanceKey, rfc3339_millis};

/// The most leases in one round trip to the lease store.
const INSPECT_BATCH: usize = 1000;

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
    params(ScopePathParams),
    responses(
        (status = 200, description = "the leases, sorted by address", body = LeaseListResponse<'_>),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let view = api.directory.scope(&scope);
    let keys = view.iter().flat_map(|view| {
        let listed = view.list(InstanceFilter::of(false, false));
        listed.map(|listed| listed.instance.key.clone())
    });
    let keys: Vec<InstanceKey> = keys.collect();
    let mut leases = Vec::with_capacity(keys.len());
    for keys in keys.chunks(INSPECT_BATCH) {
        leases.extend(api.leases.inspect(keys).await?.leases);
    }
    let views = keys.iter().zip(leases).filter_map(|(key, lease)| {
        let lease = lease?;
        Some(LeaseResponse {
            address: key.address.as_str(),
            remaining_ms: u64::try_from(lease.left.as_millis()).unwrap_or(u64::MAX),
            started_at: rfc3339_millis(lease.epoch.at()),
        })
    });
    Ok(HttpResponse::Ok().json(LeaseListResponse {
        leases: views.collect(),
    }))
}
