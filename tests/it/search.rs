//! Selections over all scopes: lists, pages, discovery, events and changes of many instances.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::sse::Subscriber;

on_both_backends! {
    complaint_11_one_request_lists_the_instances_of_all_scopes,
    complaint_12_instances_are_selected_by_metadata_at_the_server,
    each_condition_selects,
    the_same_conditions_hold_for_a_scope_and_for_targets,
    pages_together_have_every_instance_once,
    complaint_13_a_host_and_a_service_are_held_at_once,
    a_change_of_many_says_what_stays_available_and_changes_nothing_in_a_dry_run,
    lists_of_scopes_targets_and_leases_have_etags_and_may_be_waited_for,
}

async fn put(daemon: &Daemon, path: &str, body: Value) {
    let (status, answer) = daemon.put(&format!("/v1/{path}"), body).await;
    assert!(status.is_success(), "{path}: {answer}");
}

/// Services `billing` and `orders` and a group `edge` with six instances on three hosts.
async fn fill(daemon: &Daemon) {
    put(daemon, "groups/edge", json!({})).await;
    for (path, metadata) in [
        (
            "services/orders/instances/10.0.0.1:80",
            json!({"zone": "a", "version": "v1"}),
        ),
        (
            "services/orders/instances/10.0.0.2:80",
            json!({"zone": "b", "version": "v1"}),
        ),
        (
            "services/orders/instances/10.0.0.3:80",
            json!({"zone": "a", "version": "v2"}),
        ),
        (
            "services/billing/instances/10.0.0.1:81",
            json!({"zone": "a"}),
        ),
        ("services/billing/instances/[2001:db8::1]:81", json!({})),
        ("groups/edge/instances/10.0.0.1:443", json!({})),
    ] {
        put(daemon, path, json!({ "metadata": metadata })).await;
    }
    for beating in [
        "orders/instances/10.0.0.1:80",
        "orders/instances/10.0.0.2:80",
        "billing/instances/10.0.0.1:81",
    ] {
        put(daemon, &format!("services/{beating}/heartbeat"), json!({})).await;
    }
    let held = json!({"status": "held", "reason": "disk"});
    daemon
        .patch("/v1/services/orders/instances/10.0.0.2:80", held)
        .await;
}

fn addresses(list: &Value) -> Vec<&str> {
    let instances = list["instances"].as_array().unwrap().iter();
    instances
        .map(|one| one["address"].as_str().unwrap())
        .collect()
}

const ALL: [&str; 6] = [
    "10.0.0.1:81",
    "[2001:db8::1]:81",
    "10.0.0.1:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "10.0.0.1:443",
];

async fn complaint_11_one_request_lists_the_instances_of_all_scopes<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    assert_eq!(
        daemon.get("/v1/instances").await.1,
        json!({"instances": []})
    );
    fill(&daemon).await;
    let (status, list) = daemon.get("/v1/instances").await;
    assert_eq!((status.as_u16(), addresses(&list)), (200, ALL.to_vec()));
    assert_eq!(list["instances"][0]["service"], json!("billing"));
    assert_eq!(list["instances"][5]["group"], json!("edge"));
    assert!(list.get("next_cursor").is_none());
    let (_, list) = daemon
        .get("/v1/instances?service=billing&group=edge&service=none")
        .await;
    assert_eq!(
        addresses(&list),
        ["10.0.0.1:81", "[2001:db8::1]:81", "10.0.0.1:443"]
    );
    let mut subscriber = Subscriber::new(&daemon, "?service=billing&group=edge").await;
    put(&daemon, "services/orders/instances/x:1", json!({})).await;
    put(&daemon, "services/billing/instances/y:1", json!({})).await;
    put(&daemon, "groups/edge/instances/z:1", json!({})).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = subscriber
            .expect("instance.registered", Duration::from_secs(10))
            .await;
        seen.push(event.address().to_owned());
    }
    assert_eq!(seen, ["y:1", "z:1"]);
}

async fn complaint_12_instances_are_selected_by_metadata_at_the_server<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    let both = "metadata.zone=a&metadata.version=v1";
    for (path, query, selected) in [
        (
            "/v1/instances",
            "metadata.zone=a",
            &["10.0.0.1:81", "10.0.0.1:80", "10.0.0.3:80"][..],
        ),
        ("/v1/instances", both, &["10.0.0.1:80"]),
        (
            "/v1/services/orders/instances",
            "metadata.zone=a",
            &["10.0.0.1:80", "10.0.0.3:80"],
        ),
        ("/v1/services/orders/instances", both, &["10.0.0.1:80"]),
        (
            "/v1/services/orders/instances",
            "metadata.zone=a&available=true",
            &["10.0.0.1:80"],
        ),
        ("/v1/services/orders/instances", "metadata.zone=none", &[]),
    ] {
        let (status, list) = daemon.get(&format!("{path}?{query}")).await;
        assert_eq!(
            (status.as_u16(), addresses(&list)),
            (200, selected.to_vec()),
            "{path} {query}"
        );
    }
}

async fn each_condition_selects<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    for (query, selected) in [
        (
            "online=true",
            &["10.0.0.1:81", "10.0.0.1:80", "10.0.0.2:80"][..],
        ),
        (
            "online=false",
            &["[2001:db8::1]:81", "10.0.0.3:80", "10.0.0.1:443"],
        ),
        ("available=true", &["10.0.0.1:81", "10.0.0.1:80"]),
        ("available=false&online=true", &["10.0.0.2:80"]),
        ("available=true&online=false", &[]),
        ("status=held", &["10.0.0.2:80"]),
        ("status=disabled", &["10.0.0.1:443"]),
        (
            "address=10.0.0.1",
            &["10.0.0.1:81", "10.0.0.1:80", "10.0.0.1:443"],
        ),
        ("address=10.0.0.1:80", &["10.0.0.1:80"]),
        ("address=2001:DB8:0:0::1", &["[2001:db8::1]:81"]),
        ("q=BILL", &["10.0.0.1:81", "[2001:db8::1]:81"]),
        ("q=v2", &["10.0.0.3:80"]),
        ("q=Version", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]),
        ("q=:443", &["10.0.0.1:443"]),
        ("q=", &ALL),
        ("q=nothing+like+it", &[]),
    ] {
        let (status, list) = daemon.get(&format!("/v1/instances?{query}")).await;
        assert_eq!(status, 200, "{query}: {list}");
        assert_eq!(addresses(&list), selected, "{query}");
    }
    for (query, field) in [
        ("online=yes", "online"),
        ("status=gone", "status"),
        ("address=a:0", "address"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("cursor=x", "cursor"),
        ("service=a/b", "service"),
        ("version=v1", "version"),
        ("metadata.=v1", "metadata."),
        ("q=a&q=b", "q"),
        ("wait=soon", "wait"),
    ] {
        let (status, body) = daemon.get(&format!("/v1/instances?{query}")).await;
        assert_eq!(
            (status.as_u16(), &body["field"]),
            (400, &json!(field)),
            "{query}: {body}"
        );
    }
}

async fn the_same_conditions_hold_for_a_scope_and_for_targets<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    for query in [
        "status=held",
        "address=10.0.0.1",
        "q=v2",
        "online=false",
        "metadata.zone=a",
    ] {
        let (_, all) = daemon
            .get(&format!("/v1/instances?service=orders&{query}"))
            .await;
        let (_, scope) = daemon
            .get(&format!("/v1/services/orders/instances?{query}"))
            .await;
        assert_eq!(scope["instances"], all["instances"], "{query}");
        let (_, targets) = daemon
            .get(&format!("/v1/prometheus/targets?service=orders&{query}"))
            .await;
        let targets = targets.as_array().unwrap().iter();
        let targets: Vec<_> = targets
            .map(|one| one["targets"][0].as_str().unwrap())
            .collect();
        assert_eq!(targets, addresses(&all), "{query}");
    }
    let (status, body) = daemon.get("/v1/services/orders/instances?limit=5").await;
    assert_eq!((status.as_u16(), &body["field"]), (400, &json!("limit")));
}

async fn pages_together_have_every_instance_once<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let many: Vec<String> = (0..250).map(|i| format!("h-{i:03}:1")).collect();
    for service in ["a", "b", "c"] {
        daemon.register(service, &many, &json!({})).await;
    }
    for limit in [1, 7, 100, 749, 750, 10_000] {
        let (mut cursor, mut seen, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let after = if cursor.is_empty() {
                String::new()
            } else {
                format!("&cursor={cursor}")
            };
            let (_, page) = daemon
                .get(&format!("/v1/instances?limit={limit}{after}"))
                .await;
            let instances = page["instances"].as_array().unwrap();
            seen.extend(
                instances
                    .iter()
                    .map(|one| (one["service"].clone(), one["address"].clone())),
            );
            pages += 1;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), 750, "{limit}");
        let sorted = seen.windows(2).all(|pair| {
            (pair[0].0.as_str(), pair[0].1.as_str()) < (pair[1].0.as_str(), pair[1].1.as_str())
        });
        assert!(sorted, "{limit}");
        assert_eq!(pages, 750_usize.div_ceil(limit), "{limit}");
        if limit == 1 {
            // A removed instance leaves the cursor valid.
            daemon.delete("/v1/services/a/instances/h-000:1").await;
            let (_, first) = daemon.get("/v1/instances?limit=1").await;
            assert_eq!(first["instances"][0]["address"], json!("h-001:1"));
            daemon
                .put("/v1/services/a/instances/h-000:1", json!({}))
                .await;
        }
    }
}

async fn complaint_13_a_host_and_a_service_are_held_at_once<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    let hold = json!({"status": "held", "reason": "the host is replaced"});
    let body = json!({"selection": {"address": "10.0.0.1"}, "change": hold});
    let (status, result) = daemon.patch("/v1/instances", body).await;
    assert_eq!(status, 200, "{result}");
    assert_eq!(
        (&result["selected"], &result["changed"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(result["failures"], json!([]));
    let (_, held) = daemon.get("/v1/instances?status=held").await;
    assert_eq!(
        addresses(&held),
        ["10.0.0.1:81", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:443"]
    );
    assert_eq!(
        held["instances"][0]["reason"],
        json!("the host is replaced")
    );

    let enable = json!({"selection": {"service": ["orders"]}, "change": {"status": "enabled"}});
    let (_, result) = daemon.patch("/v1/instances", enable).await;
    assert_eq!(
        (&result["selected"], &result["changed"]),
        (&json!(3), &json!(3))
    );
    let (_, held) = daemon.get("/v1/instances?status=held").await;
    assert_eq!(addresses(&held), ["10.0.0.1:81", "10.0.0.1:443"]);
}

async fn a_change_of_many_says_what_stays_available_and_changes_nothing_in_a_dry_run<
    B: Backends,
>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    let (_, before) = daemon.get("/v1/instances").await;
    let mut body = json!({
        "selection": {"metadata": {"zone": "a"}, "online": true},
        "change": {"status": "held"}, "dry_run": true,
    });
    let (status, plan) = daemon.patch("/v1/instances", body.clone()).await;
    assert_eq!(status, 200, "{plan}");
    let effect = json!([
        {"service": "billing", "selected": 1, "available_before": 1, "available_after": 0},
        {"service": "orders", "selected": 1, "available_before": 1, "available_after": 0},
    ]);
    assert_eq!((&plan["scopes"], &plan["changed"]), (&effect, &json!(0)));
    assert_eq!(daemon.get("/v1/instances").await.1, before);
    body["dry_run"] = json!(false);
    let (_, done) = daemon.patch("/v1/instances", body).await;
    assert_eq!((&done["scopes"], &done["changed"]), (&effect, &json!(2)));
    assert_eq!(daemon.counts("orders").await[2], 0);
    assert_eq!(daemon.counts("billing").await[2], 0);
    for (body, field) in [
        (
            json!({"selection": {}, "change": {"status": "held"}}),
            "selection",
        ),
        (json!({"change": {"status": "held"}}), "body"),
        (
            json!({"selection": {"q": "a"}, "change": {}}),
            "change.body",
        ),
        (
            json!({"selection": {"q": "a"}, "change": {"status": "gone"}}),
            "change.status",
        ),
        (
            json!({"selection": {"metadata": 5}, "change": {"weight": 1}}),
            "selection.metadata",
        ),
        (
            json!({"selection": {"host": "a"}, "change": {"weight": 1}}),
            "selection.host",
        ),
    ] {
        let (status, problem) = daemon.patch("/v1/instances", body.clone()).await;
        assert_eq!(
            (status.as_u16(), &problem["field"]),
            (400, &json!(field)),
            "{body}: {problem}"
        );
    }
}

async fn read(daemon: &Daemon, path: &str, etag: Option<&str>) -> (u16, HeaderMap) {
    let mut request = daemon.client().get(format!("{}{path}", daemon.url()));
    if let Some(etag) = etag {
        request = request.header("if-none-match", etag);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.headers().clone())
}

async fn lists_of_scopes_targets_and_leases_have_etags_and_may_be_waited_for<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    let heartbeat = "services/orders/instances/10.0.0.3:80/heartbeat";
    for (list, query) in [
        ("/v1/services", ""),
        ("/v1/services/orders/leases", ""),
        ("/v1/prometheus/targets", "available=true&"),
        ("/v1/instances", "service=orders&"),
        ("/v1/services/orders/instances", "metadata.zone=a&"),
    ] {
        let plain = format!("{list}?{query}")
            .trim_end_matches(['?', '&'])
            .to_owned();
        let (status, headers) = read(&daemon, &plain, None).await;
        assert_eq!(status, 200, "{plain}");
        let etag = headers["etag"].to_str().unwrap().to_owned();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(read(&daemon, &plain, Some(&etag)).await.0, 304, "{plain}");
        let waiting = format!("{list}?{query}wait=300ms");
        assert_eq!(read(&daemon, &waiting, Some(&etag)).await.0, 304, "{plain}");
        let waiting = format!("{list}?{query}wait=20s");
        let waited = read(&daemon, &waiting, Some(&etag));
        let change = async {
            sleep(Duration::from_millis(300)).await;
            put(&daemon, heartbeat, json!({})).await;
        };
        let ((status, headers), ()) = tokio::join!(waited, change);
        assert_eq!(status, 200, "{plain}");
        assert_ne!(headers["etag"].to_str().unwrap(), etag, "{plain}");
        // As before.
        let (status, _) = daemon.delete(&format!("/v1/{heartbeat}")).await;
        assert_eq!(status, 204);
    }
}

#[tokio::test]
async fn a_limited_token_sees_and_changes_the_instances_of_its_scopes() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("tokens");
    let token = |role: &str, name: &str, more: &[&str]| {
        let output = std::process::Command::new(crate::support::daemon::BINARY)
            .args(["token", "--role", role, "--name", name, "--quiet"])
            .args(more)
            .arg("--append")
            .arg(&list)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let all = token("admin", "all", &[]);
    let limited = token("admin", "orders", &["--scope", "services/orders"]);
    let flags = ["--tokens-file", list.to_str().unwrap()].map(str::to_owned);
    let daemon = Daemon::start(&flags).await;
    let send = async |method: Method, path: &str, token: &str, body: Value| {
        let url = format!("{}{path}", daemon.url());
        let request = daemon.client().request(method, url).bearer_auth(token);
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or_default())
    };

    for service in ["billing", "orders"] {
        let path = format!("/v1/services/{service}/instances/a:1");
        assert_eq!(send(Method::PUT, &path, &all, json!({})).await.0, 201);
    }
    let get = async |path: &str, token: &str| send(Method::GET, path, token, json!({})).await;
    assert_eq!(addresses(&get("/v1/instances", &all).await.1).len(), 2);
    let (status, own) = get("/v1/instances", &limited).await;
    assert_eq!(
        (status, own["instances"].as_array().unwrap().len()),
        (200, 1)
    );
    assert_eq!(own["instances"][0]["service"], json!("orders"));
    assert_eq!(get("/v1/instances?service=billing", &limited).await.0, 403);
    let hold = json!({"selection": {"address": "a:1"}, "change": {"status": "held"}});
    let (_, result) = send(Method::PATCH, "/v1/instances", &limited, hold).await;
    assert_eq!(result["changed"], json!(1));
    let (_, billing) = get("/v1/services/billing/instances/a:1", &all).await;
    assert_eq!(billing["status"], json!("enabled"));
}
