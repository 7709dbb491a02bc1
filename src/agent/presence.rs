//! Registers instances and sends their heartbeats.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::check::Health;
use crate::client::{Client, ClientError, Fields, RegistrationEntry};
use crate::model::{Address, InstanceKey, Registration, ScopeKey, ScopeKind};

/// The time before the first retry after a failure. It doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The longest time before a retry. Shorter than a TTL, so that no instance expires after an
/// outage that was shorter than that.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The heartbeats after a roll call are spread over this time.
const SPREAD: Duration = Duration::from_secs(1);

/// The most leases in one request; less than the daemon's limit.
const BATCH: usize = 5_000;

/// The most registrations in one request.
const REGISTRATIONS: usize = 1_000;

/// The number of other requests in flight.
const REQUESTS: usize = 16;

/// The instances of an agent.
pub(super) struct Presence {
    client: Arc<Client>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<InstanceKey, Registration>,
    /// Those that the registry has as they are described.
    registered: HashSet<InstanceKey>,
    /// Those that the registry may know: their registration was sent.
    known: HashSet<InstanceKey>,
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

impl Presence {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            state: Mutex::default(),
        }
    }

    /// Replaces the instances: new and changed ones are registered with the next heartbeats, and
    /// those that are gone leave.
    pub(super) async fn replace(&self, instances: Vec<Registration>) {
        let instances: BTreeMap<_, _> = instances
            .into_iter()
            .map(|instance| (instance.key.clone(), instance))
            .collect();
        let gone: Vec<InstanceKey> = {
            let mut state = self.state.lock();
            let before = std::mem::replace(&mut state.instances, instances);
            let State {
                instances,
                registered,
                known,
            } = &mut *state;
            registered.retain(|key| before.get(key) == instances.get(key));
            known
                .extract_if(|key| !instances.contains_key(key))
                .collect()
        };
        self.end_all(gone, false).await;
    }

    /// Registers the instances and sends heartbeats for ever, while they are able to serve: when the
    /// registry asks for them, and at each roll call.
    pub(super) async fn keep(&self, called: &Notify, mut health: watch::Receiver<Health>) {
        let mut failures = 0;
        let mut said = String::new();
        loop {
            let current = health.borrow_and_update().clone();
            let outcome = match current {
                Health::Starting => Ok(None),
                Health::Passing => self.answer().await.map(Some),
                Health::Failed(reason) => {
                    log::warn!("health check failed: {reason}; no heartbeats until it passes");
                    self.end_leases().await.map(|()| None)
                }
            };
            let wait = match outcome {
                Ok(next) => {
                    if !said.is_empty() {
                        log::info!("the registry answers again");
                        said.clear();
                    }
                    failures = 0;
                    next
                }
                Err(error) => {
                    let why = error.to_string();
                    // Logged once per reason, because it may last.
                    if why != said {
                        log::warn!("{why}; retrying");
                        said = why;
                    }
                    failures += 1;
                    Some(back_off(failures))
                }
            };
            let pause = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                Ok(()) = health.changed() => {}
                () = called.notified(), if failures == 0 => sleep(at_random(SPREAD)).await,
            }
        }
    }

    /// Registers instances that are not registered, sends all heartbeats once, and returns the time
    /// until the next ones.
    async fn answer(&self) -> Result<Duration, ClientError> {
        self.client.reload_token();
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
        let missing: Vec<Registration> = {
            let state = self.state.lock();
            let all = state.instances.values();
            all.filter(|one| !state.registered.contains(&one.key))
                .cloned()
                .collect()
        };
        let mut failure = None;
        for part in missing.chunks(REGISTRATIONS) {
            let keys = part.iter().map(|instance| instance.key.clone());
            self.state.lock().known.extend(keys);
            let entries: Vec<_> = part.iter().map(entry_of).collect();
            let outcomes = self.client.register(&entries).await?;
            let mut state = self.state.lock();
            for (instance, outcome) in part.iter().zip(outcomes) {
                let key = &instance.key;
                match outcome {
                    Ok(()) => {
                        log::info!("registered {key}");
                        if state.instances.get(key) == Some(instance) {
                            state.registered.insert(key.clone());
                        }
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends the heartbeats of all registered instances. Returns whether some of them turned out to
    /// be unknown, and the time until the next heartbeats.
    async fn send_heartbeats(&self) -> Result<(bool, Duration), ClientError> {
        let keys: Vec<InstanceKey> = self.state.lock().registered.iter().cloned().collect();
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
            let mut state = self.state.lock();
            for key in unknown.into_iter().filter_map(LeaseRef::into_key) {
                log::warn!("{key} was deregistered by another client; registering it again");
                state.registered.remove(&key);
            }
        }
        let next = next.map_or(LONGEST_RETRY, Duration::from_millis);
        Ok((some_unknown, next))
    }

    /// Ends the leases of all registered instances, which stay registered.
    async fn end_leases(&self) -> Result<(), ClientError> {
        let keys: Vec<InstanceKey> = self.state.lock().registered.iter().cloned().collect();
        let outcomes = stream::iter(keys)
            .map(|key| async move {
                let path = format!("/v1/{key}/heartbeat");
                let ended = self.client.send(Method::DELETE, &path, None).await;
                match ended {
                    Err(error) if error.is_not_found() => Ok(()),
                    outcome => outcome.map(drop),
                }
            })
            .buffer_unordered(REQUESTS);
        let outcomes: Vec<_> = outcomes.collect().await;
        outcomes.into_iter().collect()
    }

    /// Takes out all instances, including those whose registration is in flight: they leave, or are
    /// deregistered.
    pub(super) async fn end(&self, deregister: bool) {
        let known = std::mem::take(&mut self.state.lock().known);
        self.end_all(known.into_iter().collect(), deregister).await;
    }

    /// Takes out instances. One that cannot be taken out is marked offline one TTL later.
    async fn end_all(&self, keys: Vec<InstanceKey>, deregister: bool) {
        self.client.reload_token();
        let ends = stream::iter(keys).map(|key| async move {
            let (method, path, done, cannot) = if deregister {
                (
                    Method::DELETE,
                    format!("/v1/{key}"),
                    "deregistered",
                    "cannot deregister",
                )
            } else {
                (
                    Method::POST,
                    format!("/v1/{key}/leave"),
                    "left",
                    "cannot leave",
                )
            };
            match self.client.send(method, &path, None).await {
                Ok(_) => log::info!("{done} {key}"),
                Err(error) if error.is_not_found() => {}
                Err(error) => log::warn!("{cannot} {key}: {error}"),
            }
        });
        ends.buffer_unordered(REQUESTS).collect::<()>().await;
    }
}

fn entry_of(instance: &Registration) -> RegistrationEntry<'_> {
    let fields = Fields {
        name: instance.name.given(),
        weight: instance.weight.given().copied(),
        metadata: instance.metadata.given(),
        ttl: instance.ttl.given().copied(),
    };
    RegistrationEntry::of(&instance.key, fields)
}

fn lease_of(key: &InstanceKey) -> Value {
    json!({ key.scope.kind.as_str(): key.scope.key, "address": key.address })
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
