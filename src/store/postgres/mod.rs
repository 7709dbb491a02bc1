//! The shared registry store: PostgreSQL through a pool.
//!
//! Every statement is constant, prepared once per connection, and bounded in time
//! on both sides. A connection whose answer did not come is closed, never handed
//! to the next caller: the server may still be at work on it.

mod connect;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::{Object, Pool};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use url::Url;

pub(super) use self::connect::check_url;
use super::{
    Declared, Life, MigrateError, Registered, RegistryReader, RegistryTransaction, RegistryWriter,
    ScopeDeletion, Store, StoreError, WentOnline, migrate_error, with_sources,
};
use crate::error::{BackendUrl, OpenError};
use crate::model::{
    DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Note, Registration, Scope,
    ScopeId, ScopeKind, ScopeRecord, Status,
};

refinery::embed_migrations!("sql/postgres/migrations");

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("../../../sql/postgres/queries/", $name, ".sql"))
    };
}

/// The advisory lock that daemons take to migrate: "rollcall" as a number.
const MIGRATION_LOCK: i64 = 0x726f_6c6c_6361_6c6c;

/// The most connections for reading.
const READERS: usize = 7;

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) fn open(url: &Url) -> Result<Store, OpenError> {
    // Readers, however many and slow, never keep the writer from its connection.
    let pool = |connections| {
        connect::pool(url, connections).map_err(|reason| OpenError {
            backend: BackendUrl::new(url.clone()).to_string(),
            reason,
        })
    };
    Ok(Store {
        reader: Arc::new(PostgresReader {
            pool: pool(READERS)?,
        }),
        writer: Box::new(PostgresWriter { pool: pool(1)? }),
    })
}

/// A connection that goes back to the pool only when the last answer has come. Dropped
/// before, with its caller or by a timeout, it is closed.
struct Checkout {
    connection: Option<Object>,
    idle: bool,
}

impl Checkout {
    async fn from(pool: &Pool) -> Result<Self, StoreError> {
        let connection = pool
            .get()
            .await
            .map_err(|error| StoreError::Unavailable(with_sources(&error)))?;
        Ok(Self {
            connection: Some(connection),
            idle: true,
        })
    }

    async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.answer(async |connection: &Object| {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, params).await
        })
        .await
    }

    async fn execute_simple(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.answer(async |connection: &Object| connection.batch_execute(sql).await)
            .await
    }

    async fn answer<T>(
        &mut self,
        ask: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let Some(connection) = &self.connection else {
            return Err(gone());
        };
        self.idle = false;
        match timeout(connect::ANSWER, ask(connection)).await {
            Ok(Ok(answer)) => {
                self.idle = true;
                Ok(answer)
            }
            Ok(Err(error)) => Err(store_error(&error)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer from Postgres within {:?}",
                connect::ANSWER
            ))),
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if !self.idle
            && let Some(connection) = self.connection.take()
        {
            drop(Object::take(connection));
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the connection was closed".into())
}

/// What Postgres says of a statement's content is final. That it is stopping, out of
/// resources or read-only (classes 08, 25, 53, 57, 58) is not; and a lock, a deadlock, a
/// statement's time, or a scope that another transaction deletes or fills (23503) is a
/// matter of the moment.
fn store_error(error: &tokio_postgres::Error) -> StoreError {
    let message = with_sources(error);
    let code = error.code().map(SqlState::code);
    match (code, code.map(|code| &code[..2])) {
        (Some("23503" | "57014"), _) | (_, Some("40" | "55")) => StoreError::Conflict(message),
        (_, None | Some("08" | "25" | "53" | "57" | "58")) => StoreError::Unavailable(message),
        (_, Some(_)) => StoreError::Refused(message),
    }
}

struct PostgresReader {
    pool: Pool,
}

impl PostgresReader {
    /// One read. A pooled connection may have died unseen, so a read whose
    /// connection failed is tried once more on another one.
    async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let mut connection = Checkout::from(&self.pool).await?;
        match connection.query(sql, params).await {
            Err(StoreError::Unavailable(_)) if is_closed(&connection) => {
                drop(connection);
                Checkout::from(&self.pool).await?.query(sql, params).await
            }
            answer => answer,
        }
    }
}

fn is_closed(checkout: &Checkout) -> bool {
    checkout
        .connection
        .as_ref()
        .is_none_or(|connection| connection.is_closed())
}

fn one<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    rows.first().map(read).transpose()
}

#[async_trait]
impl RegistryReader for PostgresReader {
    async fn list_scopes(&self, kind: ScopeKind) -> Result<Vec<ScopeRecord>, StoreError> {
        let rows = self.query(sql!("list_scopes"), &[&kind.as_str()]).await?;
        rows.iter().map(rows::scope).collect()
    }

    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        let params: Params<'_> = &[&scope.kind.as_str(), &scope.key.as_str()];
        one(&self.query(sql!("find_scope"), params).await?, rows::scope)
    }

    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        one(
            &self.query(sql!("find_scope_by_id"), &[&id.0]).await?,
            rows::scope,
        )
    }

    async fn list_instances(&self, scope: &Scope) -> Result<Vec<Instance>, StoreError> {
        let params: Params<'_> = &[&scope.kind.as_str(), &scope.key.as_str()];
        let rows = self.query(sql!("list_instances"), params).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn list_statuses(
        &self,
        kind: ScopeKind,
    ) -> Result<Vec<(InstanceKey, Status)>, StoreError> {
        let rows = self.query(sql!("list_statuses"), &[&kind.as_str()]).await?;
        rows.iter().map(rows::status).collect()
    }

    async fn list_online(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<Vec<(InstanceId, Life)>, StoreError> {
        let params: Params<'_> = &[&after.0, &i64::from(limit)];
        let rows = self.query(sql!("list_online"), params).await?;
        rows.iter().map(rows::life).collect()
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        let columns = KeyColumns::of(keys.iter());
        let params: Params<'_> = &[&columns.kinds, &columns.keys, &columns.addresses];
        let rows = self.query(sql!("find_instances"), params).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Checkout::from(&self.pool).await?.execute_simple("").await
    }
}

/// Instance keys as the columns of an `unnest`.
struct KeyColumns<'a> {
    kinds: Vec<&'static str>,
    keys: Vec<&'a str>,
    addresses: Vec<&'a str>,
}

impl<'a> KeyColumns<'a> {
    fn of(keys: impl Iterator<Item = &'a InstanceKey> + Clone) -> Self {
        Self {
            kinds: keys.clone().map(|key| key.scope.kind.as_str()).collect(),
            keys: keys.clone().map(|key| key.scope.key.as_str()).collect(),
            addresses: keys.map(|key| key.address.as_str()).collect(),
        }
    }
}

struct PostgresWriter {
    pool: Pool,
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
            if !is_closed(&connection) {
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
        if !deleted.is_empty() {
            return Ok(ScopeDeletion::Deleted);
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
    ) -> Result<Vec<Option<Registered>>, StoreError> {
        let services: Vec<&str> = registrations
            .iter()
            .map(|registration| &registration.key.scope)
            .filter(|scope| scope.kind == ScopeKind::Service)
            .map(|scope| scope.key.as_str())
            .collect();
        if !services.is_empty() {
            let params: Params<'_> = &[&services, &self.now];
            self.connection
                .query(sql!("declare_services"), params)
                .await?;
        }
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
            let instance = rows::instance(row)?;
            let created = rows::get(row, "created")?;
            registered.insert(instance.key.clone(), Registered { instance, created });
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
        answers.collect()
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

    async fn disable_service_instance(&mut self, id: InstanceId) -> Result<bool, StoreError> {
        let params: Params<'_> = &[&id.0, &self.now];
        let rows = self
            .connection
            .query(sql!("disable_instance"), params)
            .await?;
        Ok(!rows.is_empty())
    }

    async fn deregister_instance(&mut self, key: &InstanceKey) -> Result<bool, StoreError> {
        let params: Params<'_> = &[
            &key.scope.kind.as_str(),
            &key.scope.key.as_str(),
            &key.address.as_str(),
        ];
        let rows = self
            .connection
            .query(sql!("deregister_instance"), params)
            .await?;
        Ok(!rows.is_empty())
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

fn json(metadata: &crate::model::Metadata) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(metadata).map_err(|error| StoreError::Refused(error.to_string()))
}
