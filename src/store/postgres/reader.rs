//! Reads, from any number of callers at once.

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::checkout::PooledConnection;
use super::{KeyColumns, Params, one, rows};
use crate::model::{
    ActionKind, ActionRecord, ActionSelection, Address, Instance, InstanceId, InstanceKey, Scope,
    ScopeId, ScopeRecord,
};
use crate::store::{Digest, InstancePage, PoolFigures, RegistryReader, StoreError};

pub(super) struct PostgresReader {
    pub(super) pool: Pool,
}

impl PostgresReader {
    /// Runs one read. A pooled connection may have died unnoticed, so a read whose connection
    /// failed is retried once on another one.
    async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let mut connection = PooledConnection::from(&self.pool).await?;
        match connection.query(sql, params).await {
            Err(StoreError::Unavailable(_)) if connection.is_closed() => {
                drop(connection);
                PooledConnection::from(&self.pool)
                    .await?
                    .query(sql, params)
                    .await
            }
            answer => answer,
        }
    }
}

#[async_trait]
impl RegistryReader for PostgresReader {
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        let rows = self.query(sql!("list_scopes"), &[]).await?;
        rows.iter().map(rows::scope).collect()
    }

    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        let params: Params<'_> = &[
            (&scope.kind.as_str(), Type::TEXT),
            (&scope.key.as_str(), Type::TEXT),
        ];
        one(&self.query(sql!("find_scope"), params).await?, rows::scope)
    }

    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        one(
            &self
                .query(sql!("find_scope_by_id"), &[(&id.0, Type::INT8)])
                .await?,
            rows::scope,
        )
    }

    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<InstancePage, StoreError> {
        let params: Params<'_> = &[(&after.0, Type::INT8), (&i64::from(limit), Type::INT8)];
        let rows = self.query(sql!("list_instances"), params).await?;
        let last = rows.last().map(|row| rows::get(row, "id").map(InstanceId));
        let instances = rows.into_iter().map(|row| rows::instance(&row));
        Ok(InstancePage::new(last.transpose()?, instances))
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        let columns = KeyColumns::of(keys.iter());
        let rows = self
            .query(sql!("find_instances"), &columns.params())
            .await?;
        rows.iter().map(rows::instance).collect()
    }

    async fn list_actions(
        &self,
        selection: &ActionSelection,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<ActionRecord>, StoreError> {
        let (scope, within) = (selection.scope.as_ref(), selection.within.as_ref());
        let params: Params<'_> = &[
            (&before.unwrap_or(i64::MAX), Type::INT8),
            (&scope.map(|scope| scope.kind.as_str()), Type::TEXT),
            (&scope.map(|scope| scope.key.as_str()), Type::TEXT),
            (&selection.address.as_ref().map(Address::as_str), Type::TEXT),
            (&selection.token, Type::TEXT),
            (&selection.kind.map(ActionKind::as_str), Type::TEXT),
            (&selection.since, Type::TIMESTAMPTZ),
            (&selection.until, Type::TIMESTAMPTZ),
            (&within.map(|(kind, ..)| kind.as_str()), Type::TEXT),
            (&within.map(|(_, key, _)| key.as_str()), Type::TEXT),
            (&within.is_some_and(|(.., any_end)| *any_end), Type::BOOL),
            (&i64::from(limit), Type::INT8),
        ];
        let rows = self.query(sql!("list_actions"), params).await?;
        rows.iter().map(rows::action).collect()
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        let rows = self.query(sql!("digest"), &[]).await?;
        let digest = one(&rows, rows::digest)?;
        digest.ok_or_else(|| StoreError::Refused("digest returned no row".into()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let pinged = PooledConnection::from(&self.pool).await?.writable().await;
        if pinged.is_err() {
            // The other connections lead to the same server, which may be a standby now.
            self.pool.retain(|_, _| false);
        }
        pinged
    }

    fn pool(&self) -> Option<PoolFigures> {
        let status = self.pool.status();
        Some(PoolFigures {
            open: status.size,
            idle: status.available,
            waiting: status.waiting,
        })
    }
}
