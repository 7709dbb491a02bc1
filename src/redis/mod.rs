//! The connections to Redis, for the lease store and for the bus. All of them come from one
//! [`RedisBackend`], so that the whole process uses one server, or one cluster, and changes
//! as a whole when another server takes its place.

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

use self::cluster::Cluster;
pub(crate) use self::cluster::{Master, SlotMap};
use self::connection::{Connected, Connector};
use self::error::Fault;
pub use self::error::LinkError;
pub(crate) use self::link::{ANSWER, Call, RedisConnection, within};
use self::node::Node;
use self::settings::Settings;
use self::url::{Address, Arrangement};
pub use self::url::{FORMS, RedisUrl};
use crate::error::OpenError;
use crate::metrics::Gauge;

/// How often the process checks that the master is still the same one.
const WATCH: Duration = Duration::from_secs(1);
/// How often the settings of the servers are checked.
const CHECK: Duration = Duration::from_secs(10);

/// The servers behind one URL. All links of a process share it.
pub struct RedisBackend {
    connector: Connector,
    /// `None` if there is one master.
    cluster: Option<Cluster>,
    /// By address. Without a cluster, the key of the one master is `None`.
    nodes: Mutex<HashMap<Option<Address>, Arc<Node>>>,
    watched: AtomicBool,
    /// Whether a server may evict leases.
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
    pub fn report_evictions(&self, gauge: Gauge) {
        // The daemon sets it once.
        let _ = self.evicts.set(gauge);
    }

    /// Returns a link whose connections live on the current runtime. The first one also starts
    /// the watch over the servers, on the same runtime.
    pub(crate) fn link(self: &Arc<Self>) -> RedisConnection {
        if !self.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
        RedisConnection::new(Arc::clone(self))
    }

    /// Returns the state that all links share about one master.
    fn node(&self, address: &Option<Address>) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Arc::clone(node);
        }
        let node = nodes.entry(address.clone());
        Arc::clone(node.or_insert_with(|| Arc::new(Node::new())))
    }

    fn has(&self, address: &Option<Address>) -> bool {
        let nodes = self.nodes.lock();
        nodes.contains_key(address)
    }

    /// Connects to a master: to the one at `address`, or else to the one that is the master now.
    async fn reach(&self, address: Option<Address>) -> Result<(Address, Connected), Fault> {
        let address = match (address, &self.connector.url.arrangement) {
            (Some(address), _) => address,
            (None, Arrangement::Single(address)) => address.clone(),
            (None, Arrangement::Sentinel { sentinels, master }) => {
                let named = sentinel::master(&self.connector, sentinels, master).await;
                named.map_err(Fault::Broken)?
            }
            (None, Arrangement::Cluster(_)) => return Err(Fault::Moved(None)),
        };
        let connected = self.connector.connect(&address).await?;
        Ok((address, connected))
    }

    /// Wakes the watch if an answer shows that the slots of the cluster have changed.
    fn outdate(&self, fault: &Fault) {
        let changed = matches!(
            fault,
            Fault::Moved(_) | Fault::Broken(_) | Fault::NotMaster(_)
        );
        if let Some(cluster) = &self.cluster
            && changed
        {
            cluster.outdated.notify_one();
        }
    }

    /// Checks that the masters are still the same ones. It makes a new connection each time,
    /// because an open one may still lead to an old master.
    async fn inspect(&self) -> Result<(), LinkError> {
        let Some(cluster) = &self.cluster else {
            let node = self.node(&None);
            let begun = node.generation();
            let fault = match self.reach(None).await {
                Ok((address, connected)) => {
                    node.agree(&address, connected.run.as_deref(), begun);
                    return Ok(());
                }
                Err(fault) => fault,
            };
            if matches!(fault, Fault::NotMaster(_)) {
                node.distrust(begun);
            }
            return Err(fault.into_error());
        };
        let map = cluster.refresh(&self.connector).await?;
        let mut nodes = self.nodes.lock();
        nodes.retain(|address, node| {
            let is_master = |master: &Master| Some(&master.address) == address.as_ref();
            let stays = map.masters.iter().any(is_master);
            if !stays {
                node.distrust(node.generation());
            }
            stays
        });
        Ok(())
    }

    /// Checks the settings of all masters, and logs new warnings.
    async fn check(&self, before: Settings) -> Settings {
        let masters = match self.cluster.as_ref().and_then(Cluster::known) {
            Some(map) => map
                .masters
                .iter()
                .map(|m| Some(m.address.clone()))
                .collect(),
            None => vec![None],
        };
        let mut all = Settings::default();
        for master in masters {
            if let Ok((address, mut connected)) = self.reach(master).await {
                all.add(&address, &mut connected.connection).await;
            }
        }
        all.tell(&before);
        if let Some(gauge) = self.evicts.get() {
            gauge.set(all.evicts().into());
        }
        all
    }
}

/// Watches the servers for as long as the backend is in use.
async fn watch(backend: Weak<RedisBackend>) {
    let (mut settings, mut checked) = (Settings::default(), None::<Instant>);
    loop {
        let outdated = {
            let Some(backend) = backend.upgrade() else {
                return;
            };
            match backend.inspect().await {
                Err(error) => log::debug!("cannot check the masters of Redis: {error}"),
                Ok(()) if checked.is_some_and(|checked| checked.elapsed() < CHECK) => {}
                Ok(()) => {
                    settings = backend.check(settings).await;
                    checked = Some(Instant::now());
                }
            }
            let cluster = backend.cluster.as_ref();
            cluster.map_or_else(|| Arc::new(Notify::new()), |c| Arc::clone(&c.outdated))
        };
        // Earlier if an answer shows that the slots have changed.
        if timeout(WATCH, outdated.notified()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// The least time between two checks of a cluster that is changing.
const SETTLE: Duration = Duration::from_millis(200);
