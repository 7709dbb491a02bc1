//! A watcher of each protocol follows random changes and ends with the registry's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ALL, By, dns_address, get, send};
use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::resolver::Resolver;

/// The number of changes.
const CHANGES: usize = 1000;

/// The time after the last change in which a watcher must have the state.
const SOON: Duration = Duration::from_secs(5);

on_both_backends! {
    a_watcher_of_each_protocol_follows_a_thousand_changes,
}

async fn a_watcher_of_each_protocol_follows_a_thousand_changes<B: Backends>() {
    let setup = Setup::<B>::start_with(&ALL).await;
    let other = setup.replica(&ALL).await;
    let watched = other.as_ref().unwrap_or(&setup.daemon);
    let resolver = Resolver::start(dns_address(watched), "orders").await;
    let ended = Arc::new(AtomicBool::new(false));
    let (consul, eureka, nacos, ()) = tokio::join!(
        watch_consul(watched, &ended),
        watch_eureka(watched, &ended),
        watch_nacos(watched, &ended),
        async {
            change(&setup.daemon, watched).await;
            By::Native
                .register(&setup.daemon, "orders", "10.0.0.99")
                .await;
            By::Native
                .register(&setup.daemon, "orders", "10.0.0.98")
                .await;
            // Each watcher looks once more after this.
            ended.store(true, Ordering::Relaxed);
        }
    );
    let state = By::Native.available(watched, "orders").await;
    assert!(state.len() > 1, "{state:?}");
    assert_eq!(consul, state);
    assert_eq!(eureka, state);
    assert_eq!(nacos, state);
    eventually(SOON, "HAProxy has the state", || async {
        (resolver.servers() == state).then_some(())
    })
    .await;
}

/// Registers, ends, holds and releases instances, by all protocols and at both daemons.
async fn change(one: &Daemon, other: &Daemon) {
    let mut registered: BTreeMap<String, By> = BTreeMap::new();
    for _ in 0..CHANGES {
        let daemon = if fastrand::bool() { one } else { other };
        let ip = format!("10.0.0.{}", fastrand::u8(1..=12));
        match registered.get(&ip).copied() {
            None => {
                let by = fastrand::choice(By::WRITERS).unwrap();
                by.register(daemon, "orders", &ip).await;
                registered.insert(ip, by);
            }
            Some(by) if fastrand::u8(..3) == 0 => {
                by.leave(daemon, "orders", &ip).await;
                registered.remove(&ip);
                // What is held stays.
                let path = format!("/v1/services/orders/instances/{ip}:80");
                let _ = daemon.delete(&path).await;
            }
            Some(_) => {
                let status = fastrand::choice(["held", "enabled"]).unwrap();
                let path = format!("/v1/services/orders/instances/{ip}:80");
                let body = json!({ "status": status });
                send(daemon, Method::PATCH, &path, Some(body)).await;
            }
        }
    }
}

/// Waits for changes by the index.
async fn watch_consul(daemon: &Daemon, ended: &AtomicBool) -> BTreeSet<String> {
    let mut index = "0".to_owned();
    loop {
        let was_ended = ended.load(Ordering::Relaxed);
        let path = format!("/v1/health/service/orders?passing&index={index}&wait=2s");
        let url = format!("{}{path}", daemon.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        let next = answer.headers()["x-consul-index"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(next.parse::<u64>().unwrap() >= index.parse().unwrap());
        let is_same = next == index;
        index = next;
        let list: Vec<Value> = answer.json().await.unwrap();
        if was_ended && is_same {
            let ips = list
                .iter()
                .map(|one| one["Service"]["Address"].as_str().unwrap());
            return ips.map(str::to_owned).collect();
        }
    }
}

/// Applies deltas, and reads everything when the numbers differ, as Eureka's clients do.
async fn watch_eureka(daemon: &Daemon, ended: &AtomicBool) -> BTreeSet<String> {
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    let instances = |list: &Value| {
        let apps = list["applications"]["application"]
            .as_array()
            .unwrap()
            .clone();
        let instances = apps.into_iter();
        instances.flat_map(|app| app["instance"].as_array().unwrap().clone())
    };
    let id = |one: &Value| one["instanceId"].as_str().unwrap().to_owned();
    loop {
        let was_ended = ended.load(Ordering::Relaxed);
        let delta = get(daemon, "/eureka/apps/delta").await;
        for one in instances(&delta) {
            match one["actionType"].as_str().unwrap() {
                "DELETED" => known.remove(&id(&one)),
                _ => known.insert(id(&one), one),
            };
        }
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for one in known.values() {
            *counts
                .entry(one["status"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        let counts = counts
            .iter()
            .map(|(status, count)| format!("{status}_{count}_"));
        if delta["applications"]["apps__hashcode"] != counts.collect::<String>().as_str() {
            let all = get(daemon, "/eureka/apps").await;
            known = instances(&all).map(|one| (id(&one), one)).collect();
        }
        if was_ended {
            let up = known.values().filter(|one| one["status"] == "UP");
            return up
                .map(|one| one["ipAddr"].as_str().unwrap().to_owned())
                .collect();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks again and again, as Nacos' clients do.
async fn watch_nacos(daemon: &Daemon, ended: &AtomicBool) -> BTreeSet<String> {
    loop {
        let was_ended = ended.load(Ordering::Relaxed);
        let found = By::Nacos.available(daemon, "orders").await;
        if was_ended {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
