//! SQLite's rows as the model's types. A value that does not parse was written by
//! another program and is an error, never a default.

use chrono::{DateTime, Utc};
use rusqlite::types::Type;
use rusqlite::{Error, Params, Result, Row};

use crate::model::{
    Epoch, Hold, Instance, InstanceId, InstanceKey, Invalid, Metadata, Presence, ScopeId,
    ScopeKind, ScopeRecord,
};
use crate::store::{Digest, Life};

pub(super) fn scope(row: &Row<'_>) -> Result<ScopeRecord> {
    Ok(ScopeRecord {
        id: ScopeId(row.get("id")?),
        scope: parse::<ScopeKind, _>(row, "kind")?.with(parse(row, "key")?),
        name: given::<String, _>(row, "name")?,
        created_at: time(row, "created_at")?,
        revision: row.get("revision")?,
    })
}

pub(super) fn instance(row: &Row<'_>) -> Result<Instance> {
    let held_by: Option<String> = row.get("held_by")?;
    let hold = match held_by {
        Some(by) => Some(Box::new(Hold {
            by,
            reason: given::<String, _>(row, "held_reason")?,
        })),
        None => None,
    };
    let metadata: Option<String> = row.get("metadata")?;
    let metadata: Option<Metadata> = metadata
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| invalid("metadata", error))?;
    Ok(Instance {
        id: InstanceId(row.get("id")?),
        key: key(row)?,
        name: given::<String, _>(row, "name")?.map(Box::new),
        given_weight: given::<i64, _>(row, "weight")?,
        metadata: metadata.unwrap_or_default(),
        ttl: given::<i64, _>(row, "ttl_seconds")?,
        status: parse(row, "status")?,
        hold,
        presence: Presence {
            online: row.get("online")?,
            epoch: row.get::<_, Option<i64>>("lease_epoch")?.map(Epoch),
            changed_at: row
                .get::<_, Option<i64>>("online_changed_at")?
                .map(from_millis)
                .transpose()?,
        },
        registered_at: time(row, "registered_at")?,
        updated_at: time(row, "updated_at")?,
        revision: row.get("revision")?,
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
pub(super) fn life_params(life: &Life, now: i64) -> impl Params + use<'_> {
    let [kind, key, address] = key_params(&life.key);
    (kind, key, address, life.epoch.0, now)
}

pub(super) fn json(metadata: &Metadata) -> Result<String> {
    serde_json::to_string(metadata).map_err(|error| Error::ToSqlConversionFailure(error.into()))
}

fn key(row: &Row<'_>) -> Result<InstanceKey> {
    Ok(InstanceKey {
        scope: parse::<ScopeKind, _>(row, "kind")?.with(parse(row, "key")?),
        address: parse(row, "address")?,
    })
}

fn invalid(column: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("column {column} holds what rollcalld never wrote: {error}");
    Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

fn parse<T, E>(row: &Row<'_>, column: &str) -> Result<T>
where
    T: std::str::FromStr<Err = E>,
    E: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?
        .parse()
        .map_err(|error| invalid(column, error))
}

fn given<S, T>(row: &Row<'_>, column: &str) -> Result<Option<T>>
where
    S: rusqlite::types::FromSql,
    T: TryFrom<S, Error = Invalid>,
{
    row.get::<_, Option<S>>(column)?
        .map(T::try_from)
        .transpose()
        .map_err(|error| invalid(column, error))
}

fn time(row: &Row<'_>, column: &str) -> Result<DateTime<Utc>> {
    from_millis(row.get(column)?)
}

fn from_millis(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).ok_or(Error::IntegralValueOutOfRange(0, millis))
}
