//! The embedded registry store: one SQLite file, one connection, one thread.
//!
//! WAL with `synchronous=FULL`: what was committed survives the loss of power. A
//! lock file beside the database keeps a second daemon out, since leases in memory
//! could not be shared with it; other programs may still read the database.

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("../../../sql/sqlite/queries/", $name, ".sql"))
    };
}

mod reader;
mod rows;
mod thread;
mod writer;

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use self::reader::SqliteReader;
use self::thread::SqliteThread;
use self::writer::SqliteWriter;
use super::Store;
use crate::error::OpenError;
use crate::model::{Scope, ScopeRecord};

/// How long a statement waits for another program that has the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// How many pages the log has when they are copied to the database, of 4 KiB: four times what
/// SQLite would take, so that a page that changes often is copied more rarely.
const CHECKPOINT: u32 = 4000;

pub(super) fn open(path: &Path) -> Result<Store, OpenError> {
    let fail = |reason: String| OpenError {
        backend: format!("sqlite:{}", path.display()),
        reason,
    };
    let lock = lock(path).map_err(fail)?;
    let connection = connect(path).map_err(|error| fail(error.to_string()))?;
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

/// Takes the lock file beside the database, which the system releases when this
/// process ends, however it ends.
fn lock(path: &Path) -> Result<File, String> {
    let mut lock_path = OsString::from(path);
    lock_path.push(".lock");
    let lock_path = Path::new(&lock_path);
    let file =
        File::create(lock_path).map_err(|error| format!("{}: {error}", lock_path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(
            "another rollcalld uses this file; stop it first, or give several daemons one postgres:// store".into(),
        ),
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", lock_path.display())),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT, |_| Ok(()))?;
    // Else a statement is planned anew for other parameters, that is, each time.
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
