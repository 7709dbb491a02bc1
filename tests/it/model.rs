//! Two daemons against a simple model: registering, beating, expiring, deregistering,
//! holding, disabling, enabling and restarting, in thousands of random steps of virtual time.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rollcalld::actor::{
    Beat, BeatOutcome, ChangeInstance, Chores, DeregisterInstance, Enlist, Expiry, Follower,
    HeartbeatActor, Lifeline, RECONCILE, Reconciler, RegisterInstance, RegistryActor, Revoke,
    RollCall, SchedulerActor,
};
use rollcalld::bus::{self, BusUrl, EventBus, Following};
use rollcalld::clock::Clock;
use rollcalld::directory::{Directory, Profile, Which};
use rollcalld::feed::Feed;
use rollcalld::lease::{self, Health, LeaseBackend, LeaseUrl};
use rollcalld::model::{
    EventId, Hold, InstanceChange, InstanceKey, Registration, ScopeKind, Status, StatusChange, Ttl,
};
use rollcalld::protection::{Limits, Protection};
use rollcalld::store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::memory_store::MemoryStore;
use crate::support::{mailbox, observed};

const TTL: Duration = Duration::from_secs(10);

/// How late an expiry may be recorded: two sweeps.
const SWEPT: Duration = Duration::from_secs(1);

const INSTANCES: usize = 6;
const REPLICAS: usize = 2;

/// A step of a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Register(usize, usize),
    Beat(usize, usize),
    Deregister(usize, usize),
    Set(usize, usize, Status),
    Pass(Duration),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let instance = || 0..INSTANCES;
    let replica = || 0..REPLICAS;
    let status = prop_oneof![
        Just(Status::Enabled),
        Just(Status::Disabled),
        Just(Status::Held)
    ];
    prop_oneof![
        3 => (instance(), replica()).prop_map(|(i, r)| Step::Register(i, r)),
        8 => (instance(), replica()).prop_map(|(i, r)| Step::Beat(i, r)),
        1 => (instance(), replica()).prop_map(|(i, r)| Step::Deregister(i, r)),
        2 => (instance(), replica(), status).prop_map(|(i, r, s)| Step::Set(i, r, s)),
        6 => (1..12_000_u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        1 => replica().prop_map(Step::Restart),
    ]
}

/// What should be.
#[derive(Debug, Clone, Copy)]
struct Expected {
    status: Status,
    /// When and where it beat last, if it did since it registered.
    beaten: Option<(Instant, usize)>,
}

/// The time of the test, as a clock.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> DateTime<Utc> {
        let begin: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().unwrap();
        begin + TimeDelta::milliseconds(self.0.elapsed().as_millis() as i64)
    }
}

/// What all daemons share.
struct Backends {
    store: MemoryStore,
    leases: LeaseBackend,
    bus: Arc<dyn EventBus>,
    clock: Arc<VirtualClock>,
}

/// A daemon without HTTP around it.
struct Replica {
    registry: Addr<RegistryActor>,
    heartbeat: Addr<HeartbeatActor>,
    directory: Arc<Directory>,
    follower: JoinHandle<()>,
    _scheduler: Addr<SchedulerActor>,
    started_at: Instant,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Replica {
    async fn start(backends: &Backends) -> Self {
        let Backends {
            store,
            leases,
            bus,
            clock,
        } = backends;
        let Store { reader, writer } = store.open();
        let lifeline = || Lifeline::new("tested", mpsc::unbounded_channel().0);
        let directory = Arc::new(Directory::new(reader.clone()));
        let registry = RegistryActor::new(
            writer,
            clock.clone(),
            directory.clone(),
            bus.clone(),
            None,
            Arc::default(),
            lifeline(),
        );
        let registry = registry.start();
        let limits = Limits {
            ratio: 1.0,
            min: 0,
            max: Duration::from_secs(600),
            ttl: Ttl::try_from(TTL.as_secs() as i64).unwrap(),
        };
        let health = Arc::<Health>::default();
        let expiry = Expiry {
            leases: observed(leases.connect(), &health),
            health: health.clone(),
            directory: directory.clone(),
            protection: Arc::new(Protection::new(limits, health)),
            registry: mailbox(registry.clone(), 100, Duration::from_secs(8)),
            bus: bus.clone(),
            clock: clock.clone(),
            metrics: Arc::default(),
        };
        let chores = Chores {
            reconciler: Reconciler {
                reader: reader.clone(),
                expiry: expiry.clone(),
                bus: bus.clone(),
                cursor: Default::default(),
                claim: RECONCILE - Duration::from_secs(1),
            },
            expiry: expiry.clone(),
            forget_after: None,
        };
        let roll_call = RollCall {
            channel: "heartBeat".into(),
            message: "?".into(),
            interval: Duration::from_secs(5),
        };
        let scheduler =
            SchedulerActor::new(roll_call, chores, bus.clone(), clock.clone(), lifeline()).start();
        let heartbeat = HeartbeatActor::new(expiry.clone(), lifeline()).start();
        scheduler.do_send(Enlist(heartbeat.clone().recipient()));
        let follower = Follower {
            directory: directory.clone(),
            reader,
            bus: bus.clone(),
            feed: Arc::new(Feed::new(bus.clone())),
            expiry,
            clock: clock.clone(),
            _lifeline: lifeline(),
        };
        let head = follower.load().await.unwrap();
        let follower = actix::spawn(async move { match follower.follow(head).await {} });
        Self {
            registry,
            heartbeat,
            directory,
            follower,
            _scheduler: scheduler,
            started_at: Instant::now(),
        }
    }
}

fn key(i: usize) -> InstanceKey {
    InstanceKey {
        scope: ScopeKind::Service.with(format!("s{}", i % 2).parse().unwrap()),
        address: format!("h-{i}:1").parse().unwrap(),
    }
}

/// The daemons, and what should be true of them.
struct World {
    backends: Backends,
    replicas: Vec<Replica>,
    expected: Vec<Option<Expected>>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(VirtualClock(Instant::now()));
        let backends = Backends {
            store: MemoryStore::default(),
            leases: lease::open(&LeaseUrl::Memory, clock.clone()).unwrap(),
            bus: bus::open(&BusUrl::Memory, clock.clone()).unwrap(),
            clock,
        };
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(Replica::start(&backends).await);
        }
        Self {
            backends,
            replicas,
            expected: vec![None; INSTANCES],
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Register(i, r) => {
                let message = RegisterInstance(Registration::of(key(i)));
                let registered = self.replicas[r].registry.send(message).await;
                let registered = registered.unwrap().unwrap().unwrap();
                assert_eq!(registered.created, self.expected[i].is_none());
                let expected = self.expected[i].get_or_insert(Expected {
                    status: Status::Enabled,
                    beaten: None,
                });
                if expected.status == Status::Disabled {
                    expected.status = Status::Enabled;
                }
            }
            Step::Beat(i, r) => {
                let listed = self.replicas[r].directory.find(&key(i));
                let known = listed.map(|listed| Profile::from(&*listed));
                let instances = vec![(key(i), known)];
                let outcome = self.replicas[r].heartbeat.send(Beat { instances }).await;
                let outcome = outcome.unwrap().unwrap()[0];
                match &mut self.expected[i] {
                    Some(expected) => {
                        let alive = expected.beaten.is_some_and(|(at, _)| at.elapsed() < TTL);
                        let created = matches!(outcome, BeatOutcome::Created(_));
                        assert!(created || outcome != BeatOutcome::Unknown);
                        assert_eq!(created, !alive, "{outcome:?}");
                        expected.beaten = Some((Instant::now(), r));
                        // Whoever beat and asks there is online.
                        let listed = self.replicas[r].directory.find(&key(i)).unwrap();
                        assert!(listed.instance.presence.online);
                    }
                    None => assert_eq!(outcome, BeatOutcome::Unknown),
                }
            }
            Step::Deregister(i, r) => {
                let message = DeregisterInstance { key: key(i) };
                let removed = self.replicas[r].registry.send(message).await.unwrap();
                assert_eq!(removed.unwrap().is_some(), self.expected[i].is_some());
                let revoke = Revoke { keys: vec![key(i)] };
                self.replicas[r]
                    .heartbeat
                    .send(revoke)
                    .await
                    .unwrap()
                    .unwrap();
                self.expected[i] = None;
            }
            Step::Set(i, r, status) => {
                let change = InstanceChange {
                    status: Some(match status {
                        Status::Enabled => StatusChange::Enable,
                        Status::Disabled => StatusChange::Disable,
                        Status::Held => StatusChange::Hold(Hold {
                            by: "ada".into(),
                            reason: None,
                        }),
                    }),
                    ..InstanceChange::default()
                };
                let message = ChangeInstance {
                    key: key(i),
                    change,
                };
                let changed = self.replicas[r].registry.send(message).await.unwrap();
                assert_eq!(changed.unwrap().is_some(), self.expected[i].is_some());
                if let Some(expected) = &mut self.expected[i] {
                    expected.status = status;
                }
            }
            Step::Pass(time) => sleep(time).await,
            Step::Restart(r) => {
                self.replicas.remove(r);
                let replica = Replica::start(&self.backends).await;
                self.replicas.insert(r, replica);
            }
        }
    }

    /// When whoever beat last there and then is recorded as offline at the latest.
    fn found_by(&self, (beaten, r): (Instant, usize)) -> Instant {
        let started_at = self.replicas[r].started_at;
        match started_at > beaten {
            false => beaten + TTL + SWEPT,
            // The one who knew is gone: found by its successor, or by a reconcile.
            true => (beaten + TTL).max(started_at) + TTL.max(RECONCILE) + SWEPT,
        }
    }

    async fn check(&self) {
        // Until everybody has heard.
        sleep(Duration::from_millis(2)).await;
        for (i, expected) in self.expected.iter().enumerate() {
            for (r, replica) in self.replicas.iter().enumerate() {
                let listed = replica.directory.find(&key(i));
                let Some(expected) = expected else {
                    assert!(listed.is_none(), "{i} is not registered, says {r} not");
                    continue;
                };
                let listed =
                    listed.unwrap_or_else(|| panic!("{i} is registered, {r} does not know"));
                assert_eq!(listed.instance.status, expected.status, "{i} on {r}");
                let online = listed.instance.presence.online;
                match expected.beaten {
                    None => assert!(!online, "{i} never beat, on {r}"),
                    Some((at, _)) if at.elapsed() < TTL => assert!(online, "{i} is alive, on {r}"),
                    Some(beaten) if Instant::now() > self.found_by(beaten) => {
                        assert!(!online, "{i} is dead, on {r}");
                    }
                    Some(_) => {}
                }
                let view = replica.directory.scope(&key(i).scope).unwrap();
                let address = key(i).address;
                let mut all = view.list(Which::All);
                let shown = all
                    .find(|shown| shown.instance.key.address == address)
                    .unwrap();
                assert_eq!(shown.instance, listed.instance, "{i}: the picture on {r}");
            }
        }
    }

    /// Everything that was told: transitions alternate, each life of a registration by itself.
    async fn check_events(&self) {
        let mut after = EventId::default();
        let mut online = std::collections::HashMap::new();
        loop {
            let read = self.backends.bus.read(after, Duration::ZERO).await.unwrap();
            let Following::Events(events) = read else {
                panic!("lost");
            };
            let Some(last) = events.last() else { return };
            after = last.id;
            for logged in &events {
                if let Some((instance, now)) = logged.event.kind.transition() {
                    let before = online.insert(instance.id, now).unwrap_or(false);
                    assert_ne!(
                        before,
                        now,
                        "{} twice: {:?}",
                        logged.event.kind.name(),
                        logged.id
                    );
                }
            }
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_ends_as_the_model_says() {
    let config = Config {
        cases: 96,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 20..80);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        actix::System::new().block_on(async {
            tokio::time::pause();
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
            sleep(2 * (TTL + RECONCILE)).await;
            world.check().await;
            world.check_events().await;
        });
        Ok(())
    });
    outcome.unwrap();
}
