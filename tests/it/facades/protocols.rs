//! What is registered by one protocol is found by every other one, on every replica.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ALL, By};
use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;

on_both_backends! {
    what_is_registered_by_one_protocol_is_found_by_every_other_one_on_every_replica,
    a_hold_takes_an_instance_out_of_every_protocol_within_a_second,
    a_service_that_is_online_by_a_heartbeat_alone_is_known_to_every_protocol,
    one_process_may_register_by_several_protocols,
}

/// A daemon, and another one where the backends are shared.
async fn replicas<B: Backends>() -> (Setup<B>, Option<Daemon>) {
    let setup = Setup::<B>::start_with(&ALL).await;
    let other = setup.replica(&ALL).await;
    (setup, other)
}

async fn what_is_registered_by_one_protocol_is_found_by_every_other_one_on_every_replica<
    B: Backends,
>() {
    let (setup, other) = replicas::<B>().await;
    let daemons = [&setup.daemon, other.as_ref().unwrap_or(&setup.daemon)];
    let mut table = Vec::new();
    for (at, writer) in By::WRITERS.into_iter().enumerate() {
        let service = format!("orders-{at}");
        let (ip, here) = (format!("10.0.{at}.1"), daemons[at % 2]);
        writer.register(here, &service, &ip).await;
        for reader in By::READERS {
            for daemon in daemons {
                let wanted = BTreeSet::from([ip.clone()]);
                let found = eventually(Duration::from_secs(1), "it is found", || async {
                    let found = reader.available(daemon, &service).await;
                    (found == wanted).then_some(found)
                });
                found.await;
                table.push((writer, reader));
            }
        }
        writer.leave(daemons[(at + 1) % 2], &service, &ip).await;
        for reader in By::READERS.into_iter().filter(|one| *one != By::Dns) {
            for daemon in daemons {
                let left = eventually(Duration::from_secs(1), "it is gone", || async {
                    let found = reader.available(daemon, &service).await;
                    found.is_empty().then_some(())
                });
                left.await;
            }
        }
    }
    assert_eq!(table.len(), 4 * 5 * 2);
}

async fn a_hold_takes_an_instance_out_of_every_protocol_within_a_second<B: Backends>() {
    let (setup, other) = replicas::<B>().await;
    let daemons = [&setup.daemon, other.as_ref().unwrap_or(&setup.daemon)];
    for (at, writer) in By::WRITERS.into_iter().enumerate() {
        let service = format!("orders-{at}");
        for ip in ["10.0.0.1", "10.0.0.2"] {
            writer.register(daemons[0], &service, ip).await;
        }
        let path = format!("/v1/services/{service}/instances/10.0.0.1:80");
        for (status, wanted) in [
            ("held", BTreeSet::from(["10.0.0.2".to_owned()])),
            (
                "enabled",
                BTreeSet::from(["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]),
            ),
        ] {
            daemons[1].patch(&path, json!({ "status": status })).await;
            let shown = async |reader: By, daemon: &Daemon| {
                eventually(Duration::from_secs(1), "the decision is shown", || async {
                    (reader.available(daemon, &service).await == wanted).then_some(())
                })
                .await;
            };
            let all = By::READERS.into_iter();
            let all = all.flat_map(|reader| daemons.map(|daemon| shown(reader, daemon)));
            futures_util::future::join_all(all).await;
        }
    }
}

async fn a_service_that_is_online_by_a_heartbeat_alone_is_known_to_every_protocol<B: Backends>() {
    let (setup, _other) = replicas::<B>().await;
    let daemon = &setup.daemon;
    By::Native.register(daemon, "orders", "10.0.0.1").await;
    // By an ID that is made from its key.
    for (method, path) in [
        ("PUT", "/eureka/apps/ORDERS/10.0.0.1:orders:80"),
        ("GET", "/eureka/instances/10.0.0.1:orders:80"),
        ("PUT", "/v1/agent/check/pass/service:10.0.0.1:orders:80"),
        ("GET", "/v1/agent/service/10.0.0.1:orders:80"),
        (
            "PUT",
            "/nacos/v1/ns/instance/beat?serviceName=orders&ip=10.0.0.1&port=80",
        ),
    ] {
        super::send(daemon, method.parse().unwrap(), path, None).await;
    }
}

async fn one_process_may_register_by_several_protocols<B: Backends>() {
    let (setup, _other) = replicas::<B>().await;
    let daemon = &setup.daemon;
    for writer in [By::Consul, By::Eureka, By::Nacos, By::Eureka] {
        writer.register(daemon, "orders", "10.0.0.1").await;
    }
    // A change by one protocol keeps the entries of the others.
    let nacos = "/nacos/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80&weight=5";
    for path in [
        nacos,
        "/eureka/apps/ORDERS/10.0.0.1:orders:80/metadata?zone=a",
        "/eureka/apps/ORDERS/10.0.0.1:orders:80",
        "/v1/agent/check/pass/service:orders-10.0.0.1",
    ] {
        super::send(daemon, reqwest::Method::PUT, path, None).await;
    }
}

/// A list is answered from memory; the look at the event log before it ends soon.
#[tokio::test]
async fn a_frozen_redis_stops_no_list_and_ends_no_instance() {
    let (setup, _other) = replicas::<Shared>().await;
    let daemon = &setup.daemon;
    for writer in By::WRITERS {
        writer.register(daemon, "orders", "10.0.0.1").await;
    }
    setup.backends.redis.freeze();
    let wanted = BTreeSet::from(["10.0.0.1".to_owned()]);
    for _ in 0..3 {
        for reader in By::READERS {
            let list = reader.available(daemon, "orders");
            let list = timeout(Duration::from_secs(5), list).await;
            assert_eq!(list.expect("an answer"), wanted, "{reader:?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    setup.backends.redis.thaw();
    let beat = "/nacos/v1/ns/instance/beat?serviceName=orders&ip=10.0.0.1&port=80";
    let renewed = eventually(Duration::from_secs(10), "a renewal is accepted", || async {
        let answer = super::try_send(daemon, reqwest::Method::PUT, beat, None).await;
        (answer.0 == 200).then_some(())
    });
    renewed.await;
    assert_eq!(By::Native.available(daemon, "orders").await, wanted);
}

#[tokio::test]
async fn a_token_of_one_service_sees_and_changes_this_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens").display().to_string();
    let make = |role: &str, scope: &[&str]| {
        let output = std::process::Command::new(BINARY)
            .args(["token", "--role", role, "--name", role, "--quiet"])
            .args(["--append", &tokens])
            .args(scope)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let admin = make("admin", &[]);
    let web = make("agent", &["--scope", "services/orders"]);
    let own = ["--tokens-file", tokens.as_str()];
    let flags = ALL.iter().chain(&own);
    let flags: Vec<String> = flags.map(|flag| (*flag).to_owned()).collect();
    let daemon = Daemon::start(&flags).await;
    let send = async |token: &str, method: &str, path: &str, body: Option<Value>| {
        let url = format!("{}{path}", daemon.url());
        let request = daemon.client().request(method.parse().unwrap(), url);
        let request = request
            .bearer_auth(token)
            .header("accept", "application/json");
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap())
    };
    let service = |name: &str, ip: &str| {
        let check = json!({"TTL": "60s", "Status": "passing"});
        json!({"Name": name, "ID": name, "Address": ip, "Port": 80, "Check": check})
    };
    let register = "/v1/agent/service/register";
    for (name, ip) in [("orders", "10.0.0.1"), ("billing", "10.0.0.2")] {
        let (status, text) = send(&admin, "PUT", register, Some(service(name, ip))).await;
        assert_eq!(status, 200, "{text}");
    }
    for path in [
        "/eureka/apps",
        "/eureka/apps/delta",
        "/v1/catalog/services",
        "/v1/catalog/nodes",
        "/v1/health/state/any",
        "/v1/agent/services",
        "/v1/agent/checks",
        "/nacos/v1/ns/service/list?pageNo=1&pageSize=10",
    ] {
        let (status, text) = send(&web, "GET", path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        let text = text.to_lowercase();
        let sees = |word: &str| text.contains(word);
        assert!(sees("orders") || sees("10.0.0.1"), "{path}: {text}");
        assert!(!sees("billing") && !sees("10.0.0.2"), "{path}: {text}");
    }
    let instance = json!({"instance": {
        "app": "BILLING", "hostName": "a", "ipAddr": "10.0.0.3", "port": {"$": 80},
        "dataCenterInfo": {"name": "MyOwn"},
    }});
    for (method, path, body) in [
        ("GET", "/eureka/apps/BILLING", None),
        ("POST", "/eureka/apps/BILLING", Some(instance)),
        ("GET", "/v1/health/service/billing", None),
        ("PUT", register, Some(service("billing", "10.0.0.4"))),
        ("PUT", "/v1/agent/service/deregister/billing", None),
        ("PUT", "/v1/agent/check/pass/service:billing", None),
        (
            "GET",
            "/nacos/v1/ns/instance/list?serviceName=billing",
            None,
        ),
        (
            "POST",
            "/nacos/v1/ns/instance?serviceName=billing&ip=10.0.0.5&port=80",
            None,
        ),
        (
            "PUT",
            "/nacos/v1/ns/instance/beat?serviceName=billing&ip=10.0.0.2&port=80",
            None,
        ),
    ] {
        let (status, text) = send(&web, method, path, body).await;
        assert_eq!(status, 403, "{method} {path}: {text}");
    }
}
