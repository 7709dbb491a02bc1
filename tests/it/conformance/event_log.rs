//! The suite of the event log.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rollcalld::clock::SystemClock;
use rollcalld::event_log::{self, EventLog, LogEntry, ReadOutcome};
use rollcalld::model::{
    Event, EventId, EventKind, Instance, InstanceId, InstanceKey, Metadata, Presence, ScopeKind,
    Status,
};
use rollcalld::redis::RedisBackend;
use tokio::time::timeout;

use super::suite;
use crate::support::eventually;
use crate::support::redis::Redis;

pub(super) struct Fixture {
    log: Arc<dyn EventLog>,
    /// The server, kept alive.
    _servers: Box<dyn Any>,
}

async fn memory() -> Fixture {
    Fixture {
        log: event_log::open(None, Arc::new(SystemClock), 20_000),
        _servers: Box::new(()),
    }
}

async fn redis(program: &str) -> Fixture {
    let redis = Redis::start_program(program, |_| Vec::new()).await;
    Fixture {
        log: open(&redis),
        _servers: Box::new(redis),
    }
}

fn open(redis: &Redis) -> Arc<dyn EventLog> {
    let backend = RedisBackend::open(&redis.url().parse().unwrap()).unwrap();
    event_log::open(Some(&backend), Arc::new(SystemClock), 20_000)
}

suite! {
    backends:
        in_memory => super::memory(),
        on_redis => super::redis("redis-server"),
        on_valkey => super::redis(&crate::valkey::program());
    tests: {
        events_are_read_in_order_without_a_gap,
        events_are_read_backwards_page_by_page,
        a_read_that_waits_for_an_event_is_woken_by_it,
        an_id_that_the_log_does_not_know_has_lost_what_followed,
        the_log_forgets_its_oldest_events_and_says_so,
        transitions_alternate_in_whatever_order_they_come,
        after_a_resync_a_smaller_revision_is_a_transition,
        events_other_than_transitions_are_appended_as_they_arrive,
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn instance(id: i64, revision: i64) -> Instance {
    Instance {
        id: InstanceId(id),
        key: InstanceKey {
            scope: ScopeKind::Service.with("orders".parse().unwrap()),
            address: "a:1".parse().unwrap(),
        },
        name: None,
        given_weight: None,
        given_metadata: Metadata::default(),
        ttl: None,
        status: Status::Enabled,
        hold: None,
        overrides: None,
        registered_by: None,
        presence: Presence::default(),
        registered_at: at(0),
        updated_at: at(0),
        revision,
    }
}

fn event(kind: EventKind) -> Event {
    Event::new(at(1), kind)
}

fn online(id: i64, revision: i64) -> Event {
    event(EventKind::InstanceWentOnline(instance(id, revision)))
}

fn offline(id: i64, revision: i64) -> Event {
    event(EventKind::InstanceWentOffline(instance(id, revision)))
}

impl Fixture {
    /// Returns the events after an ID, to the end of the log; `None` if some are lost.
    async fn following(&self, mut after: EventId) -> Option<Vec<LogEntry>> {
        let mut all: Vec<LogEntry> = Vec::new();
        loop {
            match self.log.read(after, Duration::ZERO).await.unwrap() {
                ReadOutcome::Events(events) => {
                    let Some(last) = events.last() else {
                        return Some(all);
                    };
                    after = last.id;
                    all.extend(events);
                }
                ReadOutcome::Lost => return None,
            }
        }
    }

    async fn names(&self) -> Vec<&'static str> {
        let all = self.following(EventId::default()).await.unwrap();
        all.iter().map(|logged| logged.event.kind.name()).collect()
    }
}

async fn events_are_read_backwards_page_by_page(fixture: Fixture) {
    let start = EventId {
        epoch: 1,
        sequence: 1,
    };
    assert_eq!(fixture.log.read_before(start).await.unwrap(), []);
    for i in 0..1200 {
        let changed = event(EventKind::InstanceChanged(instance(i, i)));
        fixture.log.append(&[changed]).await.unwrap();
    }
    let all = fixture.following(EventId::default()).await.unwrap();
    let head = fixture.log.head().await.unwrap();
    let mut before = EventId {
        sequence: head.sequence + 1,
        ..head
    };
    let mut read = Vec::new();
    loop {
        let page = fixture.log.read_before(before).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 500);
        before = last.id;
        read.extend(page);
    }
    read.reverse();
    assert_eq!(read, all);
}

async fn events_are_read_in_order_without_a_gap(fixture: Fixture) {
    assert_eq!(fixture.log.head().await.unwrap(), EventId::default());
    assert_eq!(fixture.following(EventId::default()).await.unwrap(), []);
    fixture.log.append(&[]).await.unwrap();
    let sent: Vec<Event> = (0..1200)
        .map(|i| event(EventKind::InstanceChanged(instance(i, i))))
        .collect();
    for part in sent.chunks(7) {
        fixture.log.append(part).await.unwrap();
    }
    let read = fixture.following(EventId::default()).await.unwrap();
    let events: Vec<Event> = read.iter().map(|logged| logged.event.clone()).collect();
    assert_eq!(events, sent);
    for pair in read.windows(2) {
        assert!(pair[0].id.precedes(pair[1].id));
    }
    assert_eq!(fixture.log.head().await.unwrap(), read[1199].id);
    let tail = fixture.following(read[1197].id).await.unwrap();
    assert_eq!(tail, read[1198..]);
    assert_eq!(fixture.following(read[1199].id).await.unwrap(), []);
}

async fn a_read_that_waits_for_an_event_is_woken_by_it(fixture: Fixture) {
    for after in 0..3 {
        let head = fixture.log.head().await.unwrap();
        assert_eq!(head.sequence, after);
        let wait = Duration::from_secs(20);
        let mut read = pin!(fixture.log.read(head, wait));
        let early = timeout(Duration::from_millis(100), &mut read).await;
        assert!(early.is_err(), "it waits: {early:?}");
        let event = online(after as i64, 2);
        let (read, appended) = tokio::join!(read, fixture.log.append(std::slice::from_ref(&event)));
        appended.unwrap();
        let ReadOutcome::Events(events) = read.unwrap() else {
            panic!("lost");
        };
        assert_eq!(events.len(), 1);
        assert!(head.precedes(events[0].id));
    }
    let head = fixture.log.head().await.unwrap();
    let nothing = fixture.log.read(head, Duration::from_millis(50)).await;
    assert_eq!(nothing.unwrap(), ReadOutcome::Events(Vec::new()));
}

async fn an_id_that_the_log_does_not_know_has_lost_what_followed(fixture: Fixture) {
    let unknown = |epoch, sequence| EventId { epoch, sequence };
    assert_eq!(fixture.following(unknown(5, 1)).await, None, "an empty log");
    fixture
        .log
        .append(&[online(1, 2), offline(1, 3)])
        .await
        .unwrap();
    let head = fixture.log.head().await.unwrap();
    for id in [
        unknown(head.epoch, 3),
        unknown(head.epoch - 1, 1),
        unknown(head.epoch + 1, 1),
        unknown(u64::MAX, 0),
        unknown(0, u64::MAX),
        unknown(head.epoch, u64::MAX),
    ] {
        assert_eq!(fixture.following(id).await, None, "{id}");
    }
}

async fn the_log_forgets_its_oldest_events_and_says_so(fixture: Fixture) {
    let events: Vec<Event> = (0..500).map(|_| event(EventKind::RollCalled)).collect();
    for _ in 0..45 {
        fixture.log.append(&events).await.unwrap();
    }
    assert_eq!(fixture.following(EventId::default()).await, None);
    let head = fixture.log.head().await.unwrap();
    assert_eq!(head.sequence, 45 * 500);
    let kept = EventId {
        sequence: head.sequence - 19_000,
        ..head
    };
    assert_eq!(fixture.following(kept).await.unwrap().len(), 19_000);
    let gone = EventId {
        sequence: 1,
        ..head
    };
    assert_eq!(fixture.following(gone).await, None);
}

async fn transitions_alternate_in_whatever_order_they_come(fixture: Fixture) {
    let append = async |event| fixture.log.append(&[event]).await.unwrap();
    append(online(1, 2)).await;
    // Appended twice.
    append(online(1, 2)).await;
    append(online(2, 2)).await;
    // Another replica appended the later transition first.
    append(online(1, 4)).await;
    append(offline(1, 3)).await;
    append(offline(1, 5)).await;
    assert_eq!(
        fixture.names().await,
        [
            "instance.online",
            "instance.online",
            "instance.offline",
            "instance.online",
            "instance.offline"
        ]
    );
    let all = fixture.following(EventId::default()).await.unwrap();
    let of_first: Vec<i64> = all
        .iter()
        .filter_map(|logged| logged.event.kind.instance())
        .filter(|instance| instance.id == InstanceId(1))
        .map(|instance| instance.revision)
        .collect();
    assert_eq!(of_first, [2, 4, 4, 5]);
}

async fn after_a_resync_a_smaller_revision_is_a_transition(fixture: Fixture) {
    // A backup of the registry store was restored.
    let events = [
        online(1, 9),
        event(EventKind::EventsLost),
        offline(1, 5),
        online(1, 6),
    ];
    fixture.log.append(&events[..1]).await.unwrap();
    fixture.log.append(&events[1..3]).await.unwrap();
    fixture.log.append(&events[3..]).await.unwrap();
    // Appended twice.
    fixture.log.append(&events[3..]).await.unwrap();
    assert_eq!(
        fixture.names().await,
        [
            "instance.online",
            "resync",
            "instance.offline",
            "instance.online"
        ]
    );
}

async fn events_other_than_transitions_are_appended_as_they_arrive(fixture: Fixture) {
    let sent = [
        event(EventKind::InstanceRegistered(instance(1, 1))),
        event(EventKind::InstanceChanged(instance(1, 3))),
        event(EventKind::InstanceChanged(instance(1, 2))),
        online(1, 4),
        event(EventKind::LeaseRestarted(instance(1, 5))),
        event(EventKind::InstanceDeregistered(instance(1, 5))),
        event(EventKind::RollCalled),
    ];
    fixture.log.append(&sent).await.unwrap();
    let read = fixture.following(EventId::default()).await.unwrap();
    let events: Vec<Event> = read.into_iter().map(|logged| logged.event).collect();
    assert_eq!(events, sent);
}

#[tokio::test]
async fn a_promoted_server_that_lacks_events_begins_another_log() {
    let old = Redis::start().await;
    let new = old.replica().await;
    let at_old = open(&old);
    at_old.append(&[online(1, 2)]).await.unwrap();
    let kept = at_old.head().await.unwrap();
    eventually(Duration::from_secs(10), "it is replicated", || async {
        let entries: Vec<String> = new.run(redis::cmd("KEYS").arg("{rollcall}:events")).await;
        (entries.len() == 1).then_some(())
    })
    .await;
    let mut promote = redis::cmd("REPLICAOF");
    new.run::<()>(promote.arg("NO").arg("ONE")).await;
    at_old.append(&[offline(1, 3)]).await.unwrap();
    let lost = at_old.head().await.unwrap();
    let at_new = open(&new);
    at_new.append(&[online(2, 2)]).await.unwrap();
    assert!(at_new.head().await.unwrap().epoch > lost.epoch);
    for known in [kept, lost] {
        let read = at_new.read(known, Duration::ZERO).await.unwrap();
        assert!(matches!(read, ReadOutcome::Lost), "{read:?}");
    }
    // A reader that begins before the first event gets the remaining events, and then that others
    // were lost.
    let read = at_new.read(EventId::default(), Duration::ZERO).await;
    let ReadOutcome::Events(events) = read.unwrap() else {
        panic!("the first event is there");
    };
    let ids: Vec<EventId> = events.iter().map(|logged| logged.id).collect();
    assert_eq!(ids, [kept]);
}

#[tokio::test]
async fn a_promoted_server_begins_another_log_although_it_first_refused_an_append() {
    let old = Redis::start().await;
    let new = old.replica().await;
    let at_old = open(&old);
    at_old.append(&[online(1, 2)]).await.unwrap();
    let known = at_old.head().await.unwrap();
    eventually(Duration::from_secs(10), "it is replicated", || async {
        let entries: Vec<String> = new.run(redis::cmd("KEYS").arg("{rollcall}:events")).await;
        (entries.len() == 1).then_some(())
    })
    .await;
    let mut promote = redis::cmd("REPLICAOF");
    new.run::<()>(promote.arg("NO").arg("ONE")).await;
    let allow_append = |rule| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("default").arg(rule);
        command
    };
    let at_new = open(&new);
    new.run::<()>(&allow_append("-xadd")).await;
    at_new.append(&[offline(1, 3)]).await.unwrap_err();
    new.run::<()>(&allow_append("+xadd")).await;
    at_new.append(&[offline(1, 3)]).await.unwrap();
    assert!(at_new.head().await.unwrap().epoch > known.epoch);
}
