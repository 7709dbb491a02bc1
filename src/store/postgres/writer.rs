//! The writer and its transactions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::checkout::PooledConnection;
use super::{KeyColumns, Params, migrate, one, rows};
use crate::model::{
    Action, DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Note, Registration,
    ReplicaId, Scope, ScopeKind,
};
use crate::store::{
    Attestation, Declared, Deregistration, LeaseStart, MigrateError, RecordedLease, RegisteredMany,
    RegistryTransaction, RegistryWriter, Removal, ScopeDeletion, StoreError,
};

pub(super) struct PostgresWriter {
    pub(super) pool: Pool,
}

#[async_trait]
impl RegistryWriter for PostgresWriter {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        migrate::migrate(&self.pool).await
    }

    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        Ok(Box::new(PostgresTransaction {
            pool: &self.pool,
            connection: PooledConnection::from(&self.pool).await?,
            now,
            state: State::Due,
        }))
    }
}

pub(super) struct PostgresTransaction<'a> {
    pool: &'a Pool,
    connection: PooledConnection,
    pub(super) now: DateTime<Utc>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The transaction begins with its first statement.
    Due,
    Begun,
    Committed,
}

impl Drop for PostgresTransaction<'_> {
    fn drop(&mut self) {
        if self.state == State::Begun {
            // Closing the connection rolls back.
            self.connection.idle = false;
        }
    }
}

impl PostgresTransaction<'_> {
    async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut answers = self.query_pipelined(&[(sql, params)]).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    pub(super) async fn query_pipelined(
        &mut self,
        questions: &[(&'static str, Params<'_>)],
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let begins = self.state == State::Due;
        self.state = State::Begun;
        match self.connection.query_pipelined(begins, questions).await {
            // A pooled connection may have died unnoticed; nothing was committed on it.
            Err(StoreError::Unavailable(_)) if begins && self.connection.is_closed() => {
                self.connection = PooledConnection::from(self.pool).await?;
                self.connection.query_pipelined(begins, questions).await
            }
            answers => answers,
        }
    }

    /// Removes the services of removed instances that need not stay, and returns both.
    async fn with_services(&mut self, instances: Vec<Instance>) -> Result<Removal, StoreError> {
        let of_services = instances.iter().map(|instance| &instance.key.scope);
        let of_services = of_services.filter(|scope| scope.kind == ScopeKind::Service);
        let keys: Vec<&str> = of_services.map(|scope| scope.key.as_str()).collect();
        let mut services = Vec::new();
        if !keys.is_empty() {
            let params: Params<'_> = &[(&keys, Type::TEXT_ARRAY)];
            let rows = self
                .query(sql!("remove_undeclared_services"), params)
                .await?;
            services = rows.iter().map(rows::scope).collect::<Result<_, _>>()?;
        }
        Ok(Removal {
            instances,
            services,
        })
    }

    /// Returns those of the given instances that are registered.
    pub(super) async fn find(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let columns = KeyColumns::of(keys.iter());
        let rows = self
            .query(sql!("find_instances"), &columns.params())
            .await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn record(
        &mut self,
        sql: &'static str,
        starts: &[LeaseStart],
    ) -> Result<Vec<Row>, StoreError> {
        let columns = KeyColumns::of(starts.iter().map(|start| &start.key));
        let epochs: Vec<i64> = starts.iter().map(|start| start.epoch.0).collect();
        let now = self.now;
        let params: Params<'_> = &[
            (&columns.kinds, Type::TEXT_ARRAY),
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.addresses, Type::TEXT_ARRAY),
            (&epochs, Type::INT8_ARRAY),
            (&now, Type::TIMESTAMPTZ),
        ];
        self.query(sql, params).await
    }
}

#[async_trait]
impl RegistryTransaction for PostgresTransaction<'_> {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        let now = self.now;
        let params: Params<'_> = &[
            (&scope.kind.as_str(), Type::TEXT),
            (&scope.key.as_str(), Type::TEXT),
            (&name.map(DisplayName::as_str), Type::TEXT),
            (&now, Type::TIMESTAMPTZ),
        ];
        let rows = self.query(sql!("declare_scope"), params).await?;
        let declared = one(&rows, |row| {
            Ok(Declared {
                record: rows::scope(row)?,
                created: rows::get(row, "created")?,
            })
        })?;
        declared.ok_or_else(|| StoreError::Refused("declare_scope returned no row".into()))
    }

    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError> {
        let params: Params<'_> = &[
            (&scope.kind.as_str(), Type::TEXT),
            (&scope.key.as_str(), Type::TEXT),
        ];
        let deleted = self.query(sql!("delete_scope"), params).await?;
        if let Some(record) = one(&deleted, rows::scope)? {
            return Ok(ScopeDeletion::Deleted(record));
        }
        let known = self.query(sql!("find_scope"), params).await?;
        Ok(if known.is_empty() {
            ScopeDeletion::Unknown
        } else {
            ScopeDeletion::HasInstances
        })
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        self.register(registrations).await
    }

    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        let status = change.status.as_ref();
        let hold = status.and_then(|status| status.hold());
        let now = self.now;
        let params: Params<'_> = &[
            (&key.scope.kind.as_str(), Type::TEXT),
            (&key.scope.key.as_str(), Type::TEXT),
            (&key.address.as_str(), Type::TEXT),
            (&status.map(|status| status.status().as_str()), Type::TEXT),
            (&hold.map(|hold| hold.by.as_str()), Type::TEXT),
            (
                &hold.and_then(|hold| hold.reason.as_ref()).map(Note::as_str),
                Type::TEXT,
            ),
            (
                &change.weight.given().map(|weight| i32::from(weight.get())),
                Type::INT4,
            ),
            (
                &change.metadata.given().map(rows::json).transpose()?,
                Type::JSONB,
            ),
            (&now, Type::TIMESTAMPTZ),
            (&change.weight.is_null(), Type::BOOL),
            (&change.metadata.is_null(), Type::BOOL),
            (&change.only_own_hold, Type::TEXT),
            (&hold.and_then(|hold| hold.until), Type::TIMESTAMPTZ),
        ];
        let rows = self.query(sql!("change_instance"), params).await?;
        one(&rows, rows::instance)
    }

    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        let now = self.now;
        let params: Params<'_> = &[(&id.0, Type::INT8), (&now, Type::TIMESTAMPTZ)];
        let rows = self.query(sql!("disable_instance"), params).await?;
        one(&rows, rows::instance)
    }

    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
        keep_decided: bool,
    ) -> Result<Deregistration, StoreError> {
        let params: Params<'_> = &[
            (&key.scope.kind.as_str(), Type::TEXT),
            (&key.scope.key.as_str(), Type::TEXT),
            (&key.address.as_str(), Type::TEXT),
            (&keep_decided, Type::BOOL),
        ];
        let rows = self.query(sql!("deregister_instance"), params).await?;
        if let Some(removed) = one(&rows, rows::instance)? {
            let removal = self.with_services(vec![removed]).await?;
            return Ok(Deregistration::Removed(removal));
        }
        let kept = match keep_decided {
            true => self.find(std::slice::from_ref(key)).await?.pop(),
            false => None,
        };
        Ok(kept.map_or(Deregistration::Unknown, Deregistration::Kept))
    }

    async fn take_offline(
        &mut self,
        key: &InstanceKey,
        only_decided: bool,
    ) -> Result<Option<Instance>, StoreError> {
        let now = self.now;
        let params: Params<'_> = &[
            (&key.scope.kind.as_str(), Type::TEXT),
            (&key.scope.key.as_str(), Type::TEXT),
            (&key.address.as_str(), Type::TEXT),
            (&now, Type::TIMESTAMPTZ),
            (&only_decided, Type::BOOL),
        ];
        let rows = self.query(sql!("take_offline"), params).await?;
        one(&rows, rows::instance)
    }

    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Removal, StoreError> {
        let params: Params<'_> = &[
            (&before, Type::TIMESTAMPTZ),
            (&i64::from(limit), Type::INT8),
        ];
        let rows = self.query(sql!("purge_offline_instances"), params).await?;
        let removed = rows.iter().map(rows::instance).collect::<Result<_, _>>()?;
        self.with_services(removed).await
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<RecordedLease>, StoreError> {
        let rows = self.record(sql!("record_online"), starts).await?;
        let recorded = rows.iter().map(|row| {
            // PostgreSQL numbers from 1.
            let number: i64 = rows::get(row, "number")?;
            let index = usize::try_from(number - 1)
                .ok()
                .filter(|index| *index < starts.len());
            let unknown = || StoreError::Refused(format!("no lease has the number {number}"));
            Ok(RecordedLease {
                index: index.ok_or_else(unknown)?,
                id: InstanceId(rows::get(row, "id")?),
                changed_at: rows::get(row, "online_changed_at")?,
                revision: rows::get(row, "revision")?,
                transition: rows::get(row, "transition")?,
            })
        });
        recorded.collect()
    }

    async fn record_offline(&mut self, starts: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        let rows = self.record(sql!("record_offline"), starts).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn end_holds(&mut self, limit: u16) -> Result<Vec<Instance>, StoreError> {
        let now = self.now;
        let params: Params<'_> = &[(&now, Type::TIMESTAMPTZ), (&i64::from(limit), Type::INT8)];
        let rows = self.query(sql!("end_holds"), params).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn find_instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        self.find(keys).await
    }

    async fn record_action(&mut self, action: &Action) -> Result<(), StoreError> {
        let now = self.now;
        let scope = action.subject.scope();
        let address = action.subject.instance().map(|key| key.address.as_str());
        let count = i64::try_from(action.count).unwrap_or(i64::MAX);
        let params: Params<'_> = &[
            (&now, Type::TIMESTAMPTZ),
            (&action.by.token(), Type::TEXT),
            (&action.by.peer(), Type::TEXT),
            (&action.kind.as_str(), Type::TEXT),
            (&scope.map(|scope| scope.kind.as_str()), Type::TEXT),
            (&scope.map(|scope| scope.key.as_str()), Type::TEXT),
            (&address, Type::TEXT),
            (&Value::from(action.before.clone()), Type::JSONB),
            (&Value::from(action.after.clone()), Type::JSONB),
            (&action.reason.as_ref().map(Note::as_str), Type::TEXT),
            (&count, Type::INT8),
        ];
        self.query(sql!("record_action"), params).await?;
        Ok(())
    }

    async fn purge_actions(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<usize, StoreError> {
        let params: Params<'_> = &[
            (&before, Type::TIMESTAMPTZ),
            (&i64::from(limit), Type::INT8),
        ];
        Ok(self.query(sql!("purge_actions"), params).await?.len())
    }

    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        let state = own.state.as_ref().map(serde_json::to_value).transpose();
        let state = state.map_err(|error| StoreError::Refused(error.to_string()))?;
        let params: Params<'_> = &[
            (&own.replica.0, Type::TEXT),
            (&own.lease_store, Type::TEXT),
            (&state, Type::JSONB),
        ];
        let rows = self.query(sql!("attest"), params).await?;
        let others = rows.iter().map(|row| {
            Ok(Attestation {
                replica: ReplicaId(rows::get(row, "id")?),
                lease_store: rows::get(row, "lease_store")?,
                // That of a later version may be another one.
                state: rows::get::<Option<Value>>(row, "state")?
                    .and_then(|state| serde_json::from_value(state).ok()),
            })
        });
        others.collect()
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.state == State::Due {
            return Ok(());
        }
        match self.connection.commit().await {
            Ok(()) => {
                self.state = State::Committed;
                Ok(())
            }
            Err(StoreError::Unavailable(reason)) => Err(StoreError::OutcomeUnknown(reason)),
            Err(error) => Err(error),
        }
    }
}
