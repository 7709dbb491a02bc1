//! Queries Sentinels for the address of a master.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::address::Address;
use super::connection::Connector;
use super::error::reason;
use crate::backend::BackendError;

/// The time limit for the reply of one Sentinel. It leaves time to connect to the master within
/// the same call.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(250);

/// Returns the address of the master, as soon as a majority of the Sentinels agrees on it.
/// Without a majority, the greatest configuration epoch decides: a Sentinel that does not know
/// of a failover yet reports the old master with a smaller epoch.
pub(super) async fn master(
    connector: &Connector,
    sentinels: &[Address],
    name: &str,
) -> Result<Address, BackendError> {
    let mut queries: FuturesUnordered<_> = sentinels
        .iter()
        .map(|sentinel| async move {
            let query = timeout(SENTINEL_TIMEOUT, query(connector, sentinel, name));
            let no_reply = |_| {
                Err(format!(
                    "sentinel {sentinel}: no reply within {SENTINEL_TIMEOUT:?}"
                ))
            };
            query.await.unwrap_or_else(no_reply)
        })
        .collect();
    let mut votes: HashMap<ReportedMaster, usize> = HashMap::new();
    let mut failures = Vec::new();
    while let Some(reply) = queries.next().await {
        match reply {
            Ok(reported) => {
                let count = votes.entry(reported.clone()).or_default();
                *count += 1;
                if *count > sentinels.len() / 2 {
                    return Ok(reported.address);
                }
            }
            Err(reason) => failures.push(reason),
        }
    }
    let latest = votes.into_keys().max_by_key(|reported| reported.epoch);
    latest.map(|reported| reported.address).ok_or_else(|| {
        BackendError::Unavailable(format!(
            "no sentinel reports the master {name:?}: {}",
            failures.join("; ")
        ))
    })
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ReportedMaster {
    address: Address,
    epoch: u64,
}

async fn query(
    connector: &Connector,
    sentinel: &Address,
    name: &str,
) -> Result<ReportedMaster, String> {
    let fail = |reason: String| format!("sentinel {sentinel}: {reason}");
    let mut connection = connector
        .connect_for_discovery(sentinel, true)
        .await
        .map_err(|error| fail(error.to_string()))?;
    let fields: HashMap<String, String> = redis::cmd("SENTINEL")
        .arg("MASTER")
        .arg(name)
        .query_async(&mut connection)
        .await
        .map_err(|error| fail(reason(&error)))?;
    let field = |name: &str| {
        let field = fields.get(name);
        field.ok_or_else(|| fail(format!("the reply has no field {name:?}")))
    };
    let port = field("port")?
        .parse()
        .map_err(|_| fail("the field \"port\" is not a port number".to_owned()))?;
    Ok(ReportedMaster {
        address: Address::Tcp(field("ip")?.clone(), port),
        epoch: field("config-epoch")?.parse().unwrap_or_default(),
    })
}
