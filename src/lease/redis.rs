//! Leases on Redis, with the keys and fields of the original gateway center.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{try_join, try_join_all};
use redis::Script;

use super::redis_key::{self, hidden_key, hide, lease_key, parse_lease_key};
use super::redis_reply::{RawLease, all_renewed, check_count, leases};
use super::{Identity, Lease, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed};
use crate::backend::BackendError;
use crate::model::InstanceKey;
use crate::redis::{CALL_TIMEOUT, Call, Master, RedisBackend, RedisConnection, SlotMap, within};

/// The hash tag of the keys that are not leases, without a cluster. Each master of a cluster
/// has its own tag.
const TAG: &str = "{rollcall}";

/// The number of keys that Redis examines for one page of the list.
const SCAN_COUNT: usize = 1000;

pub(super) struct RedisLeaseStore {
    connection: RedisConnection,
    renew: Script,
    set_hidden: Script,
    inspect: Script,
    probe: Script,
    list: Script,
}

impl RedisLeaseStore {
    pub(super) fn new(backend: &Arc<RedisBackend>) -> Self {
        Self {
            connection: backend.connection(),
            renew: Script::new(include_str!("renew.lua")),
            set_hidden: Script::new(include_str!("set_hidden.lua")),
            inspect: Script::new(include_str!("inspect.lua")),
            probe: Script::new(include_str!("probe.lua")),
            list: Script::new(include_str!("list.lua")),
        }
    }

    /// Returns the call that renews some leases. On a master of a cluster the leases are passed
    /// in ARGV, because they are in several slots; otherwise they are in KEYS.
    fn renew_call<'a>(
        &self,
        renewals: impl ExactSizeIterator<Item = &'a Renewal> + Clone,
        on_cluster: bool,
    ) -> Call<'_> {
        let count = renewals.len();
        let (keys, arguments) = if on_cluster { (1, count) } else { (count, 0) };
        let mut call = Call::script(&self.renew, keys);
        let mut key = String::new();
        let mut add_key = |call: &mut Call<'_>, renewal: &Renewal| {
            key.clear();
            redis_key::write_lease_key(&renewal.key, renewal.is_hidden, &mut key);
            call.arg(&key);
        };
        renewals
            .clone()
            .take(keys)
            .for_each(|renewal| add_key(&mut call, renewal));
        call.arg(arguments);
        renewals
            .clone()
            .take(arguments)
            .for_each(|renewal| add_key(&mut call, renewal));
        for renewal in renewals {
            call.arg(renewal.key.address.as_str())
                .arg(renewal.weight.get())
                .arg(renewal.ttl.as_secs());
        }
        call
    }

    /// Renews leases, and returns `None` for each whose startTime is not a time.
    async fn renew_once(&self, renewals: &[Renewal]) -> Result<Vec<Option<Renewed>>, BackendError> {
        match self.connection.masters().await? {
            Some(map) => self.renew_on_masters(&map, renewals).await,
            None => {
                let call = self.renew_call(renewals.iter(), false);
                let reply: Vec<u8> = self.connection.query(TAG, &call).await?;
                all_renewed(&reply, renewals.len())
            }
        }
    }

    /// Calls all masters concurrently, each with its leases. If leases of a master are being
    /// moved, makes one call for each of its leases instead.
    async fn renew_on_masters(
        &self,
        map: &SlotMap,
        renewals: &[Renewal],
    ) -> Result<Vec<Option<Renewed>>, BackendError> {
        let keys: Vec<String> = renewals
            .iter()
            .map(|renewal| lease_key(&renewal.key))
            .collect();
        let calls = group_by_master(map, &keys)?
            .into_iter()
            .map(|(master, indices)| async move {
                let part = || indices.iter().map(|index| &renewals[*index]);
                let call = self.renew_call(part(), true);
                let reply = self.connection.query_master::<Vec<u8>>(master, &call);
                let renewed = match reply.await? {
                    Some(reply) => all_renewed(&reply, indices.len())?,
                    None => self.renew_each(part()).await?,
                };
                Ok::<_, BackendError>(indices.into_iter().zip(renewed).collect::<Vec<_>>())
            });
        in_order(try_join_all(calls).await?, renewals.len())
    }

    async fn renew_each<'a>(
        &self,
        renewals: impl Iterator<Item = &'a Renewal> + Clone,
    ) -> Result<Vec<Option<Renewed>>, BackendError> {
        // Renewals of the same lease are in one call, which keeps their order.
        let mut by_key: HashMap<&InstanceKey, Vec<(usize, &Renewal)>> = HashMap::new();
        for (index, renewal) in renewals.clone().enumerate() {
            by_key
                .entry(&renewal.key)
                .or_default()
                .push((index, renewal));
        }
        let calls = by_key.into_iter().map(|(key, same)| async move {
            let call = self.renew_call(same.iter().map(|(_, renewal)| *renewal), false);
            let reply: Vec<u8> = self.connection.query(&lease_key(key), &call).await?;
            let renewed = all_renewed(&reply, same.len())?;
            let indices = same.iter().map(|(index, _)| *index);
            Ok::<_, BackendError>(indices.zip(renewed).collect::<Vec<_>>())
        });
        in_order(try_join_all(calls).await?, renewals.count())
    }

    /// Reads leases of one server together with its mark, in one call.
    async fn inspect_together(
        &self,
        mark: &str,
        keys: &[String],
    ) -> Result<LeaseSnapshot, BackendError> {
        let mut call = Call::script(&self.inspect, 1 + keys.len());
        call.arg(mark);
        for key in keys {
            call.arg(key);
        }
        call.arg("mark");
        let reply: (String, Vec<RawLease>) = self.connection.query(mark, &call).await?;
        let (identity, raw) = reply;
        Ok(LeaseSnapshot {
            leases: leases(raw, keys.len())?,
            identity: Identity::of([identity]),
        })
    }

    async fn inspect_on_masters(
        &self,
        map: &SlotMap,
        keys: &[String],
    ) -> Result<LeaseSnapshot, BackendError> {
        let calls = group_by_master(map, keys)?
            .into_iter()
            .map(|(master, indices)| async move {
                let mut call = Call::script(&self.inspect, 1);
                call.arg(mark(&master.tag)).arg("mark");
                for index in &indices {
                    call.arg(&keys[*index]);
                }
                let reply = self
                    .connection
                    .query_master::<(String, Vec<RawLease>)>(master, &call)
                    .await?;
                Ok::<_, BackendError>(match reply {
                    Some((identity, raw)) => {
                        let leases = leases(raw, indices.len())?;
                        Some((
                            identity,
                            indices.into_iter().zip(leases).collect::<Vec<_>>(),
                        ))
                    }
                    None => None,
                })
            });
        let parts: Option<Vec<_>> = try_join_all(calls).await?.into_iter().collect();
        match parts {
            Some(parts) => {
                let (identities, leases): (Vec<String>, Vec<_>) = parts.into_iter().unzip();
                Ok(LeaseSnapshot {
                    leases: in_order(leases, keys.len())?,
                    identity: Identity::of(identities),
                })
            }
            None => self.inspect_each(keys).await,
        }
    }

    /// Reads each lease from its current master, and only then the identities of all masters:
    /// if a master has lost its leases before, its identity has changed by then. While a slot is
    /// moved, the visible and the hidden key of a lease may be on different masters.
    async fn inspect_each(&self, keys: &[String]) -> Result<LeaseSnapshot, BackendError> {
        let calls = keys.iter().map(|key| async move {
            let hidden = hide(key);
            let (visible, hidden) =
                try_join(self.inspect_key(key), self.inspect_key(&hidden)).await?;
            Ok::<_, BackendError>(visible.or(hidden))
        });
        let leases = try_join_all(calls).await?;
        let identity = self.probe_all().await?;
        Ok(LeaseSnapshot { leases, identity })
    }

    async fn inspect_key(&self, key: &str) -> Result<Option<Lease>, BackendError> {
        let mut call = Call::script(&self.inspect, 1);
        call.arg(key).arg("");
        let (_, raw): (String, Vec<RawLease>) = self.connection.query(key, &call).await?;
        Ok(leases(raw, 1)?.into_iter().next().flatten())
    }

    async fn probe_all(&self) -> Result<Identity, BackendError> {
        let Some(map) = self.connection.masters().await? else {
            let call = self.probe_call(TAG);
            let identity: String = self.connection.query(TAG, &call).await?;
            return Ok(Identity::of([identity]));
        };
        let calls = map.masters.iter().map(|master| async move {
            let call = self.probe_call(&master.tag);
            let identity: Option<String> = self.connection.query_master(master, &call).await?;
            identity.ok_or_else(slots_moving)
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
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        let renewed = async {
            let mut renewed = self.renew_once(renewals).await?;
            let no_times =
                || iter::zip(renewals, &renewed).filter(|(_, renewed)| renewed.is_none());
            let begin: Vec<Renewal> = no_times().map(|(renewal, _)| renewal.clone()).collect();
            if !begin.is_empty() {
                // Another program wrote them: they prove nothing, and new leases replace them.
                let keys: Vec<InstanceKey> = begin.iter().map(|lease| lease.key.clone()).collect();
                self.revoke(&keys).await?;
                let mut begun = self.renew_once(&begin).await?.into_iter();
                let missing = renewed.iter_mut().filter(|renewed| renewed.is_none());
                missing.for_each(|renewed| *renewed = begun.next().flatten());
            }
            let all: Option<Vec<Renewed>> = renewed.into_iter().collect();
            all.ok_or_else(|| {
                BackendError::Refused(
                    "Redis returned a new lease whose startTime is no time".into(),
                )
            })
        };
        Ok(within(CALL_TIMEOUT, renewed).await?)
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        let keys: Vec<String> = keys.iter().map(lease_key).collect();
        let snapshot = async {
            match self.connection.masters().await? {
                Some(map) => self.inspect_on_masters(&map, &keys).await,
                None => self.inspect_together(&mark(TAG), &keys).await,
            }
        };
        Ok(within(CALL_TIMEOUT, snapshot).await?)
    }

    async fn set_hidden(&self, key: &InstanceKey, is_hidden: bool) -> Result<bool, BackendError> {
        let (from, to) = match is_hidden {
            true => (lease_key(key), hidden_key(key)),
            false => (hidden_key(key), lease_key(key)),
        };
        let mut call = Call::script(&self.set_hidden, 1);
        call.arg(&from).arg(to);
        let changed = self.connection.query::<u8>(&from, &call);
        Ok(within(CALL_TIMEOUT, changed).await? == 1)
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        if keys.is_empty() {
            return Ok(());
        }
        let both = keys
            .iter()
            .flat_map(|key| [lease_key(key), hidden_key(key)]);
        let revoked = async {
            if self.connection.masters().await?.is_none() {
                let mut call = Call::command("DEL");
                for key in both {
                    call.arg(key);
                }
                return self.connection.query(TAG, &call).await;
            }
            // One key each: a call with two fails while their slot is moved.
            let calls = both.map(|key| async move {
                let mut call = Call::command("DEL");
                call.arg(&key);
                self.connection.query::<()>(&key, &call).await
            });
            try_join_all(calls).await.map(drop)
        };
        Ok(within(CALL_TIMEOUT, revoked).await?)
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        Ok(within(CALL_TIMEOUT, self.probe_all()).await?)
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, BackendError> {
        let listed = async {
            let map = self.connection.masters().await?;
            let masters = map.iter().flat_map(|map| &map.masters);
            let (master, servers) = match map {
                None => (None, 1),
                Some(_) => (masters.clone().nth(cursor.server), masters.count()),
            };
            let mut call = Call::script(&self.list, 1);
            call.arg(mark(master.map_or(TAG, |master| &master.tag)))
                .arg(cursor.position)
                .arg(format!("*{}*", redis_key::PREFIX))
                .arg(SCAN_COUNT);
            let (position, keys): (u64, Vec<String>) = match master {
                Some(master) => self
                    .connection
                    .query_master(master, &call)
                    .await?
                    .ok_or_else(slots_moving)?,
                // The cluster has fewer masters than when the first page was read.
                None if map.is_some() => (0, Vec::new()),
                None => self.connection.query(TAG, &call).await?,
            };
            let (server, position) = match position {
                0 => (cursor.server + 1, 0),
                position => (cursor.server, position),
            };
            let next = (server < servers).then_some(ListCursor { server, position });
            // Other keys with this prefix are no leases of ours.
            let keys = keys.iter().filter_map(|key| parse_lease_key(key).ok());
            Ok(LeasePage {
                keys: keys.collect(),
                next,
            })
        };
        Ok(within(CALL_TIMEOUT, listed).await?)
    }
}

/// Returns the key that exists until the database of a server is flushed.
fn mark(tag: &str) -> String {
    format!("{tag}:mark")
}

fn slots_moving() -> BackendError {
    BackendError::Unavailable("slots of the Redis Cluster are being moved".to_owned())
}

/// Returns each master that holds some of the keys, with the indices of these keys.
fn group_by_master<'a>(
    map: &'a SlotMap,
    keys: &[String],
) -> Result<Vec<(&'a Master, Vec<usize>)>, BackendError> {
    let mut groups: Vec<(&Master, Vec<usize>)> = map
        .masters
        .iter()
        .map(|master| (master, Vec::new()))
        .collect();
    for (index, key) in keys.iter().enumerate() {
        if let Some((_, indices)) = groups.get_mut(map.owner(key)?) {
            indices.push(index);
        }
    }
    groups.retain(|(_, indices)| !indices.is_empty());
    Ok(groups)
}

/// Merges the results of several calls into the order of the keys.
fn in_order<T>(parts: Vec<Vec<(usize, T)>>, count: usize) -> Result<Vec<T>, BackendError> {
    let mut all: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    check_count(all.len(), count)?;
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
