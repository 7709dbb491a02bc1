//! `/v1/replicas`: the replicas that run.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::openapi::responses::{AuthErrors, OutcomeErrors};
use crate::model::{ReplicaId, ReplicaState, rfc3339_millis};

/// A running replica.
#[derive(Serialize, ToSchema)]
#[schema(as = Replica)]
struct ReplicaResponse<'a> {
    id: &'a str,
    /// The name of its host.
    host: &'a str,
    /// It answers this request.
    answers: bool,
    /// What it said about itself within the last 5 seconds; absent for one of an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    state: Option<StateResponse<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReplicaState)]
struct StateResponse<'a> {
    version: &'a str,
    started_at: String,
    /// The instances that it knows, and how many of them are online. All replicas know the same.
    instances: u64,
    online: u64,
    /// The event streams that it serves.
    streams: u64,
    /// The number of roll calls that it sent.
    roll_calls_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_reconcile_at: Option<String>,
}

/// All running replicas.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplicaList)]
pub(in crate::http) struct ReplicaListResponse<'a> {
    replicas: Vec<ReplicaResponse<'a>>,
}

impl<'a> ReplicaResponse<'a> {
    fn of(id: &'a ReplicaId, state: Option<&'a ReplicaState>, answers: bool) -> Self {
        Self {
            id: &id.0,
            host: id.host(),
            answers,
            state: state.map(|state| StateResponse {
                version: &state.version,
                started_at: rfc3339_millis(state.started_at),
                instances: state.instances,
                online: state.online,
                streams: state.streams,
                roll_calls_sent: state.roll_calls_sent,
                last_reconcile_at: state.last_reconcile_at.map(rfc3339_millis),
            }),
        }
    }
}

/// Lists the replicas that run: this one, and those that said so in the registry store within the last
/// 5 seconds.
#[utoipa::path(
    get, path = "/v1/replicas", operation_id = "list_replicas", tag = "daemon",
    responses((status = 200, description = "the replicas, by ID", body = ReplicaListResponse<'_>), AuthErrors, OutcomeErrors)
)]
pub(in crate::http) async fn list(api: web::Data<Api>) -> HttpResponse {
    let (own, others) = (api.replicas.own(), api.replicas.others());
    let mut replicas = vec![ReplicaResponse::of(&api.replica, Some(&own), true)];
    let states = others
        .iter()
        .map(|other| (&other.replica, other.state.as_ref()));
    replicas.extend(states.map(|(id, state)| ReplicaResponse::of(id, state, false)));
    replicas.sort_by_key(|replica| replica.id);
    HttpResponse::Ok().json(ReplicaListResponse { replicas })
}
