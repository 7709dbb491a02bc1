//! The embedded registry store: one SQLite file, one connection, one thread.
//!
//! WAL with `synchronous=FULL`: a commit survives a loss of power. A lock on the file itself
//! excludes a second daemon, by whichever path it opens the file, because leases in memory
//! could not be shared with it. Other programs may read the database.

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("../../../sql/sqlite/queries/", $name, ".sql"))
    };
}

mod actions;
mod migrate;
mod reader;
mod register;
mod rows;
mod thread;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use self::reader::SqliteReader;
use self::thread::SqliteThread;
use self::writer::SqliteWriter;
use super::{Removal, Store};
use crate::backend::OpenError;
use crate::model::{Instance, Scope, ScopeKind, ScopeRecord};

/// How long a statement waits for another program that has locked the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for a probe, which must not block the thread for long.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The number of pages of 4 KiB in the log at which they are copied to the database: four times
/// SQLite's default, so that a page that changes often is copied less often.
const CHECKPOINT: u32 = 4000;

pub(super) fn open(path: &Path) -> Result<Store, OpenError> {
    let fail = |reason: String| OpenError {
        backend: format!("sqlite:{}", path.display()),
        reason,
    };
    let lock = lock(path).map_err(fail)?;
    let mut connection = connect(path).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => fail(not_writable(&error)),
        _ => fail(error.to_string()),
    })?;
    check_writable(&mut connection).map_err(fail)?;
    let (thread, join) =
        SqliteThread::start(connection, lock).map_err(|error| fail(error.to_string()))?;
    Ok(Store {
        reader: Arc::new(SqliteReader {
            thread: thread.clone(),
        }),
        writer: Box::new(SqliteWriter {
            thread,
            join: Some(join),
        }),
    })
}

/// Locks the database file, and creates it if there is none: an empty file is a new database.
/// Two paths to one file are one lock, which the system releases when this process ends, in
/// whatever way.
///
/// The lock is of the kind of `flock(2)`, which does not interact with SQLite's own locks.
/// Those belong to the process and are lost when it closes the file through any descriptor, so
/// this descriptor is opened before SQLite's and closed after it.
fn lock(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    let open = options.read(true).write(true).create(true).mode(0o644);
    let file = open.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => not_writable(&error),
        _ => error.to_string(),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(
            "another rollcalld uses this file: stop it first, or use a postgres:// store for several replicas".into(),
        ),
        Err(TryLockError::Error(error)) => Err(format!("the file cannot be locked: {error}")),
    }
}

fn not_writable(error: &dyn std::error::Error) -> String {
    format!(
        "{error}: rollcalld's user must be able to write this file and to create files in its folder"
    )
}

/// Checks that the database can be written, by a transaction that changes nothing. Another
/// program that is writing now does not prevent the start.
fn check_writable(connection: &mut Connection) -> Result<(), String> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    match begun.map(drop) {
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => Ok(()),
            Some(_) => Err(not_writable(&error)),
            None => Err(error.to_string()),
        },
        Ok(()) => Ok(()),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT, |_| Ok(()))?;
    // Otherwise a statement is planned again for each new set of parameters.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn find_scope(connection: &Connection, scope: &Scope) -> rusqlite::Result<Option<ScopeRecord>> {
    connection
        .prepare_cached(sql!("find_scope"))?
        .query_row([scope.kind.as_str(), scope.key.as_str()], rows::scope)
        .optional()
}

/// Removes the services of removed instances that need not stay, and returns both.
fn with_services(connection: &Connection, instances: Vec<Instance>) -> rusqlite::Result<Removal> {
    let mut remove = connection.prepare_cached(sql!("remove_undeclared_services"))?;
    let mut services = Vec::new();
    for Instance { key, .. } in &instances {
        if key.scope.kind == ScopeKind::Service {
            let removed = remove.query_row([key.scope.key.as_str()], rows::scope);
            services.extend(removed.optional()?);
        }
    }
    Ok(Removal {
        instances,
        services,
    })
}
