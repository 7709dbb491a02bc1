//! The SchedulerActor: owner of time, on an arbiter of its own.
//!
//! It calls the roll by `run_interval`, on the clock's multiples of the interval, has the
//! HeartbeatActors sweep, and begins the chores. It does no work of its own: nothing slow
//! delays a tick.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    ResponseFuture, SpawnHandle,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::clock_watch::ClockWatch;
use super::{
    Agreement, ExpiryHandler, Lifeline, PurgeOffline, ReconcileResult, Reconciler, Sweep, admit,
};
use crate::bus::{BusError, EventBus};
use crate::clock::Clock;
use crate::model::{Event, EventKind, rfc3339_millis};
use crate::protection::TICK;

/// A tick this late is still sent. A later one, after a stall of the process or a
/// step of the clock, is skipped: the next is less than an interval away.
const LATE: Duration = Duration::from_secs(2);

/// How far ticks may drift from the clock before they are aligned to it again.
const DRIFT: Duration = Duration::from_millis(50);

/// How often the registry is compared with the leases.
pub const RECONCILE: Duration = Duration::from_secs(15);

/// How often the suspects are looked at while protection lasts.
const REVIEW: Duration = Duration::from_secs(2);

/// How often instances are looked for that may be forgotten: ten times within the time
/// after which they are, within these limits.
const PURGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps that to one daemon at a time.
const PURGE_CLAIM: &str = "purge";

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

/// What is done now and then.
pub struct BackgroundJobs {
    /// Compares the registry with the leases.
    pub reconciler: Reconciler,
    /// Looks at leases and at suspects.
    pub expiry: ExpiryHandler,
    /// Compares the lease stores of the replicas.
    pub agreement: Agreement,
    /// After how long offline an instance is removed; `None` is never.
    pub remove_offline_after: Option<Duration>,
}

/// Owns the timers.
pub struct SchedulerActor {
    roll_call: RollCall,
    chores: Arc<BackgroundJobs>,
    reconciling: bool,
    probing: bool,
    reviewing: bool,
    attesting: bool,
    sweepers: Vec<Recipient<Sweep>>,
    /// Which sweeper begins, so that one that hangs does not keep a share to itself.
    first_share: usize,
    bus: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    timer: Option<SpawnHandle>,
    last_tick: Option<(i64, Instant)>,
    clock_watch: ClockWatch,
    under_way: bool,
    report: Report,
    _lifeline: Lifeline,
}

impl SchedulerActor {
    /// Calls the roll on that bus from the next tick on.
    pub fn new(
        roll_call: RollCall,
        chores: BackgroundJobs,
        bus: Arc<dyn EventBus>,
        clock: Arc<dyn Clock>,
        lifeline: Lifeline,
    ) -> Self {
        let window = chores.remove_offline_after.unwrap_or_default();
        Self {
            roll_call,
            clock_watch: ClockWatch::new(window, Instant::now()),
            chores: Arc::new(chores),
            reconciling: false,
            probing: false,
            reviewing: false,
            attesting: false,
            sweepers: Vec::new(),
            first_share: 0,
            bus,
            clock,
            timer: None,
            last_tick: None,
            under_way: false,
            report: Report::default(),
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
        let this = Instant::now();
        let last = self.last_tick.replace((tick, this));
        let since = last.map_or(1, |(last, _)| tick - last);
        match since {
            // The timer catches up with ticks that a stall made it miss.
            0 => return,
            1 => {}
            2.. => {
                // Those that a clock which was set ahead has passed over were never due.
                let stood = last.map_or(Duration::ZERO, |(_, last)| this - last);
                let due = nearest_multiple(stood, self.roll_call.interval).saturating_sub(1);
                let missed = due.min(since.unsigned_abs() - 1);
                if missed > 0 {
                    self.report.roll_call.late += missed;
                    self.skip(missed, "the process stood still");
                }
            }
            // A clock that was set back: the roll is called by the new time.
            _ => {}
        }
        if late > LATE {
            self.report.roll_call.late += 1;
            self.skip(1, format_args!("{late:?} late"));
        } else if self.under_way {
            self.skip(1, "the one before is still under way");
        } else {
            self.call_roll(tick, now, context);
        }
    }

    /// Has the deadlines swept, and asks the lease store whether it is there: what is not
    /// noticed now would be judged wrongly later.
    fn sweep(&mut self, context: &mut Context<Self>) {
        self.watch_clock();
        self.chores.expiry.protection.tick();
        self.sweepers.retain(Recipient::connected);
        let of = self.sweepers.len();
        self.first_share = self.first_share.wrapping_add(1);
        for (index, sweeper) in self.sweepers.iter().enumerate() {
            let share = (index + self.first_share % of) % of;
            sweeper.do_send(Sweep { share, of });
        }
        if !self.probing {
            self.probing = true;
            let chores = Arc::clone(&self.chores);
            let probe = async move { chores.expiry.probe().await };
            context.spawn(
                wrap_future(probe)
                    .map(|(), actor: &mut Self, _: &mut Context<Self>| actor.probing = false),
            );
        }
    }

    fn attest(&mut self, context: &mut Context<Self>) {
        if self.attesting {
            return;
        }
        self.attesting = true;
        let chores = Arc::clone(&self.chores);
        let attest = async move { chores.agreement.attest().await };
        context.spawn(
            wrap_future(attest)
                .map(|(), actor: &mut Self, _: &mut Context<Self>| actor.attesting = false),
        );
    }

    /// Notes how the wall clock goes, and tells when it was set.
    fn watch_clock(&mut self) {
        let jump = self.clock_watch.look(self.clock.now(), Instant::now());
        if let Some(jump) = jump {
            self.report.clock_jumps += 1;
            let seconds = jump.as_seconds_f64();
            let to = if seconds > 0.0 { "ahead" } else { "back" };
            log::warn!(
                "the clock was set {to} by {:.1} s; for --remove-offline-after a clock that was set ahead counts only when it has stood there for that long",
                seconds.abs()
            );
        }
    }

    fn reconcile(&mut self, context: &mut Context<Self>) {
        if self.reconciling {
            return;
        }
        self.reconciling = true;
        let chores = Arc::clone(&self.chores);
        let reconcile = async move { chores.reconciler.run().await };
        context.spawn(wrap_future(reconcile).map(
            |outcome, actor: &mut Self, _: &mut Context<Self>| {
                actor.reconciling = false;
                match outcome {
                    Ok(None) => {}
                    Ok(Some(repairs)) => {
                        log::debug!("reconciled: {repairs:?}");
                        actor.report.reconcile.add(repairs, actor.clock.now());
                    }
                    Err(error) => log::warn!("reconcile broken off: {error}"),
                }
            },
        ));
    }

    fn review(&mut self, context: &mut Context<Self>) {
        if self.reviewing || !self.chores.expiry.protection.is_active() {
            return;
        }
        self.reviewing = true;
        let chores = Arc::clone(&self.chores);
        let review = async move { chores.expiry.review().await };
        context.spawn(wrap_future(review).map(
            |outcome, actor: &mut Self, _: &mut Context<Self>| {
                actor.reviewing = false;
                if let Err(error) = outcome {
                    log::debug!("suspects not looked at: {error}");
                }
            },
        ));
    }

    /// Has those removed that have been offline for `after`.
    ///
    /// A jump of the wall clock removes nobody, in whichever direction, as long as this
    /// process has seen it: the times in the rows are compared with the slowest that the clock
    /// has been within the last `after` (see [`ClockWatch`]). What the process cannot see is a
    /// clock that has been ahead since before the start: it is believed after an hour, or a
    /// tenth of `after` if that is less.
    fn purge_offline(&mut self, after: Duration, interval: Duration, context: &mut Context<Self>) {
        self.watch_clock();
        let chores = Arc::clone(&self.chores);
        let now = self.clock_watch.slowest(Instant::now());
        let after = TimeDelta::from_std(after).unwrap_or(TimeDelta::MAX);
        if let Some(before) = now.and_then(|now| now.checked_sub_signed(after)) {
            let purge = async move { chores.purge_offline(before, interval).await };
            context.spawn(wrap_future(purge));
        }
    }

    fn skip(&mut self, ticks: u64, why: impl Display) {
        self.report.roll_call.skipped += ticks;
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
            let sent = bus
                .publish_once(&channel, &message, &claim, 2 * interval)
                .await?;
            if sent {
                let kind = EventKind::RollCalled;
                // It was called, whether or not subscribers can be told.
                if let Err(error) = bus.append(&[Event { at: now, kind }]).await {
                    log::debug!("subscribers are not told of the roll call: {error}");
                }
            }
            Ok(sent)
        };
        context.spawn(wrap_future(sending).map(
            move |outcome: Result<bool, BusError>, actor: &mut Self, _: &mut Context<Self>| {
                actor.under_way = false;
                if outcome.is_ok() {
                    actor.report.roll_call.last_at = Some(now);
                }
                match outcome {
                    Ok(true) => {
                        actor.report.roll_call.sent += 1;
                        actor.report.roll_call.last_sent_at = Some(now);
                        log::debug!("roll call sent at {}", rfc3339_millis(now));
                    }
                    Ok(false) => actor.report.roll_call.sent_by_others += 1,
                    Err(error) => actor.skip(1, error),
                }
            },
        ));
    }
}

impl BackgroundJobs {
    /// Removes instances that have been offline since before that time, if it is this
    /// daemon's turn.
    async fn purge_offline(&self, before: DateTime<Utc>, interval: Duration) {
        // For a little less than the interval.
        let remember = interval * 9 / 10;
        let claim = self.reconciler.bus.claim(PURGE_CLAIM, remember).await;
        if !matches!(claim, Ok(true)) {
            return;
        }
        loop {
            match self.expiry.registry.ask(PurgeOffline { before }).await {
                Ok(Ok(gone)) => {
                    if !gone.is_empty() {
                        log::info!("{} instances were offline for too long", gone.len());
                    }
                    if gone.len() < usize::from(PurgeOffline::LIMIT) {
                        return;
                    }
                }
                Ok(Err(error)) => return log::debug!("nobody forgotten: {error}"),
                Err(error) => return log::debug!("nobody forgotten: {error}"),
            }
        }
    }
}

/// How long it is until the roll is called next: at the clock's next multiple of `interval`,
/// and a millisecond, so that rounding never makes a tick early.
pub fn until_next(now: DateTime<Utc>, interval: Duration) -> Duration {
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

/// How often `interval` is in `time`, rounded.
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
        context.run_interval(TICK, Self::sweep);
        context.run_interval(Agreement::INTERVAL, Self::attest);
        context.run_interval(RECONCILE, Self::reconcile);
        context.run_interval(REVIEW, Self::review);
        if let Some(after) = self.chores.remove_offline_after {
            let interval = (after / 10).clamp(PURGE.0, PURGE.1);
            context.run_interval(interval, move |actor, context| {
                actor.purge_offline(after, interval, context);
            });
        }
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
    /// Of those that were not sent: the process or the clock was too late for them.
    pub late: u64,
    /// When this daemon sent one last.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// When this daemon saw one sent last, by whomever.
    pub last_at: Option<DateTime<Utc>>,
}

/// What this daemon's turns at reconciling came to since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// How many it completed.
    pub completed: u64,
    /// How many instances it looked at, in all of them.
    pub checked: u64,
    /// How many it found without a lease.
    pub expired: u64,
    /// How many it found alive, and recorded.
    pub recovered: u64,
    /// When it completed one last.
    pub last_at: Option<DateTime<Utc>>,
}

impl ReconcileReport {
    fn add(&mut self, result: ReconcileResult, at: DateTime<Utc>) {
        self.completed += 1;
        self.checked += result.checked as u64;
        self.expired += result.expired as u64;
        self.recovered += result.recovered as u64;
        self.last_at = Some(at);
    }
}

/// What became of everything that is done by the clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The roll calls.
    pub roll_call: RollCallReport,
    /// The reconciles.
    pub reconcile: ReconcileReport,
    /// How often the wall clock was found to have been set.
    pub clock_jumps: u64,
}

/// Asks what was done by the clock. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Report")]
pub struct GetStatus;

impl Handler<GetStatus> for SchedulerActor {
    type Result = MessageResult<GetStatus>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.report.clone())
    }
}

/// Adds a HeartbeatActor to those who share the sweeps. Not to be repeated.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterSweeper(pub Recipient<Sweep>);

impl Handler<RegisterSweeper> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, RegisterSweeper(sweeper): RegisterSweeper, _: &mut Context<Self>) {
        self.sweepers.push(sweeper);
    }
}

/// Ends protection, on every daemon, and lets the suspects go. How many they were; `None`
/// where it had not begun. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Option<usize>")]
pub struct EndProtection {
    /// Why, for people.
    pub reason: String,
}

impl Handler<EndProtection> for SchedulerActor {
    type Result = ResponseFuture<Option<usize>>;

    fn handle(&mut self, message: EndProtection, _: &mut Context<Self>) -> Self::Result {
        let chores = Arc::clone(&self.chores);
        Box::pin(async move { chores.expiry.end_protection(message.reason).await })
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
