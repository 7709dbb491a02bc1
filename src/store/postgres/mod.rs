//! The shared registry store: PostgreSQL through a pool.
//!
//! Every statement is constant, prepared once per connection, and bounded in time
//! on both sides. A connection whose answer did not come is closed, never handed
//! to the next caller: the server may still be at work on it.

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("../../../sql/postgres/queries/", $name, ".sql"))
    };
}

mod checkout;
mod connect;
mod reader;
mod rows;
mod writer;

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use url::Url;

pub(super) use self::connect::check_url;
use self::reader::PostgresReader;
use self::writer::PostgresWriter;
use super::{Store, StoreError};
use crate::error::{BackendUrl, OpenError};
use crate::model::InstanceKey;

/// The most connections for reading.
const READERS: usize = 7;

pub(super) fn open(url: &Url) -> Result<Store, OpenError> {
    // Readers, however many and slow, never keep the writer from its connection.
    let pool = |connections| {
        connect::pool(url, connections).map_err(|reason| OpenError {
            backend: BackendUrl::new(url.clone()).to_string(),
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

/// The parameters of a statement.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

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
}
