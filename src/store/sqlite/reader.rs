//! Reads, which wait for their turn on the thread.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};

use super::thread::{SqliteThread, store_error};
use super::{find_scope, rows};
use crate::model::{
    ActionKind, ActionRecord, ActionSelection, Address, Instance, InstanceId, InstanceKey, Scope,
    ScopeId, ScopeRecord,
};
use crate::store::{Digest, InstancePage, RegistryReader, StoreError};

pub(super) struct SqliteReader {
    pub(super) thread: SqliteThread,
}

impl SqliteReader {
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.thread
            .run(move |connection| query(connection))
            .await?
            .map_err(store_error)
    }
}

#[async_trait]
impl RegistryReader for SqliteReader {
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(sql!("list_scopes"))?
                .query_map([], rows::scope)?
                .collect()
        })
        .await
    }

    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        let scope = scope.clone();
        self.read(move |connection| find_scope(connection, &scope))
            .await
    }

    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(sql!("find_scope_by_id"))?
                .query_row([id.0], rows::scope)
                .optional()
        })
        .await
    }

    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<InstancePage, StoreError> {
        let instances = self.read(move |connection| {
            connection
                .prepare_cached(sql!("list_instances"))?
                .query_map([after.0, i64::from(limit)], rows::instance)?
                .collect::<rusqlite::Result<Vec<_>>>()
        });
        Ok(instances.await?.into())
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        let keys = keys.to_vec();
        self.read(move |connection| {
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

    async fn list_actions(
        &self,
        selection: &ActionSelection,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<ActionRecord>, StoreError> {
        let selection = selection.clone();
        self.read(move |connection| {
            let (scope, within) = (selection.scope.as_ref(), selection.within.as_ref());
            let millis = |time: DateTime<Utc>| time.timestamp_millis();
            connection
                .prepare_cached(sql!("list_actions"))?
                .query_map(
                    params![
                        before.unwrap_or(i64::MAX),
                        scope.map(|scope| scope.kind.as_str()),
                        scope.map(|scope| scope.key.as_str()),
                        selection.address.as_ref().map(Address::as_str),
                        selection.token,
                        selection.kind.map(ActionKind::as_str),
                        selection.since.map(millis),
                        selection.until.map(millis),
                        within.map(|(kind, ..)| kind.as_str()),
                        within.map(|(_, key, _)| key.as_str()),
                        within.is_some_and(|(.., any_end)| *any_end),
                        i64::from(limit)
                    ],
                    rows::action,
                )?
                .collect()
        })
        .await
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(sql!("digest"))?
                .query_row([], rows::digest)
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let writes = self.thread.writes();
        self.thread
            .run(move |connection| writes.probe(connection))
            .await?
    }
}
