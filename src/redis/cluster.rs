//! The slots of a Redis Cluster, and the master that holds each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use redis::{FromRedisValue, Value};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::address::Address;
use super::connection::Connector;
use super::error::reason;
use crate::backend::BackendError;

/// The time limit for the reply of one node.
const NODE_TIMEOUT: Duration = Duration::from_millis(300);
/// The number of nodes that one refresh queries.
const NODES_PER_REFRESH: usize = 5;
/// The number of hash tags to try: enough to find one for every single slot.
const TAGS: u32 = 400_000;
/// The number of slots of every Redis Cluster.
const SLOTS: u16 = 16384;

/// Returns the slot of a key. If the key has a hash tag, the text between its first braces,
/// only the tag is hashed.
pub(crate) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// Returns the CRC16 checksum with the polynomial of XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ (0x1021 * (crc >> 15))
        })
    })
}

/// One master of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Master {
    /// The node ID.
    id: String,
    pub(crate) address: Address,
    /// A hash tag whose slot this master holds.
    pub(crate) tag: String,
}

/// The slots of a cluster and their masters, as its nodes report them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotMap {
    pub(crate) masters: Vec<Master>,
    /// The index of the master of each slot.
    owners: Vec<Option<u16>>,
}

impl SlotMap {
    /// Returns the index in `masters` of the master that holds the key.
    pub(crate) fn owner(&self, key: &str) -> Result<usize, BackendError> {
        let slot = slot(key);
        let owner = self.owners.get(usize::from(slot)).copied().flatten();
        let none = || {
            BackendError::Unavailable(format!("no master of the Redis Cluster holds slot {slot}"))
        };
        owner.map(usize::from).ok_or_else(none)
    }

    /// Returns the master that holds the key.
    pub(crate) fn master(&self, key: &str) -> Result<&Master, BackendError> {
        let none =
            || BackendError::Unavailable("the slots of the Redis Cluster are not known".to_owned());
        self.masters.get(self.owner(key)?).ok_or_else(none)
    }

    /// Parses the reply of the node at `node` to CLUSTER SLOTS. All replicas give a master the
    /// same hash tag, so that they also read the same mark on it.
    fn parse(reply: Value, node: &Address) -> Option<Self> {
        let mut ranges = Vec::new();
        for range in sequence(reply)? {
            let mut range = sequence(range)?.into_iter();
            let first = u16::from_redis_value(range.next()?).ok()?;
            let last = u16::from_redis_value(range.next()?).ok()?;
            let mut master = sequence(range.next()?)?.into_iter();
            let host: Option<String> = Option::from_redis_value(master.next()?).ok()?;
            let port = u16::from_redis_value(master.next()?).ok()?;
            let id = String::from_redis_value(master.next()?).ok()?;
            // A node that does not know its own host is at the host that was queried.
            let host = match (host.filter(|host| !host.is_empty()), node) {
                (Some(host), _) => host,
                (None, Address::Tcp(host, _)) => host.clone(),
                (None, Address::Unix(_)) => return None,
            };
            ranges.push((first, last, id, Address::Tcp(host, port)));
        }
        let mut masters: Vec<Master> = Vec::new();
        for (_, _, id, address) in &ranges {
            if !masters.iter().any(|master| master.id == *id) {
                masters.push(Master {
                    id: id.clone(),
                    address: address.clone(),
                    tag: String::new(),
                });
            }
        }
        masters.sort();
        let mut owners = vec![None; usize::from(SLOTS)];
        for (first, last, id, _) in &ranges {
            let index = masters.iter().position(|master| master.id == *id)?;
            let owned = owners.get_mut(usize::from(*first)..=usize::from(*last))?;
            owned.fill(Some(u16::try_from(index).ok()?));
        }
        let mut map = Self { masters, owners };
        let mut missing = map.masters.len();
        for tag in (0..TAGS).map(|i| format!("{{rollcall:{i}}}")) {
            if missing == 0 {
                break;
            }
            if let Ok(owner) = map.owner(&tag)
                && let Some(master) = map.masters.get_mut(owner)
                && master.tag.is_empty()
            {
                master.tag = tag;
                missing -= 1;
            }
        }
        (missing == 0).then_some(map)
    }
}

fn sequence(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// The cluster as this process knows it.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    map: ArcSwapOption<SlotMap>,
    /// The number of refreshes so far; each one begins at another node.
    refreshes: AtomicUsize,
    /// Held during a refresh.
    refreshing: tokio::sync::Mutex<()>,
    /// Notified when a reply shows that the map is outdated.
    pub(super) outdated: Arc<Notify>,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>) -> Self {
        Self {
            seeds,
            map: ArcSwapOption::empty(),
            refreshes: AtomicUsize::new(0),
            refreshing: tokio::sync::Mutex::default(),
            outdated: Arc::default(),
        }
    }

    /// Returns the cached map; queries the nodes if there is none yet.
    pub(super) async fn map(&self, connector: &Connector) -> Result<Arc<SlotMap>, BackendError> {
        if let Some(map) = self.map.load_full() {
            return Ok(map);
        }
        let _refreshing = self.refreshing.lock().await;
        match self.map.load_full() {
            Some(map) => Ok(map),
            None => self.query_nodes(connector).await,
        }
    }

    /// Returns the cached map, if there is one.
    pub(super) fn cached_map(&self) -> Option<Arc<SlotMap>> {
        self.map.load_full()
    }

    /// Queries the nodes for a new map.
    pub(super) async fn refresh(
        &self,
        connector: &Connector,
    ) -> Result<Arc<SlotMap>, BackendError> {
        let _refreshing = self.refreshing.lock().await;
        self.query_nodes(connector).await
    }

    /// Queries some nodes concurrently and takes the map that most of them return: a node that
    /// was removed or is partitioned from the others still replies with an old map.
    async fn query_nodes(&self, connector: &Connector) -> Result<Arc<SlotMap>, BackendError> {
        let before = self.map.load_full();
        let masters = before.iter().flat_map(|map| &map.masters);
        let mut candidates: Vec<&Address> = masters.map(|master| &master.address).collect();
        for seed in &self.seeds {
            if !candidates.contains(&seed) {
                candidates.push(seed);
            }
        }
        // In a large cluster, each refresh queries other nodes than the one before.
        let count = candidates.len().min(NODES_PER_REFRESH);
        let refreshes = self.refreshes.fetch_add(1, Ordering::Relaxed);
        let begin = refreshes % candidates.len().max(1);
        candidates.rotate_left(begin);
        let queries = candidates.iter().take(count).map(|address| async move {
            let query = timeout(NODE_TIMEOUT, query_node(connector, address));
            let no_reply = |_| Err(format!("{address}: no reply within {NODE_TIMEOUT:?}"));
            query.await.unwrap_or_else(no_reply)
        });
        let (mut maps, mut failures): (Vec<(SlotMap, usize)>, Vec<String>) = Default::default();
        for reply in join_all(queries).await {
            match reply {
                Ok(map) => match maps.iter_mut().find(|(known, _)| *known == map) {
                    Some((_, votes)) => *votes += 1,
                    None => maps.push((map, 1)),
                },
                Err(reason) => failures.push(reason),
            }
        }
        let most_reported = maps.into_iter().max_by_key(|(_, votes)| *votes);
        let (map, _) = most_reported.ok_or_else(|| {
            BackendError::Unavailable(format!(
                "no node of the Redis Cluster reports its slots: {}",
                failures.join("; ")
            ))
        })?;
        if before.as_deref() == Some(&map) {
            return Ok(Arc::new(map));
        }
        let map = Arc::new(map);
        if before.is_some() {
            log::info!("the masters or the slots of the Redis Cluster have changed");
        }
        self.map.store(Some(Arc::clone(&map)));
        Ok(map)
    }
}

async fn query_node(connector: &Connector, address: &Address) -> Result<SlotMap, String> {
    let mut connection = connector
        .connect_for_discovery(address, false)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    let reply = redis::cmd("CLUSTER")
        .arg("SLOTS")
        .query_async::<Value>(&mut connection)
        .await
        .map_err(|error| format!("{address}: {}", reason(&error)))?;
    SlotMap::parse(reply, address)
        .filter(|map| !map.masters.is_empty())
        .ok_or_else(|| format!("{address}: the node reports no master with slots"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [
            ("foo", 12182),
            ("{user1000}.following", slot("user1000")),
            ("foo{}{bar}", crc16(b"foo{}{bar}") % SLOTS),
            ("foo{{bar}}zap", slot("{bar")),
            ("foo{bar}{zap}", slot("bar")),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, port: i64, id: &str) -> Value {
        let master = Value::Array(vec![text(""), Value::Int(port), text(id)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn each_master_has_a_tag_whose_keys_it_holds() {
        let node = Address::Tcp("h".to_owned(), 1);
        // The master "c" holds a single slot.
        let whole = Value::Array(vec![
            range(0, 8000, 2, "b"),
            range(8001, 8001, 3, "c"),
            range(8002, 16383, 1, "a"),
        ]);
        let map = SlotMap::parse(whole, &node).unwrap();
        assert_eq!(map.masters[0].address, node);
        for (index, master) in map.masters.iter().enumerate() {
            assert_eq!(map.owner(&master.tag).unwrap(), index);
        }
        let ranges = Value::Array(vec![range(0, 16000, 1, "a")]);
        let part = SlotMap::parse(ranges, &node).unwrap();
        let error = (0..)
            .map(|i| part.owner(&format!("{i}")))
            .find_map(Result::err);
        assert!(
            error
                .unwrap()
                .to_string()
                .starts_with("no master of the Redis Cluster holds slot 16")
        );
    }
}
