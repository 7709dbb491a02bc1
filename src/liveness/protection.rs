//! Protection mode: a failure of the registry itself never marks an instance offline.
//!
//! This module only decides; its callers act. No instance is marked offline while the lease
//! store does not work, and for one TTL after an interruption of the store or of this process.
//! If too many instances would be marked offline at once, protection mode is entered and keeps
//! them listed as suspects, until their heartbeats return, an operator releases it, or its
//! maximum duration ends.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::report::{ActivePeriod, Report};
use crate::lease::Health;
use crate::model::{ProtectionCause, ProtectionReason, Ttl};

/// The interval at which [`Protection::tick`] is called.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// A longer time between two ticks, three times [`TICK`], means that the process was suspended.
const STALL: Duration = Duration::from_millis(1500);

/// The age up to which a comparison of the replicas' lease stores is valid. A replica that does
/// not attest its lease store for this long has stopped.
const COMPARISON_MAX_AGE: Duration = Duration::from_secs(5);

/// A lease is overdue if less than this percentage of its TTL remains. Heartbeats are requested
/// when half of the TTL remains, and at most a tenth later.
pub(super) const OVERDUE: u128 = 45;

/// The settings of protection mode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The share of online instances, from 0 to 1. Protection mode is entered if more than this
    /// share would be marked offline within one TTL; with 1, never.
    pub ratio: f64,
    /// The number of online instances below which protection mode is never entered.
    pub min: usize,
    /// The maximum duration of protection mode.
    pub max: Duration,
    /// The TTL of instances that do not set their own; also the TTL that `ratio` refers to.
    pub ttl: Ttl,
}

/// Decides whether instances whose leases are missing are marked offline.
pub struct Protection {
    limits: Limits,
    health: Arc<Health>,
    state: Mutex<State>,
}

struct State {
    /// When the last interruption of this process ended, and its name. A missing lease is
    /// evidence only once one TTL has passed since then.
    trusted: (Instant, &'static str),
    last_tick: Instant,
    agreement: Agreement,
    /// How many instances went offline at which time, within the last TTL.
    recent: VecDeque<(Instant, usize)>,
    active: Option<ActivePeriod>,
}

/// Whether all replicas use the same lease store.
#[derive(Default)]
struct Agreement {
    /// Why the replicas do not agree; `None` if they do or the result is not known yet.
    disagreement: Option<String>,
    /// When the lease stores were last compared.
    compared_at: Option<Instant>,
    /// The beginning of the comparisons without a longer pause than [`COMPARISON_MAX_AGE`].
    compared_since: Option<Instant>,
    /// Why the comparison fails; `None` while it succeeds.
    failure: Option<String>,
}

/// The result of checking the leases of some online instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// How many instances were checked.
    pub(crate) checked: usize,
    /// How many of them have no lease, or an overdue one.
    pub(crate) expiring: usize,
}

/// The decision about instances whose leases are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are marked offline.
    Expired,
    /// They are suspects. Contains the reason if this decision entered protection mode.
    Suspect(Option<ProtectionReason>),
}

impl Protection {
    /// Creates the state at the start of the daemon: no instance is marked offline for one TTL.
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

    /// Returns the settings.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Records that the daemon starts now.
    pub(crate) fn start(&self) {
        self.state.lock().trusted = (Instant::now(), "the daemon has just started");
    }

    /// Records that the process is running. Called every [`TICK`].
    pub fn tick(&self) {
        self.state.lock().tick(Instant::now());
    }

    /// Records that this replica rejected a heartbeat because it had too many.
    pub(crate) fn heartbeat_rejected(&self) {
        self.health.rejected();
    }

    /// Records that this replica compared its lease store with those of the other replicas.
    /// `disagreement` is the reason why they do not use the same working store.
    pub fn attested(&self, disagreement: Option<String>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let agreement = &mut state.agreement;
        if agreement.age(now) > COMPARISON_MAX_AGE {
            agreement.compared_since = Some(now);
        }
        agreement.compared_at = Some(now);
        agreement.failure = None;
        let before = std::mem::replace(&mut agreement.disagreement, disagreement.clone());
        match (before, disagreement) {
            (None, Some(reason)) => log::warn!("{reason}; no instance is marked offline"),
            (Some(_), None) => state.start_grace(now, "the replicas used different lease stores"),
            _ => {}
        }
    }

    /// Records that this replica could not compare its lease store with those of the others.
    pub(crate) fn not_attested(&self, error: &dyn Display) {
        let failure = format!("the lease stores of the replicas cannot be compared: {error}");
        let mut state = self.state.lock();
        if state.agreement.failure.is_none() {
            log::warn!("{failure}; no instance is marked offline");
        }
        state.agreement.failure = Some(failure);
    }

    /// Returns the time until which no instance with this TTL is marked offline; `None` if it
    /// may be marked now.
    pub fn grace_deadline(&self, ttl: Ttl) -> Option<Instant> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if now.duration_since(state.last_tick) > STALL {
            state.tick(now);
        }
        let agreed_at = state.agreement.valid_from(now);
        let deadline = if self.health.is_working() && state.agreement.disagreement.is_none() {
            agreed_at.max(self.trusted(&state).0 + ttl.as_duration())
        } else {
            now + ttl.as_duration()
        };
        (deadline > now).then_some(deadline)
    }

    /// Records that `count` instances went offline, on this replica or on another one.
    pub(crate) fn went_offline(&self, count: usize) {
        self.state.lock().recent.push_back((Instant::now(), count));
    }

    /// Decides about instances whose leases are missing. `online` is the number of all online
    /// instances, including these; `sample` is the result of checking some of them. `at` is the
    /// wall time that is shown if this enters protection mode.
    pub(crate) fn assess(&self, online: usize, sample: Sample, at: DateTime<Utc>) -> Verdict {
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
        // Whole numbers, because `expiring` is an estimate.
        let cause = ProtectionCause::MassLoss {
            missing: expiring.round() as u64,
            online: all as u64,
            within_seconds: self.limits.ttl.as_secs(),
        };
        let reason = format!(
            "{expiring:.0} of {all} online instances would go offline within {} s, more than --protection-threshold {}",
            self.limits.ttl.as_secs(),
            self.limits.ratio
        );
        log::warn!("protection mode entered: {reason}");
        let why = ProtectionReason {
            reason,
            cause: Some(cause),
        };
        state.enter(now, at, why.clone());
        Verdict::Suspect(Some(why))
    }

    /// Enters protection mode, because another replica did.
    pub(crate) fn entered_elsewhere(&self, at: DateTime<Utc>, why: &ProtectionReason) {
        let mut state = self.state.lock();
        if state.active.is_none() {
            log::warn!("protection mode entered by another replica: {}", why.reason);
            state.enter(Instant::now(), at, why.clone());
        }
    }

    /// Ends protection mode and resets the count of instances that went offline. Returns
    /// whether it was active.
    pub(crate) fn leave(&self, why: &ProtectionReason) -> bool {
        let mut state = self.state.lock();
        let active = state.active.take().is_some();
        if active {
            state.recent.clear();
            log::warn!("protection mode ended: {}", why.reason);
        }
        active
    }

    /// Returns whether protection mode is active.
    pub(crate) fn is_active(&self) -> bool {
        self.state.lock().active.is_some()
    }

    /// Returns the reason to end protection mode now, if there is one. `online` is the number
    /// of online instances, and `suspects` is how many of them are suspects.
    pub(crate) fn review(&self, online: usize, suspects: usize) -> Option<ProtectionReason> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let limits = self.limits;
        let active = state.active.as_mut()?;
        if now.duration_since(active.since) >= limits.max {
            return Some(ProtectionReason {
                reason: format!(
                    "protection mode has lasted for --protection-max-duration {:?}",
                    limits.max
                ),
                cause: Some(ProtectionCause::MaxDuration),
            });
        }
        if suspects as f64 > limits.ratio * online as f64 {
            active.exceeded_at = now;
        }
        if suspects == 0 {
            return Some(ProtectionReason {
                reason: "all heartbeats have returned".to_owned(),
                cause: Some(ProtectionCause::HeartbeatsReturned),
            });
        }
        let has_recovered = now.duration_since(active.exceeded_at) > limits.ttl.as_duration();
        has_recovered.then(|| ProtectionReason {
            reason: format!("only {suspects} of {online} online instances are still suspect"),
            cause: Some(ProtectionCause::FewSuspects {
                suspects: suspects as u64,
                online: online as u64,
            }),
        })
    }

    /// Returns the state for display. `online` is the number of online instances.
    pub(crate) fn report(&self, online: usize) -> Report {
        let mut state = self.state.lock();
        let now = Instant::now();
        let recent = state.recent(now, self.limits.ttl.as_duration());
        let all = online + recent;
        let is_possible =
            state.active.is_none() && self.limits.ratio < 1.0 && all >= self.limits.min;
        let begins_with = is_possible.then(|| {
            let most = (self.limits.ratio * all as f64).floor() as usize;
            (most + 1).saturating_sub(recent)
        });
        let active = state.active.clone().map(|active| {
            let end = active.since + self.limits.max;
            (active, end.saturating_duration_since(now))
        });
        let (since, reason) = self.trusted(&state);
        let remaining = (since + self.limits.ttl.as_duration()).saturating_duration_since(now);
        Report {
            begins_with,
            active,
            grace: (!remaining.is_zero()).then_some((reason, remaining)),
            disagreement: state.agreement.problem(now),
            lease_store_failure: self.health.failure(),
        }
    }

    /// Returns when the last interruption of this process or of the lease store ended, and its
    /// name. A missing lease is evidence only once one TTL has passed since then.
    fn trusted(&self, state: &State) -> (Instant, &'static str) {
        let interrupted = self.health.interrupted();
        interrupted
            .filter(|(at, _)| *at > state.trusted.0)
            .unwrap_or(state.trusted)
    }
}

impl Agreement {
    /// Returns the time since the last comparison.
    fn age(&self, now: Instant) -> Duration {
        self.compared_at
            .map_or(Duration::MAX, |at| now.duration_since(at))
    }

    /// Returns why the replicas are not known to agree.
    fn problem(&self, now: Instant) -> Option<String> {
        let is_outdated = |_: &String| self.age(now) > COMPARISON_MAX_AGE;
        let failure = || self.failure.clone().filter(is_outdated);
        self.disagreement.clone().or_else(failure)
    }

    /// Returns the time from which the result of the comparisons is valid. The first results
    /// after a pause are not: other replicas may not have attested their lease store yet.
    fn valid_from(&self, now: Instant) -> Instant {
        match self.compared_since {
            Some(since) if self.age(now) <= COMPARISON_MAX_AGE => since + COMPARISON_MAX_AGE,
            _ => now + COMPARISON_MAX_AGE,
        }
    }
}

impl State {
    fn tick(&mut self, now: Instant) {
        let gap = now.duration_since(self.last_tick);
        self.last_tick = now;
        if gap > STALL {
            self.start_grace(now, "the process was suspended");
        }
    }

    fn start_grace(&mut self, now: Instant, reason: &'static str) {
        log::warn!("{reason}; no instance is marked offline for one TTL");
        self.trusted = (now, reason);
    }

    fn enter(&mut self, now: Instant, at: DateTime<Utc>, why: ProtectionReason) {
        self.active = Some(ActivePeriod {
            at,
            why,
            since: now,
            exceeded_at: now,
        });
    }

    /// Returns how many instances went offline within the last `within`.
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
    use crate::backend::BackendError;

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

    fn why(reason: &str) -> ProtectionReason {
        ProtectionReason {
            reason: reason.to_owned(),
            cause: None,
        }
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
    async fn after_a_start_and_after_a_stall_no_instance_is_marked_offline_for_one_ttl() {
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
            "a short delay is not a stall"
        );
        advance(Duration::from_secs(60)).await;
        // Called before the tick that would have detected the stall.
        let deadline = Instant::now() + ttl().as_duration();
        assert_eq!(protection.grace_deadline(ttl()), Some(deadline));
        run(&protection, TTL).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_marked_offline_while_the_lease_store_fails_and_for_one_ttl_after_it() {
        let protection = protection();
        run(&protection, TTL).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
        let health = &protection.health;
        health.failed(&BackendError::Refused("OOM".into()));
        run(&protection, 2 * TTL).await;
        assert!(
            protection.grace_deadline(ttl()).is_some(),
            "the failure may last longer than one TTL"
        );
        health.wrote();
        run(&protection, TTL - 1).await;
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 1).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_marked_offline_while_replicas_disagree_and_for_one_ttl_after_it() {
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
    async fn no_instance_is_marked_offline_while_the_lease_stores_cannot_be_compared() {
        let protection = protection();
        run(&protection, TTL).await;
        for _ in 0..12 {
            advance(TICK).await;
            protection.tick();
        }
        assert!(protection.grace_deadline(ttl()).is_some());
        protection.not_attested(&"permission denied");
        let reason = protection.report(100).disagreement.unwrap();
        assert!(reason.ends_with("permission denied"), "{reason}");
        // The other replicas may not have attested their lease store yet.
        protection.attested(None);
        assert_eq!(protection.report(100).disagreement, None);
        assert!(protection.grace_deadline(ttl()).is_some());
        run(&protection, 5).await;
        assert_eq!(protection.grace_deadline(ttl()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_expiring_instances_become_suspects_and_few_are_marked_offline() {
        assert!(assess(&protection(), 100, 50));
        assert!(
            assess(&protection(), 9, 9),
            "below the minimum, protection mode is not entered"
        );
        let protection = protection();
        assert!(!assess(&protection, 100, 51));
        assert!(
            !assess(&protection, 100, 1),
            "while protection mode is active, no instance is marked offline"
        );
        let reason = protection.report(100).active.unwrap().0.why.reason;
        assert_eq!(
            reason,
            "51 of 100 online instances would go offline within 30 s, more than --protection-threshold 0.5"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn instances_that_went_offline_within_one_ttl_count() {
        let protection = protection();
        assert!(assess(&protection, 100, 40));
        protection.went_offline(40);
        advance(Duration::from_secs(TTL)).await;
        assert!(assess(&protection, 60, 10));
        assert!(!assess(&protection, 60, 11));
        assert!(protection.leave(&why("test")));
        protection.went_offline(40);
        advance(Duration::from_secs(TTL + 1)).await;
        assert!(assess(&protection, 60, 30), "older ones do not count");
    }

    #[tokio::test(start_paused = true)]
    async fn protection_mode_ends_when_the_heartbeats_return() {
        let protection = protection();
        assess(&protection, 100, 60);
        assert_eq!(protection.review(100, 60), None);
        advance(Duration::from_secs(5)).await;
        assert_eq!(
            protection.review(100, 20),
            None,
            "the other heartbeats may still return"
        );
        let reason = protection.review(100, 0).unwrap();
        assert_eq!(reason.reason, "all heartbeats have returned");
        assert!(protection.leave(&reason) && !protection.is_active());
        assert!(!protection.leave(&reason), "protection mode ends only once");
    }

    #[tokio::test(start_paused = true)]
    async fn protection_mode_ends_when_few_instances_are_suspect_for_one_ttl() {
        let protection = protection();
        assess(&protection, 100, 60);
        advance(Duration::from_secs(20)).await;
        assert_eq!(protection.review(100, 51), None);
        advance(Duration::from_secs(TTL)).await;
        assert_eq!(protection.review(100, 20), None);
        advance(Duration::from_secs(1)).await;
        let reason = protection.review(100, 20).unwrap().reason;
        assert_eq!(reason, "only 20 of 100 online instances are still suspect");
    }

    #[tokio::test(start_paused = true)]
    async fn protection_mode_always_ends() {
        let protection = protection();
        assess(&protection, 100, 100);
        for _ in 0..119 {
            advance(Duration::from_secs(5)).await;
            assert_eq!(protection.review(100, 100), None);
        }
        advance(Duration::from_secs(5)).await;
        let reason = protection.review(100, 100).unwrap().reason;
        assert_eq!(
            reason,
            "protection mode has lasted for --protection-max-duration 600s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn protection_mode_of_another_replica_applies_here_too() {
        let protection = protection();
        protection.entered_elsewhere(DateTime::default(), &why("too many"));
        assert!(!assess(&protection, 100, 1));
    }
}
