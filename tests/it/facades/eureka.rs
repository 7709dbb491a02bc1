//! Eureka's REST operations, in what the clients of other languages need.

use reqwest::Method;
use serde_json::{Value, json};

use super::{By, get, send, try_send};
use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;

on_both_backends! {
    an_application_is_json_only_where_that_is_accepted,
    a_delta_has_what_changed_and_asks_for_everything_while_it_is_not_complete,
    the_same_id_at_another_address_replaces_the_instance,
    no_text_of_a_client_breaks_a_document,
    an_operator_s_hold_is_not_ended_by_the_application,
}

const FLAGS: [&str; 1] = ["--facades=eureka"];

fn instance(ip: &str, more: Value) -> Value {
    let mut instance = json!({
        "instanceId": format!("id-{ip}"), "app": "ORDERS", "hostName": ip, "ipAddr": ip,
        "port": {"$": 80, "@enabled": "true"}, "dataCenterInfo": {"name": "MyOwn"},
    });
    for (name, value) in more.as_object().unwrap() {
        instance[name] = value.clone();
    }
    json!({ "instance": instance })
}

async fn register(daemon: &Daemon, body: Value) {
    send(daemon, Method::POST, "/eureka/apps/ORDERS", Some(body)).await;
}

/// Returns a document in XML, which must be well-formed.
async fn xml(daemon: &Daemon, path: &str) -> String {
    let url = format!("{}{path}", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/xml");
    let text = answer.text().await.unwrap();
    let mut reader = quick_xml::Reader::from_str(&text);
    let mut depth = 0;
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Start(_) => depth += 1,
            quick_xml::events::Event::End(_) => depth -= 1,
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "{text}");
    text
}

async fn an_application_is_json_only_where_that_is_accepted<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let empty = get(daemon, "/eureka/apps").await;
    assert_eq!(empty["applications"]["application"], json!([]));
    register(
        daemon,
        instance("10.0.0.1", json!({"metadata": {"zone": "a"}})),
    )
    .await;
    for path in ["/eureka/apps", "/eureka/apps/", "/eureka/v2/apps/"] {
        let all = get(daemon, path).await;
        assert_eq!(all["applications"]["apps__hashcode"], "UP_1_");
        let one = &all["applications"]["application"][0];
        assert_eq!(one["name"], "ORDERS");
        let instance = one["instance"][0].as_object().unwrap();
        let names: Vec<&str> = instance.keys().map(String::as_str).collect();
        // Decoders of Java refuse any other.
        let known = [
            "instanceId",
            "hostName",
            "app",
            "ipAddr",
            "status",
            "overriddenStatus",
            "port",
            "securePort",
            "countryId",
            "dataCenterInfo",
            "leaseInfo",
            "metadata",
            "homePageUrl",
            "statusPageUrl",
            "healthCheckUrl",
            "vipAddress",
            "secureVipAddress",
            "isCoordinatingDiscoveryServer",
            "lastUpdatedTimestamp",
            "lastDirtyTimestamp",
            "actionType",
        ];
        assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
        assert_eq!(instance["port"], json!({"$": 80, "@enabled": "true"}));
        let class = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";
        assert_eq!(instance["dataCenterInfo"]["@class"], class);
        assert!(instance["lastDirtyTimestamp"].is_string());
    }
    let all = xml(daemon, "/eureka/apps").await;
    assert!(all.contains("<port enabled=\"true\">80</port>"), "{all}");
    assert!(all.contains("<metadata><zone>a</zone></metadata>"), "{all}");
    xml(daemon, "/eureka/apps/orders").await;
    xml(daemon, "/eureka/apps/ORDERS/id-10.0.0.1").await;
    xml(daemon, "/eureka/vips/orders").await;
    // A body that a client did not ask for would be decoded.
    let renew = "/eureka/apps/ORDERS/id-10.0.0.1?status=UP&lastDirtyTimestamp=1";
    assert_eq!(send(daemon, Method::PUT, renew, None).await, "");
}

async fn a_delta_has_what_changed_and_asks_for_everything_while_it_is_not_complete<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    for ip in ["10.0.0.1", "10.0.0.2"] {
        register(daemon, instance(ip, json!({}))).await;
    }
    send(
        daemon,
        Method::DELETE,
        "/eureka/apps/ORDERS/id-10.0.0.2",
        None,
    )
    .await;
    let delta = get(daemon, "/eureka/apps/delta").await;
    let instances = delta["applications"]["application"][0]["instance"].clone();
    let mut actions: Vec<(String, String)> = instances
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap().to_owned();
            (text("instanceId"), text("actionType"))
        })
        .collect();
    actions.sort();
    let expected = [("id-10.0.0.1", "MODIFIED"), ("id-10.0.0.2", "DELETED")];
    let expected = expected.map(|(id, action)| (id.to_owned(), action.to_owned()));
    assert_eq!(actions, expected);
    // The daemon does not know the changes before its start.
    let hash = delta["applications"]["apps__hashcode"].as_str().unwrap();
    assert!(hash.starts_with("UP_1_") && hash != "UP_1_", "{hash}");
}

async fn the_same_id_at_another_address_replaces_the_instance<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    for ip in ["10.0.0.1", "10.0.0.2"] {
        register(daemon, instance(ip, json!({"instanceId": "one"}))).await;
    }
    let found = By::Eureka.available(daemon, "orders").await;
    assert_eq!(found, ["10.0.0.2".to_owned()].into());
}

async fn no_text_of_a_client_breaks_a_document<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let hostile = "</a>&lt; ]]> \u{1} \u{ffff} \" ' é";
    let more = json!({
        "instanceId": hostile, "hostName": hostile, "vipAddress": hostile, "status": hostile,
        "homePageUrl": hostile, "appGroupName": hostile, "asgName": hostile,
        "dataCenterInfo": {"@class": hostile, "name": hostile, "metadata": {hostile: hostile}},
        "metadata": {"a b": "1", "1x": "2", "ns:k": "3", hostile: hostile},
    });
    register(daemon, instance("10.0.0.1", more)).await;
    register(daemon, instance("10.0.0.2", json!({}))).await;
    xml(daemon, "/eureka/apps").await;
    xml(daemon, "/eureka/apps/delta").await;
    xml(daemon, "/eureka/apps/ORDERS").await;
    get(daemon, "/eureka/apps").await;
    // Of an operator, and by another protocol.
    let path = "/v1/services/orders/instances/10.0.0.2:80";
    let change = json!({"metadata": {"a b": hostile}});
    assert!(daemon.patch(path, change).await.0.is_success());
    xml(daemon, "/eureka/apps").await;
}

async fn an_operator_s_hold_is_not_ended_by_the_application<B: Backends>() {
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    std::fs::write(&file, "the-token-of-the-application-0123456789").unwrap();
    let agent = format!("--agent-token-file={}", file.display());
    let setup =
        Setup::<B>::start_with(&["--facades=eureka", &agent, "--anonymous-role=admin"]).await;
    let daemon = &setup.daemon;
    register(daemon, instance("10.0.0.1", json!({}))).await;
    let path = "/v1/services/orders/instances/10.0.0.1:80";
    let held = json!({"status": "held", "reason": "disk", "held_by": "ada"});
    assert!(daemon.patch(path, held).await.0.is_success());
    let as_application = async |method: Method, path: &str, body: Option<Value>| {
        let request = daemon
            .client()
            .request(method, format!("{}{path}", daemon.url()))
            .basic_auth("orders", Some("the-token-of-the-application-0123456789"));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let status = "/eureka/apps/ORDERS/id-10.0.0.1/status";
    for (method, path) in [
        (Method::PUT, format!("{status}?value=UP")),
        (Method::PUT, format!("{status}?value=OUT_OF_SERVICE")),
        (Method::DELETE, status.to_owned()),
    ] {
        let (code, text) = as_application(method, &path, None).await;
        assert_eq!(code, 403, "{text}");
        assert!(text.contains("\"ada\": disk"), "{text}");
    }
    let body = instance("10.0.0.1", json!({"status": "UP"}));
    let (code, _) = as_application(Method::POST, "/eureka/apps/ORDERS", Some(body)).await;
    assert_eq!(code, 204);
    let shown = get(daemon, "/eureka/instances/id-10.0.0.1").await;
    assert_eq!(shown["instance"]["status"], "OUT_OF_SERVICE");
    // A stop leaves it as it is, too.
    let id = "/eureka/apps/ORDERS/id-10.0.0.1";
    assert_eq!(as_application(Method::DELETE, id, None).await.0, 200);
    let shown = daemon.get(path).await.1;
    assert_eq!(
        (&shown["status"], &shown["held_by"]),
        (&json!("held"), &json!("ada"))
    );

    // Its own override, it may end.
    register(daemon, instance("10.0.0.2", json!({}))).await;
    for (value, shown) in [("OUT_OF_SERVICE", "OUT_OF_SERVICE"), ("UP", "UP")] {
        let path = format!("/eureka/apps/ORDERS/id-10.0.0.2/status?value={value}");
        assert_eq!(as_application(Method::PUT, &path, None).await.0, 200);
        let instance = get(daemon, "/eureka/instances/id-10.0.0.2").await;
        assert_eq!(instance["instance"]["status"], shown);
    }
}

#[tokio::test]
async fn large_lists_are_compressed_where_that_is_accepted() {
    let daemon = Daemon::start(&FLAGS.map(str::to_owned)).await;
    for n in 1..=5 {
        register(&daemon, instance(&format!("10.0.0.{n}"), json!({}))).await;
    }
    let url = format!("{}/eureka/apps", daemon.url());
    let request = daemon.client().get(&url).header("accept-encoding", "gzip");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let body = answer.bytes().await.unwrap();
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&body[..]);
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert_eq!(text, xml(&daemon, "/eureka/apps").await);
}

#[tokio::test]
async fn facades_are_off_unless_they_are_asked_for() {
    let daemon = Daemon::start(&[]).await;
    for (method, path) in [
        (Method::GET, "/eureka/apps"),
        (Method::GET, "/v1/catalog/services"),
        (Method::GET, "/nacos/v1/ns/instance/list?serviceName=a"),
    ] {
        let (status, _) = try_send(&daemon, method, path, None).await;
        assert_eq!(status, 404, "{path}");
    }
    assert!(!daemon.log().contains("DNS"));
}
