//! The writer, its transactions, and the schema.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use tokio_postgres::Row;

use super::checkout::{Checkout, gone, store_error};
use super::{KeyColumns, Params, one, rows};
use crate::model::{
    DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Metadata, Note, Registration,
    Scope, ScopeKind, ScopeRecord,
};
use crate::store::{
    Declared, Life, MigrateError, Registered, RegisteredMany, RegistryTransaction, RegistryWriter,
    ScopeDeletion, StoreError, WentOnline, migrate_error, with_sources,
};

refinery::embed_migrations!("sql/postgres/migrations");

/// The advisory lock that daemons take to migrate: "rollcall" as a number.
const MIGRATION_LOCK: i64 = 0x726f_6c6c_6361_6c6c;

pub(super) struct PostgresWriter {
    pub(super) pool: Pool,
}

#[async_trait]
impl RegistryWriter for PostgresWriter {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        let mut checkout = Checkout::from(&self.pool).await?;
        // Waiting for another daemon's migration, and a migration itself, may take
        // longer than any request. The session, and its lock, end with this connection.
        checkout.idle = false;
        let Some(connection) = checkout.connection.as_mut() else {
            return Err(gone().into());
        };
        let client: &mut tokio_postgres::Client = connection;
        let store = |error: tokio_postgres::Error| MigrateError::Store(store_error(&error));
        client
            .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0")
            .await
            .map_err(store)?;
        client
            .query_one("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(store)?;
        let runner = migrations::runner();
        let report = match runner.run_async(client).await {
            Ok(report) => report,
            Err(error) if client.is_closed() => {
                return Err(StoreError::Unavailable(with_sources(&error)).into());
            }
            Err(error) => return Err(migrate_error(&error, &runner)),
        };
        Ok(report
            .applied_migrations()
            .iter()
            .map(ToString::to_string)
            .collect())
    }

    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        let mut connection = Checkout::from(&self.pool).await?;
        if let Err(error) = connection.execute_simple("BEGIN").await {
            // A pooled connection may have died unseen; nothing was sent on it yet.
            if !connection.is_closed() {
                return Err(error);
            }
            connection = Checkout::from(&self.pool).await?;
            connection.execute_simple("BEGIN").await?;
        }
        Ok(Box::new(PostgresTransaction {
            connection,
            now,
            committed: false,
        }))
    }
}

struct PostgresTransaction {
    connection: Checkout,
    now: DateTime<Utc>,
    committed: bool,
}

impl Drop for PostgresTransaction {
    fn drop(&mut self) {
        if !self.committed {
            // Closing the connection is the rollback.
            self.connection.idle = false;
        }
    }
}

impl PostgresTransaction {
    /// Declares the services of `registrations` that are not known yet.
    async fn declare_services(
        &mut self,
        registrations: &[Registration],
    ) -> Result<Vec<ScopeRecord>, StoreError> {
        let services: Vec<&str> = registrations
            .iter()
            .map(|registration| &registration.key.scope)
            .filter(|scope| scope.kind == ScopeKind::Service)
            .map(|scope| scope.key.as_str())
            .collect();
        if services.is_empty() {
            return Ok(Vec::new());
        }
        let params: Params<'_> = &[&services, &self.now];
        let rows = self
            .connection
            .query(sql!("declare_services"), params)
            .await?;
        rows.iter().map(rows::scope).collect()
    }

    /// Inserts and updates instances; answers for those that this changed.
    async fn upsert(
        &mut self,
        registrations: &[Registration],
    ) -> Result<HashMap<InstanceKey, Registered>, StoreError> {
        let columns = KeyColumns::of(registrations.iter().map(|registration| &registration.key));
        let mut names = Vec::with_capacity(registrations.len());
        let mut weights = Vec::with_capacity(registrations.len());
        let mut metadata = Vec::with_capacity(registrations.len());
        let mut ttls = Vec::with_capacity(registrations.len());
        for registration in registrations {
            names.push(registration.name.as_ref().map(DisplayName::as_str));
            weights.push(registration.weight.map(|weight| i32::from(weight.get())));
            metadata.push(registration.metadata.as_ref().map(json).transpose()?);
            ttls.push(registration.ttl.map(|ttl| i32::from(ttl.as_secs())));
        }
        let params: Params<'_> = &[
            &columns.kinds,
            &columns.keys,
            &columns.addresses,
            &names,
            &weights,
            &metadata,
            &ttls,
            &self.now,
        ];
        let rows = self
            .connection
            .query(sql!("register_instances"), params)
            .await?;
        let mut registered = HashMap::with_capacity(rows.len());
        for row in &rows {
            let answer = Registered {
                instance: rows::instance(row)?,
                created: rows::get(row, "created")?,
                changed: true,
            };
            registered.insert(answer.instance.key.clone(), answer);
        }
        Ok(registered)
    }

    /// Those of the given instances that are registered.
    async fn find(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let columns = KeyColumns::of(keys.iter());
        let params: Params<'_> = &[&columns.kinds, &columns.keys, &columns.addresses];
        let rows = self
            .connection
            .query(sql!("find_instances"), params)
            .await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn record(&mut self, sql: &'static str, lives: &[Life]) -> Result<Vec<Row>, StoreError> {
        let columns = KeyColumns::of(lives.iter().map(|life| &life.key));
        let epochs: Vec<i64> = lives.iter().map(|life| life.epoch.0).collect();
        let params: Params<'_> = &[
            &columns.kinds,
            &columns.keys,
            &columns.addresses,
            &epochs,
            &self.now,
        ];
        self.connection.query(sql, params).await
    }
}

#[async_trait]
impl RegistryTransaction for PostgresTransaction {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        let params: Params<'_> = &[
            &scope.kind.as_str(),
            &scope.key.as_str(),
            &name.map(DisplayName::as_str),
            &self.now,
        ];
        let rows = self.connection.query(sql!("declare_scope"), params).await?;
        let declared = one(&rows, |row| {
            Ok(Declared {
                record: rows::scope(row)?,
                created: rows::get(row, "created")?,
            })
        })?;
        declared.ok_or_else(|| StoreError::Refused("declare_scope returned no row".into()))
    }

    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError> {
        let params: Params<'_> = &[&scope.kind.as_str(), &scope.key.as_str()];
        let deleted = self.connection.query(sql!("delete_scope"), params).await?;
        if let Some(record) = one(&deleted, rows::scope)? {
            return Ok(ScopeDeletion::Deleted(record));
        }
        let known = self.connection.query(sql!("find_scope"), params).await?;
        Ok(match known.is_empty() {
            true => ScopeDeletion::Unknown,
            false => ScopeDeletion::HasInstances,
        })
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        let services = self.declare_services(registrations).await?;
        let mut registered = self.upsert(registrations).await?;
        let unchanged: Vec<InstanceKey> = registrations
            .iter()
            .filter(|registration| !registered.contains_key(&registration.key))
            .map(|registration| registration.key.clone())
            .collect();
        for instance in self.find(&unchanged).await? {
            let answer = Registered {
                created: false,
                changed: false,
                instance,
            };
            registered.insert(answer.instance.key.clone(), answer);
        }
        let answers = registrations.iter().map(|registration| {
            let answer = registered.remove(&registration.key);
            match registration.key.scope.kind {
                // It was declared a statement ago, and another daemon has deleted it since.
                ScopeKind::Service if answer.is_none() => Err(StoreError::Conflict(format!(
                    "{} was deleted",
                    registration.key.scope
                ))),
                _ => Ok(answer),
            }
        });
        let instances = answers.collect::<Result<_, _>>()?;
        Ok(RegisteredMany {
            instances,
            services,
        })
    }

    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        let status = change.status.as_ref();
        let hold = status.and_then(|status| status.hold());
        let params: Params<'_> = &[
            &key.scope.kind.as_str(),
            &key.scope.key.as_str(),
            &key.address.as_str(),
            &status.map(|status| status.status().as_str()),
            &hold.map(|hold| hold.by.as_str()),
            &hold.and_then(|hold| hold.reason.as_ref()).map(Note::as_str),
            &change.weight.map(|weight| i32::from(weight.get())),
            &change.metadata.as_ref().map(json).transpose()?,
            &self.now,
        ];
        let rows = self
            .connection
            .query(sql!("change_instance"), params)
            .await?;
        one(&rows, rows::instance)
    }

    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        let params: Params<'_> = &[&id.0, &self.now];
        let rows = self
            .connection
            .query(sql!("disable_instance"), params)
            .await?;
        one(&rows, rows::instance)
    }

    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
    ) -> Result<Option<Instance>, StoreError> {
        let params: Params<'_> = &[
            &key.scope.kind.as_str(),
            &key.scope.key.as_str(),
            &key.address.as_str(),
        ];
        let rows = self
            .connection
            .query(sql!("deregister_instance"), params)
            .await?;
        one(&rows, rows::instance)
    }

    async fn forget_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Vec<Instance>, StoreError> {
        let params: Params<'_> = &[&before, &i64::from(limit)];
        let rows = self
            .connection
            .query(sql!("forget_instances"), params)
            .await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn record_online(&mut self, lives: &[Life]) -> Result<Vec<WentOnline>, StoreError> {
        let rows = self.record(sql!("record_online"), lives).await?;
        let changed = rows.iter().map(|row| {
            Ok(WentOnline {
                instance: rows::instance(row)?,
                transition: rows::get(row, "transition")?,
            })
        });
        changed.collect()
    }

    async fn record_offline(&mut self, lives: &[Life]) -> Result<Vec<Instance>, StoreError> {
        let rows = self.record(sql!("record_offline"), lives).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        match self.connection.execute_simple("COMMIT").await {
            Ok(()) => {
                self.committed = true;
                Ok(())
            }
            Err(StoreError::Unavailable(reason)) => Err(StoreError::OutcomeUnknown(reason)),
            Err(error) => Err(error),
        }
    }
}

fn json(metadata: &Metadata) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(metadata).map_err(|error| StoreError::Refused(error.to_string()))
}
