//! `/v1/history`: what happened.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::event_response::EventResponse;
use super::history_query::{HistoryParams, HistoryQuery};
use crate::history::HistoryEntry;
use crate::http::access::Caller;
use crate::http::openapi::responses::{AuthErrors, BadRequest, OutcomeErrors};
use crate::http::{Api, Problem, compression};
use crate::model::{AddressPattern, EventKind, rfc3339_millis};

/// An event of the past.
#[derive(Serialize, ToSchema)]
#[schema(as = PastEvent)]
pub(in crate::http) struct PastEventResponse<'a> {
    /// The ID of the event, as in event streams.
    event_id: String,
    /// The name of the event, such as `instance.offline`.
    event: &'static str,
    #[serde(flatten)]
    data: EventResponse<'a>,
}

/// A page of the history.
#[derive(Serialize, ToSchema)]
#[schema(as = HistoryPage)]
pub(in crate::http) struct HistoryPageResponse<'a> {
    events: Vec<PastEventResponse<'a>>,
    /// The time of the oldest event that is known: what happened before is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    known_since: Option<String>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Lists events except roll calls, the latest first, from memory, as far back as the event log reaches
/// (`--event-log-length`). A token that is limited to scopes sees the events of these and of the
/// registry as a whole.
#[utoipa::path(
    get, path = "/v1/history", operation_id = "list_history", tag = "operators",
    params(HistoryParams, ("event" = Option<String>, Query, description = "Only events of this name, such as `instance.offline`; may be repeated.")),
    responses(
        (status = 200, description = "a page of events", body = HistoryPageResponse<'_>),
        BadRequest, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let query = HistoryQuery::of(&request, &caller, "event", api.clock.now())?;
    for name in &query.kinds {
        if !EventKind::NAMES.contains(&name.as_str()) {
            let known = EventKind::NAMES.join(", ");
            return Err(Problem::invalid("event", format!("must be one of {known}")));
        }
    }
    let cursor = query.cursor.as_deref().map(str::parse).transpose();
    let cursor = cursor
        .map_err(|_| Problem::invalid("cursor", "must be the next_cursor of an earlier answer"))?;
    let is_selected = |entry: &HistoryEntry| query.selects(entry) && is_visible(&caller, entry);
    // One more than the page tells whether there is another one.
    let (mut events, known_since) = api.history.list(cursor, query.limit + 1, is_selected);
    let is_last = events.len() <= query.limit;
    events.truncate(query.limit);
    let last = events.last().filter(|_| !is_last);
    Ok(compression::json(
        &request,
        &HistoryPageResponse {
            events: events
                .iter()
                .map(|entry| PastEventResponse::of(entry))
                .collect(),
            known_since: known_since.map(rfc3339_millis),
            next_cursor: last.map(|last| last.id.to_string()),
        },
    ))
}

fn is_visible(caller: &Caller, entry: &HistoryEntry) -> bool {
    entry
        .scope()
        .is_none_or(|scope| caller.check(scope).is_ok())
}

impl<'a> PastEventResponse<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            event_id: entry.id.to_string(),
            event: entry.name,
            data: entry.into(),
        }
    }
}

impl HistoryQuery {
    /// Returns whether an event meets all conditions.
    fn selects(&self, entry: &HistoryEntry) -> bool {
        let is_named = |scope| self.scopes.contains(scope);
        let has_address = |pattern: &AddressPattern| {
            let instance = entry.instance();
            instance.is_some_and(|instance| pattern.matches(&instance.key.address))
        };
        let is_by = |token: &String| entry.by.as_ref().is_some_and(|by| by.token() == token);
        (self.scopes.is_empty() || entry.scope().is_some_and(is_named))
            && self.address.as_ref().is_none_or(has_address)
            && self.by.as_ref().is_none_or(is_by)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == entry.name))
    }
}
