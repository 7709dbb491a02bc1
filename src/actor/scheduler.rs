//! The SchedulerActor: owner of time, on an arbiter of its own.
//!
//! It calls the roll by `run_interval`, on the clock's multiples of the interval, and
//! begins the chores. It does no work of its own: nothing slow delays a tick.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, SpawnHandle,
};
use chrono::{DateTime, Utc};

use super::{Lifeline, Reconciler, admit};
use crate::bus::{BusError, EventBus};
use crate::clock::Clock;
use crate::model::rfc3339_millis;

/// A tick this late is still sent. A later one, after a stall of the process or a
/// step of the clock, is skipped: the next is less than an interval away.
const LATE: Duration = Duration::from_secs(2);

/// How far ticks may drift from the clock before they are aligned to it again.
const DRIFT: Duration = Duration::from_millis(50);

/// How often the registry is compared with the leases.
pub const RECONCILE: Duration = Duration::from_secs(15);

/// The message that asks every instance for a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollCall {
    /// Where it is published.
    pub channel: String,
    /// What is published.
    pub message: String,
    /// How often: on the multiples of this since the Unix epoch.
    pub interval: Duration,
}

/// Owns the timers.
pub struct SchedulerActor {
    roll_call: RollCall,
    reconciler: Arc<Reconciler>,
    reconciling: bool,
    bus: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    timer: Option<SpawnHandle>,
    last_tick: Option<i64>,
    under_way: bool,
    report: RollCallReport,
    _lifeline: Lifeline,
}

impl SchedulerActor {
    /// Calls the roll on that bus from the next tick on.
    pub fn new(
        roll_call: RollCall,
        reconciler: Reconciler,
        bus: Arc<dyn EventBus>,
        clock: Arc<dyn Clock>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            roll_call,
            reconciler: Arc::new(reconciler),
            reconciling: false,
            bus,
            clock,
            timer: None,
            last_tick: None,
            under_way: false,
            report: RollCallReport::default(),
            _lifeline: lifeline,
        }
    }

    /// Begins the interval anew at the clock's next tick.
    fn align(&mut self, context: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let wait = until_next(self.clock.now(), self.roll_call.interval);
        self.timer = Some(context.run_later(wait, |actor, context| {
            let interval = actor.roll_call.interval;
            actor.timer = Some(context.run_interval(interval, Self::tick));
            actor.tick(context);
        }));
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let now = self.clock.now();
        let (tick, late) = nearest(now, self.roll_call.interval);
        let Ok(late) = u64::try_from(late).map(Duration::from_millis) else {
            // The timer is ahead of the clock: come back when it is time.
            return self.align(context);
        };
        if late > DRIFT {
            self.align(context);
        }
        let since = self.last_tick.map_or(1, |last| tick - last);
        self.last_tick = Some(tick);
        match since {
            // The timer catches up with ticks that a stall made it miss.
            0 => return,
            1 => {}
            2.. => self.skip(
                since.unsigned_abs() - 1,
                "the process stood still or the clock was set",
            ),
            _ => log::warn!("the clock was set back; the roll is called by the new time"),
        }
        if late > LATE {
            self.skip(1, format_args!("{late:?} late"));
        } else if self.under_way {
            self.skip(1, "the one before is still under way");
        } else {
            self.call_roll(tick, now, context);
        }
    }

    fn reconcile(&mut self, context: &mut Context<Self>) {
        if self.reconciling {
            return;
        }
        self.reconciling = true;
        let reconciler = Arc::clone(&self.reconciler);
        let reconcile = async move { reconciler.run().await };
        context.spawn(wrap_future(reconcile).map(
            |outcome, actor: &mut Self, _: &mut Context<Self>| {
                actor.reconciling = false;
                match outcome {
                    Ok(None) => {}
                    Ok(Some(repairs)) => log::debug!("reconciled: {repairs:?}"),
                    Err(error) => log::warn!("reconcile broken off: {error}"),
                }
            },
        ));
    }

    fn skip(&mut self, ticks: u64, why: impl Display) {
        self.report.skipped += ticks;
        log::warn!("{ticks} roll call(s) skipped: {why}");
    }

    fn call_roll(&mut self, tick: i64, now: DateTime<Utc>, context: &mut Context<Self>) {
        self.under_way = true;
        let (bus, roll_call) = (Arc::clone(&self.bus), self.roll_call.clone());
        let sending = async move {
            let RollCall {
                channel,
                message,
                interval,
            } = roll_call;
            // Every replica makes the same claim on the same tick, and one gets it.
            let claim = format!("roll:{channel}:{}:{tick}", interval.as_millis());
            bus.publish_once(&channel, &message, &claim, 2 * interval)
                .await
        };
        context.spawn(wrap_future(sending).map(
            move |outcome: Result<bool, BusError>, actor: &mut Self, _: &mut Context<Self>| {
                actor.under_way = false;
                match outcome {
                    Ok(true) => {
                        actor.report.sent += 1;
                        actor.report.last_sent_at = Some(now);
                        log::debug!("roll call sent at {}", rfc3339_millis(now));
                    }
                    Ok(false) => actor.report.sent_by_others += 1,
                    Err(error) => actor.skip(1, error),
                }
            },
        ));
    }
}

/// How long it is until the next multiple of `interval`, and a millisecond, so that
/// rounding never makes a tick early.
fn until_next(now: DateTime<Utc>, interval: Duration) -> Duration {
    let now = now.timestamp_millis();
    let interval = millis(interval);
    let wait = interval - now.rem_euclid(interval);
    Duration::from_millis(wait.unsigned_abs()) + Duration::from_millis(1)
}

/// The nearest multiple of `interval`, as its number since the Unix epoch, and how
/// many milliseconds ago it was; negative if it is still to come.
fn nearest(now: DateTime<Utc>, interval: Duration) -> (i64, i64) {
    let now = now.timestamp_millis();
    let interval = millis(interval);
    let tick = (now + interval / 2).div_euclid(interval);
    (tick, now - tick * interval)
}

fn millis(interval: Duration) -> i64 {
    i64::try_from(interval.as_millis()).map_or(i64::MAX, |millis| millis.max(1))
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.align(context);
        context.run_interval(RECONCILE, Self::reconcile);
    }
}

admit!(SchedulerActor);

/// What became of the ticks since this daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollCallReport {
    /// Sent by this daemon.
    pub sent: u64,
    /// Sent by another daemon on the same bus.
    pub sent_by_others: u64,
    /// Not sent: the bus was away, the one before was still under way, or the process was stalled.
    pub skipped: u64,
    /// When this daemon sent one last.
    pub last_sent_at: Option<DateTime<Utc>>,
}

/// Asks what became of the roll calls. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "RollCallReport")]
pub struct RollCallStatus;

impl Handler<RollCallStatus> for SchedulerActor {
    type Result = MessageResult<RollCallStatus>;

    fn handle(&mut self, _: RollCallStatus, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.report.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn ticks_fall_on_the_quarters_of_the_minute_and_never_early() {
        for (now, wait) in [
            ("2026-11-22T10:00:00.000Z", 15_001),
            ("2026-11-22T10:00:00.001Z", 15_000),
            ("2026-11-22T10:00:14.999Z", 2),
            ("2026-11-22T10:00:44.000Z", 1_001),
        ] {
            assert_eq!(
                until_next(at(now), INTERVAL),
                Duration::from_millis(wait),
                "{now}"
            );
        }
    }

    #[test]
    fn a_moment_belongs_to_the_nearest_tick() {
        let (tick, late) = nearest(at("2026-11-22T10:00:15.020Z"), INTERVAL);
        assert_eq!(late, 20);
        assert_eq!(
            nearest(at("2026-11-22T10:00:14.990Z"), INTERVAL),
            (tick, -10)
        );
        assert_eq!(
            nearest(at("2026-11-22T10:00:29.000Z"), INTERVAL),
            (tick + 1, -1000)
        );
        assert_eq!(
            nearest(at("2026-11-22T10:00:22.000Z"), INTERVAL),
            (tick, 7000)
        );
    }
}
