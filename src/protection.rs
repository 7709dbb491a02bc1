//! Protection: nobody goes offline because the observer was ill.
//!
//! Decides, and does nothing else. While the lease store does not work, and for one TTL
//! after it or the process was interrupted, no instance is marked offline. And it is asked
//! before instances are recorded as gone: when too many would go at once it has them active
//! instead, until their heartbeats return, an operator confirms, or it has lasted for long
//! enough.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::lease::Health;
use crate::model::Ttl;

/// How often [`Protection::tick`] is called.
pub const TICK: Duration = Duration::from_millis(500);

/// A tick later than this, two intervals and its own, means that the process stood still.
const STALL: Duration = Duration::from_millis(1500);

/// The replicas agree on the lease store for as long as the last comparison with the others
/// is not older than this. A replica that is not seen for this long has ended.
const AGREED: Duration = Duration::from_secs(5);

/// The share of its time to live, in percent, below which a lease is overdue. Heartbeats
/// are asked for at half of it, and a tenth later at most.
pub const OVERDUE: u128 = 45;

/// When protection begins and when it ends at the latest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// It begins when more than this share of those online would go within one time to
    /// live, from 0 to 1; with 1, never.
    pub ratio: f64,
    /// Only where at least this many are online.
    pub min: usize,
    /// It lasts no longer than this.
    pub max: Duration,
    /// The time to live of instances that gave none: what "within one" means.
    pub ttl: Ttl,
}

/// Decides whether those whose leases are gone are believed to be.
pub struct Protection {
    limits: Limits,
    /// Of the lease store.
    health: Arc<Health>,
    state: Mutex<State>,
}

struct State {
    /// Since when, and why not before, the absence of a lease proves something, once a
    /// time to live has passed.
    trusted: (Instant, &'static str),
    last_tick: Instant,
    agreement: Agreement,
    /// How many went offline when, within the last time to live.
    recent: VecDeque<(Instant, usize)>,
    active: Option<ActivePeriod>,
}

/// Whether all replicas use the same lease store.
#[derive(Default)]
struct Agreement {
    /// Why they do not; `None` while they do, or nothing is known.
    disagreement: Option<String>,
    /// When the others were asked last.
    asked_at: Option<Instant>,
    /// Since when they were asked without a longer pause than [`AGREED`].
    asked_since: Option<Instant>,
    /// Why they could not be asked; `None` while they can.
    failure: Option<String>,
}

/// Protection while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivePeriod {
    /// When it began, as it is shown.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
    since: Instant,
    /// When the missing were last more than the ratio.
    exceeded_at: Instant,
}

/// A part of those who are listed as online, and what their leases say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// How many were checked at.
    pub checked: usize,
    /// Those without a lease, and those whose lease is overdue.
    pub expiring: usize,
}

/// What is to be done with those whose leases are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are gone.
    Expired,
    /// They are suspects. With the reason where this is what began protection.
    Suspect(Option<String>),
}

/// What is shown of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Protection, while it lasts, and how much longer at most.
    pub active: Option<(ActivePeriod, Duration)>,
    /// Why nobody with the default time to live is judged, and for how long still.
    pub grace: Option<(&'static str, Duration)>,
    /// Why the replicas do not agree on the lease store, or cannot be asked whether they do;
    /// `None` while they agree.
    pub disagreement: Option<String>,
    /// Why the lease store is unavailable; `None` while it works.
    pub lease_store_failure: Option<String>,
}

impl Report {
    /// Whether no instance with the default time to live is marked offline for now, for
    /// another reason than protection.
    pub fn is_suspended(&self) -> bool {
        self.grace.is_some() || self.disagreement.is_some() || self.lease_store_failure.is_some()
    }
}

impl Protection {
    /// Lets no instance be marked offline for one TTL from now on.
    pub fn new(limits: Limits, health: Arc<Health>) -> Self {
        let now = Instant::now();
        Self {
            limits,
            health,
            state: Mutex::new(State {
                trusted: (now, "the daemon has just started"),
                last_tick: now,
                agreement: Agreement::default(),
                recent: VecDeque::new(),
                active: None,
            }),
        }
    }

    /// The settings.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The daemon has started, just now.
    pub fn start(&self) {
        self.state.lock().trusted = (Instant::now(), "the daemon has just started");
    }

    /// The process runs. Called every [`TICK`].
    pub fn tick(&self) {
        self.state.lock().tick(Instant::now());
    }

    /// This replica compared its lease store with those of the others. `disagreement` says
    /// why they are not the same working store.
    pub fn attested(&self, disagreement: Option<String>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let agreement = &mut state.agreement;
        if agreement.pause(now) > AGREED {
            agreement.asked_since = Some(now);
        }
        agreement.asked_at = Some(now);
        agreement.failure = None;
        let before = std::mem::replace(&mut agreement.disagreement, disagreement.clone());
        match (before, disagreement) {
            (None, Some(reason)) => log::warn!("{reason}; no instance is marked offline"),
            (Some(_), None) => state.start_grace(now, "the replicas used different lease stores"),
            _ => {}
        }
    }

    /// This replica could not compare its lease store with those of the others.
    pub fn not_attested(&self, error: &dyn Display) {
        let failure = format!("the lease stores of the replicas cannot be compared: {error}");
        let mut state = self.state.lock();
        if state.agreement.failure.is_none() {
            log::warn!("{failure}; no instance is marked offline");
        }
        state.agreement.failure = Some(failure);
    }

    /// Until when an instance with that time to live is not judged; `None` if it may be.
    pub fn grace_deadline(&self, ttl: Ttl) -> Option<Instant> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if now.duration_since(state.last_tick) > STALL {
            state.tick(now);
        }
        let agreed = state.agreement.until(now);
        let until = if self.health.is_working() && state.agreement.disagreement.is_none() {
            agreed.max(self.trusted(&state).0 + ttl.as_duration())
        } else {
            now + ttl.as_duration()
        };
        (until > now).then_some(until)
    }

    /// So many went offline, on this daemon or another.
    pub fn went_offline(&self, count: usize) {
        self.state.lock().recent.push_back((Instant::now(), count));
    }

    /// What is to be done with some whose leases are gone, where so many are `online`,
    /// they included, and a `sample` of those looks like that. `at` is shown if that
    /// begins protection.
    pub fn assess(&self, online: usize, sample: Sample, at: DateTime<Utc>) -> Verdict {
        let mut state = self.state.lock();
        if state.active.is_some() {
            return Verdict::Suspect(None);
        }
        let now = Instant::now();
        let recent = state.recent(now, self.limits.ttl.as_duration());
        let share = sample.expiring as f64 / sample.checked.max(1) as f64;
        let expiring = share * online as f64 + recent as f64;
        let all = online + recent;
        if all < self.limits.min || expiring <= self.limits.ratio * all as f64 {
            return Verdict::Expired;
        }
        let reason = format!(
            "{expiring:.0} of {all} online instances would go offline within {} s, more than --protection-threshold {}",
            self.limits.ttl.as_secs(),
            self.limits.ratio
        );
        log::warn!("protection entered: {reason}");
        state.enter(now, at, reason.clone());
        Verdict::Suspect(Some(reason))
    }

    /// Another daemon began protection.
    pub fn entered_elsewhere(&self, at: DateTime<Utc>, reason: &str) {
        let mut state = self.state.lock();
        if state.active.is_none() {
            log::warn!("protection entered, as another daemon says: {reason}");
            state.enter(Instant::now(), at, reason.to_owned());
        }
    }

    /// Ends it; whether it had begun. The count of those who went begins anew.
    pub fn leave(&self, reason: &str) -> bool {
        let mut state = self.state.lock();
        let active = state.active.take().is_some();
        if active {
            state.recent.clear();
            log::warn!("protection left: {reason}");
        }
        active
    }

    /// Whether it lasts.
    pub fn is_active(&self) -> bool {
        self.state.lock().active.is_some()
    }

    /// Why it should end now, where so many of those online are suspects.
    pub fn review(&self, online: usize, suspects: usize) -> Option<String> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let limits = self.limits;
        let active = state.active.as_mut()?;
        if now.duration_since(active.since) >= limits.max {
            return Some(format!(
                "it has lasted for --protection-max-duration {:?}",
                limits.max
            ));
        }
        if suspects as f64 > limits.ratio * online as f64 {
            active.exceeded_at = now;
        }
        if suspects == 0 {
            return Some("all heartbeats have returned".to_owned());
        }
        let calm = now.duration_since(active.exceeded_at) > limits.ttl.as_duration();
        calm.then(|| format!("only {suspects} of {online} are still missing"))
    }

    /// What is shown of it.
    pub fn report(&self) -> Report {
        let state = self.state.lock();
        let now = Instant::now();
        let active = state.active.clone().map(|active| {
            let end = active.since + self.limits.max;
            (active, end.saturating_duration_since(now))
        });
        let (since, reason) = self.trusted(&state);
        let left = (since + self.limits.ttl.as_duration()).saturating_duration_since(now);
        Report {
            active,
            grace: (!left.is_zero()).then_some((reason, left)),
            disagreement: state.agreement.trouble(now),
            lease_store_failure: self.health.failure(),
        }
    }

    /// Since when a missing lease is evidence, once one TTL has passed, and why not before.
    fn trusted(&self, state: &State) -> (Instant, &'static str) {
        let interrupted = self.health.interrupted();
        let later = interrupted.filter(|(at, _)| *at > state.trusted.0);
        later.unwrap_or(state.trusted)
    }
}

impl Agreement {
    /// How long the others have not been asked.
    fn pause(&self, now: Instant) -> Duration {
        let asked_at = self.asked_at.map(|at| now.duration_since(at));
        asked_at.unwrap_or(Duration::MAX)
    }

    /// Why the replicas are not known to agree.
    fn trouble(&self, now: Instant) -> Option<String> {
        let unknown = || self.failure.clone().filter(|_| self.pause(now) > AGREED);
        self.disagreement.clone().or_else(unknown)
    }

    /// Until when it is not known whether the replicas agree. After a pause the rows of the
    /// others may be missing that come with their next attestations.
    fn until(&self, now: Instant) -> Instant {
        match self.asked_since {
            Some(since) if self.pause(now) <= AGREED => since + AGREED,
            _ => now + AGREED,
        }
    }
}

impl State {
    fn tick(&mut self, now: Instant) {
        let gap = now.duration_since(self.last_tick);
        self.last_tick = now;
        if gap > STALL {
            self.start_grace(now, "the process stood still");
        }
    }

    fn start_grace(&mut self, now: Instant, reason: &'static str) {
        log::warn!("{reason}; no instance is marked offline for one TTL");
        self.trusted = (now, reason);
    }

    fn enter(&mut self, now: Instant, at: DateTime<Utc>, reason: String) {
        self.active = Some(ActivePeriod {
            at,
            reason,
            since: now,
            exceeded_at: now,
        });
    }

    fn recent(&mut self, now: Instant, within: Duration) -> usize {
        while let Some((at, _)) = self.recent.front()
            && now.duration_since(*at) > within
        {
            self.recent.pop_front();
        }
        self.recent.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::lease::LeaseError;

    const TTL: u64 = 30;

    fn protection() -> Protection {
        let limits = Limits {
            ratio: 0.5,
            min: 10,
            max: Duration::from_secs(600),
            ttl: ttl(),
        };
        Protection::new(limits, Arc::default())
    }

    fn ttl() -> Ttl {
        Ttl::try_from(i64::try_from(TTL).unwrap()).unwrap()
    }

    async fn run(protection: &Protection, seconds: u64) {
        for _ in 0..2 * seconds {
            advance(TICK).await;
            protection.tick();
            protection.attested(None);
        }
    }

    fn assess(protection: &Protection, online: usize, expiring: usize) -> bool {
        let sample = Sample {
            checked: online,
            expiring,
        };
        protection.assess(online, sample, DateTime::default()) == Verdict::Expired
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_start_and_after_a_stall_nobody_is_judged_for_a_time_to_live() {
        let protection = protection();
        run(&protection, TTL - 1).await;
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 1).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
        advance(Duration::from_millis(1400)).await;
        protection.tick();
        assert_eq!(
            protection.grace_deadline(ttl()),
            None,
            "a little late is no stall"
        );
        advance(Duration::from_secs(60)).await;
        // Asked before the tick that would have told it.
        let until = Instant::now() + ttl().as_duration();
        assert_eq!(protection.grace_deadline(ttl()), Some(until));
        run(&protection, TTL).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_judged_while_the_lease_store_fails_and_for_one_ttl_after_it() {
        let protection = protection();
        run(&protection, TTL).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
        let health = &protection.health;
        health.failed(&LeaseError::Refused("OOM".into()));
        run(&protection, 2 * TTL).await;
        assert!(
            protection.grace_deadline(ttl()).is_some(),
            "however long it takes"
        );
        health.wrote();
        run(&protection, TTL - 1).await;
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 1).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_judged_while_replicas_disagree_and_for_one_ttl_after_it() {
        let protection = protection();
        run(&protection, TTL).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
        protection.attested(Some("replica b uses another lease store".into()));
        assert!(protection.grace_deadline(ttl()).is_some());
        protection.attested(None);
        run(&protection, TTL - 1).await;
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 1).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_judged_while_the_other_replicas_cannot_be_asked() {
        let protection = protection();
        run(&protection, TTL).await;
        for _ in 0..12 {
            advance(TICK).await;
            protection.tick();
        }
        assert!(protection.grace_deadline(ttl()).is_some());
        protection.not_attested(&"permission denied");
        let reason = protection.report().disagreement.unwrap();
        assert!(reason.ends_with("permission denied"), "{reason}");
        // The others may have had no chance yet to attest.
        protection.attested(None);
        assert_eq!(protection.report().disagreement, None);
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 5).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_at_once_are_held_and_few_are_not() {
        assert!(assess(&protection(), 100, 50));
        assert!(
            assess(&protection(), 9, 9),
            "of fewer than the minimum all may go"
        );
        let protection = protection();
        assert!(!assess(&protection, 100, 51));
        assert!(!assess(&protection, 100, 1), "while it lasts nobody goes");
        let report = protection.report().active.unwrap().0.reason;
        assert_eq!(
            report,
            "51 of 100 online instances would go offline within 30 s, more than --protection-threshold 0.5"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_went_within_a_time_to_live_count() {
        let protection = protection();
        assert!(assess(&protection, 100, 40));
        protection.went_offline(40);
        advance(Duration::from_secs(TTL)).await;
        assert!(assess(&protection, 60, 10));
        assert!(!assess(&protection, 60, 11));
        assert!(protection.leave("test"));
        protection.went_offline(40);
        advance(Duration::from_secs(TTL + 1)).await;
        assert!(assess(&protection, 60, 30), "the others are long gone");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_heartbeats_return() {
        let protection = protection();
        assess(&protection, 100, 60);
        assert_eq!(protection.review(100, 60), None);
        advance(Duration::from_secs(5)).await;
        assert_eq!(protection.review(100, 20), None, "the others may follow");
        let why = protection.review(100, 0).unwrap();
        assert_eq!(why, "all heartbeats have returned");
        assert!(protection.leave(&why) && !protection.is_active());
        assert!(!protection.leave(&why), "it ends once");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_few_are_missing_for_a_time_to_live() {
        let protection = protection();
        assess(&protection, 100, 60);
        advance(Duration::from_secs(20)).await;
        assert_eq!(protection.review(100, 51), None);
        advance(Duration::from_secs(TTL)).await;
        assert_eq!(protection.review(100, 20), None);
        advance(Duration::from_secs(1)).await;
        let why = protection.review(100, 20).unwrap();
        assert_eq!(why, "only 20 of 100 are still missing");
    }

    #[tokio::test(start_paused = true)]
    async fn it_always_ends() {
        let protection = protection();
        assess(&protection, 100, 100);
        for _ in 0..119 {
            advance(Duration::from_secs(5)).await;
            assert_eq!(protection.review(100, 100), None);
        }
        advance(Duration::from_secs(5)).await;
        let why = protection.review(100, 100).unwrap();
        assert_eq!(why, "it has lasted for --protection-max-duration 600s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_daemon_saw_holds_here_too() {
        let protection = protection();
        protection.entered_elsewhere(DateTime::default(), "too many");
        assert!(!assess(&protection, 100, 1));
    }
}
