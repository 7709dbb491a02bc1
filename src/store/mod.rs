//! The registry store: what was declared and decided, on SQLite or PostgreSQL.
//!
//! [`open`] gives a reader, which may be shared, and the one writer, which cannot
//! be cloned and moves into the RegistryActor: whoever writes to the database has
//! to be that actor. No backend knows leases, HTTP or actors.

mod postgres;
mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::{BackendUrl, OpenError, UrlError};
use crate::model::{
    DisplayName, Epoch, Instance, InstanceChange, InstanceId, InstanceKey, Registration, ReplicaId,
    Scope, ScopeId, ScopeRecord,
};

/// Why a call of the registry store gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or did not answer in time. Nothing was changed.
    #[error("the registry store is unavailable: {0}")]
    Unavailable(String),
    /// The commit was under way when the connection was lost: it may have happened.
    #[error("the outcome of a commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// Another daemon's transaction, or somebody's lock, stood against this one. Nothing
    /// was changed, and trying again helps.
    #[error("a conflict in the registry store: {0}")]
    Conflict(String),
    /// The store is there and refused a statement. Nothing was changed.
    #[error("the registry store refused a statement: {0}")]
    Refused(String),
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Waiting and trying again may help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database was migrated by a newer rollcalld.
    #[error(
        "the database has schema version {found} and this rollcalld knows versions up to {known}: run a newer rollcalld, or restore the database from before its upgrade"
    )]
    SchemaNewer {
        /// The newest version applied to the database.
        found: i32,
        /// The newest version in this binary.
        known: i32,
    },
    /// A migration failed, or one that was applied has another text here.
    #[error("cannot migrate the database: {0}")]
    Failed(String),
}

/// What the reader and the HTTP side may ask.
#[async_trait]
pub trait RegistryReader: Send + Sync {
    /// All scopes, in no order.
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError>;

    /// A scope by its key, if it is declared.
    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError>;

    /// A scope by its id, if there is one.
    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError>;

    /// All instances, by id, beginning after `after`, at most `limit`.
    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<Vec<Instance>, StoreError>;

    /// Those of the given instances that are registered, in no order, in one
    /// round trip.
    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError>;

    /// What changes with every change.
    async fn digest(&self) -> Result<Digest, StoreError>;

    /// Whether the store answers, and SQLite's file can be written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// The connections for reading, where there is a pool of them.
    fn pool(&self) -> Option<PoolFigures> {
        None
    }
}

/// The connections of a pool at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Open.
    pub open: usize,
    /// Open, and used by nobody.
    pub idle: usize,
    /// Reads that wait for one.
    pub waiting: usize,
}

/// The one handle that changes the database.
#[async_trait]
pub trait RegistryWriter: Send {
    /// Brings the schema up to date under a lock that excludes other daemons, and
    /// returns the names of the migrations that were applied. Harmless to repeat.
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError>;

    /// Begins a transaction; everything in it is recorded at the time `now`.
    /// Dropping it without [`RegistryTransaction::commit`] changes nothing.
    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError>;
}

/// A transaction of the registry store. After an error it can only be dropped.
/// Every write may be sent again: the second time it finds its own effect.
#[async_trait]
pub trait RegistryTransaction: Send {
    /// Declares a scope; a known one gets the name, where one is given.
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError>;

    /// Removes a scope that has no instances.
    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError>;

    /// Registers many instances, each of them at most once in the slice; a service
    /// is declared by its first instance. What changes nothing is no change.
    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError>;

    /// An operator's change; `None` where the instance is unknown.
    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError>;

    /// Disables a service instance unless it is held; `None` where none has that id.
    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError>;

    /// Removes an instance and returns it as it was last; `None` where it is unknown.
    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
    ) -> Result<Option<Instance>, StoreError>;

    /// Removes instances that went offline, and were changed last, before `before`, at
    /// most `limit`; not those that are held. Returns them as they were last, in no order.
    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Vec<Instance>, StoreError>;

    /// Records that instances are alive, each since an epoch; of an instance that is
    /// unknown, or known to be of that or a later life, nothing. Answers for those that
    /// changed, in no order. No instance may come twice.
    async fn record_online(&mut self, lives: &[LeaseStart]) -> Result<Vec<WentOnline>, StoreError>;

    /// Records that lives are over; of an instance that is unknown, offline or of another
    /// life by now, nothing. Answers for those that changed, in no order. No instance may
    /// come twice.
    async fn record_offline(&mut self, lives: &[LeaseStart]) -> Result<Vec<Instance>, StoreError>;

    /// Records which lease store a replica of the daemon uses, and returns what all other
    /// replicas that run have recorded. Old records of replicas that ended are removed. A
    /// store that only one daemon can use records nothing and returns none.
    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError>;

    /// Makes all of it durable.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Which lease store a replica of the daemon uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The replica.
    pub replica: ReplicaId,
    /// The servers of its lease store, as one text; `None` while the replica cannot renew
    /// leases.
    pub lease_store: Option<String>,
}

/// What declaring a scope did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The scope as it is now.
    pub record: ScopeRecord,
    /// Whether it was not known before.
    pub created: bool,
}

/// What registering an instance did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The instance as it is now.
    pub instance: Instance,
    /// Whether it was not known before.
    pub created: bool,
    /// Whether anything is different from before.
    pub changed: bool,
}

/// What registering many instances did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisteredMany {
    /// In the order of the registrations, `None` for a gateway whose group is not declared.
    pub instances: Vec<Option<Registered>>,
    /// The services that were declared by it.
    pub services: Vec<ScopeRecord>,
}

/// Counts and sums of what is stored: two stores, or a store and a copy of it, that
/// differ in something differ in this, but for chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many scopes there are.
    pub scopes: i64,
    /// The sum of their ids and revisions.
    pub scope_sum: i64,
    /// How many instances there are.
    pub instances: i64,
    /// The sum of [`Digest::term`] over them.
    pub instance_sum: i64,
}

impl Digest {
    /// What an instance counts for: more than its id and revision, because after a restore a
    /// revision may have another content than before.
    pub fn term(instance: &Instance) -> i64 {
        // Unlike weights, so that small changes of two parts do not make up for each other.
        const PRIME: i64 = 1_000_000_007;
        let epoch = instance.presence.epoch.map_or(0, |epoch| epoch.0);
        instance.id.0
            + 1009 * instance.revision
            + 500_009 * i64::from(instance.presence.online)
            + epoch % PRIME
            + instance.updated_at.timestamp() % PRIME
    }
}

/// A life of an instance's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStart {
    /// Whose lease.
    pub key: InstanceKey,
    /// When it began.
    pub epoch: Epoch,
}

/// What recording a new life did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WentOnline {
    /// The instance as it is now.
    pub instance: Instance,
    /// Whether it was offline before; otherwise the end of its last life was never recorded.
    pub transition: bool,
}

/// What deleting a scope did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeDeletion {
    /// It is closed, and was this.
    Deleted(ScopeRecord),
    /// It still has instances, and stays.
    HasInstances,
    /// There was none.
    Unknown,
}

/// Which registry store, from `--store`.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: a file, used by one daemon at a time.
    Sqlite(PathBuf),
    /// `postgres://…`: a database, shared by any number of daemons.
    Postgres(BackendUrl),
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        const FORMS: &str = "sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE";
        match text.split_once(':') {
            Some(("sqlite", rest)) => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() || path == ":memory:" {
                    return Err(UrlError::new("sqlite: needs the path of a file"));
                }
                Ok(Self::Sqlite(path.into()))
            }
            Some(("postgres" | "postgresql", _)) => {
                let url = BackendUrl::parse(text)?;
                postgres::check_url(&url)?;
                Ok(Self::Postgres(url))
            }
            _ => Err(UrlError::new(format!("must be {FORMS}"))),
        }
    }
}

/// Without the password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// An open registry store: who may read it, and the one who may write.
pub struct Store {
    /// Shared freely.
    pub reader: Arc<dyn RegistryReader>,
    /// Cannot be cloned, and there is no second one.
    pub writer: Box<dyn RegistryWriter>,
}

/// Opens a registry store. SQLite's file is opened here and now; connections to
/// Postgres are made when they are needed, on the runtime this is called on.
pub fn open(url: &StoreUrl) -> Result<Store, OpenError> {
    match url {
        StoreUrl::Sqlite(path) => sqlite::open(path),
        StoreUrl::Postgres(url) => postgres::open(url),
    }
}

/// What refinery's error means to whoever starts the daemon.
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

/// An error and what lies beneath it, where the drivers put what happened.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_url_is_chosen_by_its_scheme() {
        for (text, path) in [
            ("sqlite:rollcall.db", "rollcall.db"),
            ("sqlite:/var/lib/rollcall.db", "/var/lib/rollcall.db"),
            ("sqlite:///var/lib/rollcall.db", "/var/lib/rollcall.db"),
        ] {
            assert_eq!(text.parse(), Ok(StoreUrl::Sqlite(path.into())), "{text}");
        }
        assert!(matches!(
            "postgres://u@localhost/db?sslmode=verify-full".parse(),
            Ok(StoreUrl::Postgres(_))
        ));
    }

    #[test]
    fn a_wrong_store_url_says_what_is_wrong() {
        for (text, why) in [
            (
                "",
                "must be sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE",
            ),
            (
                "mysql://u@h/db",
                "must be sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE",
            ),
            (
                "postgres://h/db?target_session_attrs=read-only",
                "target_session_attrs must be any, read-write or primary, not 'read-only'",
            ),
            (
                "postgres://h/db?sslmode=require&sslcert=x",
                "sslcert and sslkey go together",
            ),
            (
                "postgres://h/db?sslcert=x&sslkey=y",
                "sslcert needs sslmode=verify-full or require: the others may not use TLS at all",
            ),
            (
                "postgres://u:p@h/db?password_file=x",
                "give a password or password_file, not both",
            ),
            ("sqlite:", "sqlite: needs the path of a file"),
            ("sqlite::memory:", "sqlite: needs the path of a file"),
            ("postgres://", "a host is missing"),
            ("postgres://h:99999/db", "invalid port number"),
            (
                "postgres://h/db?sslmode=on",
                "sslmode must be disable, prefer, require or verify-full, not 'on'",
            ),
            (
                "postgres://h/db?sslmode=prefer&sslrootcert=ca.pem",
                "sslrootcert needs sslmode=verify-full or require: the others may not use TLS at all",
            ),
            (
                "postgres://h/db?bogus=1",
                "invalid connection string: unknown option `bogus`",
            ),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert_eq!(error, why, "{text}");
        }
    }

    #[test]
    fn a_store_url_may_name_several_hosts() {
        for text in [
            "postgres://u@a:1,b:2,[::1]:3/db",
            "postgres://u@a:1,b/db?target_session_attrs=primary",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://u:s3cret@h/db",
            "postgres://u:s3cret@h:1,i:2/db",
            "postgres://h/db?user=u&password=s3cret",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            for shown in [format!("{url}"), format!("{url:?}")] {
                assert!(!shown.contains("s3cret") && shown.contains("//"), "{shown}");
            }
        }
    }
}
