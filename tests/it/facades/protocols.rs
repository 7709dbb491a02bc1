//! What is registered by one protocol is found by every other one, on every replica.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::{ALL, By};
use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
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
