//! The schema.

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ErrorCode};

use super::thread::store_error;
use crate::model::Address;
use crate::store::{MigrateError, StoreError, migrate_error, with_sources};

refinery::embed_migrations!("sql/sqlite/migrations");

/// Migrates the schema, and returns the names of the applied migrations.
pub(super) fn migrate(connection: &mut Connection) -> Result<Vec<String>, MigrateError> {
    let runner = migrations::runner();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection
        .create_scalar_function("normal_address", 1, flags, |context| {
            let text: String = context.get(0)?;
            let address: Result<Address, _> = text.parse();
            Ok(address.map_or(text, |address| address.as_str().to_owned()))
        })
        .map_err(store_error)?;
    let report = runner.run(connection).map_err(|error| {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        match cause.and_then(rusqlite::Error::sqlite_error_code) {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StoreError::Unavailable(with_sources(&error)).into()
            }
            _ => migrate_error(&error, &runner),
        }
    })?;
    Ok(report
        .applied_migrations()
        .iter()
        .map(ToString::to_string)
        .collect())
}
