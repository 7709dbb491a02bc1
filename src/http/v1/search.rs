//! `/v1/instances`: the instances of all scopes, selected and page by page.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::instance_response::ListedInstanceResponse;
use super::scopes;
use super::selection_query::{Accepts, FilterParams, MAX_LIMIT, ScopeParams, SelectionQuery};
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::http::access::Caller;
use crate::http::conditional::Conditional;
use crate::http::openapi::responses::{AuthErrors, BadRequest};
use crate::http::{Api, Problem};
use crate::model::{Address, InstanceKey, Scope, ScopeKey, ScopeKind, Selection};

/// The number of instances in a page, unless the request says another.
const DEFAULT_LIMIT: usize = 100;

/// The pages of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters of SelectionQuery")]
pub(in crate::http) struct PageParams {
    /// The number of instances in the page.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<u16>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

const _: () = assert!(MAX_LIMIT == 10_000, "as documented");

/// A page of instances.
#[derive(Serialize, ToSchema)]
#[schema(as = InstancePage)]
pub(in crate::http) struct InstancePageResponse<'a> {
    /// The list may be out of date: the lease store or the event log is unavailable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    instances: Vec<ListedInstanceResponse<'a>>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Lists instances of all scopes: services and then groups, by key and address. A token that is
/// limited to scopes sees the instances of these. With `If-None-Match` and `wait`, the request is
/// held until the page differs.
#[utoipa::path(
    get, path = "/v1/instances", operation_id = "search_instances", tag = "instances",
    params(ScopeParams, FilterParams, PageParams, ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the page that the client has")),
    responses(
        (status = 200, description = "a page of the selected instances", body = InstancePageResponse<'_>, headers(("ETag" = String, description = "depends on the content only"))),
        (status = 304, description = "the client has the current page"),
        BadRequest, AuthErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let accepted = [Accepts::Scopes, Accepts::Filters, Accepts::Pages];
    let SelectionQuery {
        selection,
        wait,
        limit,
        cursor,
        ..
    } = SelectionQuery::of(&request, &accepted)?;
    caller.check_selection(&selection)?;
    let after = cursor.as_deref().map(parse_cursor).transpose()?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let conditional = Conditional::new(&request, &api, wait)?;
    let list = format!(
        "instances {selection:?} {after:?} {limit} {:?}",
        caller.limit()
    );
    let answer = || {
        let make = || page(&api, &caller, &selection, after.as_ref(), limit);
        conditional.unless_known(api.bodies.get(api.directory.version(), &list, make))
    };
    let changed = api.directory.wait_for_any(conditional.deadline, answer);
    Ok(conditional.answer(&api, changed).await)
}

/// Serialises the page after a position.
fn page(
    api: &Api,
    caller: &Caller,
    selection: &Selection,
    after: Option<&InstanceKey>,
    limit: usize,
) -> Vec<u8> {
    let scopes = selected_scopes(api, caller, selection);
    let is_later = |key: &InstanceKey| after.is_none_or(|after| position(key) > position(after));
    let is_behind = |scope: &ScopeSnapshot| {
        let (Some(after), Some(record)) = (after, &scope.record) else {
            return false;
        };
        scope_position(&record.scope) < scope_position(&after.scope)
    };
    let scopes = scopes.iter().skip_while(|scope| is_behind(scope));
    let selected = scopes.flat_map(|scope| scope.select(selection));
    let mut rest = selected
        .filter(|listed| is_later(&listed.instance.key))
        .peekable();
    let taken: Vec<&InstanceEntry> = rest.by_ref().take(limit).collect();
    let last = taken.last().map(|last| &last.instance.key);
    let next_cursor = rest.peek().and(last).map(cursor_after);
    let default_ttl = api.default_ttl;
    let list = InstancePageResponse {
        stale: api.directory.is_stale(),
        instances: taken
            .into_iter()
            .map(|listed| ListedInstanceResponse::of(listed, default_ttl))
            .collect(),
        next_cursor,
    };
    // Serialising plain data cannot fail.
    serde_json::to_vec(&list).unwrap_or_default()
}

/// Returns the scopes of which instances may be selected: those that the selection names or all,
/// as far as the token permits them. Services come first, then groups, each by key.
pub(super) fn selected_scopes(
    api: &Api,
    caller: &Caller,
    selection: &Selection,
) -> Vec<Arc<ScopeSnapshot>> {
    let kinds = [ScopeKind::Service, ScopeKind::Group];
    let all = kinds.into_iter().flat_map(|kind| match kind {
        _ if !selection.names_scopes() => scopes::visible(api, caller, kind),
        ScopeKind::Service => named(api, kind, &selection.services),
        ScopeKind::Group => named(api, kind, &selection.groups),
    });
    let permitted = |scope: &Arc<ScopeSnapshot>| {
        let record = scope.record.as_ref();
        record.is_some_and(|record| caller.check(&record.scope).is_ok())
    };
    all.filter(permitted).collect()
}

fn named(api: &Api, kind: ScopeKind, keys: &[ScopeKey]) -> Vec<Arc<ScopeSnapshot>> {
    let mut keys: Vec<_> = keys.to_vec();
    keys.sort();
    keys.dedup();
    let scopes = keys.into_iter();
    scopes
        .filter_map(|key| api.directory.scope(&kind.with(key)))
        .collect()
}

fn scope_position(scope: &Scope) -> (bool, &str) {
    (scope.kind == ScopeKind::Group, scope.key.as_str())
}

fn position(key: &InstanceKey) -> ((bool, &str), &Address) {
    (scope_position(&key.scope), &key.address)
}

/// Returns the cursor of the page after an instance.
fn cursor_after(key: &InstanceKey) -> String {
    let Scope { kind, key: scope } = &key.scope;
    let text = format!("{} {scope} {}", kind.as_str(), key.address);
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn parse_cursor(cursor: &str) -> Result<InstanceKey, Problem> {
    let parse = || {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.split(' ');
        let kind: ScopeKind = parts.next()?.parse().ok()?;
        Some(InstanceKey {
            scope: kind.with(parts.next()?.parse().ok()?),
            address: parts.next()?.parse().ok()?,
        })
    };
    parse()
        .ok_or_else(|| Problem::invalid("cursor", "must be the next_cursor of an earlier answer"))
}
