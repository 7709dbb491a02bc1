//! `/v1/prometheus/targets`: the instances in the format of Prometheus' HTTP service discovery.
//!
//! <https://prometheus.io/docs/prometheus/latest/http_sd/>. Prometheus expects 200 and all
//! targets each time, and an empty list if there are none. On any other response it keeps its
//! current list, so it loses no target while a daemon starts or is overloaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::search::selected_scopes;
use super::selection_query::{Accepts, FilterParams, ScopeParams, SelectionQuery};
use crate::directory::ScopeSnapshot;
use crate::http::access::Caller;
use crate::http::conditional::Conditional;
use crate::http::openapi::responses::{AuthErrors, BadRequest};
use crate::http::{Api, Problem};
use crate::model::{Instance, Metadata, ScopeKind, Selection};

/// The list, serialised target by target, because it may contain all instances.
struct Targets<'a> {
    scopes: Vec<Arc<ScopeSnapshot>>,
    selection: &'a Selection,
}

impl Serialize for Targets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let selected = self.scopes.iter();
        let selected = selected.flat_map(|scope| scope.select(self.selection));
        serializer.collect_seq(selected.map(|listed| Target::of(&listed.instance)))
    }
}

/// One instance, in an element of its own, because no two instances have the same labels.
#[derive(Serialize, ToSchema)]
#[schema(as = Target)]
pub(in crate::http) struct Target<'a> {
    /// The address of the instance.
    #[schema(value_type = Vec<String>)]
    targets: [&'a str; 1],
    /// Each name begins with `__meta_rollcall_`.
    #[schema(value_type = HashMap<String, String>)]
    labels: Labels<'a>,
}

/// The labels for relabelling. Prometheus accepts only strings, and drops labels that begin
/// with `__` after relabelling.
#[derive(Serialize)]
struct Labels<'a> {
    #[serde(
        rename = "__meta_rollcall_service",
        skip_serializing_if = "Option::is_none"
    )]
    service: Option<&'a str>,
    #[serde(
        rename = "__meta_rollcall_group",
        skip_serializing_if = "Option::is_none"
    )]
    group: Option<&'a str>,
    #[serde(rename = "__meta_rollcall_address")]
    address: &'a str,
    #[serde(rename = "__meta_rollcall_name")]
    name: &'a str,
    #[serde(rename = "__meta_rollcall_id")]
    id: String,
    #[serde(rename = "__meta_rollcall_status")]
    status: &'static str,
    #[serde(rename = "__meta_rollcall_online")]
    online: String,
    #[serde(rename = "__meta_rollcall_weight")]
    weight: String,
    #[serde(flatten)]
    metadata: BTreeMap<String, String>,
}

impl<'a> Target<'a> {
    fn of(instance: &'a Instance) -> Self {
        let scope = &instance.key.scope;
        let address = instance.key.address.as_str();
        let labels = Labels {
            service: scope.key_of(ScopeKind::Service),
            group: scope.key_of(ScopeKind::Group),
            address,
            name: instance.display_name(),
            id: instance.id.to_string(),
            status: instance.status.as_str(),
            online: instance.presence.online.to_string(),
            weight: instance.weight().get().to_string(),
            metadata: metadata_labels(instance.metadata()),
        };
        Self {
            targets: [address],
            labels,
        }
    }
}

/// Returns the metadata as labels. Every character except letters, digits and `_` becomes `_`,
/// as in Prometheus' own discoveries: version 2 refuses the whole list for any other label
/// name. If keys become equal, the first in byte order stays.
fn metadata_labels(metadata: &Metadata) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in metadata.iter() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = key.replace(|c| !allowed(c), "_");
        let label = format!("__meta_rollcall_metadata_{name}");
        labels.entry(label).or_insert_with(|| value.to_owned());
    }
    labels
}

/// Returns the instances as targets. An unknown service or group has none, because Prometheus
/// would treat 404 as a failure and keep its last targets forever.
#[utoipa::path(
    get, path = "/v1/prometheus/targets", operation_id = "prometheus_targets", tag = "daemon",
    params(ScopeParams, FilterParams, ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the list that the client has")),
    responses(
        (status = 200, description = "the targets in the format of Prometheus' http_sd", body = Vec<Target<'_>>, headers(("ETag" = String, description = "depends on the content only"))),
        (status = 304, description = "the client has the current list"),
        BadRequest, AuthErrors,
    )
)]
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let accepted = [Accepts::Scopes, Accepts::Filters];
    let SelectionQuery {
        selection, wait, ..
    } = SelectionQuery::of(&request, &accepted)?;
    caller.check_selection(&selection)?;
    let conditional = Conditional::new(&request, &api, wait)?;
    let list = format!("targets {selection:?} {:?}", caller.limit());
    let answer = || {
        let make = || {
            // Services and then groups, each by key, so that the same registry gives the same bytes.
            let scopes = selected_scopes(&api, &caller, &selection);
            let targets = Targets {
                scopes,
                selection: &selection,
            };
            // Serialising plain data cannot fail.
            serde_json::to_vec(&targets).unwrap_or_default()
        };
        conditional.unless_known(api.bodies.get(api.directory.version(), &list, make))
    };
    let changed = api.directory.wait_for_any(conditional.deadline, answer);
    Ok(conditional.answer(&api, changed).await)
}
