//! The actions of operators.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Result, params};
use serde_json::Value;

use crate::model::{Action, Note};

/// Records an action; `now` is in Unix milliseconds.
pub(super) fn record(connection: &Connection, action: &Action, now: i64) -> Result<()> {
    let scope = action.subject.scope();
    let address = action.subject.instance().map(|key| key.address.as_str());
    connection
        .prepare_cached(sql!("record_action"))?
        .execute(params![
            now,
            action.by.token(),
            action.by.peer(),
            action.kind.as_str(),
            scope.map(|scope| scope.kind.as_str()),
            scope.map(|scope| scope.key.as_str()),
            address,
            Value::from(action.before.clone()).to_string(),
            Value::from(action.after.clone()).to_string(),
            action.reason.as_ref().map(Note::as_str),
            i64::try_from(action.count).unwrap_or(i64::MAX)
        ])?;
    Ok(())
}

/// Deletes the oldest actions from before a time, and returns how many.
pub(super) fn purge(connection: &Connection, before: DateTime<Utc>, limit: u16) -> Result<usize> {
    let mut purge = connection.prepare_cached(sql!("purge_actions"))?;
    let mut deleted = purge.query([before.timestamp_millis(), i64::from(limit)])?;
    let mut count = 0;
    while deleted.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}
