//! The RegistryActor: the group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use rollcalld::actor::{AskError, DeclareScope, Drain, RegisterInstance, WriteError};
use rollcalld::backend::BackendError;
use rollcalld::directory::Directory;
use rollcalld::event_log::{EventLog, LogEntry, ReadOutcome};
use rollcalld::model::{Event, EventId, Registration, ScopeKind};
use rollcalld::store::StoreError;
use tokio::sync::Semaphore;

use super::{key, memory_log, registry, registry_of, settle};
use crate::support::faulty_store::FaultyStore;
use crate::support::mailbox;

fn register(address: &str) -> RegisterInstance {
    RegisterInstance(Registration::of(key(address)))
}

#[actix::test]
async fn writes_that_arrive_during_a_transaction_share_the_next_one() {
    let store = FaultyStore::gated();
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
async fn one_transaction_holds_at_most_1024_writes() {
    let store = FaultyStore::gated();
    let (actor, _ended) = registry(&store);
    settle().await;
    // The writes that arrived together are in the first transaction already.
    let writes: Vec<_> = (0..2200)
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
    assert_eq!(sizes, [1024, 1024, 152]);
}

#[actix::test]
async fn an_instance_registered_twice_at_once_is_in_two_statements() {
    let store = FaultyStore::gated();
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
    let store = FaultyStore::gated();
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
    let store = FaultyStore::gated();
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
    let store = FaultyStore::gated();
    let (actor, _ended) = registry(&store);
    let mailbox = mailbox(actor.clone(), 10, Duration::from_secs(60));
    let write = |i: usize| {
        let mailbox = mailbox.clone();
        actix::spawn(async move { mailbox.write(register(&format!("h-{i}:1"))).await })
    };
    let writes: Vec<_> = (0..10).map(write).collect();
    settle().await;
    // The callers give up; their writes still wait.
    writes.iter().for_each(|write| write.abort());
    settle().await;
    let refused = write(10).await.unwrap().unwrap_err();
    assert!(matches!(refused, WriteError::Ask(AskError::Overloaded)));
    store.gate.as_ref().unwrap().add_permits(100);
    actor.send(Drain).await.unwrap();
    write(11).await.unwrap().unwrap();
    let committed = store.committed.lock().unwrap().concat();
    assert_eq!(committed.len(), 11);
    assert_eq!(committed[10], "h-11:1");
}

#[actix::test]
async fn a_commit_without_confirmation_is_not_published() {
    let store = Arc::new(FaultyStore::default());
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
    // The service, and its instance.
    assert_eq!(log.head().await.unwrap().sequence, 2);
}

#[actix::test]
async fn draining_waits_for_writes_whose_caller_gave_up() {
    let store = FaultyStore::gated();
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
    let store = Arc::new(FaultyStore::default());
    let (actor, mut ended) = registry(&store);
    assert!(actor.send(register("a:1")).await.unwrap().is_ok());
    assert!(ended.try_recv().is_err());
    let outcome = actor.send(register("panic:1")).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    assert_eq!(ended.recv().await, Some("tested"));
}

/// An event log that appends when the test lets it.
struct GatedLog {
    inner: Arc<dyn EventLog>,
    gate: Semaphore,
}

#[async_trait]
impl EventLog for GatedLog {
    async fn append(&self, events: &[Event]) -> Result<(), BackendError> {
        self.gate.acquire().await.unwrap().forget();
        self.inner.append(events).await
    }

    async fn read_before(&self, before: EventId) -> Result<Vec<LogEntry>, BackendError> {
        self.inner.read_before(before).await
    }

    async fn head(&self) -> Result<EventId, BackendError> {
        self.inner.head().await
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BackendError> {
        self.inner.read(after, wait).await
    }
}

#[actix::test]
async fn a_transaction_waits_while_ten_thousand_events_wait_for_the_log() {
    let store = Arc::new(FaultyStore::default());
    let log = Arc::new(GatedLog {
        inner: memory_log(),
        gate: Semaphore::new(0),
    });
    let directory = Arc::new(Directory::new(store.clone()));
    let (actor, _ended) = registry_of(&store, directory, log.clone());
    let writes: Vec<_> = (0..15_000)
        .map(|i| actix::spawn(actor.send(register(&format!("h-{i}:1")))))
        .collect();
    let committed = || -> usize { store.committed.lock().unwrap().iter().map(Vec::len).sum() };
    for _ in 0..100 {
        settle().await;
    }
    // The first append took at most a thousand, and a transaction has at most 1024.
    let before = committed();
    assert!((10_000..=13_000).contains(&before), "{before}");
    for _ in 0..100 {
        settle().await;
    }
    assert_eq!(committed(), before);
    log.gate.add_permits(100);
    for write in writes {
        write.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(committed(), 15_000);
}
