//! The protocols of other registries, against Rollcall's own and against bytes from memory.

use serde_json::json;
use tempfile::TempDir;

use crate::comparison::{compare, over_http};
use crate::load;
use crate::requests::{INSTANCES, fill, host, send_heartbeats};
use crate::servers::{Server, request};
use crate::support::redis::Redis;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const FACADES: [&str; 2] = ["--facades", "eureka,consul,nacos"];

/// The header by which clients of Eureka send the token.
const BASIC: &str = "Authorization: Basic ZXVyZWthOjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm\r\n";

fn ip(connection: usize, n: usize) -> String {
    let address = host((connection * 31 + n) % INSTANCES);
    address.split(':').next().unwrap().to_owned()
}

/// Registers the instances as clients of Eureka do.
async fn register(daemon: &Server, count: usize) {
    let client = crate::support::daemon::client_builder().build().unwrap();
    for n in 0..count {
        let ip = ip(0, n);
        let instance = json!({
            "instanceId": format!("{ip}:orders:8080"), "app": "ORDERS", "hostName": ip,
            "ipAddr": ip, "vipAddress": "orders", "secureVipAddress": "orders", "status": "UP",
            "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
            "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
            "homePageUrl": format!("http://{ip}:8080/"),
            "statusPageUrl": format!("http://{ip}:8080/actuator/info"),
            "healthCheckUrl": format!("http://{ip}:8080/actuator/health"),
            "dataCenterInfo": {"name": "MyOwn"}, "metadata": {"zone": "a", "version": "1.2.3"},
            "lastDirtyTimestamp": "1700000000000",
        });
        let url = format!("http://{}/eureka/apps/ORDERS", daemon.address);
        let body = json!({ "instance": instance });
        let post = client.post(url).bearer_auth(TOKEN).json(&body);
        assert_eq!(post.send().await.unwrap().status(), 204);
    }
}

/// A renewal of each protocol against a heartbeat of Rollcall's own, of the same instances.
pub(crate) async fn renewals() {
    let redis = Redis::start().await;
    let own = TempDir::new().unwrap();
    let url = redis.url();
    let flags = [FACADES[0], FACADES[1], "--leases", &url];
    let daemon = Server::daemon(own.path(), &flags.map(str::to_owned)).await;
    fill(daemon.address, INSTANCES).await;
    register(&daemon, INSTANCES).await;
    let eureka = |connection: usize, n: usize| {
        let ip = ip(connection, n);
        let id = format!("{ip}:orders:8080");
        let query = "status=UP&lastDirtyTimestamp=1700000000000";
        let path = format!("/eureka/apps/ORDERS/{id}?{query}");
        load::request("PUT", &path, BASIC, "")
    };
    let light = |connection: usize, n: usize| {
        let ip = ip(connection, n);
        let query = format!(
            "namespaceId=public&serviceName=DEFAULT_GROUP%40%40orders&clusterName=DEFAULT&ip={ip}&port=8080"
        );
        let path = format!("/nacos/v1/ns/instance/beat?{query}&accessToken={TOKEN}");
        load::request("PUT", &path, "", "")
    };
    let described = |connection: usize, n: usize| {
        let ip = ip(connection, n);
        let beat = format!(
            "%7B%22serviceName%22%3A%22DEFAULT_GROUP%40%40orders%22%2C%22ip%22%3A%22{ip}%22%2C%22port%22%3A8080%2C%22cluster%22%3A%22DEFAULT%22%2C%22weight%22%3A1.0%7D"
        );
        let query = format!("serviceName=DEFAULT_GROUP%40%40orders&beat={beat}");
        let path = format!("/nacos/v1/ns/instance/beat?{query}&accessToken={TOKEN}");
        load::request("PUT", &path, "", "")
    };
    for connections in [64, 256] {
        for (name, contestant) in [
            (
                "Eureka renewal",
                over_http("Eureka", &daemon, connections, 200, eureka),
            ),
            (
                "Nacos light beat",
                over_http("Nacos", &daemon, connections, 200, light),
            ),
            (
                "Nacos whole beat",
                over_http("Nacos", &daemon, connections, 200, described),
            ),
        ] {
            let heartbeat = over_http("heartbeat", &daemon, connections, 200, send_heartbeats);
            let case = format!("{name}, leases on Redis, {connections} connections");
            compare(&case, 1, vec![contestant, heartbeat]).await;
        }
    }
}

/// The lists of each protocol against the same bytes from memory.
pub(crate) async fn lists() {
    let own = TempDir::new().unwrap();
    let flags = [FACADES[0], FACADES[1], "--lease-ttl", "1h"];
    let daemon = Server::daemon(own.path(), &flags.map(str::to_owned)).await;
    register(&daemon, 100).await;
    let client = crate::support::daemon::client_builder().build().unwrap();
    for (name, path, accept) in [
        (
            "Consul health",
            "/v1/health/service/orders?passing=1",
            "*/*",
        ),
        (
            "Eureka full fetch, JSON",
            "/eureka/apps/",
            "application/json",
        ),
        ("Eureka full fetch, XML", "/eureka/apps/", "application/xml"),
        (
            "Nacos list",
            "/nacos/v1/ns/instance/list?serviceName=orders",
            "*/*",
        ),
    ] {
        let url = format!("http://{}{path}", daemon.address);
        let get = client.get(url).bearer_auth(TOKEN).header("accept", accept);
        let bytes = get.send().await.unwrap().bytes().await.unwrap();
        let file = own.path().join("answer");
        std::fs::write(&file, &bytes).unwrap();
        let fixed = Server::baseline("static", file.to_str().unwrap());
        let accept = format!("Accept: {accept}\r\n");
        let list = move |_, _| request("GET", path, &accept, "");
        // The baseline has one path.
        let same = |_, _| request("GET", crate::requests::LIST, "", "");
        let contestants = vec![
            over_http("rollcalld", &daemon, 64, 200, list),
            over_http("static", &fixed, 64, 200, same),
        ];
        let bytes = bytes.len();
        let case = format!("{name} of 100 instances, {bytes} bytes, 64 connections");
        compare(&case, 1, contestants).await;
    }
}
