//! Leases on Redis, in the keys and fields of the original gateway center.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Client, Script};

use super::{
    Identity, Lease, LeaseError, LeasePage, LeaseStore, ListCursor, Look, Renewal, Renewed,
};
use crate::model::{Epoch, InstanceKey};
use crate::redis_link::{PackedCall, RedisLink};

/// Holds the last epoch that was given out. Not below [`InstanceKey::LEASE_KEY_PREFIX`].
const EPOCH_KEY: &str = "rollcall:epoch";

/// Is there for as long as nobody has flushed the database.
const INCARNATION_KEY: &str = "rollcall:incarnation";

/// Written by every probe.
const PROBE_KEY: &str = "rollcall:probe";

/// How many keys Redis looks at for a page of the list.
const SCAN_COUNT: usize = 1000;

pub(super) struct RedisLeaseStore {
    link: RedisLink,
    renew: Script,
    look: Script,
    probe: Script,
    list: Script,
}

impl RedisLeaseStore {
    pub(super) fn new(client: Client) -> Self {
        Self {
            link: RedisLink::new(client),
            renew: Script::new(include_str!("renew.lua")),
            look: Script::new(include_str!("look.lua")),
            probe: Script::new(include_str!("probe.lua")),
            list: Script::new(include_str!("list.lua")),
        }
    }
}

#[async_trait]
impl LeaseStore for RedisLeaseStore {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, LeaseError> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = PackedCall::new(&self.renew, 1 + renewals.len());
        call.arg(EPOCH_KEY);
        let mut lease_key = String::new();
        for renewal in renewals {
            lease_key.clear();
            renewal.key.write_lease_key(&mut lease_key);
            call.arg(&lease_key);
        }
        for renewal in renewals {
            call.arg(renewal.key.address.as_str())
                .arg(renewal.weight.get())
                .arg(renewal.ttl.as_secs());
        }
        let answer: String = self.link.ask(&call).await?;
        let renewed: Vec<Renewed> = answer.split(' ').map(renewed).collect::<Result<_, _>>()?;
        if renewed.len() != renewals.len() {
            return Err(LeaseError::Refused(format!(
                "renew.lua answered {} leases of {}",
                renewed.len(),
                renewals.len()
            )));
        }
        Ok(renewed)
    }

    async fn look(&self, keys: &[InstanceKey]) -> Result<Look, LeaseError> {
        let mut call = self.look.prepare_invoke();
        call.key(INCARNATION_KEY);
        for key in keys {
            call.key(key.lease_key());
        }
        let (identity, answers): (String, Vec<(String, u64)>) = self.link.ask(&call).await?;
        let lease = |(start_time, left): &(String, u64)| {
            Some(Lease {
                // What is not a time was not written by renew.lua, and is no lease.
                epoch: Epoch::parse(start_time)?,
                left: Duration::from_millis(*left),
            })
        };
        if answers.len() != keys.len() {
            return Err(LeaseError::Refused(format!(
                "look.lua answered {} leases of {}",
                answers.len(),
                keys.len()
            )));
        }
        Ok(Look {
            leases: answers.iter().map(lease).collect(),
            identity: Identity::of([identity]),
        })
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), LeaseError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut delete = redis::cmd("DEL");
        for key in keys {
            delete.arg(key.lease_key());
        }
        self.link.ask::<()>(&delete).await?;
        Ok(())
    }

    async fn probe(&self) -> Result<Identity, LeaseError> {
        let mut call = self.probe.prepare_invoke();
        call.key(INCARNATION_KEY).key(PROBE_KEY);
        let identity: String = self.link.ask(&call).await?;
        Ok(Identity::of([identity]))
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, LeaseError> {
        let mut call = self.list.prepare_invoke();
        call.arg(cursor.position)
            .arg(format!("{}*", InstanceKey::LEASE_KEY_PREFIX))
            .arg(SCAN_COUNT);
        let (next, keys): (u64, Vec<String>) = self.link.ask(&call).await?;
        Ok(LeasePage {
            keys,
            next: (next != 0).then_some(ListCursor {
                server: 0,
                position: next,
            }),
        })
    }
}

fn renewed(answer: &str) -> Result<Renewed, LeaseError> {
    let (created, start_time) = match answer.strip_prefix('+') {
        Some(start_time) => (true, start_time),
        None => (false, answer),
    };
    let epoch = Epoch::parse(start_time)
        .ok_or_else(|| LeaseError::Refused(format!("startTime is {start_time:?}")))?;
    Ok(Renewed { created, epoch })
}
