//! A lease store that counts what another one does.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Identity, LeaseError, LeasePage, LeaseStore, ListCursor, Look, Renewal, Renewed};
use crate::metrics::{Gauge, Histogram, Metrics, RoundTripMetrics};
use crate::model::InstanceKey;

/// Counts the round trips of a lease store, and whether it answers.
pub struct MeteredLeaseStore {
    inner: Arc<dyn LeaseStore>,
    renew: RoundTripMetrics,
    look: RoundTripMetrics,
    revoke: RoundTripMetrics,
    probe: RoundTripMetrics,
    list: RoundTripMetrics,
    batch: Histogram,
    up: Gauge,
}

impl MeteredLeaseStore {
    /// Counts what `inner` does.
    pub fn new(inner: Arc<dyn LeaseStore>, metrics: &Metrics) -> Self {
        Self {
            inner,
            renew: metrics.round_trip("renew"),
            look: metrics.round_trip("look"),
            revoke: metrics.round_trip("revoke"),
            probe: metrics.round_trip("probe"),
            list: metrics.round_trip("list"),
            batch: metrics.lease_batch.clone(),
            up: metrics.backends.leases.clone(),
        }
    }

    async fn measured<T>(
        &self,
        metrics: &RoundTripMetrics,
        round_trip: impl Future<Output = Result<T, LeaseError>>,
    ) -> Result<T, LeaseError> {
        let mut under_way = UnderWay {
            metrics,
            up: &self.up,
            begin: Instant::now(),
            answered: false,
        };
        let outcome = round_trip.await;
        under_way.answered = !matches!(outcome, Err(LeaseError::Unavailable(_)));
        outcome
    }
}

/// Also counts a round trip for which its caller did not wait to the end.
struct UnderWay<'a> {
    metrics: &'a RoundTripMetrics,
    up: &'a Gauge,
    begin: Instant,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let duration = self.begin.elapsed().as_secs_f64();
        self.metrics.duration.observe(duration);
        self.up.set(self.answered.into());
        if !self.answered {
            self.metrics.errors.inc();
        }
    }
}

#[async_trait]
impl LeaseStore for MeteredLeaseStore {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, LeaseError> {
        self.batch.observe(renewals.len() as f64);
        self.measured(&self.renew, self.inner.renew(renewals)).await
    }

    async fn look(&self, keys: &[InstanceKey]) -> Result<Look, LeaseError> {
        self.measured(&self.look, self.inner.look(keys)).await
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), LeaseError> {
        self.measured(&self.revoke, self.inner.revoke(keys)).await
    }

    async fn probe(&self) -> Result<Identity, LeaseError> {
        self.measured(&self.probe, self.inner.probe()).await
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, LeaseError> {
        self.measured(&self.list, self.inner.list(cursor)).await
    }
}
