//! The query parameters that select instances: those of lists, of discovery and of events.

use std::collections::BTreeSet;

use actix_web::HttpRequest;
use utoipa::IntoParams;

use super::fields::Fields;
use crate::http::Problem;
use crate::http::access::Caller;
use crate::http::conditional::Wait;
use crate::http::openapi::schema;
use crate::http::problem::InField;
use crate::model::{Scope, ScopeKey, ScopeKind, Selection, Status};

/// The conditions on instances.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters of SelectionQuery")]
pub(in crate::http) struct FilterParams {
    /// Only instances with this text in the key of their scope, their address, name or metadata.
    q: Option<String>,
    /// Only instances with this status.
    #[param(pattern = "^(enabled|disabled|held)$")]
    status: Option<String>,
    /// Only instances that are online, or with `false` offline.
    online: Option<bool>,
    /// Only instances that are available (online and enabled), or with `false` the others.
    available: Option<bool>,
    /// Only instances with this metadata entry, such as `metadata.zone=a`; may be repeated.
    #[param(rename = "metadata.KEY")]
    metadata: Option<String>,
    /// Only instances at this address, or at any port of this host.
    #[param(schema_with = schema::optional_address)]
    address: Option<String>,
    /// The time to wait for a change, if the client has the current list: a duration such as
    /// `30s`, at most 45 s.
    #[param(example = "30s", pattern = "^[0-9]{1,3}(ms|s|m)$")]
    wait: Option<String>,
}

/// The fields of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters of SelectionQuery")]
pub(in crate::http) struct FieldsParams {
    /// Only these fields of each instance, and its address: names that are separated by commas.
    #[param(example = "address,weight", pattern = "^[a-z_]+(,[a-z_]+)*$")]
    fields: Option<String>,
}

/// The conditions on scopes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters of SelectionQuery")]
pub(in crate::http) struct ScopeParams {
    /// Only instances of this service; may be repeated.
    #[param(schema_with = schema::scope_key, required = false)]
    service: Option<String>,
    /// Only instances of this group; may be repeated.
    #[param(schema_with = schema::scope_key, required = false)]
    group: Option<String>,
}

/// The parameters of a route that selects instances.
#[derive(Debug, Default)]
pub(super) struct SelectionQuery {
    pub(super) selection: Selection,
    pub(super) wait: Wait,
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    /// The tag of the list whose changes are requested, without quotation marks.
    pub(super) since: Option<String>,
    pub(super) fields: Fields,
}

/// A group of parameters that a route accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    /// `q`, `status`, `online`, `available`, `metadata.KEY`, `address` and `wait`.
    Filters,
    /// `service` and `group`.
    Scopes,
    /// `limit` and `cursor`.
    Pages,
    /// `since`.
    Changes,
    /// `fields`.
    Fields,
}

impl Accepts {
    fn names(self) -> &'static str {
        match self {
            Self::Filters => "q, status, online, available, metadata.KEY, address, wait",
            Self::Scopes => "service, group",
            Self::Pages => "limit, cursor",
            Self::Changes => "since",
            Self::Fields => "fields",
        }
    }
}

impl SelectionQuery {
    /// Parses the query of a request. A parameter that the route does not accept is refused.
    pub(super) fn of(request: &HttpRequest, accepted: &[Accepts]) -> Result<Self, Problem> {
        let (mut query, mut seen) = (Self::default(), BTreeSet::new());
        for (name, text) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            let group = match &*name {
                "service" | "group" => Accepts::Scopes,
                "limit" | "cursor" => Accepts::Pages,
                "since" => Accepts::Changes,
                "fields" => Accepts::Fields,
                _ => Accepts::Filters,
            };
            let may_repeat = group == Accepts::Scopes || name.starts_with("metadata.");
            let is_known = accepted.contains(&group) && query.take(&name, &text)?;
            if !is_known {
                let known = accepted.iter().map(|group| group.names());
                let known = Vec::from_iter(known).join(", ");
                let reason = format!("is not a parameter of this route; it has {known}");
                return Err(Problem::invalid(name, reason));
            }
            if !may_repeat && !seen.insert(name.clone()) {
                return Err(Problem::invalid(name, "must not be given twice"));
            }
        }
        Ok(query)
    }

    /// Takes a parameter; returns whether it is known.
    fn take(&mut self, name: &str, text: &str) -> Result<bool, Problem> {
        let selection = &mut self.selection;
        match name {
            "service" => selection.services.push(key(name, text)?),
            "group" => selection.groups.push(key(name, text)?),
            "q" => selection.text = (!text.is_empty()).then(|| text.into()),
            "status" => selection.status = Some(text.parse::<Status>().in_field(name)?),
            "online" => selection.online = Some(truth(name, text)?),
            "available" => selection.available = Some(truth(name, text)?),
            "address" => selection.address = Some(text.parse().in_field(name)?),
            "wait" => {
                let wait = Wait::try_from(text.to_owned());
                self.wait =
                    wait.map_err(|_| Problem::invalid(name, "must be a duration such as 30s"))?;
            }
            "limit" => {
                let limit = text
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_LIMIT).contains(limit));
                self.limit = Some(limit.ok_or_else(|| {
                    Problem::invalid(name, format!("must be from 1 to {MAX_LIMIT}"))
                })?);
            }
            "cursor" => self.cursor = Some(text.to_owned()),
            "fields" => self.fields = Fields::parse(text)?,
            // As the header has it, or without W/ and quotation marks.
            "since" => {
                let tag = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
                if !tag.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Problem::invalid(
                        name,
                        "must be the ETag of an earlier list",
                    ));
                }
                self.since = Some(tag.to_owned());
            }
            name => match name.strip_prefix("metadata.") {
                Some(key) if !key.is_empty() => {
                    selection.metadata.push((key.to_owned(), text.to_owned()));
                }
                _ => return Ok(false),
            },
        }
        Ok(true)
    }
}

/// The most instances in one page.
pub(super) const MAX_LIMIT: usize = 10_000;

impl Caller {
    /// Checks that the token permits each scope that a selection names.
    pub(super) fn check_selection(&self, selection: &Selection) -> Result<(), Problem> {
        let services = selection.services.iter();
        let services = services.map(|key| ScopeKind::Service.with(key.clone()));
        let groups = selection.groups.iter();
        let groups = groups.map(|key| ScopeKind::Group.with(key.clone()));
        let mut scopes = services.chain(groups);
        scopes.try_for_each(|scope: Scope| self.check(&scope))
    }
}

fn key(name: &str, text: &str) -> Result<ScopeKey, Problem> {
    text.parse().in_field(name)
}

fn truth(name: &str, text: &str) -> Result<bool, Problem> {
    text.parse()
        .map_err(|_| Problem::invalid(name, "must be true or false"))
}
