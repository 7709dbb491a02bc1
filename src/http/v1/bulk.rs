//! `PATCH /v1/instances`: changes all selected instances.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::instances::ChangeBody;
use super::scope_name::ScopeName;
use super::search::selected_scopes;
use super::selection_query::MAX_LIMIT;
use crate::actor::{ChangeInstance, RecordAction, Requested};
use crate::http::access::Caller;
use crate::http::extract::Json;
use crate::http::openapi::responses::{AuthErrors, BodyErrors, OutcomeErrors};
use crate::http::openapi::schema;
use crate::http::presence::show_status;
use crate::http::{Api, Code, Problem};
use crate::model::{
    Action, AddressPattern, InstanceChange, InstanceKey, ScopeKey, Selection, Status, StatusChange,
    Subject,
};

/// The number of changes in flight.
const CHANGES: usize = 256;

/// The body of a change of many instances.
#[derive(Deserialize, ToSchema)]
#[schema(as = BulkChange)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BulkBody {
    selection: SelectionBody,
    change: ChangeBody,
    /// Only answers which instances would be changed.
    #[serde(default)]
    dry_run: bool,
}

/// The conditions on the instances, of which all must be met; at least one.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = Selection)]
#[serde(default, deny_unknown_fields)]
struct SelectionBody {
    /// The services.
    #[schema(value_type = Vec<String>)]
    service: Vec<ScopeKey>,
    /// The groups.
    #[schema(value_type = Vec<String>)]
    group: Vec<ScopeKey>,
    /// A part of the key of the scope, the address, the name or the metadata.
    q: Option<String>,
    #[schema(value_type = Option<String>, pattern = "^(enabled|disabled|held)$")]
    status: Option<Status>,
    online: Option<bool>,
    available: Option<bool>,
    /// Metadata entries that the instances have.
    metadata: BTreeMap<String, String>,
    /// An address, or a host with any port.
    #[schema(schema_with = schema::optional_address)]
    address: Option<AddressPattern>,
}

impl From<SelectionBody> for Selection {
    fn from(body: SelectionBody) -> Self {
        Self {
            services: body.service,
            groups: body.group,
            text: body.q.filter(|q| !q.is_empty()).map(|q| q.as_str().into()),
            status: body.status,
            online: body.online,
            available: body.available,
            metadata: body.metadata.into_iter().collect(),
            address: body.address,
        }
    }
}

/// What a change of many instances did, or would do.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkResult)]
pub(in crate::http) struct BulkResponse {
    dry_run: bool,
    /// The number of selected instances.
    selected: usize,
    /// The number of changed instances.
    changed: usize,
    scopes: Vec<ScopeEffect>,
    /// The instances that could not be changed.
    failures: Vec<Failure>,
}

/// The effect on one scope.
#[derive(Serialize, ToSchema)]
struct ScopeEffect {
    #[serde(flatten)]
    scope: ScopeName,
    /// The number of selected instances.
    selected: usize,
    /// The number of available instances before the change.
    available_before: usize,
    /// The number of available instances after the change.
    available_after: usize,
}

/// An instance that could not be changed.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkFailure)]
struct Failure {
    /// The path of the instance below `/v1/`.
    instance: String,
    code: Code,
    detail: String,
}

/// Changes all selected instances, each as `PATCH` of the instance does, at most 10,000. Answers
/// what stays available in each scope.
#[utoipa::path(
    patch, path = "/v1/instances", operation_id = "update_instances", tag = "instances",
    request_body = BulkBody,
    responses(
        (status = 200, description = "the effect of the change", body = BulkResponse),
        BodyErrors, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn change(
    api: web::Data<Api>,
    caller: Caller,
    Json(body): Json<BulkBody>,
) -> Result<HttpResponse, Problem> {
    let change = body
        .change
        .into_change(&caller, api.clock.now())
        .map_err(|p| p.within("change"))?;
    let selection = Selection::from(body.selection);
    if selection.is_empty() {
        let reason = "must have a condition, because all instances would be changed";
        return Err(Problem::invalid("selection", reason));
    }
    caller.check_selection(&selection)?;
    let (mut keys, mut scopes, mut subject) = (Vec::new(), Vec::new(), None);
    for scope in selected_scopes(&api, &caller, &selection) {
        let before = keys.len();
        let (mut available_now, mut available_then) = (0, 0);
        for listed in scope.select(&selection) {
            available_now += usize::from(listed.instance.available());
            let status = change.status.as_ref().map(StatusChange::status);
            let status = status.unwrap_or(listed.instance.status);
            available_then += usize::from(listed.instance.is_available_with(status));
            keys.push(listed.instance.key.clone());
        }
        let Some(record) = scope.record.as_ref().filter(|_| keys.len() > before) else {
            continue;
        };
        subject = Some(match subject {
            None => Subject::Scope(record.scope.clone()),
            Some(_) => Subject::Registry,
        });
        scopes.push(ScopeEffect {
            scope: (&record.scope).into(),
            selected: keys.len() - before,
            available_before: scope.counts.available,
            available_after: scope.counts.available - available_now + available_then,
        });
    }
    let selected = keys.len();
    if selected > MAX_LIMIT {
        let reason = format!("selects {selected} instances, more than {MAX_LIMIT}");
        return Err(Problem::invalid("selection", reason));
    }
    let (mut changed, mut failures) = (0, Vec::new());
    if !body.dry_run {
        failures = change_all(&api, &caller, keys, &change).await;
        changed = selected - failures.len();
        let message = RecordAction(Action::of_changes(
            &caller.registrant(),
            &change,
            subject.unwrap_or(Subject::Registry),
            changed,
        ));
        if changed > 0
            && let Err(error) = api.registry.write(message).await
        {
            // The changes are made, and their events name the operator.
            log::error!("cannot record an action of {:?}: {error}", caller.name());
        }
        caller.log_action(
            &api,
            format_args!(
                "changed {changed} of {selected} instances in {} scopes: {}",
                scopes.len(),
                change.describe()
            ),
        );
    }
    Ok(HttpResponse::Ok().json(BulkResponse {
        dry_run: body.dry_run,
        selected,
        changed,
        scopes,
        failures,
    }))
}

/// Changes instances, and returns those that could not be changed.
async fn change_all(
    api: &Api,
    caller: &Caller,
    keys: Vec<InstanceKey>,
    change: &InstanceChange,
) -> Vec<Failure> {
    let by = &caller.registrant();
    let outcomes = stream::iter(keys).map(|key| async move {
        let message = Requested {
            by: by.clone(),
            // All of them are one action.
            is_operator: false,
            write: ChangeInstance {
                key: key.clone(),
                change: change.clone(),
            },
        };
        let problem = match api.registry.write(message).await {
            Ok(Some(instance)) => {
                show_status(api, &instance).await;
                return None;
            }
            Ok(None) => Problem::instance_not_found(&key),
            Err(error) => error.into(),
        };
        Some(Failure {
            instance: key.to_string(),
            code: problem.code(),
            detail: problem.detail().to_owned(),
        })
    });
    let failures = outcomes.buffer_unordered(CHANGES);
    failures.filter_map(std::future::ready).collect().await
}
