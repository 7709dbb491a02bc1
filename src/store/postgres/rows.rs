//! Converts PostgreSQL rows to the types of the model. A value that does not parse was written
//! by another program and is an error, never a default.

use std::fmt::Display;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, FromSqlOwned, Json};

use crate::model::{
    Action, ActionRecord, Epoch, Hold, Instance, InstanceId, InstanceKey, Invalid, Metadata,
    Overrides, Presence, Registrant, Scope, ScopeId, ScopeKind, ScopeRecord, StoredMetadata,
    Subject, stored_metadata,
};
use crate::store::{Digest, StoreError};

pub(super) fn scope(row: &Row) -> Result<ScopeRecord, StoreError> {
    Ok(ScopeRecord {
        id: ScopeId(get(row, "id")?),
        scope: scope_of(row)?,
        name: given::<String, _>(row, "name")?,
        created_at: get(row, "created_at")?,
        revision: get(row, "revision")?,
    })
}

/// `id, kind, key, address, name, weight, metadata, ttl_seconds, status, held_by, held_reason,
/// held_until, override_weight, override_metadata, registered_by, online, lease_epoch,
/// online_changed_at, registered_at, updated_at, revision`, in this order in every query.
pub(super) fn instance(row: &Row) -> Result<Instance, StoreError> {
    let mut columns = Columns { row, next: 0 };
    Ok(Instance {
        id: InstanceId(columns.get()?),
        key: InstanceKey {
            scope: columns.parse::<ScopeKind>()?.with(columns.parse()?),
            address: columns.parse()?,
        },
        name: columns.given::<String, _>()?.map(Box::new),
        given_weight: columns.given_number()?,
        given_metadata: columns.metadata()?.unwrap_or_default(),
        ttl: columns.given_number()?,
        status: columns.parse()?,
        hold: columns.hold()?,
        overrides: Overrides::of(columns.given_number()?, columns.metadata()?),
        registered_by: columns.get::<Option<String>>()?.map(Registrant::from),
        presence: Presence {
            online: columns.get()?,
            epoch: columns.get::<Option<i64>>()?.map(Epoch),
            changed_at: columns.get()?,
        },
        registered_at: columns.get()?,
        updated_at: columns.get()?,
        revision: columns.get()?,
    })
}

/// Converts metadata to the value of a column.
pub(super) fn json(metadata: &Metadata) -> Result<Value, StoreError> {
    serde_json::to_value(StoredMetadata(metadata))
        .map_err(|error| StoreError::Refused(error.to_string()))
}

/// `id, kind, key, address, created`, as register_instances returns them.
pub(super) fn upserted(row: &Row) -> Result<(InstanceId, [&str; 3], bool), StoreError> {
    let mut columns = Columns { row, next: 0 };
    let id = InstanceId(columns.get()?);
    let key = [columns.get()?, columns.get()?, columns.get()?];
    Ok((id, key, columns.get()?))
}

/// Reads the columns of a row in order: a search by name would take as long as the rest.
struct Columns<'r> {
    row: &'r Row,
    next: usize,
}

impl<'r> Columns<'r> {
    fn get<T: FromSql<'r>>(&mut self) -> Result<T, StoreError> {
        self.next += 1;
        let value = self.row.try_get(self.next - 1);
        value.map_err(|error| self.invalid(error))
    }

    /// Returns the error for the last column.
    fn invalid(&self, error: impl Display) -> StoreError {
        let column = self.row.columns().get(self.next - 1);
        invalid(column.map_or("", |column| column.name()), error)
    }

    fn parse<T: FromStr<Err: Display>>(&mut self) -> Result<T, StoreError> {
        let text: &str = self.get()?;
        text.parse().map_err(|error| self.invalid(error))
    }

    fn given<S: FromSql<'r>, T: TryFrom<S, Error = Invalid>>(
        &mut self,
    ) -> Result<Option<T>, StoreError> {
        let given = self.get::<Option<S>>()?.map(T::try_from).transpose();
        given.map_err(|error| self.invalid(error))
    }

    fn given_number<T: TryFrom<i64, Error = Invalid>>(&mut self) -> Result<Option<T>, StoreError> {
        let number = self.get::<Option<i32>>()?.map(i64::from);
        let given = number.map(T::try_from).transpose();
        given.map_err(|error| self.invalid(error))
    }

    fn metadata(&mut self) -> Result<Option<Metadata>, StoreError> {
        #[derive(Deserialize)]
        struct Stored(#[serde(deserialize_with = "stored_metadata::deserialize")] Metadata);

        let stored = self.get::<Option<Json<Stored>>>()?;
        Ok(stored.map(|Json(Stored(metadata))| metadata))
    }

    fn hold(&mut self) -> Result<Option<Box<Hold>>, StoreError> {
        let by = self.get::<Option<String>>()?;
        let (reason, until) = (self.given::<String, _>()?, self.get()?);
        Ok(by.map(|by| Box::new(Hold { by, reason, until })))
    }
}

pub(super) fn action(row: &Row) -> Result<ActionRecord, StoreError> {
    let (token, peer) = (get::<String>(row, "token")?, get::<String>(row, "peer")?);
    let subject = match (
        get::<Option<String>>(row, "kind")?,
        get::<Option<String>>(row, "address")?,
    ) {
        (None, _) => Subject::Registry,
        (Some(_), None) => Subject::Scope(scope_of(row)?),
        (Some(_), Some(_)) => Subject::Instance(key(row)?),
    };
    Ok(ActionRecord {
        id: get(row, "id")?,
        at: get(row, "at")?,
        action: Action {
            by: Registrant::from(format!("{token} {peer}")),
            kind: parse(row, "action")?,
            subject,
            before: members(row, "before")?,
            after: members(row, "after")?,
            reason: given::<String, _>(row, "reason")?,
            count: get::<i64>(row, "count")?.unsigned_abs(),
        },
    })
}

fn members(row: &Row, column: &str) -> Result<Map<String, Value>, StoreError> {
    let value = get::<Value>(row, column)?;
    serde_json::from_value(value).map_err(|error| invalid(column, error))
}

fn scope_of(row: &Row) -> Result<Scope, StoreError> {
    Ok(parse::<ScopeKind, _>(row, "kind")?.with(parse(row, "key")?))
}

pub(super) fn digest(row: &Row) -> Result<Digest, StoreError> {
    Ok(Digest {
        scopes: get(row, "scopes")?,
        scope_sum: get(row, "scope_sum")?,
        instances: get(row, "instances")?,
        instance_sum: get(row, "instance_sum")?,
    })
}

fn key(row: &Row) -> Result<InstanceKey, StoreError> {
    Ok(InstanceKey {
        scope: scope_of(row)?,
        address: parse(row, "address")?,
    })
}

pub(super) fn get<T: FromSqlOwned>(row: &Row, column: &str) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| invalid(column, error))
}

fn invalid(column: &str, error: impl Display) -> StoreError {
    StoreError::Refused(format!(
        "column {column} contains a value that rollcalld did not write: {error}"
    ))
}

fn parse<T, E>(row: &Row, column: &str) -> Result<T, StoreError>
where
    T: FromStr<Err = E>,
    E: Display,
{
    get::<String>(row, column)?
        .parse()
        .map_err(|error| invalid(column, error))
}

fn given<S, T>(row: &Row, column: &str) -> Result<Option<T>, StoreError>
where
    S: FromSqlOwned,
    T: TryFrom<S, Error = Invalid>,
{
    get::<Option<S>>(row, column)?
        .map(T::try_from)
        .transpose()
        .map_err(|error| invalid(column, error))
}
