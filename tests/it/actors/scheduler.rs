//! The SchedulerActor: the roll call.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Addr};
use async_trait::async_trait;
use chrono::TimeDelta;
use rollcalld::actor::{Ping, RollCall, RollCallReport, SchedulerActor};
use rollcalld::backend::BackendError;
use rollcalld::clock::Clock;
use rollcalld::coordination::Coordinator;
use rollcalld::event_log::{EventLog, ReadOutcome};
use rollcalld::model::{EventId, EventKind};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{lifeline, memory_log, settle};
use crate::support::clock::FakeClock;

/// A coordinator that records when it is called, and can be slow or unavailable.
struct FakeCoordinator {
    clock: Arc<FakeClock>,
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
    clock: Arc<FakeClock>,
    coordinator: Arc<FakeCoordinator>,
    log: Arc<dyn EventLog>,
    actor: Addr<SchedulerActor>,
    report: Arc<parking_lot::Mutex<RollCallReport>>,
}

impl Roll {
    fn start() -> Self {
        let clock = FakeClock::new();
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
    roll.clock.set(TimeDelta::seconds(-4));
    // The next tick of the timer comes 4 s early by the clock, and waits.
    roll.at(52).await;
    assert_eq!(roll.published(), ["00:15", "00:30", "00:45"]);
    roll.clock.set(TimeDelta::zero());
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
    roll.clock.set(TimeDelta::hours(-1));
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
