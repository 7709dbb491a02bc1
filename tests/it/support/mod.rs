//! The foundation of the tests: private servers, the daemon under test, waiting.

pub(crate) mod backends;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod failover;
pub(crate) mod fake_registry;
pub(crate) mod lease_servers;
pub(crate) mod memory_store;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod redis_cluster;
pub(crate) mod sentinels;
pub(crate) mod sse;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use rollcalld::actor::{Mailbox, MailboxLimits, RollCall};
use rollcalld::daemon::{Backends, Core, Threads};
use rollcalld::lease::{Health, LeaseStore, ObservedLeaseStore};
use rollcalld::liveness::Limits;
use rollcalld::metrics::Metrics;
use rollcalld::settings::CoreSettings;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Waits until `condition` gives a value, asking again and again, at most for `limit`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A mailbox without metrics.
pub(crate) fn mailbox<A: Actor>(
    address: Addr<A>,
    permits: usize,
    deadline: Duration,
) -> Mailbox<A> {
    let limits = MailboxLimits { permits, deadline };
    Mailbox::new(address, limits, Metrics::new().mailbox("tested"))
}

/// A lease store that reports to `health`, as the daemon's does.
pub(crate) fn observed(leases: Arc<dyn LeaseStore>, health: &Arc<Health>) -> Arc<dyn LeaseStore> {
    Arc::new(ObservedLeaseStore::new(
        leases,
        Arc::clone(health),
        &Metrics::new(),
    ))
}

/// Starts a core on the current thread, which calls the roll every five seconds.
pub(crate) fn start_core(limits: Limits, backends: Backends) -> Core {
    let settings = CoreSettings {
        limits,
        roll_call: RollCall {
            channel: "heartBeat".into(),
            message: "?".into(),
            interval: Duration::from_secs(5),
        },
        announcement: None,
        remove_offline_after: None,
    };
    let (ends, _) = mpsc::unbounded_channel();
    Core::start(
        settings,
        backends,
        &Threads::current(),
        Arc::default(),
        ends,
    )
}

/// `h-0:1`, `h-1:1` and so on.
pub(crate) fn addresses(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("h-{i}:1")).collect()
}
