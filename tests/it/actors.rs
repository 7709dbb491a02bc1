//! The three actors against ports that the test holds in its hand.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Addr};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use rollcalld::actor::{
    DeclareScope, Drain, HeartbeatActor, HeartbeatOutcome, Lifeline, Mailbox, Ping,
    RecordHeartbeats, RegisterInstance, RegistryActor, RollCall, RollCallReport, SchedulerActor,
};
use rollcalld::backend::BackendError;
use rollcalld::clock::{Clock, SystemClock};
use rollcalld::coordination::{self, Coordinator};
use rollcalld::directory::{Directory, HeartbeatInfo};
use rollcalld::event_log::{self, EventLog, ReadOutcome};
use rollcalld::lease::{
    Health, Identity, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed,
};
use rollcalld::liveness::{ExpiryHandler, Limits, Protection, Reconciler};
use rollcalld::model::{
    DisplayName, Epoch, EventId, EventKind, Instance, InstanceChange, InstanceId, InstanceKey,
    Metadata, Presence, Registration, Scope, ScopeId, ScopeKind, ScopeRecord, Status, Ttl,
};
use rollcalld::store::{
    Attestation, Declared, Digest, LeaseStart, MigrateError, Registered, RegisteredMany,
    RegistryReader, RegistryTransaction, RegistryWriter, ScopeDeletion, StoreError, WentOnline,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::support::{eventually, mailbox, observed};

fn key(address: &str) -> InstanceKey {
    InstanceKey {
        scope: ScopeKind::Service.with("orders".parse().unwrap()),
        address: address.parse().unwrap(),
    }
}

fn instance(key: &InstanceKey) -> Instance {
    Instance {
        id: InstanceId(1),
        key: key.clone(),
        name: None,
        given_weight: None,
        metadata: Metadata::default(),
        ttl: None,
        status: Status::Enabled,
        hold: None,
        presence: Presence::default(),
        revision: 1,
        registered_at: SystemClock.now(),
        updated_at: SystemClock.now(),
    }
}

fn lifeline() -> (Lifeline, mpsc::UnboundedReceiver<&'static str>) {
    let (ends, ended) = mpsc::unbounded_channel();
    (Lifeline::new("tested", ends), ended)
}

/// A registry store whose transactions begin when the test lets them.
#[derive(Default)]
struct FakeStore {
    /// The addresses of each transaction that was committed.
    committed: Mutex<Vec<Vec<String>>>,
    /// One permit lets one transaction begin.
    gate: Option<Semaphore>,
    /// The registry, for readers; `None` is a store that does not answer.
    registered: Mutex<Option<HashSet<InstanceKey>>>,
    look_ups: AtomicUsize,
    fail_commit: AtomicBool,
}

struct FakeWriter(Arc<FakeStore>);

struct FakeTransaction<'a> {
    store: &'a FakeStore,
    writes: Vec<String>,
}

#[async_trait]
impl RegistryWriter for FakeWriter {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        Ok(Vec::new())
    }

    async fn begin<'a>(
        &'a mut self,
        _: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        if let Some(gate) = &self.0.gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(Box::new(FakeTransaction {
            store: &self.0,
            writes: Vec::new(),
        }))
    }
}

#[async_trait]
impl RegistryTransaction for FakeTransaction<'_> {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        _: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        self.writes.push(scope.to_string());
        let record = ScopeRecord {
            id: ScopeId(1),
            scope: scope.clone(),
            name: None,
            created_at: SystemClock.now(),
            revision: 1,
        };
        Ok(Declared {
            record,
            created: true,
        })
    }

    async fn delete_scope(&mut self, _: &Scope) -> Result<ScopeDeletion, StoreError> {
        Ok(ScopeDeletion::Unknown)
    }

    async fn attest(&mut self, _: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        Ok(Vec::new())
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        let mut answers = Vec::new();
        let mut seen = HashSet::new();
        for Registration { key, .. } in registrations {
            assert!(seen.insert(key), "{key} is twice in one statement");
            if key.address.as_str() == "poison:1" {
                return Err(StoreError::Refused("poison".into()));
            }
            if key.address.as_str() == "conflict:1" && registrations.len() > 1 {
                return Err(StoreError::Conflict("deadlock".into()));
            }
            if key.address.as_str() == "panic:1" {
                panic!("as this test wants it");
            }
            self.writes.push(key.address.to_string());
            let instance = instance(key);
            answers.push(Some(Registered {
                instance,
                created: true,
                changed: true,
            }));
        }
        Ok(RegisteredMany {
            instances: answers,
            services: Vec::new(),
        })
    }

    async fn change_instance(
        &mut self,
        _: &InstanceKey,
        _: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        Ok(None)
    }

    async fn disable_service_instance(
        &mut self,
        _: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        Ok(None)
    }

    async fn deregister_instance(
        &mut self,
        _: &InstanceKey,
    ) -> Result<Option<Instance>, StoreError> {
        Ok(None)
    }

    async fn purge_offline_instances(
        &mut self,
        _: DateTime<Utc>,
        _: u16,
    ) -> Result<Vec<Instance>, StoreError> {
        Ok(Vec::new())
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<WentOnline>, StoreError> {
        for LeaseStart { key, epoch } in starts {
            self.writes
                .push(format!("{} since {}", key.address, epoch.0));
        }
        let online = |LeaseStart { key, epoch }: &LeaseStart| WentOnline {
            instance: Instance {
                presence: Presence {
                    online: true,
                    epoch: Some(*epoch),
                    changed_at: None,
                },
                revision: 2,
                ..instance(key)
            },
            transition: true,
        };
        match &*self.store.registered.lock().unwrap() {
            Some(known) => {
                let known = starts.iter().filter(|start| known.contains(&start.key));
                Ok(known.map(online).collect())
            }
            None => Err(StoreError::Unavailable("away".into())),
        }
    }

    async fn record_offline(&mut self, _: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        Ok(Vec::new())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.store.fail_commit.load(Ordering::SeqCst) {
            return Err(StoreError::OutcomeUnknown("cut".into()));
        }
        self.store.committed.lock().unwrap().push(self.writes);
        Ok(())
    }
}

#[async_trait]
impl RegistryReader for FakeStore {
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        Ok(Vec::new())
    }

    async fn find_scope(&self, _: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        Ok(None)
    }

    async fn find_scope_by_id(&self, _: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        Ok(None)
    }

    async fn list_instances(&self, _: InstanceId, _: u16) -> Result<Vec<Instance>, StoreError> {
        Ok(Vec::new())
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        Ok(Digest::default())
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        self.look_ups.fetch_add(1, Ordering::SeqCst);
        match &*self.registered.lock().unwrap() {
            Some(known) => Ok(keys
                .iter()
                .filter(|key| known.contains(key))
                .map(instance)
                .collect()),
            None => Err(StoreError::Unavailable("away".into())),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A lease store whose round trips end when the test lets them.
#[derive(Default)]
struct FakeLeases {
    gate: Option<Semaphore>,
    batches: Mutex<Vec<usize>>,
    leases: Mutex<HashSet<InstanceKey>>,
    broken: AtomicBool,
    /// How many pages its list has, and which were asked for.
    pages: u64,
    asked: Mutex<Vec<u64>>,
}

#[async_trait]
impl LeaseStore for FakeLeases {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        self.batches.lock().unwrap().push(renewals.len());
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable("away".into()));
        }
        let mut leases = self.leases.lock().unwrap();
        let renew = |renewal: &Renewal| Renewed {
            created: leases.insert(renewal.key.clone()),
            epoch: Epoch(1),
        };
        Ok(renewals.iter().map(renew).collect())
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        Ok(LeaseSnapshot {
            leases: vec![None; keys.len()],
            identity: Identity::default(),
        })
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        let mut leases = self.leases.lock().unwrap();
        keys.iter().for_each(|key| {
            leases.remove(key);
        });
        Ok(())
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        Ok(Identity::default())
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, BackendError> {
        let cursor = cursor.position;
        self.asked.lock().unwrap().push(cursor);
        Ok(LeasePage {
            keys: Vec::new(),
            next: Some(cursor + 1)
                .filter(|next| *next < self.pages)
                .map(|position| ListCursor {
                    server: 0,
                    position,
                }),
        })
    }
}

/// Lets sent messages arrive.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn registry(
    store: &Arc<FakeStore>,
) -> (Addr<RegistryActor>, mpsc::UnboundedReceiver<&'static str>) {
    let directory = Arc::new(Directory::new(store.clone()));
    registry_of(store, directory, memory_log())
}

fn registry_of(
    store: &Arc<FakeStore>,
    directory: Arc<Directory>,
    log: Arc<dyn EventLog>,
) -> (Addr<RegistryActor>, mpsc::UnboundedReceiver<&'static str>) {
    let (lifeline, ended) = lifeline();
    let writer = Box::new(FakeWriter(Arc::clone(store)));
    let clock = Arc::new(SystemClock);
    let actor = RegistryActor::new(
        writer,
        clock,
        directory,
        log,
        coordination::open(None),
        None,
        Arc::default(),
        lifeline,
    );
    (actor.start(), ended)
}

fn memory_log() -> Arc<dyn EventLog> {
    event_log::open(None, Arc::new(SystemClock))
}

fn recorder(store: &Arc<FakeStore>, directory: &Arc<Directory>) -> Mailbox<RegistryActor> {
    let (registry, _) = registry_of(store, directory.clone(), memory_log());
    mailbox(registry, 100, Duration::from_secs(5))
}

fn expiry(
    store: &Arc<FakeStore>,
    directory: &Arc<Directory>,
    leases: &Arc<FakeLeases>,
) -> ExpiryHandler {
    let limits = Limits {
        ratio: 0.5,
        min: 10,
        max: Duration::from_secs(600),
        ttl: Ttl::try_from(30).unwrap(),
    };
    let health = Arc::<Health>::default();
    ExpiryHandler {
        leases: observed(leases.clone(), &health),
        health: health.clone(),
        directory: directory.clone(),
        protection: Arc::new(Protection::new(limits, health)),
        registry: recorder(store, directory),
        clock: Arc::new(SystemClock),
        metrics: Arc::default(),
    }
}

fn register(address: &str) -> RegisterInstance {
    RegisterInstance(Registration::of(key(address)))
}

#[actix::test]
async fn writes_that_arrive_during_a_transaction_share_the_next_one() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let mut writes = vec![actix::spawn(actor.send(register("h-0:1")))];
    settle().await;
    let others = (1..100).map(|i| register(&format!("h-{i}:1")));
    writes.extend(others.map(|write| actix::spawn(actor.send(write))));
    let edge = ScopeKind::Group.with("edge".parse().unwrap());
    let declared = actix::spawn(actor.send(DeclareScope {
        scope: edge,
        name: None,
    }));
    settle().await;
    writes.push(actix::spawn(actor.send(register("last:1"))));
    settle().await;
    assert!(store.committed.lock().unwrap().is_empty());
    store.gate.as_ref().unwrap().add_permits(10);
    for write in writes {
        assert!(write.await.unwrap().unwrap().unwrap().unwrap().created);
    }
    assert!(declared.await.unwrap().unwrap().unwrap().created);
    let committed = store.committed.lock().unwrap().clone();
    // The first began alone, when nothing waited; all others went together, in order.
    assert_eq!(committed.len(), 2, "{committed:?}");
    assert_eq!(committed[0], ["h-0:1"]);
    assert_eq!(committed[1].len(), 101);
    assert_eq!(committed[1][98..], ["h-99:1", "groups/edge", "last:1"]);
}

#[actix::test]
async fn one_transaction_holds_at_most_512_writes() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    settle().await;
    // The writes that arrived together are in the first transaction already.
    let writes: Vec<_> = (0..1200)
        .map(|i| actix::spawn(actor.send(register(&format!("h-{i}:1")))))
        .collect();
    settle().await;
    store.gate.as_ref().unwrap().add_permits(10);
    for write in writes {
        write.await.unwrap().unwrap().unwrap();
    }
    let sizes: Vec<usize> = store
        .committed
        .lock()
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(sizes, [512, 512, 176]);
}

#[actix::test]
async fn an_instance_registered_twice_at_once_is_in_two_statements() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let writes: Vec<_> = (0..9)
        .map(|_| actix::spawn(actor.send(register("same:1"))))
        .collect();
    settle().await;
    store.gate.as_ref().unwrap().add_permits(10);
    for write in writes {
        assert!(write.await.unwrap().unwrap().unwrap().is_some());
    }
    assert_eq!(
        store
            .committed
            .lock()
            .unwrap()
            .iter()
            .map(Vec::len)
            .sum::<usize>(),
        9
    );
}

#[actix::test]
async fn a_write_that_the_store_refuses_fails_alone() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let addresses = ["first:1", "a:1", "poison:1", "b:1"];
    let writes: Vec<_> = addresses
        .iter()
        .map(|a| actix::spawn(actor.send(register(a))))
        .collect();
    settle().await;
    store.gate.as_ref().unwrap().add_permits(10);
    let mut outcomes = Vec::new();
    for write in writes {
        outcomes.push(write.await.unwrap().unwrap().is_ok());
    }
    assert_eq!(outcomes, [true, true, false, true]);
    assert_eq!(
        *store.committed.lock().unwrap(),
        [["first:1"], ["a:1"], ["b:1"]]
    );
}

#[actix::test]
async fn writes_that_conflict_together_are_tried_one_by_one() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let addresses = ["first:1", "a:1", "conflict:1", "b:1"];
    let writes: Vec<_> = addresses
        .iter()
        .map(|address| actix::spawn(actor.send(register(address))))
        .collect();
    settle().await;
    store.gate.as_ref().unwrap().add_permits(10);
    for write in writes {
        assert!(write.await.unwrap().unwrap().unwrap().is_some());
    }
    let alone = [["first:1"], ["a:1"], ["conflict:1"], ["b:1"]];
    assert_eq!(*store.committed.lock().unwrap(), alone);
}

#[actix::test]
async fn writes_beyond_what_may_wait_are_refused_at_once() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let mut writes = vec![actix::spawn(actor.send(register("h-0:1")))];
    settle().await;
    let others = (1..4200).map(|i| register(&format!("h-{i}:1")));
    writes.extend(others.map(|write| actix::spawn(actor.send(write))));
    // One is in the transaction that has begun and 4096 wait; the rest need not.
    let refused = || writes.iter().filter(|write| write.is_finished()).count();
    eventually(Duration::from_secs(20), "103 are refused", || async {
        (refused() == 4200 - 4097).then_some(())
    })
    .await;
    store.gate.as_ref().unwrap().add_permits(100);
    let mut outcomes = Vec::new();
    for write in writes {
        outcomes.push(write.await.unwrap().unwrap().is_ok());
    }
    assert_eq!(outcomes.iter().filter(|taken| **taken).count(), 4097);
    assert!(outcomes[..4097].iter().all(|taken| *taken), "in order");
}

#[actix::test]
async fn a_commit_without_confirmation_is_not_published() {
    let store = Arc::new(FakeStore::default());
    let directory = Arc::new(Directory::new(store.clone()));
    let log = memory_log();
    let (actor, _ended) = registry_of(&store, Arc::clone(&directory), Arc::clone(&log));
    store.fail_commit.store(true, Ordering::SeqCst);
    let outcome = actor.send(register("a:1")).await.unwrap();
    assert!(
        matches!(outcome, Err(StoreError::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    actor.send(Drain).await.unwrap();
    assert!(directory.find(&key("a:1")).is_none());
    assert!(log.head().await.unwrap().is_empty());
    // A confirmed one is.
    store.fail_commit.store(false, Ordering::SeqCst);
    actor.send(register("b:1")).await.unwrap().unwrap();
    actor.send(Drain).await.unwrap();
    assert!(directory.find(&key("b:1")).is_some());
    assert_eq!(log.head().await.unwrap().sequence, 1);
}

#[actix::test]
async fn draining_waits_for_writes_whose_caller_gave_up() {
    let store = Arc::new(FakeStore {
        gate: Some(Semaphore::new(0)),
        ..FakeStore::default()
    });
    let (actor, _ended) = registry(&store);
    let given_up = actix::spawn(actor.send(register("a:1")));
    settle().await;
    given_up.abort();
    let drained = actix::spawn(actor.send(Drain));
    settle().await;
    assert!(!drained.is_finished());
    store.gate.as_ref().unwrap().add_permits(1);
    drained.await.unwrap().unwrap();
    assert_eq!(*store.committed.lock().unwrap(), [["a:1"]]);
}

#[actix::test]
async fn the_end_of_an_actor_by_a_panic_is_reported() {
    let store = Arc::new(FakeStore::default());
    let (actor, mut ended) = registry(&store);
    assert!(actor.send(register("a:1")).await.unwrap().is_ok());
    assert!(ended.try_recv().is_err());
    let outcome = actor.send(register("panic:1")).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    assert_eq!(ended.recv().await, Some("tested"));
}

/// A HeartbeatActor, and the Directory that resolves what is sent to it.
#[derive(Clone)]
struct Heartbeats {
    directory: Arc<Directory>,
    actor: Mailbox<HeartbeatActor>,
}

/// A HeartbeatActor over a registry of the addresses `known`.
fn heartbeats(store: &Arc<FakeStore>, leases: &Arc<FakeLeases>, known: &[&str]) -> Heartbeats {
    *store.registered.lock().unwrap() = Some(known.iter().map(|address| key(address)).collect());
    let directory = Arc::new(Directory::new(store.clone()));
    let actor = HeartbeatActor::new(
        leases.clone(),
        directory.clone(),
        recorder(store, &directory),
        Ttl::try_from(30).unwrap(),
        Arc::default(),
        lifeline().0,
    );
    Heartbeats {
        directory,
        actor: mailbox(actor.start(), 1000, Duration::from_secs(5)),
    }
}

impl Heartbeats {
    /// Sends heartbeats of instances that the sender knows.
    async fn send_known(&self, addresses: &[&str]) -> Result<Vec<HeartbeatOutcome>, BackendError> {
        let known = Some(HeartbeatInfo::default());
        self.ask(
            addresses
                .iter()
                .map(|address| (key(address), known))
                .collect(),
        )
        .await
    }

    /// Sends heartbeats of instances that the sender does not know.
    async fn send(&self, addresses: &[&str]) -> Result<Vec<HeartbeatOutcome>, BackendError> {
        let mut instances: Vec<_> = addresses
            .iter()
            .map(|address| (key(address), None))
            .collect();
        self.directory.resolve(&mut instances).await.unwrap();
        self.ask(instances).await
    }

    async fn ask(
        &self,
        instances: Vec<(InstanceKey, Option<HeartbeatInfo>)>,
    ) -> Result<Vec<HeartbeatOutcome>, BackendError> {
        let outcomes = self.actor.ask_with(|reply| RecordHeartbeats {
            instances,
            must_be_registered: true,
            reply,
        });
        outcomes.await.unwrap()
    }
}

#[actix::test]
async fn heartbeats_that_arrive_during_a_round_trip_share_the_next_one() {
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases {
        gate: Some(Semaphore::new(0)),
        ..FakeLeases::default()
    });
    let addresses: Vec<String> = (0..100).map(|i| format!("h-{i}:1")).collect();
    let known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let actor = heartbeats(&store, &leases, &known);
    let send = |index: usize, is_known: bool| {
        let (actor, address) = (actor.clone(), addresses[index].clone());
        actix::spawn(async move {
            if is_known {
                actor.send_known(&[&address]).await
            } else {
                actor.send(&[&address]).await
            }
        })
    };
    let mut beats = vec![send(0, false)];
    settle().await;
    beats.extend((1..100).map(|index| send(index, index % 2 == 0)));
    settle().await;
    leases.gate.as_ref().unwrap().add_permits(10);
    for heartbeat in beats {
        let outcomes = heartbeat.await.unwrap().unwrap();
        assert!(
            matches!(outcomes[..], [HeartbeatOutcome::Created(_)]),
            "{outcomes:?}"
        );
    }
    assert_eq!(*leases.batches.lock().unwrap(), [1, 99]);
}

#[actix::test]
async fn a_new_life_is_recorded_with_its_epoch_and_a_renewal_is_not() {
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1", "b:1"]);
    for _ in 0..3 {
        actor.send(&["a:1", "b:1", "unknown:1"]).await.unwrap();
        settle().await;
    }
    let committed = store.committed.lock().unwrap().clone();
    assert_eq!(committed, [["a:1 since 1", "b:1 since 1"]]);
}

#[actix::test]
async fn a_large_batch_is_several_round_trips_and_one_answer() {
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let addresses: Vec<String> = (0..2500).map(|i| format!("h-{i}:1")).collect();
    let known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let actor = heartbeats(&store, &leases, &known);
    let outcomes = actor.send_known(&known).await.unwrap();
    assert_eq!(outcomes.len(), 2500);
    assert_eq!(*leases.batches.lock().unwrap(), [1000, 1000, 500]);
}

#[actix::test]
async fn a_lease_store_that_hangs_is_an_error_within_a_second() {
    tokio::time::pause();
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases {
        gate: Some(Semaphore::new(0)),
        ..FakeLeases::default()
    });
    let actor = heartbeats(&store, &leases, &["a:1"]);
    for is_known in [false, true] {
        let begin = Instant::now();
        let outcomes = if is_known {
            actor.send_known(&["a:1"]).await
        } else {
            actor.send(&["a:1"]).await
        };
        assert!(outcomes.is_err());
        assert!(
            begin.elapsed() <= Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[actix::test]
async fn outcomes_are_in_the_order_of_the_keys() {
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1", "c:1", "d:1"]);
    actor.send(&["c:1"]).await.unwrap();
    let outcomes = actor.send(&["a:1", "b:1", "c:1", "d:1"]).await.unwrap();
    let ttl = Ttl::try_from(30).unwrap();
    assert_eq!(
        outcomes,
        [
            HeartbeatOutcome::Created(ttl),
            HeartbeatOutcome::Unknown,
            HeartbeatOutcome::Renewed(ttl),
            HeartbeatOutcome::Created(ttl)
        ]
    );
}

#[actix::test]
async fn the_store_is_not_asked_about_an_instance_that_is_known() {
    tokio::time::pause();
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]);
    actor.send(&["a:1"]).await.unwrap();
    let first = store.look_ups.load(Ordering::SeqCst);
    assert_eq!(
        first, 2,
        "whether it is registered, and again after its lease was created"
    );
    for _ in 0..100 {
        actor.send(&["a:1"]).await.unwrap();
    }
    assert_eq!(store.look_ups.load(Ordering::SeqCst), first);
}

#[actix::test]
async fn heartbeats_continue_while_the_store_is_unavailable() {
    tokio::time::pause();
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]);
    actor.send(&["a:1"]).await.unwrap();
    *store.registered.lock().unwrap() = None;
    sleep(Duration::from_secs(600)).await;
    let outcomes = actor.send(&["a:1", "b:1"]).await.unwrap();
    let ttl = Ttl::try_from(30).unwrap();
    assert_eq!(
        outcomes,
        [
            HeartbeatOutcome::Renewed(ttl),
            HeartbeatOutcome::Created(ttl)
        ]
    );
    // Once the store answers again, an unknown instance that was trusted is found out.
    *store.registered.lock().unwrap() = Some(HashSet::from([key("a:1")]));
    let outcomes = actor.send(&["a:1", "b:1"]).await.unwrap();
    assert_eq!(
        outcomes,
        [HeartbeatOutcome::Renewed(ttl), HeartbeatOutcome::Unknown]
    );
}

#[actix::test]
async fn a_lease_created_for_a_removed_instance_is_revoked() {
    tokio::time::pause();
    let store = Arc::new(FakeStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]);
    actor.send(&["a:1"]).await.unwrap();
    // Deregistered by another replica: row and lease are gone, and this one does not know it yet.
    store.registered.lock().unwrap().as_mut().unwrap().clear();
    leases.leases.lock().unwrap().clear();
    let outcomes = actor.send(&["a:1"]).await.unwrap();
    assert_eq!(outcomes, [HeartbeatOutcome::Unknown]);
    assert!(leases.leases.lock().unwrap().is_empty());
}

/// A clock that follows the runtime's paused time, from one quarter of a minute on,
/// and can be set.
struct TestClock {
    begin: Instant,
    offset: Mutex<TimeDelta>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            offset: Mutex::default(),
        })
    }

    fn step(&self, by: TimeDelta) {
        *self.offset.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        let begin: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().unwrap();
        let elapsed = TimeDelta::from_std(self.begin.elapsed()).unwrap();
        begin + elapsed + *self.offset.lock().unwrap()
    }
}

/// A coordinator that records when it is called, and can be slow or unavailable.
struct FakeCoordinator {
    clock: Arc<TestClock>,
    published: Mutex<Vec<(String, String)>>,
    delay: Mutex<Duration>,
    away: AtomicBool,
}

#[async_trait]
impl Coordinator for FakeCoordinator {
    async fn publish_once(
        &self,
        channel: &str,
        _: &str,
        claim: &str,
        _: Duration,
    ) -> Result<bool, BackendError> {
        assert_eq!(channel, "heartBeat");
        let now = self.clock.now();
        // The timer's own rounding; never early.
        assert!(now.timestamp_subsec_millis() < 10, "at {now}");
        let at = now.format("%M:%S").to_string();
        self.published.lock().unwrap().push((at, claim.to_owned()));
        let delay = *self.delay.lock().unwrap();
        sleep(delay).await;
        if self.away.load(Ordering::SeqCst) {
            Err(BackendError::Unavailable("away".into()))
        } else {
            Ok(true)
        }
    }

    async fn try_claim(&self, _: &str, _: Duration) -> Result<bool, BackendError> {
        Ok(false)
    }
}

struct Roll {
    clock: Arc<TestClock>,
    coordinator: Arc<FakeCoordinator>,
    log: Arc<dyn EventLog>,
    actor: Addr<SchedulerActor>,
    report: Arc<parking_lot::Mutex<RollCallReport>>,
}

impl Roll {
    fn start() -> Self {
        let clock = TestClock::new();
        let (log, coordinator) = (
            memory_log(),
            FakeCoordinator {
                clock: Arc::clone(&clock),
                published: Mutex::default(),
                delay: Mutex::default(),
                away: AtomicBool::default(),
            },
        );
        let coordinator = Arc::new(coordinator);
        let roll_call = RollCall {
            channel: "heartBeat".into(),
            message: "来自网关中心的心跳请求".into(),
            interval: Duration::from_secs(15),
        };
        let actor = SchedulerActor::new(
            roll_call,
            coordinator.clone(),
            log.clone(),
            clock.clone(),
            CancellationToken::new(),
            lifeline().0,
        );
        let report = actor.report();
        let actor = actor.start();
        Self {
            report,
            clock,
            coordinator,
            log,
            actor,
        }
    }

    async fn at(&self, seconds: u64) {
        sleep_until(self.clock.begin + Duration::from_secs(seconds)).await;
        settle().await;
    }

    fn published(&self) -> Vec<String> {
        self.coordinator
            .published
            .lock()
            .unwrap()
            .iter()
            .map(|(at, _)| at.clone())
            .collect()
    }

    async fn report(&self) -> RollCallReport {
        self.actor.send(Ping).await.unwrap();
        *self.report.lock()
    }
}

#[actix::test]
async fn the_roll_is_called_on_the_quarters_of_the_minute() {
    tokio::time::pause();
    let roll = Roll::start();
    roll.at(61).await;
    assert_eq!(roll.published(), ["00:15", "00:30", "00:45", "01:00"]);
    let claims: HashSet<String> = roll
        .coordinator
        .published
        .lock()
        .unwrap()
        .iter()
        .map(|(_, claim)| claim.clone())
        .collect();
    assert_eq!(claims.len(), 4, "each tick has a claim of its own");
    assert_eq!(roll.report().await.sent, 4);
    let read = roll.log.read(EventId::default(), Duration::ZERO).await;
    let ReadOutcome::Events(entries) = read.unwrap() else {
        panic!("events were lost");
    };
    let kinds: Vec<EventKind> = entries.into_iter().map(|entry| entry.event.kind).collect();
    assert_eq!(kinds, vec![EventKind::RollCalled; 4]);
}

#[actix::test]
async fn the_roll_call_stays_aligned_when_the_clock_is_set() {
    tokio::time::pause();
    let roll = Roll::start();
    roll.at(16).await;
    roll.clock.step(TimeDelta::seconds(-4));
    // The next tick of the timer comes 4 s early by the clock, and waits.
    roll.at(52).await;
    assert_eq!(roll.published(), ["00:15", "00:30", "00:45"]);
    roll.clock.step(TimeDelta::seconds(4));
    // Now it comes 4 s late, which is a tick that is skipped.
    roll.at(91).await;
    let published = roll.published();
    assert_eq!(published[3..], ["01:15", "01:30"], "{published:?}");
    assert_eq!(roll.report().await.skipped, 1);
}

#[actix::test]
async fn a_clock_set_back_by_an_hour_does_not_silence_the_roll_call() {
    tokio::time::pause();
    let roll = Roll::start();
    roll.at(16).await;
    roll.clock.step(TimeDelta::hours(-1));
    roll.at(61).await;
    assert_eq!(roll.published(), ["00:15", "00:30", "00:45", "01:00"]);
    assert_eq!(roll.report().await.skipped, 0);
}

#[actix::test]
async fn a_stall_leads_to_no_burst() {
    tokio::time::pause();
    let roll = Roll::start();
    roll.at(16).await;
    // Everything stands still for 40 s: ticks at 30 and 45 are missed.
    tokio::time::advance(Duration::from_secs(40)).await;
    roll.at(91).await;
    let published = roll.published();
    assert_eq!(published, ["00:15", "01:00", "01:15", "01:30"]);
    assert_eq!(roll.report().await.skipped, 2);
}

#[actix::test]
async fn a_roll_call_that_is_under_way_is_not_overtaken() {
    tokio::time::pause();
    let roll = Roll::start();
    *roll.coordinator.delay.lock().unwrap() = Duration::from_secs(20);
    roll.at(61).await;
    assert_eq!(roll.published(), ["00:15", "00:45"]);
    let report = roll.report().await;
    assert_eq!((report.sent, report.skipped), (1, 2));
}

#[actix::test]
async fn a_roll_call_that_fails_is_counted_and_the_next_is_on_time() {
    tokio::time::pause();
    let roll = Roll::start();
    roll.coordinator.away.store(true, Ordering::SeqCst);
    roll.at(31).await;
    roll.coordinator.away.store(false, Ordering::SeqCst);
    roll.at(46).await;
    let report = roll.report().await;
    assert_eq!((report.sent, report.skipped), (1, 2));
    assert_eq!(roll.published(), ["00:15", "00:30", "00:45"]);
}

#[actix::test]
async fn a_reconcile_of_many_leases_goes_on_where_the_last_one_ended() {
    let leases = Arc::new(FakeLeases {
        pages: 250,
        ..FakeLeases::default()
    });
    let store = Arc::new(FakeStore::default());
    let directory = Arc::new(Directory::new(store.clone()));
    let reconciler = Reconciler::new(
        Arc::new(expiry(&store, &directory, &leases)),
        directory.clone(),
        leases.clone(),
        store.clone(),
        recorder(&store, &directory),
        coordination::open(None),
        Arc::new(SystemClock),
    );
    for end in [50, 100, 150, 200, 250] {
        reconciler.reconcile().await.unwrap();
        assert_eq!(*leases.asked.lock().unwrap(), Vec::from_iter(0..end));
    }
    reconciler.reconcile().await.unwrap();
    assert_eq!(leases.asked.lock().unwrap()[250], 0);
}
