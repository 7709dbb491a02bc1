//! `/v1/counts`: how many instances there were.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::history::{Counts, Series};
use crate::http::access::Caller;
use crate::http::extract::Query;
use crate::http::openapi::responses::{AuthErrors, BadRequest, NotFound, OutcomeErrors};
use crate::http::openapi::schema;
use crate::http::{Api, Problem, compression};
use crate::model::{ScopeKey, ScopeKind};

/// The time that is covered, unless the request says another.
const HOUR: Duration = Duration::from_secs(3600);

/// The parameters.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CountsQuery {
    /// The numbers of this service.
    #[param(schema_with = schema::scope_key, required = false)]
    service: Option<ScopeKey>,
    /// The numbers of this group.
    #[param(schema_with = schema::scope_key, required = false)]
    group: Option<ScopeKey>,
    /// How far back: a duration; 1 hour by default.
    #[param(example = "1h", pattern = "^[0-9]{1,3}(s|m|h)$")]
    since: Option<String>,
}

/// The numbers of instances at equal distances in time, each as a list. The values of a longer time
/// are summarised: the least online and available instances, and the most registered and suspect
/// ones.
#[derive(Serialize, ToSchema)]
#[schema(as = Counts)]
pub(in crate::http) struct CountsResponse {
    /// The time of the first value, in Unix seconds.
    start: i64,
    /// The time between two values.
    step_seconds: i64,
    instances: Vec<u32>,
    online: Vec<u32>,
    available: Vec<u32>,
    suspect: Vec<u32>,
}

impl From<Series> for CountsResponse {
    fn from(series: Series) -> Self {
        let list = |number: fn(&Counts) -> u32| series.values.iter().map(number).collect();
        Self {
            start: series.start,
            step_seconds: series.step,
            instances: list(|counts| counts.instances),
            online: list(|counts| counts.online),
            available: list(|counts| counts.available),
            suspect: list(|counts| counts.suspect),
        }
    }
}

/// Returns how many instances there were: of the registry every 10 seconds for a day, and of each
/// scope every minute for three hours. Each replica samples by itself since its start, at most
/// 10,000 scopes.
#[utoipa::path(
    get, path = "/v1/counts", operation_id = "get_counts", tag = "operators",
    params(CountsQuery),
    responses(
        (status = 200, description = "the numbers of instances", body = CountsResponse),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn show(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    Query(query): Query<CountsQuery>,
) -> Result<HttpResponse, Problem> {
    let scope = match (query.service, query.group) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "group",
                "must not be given together with service",
            ));
        }
        (Some(key), None) => Some(ScopeKind::Service.with(key)),
        (None, Some(key)) => Some(ScopeKind::Group.with(key)),
        (None, None) => None,
    };
    match &scope {
        Some(scope) => caller.check(scope)?,
        None => caller.check_unlimited()?,
    }
    let since = query.since.map_or(Ok(HOUR), |text| {
        let invalid = |_| Problem::invalid("since", "must be a duration such as 1h");
        humantime::parse_duration(&text).map_err(invalid)
    })?;
    let since = TimeDelta::from_std(since).unwrap_or(TimeDelta::MAX);
    let since = api
        .clock
        .now()
        .checked_sub_signed(since)
        .unwrap_or_default();
    let series = api.counts.series(scope.as_ref(), since);
    if let (None, Some(scope)) = (&series, &scope)
        && api.directory.declared(scope).await?.is_none()
    {
        return Err(Problem::scope_not_found(scope));
    }
    Ok(compression::json(
        &request,
        &CountsResponse::from(series.unwrap_or_default()),
    ))
}
