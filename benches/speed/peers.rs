//! Another registry, which runs already and speaks Nacos v1, in turn with our own: so that each
//! reader can compare what they have.

use std::net::SocketAddr;

use futures_util::FutureExt;
use tempfile::TempDir;
use url::Url;

use crate::comparison::{Contestant, ROUND, compare, over_http};
use crate::load::{self, Connection};
use crate::requests::{INSTANCES, LIST, fill, host, registration, send_heartbeats};
use crate::servers::{Server, request};

/// The number of instances in a list.
const LISTED: usize = 100;

/// The service whose instances send heartbeats, and the one that is listed.
const SERVICE: &str = "rollcall-bench";
const LISTED_SERVICE: &str = "rollcall-bench-list";

/// Compares with the server at a URL such as `http://127.0.0.1:8848`.
pub(crate) async fn run(peer: &Url) {
    let address = peer.socket_addrs(|| None).unwrap()[0];
    enroll(address, SERVICE, INSTANCES).await;
    enroll(address, LISTED_SERVICE, LISTED).await;
    let (own, listing) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let daemon = Server::daemon(own.path(), &[]).await;
    fill(daemon.address, INSTANCES).await;
    // A long TTL, so that the list stays the same.
    let ttl = ["--lease-ttl", "1h"].map(str::to_owned);
    let lists = Server::daemon(listing.path(), &ttl).await;
    fill(lists.address, LISTED).await;
    for connections in [64, 256] {
        let beat = |connection: usize, n: usize| {
            let place = (connection * 31 + n) % INSTANCES;
            nacos("PUT", "instance/beat", SERVICE, Some(place))
        };
        let list = |_, _| nacos("GET", "instance/list", LISTED_SERVICE, None);
        // Names of its own for each connection, so that each instance is new.
        let register = |connection: usize, n: usize| {
            let service = format!("{SERVICE}-{}", n % 1000);
            nacos("POST", "instance", &service, Some(connection * 20_000 + n))
        };
        let case = format!("heartbeat, {connections} connections");
        let first = over_http("rollcalld", &daemon, connections, 200, send_heartbeats);
        compare(&case, 1, vec![first, theirs(address, connections, beat)]).await;
        let case = format!("list of {LISTED} instances, {connections} connections");
        let first = over_http("rollcalld", &lists, connections, 200, |_, _| {
            request("GET", LIST, "", "")
        });
        compare(&case, 1, vec![first, theirs(address, connections, list)]).await;
        let case = format!("registration, {connections} connections");
        let first = over_http(
            "rollcalld, SQLite",
            &daemon,
            connections,
            201,
            registration(),
        );
        compare(
            &case,
            1,
            vec![first, theirs(address, connections, register)],
        )
        .await;
    }
}

fn theirs<'a>(
    address: SocketAddr,
    connections: usize,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
) -> Contestant<'a> {
    Contestant {
        name: "the peer",
        // Those of a server that was not started here are unknown.
        processes: Vec::new(),
        round: Box::new(move || {
            let request = request.clone();
            async move { load::run(&[address], connections, ROUND, 200, request).await }
                .boxed_local()
        }),
    }
}

/// Registers the instances of a service with the peer.
async fn enroll(address: SocketAddr, service: &str, count: usize) {
    let mut connection = Connection::open(address).await.unwrap();
    for place in 0..count {
        let request = nacos("POST", "instance", service, Some(place));
        let status = connection.ask(&request).await.unwrap();
        assert_eq!(
            status,
            200,
            "the peer refuses a registration: {}",
            connection.text()
        );
    }
}

/// Formats a request of Nacos v1 about a service or one of its instances.
fn nacos(method: &str, path: &str, service: &str, place: Option<usize>) -> Vec<u8> {
    let mut path = format!("/nacos/v1/ns/{path}?serviceName={service}&groupName=DEFAULT_GROUP");
    if let Some(place) = place {
        let address = host(place);
        let ip = address.split(':').next().unwrap_or_default();
        path += &format!("&ip={ip}&port=8080&clusterName=DEFAULT&ephemeral=true");
    }
    load::request(method, &path, "", "")
}
