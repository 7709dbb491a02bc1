//! The query parameters of what happened: of events and of operators' actions.

use std::collections::BTreeSet;

use actix_web::HttpRequest;
use chrono::{DateTime, TimeDelta, Utc};
use utoipa::IntoParams;

use crate::http::Problem;
use crate::http::access::Caller;
use crate::http::openapi::schema;
use crate::http::problem::InField;
use crate::model::{AddressPattern, Scope, ScopeKind};

/// The number of entries in a page, unless the request says another.
const DEFAULT_LIMIT: usize = 100;

/// The most entries in one page.
pub(super) const MAX_LIMIT: usize = 1000;

/// The conditions on what happened.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters of HistoryQuery")]
pub(in crate::http) struct HistoryParams {
    /// Only what concerns this service; may be repeated.
    #[param(schema_with = schema::scope_key, required = false)]
    service: Option<String>,
    /// Only what concerns this group; may be repeated.
    #[param(schema_with = schema::scope_key, required = false)]
    group: Option<String>,
    /// Only what concerns this address, or any port of this host.
    #[param(schema_with = schema::optional_address)]
    address: Option<String>,
    /// Only what the token of this name requested.
    by: Option<String>,
    /// Only what happened at this time (RFC 3339) or later, or within this duration, such as `1h`.
    #[param(example = "1h")]
    since: Option<String>,
    /// Only what happened before this time (RFC 3339), or before this duration began.
    until: Option<String>,
    /// The number of entries in the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

const _: () = assert!(MAX_LIMIT == 1000, "as documented");

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct HistoryQuery {
    pub(super) scopes: Vec<Scope>,
    pub(super) address: Option<AddressPattern>,
    pub(super) by: Option<String>,
    /// The values of the parameter that the route itself has.
    pub(super) kinds: Vec<String>,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: Option<DateTime<Utc>>,
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
}

impl HistoryQuery {
    /// Parses the query of a request. `own` is the name of the parameter that the route itself has.
    pub(super) fn of(
        request: &HttpRequest,
        caller: &Caller,
        own: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let mut seen = BTreeSet::new();
        let mut query = Self {
            limit: DEFAULT_LIMIT,
            ..Self::default()
        };
        for (name, text) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            let name = name.as_ref();
            match name {
                "service" => query
                    .scopes
                    .push(ScopeKind::Service.with(text.parse().in_field(name)?)),
                "group" => query
                    .scopes
                    .push(ScopeKind::Group.with(text.parse().in_field(name)?)),
                "address" => query.address = Some(text.parse().in_field(name)?),
                "by" => query.by = Some(text.clone().into_owned()),
                "since" => query.since = Some(time(name, &text, now)?),
                "until" => query.until = Some(time(name, &text, now)?),
                "limit" => query.limit = limit(name, &text)?,
                "cursor" => query.cursor = Some(text.clone().into_owned()),
                name if name == own => query.kinds.push(text.clone().into_owned()),
                _ => {
                    let reason = format!(
                        "is not a parameter of this route; it has service, group, address, by, {own}, since, until, limit, cursor"
                    );
                    return Err(Problem::invalid(name, reason));
                }
            }
            let may_repeat = name == "service" || name == "group" || name == own;
            if !may_repeat && !seen.insert(name.to_owned()) {
                return Err(Problem::invalid(name, "must not be given twice"));
            }
        }
        query
            .scopes
            .iter()
            .try_for_each(|scope| caller.check(scope))?;
        Ok(query)
    }
}

/// Parses a time, or how long ago it was.
fn time(name: &str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let ago = humantime::parse_duration(text).ok();
    let ago = ago.and_then(|ago| now.checked_sub_signed(TimeDelta::from_std(ago).ok()?));
    let time = ago.or_else(|| {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| time.to_utc())
    });
    time.ok_or_else(|| {
        let reason = "must be a time such as 2026-11-22T10:00:00Z, or a duration such as 1h";
        Problem::invalid(name, reason)
    })
}

fn limit(name: &str, text: &str) -> Result<usize, Problem> {
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| Problem::invalid(name, format!("must be from 1 to {MAX_LIMIT}")))
}
