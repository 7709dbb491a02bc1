//! `/v1/attention`: what an operator should look at.

use std::cmp::Reverse;

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::scope_name::ScopeName;
use super::scopes::visible;
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::http::access::Caller;
use crate::http::openapi::responses::{AuthErrors, OutcomeErrors};
use crate::http::{Api, compression};
use crate::model::{InstanceKey, Note, ScopeKind, Status, rfc3339_millis};

/// The most entries of a kind.
const LIMIT: usize = 50;

/// The number of transitions within an hour from which an instance is flapping: three times offline
/// and online again.
const FLAPS: usize = 6;

/// The age from which a hold without an end may have been forgotten.
const OLD_HOLD: TimeDelta = TimeDelta::days(3);

/// What an operator should look at, the most urgent first.
#[derive(Serialize, ToSchema)]
#[schema(as = Attention)]
pub(in crate::http) struct AttentionResponse {
    /// Scopes that have instances, none of them available.
    unavailable: Entries<UnavailableScope>,
    /// Gateways that no operator has enabled yet.
    waiting: Entries<ListedKey>,
    /// Instances that go online and offline again and again.
    flapping: Entries<FlappingInstance>,
    /// Instances that have been held for more than three days, without an end.
    old_holds: Entries<OldHold>,
}

/// The first entries, and the number of all.
#[derive(Serialize, ToSchema)]
struct Entries<T> {
    total: usize,
    first: Vec<T>,
}

impl<T> Entries<T> {
    fn of(mut all: Vec<T>) -> Self {
        let total = all.len();
        all.truncate(LIMIT);
        Self { total, first: all }
    }
}

#[derive(Serialize, ToSchema)]
struct UnavailableScope {
    #[serde(flatten)]
    scope: ScopeName,
    instances: usize,
    online: usize,
    held: usize,
    disabled: usize,
    /// When an instance of it last changed or went online or offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    since: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ListedKey {
    #[serde(flatten)]
    scope: ScopeName,
    address: String,
    since: String,
}

impl ListedKey {
    fn of(key: &InstanceKey, since: DateTime<Utc>) -> Self {
        Self {
            scope: (&key.scope).into(),
            address: key.address.to_string(),
            since: rfc3339_millis(since),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct FlappingInstance {
    #[serde(flatten)]
    scope: ScopeName,
    address: String,
    /// How often it went online or offline within the last hour.
    transitions: usize,
}

#[derive(Serialize, ToSchema)]
struct OldHold {
    #[serde(flatten)]
    instance: ListedKey,
    held_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

impl OldHold {
    fn of(listed: &InstanceEntry, latest: DateTime<Utc>) -> Option<Self> {
        let instance = &listed.instance;
        let hold = instance.hold.as_ref()?;
        let is_old = hold.until.is_none() && instance.updated_at < latest;
        is_old.then(|| Self {
            instance: ListedKey::of(&instance.key, instance.updated_at),
            held_by: hold.by.clone(),
            reason: hold
                .reason
                .as_ref()
                .map(|reason| Note::as_str(reason).to_owned()),
        })
    }
}

/// Returns what an operator should look at, from memory: at most 50 entries of each kind, and the
/// number of all. A token that is limited to scopes sees these.
#[utoipa::path(
    get, path = "/v1/attention", operation_id = "get_attention", tag = "operators",
    responses((status = 200, description = "what needs attention", body = AttentionResponse), AuthErrors, OutcomeErrors)
)]
pub(in crate::http) async fn show(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> HttpResponse {
    let now = api.clock.now();
    let kinds = [ScopeKind::Service, ScopeKind::Group];
    let scopes: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| visible(&api, &caller, kind))
        .collect();
    let unavailable = scopes.iter().filter_map(|view| unavailable(view));
    let groups = scopes
        .iter()
        .filter(|view| view.counts.disabled > 0 && is_group(view));
    let gateways = groups.flat_map(|view| view.iter());
    let disabled = gateways.filter(|listed| listed.instance.status == Status::Disabled);
    let waiting = disabled.map(|it| ListedKey::of(&it.instance.key, it.instance.updated_at));
    let with_holds = scopes.iter().filter(|view| view.counts.held > 0);
    let held = with_holds.flat_map(|view| view.iter());
    let mut old_holds: Vec<_> = held
        .filter_map(|it| OldHold::of(it, now - OLD_HOLD))
        .collect();
    old_holds.sort_by(|a, b| a.instance.since.cmp(&b.instance.since));
    let is_visible = |key: &InstanceKey| caller.check(&key.scope).is_ok();
    let flapping = api
        .history
        .flapping(now, FLAPS, usize::MAX, is_visible)
        .into_iter();
    let flapping = flapping.map(|(key, transitions)| FlappingInstance {
        scope: (&key.scope).into(),
        address: key.address.to_string(),
        transitions,
    });
    let mut unavailable: Vec<_> = unavailable.collect();
    // An outage comes before what operators took out.
    unavailable.sort_by_key(|scope| (scope.held == scope.instances, Reverse(scope.instances)));
    compression::json(
        &request,
        &AttentionResponse {
            unavailable: Entries::of(unavailable),
            waiting: Entries::of(waiting.collect()),
            flapping: Entries::of(flapping.collect()),
            old_holds: Entries::of(old_holds),
        },
    )
}

fn is_group(view: &ScopeSnapshot) -> bool {
    let record = view.record.as_ref();
    record.is_some_and(|record| record.scope.kind == ScopeKind::Group)
}

fn unavailable(view: &ScopeSnapshot) -> Option<UnavailableScope> {
    let counts = view.counts;
    let record = view.record.as_ref()?;
    (counts.instances > 0 && counts.available == 0).then(|| UnavailableScope {
        scope: (&record.scope).into(),
        instances: counts.instances,
        online: counts.online,
        held: counts.held,
        disabled: counts.disabled,
        since: view.changed_at().map(rfc3339_millis),
    })
}
