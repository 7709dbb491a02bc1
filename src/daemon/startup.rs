//! The start: waits for the backends.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Core, DaemonError};
use crate::actor::MigrateSchema;
use crate::model::EventId;
use crate::settings::ServeSettings;
use crate::store::MigrateError;

/// The time between attempts to reach a backend: the first, and the longest.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(4);

/// Waits until the registry store is reached and migrated, the lease store answers, and the
/// Directory is loaded. Returns the event after which to follow.
pub(super) async fn wait_for_backends(
    settings: &ServeSettings,
    core: &Core,
) -> Result<EventId, DaemonError> {
    let migrate = async || match core.registry.address().send(MigrateSchema).await {
        Ok(Ok(applied)) => {
            for migration in applied {
                log::info!("migrated {}: {migration}", settings.store.store);
            }
            Ok(())
        }
        Ok(Err(MigrateError::Store(error))) => Err(Attempt::Again(error.to_string())),
        Ok(Err(source)) => Err(Attempt::Never(DaemonError::Schema {
            backend: settings.store.store.to_string(),
            source,
        })),
        Err(_) => Err(Attempt::Never(DaemonError::PartEnded("registry actor"))),
    };
    let ping = async || {
        let answer = core.leases.probe().await;
        answer
            .map(drop)
            .map_err(|error| Attempt::Again(error.to_string()))
    };
    let load = async || {
        let loaded = core.load().await;
        loaded.map_err(|error| Attempt::Again(error.to_string()))
    };
    let (store, lease_store) = (
        settings.store.store.to_string(),
        settings.leases.to_string(),
    );
    tokio::try_join!(
        retry(store, *settings.start_timeout, migrate),
        retry(lease_store, *settings.start_timeout, ping),
    )?;
    retry("the registry".to_owned(), *settings.start_timeout, load).await
}

enum Attempt {
    Again(String),
    Never(DaemonError),
}

async fn retry<T>(
    backend: String,
    limit: Duration,
    attempt: impl AsyncFn() -> Result<T, Attempt>,
) -> Result<T, DaemonError> {
    let begin = Instant::now();
    let (mut wait, longest) = RETRY.into_inner();
    loop {
        let reason = match timeout_at(begin + limit, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Attempt::Never(error))) => return Err(error),
            Ok(Err(Attempt::Again(reason))) => reason,
            Err(_) => "it did not answer, or another daemon is migrating it".to_owned(),
        };
        if begin.elapsed() + wait > limit {
            return Err(DaemonError::StartTimeout {
                backend,
                waited: limit,
                reason,
            });
        }
        log::warn!("waiting for {backend}: {reason}");
        sleep(wait).await;
        wait = (2 * wait).min(longest);
    }
}
