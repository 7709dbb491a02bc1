//! `POST /v1/registrations`: registers many instances.

use std::collections::HashMap;
use std::iter;
use std::pin::pin;

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::actor::RegisterInstances;
use crate::http::access::Caller;
use crate::http::extract::{self, JsonText};
use crate::http::openapi::responses::{AuthErrors, BodyErrors, OutcomeErrors};
use crate::http::openapi::schema;
use crate::http::{Api, Code, Problem, presence};
use crate::model::{
    Address, DisplayName, Field, InstanceKey, Metadata, Registration, Scope, ScopeKey, ScopeKind,
    Ttl, Weight,
};
use crate::store::Registered;

/// The most registrations in one request.
const MAX_REGISTRATIONS: usize = 10_000;

/// The largest body in bytes.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// The number of registrations in one transaction.
const PART: usize = 1_000;

/// The number of transactions that a request waits for at the same time.
const PARTS: usize = 4;

/// The body of a registration of many instances.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Registrations<'a> {
    /// At most 10,000.
    #[serde(borrow)]
    #[schema(value_type = Vec<RegistrationEntry>, max_items = 10_000)]
    registrations: Vec<&'a RawValue>,
}

/// An instance, in exactly one of `service` and `group`, with the fields of its `PUT`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegistrationEntry {
    #[schema(schema_with = schema::optional_scope_key)]
    service: Option<ScopeKey>,
    #[schema(schema_with = schema::optional_scope_key)]
    group: Option<ScopeKey>,
    #[schema(schema_with = schema::address)]
    address: Address,
    /// The name for people; the address by default.
    #[serde(default)]
    #[schema(schema_with = schema::display_name)]
    name: Field<DisplayName>,
    /// The share of traffic; 1 by default.
    #[serde(default)]
    #[schema(schema_with = schema::weight)]
    weight: Field<Weight>,
    /// At most 64 entries and 8 KiB of text; none by default.
    #[serde(default)]
    #[schema(schema_with = schema::metadata)]
    metadata: Field<Metadata>,
    /// The TTL of the lease in seconds; `--lease-ttl` by default.
    #[serde(default)]
    #[schema(schema_with = schema::ttl)]
    ttl_seconds: Field<Ttl>,
}

impl RegistrationEntry {
    fn into_registration(self, caller: &Caller) -> Result<Registration, Problem> {
        let scope = match (self.service, self.group) {
            (Some(key), None) => ScopeKind::Service.with(key),
            (None, Some(key)) => ScopeKind::Group.with(key),
            _ => {
                let reason = "must contain either service or group";
                return Err(Problem::invalid("body", reason));
            }
        };
        caller.check(&scope)?;
        let address = self.address;
        presence::check_address(&address)?;
        Ok(Registration {
            name: self.name,
            weight: self.weight,
            metadata: self.metadata,
            ttl: self.ttl_seconds,
            by: Some(caller.registrant()),
            ..Registration::of(InstanceKey { scope, address })
        })
    }
}

/// The results of a registration of many instances.
#[derive(Serialize, ToSchema)]
#[schema(as = RegistrationResults)]
pub(in crate::http) struct RegistrationsResponse {
    /// The number of registrations that failed.
    failed: usize,
    /// One for each registration, in their order.
    results: Vec<RegistrationResult>,
}

/// The result of one registration.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum RegistrationResult {
    /// The instance is new.
    Created,
    /// Something about the instance changed.
    Updated,
    /// The instance was registered in the same way before.
    Unchanged,
    /// The registration failed, as its `PUT` would with this status and code.
    Failed {
        status: u16,
        code: Code,
        detail: String,
    },
}

impl From<&Problem> for RegistrationResult {
    fn from(problem: &Problem) -> Self {
        Self::Failed {
            status: problem.code().status().as_u16(),
            code: problem.code(),
            detail: problem.detail().to_owned(),
        }
    }
}

/// Registers many instances, each as its `PUT` does: one that fails does not affect the others. They
/// are written in transactions of 1,000. The request may be repeated.
#[utoipa::path(
    post, path = "/v1/registrations", operation_id = "register_instances", tag = "instances",
    request_body = Registrations<'_>,
    responses(
        (status = 200, description = "one result for each registration", body = RegistrationsResponse),
        BodyErrors, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn register(
    api: web::Data<Api>,
    caller: Caller,
    body: JsonText<BODY_LIMIT>,
) -> Result<HttpResponse, Problem> {
    let Parsed { valid, mut results } = parse(&caller, &body)?;
    drop(body);
    let mut registrations = valid.into_iter().peekable();
    let parts = iter::from_fn(|| {
        registrations.peek()?;
        Some(registrations.by_ref().take(PART).unzip())
    });
    let written = stream::iter(parts).map(|(places, part)| write(&api, places, part));
    let mut written = pin!(written.buffered(PARTS));
    let (mut some_written, mut failure) = (false, None);
    while let Some((places, outcome)) = written.next().await {
        match outcome {
            Ok(part) => {
                some_written = true;
                for (place, result) in places.into_iter().zip(part) {
                    results[place] = result;
                }
            }
            Err(problem) => {
                for place in places {
                    results[place] = RegistrationResult::from(&problem);
                }
                failure = Some(problem);
            }
        }
    }
    // The registry store is unavailable, rather than some registrations wrong.
    if let (Some(problem), false) = (failure, some_written) {
        return Err(problem);
    }
    let has_failed =
        |result: &&RegistrationResult| matches!(result, RegistrationResult::Failed { .. });
    Ok(HttpResponse::Ok().json(RegistrationsResponse {
        failed: results.iter().filter(has_failed).count(),
        results,
    }))
}

/// The content of a body.
struct Parsed {
    /// The valid registrations with their places.
    valid: Vec<(usize, Registration)>,
    /// The results, with those of the invalid ones.
    results: Vec<RegistrationResult>,
}

fn parse(caller: &Caller, body: &JsonText<BODY_LIMIT>) -> Result<Parsed, Problem> {
    let Registrations { registrations } = body.parse()?;
    if registrations.len() > MAX_REGISTRATIONS {
        let found = registrations.len();
        return Err(Problem::new(
            Code::BatchTooLarge,
            format!("registrations must have at most {MAX_REGISTRATIONS} entries, not {found}"),
        ));
    }
    let mut valid = Vec::with_capacity(registrations.len());
    let mut results = vec![RegistrationResult::Unchanged; registrations.len()];
    let mut first = HashMap::with_capacity(registrations.len());
    for (place, text) in registrations.into_iter().enumerate() {
        let entry = extract::parse::<RegistrationEntry>(text.get().as_bytes());
        let registration = entry.and_then(|entry| entry.into_registration(caller));
        let registration = registration.and_then(|registration| {
            match first.insert(registration.key.clone(), place) {
                None => Ok(registration),
                Some(first) => Err(Problem::invalid(
                    "address",
                    format!("is registered by registrations[{first}] already"),
                )),
            }
        });
        match registration {
            Ok(registration) => valid.push((place, registration)),
            Err(problem) => results[place] = RegistrationResult::from(&problem),
        }
    }
    Ok(Parsed { valid, results })
}

/// Registers instances in one transaction, and returns their places with their results.
async fn write(
    api: &Api,
    places: Vec<usize>,
    part: Vec<Registration>,
) -> (Vec<usize>, Result<Vec<RegistrationResult>, Problem>) {
    let scopes: Vec<Scope> = part.iter().map(|one| one.key.scope.clone()).collect();
    let result = |(registered, scope): (Option<Registered>, Scope)| match registered {
        Some(registered) if registered.created => RegistrationResult::Created,
        Some(registered) if registered.changed => RegistrationResult::Updated,
        Some(_) => RegistrationResult::Unchanged,
        None => RegistrationResult::from(&Problem::scope_not_found(&scope)),
    };
    let done = api.registry.write(RegisterInstances(part)).await;
    let outcome = done.map_err(Problem::from).map(|done| {
        let registered = done.instances.into_iter().zip(scopes);
        registered.map(result).collect()
    });
    (places, outcome)
}
