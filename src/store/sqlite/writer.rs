//! The writer, its transactions, and the schema.

use std::thread::JoinHandle;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::thread::{self, SqliteThread, Writes, closed, store_error};
use super::{actions, find_scope, migrate, register, rows, with_services};
use crate::model::{
    Action, DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Note, Registration,
    Scope,
};
use crate::store::{
    Attestation, Declared, Deregistration, LeaseStart, MigrateError, RecordedLease, RegisteredMany,
    RegistryTransaction, RegistryWriter, Removal, ScopeDeletion, StoreError,
};

/// The writer is dropped last, and closes the database.
pub(super) struct SqliteWriter {
    pub(super) thread: SqliteThread,
    pub(super) join: Option<JoinHandle<()>>,
}

impl Drop for SqliteWriter {
    fn drop(&mut self) {
        self.thread.close();
        if let Some(Err(_)) = self.join.take().map(JoinHandle::join) {
            log::error!("the SQLite thread panicked");
        }
    }
}

#[async_trait]
impl RegistryWriter for SqliteWriter {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        let (answer, migrated) = oneshot::channel();
        // A migration may take longer than any request waits.
        self.thread
            .send(move |connection| {
                let _ = answer.send(migrate::migrate(connection));
            })
            .await?;
        migrated.await.map_err(|_| closed())?
    }

    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        let (steps, mut queue) = mpsc::channel::<Step>(1);
        let writes = self.thread.writes();
        // The thread serves only this transaction until it is committed or dropped, so that no
        // reader sees uncommitted rows.
        self.thread
            .send(move |connection| {
                let begin = connection.transaction_with_behavior(TransactionBehavior::Immediate);
                let begun = begin.map_err(store_error);
                if begun.is_err() {
                    writes.note(&begun);
                }
                while let Some(step) = queue.blocking_recv() {
                    match step {
                        Step::Run(work) => work(begun.as_deref()),
                        Step::Commit(done) => {
                            let outcome =
                                begun.and_then(|begun| begun.commit().map_err(store_error));
                            writes.note(&outcome);
                            let _ = done.send(outcome);
                            return;
                        }
                    }
                }
            })
            .await?;
        Ok(Box::new(SqliteTransaction {
            steps,
            writes: self.thread.writes(),
            now,
        }))
    }
}

/// A step of a transaction; it receives the error if the transaction did not begin.
type Operation = Box<dyn FnOnce(Result<&Connection, &StoreError>) + Send>;

enum Step {
    Run(Operation),
    Commit(oneshot::Sender<Result<(), StoreError>>),
}

struct SqliteTransaction {
    steps: mpsc::Sender<Step>,
    writes: Writes,
    now: DateTime<Utc>,
}

impl SqliteTransaction {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let writes = self.writes.clone();
        let step = Step::Run(Box::new(move |begun| {
            let begun = begun.map_err(StoreError::clone);
            let outcome = begun.and_then(|connection| work(connection).map_err(store_error));
            if outcome.is_err() {
                writes.note(&outcome);
            }
            let _ = answer.send(outcome);
        }));
        self.steps.send(step).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl RegistryTransaction for SqliteTransaction {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        let (scope, name) = (scope.clone(), name.cloned());
        let now = self.now.timestamp_millis();
        self.run(move |connection| {
            connection.prepare_cached(sql!("declare_scope"))?.query_row(
                params![
                    scope.kind.as_str(),
                    scope.key.as_str(),
                    name.as_ref().map(DisplayName::as_str),
                    now
                ],
                |row| {
                    Ok(Declared {
                        record: rows::scope(row)?,
                        created: row.get("created")?,
                    })
                },
            )
        })
        .await
    }

    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let deleted = connection
                .prepare_cached(sql!("delete_scope"))?
                .query_row([scope.kind.as_str(), scope.key.as_str()], rows::scope)
                .optional()?;
            Ok(match deleted {
                Some(record) => ScopeDeletion::Deleted(record),
                None if find_scope(connection, &scope)?.is_some() => ScopeDeletion::HasInstances,
                None => ScopeDeletion::Unknown,
            })
        })
        .await
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        let registrations = registrations.to_vec();
        let now = self.now.timestamp_millis();
        self.run(move |connection| register::register(connection, &registrations, now))
            .await
    }

    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        let (key, change) = (key.clone(), change.clone());
        let now = self.now.timestamp_millis();
        self.run(move |connection| {
            let status = change.status.as_ref();
            let hold = status.and_then(|status| status.hold());
            connection
                .prepare_cached(sql!("change_instance"))?
                .query_row(
                    params![
                        key.scope.kind.as_str(),
                        key.scope.key.as_str(),
                        key.address.as_str(),
                        status.map(|status| status.status().as_str()),
                        hold.map(|hold| hold.by.as_str()),
                        hold.and_then(|hold| hold.reason.as_ref()).map(Note::as_str),
                        change.weight.given().copied().map(i64::from),
                        change.metadata.given().map(rows::json).transpose()?,
                        now,
                        change.weight.is_null(),
                        change.metadata.is_null(),
                        change.only_own_hold,
                        hold.and_then(|hold| hold.until)
                            .map(|until| until.timestamp_millis())
                    ],
                    rows::instance,
                )
                .optional()
        })
        .await
    }

    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        let now = self.now.timestamp_millis();
        self.run(move |connection| {
            connection
                .prepare_cached(sql!("disable_instance"))?
                .query_row([id.0, now], rows::instance)
                .optional()
        })
        .await
    }

    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
        keep_decided: bool,
    ) -> Result<Deregistration, StoreError> {
        let key = key.clone();
        self.run(move |connection| {
            let [kind, scope, address] = rows::key_params(&key);
            let removed = connection
                .prepare_cached(sql!("deregister_instance"))?
                .query_row((kind, scope, address, keep_decided), rows::instance)
                .optional()?;
            if let Some(removed) = removed {
                let removal = with_services(connection, vec![removed])?;
                return Ok(Deregistration::Removed(removal));
            }
            let kept = match keep_decided {
                true => connection
                    .prepare_cached(sql!("find_instances"))?
                    .query_row([kind, scope, address], rows::instance)
                    .optional()?,
                false => None,
            };
            Ok(kept.map_or(Deregistration::Unknown, Deregistration::Kept))
        })
        .await
    }

    async fn take_offline(
        &mut self,
        key: &InstanceKey,
        only_decided: bool,
    ) -> Result<Option<Instance>, StoreError> {
        let (key, now) = (key.clone(), self.now.timestamp_millis());
        self.run(move |connection| {
            let [kind, scope, address] = rows::key_params(&key);
            connection
                .prepare_cached(sql!("take_offline"))?
                .query_row((kind, scope, address, now, only_decided), rows::instance)
                .optional()
        })
        .await
    }

    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Removal, StoreError> {
        self.run(move |connection| {
            let removed = connection
                .prepare_cached(sql!("purge_offline_instances"))?
                .query_map(
                    [before.timestamp_millis(), i64::from(limit)],
                    rows::instance,
                )?
                .collect::<rusqlite::Result<_>>()?;
            with_services(connection, removed)
        })
        .await
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<RecordedLease>, StoreError> {
        let (starts, now) = (starts.to_vec(), self.now.timestamp_millis());
        self.run(move |connection| {
            let mut record = connection.prepare_cached(sql!("record_online"))?;
            let mut recorded = Vec::with_capacity(starts.len());
            for (index, start) in starts.iter().enumerate() {
                let [kind, key, address] = rows::key_params(&start.key);
                for is_online in [false, true] {
                    let params = (kind, key, address, start.epoch.0, now, is_online);
                    let lease = |row: &Row<'_>| rows::recorded_lease(index, !is_online, row);
                    if let Some(lease) = record.query_row(params, lease).optional()? {
                        recorded.push(lease);
                        break;
                    }
                }
            }
            Ok(recorded)
        })
        .await
    }

    async fn record_offline(&mut self, starts: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        let (starts, now) = (starts.to_vec(), self.now.timestamp_millis());
        self.run(move |connection| {
            let mut record = connection.prepare_cached(sql!("record_offline"))?;
            let mut changed = Vec::new();
            for start in &starts {
                let row = record.query_row(rows::start_params(start, now), rows::instance);
                changed.extend(row.optional()?);
            }
            Ok(changed)
        })
        .await
    }

    async fn end_holds(&mut self, limit: u16) -> Result<Vec<Instance>, StoreError> {
        let now = self.now.timestamp_millis();
        self.run(move |connection| {
            connection
                .prepare_cached(sql!("end_holds"))?
                .query_map([now, i64::from(limit)], rows::instance)?
                .collect()
        })
        .await
    }

    async fn find_instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        let keys = keys.to_vec();
        self.run(move |connection| {
            let mut find = connection.prepare_cached(sql!("find_instances"))?;
            let mut found = Vec::with_capacity(keys.len());
            for key in &keys {
                let row = find.query_row(rows::key_params(key), rows::instance);
                found.extend(row.optional()?);
            }
            Ok(found)
        })
        .await
    }

    async fn record_action(&mut self, action: &Action) -> Result<(), StoreError> {
        let (action, now) = (action.clone(), self.now.timestamp_millis());
        self.run(move |connection| actions::record(connection, &action, now))
            .await
    }

    async fn purge_actions(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<usize, StoreError> {
        self.run(move |connection| actions::purge(connection, before, limit))
            .await
    }

    async fn attest(&mut self, _own: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        // The lock excludes every other daemon.
        Ok(Vec::new())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let (done, committed) = oneshot::channel();
        self.steps
            .send(Step::Commit(done))
            .await
            .map_err(|_| closed())?;
        match timeout(thread::ANSWER, committed).await {
            Ok(outcome) => outcome.map_err(|_| closed())?,
            Err(_) => Err(StoreError::OutcomeUnknown(
                "SQLite has not confirmed a commit".into(),
            )),
        }
    }
}
