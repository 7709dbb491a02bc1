//! Asks Sentinels for the address of a master.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::connection::Connector;
use super::error::{LinkError, reason};
use super::url::Address;

/// The time limit for the answer of one Sentinel. It leaves time for the connection to the
/// master within one call.
const ASK: Duration = Duration::from_millis(250);

/// Returns the address of the master, as soon as most of the Sentinels agree on it. If they do
/// not, the greatest configuration epoch decides: Sentinels that do not know of a failover yet
/// name the old master with a smaller one.
pub(super) async fn master(
    connector: &Connector,
    sentinels: &[Address],
    name: &str,
) -> Result<Address, LinkError> {
    let asked = sentinels.iter().map(|sentinel| async move {
        let asking = timeout(ASK, ask(connector, sentinel, name));
        let no_answer = Err(format!("sentinel {sentinel}: no answer within {ASK:?}"));
        asking.await.unwrap_or(no_answer)
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut votes: HashMap<Named, usize> = HashMap::new();
    let mut trouble = Vec::new();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(named) => {
                let votes = votes.entry(named.clone()).or_default();
                *votes += 1;
                if *votes > sentinels.len() / 2 {
                    return Ok(named.address);
                }
            }
            Err(reason) => trouble.push(reason),
        }
    }
    let latest = votes.into_keys().max_by_key(|named| named.epoch);
    latest.map(|named| named.address).ok_or_else(|| {
        let trouble = trouble.join("; ");
        LinkError::Unavailable(format!("no sentinel names the master {name:?}: {trouble}"))
    })
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Named {
    address: Address,
    epoch: u64,
}

async fn ask(connector: &Connector, sentinel: &Address, name: &str) -> Result<Named, String> {
    let fail = |reason: String| format!("sentinel {sentinel}: {reason}");
    let connection = connector.consult(sentinel, true).await;
    let mut connection = connection.map_err(|error| fail(error.to_string()))?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("MASTER").arg(name);
    let fields = ask.query_async(&mut connection).await;
    let fields: HashMap<String, String> = fields.map_err(|error| fail(reason(&error)))?;
    let field = |name: &str| {
        let field = fields.get(name);
        field.ok_or_else(|| fail(format!("its answer lacks {name}")))
    };
    let port = field("port")?
        .parse()
        .map_err(|_| fail("its port is no number".to_owned()))?;
    Ok(Named {
        address: Address::Tcp(field("ip")?.clone(), port),
        epoch: field("config-epoch")?.parse().unwrap_or_default(),
    })
}
