//! The list of the instances of a scope: from memory, with an ETag, and on request once it has
//! changed.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{Fields, Selected};
use super::instance_response::ListedInstanceResponse;
use super::selection_query::{Accepts, FieldsParams, FilterParams, SelectionQuery};
use crate::directory::{Body, InstanceEntry, InstanceFilter, ScopeSnapshot};
use crate::http::conditional::Conditional;
use crate::http::extract::ScopePath;
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, NotFound, OutcomeErrors, ScopePathParams,
};
use crate::http::openapi::schema;
use crate::http::{Api, Problem};
use crate::model::{ScopeKind, Selection, Ttl};

/// The instances of a scope.
#[derive(Serialize, ToSchema)]
#[schema(as = InstanceList)]
pub(in crate::http) struct InstanceListResponse<'a> {
    /// The list may be out of date: the lease store or the event log is unavailable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    #[schema(schema_with = schema::instances_or_fields)]
    instances: Vec<Selected<'a>>,
}

/// What changed since an earlier list: the answer to a request with `since`, unless that list is too
/// old.
#[derive(Serialize, ToSchema)]
#[schema(as = ListChanges)]
pub(in crate::http) struct ListChangesResponse<'a> {
    /// The list may be out of date: the lease store or the event log is unavailable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    /// The tag of the earlier list.
    since: &'a str,
    /// The instances that are new in the list, or other than before.
    #[schema(schema_with = schema::instances_or_fields)]
    changed: Vec<Selected<'a>>,
    /// The addresses of those that are not in the list any more.
    removed: Vec<&'a str>,
}

/// The two forms of the answer.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer in the API document")]
pub(in crate::http) enum ListAnswer<'a> {
    List(InstanceListResponse<'a>),
    Changes(ListChangesResponse<'a>),
}

/// Lists the instances of a group or service. An unknown service has none; a group must be
/// declared. With `If-None-Match` and `wait`, the request is held until the list differs.
#[utoipa::path(
    get, path = "/v1/{kind}/{key}/instances", operation_id = "list_instances", tag = "instances",
    params(ScopePathParams, FilterParams, FieldsParams,
        ("since" = Option<String>, Query, description = "the `ETag` of an earlier list, if only what changed since then is requested"),
        ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has")),
    responses(
        (status = 200, description = "the instances, sorted by address; with `since` what changed, unless the earlier list is too old", body = ListAnswer<'_>, headers(("ETag" = String, description = "depends on the content only"))),
        (status = 304, description = "the client has the current list"),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    ScopePath(scope): ScopePath,
) -> Result<HttpResponse, Problem> {
    let SelectionQuery {
        selection,
        wait,
        since,
        fields,
        ..
    } = SelectionQuery::of(
        &request,
        &[Accepts::Filters, Accepts::Changes, Accepts::Fields],
    )?;
    if scope.kind == ScopeKind::Group && api.directory.declared(&scope).await?.is_none() {
        return Err(Problem::scope_not_found(&scope));
    }
    let conditional = Conditional::new(&request, &api, wait)?;
    let conditional = match &since {
        Some(since) => conditional.also_known(since),
        None => conditional,
    };
    let answer = |view: Option<&ScopeSnapshot>| {
        let wanted = Wanted {
            selection: &selection,
            fields: &fields,
            stale: api.directory.is_stale(),
            default_ttl: api.default_ttl,
        };
        let nothing = ScopeSnapshot::default();
        let view = view.unwrap_or(&nothing);
        let list = conditional.unless_known(wanted.list(view))?;
        let since = since.as_deref();
        let changes = since.and_then(|since| wanted.changes(view, since, &list));
        Some(changes.unwrap_or(list))
    };
    let changed = api.directory.wait(&scope, conditional.deadline, answer);
    Ok(conditional.answer(&api, changed).await)
}

/// What a request wants of a list.
struct Wanted<'a> {
    selection: &'a Selection,
    fields: &'a Fields,
    stale: bool,
    default_ttl: Ttl,
}

impl Wanted<'_> {
    /// Returns the list. Without other conditions than presence it is serialised once per snapshot.
    fn list(&self, view: &ScopeSnapshot) -> Body {
        match InstanceFilter::of(self.selection) {
            Some(filter) if self.fields.are_all() => view
                .body(filter, self.stale, |view| self.bytes(view))
                .clone(),
            Some(filter) => {
                let name = format!("{filter:?} {} {:?}", self.stale, self.fields);
                view.named_list(name, |view| self.bytes(view))
            }
            None => view.noted(Body::new(self.bytes(view))),
        }
    }

    fn bytes(&self, view: &ScopeSnapshot) -> Vec<u8> {
        let selected = view.select(self.selection);
        let list = InstanceListResponse {
            stale: self.stale,
            instances: selected.map(|listed| self.shown(listed)).collect(),
        };
        // Serialising plain data cannot fail.
        serde_json::to_vec(&list).unwrap_or_default()
    }

    /// Returns what changed since the list with a tag, with the tag of the present `list`; or `None` if
    /// the earlier list is too old.
    fn changes(&self, view: &ScopeSnapshot, since: &str, list: &Body) -> Option<Body> {
        let name = format!(
            "{since} {} {:?} {:?}",
            self.stale, self.selection, self.fields
        );
        view.changes_since(since, name, |differences| {
            let (mut changed, mut removed) = (Vec::new(), Vec::new());
            for (before, now) in differences {
                let is_selected =
                    |listed: &&Arc<InstanceEntry>| self.selection.selects(&listed.instance);
                match (before.filter(is_selected), now.filter(is_selected)) {
                    (_, Some(now)) => changed.push(self.shown(now)),
                    (Some(before), None) => removed.push(before.instance.key.address.as_str()),
                    (None, None) => {}
                }
            }
            let changes = ListChangesResponse {
                stale: self.stale,
                since,
                changed,
                removed,
            };
            // Serialising plain data cannot fail.
            let changes = serde_json::to_vec(&changes).unwrap_or_default();
            Body::with_etag(changes, list.etag().to_owned())
        })
    }

    fn shown<'a>(&'a self, listed: &'a InstanceEntry) -> Selected<'a> {
        Selected {
            instance: ListedInstanceResponse::of(listed, self.default_ttl),
            fields: self.fields,
        }
    }
}
