//! Recorded presence: each transition once, reported by any replica and in any order, and
//! corrected by reconciles.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rollcalld::clock::SystemClock;
use rollcalld::coordination::{self, Coordinator};
use rollcalld::daemon::Core;
use rollcalld::event_log;
use rollcalld::lease::{self, LeaseUrl, Renewal};
use rollcalld::liveness::{Limits, ReconcileResult};
use rollcalld::model::{InstanceKey, Registration, ScopeKind, Ttl, Weight};
use rollcalld::store::{self, LeaseStart, StoreUrl};
use serde_json::json;

use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::fake_leases::FakeLeases;
use crate::support::memory_store::MemoryStore;
use crate::support::redis::Redis;
use crate::support::{core_settings, eventually, postgres, start_core};

on_both_backends! {
    the_time_of_the_last_change_is_shown,
    a_lease_from_before_the_registration_is_found_by_reconciling,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// Longer than the time between reconciles, with a margin for a slow machine.
const RECONCILED: Duration = Duration::from_secs(40);

async fn send_heartbeats(daemon: &Daemon) {
    let path = format!("{ORDERS}/heartbeat");
    assert_eq!(
        daemon.try_send(Method::PUT, &path, None).await.unwrap().0,
        200
    );
}

/// When its presence last changed, once the instance is as it should be.
async fn changed_at(daemon: &Daemon, online: bool) -> String {
    eventually(RECONCILED, "the change is recorded", || async {
        let (_, shown) = daemon.get(ORDERS).await;
        let changed_at = shown["online_changed_at"].as_str()?.to_owned();
        (shown["online"] == json!(online)).then_some(changed_at)
    })
    .await
}

async fn the_time_of_the_last_change_is_shown<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({"ttl_seconds": 5})).await;
    assert_eq!(daemon.get(ORDERS).await.1.get("online_changed_at"), None);
    send_heartbeats(&daemon).await;
    let came = changed_at(&daemon, true).await;
    send_heartbeats(&daemon).await;
    assert_eq!(
        changed_at(&daemon, true).await,
        came,
        "a renewal is no change"
    );
    let went = changed_at(&daemon, false).await;
    assert!(went > came, "{went} after {came}");
    send_heartbeats(&daemon).await;
    assert!(changed_at(&daemon, true).await > went);
}

async fn a_lease_from_before_the_registration_is_found_by_reconciling<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "600s"]).await;
    let early = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    daemon.put("/gateway-server-detail/keep-alive", early).await;
    daemon.put(ORDERS, json!({})).await;
    changed_at(&daemon, true).await;
}

#[tokio::test]
async fn what_happened_while_no_daemon_ran_is_recorded_by_the_next() {
    let mut setup = Setup::<Shared>::start().await;
    setup.put(ORDERS, json!({"ttl_seconds": 5})).await;
    send_heartbeats(&setup).await;
    changed_at(&setup, true).await;
    setup.signal(rustix::process::Signal::KILL);
    setup.daemon.ended().await;
    let other = Daemon::start(&setup.backends.arguments()).await;
    changed_at(&other, false).await;
}

/// Believes at once, and everything.
fn limits() -> Limits {
    Limits {
        ratio: 1.0,
        min: 0,
        max: Duration::from_secs(600),
        ttl: Ttl::try_from(5).unwrap(),
    }
}

/// A core without HTTP on two servers, whose jobs the test runs.
struct Fixture {
    core: Core,
    coordinator: Arc<dyn Coordinator>,
    redis: Redis,
}

impl Fixture {
    async fn new() -> Self {
        let redis = Redis::start().await;
        let database = postgres::shared().await.create_database().await;
        let mut store = store::open(&database.parse::<StoreUrl>().unwrap()).unwrap();
        store.writer.migrate().await.unwrap();
        let clock = Arc::new(SystemClock);
        let url: LeaseUrl = redis.url().parse().unwrap();
        let leases = lease::open(&url, clock.clone()).unwrap();
        let coordinator = coordination::open(leases.redis());
        let backends = rollcalld::daemon::Backends {
            store,
            log: event_log::open(leases.redis(), clock.clone(), 20_000),
            coordinator: coordinator.clone(),
            connect: Box::new(move || leases.connect()),
            clock,
        };
        let core = start_core(core_settings(limits()), backends);
        core.leases.probe().await.unwrap();
        // The jobs of a daemon would run beside the test's.
        core.stop();
        Self {
            core,
            coordinator,
            redis,
        }
    }

    async fn register(&self, keys: &[InstanceKey]) {
        // Fewer at once than the mailbox takes.
        for keys in keys.chunks(500) {
            let registrations = keys.iter().cloned().map(Registration::of);
            let asked = registrations.map(rollcalld::actor::RegisterInstance);
            let answers = asked.map(|registration| self.core.registry.ask(registration));
            for answer in futures_util::future::join_all(answers).await {
                answer.unwrap().unwrap().unwrap();
            }
        }
    }

    /// Renews leases, and returns the new ones.
    async fn renew(&self, keys: &[InstanceKey]) -> Vec<LeaseStart> {
        let renewals: Vec<Renewal> = keys
            .iter()
            .map(|key| Renewal {
                key: key.clone(),
                weight: Weight::default(),
                ttl: Ttl::try_from(600).unwrap(),
                is_hidden: false,
            })
            .collect();
        let renewed = self.core.leases.renew(&renewals).await.unwrap();
        let starts = keys.iter().zip(renewed);
        starts
            .map(|(key, renewed)| LeaseStart {
                key: key.clone(),
                epoch: renewed.epoch,
            })
            .collect()
    }

    async fn reconcile(&self) -> ReconcileResult {
        self.core.protection.tick();
        self.core.protection.attested(None);
        self.core.reconciler.reconcile().await.unwrap()
    }

    /// Waits until a missing lease is evidence after the start.
    async fn grace_is_over(&self) {
        let protection = &self.core.protection;
        let ttl = protection.limits().ttl;
        eventually(Duration::from_secs(20), "it may judge", || async {
            protection.tick();
            protection.attested(None);
            protection.grace_deadline(ttl).is_none().then_some(())
        })
        .await;
    }

    async fn online(&self, key: &InstanceKey) -> bool {
        let found = self
            .core
            .reader
            .find_instances(std::slice::from_ref(key))
            .await;
        found.unwrap()[0].presence.online
    }
}

fn keys(count: u32) -> Vec<InstanceKey> {
    (0..count)
        .map(|i| InstanceKey {
            scope: ScopeKind::Service.with(format!("s{}", i % 3).parse().unwrap()),
            address: format!("h-{i}:1").parse().unwrap(),
        })
        .collect()
}

#[actix::test]
async fn a_reconcile_mends_both_ways_and_then_finds_nothing() {
    let fixture = Fixture::new().await;
    // Several pages of each kind.
    let keys = keys(1300);
    fixture.register(&keys).await;
    let starts = fixture.renew(&keys).await;
    let found = |checked, expired, recovered| ReconcileResult {
        checked,
        expired,
        recovered,
    };
    assert_eq!(fixture.reconcile().await, found(0, 0, 1300));
    assert_eq!(fixture.reconcile().await, found(1300, 0, 0));
    fixture.core.leases.revoke(&keys[..700]).await.unwrap();
    fixture.grace_is_over().await;
    assert_eq!(fixture.reconcile().await, found(1300, 700, 0));
    assert_eq!(fixture.reconcile().await, found(600, 0, 0));
    assert!(!fixture.online(&keys[0]).await && fixture.online(&keys[700]).await);
    // A later lease is online again; the report of the end of the first one is too late.
    fixture.renew(&keys[..1]).await;
    assert_eq!(fixture.reconcile().await.recovered, 1);
    let late = rollcalld::actor::RecordOffline(starts[..1].to_vec());
    assert_eq!(fixture.core.registry.ask(late).await.unwrap().unwrap(), []);
    assert!(fixture.online(&keys[0]).await);
}

#[actix::test]
async fn a_reconcile_marks_no_instance_offline_without_the_leases() {
    let mut fixture = Fixture::new().await;
    let keys = keys(20);
    fixture.register(&keys).await;
    fixture.renew(&keys).await;
    assert_eq!(fixture.reconcile().await.recovered, 20);
    fixture.redis.kill();
    fixture.core.reconciler.reconcile().await.unwrap_err();
    for key in &keys {
        assert!(fixture.online(key).await);
    }
}

#[actix::test]
async fn one_daemon_reconciles_at_a_time() {
    let fixture = Fixture::new().await;
    assert!(
        fixture
            .coordinator
            .try_claim("reconcile", Duration::from_secs(60))
            .await
            .unwrap()
    );
    fixture.core.reconciler.run().await.unwrap();
    assert_eq!(fixture.core.reconciler.report().completed, 0);
}

#[actix::test]
async fn a_reconcile_of_many_leases_goes_on_where_the_last_one_ended() {
    let leases = Arc::new(FakeLeases {
        pages: 250,
        ..FakeLeases::default()
    });
    let handle = leases.clone();
    let backends = rollcalld::daemon::Backends {
        store: MemoryStore::default().open(),
        log: event_log::open(None, Arc::new(SystemClock), 20_000),
        coordinator: coordination::open(None),
        connect: Box::new(move || handle.clone()),
        clock: Arc::new(SystemClock),
    };
    let core = start_core(core_settings(limits()), backends);
    core.stop();
    for end in [50, 100, 150, 200, 250] {
        core.reconciler.reconcile().await.unwrap();
        assert_eq!(*leases.asked.lock().unwrap(), Vec::from_iter(0..end));
    }
    core.reconciler.reconcile().await.unwrap();
    assert_eq!(leases.asked.lock().unwrap()[250], 0);
}
