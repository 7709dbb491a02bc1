//! Registers instances and sends their heartbeats.

use std::collections::HashSet;
use std::sync::Arc;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use reqwest::{Method, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use url::Url;

use crate::client::{Client, ClientError, text};
use crate::model::{Address, InstanceKey, Registration, Scope, ScopeKey, ScopeKind};

/// The time before the first retry after a failure. It doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The longest time before a retry. Shorter than a TTL, so that no instance expires after an
/// outage that was shorter than that.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The time limit of a check, and the time before a failed one is repeated.
const CHECK: Duration = Duration::from_secs(2);

/// The heartbeats after a roll call are spread over this time.
const SPREAD: Duration = Duration::from_secs(1);

/// The most leases in one request; less than the daemon's limit.
const BATCH: usize = 5_000;

/// The number of registrations in flight.
const REGISTRATIONS: usize = 16;

/// The time limit for deregistering all instances at the end.
const END: Duration = Duration::from_secs(5);

/// The instances of an agent.
pub(super) struct Presence {
    client: Arc<Client>,
    instances: Vec<Registration>,
    registered: Mutex<HashSet<InstanceKey>>,
    check: Option<(reqwest::Client, Url)>,
}

/// The answer to a batch of heartbeats.
#[derive(Deserialize)]
struct Beaten {
    unknown: Vec<LeaseRef>,
    next_heartbeat_in_ms: Option<u64>,
}

#[derive(Deserialize)]
struct LeaseRef {
    service: Option<ScopeKey>,
    group: Option<ScopeKey>,
    address: Address,
}

impl LeaseRef {
    fn into_key(self) -> Option<InstanceKey> {
        let service = self.service.map(|key| ScopeKind::Service.with(key));
        let group = self.group.map(|key| ScopeKind::Group.with(key));
        Some(InstanceKey {
            scope: service.or(group)?,
            address: self.address,
        })
    }
}

/// Why some heartbeats were not sent or not accepted.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("health check failed: {0}")]
    Unhealthy(String),
    #[error("{0}")]
    Registry(#[from] ClientError),
}

impl Presence {
    pub(super) fn new(
        client: Arc<Client>,
        instances: Vec<Registration>,
        check: Option<Url>,
    ) -> Result<Self, ClientError> {
        // A client of its own: with another time limit and other authorities than the registry's.
        let builder = || {
            reqwest::Client::builder()
                .no_proxy()
                .redirect(redirect::Policy::none())
                .timeout(CHECK)
        };
        let check = check
            .map(|url| {
                let client = match url.scheme() {
                    "http" => builder().tls_certs_only([]).build(),
                    _ => builder().build(),
                };
                client.map(|client| (client, url))
            })
            .transpose()
            .map_err(|error| ClientError::Settings(text(&error)))?;
        Ok(Self {
            client,
            instances,
            registered: Mutex::default(),
            check,
        })
    }

    /// Returns the scope of one of the instances.
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.instances.first().map(|instance| &instance.key.scope)
    }

    /// Registers the instances and sends heartbeats for ever: when the registry asks for them, and
    /// at each roll call.
    pub(super) async fn keep(&self, called: &Notify) {
        let mut failures = 0;
        let mut said = String::new();
        loop {
            let wait = match self.answer().await {
                Ok(next) => {
                    if !said.is_empty() {
                        log::info!("the registry accepts heartbeats again");
                        said.clear();
                    }
                    failures = 0;
                    next
                }
                Err(silence) => {
                    let why = silence.to_string();
                    // Logged once per reason, because it may last.
                    if why != said {
                        log::warn!("{why}; retrying");
                        said = why;
                    }
                    failures += 1;
                    match silence {
                        Silence::Unhealthy(_) => CHECK,
                        Silence::Registry(_) => back_off(failures),
                    }
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = called.notified(), if failures == 0 => sleep(at_random(SPREAD)).await,
            }
        }
    }

    /// Registers instances that are not registered, sends all heartbeats once, and returns the time
    /// until the next ones.
    async fn answer(&self) -> Result<Duration, Silence> {
        if let Some((client, url)) = &self.check {
            healthy(client, url).await.map_err(Silence::Unhealthy)?;
        }
        let registered = self.register().await;
        let (mut unknown, mut next) = self.send_heartbeats().await?;
        if unknown {
            self.register().await?;
            (unknown, next) = self.send_heartbeats().await?;
        }
        registered?;
        if unknown {
            // Another client deregisters them at once: slow down.
            Ok(LONGEST_RETRY)
        } else {
            Ok(next)
        }
    }

    /// Registers the instances that are not registered yet, and returns the first failure.
    async fn register(&self) -> Result<(), ClientError> {
        let missing = self.instances.iter();
        let missing = missing.filter(|one| !self.registered.lock().contains(&one.key));
        let outcomes = stream::iter(missing)
            .map(|instance| self.register_one(instance))
            .buffer_unordered(REGISTRATIONS);
        let outcomes: Vec<_> = outcomes.collect().await;
        outcomes.into_iter().collect()
    }

    async fn register_one(&self, instance: &Registration) -> Result<(), ClientError> {
        let path = format!("/v1/{}", instance.key);
        let body = body_of(instance);
        self.client.send(Method::PUT, &path, Some(&body)).await?;
        log::info!("registered {}", instance.key);
        self.registered.lock().insert(instance.key.clone());
        Ok(())
    }

    /// Sends the heartbeats of all registered instances. Returns whether some of them turned out to
    /// be unknown, and the time until the next heartbeats.
    async fn send_heartbeats(&self) -> Result<(bool, Duration), ClientError> {
        let keys: Vec<InstanceKey> = self.registered.lock().iter().cloned().collect();
        let (mut some_unknown, mut next) = (false, None);
        for keys in keys.chunks(BATCH) {
            let leases: Vec<Value> = keys.iter().map(lease_of).collect();
            let body = json!({ "leases": leases });
            let answer = self
                .client
                .send(Method::POST, "/v1/heartbeats", Some(&body));
            let Beaten {
                unknown,
                next_heartbeat_in_ms,
            } = self.client.read(answer.await?)?;
            next = next.or(next_heartbeat_in_ms);
            some_unknown |= !unknown.is_empty();
            let mut registered = self.registered.lock();
            for key in unknown.into_iter().filter_map(LeaseRef::into_key) {
                log::warn!("{key} was deregistered by another client; registering it again");
                registered.remove(&key);
            }
        }
        let next = next.map_or(LONGEST_RETRY, Duration::from_millis);
        Ok((some_unknown, next))
    }

    /// Deregisters all instances, including those whose registration is in flight. An instance that
    /// cannot be deregistered is marked offline one TTL later.
    pub(super) async fn end(&self) {
        let ends = stream::iter(&self.instances)
            .map(|Registration { key, .. }| async move {
                let path = format!("/v1/{key}");
                match self.client.send(Method::DELETE, &path, None).await {
                    Ok(_) => log::info!("deregistered {key}"),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => log::warn!("cannot deregister {key}: {error}"),
                }
            })
            .buffer_unordered(REGISTRATIONS)
            .collect::<()>();
        if timeout(END, ends).await.is_err() {
            log::warn!(
                "not all instances were deregistered within {END:?}; the registry marks them offline one TTL later"
            );
        }
    }
}

/// Returns the body of a registration; omitted fields keep their values.
fn body_of(instance: &Registration) -> Value {
    let mut body = json!({
        "name": instance.name,
        "weight": instance.weight,
        "metadata": instance.metadata,
        "ttl_seconds": instance.ttl,
    });
    if let Some(body) = body.as_object_mut() {
        body.retain(|_, value| !value.is_null());
    }
    body
}

fn lease_of(key: &InstanceKey) -> Value {
    json!({ key.scope.kind.as_str(): key.scope.key, "address": key.address })
}

async fn healthy(client: &reqwest::Client, url: &Url) -> Result<(), String> {
    let answer = client.get(url.clone()).send().await;
    let status = answer.map_err(|error| text(&error))?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("{url} answers {status}"))
    }
}

/// Returns a time that doubles with each failure up to a limit, minus up to half of it at
/// random.
fn back_off(failures: u32) -> Duration {
    let doubled = FIRST_RETRY * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    let wait = doubled.min(LONGEST_RETRY);
    wait - at_random(wait / 2)
}

/// Returns a random time between zero and `most`, so that a fleet does not act in step.
pub(super) fn at_random(most: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or_default();
    most.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_longer_after_each_failure_and_never_for_long() {
        for failures in 1..100 {
            let wait = back_off(failures);
            let doubled = FIRST_RETRY * 2_u32.pow(failures.min(11) - 1);
            let most = doubled.min(LONGEST_RETRY);
            assert!(wait >= most / 2 && wait <= most, "{failures}: {wait:?}");
        }
    }
}
