//! The SchedulerActor: owner of time, on an arbiter of its own.
//!
//! It publishes the roll call by `run_interval`, on the clock's multiples of the interval. It
//! does no other work, so that nothing slow delays a tick.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lifeline, Ping, admit};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::event_log::EventLog;
use crate::model::{Event, EventKind, rfc3339_millis};

/// A tick that is later than this, after the process stalled or the clock jumped, is skipped:
/// the next one is less than an interval away.
const LATE: Duration = Duration::from_secs(2);

/// How far ticks may drift from the clock before they are aligned again.
const DRIFT: Duration = Duration::from_millis(50);

/// The message that asks every instance for a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollCall {
    /// The Redis channel.
    pub channel: String,
    /// The text.
    pub message: String,
    /// The time between roll calls, which fall on its multiples since the Unix epoch.
    pub interval: Duration,
}

/// Owns the timer of the roll call.
pub struct SchedulerActor {
    roll_call: RollCall,
    coordinator: Arc<dyn Coordinator>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    cancelled: CancellationToken,
    timer: Option<SpawnHandle>,
    last_tick: Option<(i64, Instant)>,
    /// Whether a roll call is being published.
    is_busy: bool,
    report: Arc<Mutex<RollCallReport>>,
    _lifeline: Lifeline,
}

impl SchedulerActor {
    /// Publishes roll calls from the next tick on, until it is cancelled.
    pub fn new(
        roll_call: RollCall,
        coordinator: Arc<dyn Coordinator>,
        log: Arc<dyn EventLog>,
        clock: Arc<dyn Clock>,
        cancelled: CancellationToken,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            roll_call,
            coordinator,
            log,
            clock,
            cancelled,
            timer: None,
            last_tick: None,
            is_busy: false,
            report: Arc::default(),
            _lifeline: lifeline,
        }
    }

    /// Returns the statistics, which the actor updates.
    pub fn report(&self) -> Arc<Mutex<RollCallReport>> {
        Arc::clone(&self.report)
    }

    /// Restarts the interval at the clock's next tick.
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
            // The timer is ahead of the clock: wait for the tick.
            return self.align(context);
        };
        if late > DRIFT {
            self.align(context);
        }
        let this = Instant::now();
        let last = self.last_tick.replace((tick, this));
        let since = last.map_or(1, |(last, _)| tick - last);
        match since {
            // The timer catches up with ticks that it missed while the process stalled.
            0 => return,
            1 => {}
            2.. => {
                // Ticks that a clock skipped because it was set ahead were never due.
                let elapsed = last.map_or(Duration::ZERO, |(_, last)| this - last);
                let due = nearest_multiple(elapsed, self.roll_call.interval).saturating_sub(1);
                let missed = due.min(since.unsigned_abs() - 1);
                if missed > 0 {
                    self.report.lock().late += missed;
                    self.skip(missed, "the process was suspended");
                }
            }
            // The clock was set back: roll calls follow the new time.
            _ => {}
        }
        if late > LATE {
            self.report.lock().late += 1;
            self.skip(1, format_args!("{late:?} late"));
        } else if self.is_busy {
            self.skip(1, "the previous roll call is still in progress");
        } else {
            self.call_roll(tick, now, context);
        }
    }

    fn skip(&mut self, ticks: u64, why: impl Display) {
        self.report.lock().skipped += ticks;
        log::warn!("skipped {ticks} roll call(s): {why}");
    }

    fn call_roll(&mut self, tick: i64, now: DateTime<Utc>, context: &mut Context<Self>) {
        self.is_busy = true;
        let (coordinator, log) = (Arc::clone(&self.coordinator), Arc::clone(&self.log));
        let roll_call = self.roll_call.clone();
        let sending = async move {
            let RollCall {
                channel,
                message,
                interval,
            } = roll_call;
            // Every replica makes the same claim on the same tick, and one gets it.
            let claim = format!("roll:{channel}:{}:{tick}", interval.as_millis());
            let sent = coordinator
                .publish_once(&channel, &message, &claim, 2 * interval)
                .await?;
            if sent {
                let kind = EventKind::RollCalled;
                // The roll call was published, whether or not subscribers of the event log receive
                // it.
                if let Err(error) = log.append(&[Event::new(now, kind)]).await {
                    log::debug!("the roll call is not in the event log: {error}");
                }
            }
            Ok(sent)
        };
        context.spawn(wrap_future(sending).map(
            move |outcome: Result<bool, BackendError>, actor: &mut Self, _: &mut Context<Self>| {
                actor.is_busy = false;
                if outcome.is_ok() {
                    actor.report.lock().last_at = Some(now);
                }
                match outcome {
                    Ok(true) => {
                        actor.report.lock().sent += 1;
                        actor.report.lock().last_sent_at = Some(now);
                        log::debug!("roll call sent at {}", rfc3339_millis(now));
                    }
                    Ok(false) => actor.report.lock().sent_by_others += 1,
                    Err(error) => {
                        actor.skip(1, format_args!("it could not be published: {error}"));
                    }
                }
            },
        ));
    }
}

/// Returns the time until the next roll call: at the clock's next multiple of `interval`, plus
/// a millisecond so that rounding never makes a tick early.
pub(crate) fn until_next(now: DateTime<Utc>, interval: Duration) -> Duration {
    let now = now.timestamp_millis();
    let interval = millis(interval);
    let wait = interval - now.rem_euclid(interval);
    Duration::from_millis(wait.unsigned_abs()) + Duration::from_millis(1)
}

/// Returns the number of the nearest multiple of `interval` since the Unix epoch, and how many
/// milliseconds ago it was; negative if it is still to come.
fn nearest(now: DateTime<Utc>, interval: Duration) -> (i64, i64) {
    let now = now.timestamp_millis();
    let interval = millis(interval);
    let tick = (now + interval / 2).div_euclid(interval);
    (tick, now - tick * interval)
}

/// Returns how often `interval` fits into `time`, rounded.
fn nearest_multiple(time: Duration, interval: Duration) -> u64 {
    let interval = interval.as_millis().max(1);
    u64::try_from((time.as_millis() + interval / 2) / interval).unwrap_or(u64::MAX)
}

fn millis(interval: Duration) -> i64 {
    i64::try_from(interval.as_millis()).map_or(i64::MAX, |millis| millis.max(1))
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.align(context);
        let cancelled = self.cancelled.clone().cancelled_owned();
        context.spawn(
            wrap_future(cancelled)
                .map(|(), _: &mut Self, context: &mut Context<Self>| context.stop()),
        );
    }
}

admit!(SchedulerActor);

/// Statistics of the roll calls since this replica started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RollCallReport {
    /// Published by this replica.
    pub sent: u64,
    /// Published by another replica.
    pub(crate) sent_by_others: u64,
    /// Not published: Redis was unavailable, the previous one was still in flight, or the process
    /// stalled.
    pub skipped: u64,
    /// Not published because the process or the clock was too late. Included in `skipped`.
    pub(crate) late: u64,
    /// When this replica published the last one.
    pub(crate) last_sent_at: Option<DateTime<Utc>>,
    /// When the last one was published by any replica, as far as this one knows.
    pub(crate) last_at: Option<DateTime<Utc>>,
}

impl Handler<Ping> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
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
