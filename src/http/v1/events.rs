//! `/v1/events`: the events, as Server-Sent Events.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use tokio::time::{Instant, interval_at};

use super::event_response::EventResponse;
use super::selection_query::{Accepts, ScopeParams, SelectionQuery};
use crate::history::HistoryEntry;
use crate::http::access::Caller;
use crate::http::context;
use crate::http::openapi::responses::{AuthErrors, BadRequest};
use crate::http::{Api, Problem};
use crate::model::{EventId, EventKind, Selection};
use crate::replication::{FeedItem, PublishedEvent};

/// The time between comments, so that no proxy closes an idle stream.
const PING: Duration = Duration::from_secs(15);

/// The time until a client reconnects, in milliseconds.
const RETRY: u64 = 2000;

/// The same when the daemon stops, in milliseconds: clients reconnect at different times in
/// this range.
const STOP_RETRY: Range<u64> = 1000..4000;

/// An ID that no log contains: the client has missed an unknown number of events.
const UNKNOWN_ID: EventId = EventId {
    epoch: u64::MAX,
    sequence: 0,
};

/// Returns whether an event concerns the registry as a whole, or the scopes of a selection
/// that the caller's token permits.
fn concerns(selection: &Selection, caller: &Caller, kind: &EventKind) -> bool {
    kind.scope()
        .is_none_or(|scope| selection.selects_scope(scope) && caller.check(scope).is_ok())
}

/// Returns the reconnection time for the end of the stream; different for each client port.
fn reconnect_after_ms(request: &HttpRequest) -> u64 {
    let port = request.peer_addr().map_or(0, |peer| peer.port());
    STOP_RETRY.start + u64::from(port) % (STOP_RETRY.end - STOP_RETRY.start)
}

/// Formats an event. An event that is only for replicas becomes empty, and its ID is not sent.
fn frame(published: &PublishedEvent) -> Bytes {
    let kind = &published.event.kind;
    if *kind == EventKind::EventsLost {
        return Bytes::new();
    }
    let Some(entry) = HistoryEntry::of_event(published.id, &published.event) else {
        return Bytes::new();
    };
    let data = serde_json::to_string(&EventResponse::from(&entry)).unwrap_or_default();
    let (name, id) = (entry.name, entry.id);
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into()
}

/// Formats a `resync`.
fn resync(id: Option<EventId>, reason: &str) -> Bytes {
    let mut text = String::new();
    if let Some(id) = id {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: resync\ndata: {{\"reason\":\"{reason}\"}}\n\n");
    text.into()
}

/// Streams events until the client disconnects or reads too slowly, or the daemon stops.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "subscribe_events", tag = "instances",
    params(ScopeParams, ("Last-Event-ID" = Option<String>, Header, description = "the ID of the last event that the client received")),
    responses(
        (status = 200, description = "Server-Sent Events", body = String, content_type = "text/event-stream"),
        BadRequest, AuthErrors,
    )
)]
pub(in crate::http) async fn stream(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let SelectionQuery { selection, .. } = SelectionQuery::of(&request, &[Accepts::Scopes])?;
    caller.check_selection(&selection)?;
    api.spare_connection()?;
    let permit = api.admission.stream(caller.client());
    let permit = permit.map_err(|exceeded| api.shed(exceeded))?;
    context::note_wait(&request);
    let last = request.headers().get("Last-Event-ID").map(|id| {
        let id = id.to_str().unwrap_or_default().parse();
        id.unwrap_or(UNKNOWN_ID)
    });
    let items = api.feed.subscribe(last);
    let dropped = api.metrics.streams_dropped.clone();
    let items = items.filter_map(move |item| {
        future::ready(match item {
            FeedItem::From(id) => Some(format!("retry: {RETRY}\nid: {id}\n\n").into()),
            FeedItem::Event(published) if concerns(&selection, &caller, &published.event.kind) => {
                let frame = published.frame(frame);
                (!frame.is_empty()).then_some(frame)
            }
            FeedItem::Event(_) => None,
            FeedItem::Resync(id) => Some(resync(Some(id), "events were lost")),
            // Without an ID, so that the client resumes after the last event it received.
            FeedItem::Dropped => {
                dropped.inc();
                Some(resync(None, "too slow"))
            }
        })
    });
    let pings = interval_at(Instant::now() + PING, PING);
    let pings = stream::unfold(pings, |mut pings| async {
        pings.tick().await;
        Some((Bytes::from_static(b": ping\n\n"), pings))
    });
    let reconnect_ms = reconnect_after_ms(&request);
    let end = {
        let api = api.clone();
        Box::pin(async move { api.lifecycle.stopping().await })
    };
    // Ends with the events, not with the pings.
    let items = items.map(Some).chain(stream::iter([None]));
    let lines = stream::select(items, pings.map(Some))
        .take_while(|line| future::ready(line.is_some()))
        .filter_map(future::ready)
        .take_until(end)
        .chain(stream::iter([Bytes::from(format!(
            "retry: {reconnect_ms}\n\n"
        ))]))
        .map(move |line| {
            let _permit = &permit;
            Ok::<_, actix_web::Error>(line)
        });
    // The connection is closed at the end of the stream.
    Ok(HttpResponse::Ok()
        .force_close()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CONTENT_ENCODING, "identity"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(lines.boxed_local()))
}
