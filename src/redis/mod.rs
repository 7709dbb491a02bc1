//! The connections to Redis, for the lease store, the event log and the coordinator. All of them come from
//! one [`RedisBackend`], so that the whole process uses the same server or cluster, and all
//! connections change to the new master together after a failover.

mod address;
mod cluster;
mod connection;
mod error;
mod link;
mod node;
mod sentinel;
mod settings;
mod url;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use self::address::Address;
use self::cluster::Cluster;
pub(crate) use self::cluster::{Master, SlotMap};
use self::connection::{Connected, Connector};
use self::error::Fault;
pub(crate) use self::link::{CALL_TIMEOUT, Call, RedisConnection, within};
use self::node::Node;
use self::settings::Settings;
use self::url::Arrangement;
pub(crate) use self::url::FORMS;
pub use self::url::RedisUrl;
use crate::backend::{BackendError, OpenError};
use crate::metrics::Gauge;

/// The interval of checks that the masters are still the same.
const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The interval of checks of the settings of the servers.
const SETTINGS_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The servers behind one URL. All connections of the process share it.
pub struct RedisBackend {
    connector: Connector,
    /// `None` without a cluster.
    cluster: Option<Cluster>,
    /// By address; without a cluster, the key of the only master is `None`.
    nodes: Mutex<HashMap<Option<Address>, Arc<Node>>>,
    /// Whether the background checks have been started.
    watched: AtomicBool,
    /// 1 while a server may evict leases.
    evicts: OnceLock<Gauge>,
}

impl RedisBackend {
    /// Checks the files and settings of the URL, without connecting.
    pub fn open(url: &RedisUrl) -> Result<Arc<Self>, OpenError> {
        let connector = Connector::new(url.clone());
        let (address, cluster) = match &url.arrangement {
            Arrangement::Single(address) => (Some(address), None),
            Arrangement::Sentinel { sentinels, .. } => (sentinels.first(), None),
            Arrangement::Cluster(seeds) => (seeds.first(), Some(Cluster::new(seeds.clone()))),
        };
        if let Some(address) = address {
            let client = connector.client(address);
            client.map_err(|reason| OpenError {
                backend: url.to_string(),
                reason,
            })?;
        }
        Ok(Arc::new(Self {
            connector,
            cluster,
            nodes: Mutex::default(),
            watched: AtomicBool::new(false),
            evicts: OnceLock::new(),
        }))
    }

    /// Sets `gauge` to 1 while a server may evict leases.
    pub(crate) fn report_evictions(&self, gauge: Gauge) {
        // The daemon calls this once.
        let _ = self.evicts.set(gauge);
    }

    /// Returns a [`RedisConnection`] that runs on the current runtime. The first call also
    /// starts the background checks of the servers, on the same runtime.
    pub(crate) fn connection(self: &Arc<Self>) -> RedisConnection {
        if !self.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
        RedisConnection::new(Arc::clone(self))
    }

    /// Returns the shared state of one master.
    fn node(&self, address: &Option<Address>) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Arc::clone(node);
        }
        let node = nodes
            .entry(address.clone())
            .or_insert_with(|| Arc::new(Node::new()));
        Arc::clone(node)
    }

    fn has_node(&self, address: &Option<Address>) -> bool {
        let nodes = self.nodes.lock();
        nodes.contains_key(address)
    }

    /// Connects to the master at `address`; without an address, to the current master.
    async fn connect(&self, address: Option<Address>) -> Result<(Address, Connected), Fault> {
        let address = match (address, &self.connector.url.arrangement) {
            (Some(address), _) => address,
            (None, Arrangement::Single(address)) => address.clone(),
            (None, Arrangement::Sentinel { sentinels, master }) => {
                sentinel::master(&self.connector, sentinels, master)
                    .await
                    .map_err(Fault::Broken)?
            }
            (None, Arrangement::Cluster(_)) => return Err(Fault::Moved(None)),
        };
        let connected = self.connector.connect(&address).await?;
        Ok((address, connected))
    }

    /// Starts a check of the masters if a fault suggests that the slots of the cluster have
    /// changed.
    fn refresh_if_outdated(&self, fault: &Fault) {
        let may_have_changed = matches!(
            fault,
            Fault::Moved(_) | Fault::Broken(_) | Fault::NotMaster(_)
        );
        if let Some(cluster) = &self.cluster
            && may_have_changed
        {
            cluster.outdated.notify_one();
        }
    }

    /// Checks that the masters are still the same. Opens a new connection each time, because an
    /// open one may still lead to an old master.
    async fn check_masters(&self) -> Result<(), BackendError> {
        let Some(cluster) = &self.cluster else {
            let node = self.node(&None);
            let generation = node.generation();
            let fault = match self.connect(None).await {
                Ok((address, connected)) => {
                    node.record_server(&address, connected.run.as_deref(), generation);
                    return Ok(());
                }
                Err(fault) => fault,
            };
            if matches!(fault, Fault::NotMaster(_)) {
                node.end_generation(generation);
            }
            return Err(fault.into_error());
        };
        let map = cluster.refresh(&self.connector).await?;
        let mut nodes = self.nodes.lock();
        nodes.retain(|address, node| {
            let is_master = |master: &Master| Some(&master.address) == address.as_ref();
            let is_current = map.masters.iter().any(is_master);
            if !is_current {
                node.end_generation(node.generation());
            }
            is_current
        });
        Ok(())
    }

    /// Checks the settings of all masters, and logs the findings that are not in `before`.
    async fn check_settings(&self, before: Settings) -> Settings {
        let masters = match self.cluster.as_ref().and_then(Cluster::cached_map) {
            Some(map) => map
                .masters
                .iter()
                .map(|master| Some(master.address.clone()))
                .collect(),
            None => vec![None],
        };
        let mut all = Settings::default();
        for master in masters {
            if let Ok((address, mut connected)) = self.connect(master).await {
                all.add(&address, &mut connected.connection).await;
            }
        }
        all.log_new(&before);
        if let Some(gauge) = self.evicts.get() {
            gauge.set(all.evicts().into());
        }
        all
    }
}

/// Checks the masters and their settings periodically until the backend is dropped.
async fn watch(backend: Weak<RedisBackend>) {
    let (mut settings, mut checked_at) = (Settings::default(), None::<Instant>);
    loop {
        let outdated = {
            let Some(backend) = backend.upgrade() else {
                return;
            };
            match backend.check_masters().await {
                Err(error) => log::debug!("cannot check the masters of Redis: {error}"),
                Ok(()) if checked_at.is_some_and(|at| at.elapsed() < SETTINGS_CHECK_INTERVAL) => {}
                Ok(()) => {
                    settings = backend.check_settings(settings).await;
                    checked_at = Some(Instant::now());
                }
            }
            let cluster = backend.cluster.as_ref();
            cluster.map_or_else(|| Arc::new(Notify::new()), |c| Arc::clone(&c.outdated))
        };
        // The next check comes earlier if a fault suggests that the slots have changed.
        if timeout(MASTER_CHECK_INTERVAL, outdated.notified())
            .await
            .is_ok()
        {
            tokio::time::sleep(MIN_CHECK_PAUSE).await;
        }
    }
}

/// Returns a duration as an argument of a command, in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The minimum pause between two checks of a cluster that is changing.
const MIN_CHECK_PAUSE: Duration = Duration::from_millis(200);
