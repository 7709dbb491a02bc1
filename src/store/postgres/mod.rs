//! The shared registry store: PostgreSQL through a pool.
//!
//! Every statement is constant, is sent with the types of its parameters, and has a time limit
//! on both sides. No session has state: no statement is prepared by name, settings are local to
//! a transaction, and every statement is in one, so that PgBouncer may give each transaction
//! another session. A connection whose answer did not come is closed and never reused: the
//! server may still be working on it.

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("../../../sql/postgres/queries/", $name, ".sql"))
    };
}

mod checkout;
mod connect;
mod migrate;
mod reader;
mod register;
mod rows;
mod tls;
mod writer;

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

pub(super) use self::connect::check_url;
use self::reader::PostgresReader;
use self::writer::PostgresWriter;
use super::{Store, StoreError};
use crate::backend::{BackendUrl, OpenError};
use crate::model::InstanceKey;

/// The most connections for reads.
const READERS: usize = 7;

pub(super) fn open(url: &BackendUrl) -> Result<Store, OpenError> {
    // The pools are separate, so that slow reads never keep the writer from its connection.
    let pool = |connections| {
        connect::pool(url, connections).map_err(|reason| OpenError {
            backend: url.to_string(),
            reason,
        })
    };
    Ok(Store {
        reader: Arc::new(PostgresReader {
            pool: pool(READERS)?,
        }),
        writer: Box::new(PostgresWriter { pool: pool(1)? }),
    })
}

/// The parameters of a statement with their types.
type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

fn one<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    rows.first().map(read).transpose()
}

/// Instance keys as the columns of an `unnest`.
struct KeyColumns<'a> {
    kinds: Vec<&'static str>,
    keys: Vec<&'a str>,
    addresses: Vec<&'a str>,
}

impl<'a> KeyColumns<'a> {
    fn of(keys: impl Iterator<Item = &'a InstanceKey> + Clone) -> Self {
        Self {
            kinds: keys.clone().map(|key| key.scope.kind.as_str()).collect(),
            keys: keys.clone().map(|key| key.scope.key.as_str()).collect(),
            addresses: keys.map(|key| key.address.as_str()).collect(),
        }
    }

    fn params(&self) -> [(&(dyn ToSql + Sync), Type); 3] {
        [
            (&self.kinds, Type::TEXT_ARRAY),
            (&self.keys, Type::TEXT_ARRAY),
            (&self.addresses, Type::TEXT_ARRAY),
        ]
    }
}
