//! The foundation of the tests: private servers, the daemon under test, waiting.

pub(crate) mod backends;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod failover;
pub(crate) mod fake_leases;
pub(crate) mod fake_registry;
pub(crate) mod faulty_store;
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
pub(crate) mod resolver;
pub(crate) mod sentinels;
pub(crate) mod sse;
pub(crate) mod web_proxies;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use rollcalld::actor::{Mailbox, MailboxLimits, RollCall};
use rollcalld::daemon::{Backends, Core, Threads};
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

/// The settings of a core that calls the roll every five seconds.
pub(crate) fn core_settings(limits: Limits) -> CoreSettings {
    CoreSettings {
        limits,
        roll_call: RollCall {
            channel: "heartBeat".into(),
            message: "?".into(),
            interval: Duration::from_secs(5),
        },
        announcement: None,
        remove_offline_after: None,
        event_log_length: 20_000,
        keep_audit: None,
    }
}

/// Starts a core on the current thread.
pub(crate) fn start_core(settings: CoreSettings, backends: Backends) -> Core {
    let (ends, _) = mpsc::unbounded_channel();
    let threads = Threads::current();
    Core::start(settings, backends, &threads, Arc::default(), ends)
}

/// `h-0:1`, `h-1:1` and so on.
pub(crate) fn addresses(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("h-{i}:1")).collect()
}
