//! The registry store: scopes and instances, on SQLite or PostgreSQL.
//!
//! [`open`] returns a reader, which may be shared, and the only writer, which cannot be cloned
//! and moves into the RegistryActor: no other code can write to the database. No backend knows
//! leases, HTTP or actors.

mod postgres;
mod results;
mod sqlite;
mod url;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::results::{
    Declared, Deregistration, Digest, InstancePage, LeaseStart, RecordedLease, Registered,
    RegisteredMany, Removal, ScopeDeletion,
};
pub use self::url::StoreUrl;
use crate::backend::OpenError;
use crate::model::{
    Action, ActionRecord, ActionSelection, DisplayName, Instance, InstanceChange, InstanceId,
    InstanceKey, Registration, ReplicaId, ReplicaState, Scope, ScopeId, ScopeRecord,
};

/// Why a call of the registry store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is unreachable or did not answer in time. Nothing was changed.
    #[error("the registry store is unavailable: {0}")]
    Unavailable(String),
    /// The connection was lost during the commit, which may have happened.
    #[error("the outcome of a commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// Another transaction or a lock was in the way. Nothing was changed, and a retry may succeed.
    #[error("a conflict in the registry store: {0}")]
    Conflict(String),
    /// The store refused a statement. Nothing was changed.
    #[error("the registry store refused a statement: {0}")]
    Refused(String),
}

/// Why the schema could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A retry may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database was migrated by a newer rollcalld.
    #[error(
        "the database has schema version {found}, but this rollcalld supports versions up to {known}: run a newer rollcalld, or restore a backup from before the upgrade"
    )]
    SchemaNewer {
        /// The newest version in the database.
        found: i32,
        /// The newest version in this binary.
        known: i32,
    },
    /// A migration failed, or differs from the one that was applied.
    #[error("cannot migrate the database: {0}")]
    Failed(String),
}

/// The reads.
#[async_trait]
pub trait RegistryReader: Send + Sync {
    /// Returns all scopes, in no order.
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError>;

    /// Returns a scope by its key, if it is declared.
    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError>;

    /// Returns a scope by its ID, if there is one.
    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError>;

    /// Returns the instances with an ID greater than `after`, by ID, at most `limit`.
    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<InstancePage, StoreError>;

    /// Returns those of the given instances that are registered, in no order, in one round trip.
    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError>;

    /// Returns at most `limit` actions of operators with smaller IDs than `before`, the latest first.
    async fn list_actions(
        &self,
        selection: &ActionSelection,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<ActionRecord>, StoreError>;

    /// Returns counts and sums that change with every change.
    async fn digest(&self) -> Result<Digest, StoreError>;

    /// Checks that the store answers, and that the SQLite file can be written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Returns the state of the connection pool for reads, if there is one.
    fn pool(&self) -> Option<PoolFigures> {
        None
    }
}

/// The state of a connection pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Open connections.
    pub(crate) open: usize,
    /// Open connections that are unused.
    pub(crate) idle: usize,
    /// Reads that wait for a connection.
    pub(crate) waiting: usize,
}

/// The only handle that changes the database.
#[async_trait]
pub trait RegistryWriter: Send {
    /// Migrates the schema under a lock that excludes other daemons, and returns the names of the
    /// applied migrations. Idempotent.
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError>;

    /// Begins a transaction, which records everything at the time `now`. Dropping it without
    /// [`RegistryTransaction::commit`] rolls it back.
    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError>;
}

/// A transaction of the registry store. After an error it can only be dropped. Every write is
/// idempotent: a repeated one finds its own effect.
#[async_trait]
pub trait RegistryTransaction: Send {
    /// Declares a scope, or gives a known one a name.
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError>;

    /// Removes a scope that has no instances.
    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError>;

    /// Registers instances, each at most once in the slice. The first instance of a service
    /// declares the service. A registration without a difference changes nothing.
    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError>;

    /// Changes an instance for an operator; returns `None` if it is unknown.
    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError>;

    /// Disables a service instance unless it is held; returns `None` if there is none with this ID.
    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError>;

    /// Removes an instance, unless `keep_decided` and an operator's decision is attached to it
    /// ([`Instance::is_decided`]).
    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
        keep_decided: bool,
    ) -> Result<Deregistration, StoreError>;

    /// Marks an instance offline, whatever its lease is; with `only_decided` only one to which an
    /// operator's decision is attached. Returns `None` for any other instance, and for one that is
    /// offline already.
    async fn take_offline(
        &mut self,
        key: &InstanceKey,
        only_decided: bool,
    ) -> Result<Option<Instance>, StoreError>;

    /// Removes instances that went offline and were changed last before `before`, except held ones,
    /// at most `limit`.
    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Removal, StoreError>;

    /// Marks instances online if the given lease is newer than the recorded one, and returns those
    /// that were recorded, in no order. Keys must be unique.
    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<RecordedLease>, StoreError>;

    /// Marks instances offline if the given lease is still the recorded one, and returns the
    /// changed instances, in no order. Keys must be unique.
    async fn record_offline(&mut self, starts: &[LeaseStart]) -> Result<Vec<Instance>, StoreError>;

    /// Enables the instances whose holds have ended, at most `limit`, and returns them.
    async fn end_holds(&mut self, limit: u16) -> Result<Vec<Instance>, StoreError>;

    /// Returns those of the given instances that are registered, in no order.
    async fn find_instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError>;

    /// Records an action of an operator.
    async fn record_action(&mut self, action: &Action) -> Result<(), StoreError>;

    /// Deletes the oldest actions that were recorded before a time, at most `limit`, and returns how
    /// many.
    async fn purge_actions(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<usize, StoreError>;

    /// Records which lease store a replica uses, and returns what all other running replicas
    /// recorded. Removes old records of replicas that ended. A store for one replica alone records
    /// nothing and returns none.
    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError>;

    /// Makes the transaction durable.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Which lease store a replica uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The replica.
    pub replica: ReplicaId,
    /// What it says about itself; `None` for a replica of an earlier version.
    pub state: Option<ReplicaState>,
    /// The servers of its lease store as one text; `None` while the replica cannot renew leases.
    pub(crate) lease_store: Option<String>,
}

/// An open registry store.
pub struct Store {
    /// Reads; may be shared.
    pub reader: Arc<dyn RegistryReader>,
    /// Writes; cannot be cloned, and is the only one.
    pub writer: Box<dyn RegistryWriter>,
}

/// Opens a registry store. The SQLite file is opened at once; connections to PostgreSQL are
/// made when they are needed, on the current runtime.
pub fn open(url: &StoreUrl) -> Result<Store, OpenError> {
    match url {
        StoreUrl::Sqlite(path) => sqlite::open(path),
        StoreUrl::Postgres(url) => postgres::open(url),
    }
}

/// Converts an error of refinery to one for the operator.
fn migrate_error(error: &refinery::Error, runner: &refinery::Runner) -> MigrateError {
    let versions = runner
        .get_migrations()
        .iter()
        .map(refinery::Migration::version);
    let known = versions.max().unwrap_or(0);
    match error.kind() {
        refinery::error::Kind::MissingVersion(applied) if applied.version() > known => {
            MigrateError::SchemaNewer {
                found: applied.version(),
                known,
            }
        }
        kind => MigrateError::Failed(with_sources(kind)),
    }
}

/// Formats an error with its causes, which contain what the drivers report.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = error.source();
    }
    message
}
