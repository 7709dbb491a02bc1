//! The writer and its transactions.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::checkout::PooledConnection;
use super::{KeyColumns, Params, migrate, one, rows};
use crate::model::{
    DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Metadata, Note, Registration,
    ReplicaId, Scope, ScopeKind, ScopeRecord,
};
use crate::store::{
    Attestation, Declared, LeaseStart, MigrateError, Registered, RegisteredMany,
    RegistryTransaction, RegistryWriter, ScopeDeletion, StoreError, WentOnline,
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

struct PostgresTransaction<'a> {
    pool: &'a Pool,
    connection: PooledConnection,
    now: DateTime<Utc>,
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

    async fn query_pipelined(
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

    /// Declares the unknown services, then inserts and updates instances. Returns the services and
    /// instances that changed.
    async fn upsert(
        &mut self,
        services: &[&str],
        registrations: &[&Registration],
    ) -> Result<(Vec<ScopeRecord>, Vec<Registered>), StoreError> {
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
        let now = self.now;
        let declare: Params<'_> = &[(&services, Type::TEXT_ARRAY), (&now, Type::TIMESTAMPTZ)];
        let register: Params<'_> = &[
            (&columns.kinds, Type::TEXT_ARRAY),
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.addresses, Type::TEXT_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&weights, Type::INT4_ARRAY),
            (&metadata, Type::JSONB_ARRAY),
            (&ttls, Type::INT4_ARRAY),
            (&now, Type::TIMESTAMPTZ),
        ];
        let mut questions = vec![(sql!("register_instances"), register)];
        if !services.is_empty() {
            questions.insert(0, (sql!("declare_services"), declare));
        }
        let mut answers = self.query_pipelined(&questions).await?;
        let registered = answers.pop().unwrap_or_default();
        let declared = answers.pop().unwrap_or_default();
        let registered = registered.iter().map(|row| {
            Ok(Registered {
                instance: rows::instance(row)?,
                created: rows::get(row, "created")?,
                changed: true,
            })
        });
        let registered = registered.collect::<Result<_, _>>()?;
        let declared = declared.iter().map(rows::scope).collect::<Result<_, _>>()?;
        Ok((declared, registered))
    }

    /// Returns those of the given instances that are registered.
    async fn find(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
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

fn by_key(registered: impl IntoIterator<Item = Registered>) -> HashMap<InstanceKey, Registered> {
    let with_key = |one: Registered| (one.instance.key.clone(), one);
    registered.into_iter().map(with_key).collect()
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
        // Most services are known; the unknown ones show as missing results.
        let all: Vec<&Registration> = registrations.iter().collect();
        let (_, changed) = self.upsert(&[], &all).await?;
        let mut registered = by_key(changed);
        let missing: Vec<InstanceKey> = all
            .iter()
            .map(|registration| &registration.key)
            .filter(|key| !registered.contains_key(key))
            .cloned()
            .collect();
        let unchanged = self.find(&missing).await?.into_iter();
        registered.extend(by_key(unchanged.map(|instance| Registered {
            created: false,
            changed: false,
            instance,
        })));
        let of_unknown = |registration: &&Registration| {
            let key = &registration.key;
            key.scope.kind == ScopeKind::Service && !registered.contains_key(key)
        };
        let of_unknown: Vec<&Registration> = all.into_iter().filter(of_unknown).collect();
        let mut services = Vec::new();
        if !of_unknown.is_empty() {
            let keys = of_unknown.iter().map(|one| one.key.scope.key.as_str());
            let keys: Vec<&str> = keys.collect();
            let (declared, created) = self.upsert(&keys, &of_unknown).await?;
            services = declared;
            registered.extend(by_key(created));
        }
        let answers = registrations.iter().map(|registration| {
            let answer = registered.remove(&registration.key);
            match registration.key.scope.kind {
                // It was declared one statement ago, and another replica has deleted it since.
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
                &change.weight.map(|weight| i32::from(weight.get())),
                Type::INT4,
            ),
            (
                &change.metadata.as_ref().map(json).transpose()?,
                Type::JSONB,
            ),
            (&now, Type::TIMESTAMPTZ),
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
    ) -> Result<Option<Instance>, StoreError> {
        let params: Params<'_> = &[
            (&key.scope.kind.as_str(), Type::TEXT),
            (&key.scope.key.as_str(), Type::TEXT),
            (&key.address.as_str(), Type::TEXT),
        ];
        let rows = self.query(sql!("deregister_instance"), params).await?;
        one(&rows, rows::instance)
    }

    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Vec<Instance>, StoreError> {
        let params: Params<'_> = &[
            (&before, Type::TIMESTAMPTZ),
            (&i64::from(limit), Type::INT8),
        ];
        let rows = self.query(sql!("purge_offline_instances"), params).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<WentOnline>, StoreError> {
        let rows = self.record(sql!("record_online"), starts).await?;
        let changed = rows.iter().map(|row| {
            Ok(WentOnline {
                instance: rows::instance(row)?,
                transition: rows::get(row, "transition")?,
            })
        });
        changed.collect()
    }

    async fn record_offline(&mut self, starts: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        let rows = self.record(sql!("record_offline"), starts).await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        let params: Params<'_> = &[(&own.replica.0, Type::TEXT), (&own.lease_store, Type::TEXT)];
        let rows = self.query(sql!("attest"), params).await?;
        let others = rows.iter().map(|row| {
            Ok(Attestation {
                replica: ReplicaId(rows::get(row, "id")?),
                lease_store: rows::get(row, "lease_store")?,
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

fn json(metadata: &Metadata) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(metadata).map_err(|error| StoreError::Refused(error.to_string()))
}
