//! Migrates the schema in one transaction.
//!
//! It waits for locks only briefly and retries, because the writes of running daemons queue
//! behind a lock that is waited for.

use std::time::Duration;

use deadpool_postgres::Pool;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::checkout::{PooledConnection, closed, store_error};
use crate::store::{MigrateError, StoreError, migrate_error, with_sources};

refinery::embed_migrations!("sql/postgres/migrations");

/// Limits the wait for locks: that of other daemons that migrate (its key is "rollcall" as a
/// number), and those of the tables. The migration itself may take long.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '1s'; \
                     SELECT pg_advisory_xact_lock(x'726f6c6c63616c6c'::bigint)";
const COMMIT: &str = "COMMIT";

/// The time between attempts to get the locks.
const PAUSE: Duration = Duration::from_secs(1);

/// Returns the applied migrations. Retries until it gets the locks.
pub(super) async fn migrate(pool: &Pool) -> Result<Vec<String>, MigrateError> {
    let mut logged = false;
    loop {
        match attempt(pool).await {
            Err(MigrateError::Store(StoreError::Conflict(reason))) => {
                if !logged {
                    log::warn!("waiting to migrate the database: {reason}");
                    logged = true;
                }
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

async fn attempt(pool: &Pool) -> Result<Vec<String>, MigrateError> {
    let mut checkout = PooledConnection::from(pool).await?;
    checkout.writable().await?;
    // A migration may take longer than any request. Its locks end with this connection.
    checkout.idle = false;
    let Some(connection) = checkout.connection.as_ref() else {
        return Err(closed().into());
    };
    let client: &Client = connection;
    let store = |error: Error| MigrateError::Store(store_error(&error));
    client.batch_execute(BEGIN).await.map_err(store)?;
    let runner = migrations::runner();
    let report = runner.run_async(&mut Transaction(client)).await;
    let report = report.map_err(|error| {
        let cause = driver_error(&error);
        if cause.and_then(Error::code) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            return MigrateError::Failed(format!(
                "{}; run rollcalld migrate as the owner of the tables, and then grant this role \
                 the rights that docs/deployment.md lists",
                with_sources(&error)
            ));
        }
        match cause.map(store_error) {
            Some(error @ (StoreError::Unavailable(_) | StoreError::Conflict(_))) => error.into(),
            _ => migrate_error(&error, &runner),
        }
    })?;
    client.batch_execute(COMMIT).await.map_err(store)?;
    checkout.idle = true;
    let applied = report.applied_migrations().iter();
    Ok(applied.map(ToString::to_string).collect())
}

/// Returns the error of the driver that caused an error of refinery.
fn driver_error(error: &refinery::Error) -> Option<&Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// The open transaction of a connection. refinery's own implementation begins one for each
/// migration, and prepares statements by name.
struct Transaction<'a>(&'a Client);

impl AsyncTransaction for Transaction<'_> {
    type Error = Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Error> {
        let mut count = 0;
        for query in queries {
            self.0.batch_execute(query).await?;
            count += 1;
        }
        Ok(count)
    }
}

impl AsyncQuery<Vec<refinery::Migration>> for Transaction<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<refinery::Migration>, Error> {
        let messages = self.0.simple_query(query).await?;
        let applied = messages.iter().filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            Some(refinery::Migration::applied(
                row.get(0)?.parse().ok()?,
                row.get(1).unwrap_or_default().to_owned(),
                // The time of a migration decides nothing.
                OffsetDateTime::UNIX_EPOCH,
                // A text that is no number is no expected checksum.
                row.get(3)
                    .and_then(|checksum| checksum.parse().ok())
                    .unwrap_or_default(),
            ))
        });
        Ok(applied.collect())
    }
}

impl AsyncMigrate for Transaction<'_> {
    /// Works without the right to create a table if the table exists: CREATE TABLE IF NOT EXISTS
    /// needs it in any case.
    fn assert_migrations_table_query(table: &str) -> String {
        format!(
            "DO $$ BEGIN IF to_regclass('{table}') IS NULL THEN \
             CREATE TABLE {table} (version int4 PRIMARY KEY, name varchar(255), \
             applied_on varchar(255), checksum varchar(255)); END IF; END $$"
        )
    }
}
