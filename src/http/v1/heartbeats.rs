//! Heartbeats: one by its path, or many in one request.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use foldhash::{HashSet, HashSetExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::actor::HeartbeatOutcome;
use crate::directory::KeyParts;
use crate::http::Code;
use crate::http::access::Caller;
use crate::http::extract::{JsonText, KnownPath, Object, parsed};
use crate::http::openapi::responses::{
    AuthErrors, BadRequest, BodyErrors, InstancePathParams, NotFound, OutcomeErrors,
};
use crate::http::openapi::schema;
use crate::http::{Api, Problem, presence};
use crate::model::{ScopeKind, Ttl};

/// The most leases in one request.
const MAX_LEASES: usize = 10_000;

/// The largest batch in bytes: enough for the most leases with the longest names.
const BATCH_LIMIT: usize = 4 * 1024 * 1024;

/// The result of a heartbeat.
#[derive(Serialize, ToSchema)]
#[schema(as = HeartbeatOutcome)]
pub(in crate::http) struct HeartbeatResponse {
    /// Whether a new lease began.
    created: bool,
    /// The TTL of the lease.
    #[schema(value_type = u32)]
    ttl_seconds: Ttl,
    /// The time until the next heartbeat is due, in milliseconds.
    next_heartbeat_in_ms: u64,
}

/// Renews one lease.
#[utoipa::path(
    put, path = "/v1/{kind}/{key}/instances/{address}/heartbeat", operation_id = "send_heartbeat",
    tag = "instances", params(InstancePathParams),
    responses(
        (status = 200, description = "the lease was renewed or created", body = HeartbeatResponse),
        BadRequest, NotFound, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn send(
    api: web::Data<Api>,
    KnownPath(key, info): KnownPath,
) -> Result<HttpResponse, Problem> {
    let outcomes = presence::renew(&api, vec![(key.clone(), info)]).await?;
    let (created, ttl) = match outcomes.first().copied() {
        Some(HeartbeatOutcome::Created(ttl)) => (true, ttl),
        Some(HeartbeatOutcome::Renewed(ttl)) => (false, ttl),
        Some(HeartbeatOutcome::Unknown) | None => return Err(Problem::instance_not_found(&key)),
    };
    Ok(HttpResponse::Ok().json(HeartbeatResponse {
        created,
        ttl_seconds: ttl,
        next_heartbeat_in_ms: millis_until_next(
            key.address.as_str(),
            ttl,
            api.roll_call_interval,
            api.clock.now(),
        ),
    }))
}

/// Returns the time until the next heartbeat of an instance, in milliseconds. Each instance has
/// a fixed offset in the heartbeat interval, given by a hash of its address, so that a fleet
/// spreads over the interval. The interval is that of the roll call, or half the TTL if that is
/// less.
fn millis_until_next(
    address: &str,
    ttl: Ttl,
    roll_call_interval: Duration,
    now: DateTime<Utc>,
) -> u64 {
    let interval = roll_call_interval.min(ttl.as_duration() / 2);
    let millis = i64::try_from(interval.as_millis())
        .unwrap_or(i64::MAX)
        .max(1);
    // Replicas of different versions must agree on the offset, so the hash is a specified one.
    let hash = Sha256::digest(address);
    let offset = hash
        .iter()
        .take(7)
        .fold(0, |n, byte| n << 8 | i64::from(*byte))
        % millis;
    let until_offset = (offset - now.timestamp_millis()).rem_euclid(millis);
    // A heartbeat that came a little early is not followed by another one at once.
    let wait = if until_offset < millis / 10 {
        until_offset + millis
    } else {
        until_offset
    };
    wait.unsigned_abs()
}

/// The body of a batch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Batch<'a> {
    /// At most 10,000 leases.
    #[serde(borrow)]
    #[schema(value_type = Vec<LeaseRef<'_>>, max_items = 10_000)]
    leases: Vec<Object<LeaseRef<'a>>>,
}

/// A lease, named by its instance: exactly one of `service` and `group`.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Lease)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LeaseRef<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::optional_scope_key)]
    service: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::optional_scope_key)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    #[schema(schema_with = schema::address)]
    address: Text<'a>,
}

/// A text borrowed from the body, if it has no escapes.
#[derive(Deserialize, Serialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Batch<'_> {
    /// Returns each lease once, with its index in the batch.
    fn distinct(&self) -> Result<Vec<(usize, KeyParts<'_>)>, Problem> {
        let mut seen = HashSet::with_capacity(self.leases.len());
        let mut leases = Vec::with_capacity(self.leases.len());
        for (index, Object(lease)) in self.leases.iter().enumerate() {
            let parts = lease.parts(index)?;
            if seen.insert(parts) {
                leases.push((index, parts));
            }
        }
        Ok(leases)
    }
}

impl<'a> LeaseRef<'a> {
    /// Returns the parts of the key.
    fn parts(&self, index: usize) -> Result<KeyParts<'_>, Problem> {
        let (kind, key) = match (&self.service, &self.group) {
            (Some(key), None) => (ScopeKind::Service, key),
            (None, Some(key)) => (ScopeKind::Group, key),
            _ => {
                return Err(Problem::invalid(
                    format!("leases[{index}]"),
                    "must contain either service or group",
                ));
            }
        };
        Ok(KeyParts {
            kind,
            key: &key.0,
            address: &self.address.0,
        })
    }

    fn of(parts: KeyParts<'a>) -> Self {
        let text = |text| Text(Cow::Borrowed(text));
        let (service, group) = match parts.kind {
            ScopeKind::Service => (Some(text(parts.key)), None),
            ScopeKind::Group => (None, Some(text(parts.key))),
        };
        Self {
            service,
            group,
            address: text(parts.address),
        }
    }
}

/// The result of a batch; each lease is counted once.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchOutcome)]
pub(in crate::http) struct HeartbeatBatchResponse<'a> {
    renewed: usize,
    created: usize,
    /// Leases of instances that are not registered. These should register again.
    unknown: Vec<LeaseRef<'a>>,
    /// The time until the next batch of these instances is due, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_heartbeat_in_ms: Option<u64>,
}

/// Renews many leases. A lease that is named twice is renewed and counted once.
#[utoipa::path(
    post, path = "/v1/heartbeats", operation_id = "send_heartbeats", tag = "instances",
    request_body = Batch<'_>,
    responses(
        (status = 200, description = "the leases were renewed or created, except those in `unknown`", body = HeartbeatBatchResponse<'_>),
        BodyErrors, AuthErrors, OutcomeErrors,
    )
)]
pub(in crate::http) async fn send_batch(
    api: web::Data<Api>,
    caller: Caller,
    body: JsonText<BATCH_LIMIT>,
) -> Result<HttpResponse, Problem> {
    let batch: Batch<'_> = body.parse()?;
    if batch.leases.len() > MAX_LEASES {
        return Err(Problem::new(
            Code::BatchTooLarge,
            format!(
                "leases must have at most {MAX_LEASES} entries, not {}",
                batch.leases.len()
            ),
        ));
    }
    let permits = api.admission.leases(batch.leases.len());
    let _permits = permits.map_err(|exceeded| api.shed(exceeded))?;
    let leases = batch.distinct()?;
    let parts = leases.iter().map(|(_, lease)| *lease);
    let known = api.directory.all_known(parts);
    let (mut renewals, mut all_known) = (Vec::with_capacity(leases.len()), true);
    for ((index, lease), known) in leases.iter().zip(known) {
        all_known &= known.is_some();
        let instance =
            parsed(*lease, known).map_err(|problem| problem.within(&format!("leases[{index}]")))?;
        caller.check(&instance.0.scope)?;
        renewals.push((*lease, instance));
    }
    if !all_known {
        // A lease that is unknown by its text may be named in another notation.
        let mut seen = HashSet::with_capacity(renewals.len());
        renewals.retain(|(_, (key, _))| seen.insert(key.clone()));
    }
    let (leases, instances): (Vec<_>, Vec<_>) = renewals.into_iter().unzip();
    let outcomes = presence::renew(&api, instances).await?;
    let mut response = HeartbeatBatchResponse {
        renewed: 0,
        created: 0,
        unknown: Vec::new(),
        next_heartbeat_in_ms: None,
    };
    let mut first_and_shortest: Option<(&str, Ttl)> = None;
    for (lease, outcome) in leases.into_iter().zip(outcomes) {
        let ttl = match outcome {
            HeartbeatOutcome::Renewed(ttl) => {
                response.renewed += 1;
                ttl
            }
            HeartbeatOutcome::Created(ttl) => {
                response.created += 1;
                ttl
            }
            HeartbeatOutcome::Unknown => {
                response.unknown.push(LeaseRef::of(lease));
                continue;
            }
        };
        match &mut first_and_shortest {
            Some((_, shortest)) => *shortest = ttl.min(*shortest),
            None => first_and_shortest = Some((lease.address, ttl)),
        }
    }
    response.next_heartbeat_in_ms = first_and_shortest.map(|(first, shortest)| {
        millis_until_next(first, shortest, api.roll_call_interval, api.clock.now())
    });
    Ok(HttpResponse::Ok().json(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn now(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    fn host(i: u32) -> String {
        format!("10.0.{}.{}:80", i / 256, i % 256)
    }

    #[test]
    fn a_fleet_that_sends_heartbeats_at_once_is_spread_over_the_interval() {
        let ttl = Ttl::try_from(30).unwrap();
        let mut thirds = [0; 3];
        for i in 0..3000 {
            let wait = millis_until_next(&host(i), ttl, INTERVAL, now(1_000_000));
            // The waits are between a tenth of the interval and a tenth more than the interval.
            thirds[usize::try_from((wait - 1500) / 5000).unwrap()] += 1;
        }
        assert!(thirds.iter().all(|&third| third > 900), "{thirds:?}");
    }

    #[test]
    fn replicas_of_all_versions_give_an_instance_the_same_moment() {
        let ttl = Ttl::try_from(30).unwrap();
        // The first 56 bits of the SHA-256 of the address, modulo 15,000 ms.
        let moment = 0x84_9b5f_0216_77c7_u64 % 15_000;
        assert_eq!(
            millis_until_next("10.0.0.5:8080", ttl, INTERVAL, now(0)),
            moment
        );
    }

    #[test]
    fn the_next_heartbeat_is_due_early_enough_to_lose_one() {
        for seconds in [5, 6, 30, 3600] {
            let ttl = Ttl::try_from(seconds).unwrap();
            for i in 0..500 {
                let wait = millis_until_next(&host(i), ttl, INTERVAL, now(i64::from(i) * 7919));
                let wait = Duration::from_millis(wait);
                assert!(wait >= Duration::from_millis(250), "{wait:?}");
                assert!(
                    wait <= (ttl.as_duration() / 2).min(INTERVAL) * 11 / 10,
                    "{wait:?}"
                );
            }
        }
    }

    #[test]
    fn an_instance_that_sends_heartbeats_when_due_keeps_its_moment() {
        let ttl = Ttl::try_from(30).unwrap();
        let first = millis_until_next(&host(7), ttl, INTERVAL, now(0));
        let second = millis_until_next(&host(7), ttl, INTERVAL, now(i64::try_from(first).unwrap()));
        assert_eq!(Duration::from_millis(second), INTERVAL);
    }
}
