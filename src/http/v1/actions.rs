//! `/v1/actions`: what operators did.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::history_query::{HistoryParams, HistoryQuery};
use super::instance_response::RegistrantResponse;
use crate::http::access::Caller;
use crate::http::openapi::responses::{AuthErrors, BadRequest, OutcomeErrors};
use crate::http::problem::InField;
use crate::http::{Api, Problem, compression};
use crate::model::{ActionRecord, ActionSelection, AddressPattern, ScopeKind, rfc3339_millis};

/// An action of an operator.
#[derive(Serialize, ToSchema)]
#[schema(as = Action)]
pub(in crate::http) struct ActionResponse<'a> {
    id: String,
    at: String,
    by: RegistrantResponse<'a>,
    #[schema(value_type = String, pattern = "^(hold|enable|disable|override|deregister|declare|remove|release)$")]
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    address: Option<&'a str>,
    /// The changed fields of the instance before the action.
    #[schema(value_type = Object)]
    before: &'a Map<String, Value>,
    /// The same after the action; of a change of many instances, the change.
    #[schema(value_type = Object)]
    after: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'a str>,
    /// The number of instances that were changed.
    instances: u64,
}

/// A page of actions.
#[derive(Serialize, ToSchema)]
#[schema(as = ActionPage)]
pub(in crate::http) struct ActionPageResponse<'a> {
    actions: Vec<ActionResponse<'a>>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

impl<'a> ActionResponse<'a> {
    fn of(record: &'a ActionRecord) -> Self {
        let action = &record.action;
        let scope = action.subject.scope();
        Self {
            id: record.id.to_string(),
            at: rfc3339_millis(record.at),
            by: (&action.by).into(),
            action: action.kind.as_str(),
            group: scope.and_then(|scope| scope.key_of(ScopeKind::Group)),
            service: scope.and_then(|scope| scope.key_of(ScopeKind::Service)),
            address: action.subject.instance().map(|key| key.address.as_str()),
            before: &action.before,
            after: &action.after,
            reason: action.reason.as_ref().map(|reason| reason.as_str()),
            instances: action.count,
        }
    }
}

/// Lists what operators did, the latest first, from the registry store. A token that is limited to
/// scopes sees the actions on a single one of these.
#[utoipa::path(
    get, path = "/v1/actions", operation_id = "list_actions", tag = "operators",
    params(HistoryParams, ("action" = Option<String>, Query, description = "Only actions of this kind.", pattern = "^(hold|enable|disable|override|deregister|declare|remove|release)$")),
    responses(
        (status = 200, description = "a page of actions", body = ActionPageResponse<'_>),
        BadRequest, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let query = HistoryQuery::of(&request, &caller, "action", api.clock.now())?;
    if query.scopes.len() > 1 {
        let reason = "must be given once, and not together with group: one scope can be selected";
        return Err(Problem::invalid("service", reason));
    }
    if query.kinds.len() > 1 {
        return Err(Problem::invalid("action", "must not be given twice"));
    }
    let cursor = query.cursor.as_deref().map(str::parse).transpose();
    let cursor = cursor
        .map_err(|_| Problem::invalid("cursor", "must be the next_cursor of an earlier answer"))?;
    let selection = ActionSelection {
        scope: query.scopes.into_iter().next(),
        address: match query.address {
            None => None,
            Some(AddressPattern::Address(address)) => Some(address),
            Some(AddressPattern::Host(_)) => {
                return Err(Problem::invalid("address", "must have a port"));
            }
        },
        token: query.by,
        kind: query
            .kinds
            .first()
            .map(|kind| kind.parse().in_field("action"))
            .transpose()?,
        since: query.since,
        until: query.until,
        within: caller.limit().map(|limit| limit.parts()),
    };
    // One more than the page tells whether there is another one.
    let limit = u16::try_from(query.limit + 1).unwrap_or(u16::MAX);
    let mut actions = api.reader.list_actions(&selection, cursor, limit).await?;
    let is_last = actions.len() <= query.limit;
    actions.truncate(query.limit);
    let last = actions.last().filter(|_| !is_last);
    Ok(compression::json(
        &request,
        &ActionPageResponse {
            actions: actions.iter().map(ActionResponse::of).collect(),
            next_cursor: last.map(|last| last.id.to_string()),
        },
    ))
}
