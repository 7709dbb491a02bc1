//! Nacos' HTTP API, in what the clients of several languages need.

use reqwest::Method;
use serde_json::{Value, json};

use super::{get, send, try_send};
use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;

const FLAGS: [&str; 1] = ["--facades=nacos"];

on_both_backends! {
    a_list_has_the_names_and_the_clusters_as_they_were_asked_for,
    a_beat_registers_an_unknown_instance_only_if_it_describes_it,
    parameters_may_be_in_a_form,
    a_change_leaves_what_it_does_not_name,
    what_is_not_served_is_refused_in_words,
}

const INSTANCE: &str = "/nacos/v1/ns/instance";
const LIST: &str = "/nacos/v1/ns/instance/list";
const BEAT: &str = "/nacos/v1/ns/instance/beat";

async fn register(daemon: &Daemon, query: &str) {
    let path = format!("{INSTANCE}?{query}");
    assert_eq!(send(daemon, Method::POST, &path, None).await, "ok");
}

async fn a_list_has_the_names_and_the_clusters_as_they_were_asked_for<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    // As Java and Node write the name.
    let name = "serviceName=DEFAULT_GROUP%40%40orders";
    register(
        daemon,
        &format!("{name}&ip=10.0.0.1&port=80&clusterName=c1&weight=0.5"),
    )
    .await;
    for (query, clusters, count) in [
        (name.to_owned(), "", 1),
        (format!("{name}&clusters=c1,c2"), "c1,c2", 1),
        (format!("{name}&clusters=DEFAULT"), "DEFAULT", 0),
        (
            "serviceName=orders&groupName=DEFAULT_GROUP".to_owned(),
            "",
            1,
        ),
        ("serviceName=orders&namespaceId=public".to_owned(), "", 1),
        ("serviceName=orders&namespaceId=other".to_owned(), "", 0),
    ] {
        let list = get(daemon, &format!("{LIST}?{query}")).await;
        assert_eq!(list["name"], "DEFAULT_GROUP@@orders");
        assert_eq!(
            (&list["dom"], &list["clusters"]),
            (&json!("orders"), &json!(clusters))
        );
        let hosts = list["hosts"].as_array().unwrap();
        assert_eq!(hosts.len(), count, "{query}");
        for host in hosts {
            let id = "10.0.0.1#80#c1#DEFAULT_GROUP@@orders";
            assert_eq!(host["instanceId"], id);
            assert_eq!(
                (&host["weight"], &host["ephemeral"]),
                (&json!(0.5), &json!(true))
            );
        }
    }
    // A name that is no key, as Dubbo's.
    let dubbo = "serviceName=BLUE%40%40providers%3Aorg.Demo%3A1.0.0%3A&namespaceId=8f1c";
    register(daemon, &format!("{dubbo}&ip=10.0.0.2&port=81")).await;
    let list = get(daemon, &format!("{LIST}?{dubbo}")).await;
    assert_eq!(list["name"], "BLUE@@providers:org.Demo:1.0.0:");
    assert_eq!(list["hosts"].as_array().unwrap().len(), 1);
    let services = "/nacos/v1/ns/service/list?pageNo=1&pageSize=10";
    let all = get(daemon, services).await;
    assert_eq!(all, json!({"count": 1, "doms": ["orders"]}));
    let blue = format!("{services}&groupName=BLUE&namespaceId=8f1c");
    let all = get(daemon, &blue).await;
    assert_eq!(
        all,
        json!({"count": 1, "doms": ["providers:org.Demo:1.0.0:"]})
    );
}

async fn a_beat_registers_an_unknown_instance_only_if_it_describes_it<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let query = "serviceName=orders&ip=10.0.0.1&port=80";
    let beat = async |query: &str| {
        let path = format!("{BEAT}?{query}");
        let text = send(daemon, Method::PUT, &path, None).await;
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let light = beat(query).await;
    assert_eq!(
        (&light["code"], &light["clientBeatInterval"]),
        (&json!(20_404), &json!(5000))
    );
    let described = json!({
        "serviceName": "DEFAULT_GROUP@@orders", "ip": "10.0.0.1", "port": 80, "cluster": "DEFAULT",
        "weight": 2.0, "metadata": {"preserved.heart.beat.timeout": "6000"}, "scheduled": true,
    });
    let described: String =
        url::form_urlencoded::byte_serialize(described.to_string().as_bytes()).collect();
    let whole = beat(&format!("serviceName=orders&beat={described}")).await;
    // A third of the TTL, so that two may be lost.
    assert_eq!(
        (&whole["code"], &whole["clientBeatInterval"]),
        (&json!(10_200), &json!(2000))
    );
    assert_eq!(beat(query).await["code"], 10_200);
}

async fn parameters_may_be_in_a_form<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let form =
        "serviceName=orders&ip=10.0.0.1&port=80&metadata=zone%3Da&enable=True&clusterName=None";
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let url = format!("{}{INSTANCE}", daemon.url());
        let request = daemon
            .client()
            .request(method.clone(), url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{method}");
        assert_eq!(answer.text().await.unwrap(), "ok");
    }
    let list = get(daemon, &format!("{LIST}?serviceName=orders")).await;
    assert_eq!(list["hosts"], json!([]));
}

async fn a_change_leaves_what_it_does_not_name<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let instance = "serviceName=orders&ip=10.0.0.1&port=80";
    register(daemon, &format!("{instance}&metadata=zone%3Da&weight=3")).await;
    let path = format!("{INSTANCE}?{instance}&weight=5");
    send(daemon, Method::PUT, &path, None).await;
    let host = get(daemon, &format!("{LIST}?serviceName=orders")).await["hosts"][0].clone();
    assert_eq!(
        (&host["weight"], &host["metadata"]["zone"]),
        (&json!(5.0), &json!("a"))
    );
}

async fn what_is_not_served_is_refused_in_words<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    for (method, path, status, word) in [
        (
            Method::POST,
            "/nacos/v1/ns/instance?ip=10.0.0.1&port=80",
            400,
            "serviceName",
        ),
        (
            Method::POST,
            "/nacos/v1/ns/instance?serviceName=a&ip=10.0.0.1",
            400,
            "port",
        ),
        (
            Method::POST,
            "/nacos/v1/ns/instance?serviceName=a&ip=10.0.0.1&port=80&ephemeral=false",
            400,
            "ephemeral",
        ),
        (
            Method::POST,
            "/nacos/v1/ns/instance?serviceName=a&ip=10.0.0.1&port=80&weight=heavy",
            400,
            "weight",
        ),
        (
            Method::GET,
            "/nacos/v1/ns/instance?serviceName=a&ip=10.0.0.1&port=80",
            404,
            "not registered",
        ),
        (
            Method::GET,
            "/nacos/v1/cs/configs?dataId=a&group=b",
            501,
            "configuration",
        ),
    ] {
        let (code, text) = try_send(daemon, method, path, None).await;
        assert_eq!(code, status, "{path}: {text}");
        assert!(text.contains(word), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_client_logs_in_with_a_token_as_its_password() {
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    std::fs::write(&file, "the-token-of-the-application-0123456789").unwrap();
    let agent = format!("--agent-token-file={}", file.display());
    let daemon = Daemon::start(&[FLAGS[0].to_owned(), agent]).await;
    let login = "/nacos/v1/auth/users/login?username=nacos&password";
    let (status, _) = try_send(&daemon, Method::POST, &format!("{login}=wrong"), None).await;
    assert_eq!(status, 403);
    let right = format!("{login}=the-token-of-the-application-0123456789");
    let answer = send(&daemon, Method::POST, &right, None).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let token = answer["accessToken"].as_str().unwrap();
    let list = format!("{LIST}?serviceName=orders");
    assert_eq!(try_send(&daemon, Method::GET, &list, None).await.0, 403);
    let list = format!("{list}&accessToken={token}");
    assert_eq!(try_send(&daemon, Method::GET, &list, None).await.0, 200);
}
