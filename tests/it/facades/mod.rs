//! The protocols of other registries: real clients, and requests as they send them.

mod bad_input;
mod clients;
mod consul;
mod dns;
mod eureka;
mod nacos;
mod protocols;
mod watchers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::daemon::Daemon;

/// The flags that turn all protocols on.
pub(crate) const ALL: [&str; 3] = [
    "--facades=eureka,consul,nacos",
    "--dns-listen=127.0.0.1:0",
    "--dns-rate-limit=0",
];

/// A protocol by which instances are registered or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Native,
    Eureka,
    Consul,
    Nacos,
    Dns,
}

impl By {
    const WRITERS: [Self; 4] = [Self::Native, Self::Eureka, Self::Consul, Self::Nacos];
    const READERS: [Self; 5] = [
        Self::Native,
        Self::Eureka,
        Self::Consul,
        Self::Nacos,
        Self::Dns,
    ];

    /// Registers an instance of a service, which is then online.
    async fn register(self, daemon: &Daemon, service: &str, ip: &str) {
        match self {
            Self::Native => {
                let path = format!("/v1/services/{service}/instances/{ip}:80");
                send(daemon, Method::PUT, &path, Some(json!({}))).await;
                send(daemon, Method::PUT, &format!("{path}/heartbeat"), None).await;
            }
            Self::Eureka => {
                let instance = json!({
                    "instanceId": format!("{ip}:{service}:80"), "hostName": ip, "ipAddr": ip,
                    "app": service.to_uppercase(), "vipAddress": service, "status": "UP",
                    "port": {"$": 80, "@enabled": "true"}, "dataCenterInfo": {"name": "MyOwn"},
                });
                let path = format!("/eureka/apps/{}", service.to_uppercase());
                let body = json!({ "instance": instance });
                send(daemon, Method::POST, &path, Some(body)).await;
            }
            Self::Consul => {
                let body = json!({
                    "Name": service, "ID": format!("{service}-{ip}"), "Address": ip, "Port": 80,
                    "Check": {"TTL": "60s", "Status": "passing"},
                });
                register_at_consul(daemon, body).await;
            }
            Self::Nacos => {
                let path = format!("/nacos/v1/ns/instance?serviceName={service}&ip={ip}&port=80");
                send(daemon, Method::POST, &path, None).await;
            }
            Self::Dns => unreachable!("DNS only reads"),
        }
    }

    /// Ends an instance that was registered by this protocol.
    async fn leave(self, daemon: &Daemon, service: &str, ip: &str) {
        let (method, path) = match self {
            Self::Native => {
                let path = format!("/v1/services/{service}/instances/{ip}:80/leave");
                (Method::POST, path)
            }
            Self::Eureka => {
                let app = service.to_uppercase();
                (
                    Method::DELETE,
                    format!("/eureka/apps/{app}/{ip}:{service}:80"),
                )
            }
            Self::Consul => {
                let path = format!("/v1/agent/service/deregister/{service}-{ip}");
                (Method::PUT, path)
            }
            Self::Nacos => {
                let query = format!("serviceName={service}&ip={ip}&port=80");
                (Method::DELETE, format!("/nacos/v1/ns/instance?{query}"))
            }
            Self::Dns => unreachable!("DNS only reads"),
        };
        send(daemon, method, &path, None).await;
    }

    /// Returns the IP addresses of the instances to which this protocol sends traffic.
    async fn available(self, daemon: &Daemon, service: &str) -> BTreeSet<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match self {
            Self::Native => {
                let path = format!("/v1/services/{service}/instances?available=true");
                let list = get(daemon, &path).await;
                let addresses = list["instances"].as_array().unwrap().iter();
                let host = |one: &Value| {
                    let address = text(&one["address"]);
                    address.split(':').next().unwrap().to_owned()
                };
                addresses.map(host).collect()
            }
            Self::Eureka => {
                let app = service.to_uppercase();
                let all = get(daemon, "/eureka/apps").await;
                let apps = all["applications"]["application"].as_array().unwrap();
                let own = apps.iter().find(|one| one["name"] == app.as_str());
                let instances = own.map(|one| one["instance"].as_array().unwrap().clone());
                let instances = instances.unwrap_or_default();
                let up = instances.iter().filter(|one| one["status"] == "UP");
                up.map(|one| text(&one["ipAddr"])).collect()
            }
            Self::Consul => {
                let path = format!("/v1/health/service/{service}?passing");
                let list = get(daemon, &path).await;
                let list = list.as_array().unwrap().iter();
                list.map(|one| text(&one["Service"]["Address"])).collect()
            }
            Self::Nacos => {
                let query = format!("serviceName={service}&healthyOnly=true");
                let list = get(daemon, &format!("/nacos/v1/ns/instance/list?{query}")).await;
                let hosts = list["hosts"].as_array().unwrap().iter();
                hosts.map(|one| text(&one["ip"])).collect()
            }
            Self::Dns => {
                let name = format!("{service}.service.consul.");
                let answer = ask(dns_address(daemon), &name, RecordType::A).await;
                let addresses = answer.answers.iter().map(|record| match record.data {
                    RData::A(ip) => ip.to_string(),
                    ref other => panic!("{other:?}"),
                });
                addresses.collect()
            }
        }
    }
}

/// Registers a service as a client of Consul.
async fn register_at_consul(daemon: &Daemon, body: Value) {
    let path = "/v1/agent/service/register";
    send(daemon, Method::PUT, path, Some(body)).await;
}

/// Sends a request, which must succeed, and returns its body.
async fn send(daemon: &Daemon, method: Method, path: &str, body: Option<Value>) -> String {
    let (status, text) = try_send(daemon, method.clone(), path, body).await;
    assert!(
        (200..300).contains(&status),
        "{method} {path}: {status} {text}"
    );
    text
}

async fn try_send(
    daemon: &Daemon,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, String) {
    let mut request = daemon
        .client()
        .request(method, format!("{}{path}", daemon.url()));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Returns a JSON document.
async fn get(daemon: &Daemon, path: &str) -> Value {
    let url = format!("{}{path}", daemon.url());
    let request = daemon
        .client()
        .get(url)
        .header("accept", "application/json");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// Returns the address of the DNS server of a daemon, which picked a free port.
fn dns_address(daemon: &Daemon) -> SocketAddr {
    let log = daemon.log();
    let (_, rest) = log.split_once("DNS listens on ").unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

/// Asks a DNS server over UDP.
async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = exchange(server, &query.to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes.expect("an answer")).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    answer
}

/// Sends a datagram, and returns the answer if there is one within 5 seconds.
async fn exchange(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut answer = vec![0; 65_535];
    let received = timeout(Duration::from_secs(5), socket.recv(&mut answer)).await;
    let length = received.ok()?.unwrap();
    answer.truncate(length);
    Some(answer)
}
