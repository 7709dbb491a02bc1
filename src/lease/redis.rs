//! Leases on Redis, in the keys and fields of the original gateway center.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Script;

use super::{
    Identity, Lease, LeaseError, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed,
};
use crate::model::{Epoch, InstanceKey};
use crate::redis::{
    ANSWER, Call, LinkError, Master, RedisBackend, RedisConnection, SlotMap, within,
};

/// The hash tag of the keys of this store that are not leases, if one master has all keys.
/// Each master of a cluster has another tag.
const TAG: &str = "{rollcall}";

/// The number of keys that Redis examines for a page of the list.
const SCAN_COUNT: usize = 1000;

pub(super) struct RedisLeaseStore {
    link: RedisConnection,
    renew: Script,
    inspect: Script,
    probe: Script,
    list: Script,
}

/// A lease as inspect.lua returns it: its startTime and its remaining milliseconds.
type FeedItem = (String, u64);

impl RedisLeaseStore {
    pub(super) fn new(backend: &Arc<RedisBackend>) -> Self {
        Self {
            link: backend.link(),
            renew: Script::new(include_str!("renew.lua")),
            inspect: Script::new(include_str!("inspect.lua")),
            probe: Script::new(include_str!("probe.lua")),
            list: Script::new(include_str!("list.lua")),
        }
    }

    /// Returns the call that renews some leases. At a master of a cluster the leases are
    /// arguments, because they are in several slots; else they are keys.
    fn renew_call<'a>(
        &self,
        renewals: impl ExactSizeIterator<Item = &'a Renewal> + Clone,
        on_node: bool,
    ) -> Call<'_> {
        let count = renewals.len();
        let (keys, named) = if on_node { (1, count) } else { (count, 0) };
        let mut call = Call::script(&self.renew, keys);
        let mut lease_key = String::new();
        let mut name = |call: &mut Call<'_>, renewal: &Renewal| {
            lease_key.clear();
            renewal.key.write_lease_key(&mut lease_key);
            call.arg(&lease_key);
        };
        renewals
            .clone()
            .take(keys)
            .for_each(|renewal| name(&mut call, renewal));
        call.arg(named);
        renewals
            .clone()
            .take(named)
            .for_each(|renewal| name(&mut call, renewal));
        for renewal in renewals {
            call.arg(renewal.key.address.as_str())
                .arg(renewal.weight.get())
                .arg(renewal.ttl.as_secs());
        }
        call
    }

    /// Makes one call for each master, all at once. If leases of a master are being moved, it
    /// makes one call for each of them instead.
    async fn renew_on(
        &self,
        map: &SlotMap,
        renewals: &[Renewal],
    ) -> Result<Vec<Renewed>, LinkError> {
        let keys: Vec<String> = renewals
            .iter()
            .map(|renewal| renewal.key.lease_key())
            .collect();
        let parts = parts(map, &keys)?
            .into_iter()
            .map(|(master, indices)| async move {
                let of_part = || indices.iter().map(|index| &renewals[*index]);
                let call = self.renew_call(of_part(), true);
                let part = match self.link.ask_master::<String>(master, &call).await? {
                    Some(answer) => all_renewed(&answer, indices.len())?,
                    None => self.renew_each(of_part()).await?,
                };
                Ok::<_, LinkError>(indices.into_iter().zip(part).collect::<Vec<_>>())
            });
        in_order(try_join_all(parts).await?, renewals.len())
    }

    async fn renew_each<'a>(
        &self,
        renewals: impl Iterator<Item = &'a Renewal> + Clone,
    ) -> Result<Vec<Renewed>, LinkError> {
        // Renewals of the same lease stay in one call, which keeps their order.
        let mut by_key: HashMap<&InstanceKey, Vec<(usize, &Renewal)>> = HashMap::new();
        for (index, renewal) in renewals.clone().enumerate() {
            by_key
                .entry(&renewal.key)
                .or_default()
                .push((index, renewal));
        }
        let calls = by_key.into_iter().map(|(key, same)| async move {
            let call = self.renew_call(same.iter().map(|(_, renewal)| *renewal), false);
            let answer: String = self.link.ask(&key.lease_key(), &call).await?;
            let renewed = all_renewed(&answer, same.len())?;
            let indices = same.iter().map(|(index, _)| *index);
            Ok::<_, LinkError>(indices.zip(renewed).collect::<Vec<_>>())
        });
        in_order(try_join_all(calls).await?, renewals.count())
    }

    /// Reads leases of one server together with its mark, which is a key.
    async fn inspect_at_once(
        &self,
        mark: &str,
        keys: &[String],
    ) -> Result<LeaseSnapshot, LinkError> {
        let mut call = Call::script(&self.inspect, 1 + keys.len());
        call.arg(mark);
        for key in keys {
            call.arg(key);
        }
        call.arg("mark");
        let (identity, told): (String, Vec<FeedItem>) = self.link.ask(mark, &call).await?;
        Ok(LeaseSnapshot {
            leases: leases(told, keys.len())?,
            identity: Identity::of([identity]),
        })
    }

    async fn inspect_on(&self, map: &SlotMap, keys: &[String]) -> Result<LeaseSnapshot, LinkError> {
        let parts = parts(map, keys)?
            .into_iter()
            .map(|(master, indices)| async move {
                let mut call = Call::script(&self.inspect, 1);
                call.arg(mark(&master.tag)).arg("mark");
                for index in &indices {
                    call.arg(&keys[*index]);
                }
                let told = self
                    .link
                    .ask_master::<(String, Vec<FeedItem>)>(master, &call)
                    .await?;
                Ok::<_, LinkError>(match told {
                    Some((identity, told)) => {
                        let leases = leases(told, indices.len())?;
                        Some((
                            identity,
                            indices.into_iter().zip(leases).collect::<Vec<_>>(),
                        ))
                    }
                    None => None,
                })
            });
        let parts: Option<Vec<_>> = try_join_all(parts).await?.into_iter().collect();
        match parts {
            Some(parts) => {
                let (identities, leases): (Vec<String>, Vec<_>) = parts.into_iter().unzip();
                Ok(LeaseSnapshot {
                    leases: in_order(leases, keys.len())?,
                    identity: Identity::of(identities),
                })
            }
            None => self.inspect_at_each(keys).await,
        }
    }

    /// Reads each lease from the master that has it now, and only then the identities of all
    /// masters: a master that lost its leases before has another identity by then.
    async fn inspect_at_each(&self, keys: &[String]) -> Result<LeaseSnapshot, LinkError> {
        let calls = keys.iter().map(|key| async move {
            let mut call = Call::script(&self.inspect, 1);
            call.arg(key).arg("");
            let (_, told): (String, Vec<FeedItem>) = self.link.ask(key, &call).await?;
            Ok::<_, LinkError>(leases(told, 1)?.into_iter().next().flatten())
        });
        let leases = try_join_all(calls).await?;
        let identity = self.probe_all().await?;
        Ok(LeaseSnapshot { leases, identity })
    }

    async fn probe_all(&self) -> Result<Identity, LinkError> {
        let Some(map) = self.link.masters().await? else {
            let call = self.probe_call(TAG);
            let identity: String = self.link.ask(TAG, &call).await?;
            return Ok(Identity::of([identity]));
        };
        let calls = map.masters.iter().map(|master| async move {
            let call = self.probe_call(&master.tag);
            let identity: Option<String> = self.link.ask_master(master, &call).await?;
            identity.ok_or_else(moving)
        });
        Ok(Identity::of(try_join_all(calls).await?))
    }

    fn probe_call(&self, tag: &str) -> Call<'_> {
        let mut call = Call::script(&self.probe, 2);
        call.arg(mark(tag)).arg(format!("{tag}:probe"));
        call
    }
}

#[async_trait]
impl LeaseStore for RedisLeaseStore {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, LeaseError> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        let renewed = async {
            match self.link.masters().await? {
                Some(map) => self.renew_on(&map, renewals).await,
                None => {
                    let call = self.renew_call(renewals.iter(), false);
                    let answer: String = self.link.ask(TAG, &call).await?;
                    all_renewed(&answer, renewals.len())
                }
            }
        };
        Ok(within(ANSWER, renewed).await?)
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, LeaseError> {
        let keys: Vec<String> = keys.iter().map(InstanceKey::lease_key).collect();
        let looked = async {
            match self.link.masters().await? {
                Some(map) => self.inspect_on(&map, &keys).await,
                None => self.inspect_at_once(&mark(TAG), &keys).await,
            }
        };
        Ok(within(ANSWER, looked).await?)
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), LeaseError> {
        if keys.is_empty() {
            return Ok(());
        }
        let revoked = async {
            if self.link.masters().await?.is_none() {
                let mut call = Call::command("DEL");
                for key in keys {
                    call.arg(key.lease_key());
                }
                return self.link.ask(TAG, &call).await;
            }
            let calls = keys.iter().map(|key| async move {
                let mut call = Call::command("DEL");
                let key = key.lease_key();
                call.arg(&key);
                self.link.ask::<()>(&key, &call).await
            });
            try_join_all(calls).await.map(drop)
        };
        Ok(within(ANSWER, revoked).await?)
    }

    async fn probe(&self) -> Result<Identity, LeaseError> {
        Ok(within(ANSWER, self.probe_all()).await?)
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, LeaseError> {
        let listed = async {
            let map = self.link.masters().await?;
            let masters = map.iter().flat_map(|map| &map.masters);
            let (master, servers) = match map {
                None => (None, 1),
                Some(_) => (masters.clone().nth(cursor.server), masters.count()),
            };
            let mut call = Call::script(&self.list, 1);
            call.arg(mark(master.map_or(TAG, |master| &master.tag)))
                .arg(cursor.position)
                .arg(format!("{}*", InstanceKey::LEASE_KEY_PREFIX))
                .arg(SCAN_COUNT);
            let (position, keys): (u64, Vec<String>) = match master {
                Some(master) => self
                    .link
                    .ask_master(master, &call)
                    .await?
                    .ok_or_else(moving)?,
                // There are fewer masters than when the list began.
                None if map.is_some() => (0, Vec::new()),
                None => self.link.ask(TAG, &call).await?,
            };
            let next = match position {
                0 => (cursor.server + 1, 0),
                position => (cursor.server, position),
            };
            let next = Some(next).filter(|(server, _)| *server < servers);
            let next = next.map(|(server, position)| ListCursor { server, position });
            Ok(LeasePage { keys, next })
        };
        Ok(within(ANSWER, listed).await?)
    }
}

/// The key that exists until the database of a server is flushed.
fn mark(tag: &str) -> String {
    format!("{tag}:mark")
}

fn moving() -> LinkError {
    LinkError::Unavailable("the slots of the cluster are moving".to_owned())
}

/// Each master that holds some of the keys, and which ones.
fn parts<'a>(
    map: &'a SlotMap,
    keys: &[String],
) -> Result<Vec<(&'a Master, Vec<usize>)>, LinkError> {
    let mut parts: Vec<(&Master, Vec<usize>)> = map
        .masters
        .iter()
        .map(|master| (master, Vec::new()))
        .collect();
    for (index, key) in keys.iter().enumerate() {
        if let Some((_, indices)) = parts.get_mut(map.owner(key)?) {
            indices.push(index);
        }
    }
    parts.retain(|(_, indices)| !indices.is_empty());
    Ok(parts)
}

/// Puts answers into the order of the questions.
fn in_order<T>(parts: Vec<Vec<(usize, T)>>, count: usize) -> Result<Vec<T>, LinkError> {
    let mut all: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    check_count(all.len(), count)?;
    Ok(all.into_iter().map(|(_, answer)| answer).collect())
}

fn check_count(answered: usize, asked: usize) -> Result<(), LinkError> {
    match answered == asked {
        true => Ok(()),
        false => Err(LinkError::Refused(format!(
            "Redis answered {answered} leases of {asked}"
        ))),
    }
}

fn leases(told: Vec<FeedItem>, count: usize) -> Result<Vec<Option<Lease>>, LinkError> {
    check_count(told.len(), count)?;
    let lease = |(start_time, left): &FeedItem| {
        Some(Lease {
            // Another text than a time was not written by renew.lua, so this is no lease.
            epoch: Epoch::parse(start_time)?,
            left: Duration::from_millis(*left),
        })
    };
    Ok(told.iter().map(lease).collect())
}

fn all_renewed(answer: &str, count: usize) -> Result<Vec<Renewed>, LinkError> {
    let renewed: Vec<Renewed> = answer.split(' ').map(renewed).collect::<Result<_, _>>()?;
    check_count(renewed.len(), count)?;
    Ok(renewed)
}

fn renewed(answer: &str) -> Result<Renewed, LinkError> {
    let (created, start_time) = match answer.strip_prefix('+') {
        Some(start_time) => (true, start_time),
        None => (false, answer),
    };
    let epoch = Epoch::parse(start_time)
        .ok_or_else(|| LinkError::Refused(format!("startTime is {start_time:?}")))?;
    Ok(Renewed { created, epoch })
}
