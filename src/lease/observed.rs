//! A lease store that measures its calls and reports them to the [`Health`] of the process.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Health, Identity, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed};
use crate::backend::BackendError;
use crate::metrics::{Gauge, Histogram, Metrics, RoundTripMetrics};
use crate::model::InstanceKey;

/// Measures the round trips of a lease store, and reports their results to its [`Health`].
pub struct ObservedLeaseStore {
    inner: Arc<dyn LeaseStore>,
    health: Arc<Health>,
    renew: RoundTripMetrics,
    inspect: RoundTripMetrics,
    set_hidden: RoundTripMetrics,
    revoke: RoundTripMetrics,
    probe: RoundTripMetrics,
    list: RoundTripMetrics,
    batch: Histogram,
    up: Gauge,
}

impl ObservedLeaseStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn LeaseStore>, health: Arc<Health>, metrics: &Metrics) -> Self {
        Self {
            inner,
            health,
            renew: metrics.round_trip("renew"),
            inspect: metrics.round_trip("inspect"),
            set_hidden: metrics.round_trip("set_hidden"),
            revoke: metrics.round_trip("revoke"),
            probe: metrics.round_trip("probe"),
            list: metrics.round_trip("list"),
            batch: metrics.lease_batch.clone(),
            up: metrics.backends.leases.clone(),
        }
    }

    async fn observed<T>(
        &self,
        metrics: &RoundTripMetrics,
        round_trip: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let mut call = Call {
            store: self,
            metrics,
            started_at: Instant::now(),
            failure: Some(BackendError::Unavailable(
                "it did not answer in time".into(),
            )),
        };
        let outcome = round_trip.await;
        call.failure = outcome.as_ref().err().cloned();
        outcome
    }
}

/// A call in progress. A call that the caller drops before the reply is counted as a failure.
struct Call<'a> {
    store: &'a ObservedLeaseStore,
    metrics: &'a RoundTripMetrics,
    started_at: Instant,
    failure: Option<BackendError>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let duration = self.started_at.elapsed().as_secs_f64();
        self.metrics.duration.observe(duration);
        if let Some(error) = &self.failure {
            self.metrics.errors.inc();
            self.store.health.failed(error);
            self.store.up.set(0);
        }
    }
}

#[async_trait]
impl LeaseStore for ObservedLeaseStore {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        self.batch.observe(renewals.len() as f64);
        let renewed = self
            .observed(&self.renew, self.inner.renew(renewals))
            .await?;
        self.health.wrote();
        self.up.set(1);
        Ok(renewed)
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        self.observed(&self.inspect, self.inner.inspect(keys)).await
    }

    async fn set_hidden(&self, key: &InstanceKey, is_hidden: bool) -> Result<bool, BackendError> {
        self.observed(&self.set_hidden, self.inner.set_hidden(key, is_hidden))
            .await
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        self.observed(&self.revoke, self.inner.revoke(keys)).await
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        let identity = self.observed(&self.probe, self.inner.probe()).await?;
        self.health.probed(identity.clone());
        self.up.set(1);
        Ok(identity)
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, BackendError> {
        self.observed(&self.list, self.inner.list(cursor)).await
    }
}
