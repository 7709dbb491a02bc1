//! Converts SQLite rows to the types of the model. A value that does not parse was written by
//! another program and is an error, never a default.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use rusqlite::types::{FromSql, Type};
use rusqlite::{Error, Params, Result, Row};
use serde_json::{Map, Value};

use crate::model::{
    Action, ActionRecord, Epoch, Hold, Instance, InstanceId, InstanceKey, Invalid, Metadata,
    Overrides, Presence, Registrant, Scope, ScopeId, ScopeKind, ScopeRecord, StoredMetadata,
    Subject, stored_metadata,
};
use crate::store::{Digest, LeaseStart, RecordedLease};

/// `id, kind, key, name, created_at, revision`, in this order in every query.
pub(super) fn scope(row: &Row<'_>) -> Result<ScopeRecord> {
    let mut columns = Columns::of(row);
    Ok(ScopeRecord {
        id: ScopeId(columns.get()?),
        scope: columns.scope()?,
        name: columns.given::<String, _>()?,
        created_at: columns.time()?,
        revision: columns.get()?,
    })
}

/// `id, kind, key, address, name, weight, metadata, ttl_seconds, status, held_by, held_reason,
/// held_until, override_weight, override_metadata, registered_by, online, lease_epoch, online_changed_at,
/// registered_at, updated_at, revision`, in this order in every query.
pub(super) fn instance(row: &Row<'_>) -> Result<Instance> {
    let mut columns = Columns::of(row);
    Ok(Instance {
        id: InstanceId(columns.get()?),
        key: InstanceKey {
            scope: columns.scope()?,
            address: columns.parse()?,
        },
        name: columns.given::<String, _>()?.map(Box::new),
        given_weight: columns.given::<i64, _>()?,
        given_metadata: columns.metadata()?.unwrap_or_default(),
        ttl: columns.given::<i64, _>()?,
        status: columns.parse()?,
        hold: columns.hold()?,
        overrides: Overrides::of(columns.given::<i64, _>()?, columns.metadata()?),
        registered_by: columns.get::<Option<String>>()?.map(Registrant::from),
        presence: Presence {
            online: columns.get()?,
            epoch: columns.get::<Option<i64>>()?.map(Epoch),
            changed_at: columns.get::<Option<i64>>()?.map(from_millis).transpose()?,
        },
        registered_at: columns.time()?,
        updated_at: columns.time()?,
        revision: columns.get()?,
    })
}

/// `id, at, token, peer, action, kind, key, address, before, after, reason, count`.
pub(super) fn action(row: &Row<'_>) -> Result<ActionRecord> {
    let mut columns = Columns::of(row);
    Ok(ActionRecord {
        id: columns.get()?,
        at: columns.time()?,
        action: Action {
            by: Registrant::from(format!(
                "{} {}",
                columns.get::<String>()?,
                columns.get::<String>()?
            )),
            kind: columns.parse()?,
            subject: columns.subject()?,
            before: columns.members()?,
            after: columns.members()?,
            reason: columns.given::<String, _>()?,
            count: columns.get::<i64>()?.unsigned_abs(),
        },
    })
}

pub(super) fn digest(row: &Row<'_>) -> Result<Digest> {
    Ok(Digest {
        scopes: row.get("scopes")?,
        scope_sum: row.get("scope_sum")?,
        instances: row.get("instances")?,
        instance_sum: row.get("instance_sum")?,
    })
}

/// The parameters ?1 kind, ?2 key, ?3 address.
pub(super) fn key_params(key: &InstanceKey) -> [&str; 3] {
    [
        key.scope.kind.as_str(),
        key.scope.key.as_str(),
        key.address.as_str(),
    ]
}

/// The parameters ?1 kind, ?2 key, ?3 address, ?4 epoch, ?5 now.
pub(super) fn start_params(start: &LeaseStart, now: i64) -> impl Params + use<'_> {
    let [kind, key, address] = key_params(&start.key);
    (kind, key, address, start.epoch.0, now)
}

/// `id, online_changed_at, revision`, in this order.
pub(super) fn recorded_lease(
    index: usize,
    transition: bool,
    row: &Row<'_>,
) -> Result<RecordedLease> {
    let mut columns = Columns::of(row);
    Ok(RecordedLease {
        index,
        id: InstanceId(columns.get()?),
        changed_at: columns.time()?,
        revision: columns.get()?,
        transition,
    })
}

pub(super) fn json(metadata: &Metadata) -> Result<String> {
    serde_json::to_string(&StoredMetadata(metadata))
        .map_err(|error| Error::ToSqlConversionFailure(error.into()))
}

/// Reads the columns of a row in order, so that none is searched by name.
struct Columns<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
}

impl<'r, 's> Columns<'r, 's> {
    fn of(row: &'r Row<'s>) -> Self {
        Self { row, next: 0 }
    }

    fn get<T: FromSql>(&mut self) -> Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    fn text(&mut self) -> Result<Option<&'r str>> {
        self.next += 1;
        Ok(self.row.get_ref(self.next - 1)?.as_str_or_null()?)
    }

    /// Returns the error for the last column.
    fn invalid(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        let (column, row) = (self.next - 1, self.row.as_ref());
        let name = row.column_name(column).unwrap_or_default();
        log::error!("column {name} contains a value that rollcalld did not write: {error}");
        Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    }

    fn parse<T>(&mut self) -> Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let text = self.text()?.unwrap_or_default();
        text.parse().map_err(|error| self.invalid(error))
    }

    fn given<S: FromSql, T: TryFrom<S, Error = Invalid>>(&mut self) -> Result<Option<T>> {
        let given = self.get::<Option<S>>()?.map(T::try_from).transpose();
        given.map_err(|error| self.invalid(error))
    }

    fn scope(&mut self) -> Result<Scope> {
        let kind: ScopeKind = self.parse()?;
        Ok(kind.with(self.parse()?))
    }

    /// `kind, key, address`, of which the last ones may be NULL.
    fn subject(&mut self) -> Result<Subject> {
        let is_null =
            |row: &Row<'_>, column| Ok::<_, Error>(row.get_ref(column)?.data_type() == Type::Null);
        let (kind, address) = (self.next, self.next + 2);
        let subject = if is_null(self.row, kind)? {
            Subject::Registry
        } else {
            let scope = self.scope()?;
            if is_null(self.row, address)? {
                Subject::Scope(scope)
            } else {
                let address = self.parse()?;
                Subject::Instance(InstanceKey { scope, address })
            }
        };
        self.next = address + 1;
        Ok(subject)
    }

    fn members(&mut self) -> Result<Map<String, Value>> {
        let members = serde_json::from_str(self.text()?.unwrap_or_default());
        members.map_err(|error| self.invalid(error))
    }

    fn metadata(&mut self) -> Result<Option<Metadata>> {
        let read = |text: &str| {
            stored_metadata::deserialize(&mut serde_json::Deserializer::from_str(text))
        };
        let metadata = self.text()?.map(read).transpose();
        metadata.map_err(|error| self.invalid(error))
    }

    fn hold(&mut self) -> Result<Option<Box<Hold>>> {
        let (by, reason) = (self.get::<Option<String>>()?, self.given::<String, _>()?);
        let until = self.get::<Option<i64>>()?.map(from_millis).transpose()?;
        Ok(by.map(|by| Box::new(Hold { by, reason, until })))
    }

    fn time(&mut self) -> Result<DateTime<Utc>> {
        from_millis(self.get()?)
    }
}

pub(super) fn from_millis(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).ok_or(Error::IntegralValueOutOfRange(0, millis))
}
