//! Converts PostgreSQL rows to the types of the model. A value that does not parse was written
//! by another program and is an error, never a default.

use std::fmt::Display;

use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use crate::model::{
    Action, ActionRecord, Epoch, Hold, Instance, InstanceId, InstanceKey, Invalid, Metadata,
    Overrides, Presence, Registrant, Scope, ScopeId, ScopeKind, ScopeRecord, Subject,
    stored_metadata,
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

pub(super) fn instance(row: &Row) -> Result<Instance, StoreError> {
    let hold = match get::<Option<String>>(row, "held_by")? {
        Some(by) => Some(Box::new(Hold {
            by,
            reason: given::<String, _>(row, "held_reason")?,
            until: get(row, "held_until")?,
        })),
        None => None,
    };
    Ok(Instance {
        id: InstanceId(get(row, "id")?),
        key: key(row)?,
        name: given::<String, _>(row, "name")?.map(Box::new),
        given_weight: given_number(row, "weight")?,
        given_metadata: metadata(row, "metadata")?.unwrap_or_default(),
        ttl: given_number(row, "ttl_seconds")?,
        status: parse(row, "status")?,
        hold,
        overrides: Overrides::of(
            given_number(row, "override_weight")?,
            metadata(row, "override_metadata")?,
        ),
        registered_by: get::<Option<String>>(row, "registered_by")?.map(Registrant::from),
        presence: Presence {
            online: get(row, "online")?,
            epoch: get::<Option<i64>>(row, "lease_epoch")?.map(Epoch),
            changed_at: get(row, "online_changed_at")?,
        },
        registered_at: get(row, "registered_at")?,
        updated_at: get(row, "updated_at")?,
        revision: get(row, "revision")?,
    })
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

fn metadata(row: &Row, column: &str) -> Result<Option<Metadata>, StoreError> {
    let json = get::<Option<Value>>(row, column)?;
    let metadata = json.map(stored_metadata::deserialize).transpose();
    metadata.map_err(|error| invalid(column, error))
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
    T: std::str::FromStr<Err = E>,
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

fn given_number<T>(row: &Row, column: &str) -> Result<Option<T>, StoreError>
where
    T: TryFrom<i64, Error = Invalid>,
{
    get::<Option<i32>>(row, column)?
        .map(|number| T::try_from(number.into()))
        .transpose()
        .map_err(|error| invalid(column, error))
}
