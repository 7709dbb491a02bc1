//! Two daemons against a simple model, in random steps of virtual time: once with backends
//! that work, through registrations, heartbeats, expiry, deregistrations, decisions and
//! restarts; and once with a lease store that forks, falls back, fails and comes back, and a
//! registry store that is restored from a backup.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rollcalld::actor::{
    ChangeInstance, DeregisterInstance, HeartbeatActor, HeartbeatOutcome, LeaveInstance, Left,
    Mailbox, RecordHeartbeats, RegisterInstance, Revoke,
};
use rollcalld::backend::BackendError;
use rollcalld::daemon::{self, Core};
use rollcalld::directory::InstanceEntry;
use rollcalld::event_log::{EventLog, ReadOutcome};
use rollcalld::liveness::{Limits, Reconciler};
use rollcalld::model::{
    EventId, EventKind, Hold, InstanceChange, InstanceKey, Registration, ScopeKind, Status,
    StatusChange, Ttl,
};
use rollcalld::store::Deregistration;
use tokio::time::{Instant, sleep};

use crate::support::clock::FakeClock;
use crate::support::lease_servers::{LeaseServers, Mode};
use crate::support::memory_store::{Backup, MemoryStore};
use crate::support::{core_settings, start_core};

const TTL: Duration = Duration::from_secs(10);

/// How late an expiry may be recorded: two sweeps.
const SWEPT: Duration = Duration::from_secs(1);

const INSTANCES: usize = 6;
const REPLICAS: usize = 2;

/// A step of a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Register(usize, usize),
    RecordHeartbeats(usize, usize),
    Deregister(usize, usize),
    Leave(usize, usize),
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
        8 => (instance(), replica()).prop_map(|(i, r)| Step::RecordHeartbeats(i, r)),
        1 => (instance(), replica()).prop_map(|(i, r)| Step::Deregister(i, r)),
        1 => (instance(), replica()).prop_map(|(i, r)| Step::Leave(i, r)),
        2 => (instance(), replica(), status).prop_map(|(i, r, s)| Step::Set(i, r, s)),
        6 => (1..12_000_u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        1 => replica().prop_map(Step::Restart),
    ]
}

/// The expected state.
#[derive(Debug, Clone, Copy)]
struct Expected {
    status: Status,
    /// When and where it sent its last heartbeat since it registered.
    beaten: Option<(Instant, usize)>,
}

/// The backends that all daemons share.
struct Backends {
    store: MemoryStore,
    leases: LeaseServers,
    clock: Arc<FakeClock>,
}

impl Backends {
    fn new() -> Self {
        let clock = FakeClock::new();
        Self {
            store: MemoryStore::default(),
            leases: LeaseServers::new(clock.clone(), REPLICAS),
            clock,
        }
    }
}

/// A daemon without HTTP around it.
struct Replica {
    core: Core,
    heartbeat: Mailbox<HeartbeatActor>,
    started_at: Instant,
}

impl Replica {
    /// Starts the replica with that number, once its backends can be reached.
    async fn start(backends: &Backends, number: usize) -> Self {
        let leases = backends.leases.of(number);
        let limits = Limits {
            ratio: 1.0,
            min: 0,
            max: Duration::from_secs(600),
            ttl: Ttl::try_from(TTL.as_secs() as i64).unwrap(),
        };
        let core = start_core(
            core_settings(limits),
            daemon::Backends {
                store: backends.store.open(),
                log: leases.clone(),
                coordinator: leases.clone(),
                connect: Box::new(move || leases.clone()),
                clock: backends.clock.clone(),
            },
        );
        let heartbeat = core.start_heartbeat_actor(core.leases.clone());
        let head = core.load().await.unwrap();
        core.follow(head);
        Self {
            core,
            heartbeat,
            started_at: Instant::now(),
        }
    }

    fn find(&self, key: &InstanceKey) -> Option<Arc<InstanceEntry>> {
        self.core.directory.find(key)
    }

    /// Sends a heartbeat, as an HTTP handler does.
    async fn send_heartbeat(&self, key: InstanceKey) -> Result<HeartbeatOutcome, BackendError> {
        let mut instances = vec![(key, None)];
        self.core.directory.resolve(&mut instances).await.unwrap();
        let outcomes = self.heartbeat.ask_with(|reply| RecordHeartbeats {
            instances,
            must_be_registered: true,
            reply,
        });
        outcomes.await.unwrap().map(|outcomes| outcomes[0])
    }
}

fn key(i: usize) -> InstanceKey {
    InstanceKey {
        scope: ScopeKind::Service.with(format!("s{}", i % 2).parse().unwrap()),
        address: format!("h-{i}:1").parse().unwrap(),
    }
}

/// The daemons, and their expected state.
struct World {
    backends: Backends,
    replicas: Vec<Replica>,
    expected: Vec<Option<Expected>>,
}

impl World {
    async fn new() -> Self {
        let backends = Backends::new();
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            replicas.push(Replica::start(&backends, number).await);
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
                let registered = self.replicas[r].core.registry.ask(message).await;
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
            Step::RecordHeartbeats(i, r) => {
                let outcome = self.replicas[r].send_heartbeat(key(i)).await.unwrap();
                match &mut self.expected[i] {
                    Some(expected) => {
                        let alive = expected.beaten.is_some_and(|(at, _)| at.elapsed() < TTL);
                        let created = matches!(outcome, HeartbeatOutcome::Created(_));
                        assert!(created || outcome != HeartbeatOutcome::Unknown);
                        assert_eq!(created, !alive, "{outcome:?}");
                        expected.beaten = Some((Instant::now(), r));
                        // An instance that sent a heartbeat here is online here.
                        let listed = self.replicas[r].find(&key(i)).unwrap();
                        assert!(listed.instance.presence.online);
                    }
                    None => assert_eq!(outcome, HeartbeatOutcome::Unknown),
                }
            }
            Step::Deregister(i, r) => {
                let message = DeregisterInstance {
                    key: key(i),
                    keep_decided: false,
                };
                let outcome = self.replicas[r].core.registry.ask(message).await.unwrap();
                let removed = matches!(outcome.unwrap(), Deregistration::Removed(_));
                assert_eq!(removed, self.expected[i].is_some());
                let revoke = Revoke { keys: vec![key(i)] };
                self.replicas[r]
                    .heartbeat
                    .ask(revoke)
                    .await
                    .unwrap()
                    .unwrap();
                self.expected[i] = None;
            }
            Step::Leave(i, r) => {
                let message = LeaveInstance { key: key(i) };
                let left = self.replicas[r].core.registry.ask(message).await.unwrap();
                let revoke = Revoke { keys: vec![key(i)] };
                let heartbeat = &self.replicas[r].heartbeat;
                heartbeat.ask(revoke).await.unwrap().unwrap();
                match (left.unwrap(), &mut self.expected[i]) {
                    (Left::Unknown, None) => {}
                    (Left::WentOffline(_) | Left::WasOffline, Some(known))
                        if known.status == Status::Held =>
                    {
                        known.beaten = None;
                    }
                    (Left::Removed(_), Some(known)) if known.status != Status::Held => {
                        self.expected[i] = None;
                    }
                    (left, expected) => panic!("{left:?} of {expected:?}"),
                }
            }
            Step::Set(i, r, status) => {
                let change = InstanceChange {
                    status: Some(match status {
                        Status::Enabled => StatusChange::Enable,
                        Status::Disabled => StatusChange::Disable,
                        Status::Held => StatusChange::Hold(Hold {
                            by: "ada".into(),
                            reason: None,
                            until: None,
                        }),
                    }),
                    ..InstanceChange::default()
                };
                let message = ChangeInstance {
                    key: key(i),
                    change,
                };
                let changed = self.replicas[r].core.registry.ask(message).await.unwrap();
                assert_eq!(changed.unwrap().is_some(), self.expected[i].is_some());
                if let Some(expected) = &mut self.expected[i] {
                    expected.status = status;
                }
            }
            Step::Pass(time) => sleep(time).await,
            Step::Restart(r) => {
                self.replicas.remove(r);
                let replica = Replica::start(&self.backends, r).await;
                self.replicas.insert(r, replica);
            }
        }
    }

    /// Returns when an instance must be recorded as offline at the latest.
    fn found_by(&self, (beaten, r): (Instant, usize)) -> Instant {
        let started_at = self.replicas[r].started_at;
        if started_at > beaten {
            // The daemon that had its deadline has stopped: its successor or a reconcile detects
            // it.
            (beaten + TTL).max(started_at) + TTL.max(Reconciler::INTERVAL) + SWEPT
        } else {
            beaten + TTL + SWEPT
        }
    }

    async fn check(&self) {
        // Until all daemons have read the events.
        sleep(Duration::from_millis(2)).await;
        for (i, expected) in self.expected.iter().enumerate() {
            for (r, replica) in self.replicas.iter().enumerate() {
                let listed = replica.find(&key(i));
                let Some(expected) = expected else {
                    assert!(listed.is_none(), "{i} is not registered, says {r} not");
                    continue;
                };
                let listed =
                    listed.unwrap_or_else(|| panic!("{i} is registered, {r} does not know"));
                assert_eq!(listed.instance.status, expected.status, "{i} on {r}");
                let online = listed.instance.presence.online;
                match expected.beaten {
                    None => assert!(!online, "{i} never heartbeat, on {r}"),
                    Some((at, _)) if at.elapsed() < TTL => assert!(online, "{i} is alive, on {r}"),
                    Some(beaten) if Instant::now() > self.found_by(beaten) => {
                        assert!(!online, "{i} is dead, on {r}");
                    }
                    Some(_) => {}
                }
                let view = replica.core.directory.scope(&key(i).scope).unwrap();
                let address = key(i).address;
                let mut all = view.iter();
                let shown = all
                    .find(|shown| shown.instance.key.address == address)
                    .unwrap();
                assert_eq!(shown.instance, listed.instance, "{i}: the picture on {r}");
            }
        }
    }

    /// Checks all published events: transitions alternate for each registration.
    async fn check_events(&self) {
        let mut after = EventId::default();
        let mut online = std::collections::HashMap::new();
        loop {
            let read = self.backends.leases.of(0).read(after, Duration::ZERO).await;
            let read = read.unwrap();
            let ReadOutcome::Events(events) = read else {
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
            sleep(2 * (TTL + Reconciler::INTERVAL)).await;
            world.check().await;
            world.check_events().await;
        });
        Ok(())
    });
    outcome.unwrap();
}

/// A fault of the backends or of a daemon.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A replica is led to another server, which has the leases as they were so long ago.
    Fork(usize, Duration),
    /// All replicas are led to where one of them is.
    Join(usize),
    /// The server of a replica comes back without leases and events.
    Empty(usize),
    Mode(usize, Mode),
    /// The clocks of the lease servers are set off by so many milliseconds.
    Skew(i64),
    /// The clock of the daemons is.
    ClockJump(i64),
    Restart(usize),
    Backup,
    Restore,
}

/// A fault and how long it lasts until the next.
type Turn = (Fault, Duration);

fn turns(restores: bool) -> impl Strategy<Value = Vec<Turn>> {
    let replica = || 0..REPLICAS;
    let mode = prop_oneof![
        Just(Mode::Works),
        Just(Mode::RefusesWrites),
        Just(Mode::Stopped)
    ];
    let millis = |limit: u64| (0..limit).prop_map(Duration::from_millis);
    let skew = || prop_oneof![-90_000_000..90_000_000_i64, -5_000..5_000_i64];
    let fault = prop_oneof![
        4 => (replica(), millis(30_000)).prop_map(|(r, ago)| Fault::Fork(r, ago)),
        1 => replica().prop_map(|r| Fault::Fork(r, Duration::ZERO)),
        4 => replica().prop_map(Fault::Join),
        2 => replica().prop_map(Fault::Empty),
        3 => (replica(), mode).prop_map(|(r, mode)| Fault::Mode(r, mode)),
        2 => skew().prop_map(Fault::Skew),
        1 => skew().prop_map(Fault::ClockJump),
        2 => replica().prop_map(Fault::Restart),
        u32::from(restores) => Just(Fault::Backup),
        2 * u32::from(restores) => Just(Fault::Restore),
    ];
    prop::collection::vec((fault, millis(45_000)), 1..12)
}

/// Instances that send heartbeats to one replica, until some of them stop, during faults of all
/// kinds.
struct Troubled {
    backends: Backends,
    replicas: Vec<Replica>,
    /// When each instance stopped; `None` while it sends heartbeats.
    stopped_at: [Option<Instant>; INSTANCES],
    backup: Option<Backup>,
    was_restored: bool,
}

impl Troubled {
    async fn new() -> Self {
        let backends = Backends::new();
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            replicas.push(Replica::start(&backends, number).await);
        }
        let mut world = Self {
            backends,
            replicas,
            stopped_at: [None; INSTANCES],
            backup: None,
            was_restored: false,
        };
        world.send_heartbeats().await;
        world
    }

    /// Sends a heartbeat for every instance that has not stopped, and registers it again if it is
    /// unknown, as an agent does.
    async fn send_heartbeats(&mut self) {
        for i in (0..INSTANCES).filter(|i| self.stopped_at[*i].is_none()) {
            let replica = &self.replicas[i % REPLICAS];
            if let Ok(HeartbeatOutcome::Unknown) = replica.send_heartbeat(key(i)).await {
                let message = RegisterInstance(Registration::of(key(i)));
                replica.core.registry.ask(message).await.unwrap().unwrap();
                // It may fail: the lease store has faults.
                let _ = replica.send_heartbeat(key(i)).await;
            }
        }
    }

    /// Lets time pass, in which the instances send heartbeats every two seconds.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_secs(2)).await;
            self.send_heartbeats().await;
            self.check_promise();
        }
    }

    async fn take(&mut self, fault: Fault) {
        let leases = &self.backends.leases;
        match fault {
            Fault::Fork(r, ago) => leases.fork(r, ago),
            Fault::Join(r) => leases.join(r),
            Fault::Empty(r) => leases.empty(r),
            Fault::Mode(r, mode) => leases.set_mode(r, mode),
            Fault::Skew(millis) => leases.set_skew(millis),
            Fault::ClockJump(millis) => {
                self.backends.clock.set(TimeDelta::milliseconds(millis));
            }
            // A daemon that starts waits for its lease store, and one that ends tells its
            // events while there is one.
            Fault::Restart(r) if leases.works(r) => {
                sleep(Duration::from_secs(2)).await;
                self.replicas.remove(r);
                let replica = Replica::start(&self.backends, r).await;
                self.replicas.insert(r, replica);
            }
            Fault::Restart(_) => {}
            Fault::Backup => self.backup = Some(self.backends.store.backup()),
            Fault::Restore => {
                if let Some(backup) = self.backup.take() {
                    self.backends.store.restore(backup);
                    self.was_restored = true;
                }
            }
        }
    }

    /// Checks that no instance that sends heartbeats was marked offline, whatever the lease store
    /// did, while the registry store was not restored.
    fn check_promise(&self) {
        if self.was_restored {
            return;
        }
        for i in (0..INSTANCES).filter(|i| self.stopped_at[*i].is_none()) {
            for (r, replica) in self.replicas.iter().enumerate() {
                let listed = replica.find(&key(i));
                let presence = listed.map(|listed| listed.instance.presence);
                let marked_offline = presence
                    .is_some_and(|presence| !presence.online && presence.changed_at.is_some());
                assert!(!marked_offline, "{i} is alive, on {r}: {presence:?}");
            }
        }
    }

    /// Once all replicas reach one lease store again, they list the living instances, and no other.
    async fn check_end(&mut self) {
        self.backends.leases.join(0);
        assert!(self.backends.leases.is_one());
        self.pass(3 * (TTL + Reconciler::INTERVAL)).await;
        for i in 0..INSTANCES {
            for (r, replica) in self.replicas.iter().enumerate() {
                let listed = replica.find(&key(i));
                let online = listed.is_some_and(|listed| listed.instance.presence.online);
                assert_eq!(online, self.stopped_at[i].is_none(), "{i} on {r}");
            }
        }
    }

    /// Each transition that was committed is in a log, and in no log twice.
    async fn check_events(&self) {
        let mut published = std::collections::HashSet::new();
        for log in self.backends.leases.logs() {
            let (mut after, mut own) = (EventId::default(), std::collections::HashSet::new());
            loop {
                let ReadOutcome::Events(events) = log.read(after, Duration::ZERO).await.unwrap()
                else {
                    panic!("lost");
                };
                let Some(last) = events.last() else { break };
                after = last.id;
                for logged in &events {
                    let kind = &logged.event.kind;
                    // After a restore revisions may repeat.
                    if *kind == EventKind::EventsLost {
                        own.clear();
                    }
                    if let Some((instance, online)) = kind.transition() {
                        let transition = (instance.id, instance.revision, online);
                        assert!(own.insert(transition), "{} twice", logged.id);
                        published.insert(transition);
                    }
                }
            }
        }
        for transition in self.backends.store.transitions() {
            assert!(
                published.contains(&transition),
                "{transition:?} is in no log"
            );
        }
    }
}

async fn go_through(turns: Vec<Turn>) {
    tokio::time::pause();
    let mut world = Troubled::new().await;
    world.pass(Duration::from_secs(30)).await;
    let stop_after = turns.len() / 2;
    for (turn, (fault, time)) in turns.into_iter().enumerate() {
        if turn == stop_after {
            // The last two stop, one of each replica.
            for stopped_at in &mut world.stopped_at[INSTANCES - 2..] {
                *stopped_at = Some(Instant::now());
            }
        }
        world.take(fault).await;
        world.pass(time).await;
    }
    world.check_end().await;
    world.check_events().await;
}

/// Goes through random histories. `MODEL_HISTORIES` asks for more of them than a test run has
/// time for.
fn go_through_histories(turns: &impl Strategy<Value = Vec<Turn>>) {
    let cases = std::env::var("MODEL_HISTORIES").map_or(30, |count| count.parse().unwrap());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(turns, |turns| {
        actix::System::new().block_on(go_through(turns));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn no_fault_of_the_lease_store_marks_a_living_instance_offline() {
    go_through_histories(&turns(false));
}

#[test]
fn after_a_restored_registry_store_living_instances_are_online_again() {
    go_through_histories(&turns(true));
}

#[test]
fn after_a_restore_a_revision_may_have_another_content() {
    let turns = vec![
        (Fault::Restart(0), Duration::ZERO),
        (
            Fault::Fork(0, Duration::from_millis(6004)),
            Duration::from_millis(1),
        ),
        (Fault::Backup, Duration::ZERO),
        (Fault::Join(0), Duration::from_millis(10_006)),
        (Fault::Restore, Duration::ZERO),
    ];
    actix::System::new().block_on(go_through(turns));
}

#[test]
fn a_restore_is_published_once_the_log_takes_events_again() {
    let turns = vec![
        (Fault::Backup, Duration::from_secs(14)),
        (Fault::Join(0), Duration::from_secs(14)),
        (Fault::Join(0), Duration::from_secs(38)),
        (Fault::Restore, Duration::from_secs(4)),
        (Fault::Mode(0, Mode::RefusesWrites), Duration::from_secs(26)),
    ];
    actix::System::new().block_on(go_through(turns));
}
