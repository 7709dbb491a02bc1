//! The SchedulerActor: owner of time, on an arbiter of its own.
//!
//! It publishes the roll call by `run_interval`, on the clock's multiples of the interval, asks
//! the HeartbeatActors to sweep, and starts the background jobs. It does no work itself, so
//! that nothing slow delays a tick.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    ResponseFuture, SpawnHandle,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::{Lifeline, PurgeOffline, Sweep, admit};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::event_log::EventLog;
use crate::liveness::{Agreement, ClockWatch, ExpiryHandler, ReconcileResult, Reconciler, TICK};
use crate::model::{Event, EventKind, rfc3339_millis};

/// A tick that is later than this, after the process stalled or the clock jumped, is skipped:
/// the next one is less than an interval away.
const LATE: Duration = Duration::from_secs(2);

/// How far ticks may drift from the clock before they are aligned again.
const DRIFT: Duration = Duration::from_millis(50);

/// The time between reconciles.
pub const RECONCILE: Duration = Duration::from_secs(15);

/// The time between reviews of the suspects during protection mode.
const REVIEW: Duration = Duration::from_secs(2);

/// The time between purges of offline instances: a tenth of `--remove-offline-after`, within
/// these limits.
const PURGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The name of the claim that makes the purge run on one replica at a time.
const PURGE_CLAIM: &str = "purge";

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

/// The jobs that the SchedulerActor starts.
pub struct BackgroundJobs {
    /// Compares the online instances with the leases.
    pub reconciler: Reconciler,
    /// Probes the lease store, and reviews suspects.
    pub expiry: ExpiryHandler,
    /// Compares the lease stores of the replicas.
    pub agreement: Agreement,
    /// Removes instances that have been offline for this long; `None` disables it.
    pub remove_offline_after: Option<Duration>,
}

/// Owns the timers.
pub struct SchedulerActor {
    roll_call: RollCall,
    jobs: Arc<BackgroundJobs>,
    reconciling: bool,
    probing: bool,
    reviewing: bool,
    attesting: bool,
    sweepers: Vec<Recipient<Sweep>>,
    /// Which HeartbeatActor gets the first share, so that one that hangs does not keep a share to
    /// itself.
    first_share: usize,
    coordinator: Arc<dyn Coordinator>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    timer: Option<SpawnHandle>,
    last_tick: Option<(i64, Instant)>,
    clock_watch: ClockWatch,
    under_way: bool,
    report: Report,
    _lifeline: Lifeline,
}

impl SchedulerActor {
    /// Publishes roll calls from the next tick on.
    pub fn new(
        roll_call: RollCall,
        jobs: BackgroundJobs,
        coordinator: Arc<dyn Coordinator>,
        log: Arc<dyn EventLog>,
        clock: Arc<dyn Clock>,
        lifeline: Lifeline,
    ) -> Self {
        let window = jobs.remove_offline_after.unwrap_or_default();
        Self {
            roll_call,
            clock_watch: ClockWatch::new(window, Instant::now()),
            jobs: Arc::new(jobs),
            reconciling: false,
            probing: false,
            reviewing: false,
            attesting: false,
            sweepers: Vec::new(),
            first_share: 0,
            coordinator,
            log,
            clock,
            timer: None,
            last_tick: None,
            under_way: false,
            report: Report::default(),
            _lifeline: lifeline,
        }
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
                    self.report.roll_call.late += missed;
                    self.skip(missed, "the process was suspended");
                }
            }
            // The clock was set back: roll calls follow the new time.
            _ => {}
        }
        if late > LATE {
            self.report.roll_call.late += 1;
            self.skip(1, format_args!("{late:?} late"));
        } else if self.under_way {
            self.skip(1, "the previous roll call is still in progress");
        } else {
            self.call_roll(tick, now, context);
        }
    }

    /// Starts the sweeps, and a probe of the lease store: an outage that is not noticed now would
    /// later make living instances look expired.
    fn sweep(&mut self, context: &mut Context<Self>) {
        self.watch_clock();
        self.jobs.expiry.protection.tick();
        self.sweepers.retain(Recipient::connected);
        let of = self.sweepers.len();
        self.first_share = self.first_share.wrapping_add(1);
        for (index, sweeper) in self.sweepers.iter().enumerate() {
            let share = (index + self.first_share % of) % of;
            sweeper.do_send(Sweep { share, of });
        }
        if !self.probing {
            self.probing = true;
            let jobs = Arc::clone(&self.jobs);
            let probe = async move { jobs.expiry.probe().await };
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
        let jobs = Arc::clone(&self.jobs);
        let attest = async move { jobs.agreement.attest().await };
        context.spawn(
            wrap_future(attest)
                .map(|(), actor: &mut Self, _: &mut Context<Self>| actor.attesting = false),
        );
    }

    /// Reads the clocks, and logs a jump.
    fn watch_clock(&mut self) {
        let jump = self.clock_watch.look(self.clock.now(), Instant::now());
        if let Some(jump) = jump {
            self.report.clock_jumps += 1;
            let seconds = jump.as_seconds_f64();
            let to = if seconds > 0.0 { "ahead" } else { "back" };
            log::warn!(
                "the wall clock jumped {to} by {:.1} s; --remove-offline-after uses the slowest clock within its window",
                seconds.abs()
            );
        }
    }

    fn reconcile(&mut self, context: &mut Context<Self>) {
        if self.reconciling {
            return;
        }
        self.reconciling = true;
        let jobs = Arc::clone(&self.jobs);
        let reconcile = async move { jobs.reconciler.run().await };
        context.spawn(wrap_future(reconcile).map(
            |outcome, actor: &mut Self, _: &mut Context<Self>| {
                actor.reconciling = false;
                match outcome {
                    Ok(None) => {}
                    Ok(Some(repairs)) => {
                        log::debug!("reconciled: {repairs:?}");
                        actor.report.reconcile.add(repairs, actor.clock.now());
                    }
                    Err(error) => {
                        log::warn!("reconcile aborted, the next one starts again: {error}")
                    }
                }
            },
        ));
    }

    fn review(&mut self, context: &mut Context<Self>) {
        if self.reviewing || !self.jobs.expiry.protection.is_active() {
            return;
        }
        self.reviewing = true;
        let jobs = Arc::clone(&self.jobs);
        let review = async move { jobs.expiry.review().await };
        context.spawn(wrap_future(review).map(
            |outcome, actor: &mut Self, _: &mut Context<Self>| {
                actor.reviewing = false;
                if let Err(error) = outcome {
                    log::debug!("cannot review suspects, retrying: {error}");
                }
            },
        ));
    }

    /// Removes instances that have been offline for `after`.
    ///
    /// A jump of the wall clock removes no instance, in either direction, if this process has seen
    /// it: the times in the rows are compared with the slowest time of the clock within the last
    /// `after` (see [`ClockWatch`]). A clock that has been ahead since before the start is trusted
    /// after an hour, or a tenth of `after` if that is less.
    fn purge_offline(&mut self, after: Duration, interval: Duration, context: &mut Context<Self>) {
        self.watch_clock();
        let jobs = Arc::clone(&self.jobs);
        let now = self.clock_watch.slowest(Instant::now());
        let after = TimeDelta::from_std(after).unwrap_or(TimeDelta::MAX);
        if let Some(before) = now.and_then(|now| now.checked_sub_signed(after)) {
            let purge = async move { jobs.purge_offline(before, interval).await };
            context.spawn(wrap_future(purge));
        }
    }

    fn skip(&mut self, ticks: u64, why: impl Display) {
        self.report.roll_call.skipped += ticks;
        log::warn!("skipped {ticks} roll call(s): {why}");
    }

    fn call_roll(&mut self, tick: i64, now: DateTime<Utc>, context: &mut Context<Self>) {
        self.under_way = true;
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
                if let Err(error) = log.append(&[Event { at: now, kind }]).await {
                    log::debug!("the roll call is not in the event log: {error}");
                }
            }
            Ok(sent)
        };
        context.spawn(wrap_future(sending).map(
            move |outcome: Result<bool, BackendError>, actor: &mut Self, _: &mut Context<Self>| {
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
                    Err(error) => {
                        actor.skip(1, format_args!("it could not be published: {error}"));
                    }
                }
            },
        ));
    }
}

impl BackgroundJobs {
    /// Removes instances that have been offline since before `before`, if this replica gets the
    /// claim.
    async fn purge_offline(&self, before: DateTime<Utc>, interval: Duration) {
        // A little less than the interval.
        let remember = interval * 9 / 10;
        let claim = self
            .reconciler
            .coordinator
            .try_claim(PURGE_CLAIM, remember)
            .await;
        if !matches!(claim, Ok(true)) {
            return;
        }
        loop {
            match self.expiry.registry.ask(PurgeOffline { before }).await {
                Ok(Ok(removed)) => {
                    if !removed.is_empty() {
                        let after = humantime::format_duration(
                            self.remove_offline_after.unwrap_or_default(),
                        );
                        log::info!(
                            "removed {} instances offline for more than {after} (--remove-offline-after)",
                            removed.len()
                        );
                    }
                    if removed.len() < usize::from(PurgeOffline::LIMIT) {
                        return;
                    }
                }
                Ok(Err(error)) => {
                    return log::debug!("cannot remove offline instances, retrying: {error}");
                }
                Err(error) => {
                    return log::debug!("cannot remove offline instances, retrying: {error}");
                }
            }
        }
    }
}

/// Returns the time until the next roll call: at the clock's next multiple of `interval`, plus
/// a millisecond so that rounding never makes a tick early.
pub fn until_next(now: DateTime<Utc>, interval: Duration) -> Duration {
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
        context.run_interval(TICK, Self::sweep);
        context.run_interval(Agreement::INTERVAL, Self::attest);
        context.run_interval(RECONCILE, Self::reconcile);
        context.run_interval(REVIEW, Self::review);
        if let Some(after) = self.jobs.remove_offline_after {
            let interval = (after / 10).clamp(*PURGE.start(), *PURGE.end());
            context.run_interval(interval, move |actor, context| {
                actor.purge_offline(after, interval, context);
            });
        }
    }
}

admit!(SchedulerActor);

/// Statistics of the roll calls since this replica started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollCallReport {
    /// Published by this replica.
    pub sent: u64,
    /// Published by another replica.
    pub sent_by_others: u64,
    /// Not published: Redis was unavailable, the previous one was still in flight, or the process
    /// stalled.
    pub skipped: u64,
    /// Not published because the process or the clock was too late. Included in `skipped`.
    pub late: u64,
    /// When this replica published the last one.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// When the last one was published by any replica, as far as this one knows.
    pub last_at: Option<DateTime<Utc>>,
}

/// Statistics of the reconciles of this replica since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Completed reconciles.
    pub completed: u64,
    /// Instances checked.
    pub checked: u64,
    /// Instances found without a lease.
    pub expired: u64,
    /// Instances found alive and recorded as online.
    pub recovered: u64,
    /// When the last one was completed.
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

/// Statistics of the SchedulerActor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Roll calls.
    pub roll_call: RollCallReport,
    /// Reconciles.
    pub reconcile: ReconcileReport,
    /// Jumps of the wall clock.
    pub clock_jumps: u64,
}

/// Returns the statistics. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Report")]
pub struct GetStatus;

impl Handler<GetStatus> for SchedulerActor {
    type Result = MessageResult<GetStatus>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.report.clone())
    }
}

/// Adds a HeartbeatActor that takes a share of the sweeps. Not to be repeated.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterSweeper(pub Recipient<Sweep>);

impl Handler<RegisterSweeper> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, RegisterSweeper(sweeper): RegisterSweeper, _: &mut Context<Self>) {
        self.sweepers.push(sweeper);
    }
}

/// Ends protection mode on every replica and marks the suspects offline. Returns how many, or
/// `None` if it was not active. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Option<usize>")]
pub struct EndProtection {
    /// The reason in the log and the event.
    pub reason: String,
}

impl Handler<EndProtection> for SchedulerActor {
    type Result = ResponseFuture<Option<usize>>;

    fn handle(&mut self, message: EndProtection, _: &mut Context<Self>) -> Self::Result {
        let jobs = Arc::clone(&self.jobs);
        Box::pin(async move { jobs.expiry.end_protection(message.reason).await })
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
