//! What keeps large lists small on the wire: compressed answers, and answers that say what changed.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::eventually;

on_both_backends! {
    a_list_is_compressed_for_a_client_that_accepts_it,
    a_client_that_asks_what_changed_has_the_present_list,
    a_list_that_is_too_old_is_answered_whole,
    each_field_is_as_in_the_whole_instance,
}

const LIST: &str = "/v1/services/orders/instances";

/// Registers instances with heartbeats.
async fn fill(daemon: &Daemon, count: usize) {
    let entry = |i: usize| json!({"service": "orders", "address": format!("10.0.{}.{}:80", i / 250, i % 250 + 1), "metadata": {"zone": "a", "version": "1.2.3"}});
    let all: Vec<Value> = (0..count).map(entry).collect();
    let body = json!({ "registrations": all });
    assert_eq!(daemon.post("/v1/registrations", body).await.0, 200);
    let lease = |one: &Value| json!({"service": one["service"], "address": one["address"]});
    let leases: Vec<Value> = all.iter().map(lease).collect();
    let answer = daemon
        .post("/v1/heartbeats", json!({ "leases": leases }))
        .await;
    assert_eq!(answer.1["created"], json!(count));
    eventually(Duration::from_secs(20), "all are online", || async {
        let (_, overview) = daemon.get("/v1/overview").await;
        (overview["services"]["online"] == json!(count)).then_some(())
    })
    .await;
}

async fn get(daemon: &Daemon, path: &str, accept: Option<&str>) -> Response {
    let mut request = daemon.client().get(format!("{}{path}", daemon.url()));
    if let Some(accept) = accept {
        request = request.header("Accept-Encoding", accept);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer
}

fn header(answer: &Response, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

async fn a_list_is_compressed_for_a_client_that_accepts_it<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "1h"]).await;
    fill(&daemon, 5_000).await;
    let answer = get(&daemon, LIST, None).await;
    let tag = header(&answer, "etag").unwrap();
    assert!(tag.starts_with('"'), "{tag}");
    assert_eq!(header(&answer, "vary").as_deref(), Some("Accept-Encoding"));
    let plain = answer.bytes().await.unwrap();
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip;q=1, zstd;q=0.5", Some("gzip")),
        ("zstd;q=0, gzip;q=0", None),
        ("br", None),
        ("identity", None),
    ] {
        let answer = get(&daemon, LIST, Some(accept)).await;
        assert_eq!(
            header(&answer, "content-encoding").as_deref(),
            coding,
            "{accept}"
        );
        let own_tag = header(&answer, "etag").unwrap();
        let bytes = answer.bytes().await.unwrap();
        let Some(coding) = coding else {
            assert_eq!((own_tag, bytes), (tag.clone(), plain.clone()), "{accept}");
            continue;
        };
        assert_eq!(own_tag, format!("W/{tag}"), "{accept}");
        assert!(bytes.len() * 10 < plain.len(), "{accept}: {}", bytes.len());
        let mut decoded = Vec::new();
        match coding {
            "gzip" => drop(
                GzDecoder::new(&bytes[..])
                    .read_to_end(&mut decoded)
                    .unwrap(),
            ),
            _ => decoded = zstd::stream::decode_all(&bytes[..]).unwrap(),
        }
        assert_eq!(decoded, plain, "{accept}");
        // The tag of one coding is known in every other one.
        let known = daemon.client().get(format!("{}{LIST}", daemon.url()));
        let known = known.header("If-None-Match", own_tag).send().await.unwrap();
        assert_eq!(known.status(), 304);
    }
    for path in [
        "/v1/instances",
        "/v1/services/orders/instances?q=10.0.1",
        "/v1/services/orders/leases",
        "/v1/prometheus/targets",
        "/v1/history",
        "/console/registry.js",
        "/",
        "/openapi.json",
    ] {
        let answer = get(&daemon, path, Some("gzip")).await;
        assert_eq!(
            header(&answer, "content-encoding").as_deref(),
            Some("gzip"),
            "{path}"
        );
    }
    let small = get(&daemon, "/v1/services/unknown/instances", Some("gzip")).await;
    assert_eq!(header(&small, "content-encoding"), None);
}

/// A client that keeps a list and asks what changed.
struct Follower {
    path: &'static str,
    etag: String,
    instances: BTreeMap<String, Value>,
}

impl Follower {
    async fn start(daemon: &Daemon, path: &'static str) -> Self {
        let mut follower = Self {
            path,
            etag: String::new(),
            instances: BTreeMap::new(),
        };
        follower.read(daemon, path).await;
        follower
    }

    /// Asks what changed, and returns whether the answer was the whole list.
    async fn ask(&mut self, daemon: &Daemon) -> bool {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        let since = self.etag.replace('"', "%22");
        let path = format!("{}{joint}since={since}&wait=5s", self.path);
        self.read(daemon, &path).await
    }

    async fn read(&mut self, daemon: &Daemon, path: &str) -> bool {
        let answer = get(daemon, path, None).await;
        let before = std::mem::replace(&mut self.etag, header(&answer, "etag").unwrap());
        let body: Value = answer.json().await.unwrap();
        let is_whole = body.get("instances").is_some();
        let listed = match is_whole {
            true => {
                self.instances.clear();
                &body["instances"]
            }
            false => {
                assert_eq!(body["since"], json!(before.trim_matches('"')));
                for address in body["removed"].as_array().unwrap() {
                    assert!(self.instances.remove(address.as_str().unwrap()).is_some());
                }
                &body["changed"]
            }
        };
        for instance in listed.as_array().unwrap() {
            let address = instance["address"].as_str().unwrap().to_owned();
            self.instances.insert(address, instance.clone());
        }
        is_whole
    }

    async fn has_the_present_list(&self, daemon: &Daemon) {
        let answer = get(daemon, self.path, None).await;
        assert_eq!(header(&answer, "etag").as_ref(), Some(&self.etag));
        let body: Value = answer.json().await.unwrap();
        let listed = body["instances"].as_array().unwrap();
        let listed: BTreeMap<String, Value> = listed
            .iter()
            .map(|it| (it["address"].as_str().unwrap().to_owned(), it.clone()))
            .collect();
        assert_eq!(self.instances, listed);
    }
}

async fn a_client_that_asks_what_changed_has_the_present_list<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "1h"]).await;
    fill(&daemon, 300).await;
    let available = "/v1/services/orders/instances?available=true";
    let selected = "/v1/services/orders/instances?metadata.zone=a&status=enabled";
    let few = "/v1/services/orders/instances?fields=address,weight,status,suspect,metadata";
    let mut followers = Vec::new();
    for path in [LIST, available, selected, few] {
        followers.push(Follower::start(&daemon, path).await);
    }
    let at = |i: usize| format!("{LIST}/10.0.0.{i}:80");
    for round in 1..=5 {
        daemon
            .patch(&at(round), json!({"weight": 10 + round}))
            .await;
        daemon
            .patch(&at(20 + round), json!({"status": "held"}))
            .await;
        daemon.delete(&at(40 + round)).await;
        let other = format!("{LIST}/host-{round}:80");
        daemon.put(&other, json!({"metadata": {"zone": "a"}})).await;
        daemon.put(&format!("{other}/heartbeat"), json!({})).await;
        for follower in &mut followers {
            assert!(!follower.ask(&daemon).await, "{}", follower.path);
            follower.has_the_present_list(&daemon).await;
        }
    }
    // Without a change the request waits, and is answered by the next one.
    let begin = Instant::now();
    let follower = &mut followers[0];
    let change = async {
        sleep(Duration::from_millis(700)).await;
        daemon.patch(&at(1), json!({"weight": 99})).await;
    };
    let (is_whole, ()) = tokio::join!(follower.ask(&daemon), change);
    assert!(!is_whole && begin.elapsed() >= Duration::from_millis(700));
    follower.has_the_present_list(&daemon).await;
}

async fn each_field_is_as_in_the_whole_instance<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "1h"]).await;
    fill(&daemon, 3).await;
    let change = json!({"status": "held", "reason": "disk", "held_until": "2999-01-01T00:00:00Z", "weight": 7, "metadata": {"zone": "b"}});
    daemon.patch(&format!("{LIST}/10.0.0.1:80"), change).await;
    let (_, whole) = daemon.get(LIST).await;
    let whole = whole["instances"].as_array().unwrap();
    for name in whole[0].as_object().unwrap().keys() {
        let (_, few) = daemon.get(&format!("{LIST}?fields={name}")).await;
        for (few, whole) in few["instances"].as_array().unwrap().iter().zip(whole) {
            let mut expected = json!({"address": whole["address"]});
            if let Some(value) = whole.get(name) {
                expected[name] = value.clone();
            }
            assert_eq!(few, &expected, "{name}");
        }
    }
    let (status, problem) = daemon.get(&format!("{LIST}?fields=adress")).await;
    assert_eq!(
        (status.as_u16(), &problem["field"]),
        (400, &json!("fields"))
    );
}

async fn a_list_that_is_too_old_is_answered_whole<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "1h"]).await;
    fill(&daemon, 10).await;
    let mut follower = Follower::start(&daemon, LIST).await;
    // More lists than are remembered, each of which a client has seen.
    for weight in 0..70 {
        let path = format!("{LIST}/10.0.0.1:80");
        daemon.patch(&path, json!({"weight": 100 + weight})).await;
        get(&daemon, LIST, None).await;
    }
    assert!(follower.ask(&daemon).await);
    follower.has_the_present_list(&daemon).await;
    follower.etag = "\"unknown\"".to_owned();
    assert!(follower.ask(&daemon).await);
    let (status, problem) = daemon.get(&format!("{LIST}?since=a%20b")).await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("since")));
}
