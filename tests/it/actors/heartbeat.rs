//! The HeartbeatActor: round trips, outcomes, and the records of new leases.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::Actor;
use rollcalld::actor::{HeartbeatActor, HeartbeatOutcome, Mailbox, RecordHeartbeats};
use rollcalld::backend::BackendError;
use rollcalld::directory::{Directory, HeartbeatInfo};
use rollcalld::model::{InstanceKey, Ttl};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::{key, lifeline, recorder, settle};
use crate::support::fake_leases::FakeLeases;
use crate::support::faulty_store::FaultyStore;
use crate::support::mailbox;

/// A HeartbeatActor, and the Directory that resolves what is sent to it.
#[derive(Clone)]
struct Heartbeats {
    directory: Arc<Directory>,
    actor: Mailbox<HeartbeatActor>,
}

/// A HeartbeatActor over a registry of the addresses `known`.
async fn heartbeats(
    store: &Arc<FaultyStore>,
    leases: &Arc<FakeLeases>,
    known: &[&str],
) -> Heartbeats {
    store
        .register(known.iter().map(|address| key(address)))
        .await;
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
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases {
        gate: Some(Semaphore::new(0)),
        ..FakeLeases::default()
    });
    let addresses: Vec<String> = (0..100).map(|i| format!("h-{i}:1")).collect();
    let known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let actor = heartbeats(&store, &leases, &known).await;
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
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1", "b:1"]).await;
    for _ in 0..3 {
        actor.send(&["a:1", "b:1", "unknown:1"]).await.unwrap();
        settle().await;
    }
    let committed = store.committed.lock().unwrap().clone();
    assert_eq!(committed, [["a:1 since 1", "b:1 since 1"]]);
}

#[actix::test]
async fn a_large_batch_is_several_round_trips_and_one_answer() {
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases::default());
    let addresses: Vec<String> = (0..2500).map(|i| format!("h-{i}:1")).collect();
    let known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let actor = heartbeats(&store, &leases, &known).await;
    let outcomes = actor.send_known(&known).await.unwrap();
    assert_eq!(outcomes.len(), 2500);
    assert_eq!(*leases.batches.lock().unwrap(), [1000, 1000, 500]);
}

#[actix::test]
async fn a_lease_store_that_hangs_is_an_error_within_a_second() {
    tokio::time::pause();
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases {
        gate: Some(Semaphore::new(0)),
        ..FakeLeases::default()
    });
    let actor = heartbeats(&store, &leases, &["a:1"]).await;
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
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1", "c:1", "d:1"]).await;
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
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]).await;
    actor.send(&["a:1"]).await.unwrap();
    let first = store.look_ups.load(Ordering::SeqCst);
    assert_eq!(
        first, 1,
        "whether it is registered; the record of its lease confirms that"
    );
    for _ in 0..100 {
        actor.send(&["a:1"]).await.unwrap();
    }
    assert_eq!(store.look_ups.load(Ordering::SeqCst), first);
}

#[actix::test]
async fn heartbeats_continue_while_the_store_is_unavailable() {
    tokio::time::pause();
    let store = Arc::new(FaultyStore::default());
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]).await;
    actor.send(&["a:1"]).await.unwrap();
    store.away.store(true, Ordering::SeqCst);
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
    store.away.store(false, Ordering::SeqCst);
    let outcomes = actor.send(&["a:1", "b:1"]).await.unwrap();
    assert_eq!(
        outcomes,
        [HeartbeatOutcome::Renewed(ttl), HeartbeatOutcome::Unknown]
    );
}

#[actix::test]
async fn a_lease_created_for_a_removed_instance_is_revoked() {
    tokio::time::pause();
    let store = Arc::new(FaultyStore::default());
    let empty = store.store.backup();
    let leases = Arc::new(FakeLeases::default());
    let actor = heartbeats(&store, &leases, &["a:1"]).await;
    actor.send(&["a:1"]).await.unwrap();
    // Deregistered by another replica: row and lease are gone, and this one does not know it yet.
    store.store.restore(empty);
    leases.leases.lock().unwrap().clear();
    let outcomes = actor.send(&["a:1"]).await.unwrap();
    assert_eq!(outcomes, [HeartbeatOutcome::Unknown]);
    assert!(leases.leases.lock().unwrap().is_empty());
}

#[actix::test]
async fn heartbeats_do_not_wait_while_thousands_of_leases_wait_to_be_recorded() {
    tokio::time::pause();
    let store = FaultyStore::gated();
    let leases = Arc::new(FakeLeases::default());
    let addresses: Vec<String> = (0..4_501).map(|i| format!("h-{i}:1")).collect();
    let known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let actor = heartbeats(&store, &leases, &known).await;
    let took = async |addresses: &[&str]| {
        let begin = Instant::now();
        let outcomes = actor.send_known(addresses).await.unwrap();
        let is_new = |outcome: &HeartbeatOutcome| matches!(outcome, HeartbeatOutcome::Created(_));
        assert!(outcomes.iter().all(is_new));
        begin.elapsed()
    };
    let (many, last) = known.split_at(4_500);
    assert!(
        took(many).await >= Duration::from_millis(600),
        "it waits for its record"
    );
    assert_eq!(took(last).await, Duration::ZERO);
    // Nothing is forgotten.
    store.gate.as_ref().unwrap().add_permits(100);
    sleep(Duration::from_secs(1)).await;
    let recorded: usize = store.committed.lock().unwrap().iter().map(Vec::len).sum();
    assert_eq!(recorded, 4_501);
}
