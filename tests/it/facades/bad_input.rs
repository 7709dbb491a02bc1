//! Bad input on every route of every protocol: the protocol's own error, never a 5xx, and no document
//! broken by it.

use reqwest::Method;
use serde_json::json;

use super::{ALL, get};
use crate::support::daemon::Daemon;

/// The routes that change something, and whether they read a body.
const CHANGES: [(&str, &str); 20] = [
    ("POST", "/eureka/apps/ORDERS"),
    ("PUT", "/eureka/apps/ORDERS/ID"),
    ("DELETE", "/eureka/apps/ORDERS/ID"),
    ("PUT", "/eureka/apps/ORDERS/ID/status?value=ID"),
    ("DELETE", "/eureka/apps/ORDERS/ID/status"),
    ("PUT", "/eureka/apps/ORDERS/ID/metadata?ID=ID"),
    ("PUT", "/v1/agent/service/register"),
    ("PUT", "/v1/agent/service/deregister/ID"),
    (
        "PUT",
        "/v1/agent/service/maintenance/ID?enable=ID&reason=ID",
    ),
    ("PUT", "/v1/agent/check/pass/ID?note=ID"),
    ("PUT", "/v1/agent/check/warn/ID"),
    ("PUT", "/v1/agent/check/fail/ID"),
    ("PUT", "/v1/agent/check/update/ID"),
    ("PUT", "/v1/agent/check/register"),
    ("PUT", "/v1/agent/check/deregister/ID"),
    (
        "POST",
        "/nacos/v1/ns/instance?serviceName=ID&ip=ID&port=ID&metadata=ID",
    ),
    (
        "PUT",
        "/nacos/v1/ns/instance?serviceName=ID&ip=10.0.0.1&port=80&weight=ID",
    ),
    (
        "DELETE",
        "/nacos/v1/ns/instance?serviceName=ID&ip=10.0.0.1&port=ID",
    ),
    ("PUT", "/nacos/v1/ns/instance/beat?serviceName=ID&beat=ID"),
    ("POST", "/nacos/v1/auth/login?username=ID&password=ID"),
];

const READS: [&str; 16] = [
    "/eureka/apps/ID",
    "/eureka/apps/ORDERS/ID",
    "/eureka/instances/ID",
    "/eureka/vips/ID",
    "/eureka/apps?regions=ID",
    "/v1/health/service/ID?passing=ID&tag=ID",
    "/v1/health/service/orders?index=ID&wait=ID",
    "/v1/health/checks/ID",
    "/v1/health/state/ID",
    "/v1/health/node/ID",
    "/v1/catalog/service/ID",
    "/v1/catalog/node/ID",
    "/v1/agent/service/ID",
    "/v1/agent/health/service/id/ID",
    "/nacos/v1/ns/instance/list?serviceName=ID&clusters=ID&healthyOnly=ID",
    "/nacos/v1/ns/service/list?pageNo=ID&pageSize=ID&groupName=ID",
];

/// Names that clients should not have, as they stand in a URL.
fn names() -> Vec<String> {
    let long = "a".repeat(3000);
    let names = [
        "%00",
        "%ff",
        "..%2f..%2fetc",
        "%2F",
        "%3Cscript%3E",
        "-1",
        "9999999999999999999999",
        "NaN",
        "%0d%0aX-Injected:%201",
        "%e8%ae%a2%e5%8d%95",
        "{}",
        "null",
        "service:",
        ":",
        "@@",
        "a%40%40",
        "%22%3E%3C!DOCTYPE",
        &long,
    ];
    names.map(str::to_owned).into()
}

/// Bodies in the forms that the protocols know, and in none.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let json = "application/json";
    let xml = "application/xml";
    let laughs = b"<!DOCTYPE a [<!ENTITY b \"ha\"><!ENTITY c \"&b;&b;\">]><instance>&c;</instance>";
    let wrong = json!({
        "instance": {"app": "ORDERS", "hostName": {}, "ipAddr": [], "port": "x", "metadata": 1},
        "Name": 7, "Port": "80", "Check": [], "Checks": {}, "Tags": 1, "Status": "good",
    });
    let null = json!({
        "instance": {"app": null, "hostName": null, "ipAddr": null, "dataCenterInfo": null},
        "Name": null, "ID": null, "Port": null, "Check": null, "TTL": null, "Status": null,
    });
    vec![
        (json, b"".to_vec()),
        (json, b"{".to_vec()),
        (json, b"{\"instance\":{\"app\":\"ORDERS\"".to_vec()),
        (json, b"[]".to_vec()),
        (json, b"null".to_vec()),
        (json, b"\"\xff\"".to_vec()),
        (json, "[".repeat(20_000).into_bytes()),
        (json, wrong.to_string().into_bytes()),
        (json, null.to_string().into_bytes()),
        (xml, b"<instance>".to_vec()),
        (xml, b"<instance><app>ORDERS</instance>".to_vec()),
        (xml, laughs.to_vec()),
        (xml, "<a>".repeat(20_000).into_bytes()),
        (xml, b"<instance><app>\xff</app></instance>".to_vec()),
        (
            "application/x-www-form-urlencoded",
            b"serviceName=%ff&ip=%00&port=-1".to_vec(),
        ),
        ("application/octet-stream", vec![0xff; 1000]),
        (json, vec![b' '; 70_000]),
    ]
}

#[tokio::test]
async fn bad_input_is_answered_in_the_protocol_s_words_and_never_with_a_5xx() {
    let daemon = Daemon::start(&ALL.map(str::to_owned)).await;
    super::By::Eureka
        .register(&daemon, "orders", "10.0.0.1")
        .await;
    let check = async |method: &str, path: &str, body: Option<(&str, Vec<u8>)>| {
        let method: Method = method.parse().unwrap();
        let url = format!("{}{path}", daemon.url());
        let mut request = daemon.client().request(method.clone(), url);
        if let Some((kind, bytes)) = body {
            request = request.header("content-type", kind).body(bytes);
        }
        let shown: String = path.chars().take(120).collect();
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        // A check that fails is Consul's 503.
        let is_health = path.starts_with("/v1/agent/health/") && status == 503;
        assert!(status < 500 || is_health, "{method} {shown}: {status}");
        assert!(answer.headers().get("x-injected").is_none(), "{shown}");
        if status >= 400 && !is_health {
            let kind = answer.headers().get("content-type");
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            assert!(
                kind.starts_with("text/plain"),
                "{method} {shown}: {status} {kind}"
            );
            assert!(!answer.text().await.unwrap().is_empty(), "{method} {shown}");
        }
    };
    for name in names() {
        for (method, path) in CHANGES {
            check(method, &path.replace("ID", &name), None).await;
        }
        for path in READS {
            check("GET", &path.replace("ID", &name), None).await;
        }
    }
    for (kind, body) in bodies() {
        for (method, path) in CHANGES {
            check(method, path, Some((kind, body.clone()))).await;
        }
    }
    // Everything is still readable.
    for path in [
        "/eureka/apps",
        "/eureka/apps/delta",
        "/v1/catalog/services",
        "/v1/health/state/any",
        "/nacos/v1/ns/service/list?pageNo=1&pageSize=100",
    ] {
        get(&daemon, path).await;
    }
    let found = super::By::Eureka.available(&daemon, "orders").await;
    assert_eq!(found, ["10.0.0.1".to_owned()].into());
}
