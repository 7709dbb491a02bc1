//! Methods, queries and origins: what every path does alike.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::daemon::Daemon;

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

async fn send(
    daemon: &Daemon,
    method: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> (StatusCode, HeaderMap) {
    let method: Method = method.parse().unwrap();
    let url = format!("{}{path}", daemon.url());
    let mut request = daemon.client().request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.headers().clone())
}

/// A path that a pattern of the route table matches.
fn example(pattern: &str) -> String {
    pattern
        .replace("{kind}", "services")
        .replace("{key}", "orders")
        .replace("{address}", "10.0.0.5:8080")
        .replace("{file}", "base.css")
}

fn patterns() -> Vec<&'static str> {
    let mut patterns: Vec<_> = rollcalld::http::routes()
        .into_iter()
        .map(|(pattern, ..)| pattern)
        .collect();
    patterns.dedup();
    patterns
}

#[tokio::test]
async fn complaint_9_every_path_answers_options_and_each_get_answers_head() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    for pattern in patterns() {
        let (status, headers) = send(&daemon, "OPTIONS", &example(pattern), &[]).await;
        assert_eq!(status, 204, "{pattern}");
        let allow = headers["allow"].to_str().unwrap();
        assert!(allow.ends_with("OPTIONS"), "{pattern}: {allow}");
        if allow.starts_with("GET, HEAD") {
            let (status, _) = send(&daemon, "HEAD", &example(pattern), &[]).await;
            let is_docs_file = pattern == "/docs/{file}";
            assert!(status.is_success() || is_docs_file, "{pattern}: {status}");
        }
    }
    assert_eq!(send(&daemon, "OPTIONS", "/nothing", &[]).await.0, 404);
}

#[tokio::test]
async fn complaint_11_a_query_parameter_that_a_route_does_not_know_is_400() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let original = |pattern: &str| pattern.starts_with("/gateway-");
    // Browsers and links may add parameters to pages.
    let page = |pattern: &str| ["/", "/docs", "/docs/{file}", "/console/{file}"].contains(&pattern);
    let mut checked = 0;
    for (pattern, method, _) in rollcalld::http::routes() {
        if original(pattern) || page(pattern) {
            continue;
        }
        let path = format!("{}?nonsense=1", example(pattern));
        let (status, _) = send(
            &daemon,
            method,
            &path,
            &[("content-type", "application/json")],
        )
        .await;
        assert_eq!(status, 400, "{method} {pattern}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[tokio::test]
async fn complaint_15_pages_of_an_allowed_origin_may_use_the_api() {
    let origins = [
        "--cors-origin",
        "https://status.example,https://other.example:8443",
    ];
    let daemon = Daemon::start(&origins.map(str::to_owned)).await;
    let origin = ("origin", "https://status.example");
    let preflight = [
        origin,
        ("access-control-request-method", "PUT"),
        (
            "access-control-request-headers",
            "authorization, content-type",
        ),
    ];
    let (status, headers) = send(&daemon, "OPTIONS", ORDERS, &preflight).await;
    assert!(status.is_success(), "{status}");
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://status.example"
    );
    let allowed = headers["access-control-allow-methods"].to_str().unwrap();
    assert!(
        allowed.contains("PUT") && allowed.contains("DELETE"),
        "{allowed}"
    );
    let allowed = headers["access-control-allow-headers"].to_str().unwrap();
    assert!(
        allowed.to_lowercase().contains("authorization"),
        "{allowed}"
    );
    assert!(headers.contains_key("access-control-max-age"));

    let (status, headers) = send(&daemon, "GET", "/v1/services", &[origin]).await;
    assert_eq!(status, 200);
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://status.example"
    );
    assert!(
        headers["vary"]
            .to_str()
            .unwrap()
            .to_lowercase()
            .contains("origin")
    );
    let exposed = headers["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.to_lowercase().contains("etag"), "{exposed}");
    // Also an error can be read.
    let (status, headers) = send(&daemon, "GET", "/v1/groups/none", &[origin]).await;
    assert_eq!(status, 404);
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://status.example"
    );

    let stranger = ("origin", "https://evil.example");
    let (_, headers) = send(&daemon, "GET", "/v1/services", &[stranger]).await;
    assert!(!headers.contains_key("access-control-allow-origin"));

    let closed = Daemon::start(&[]).await;
    let (status, headers) = send(&closed, "OPTIONS", ORDERS, &preflight).await;
    assert_eq!(status, 204);
    assert!(!headers.contains_key("access-control-allow-origin"));
    let open = Daemon::start(&["--cors-origin", "*"].map(str::to_owned)).await;
    let (_, headers) = send(&open, "GET", "/v1/services", &[stranger]).await;
    assert!(headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn complaint_19_a_key_has_no_colon_and_says_so() {
    let daemon = Daemon::start(&[]).await;
    for key in ["providers:x:1.0.0:", "a$B", "G@@s"] {
        let path = format!("/v1/services/{key}/instances/a:1");
        let (status, body) = daemon.put(&path, json!({})).await;
        assert_eq!((status.as_u16(), &body["field"]), (400, &json!("service")));
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains("hold only letters, digits, '.', '_' and '-'"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn complaint_26_the_services_of_a_reused_address_are_found_by_it() {
    let daemon = Daemon::start(&[]).await;
    for service in ["old", "new"] {
        let path = format!("/v1/services/{service}/instances/10.0.0.5:8080");
        daemon.put(&path, json!({})).await;
    }
    let (_, found) = daemon.get("/v1/instances?address=10.0.0.5:8080").await;
    let services = found["instances"].as_array().unwrap().iter();
    let services: Vec<_> = services
        .map(|one| one["service"].as_str().unwrap())
        .collect();
    assert_eq!(services, ["new", "old"]);
}

#[tokio::test]
async fn complaint_28_an_instance_of_weight_0_stays_available() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({"weight": 0})).await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    let (_, instance) = daemon.get(ORDERS).await;
    assert_eq!(
        (&instance["available"], &instance["weight"]),
        (&json!(true), &json!(0))
    );
}

#[tokio::test]
async fn complaint_33_a_heartbeat_writes_no_line_to_the_log() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let before = daemon.log();
    for _ in 0..200 {
        daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    }
    assert_eq!(daemon.log(), before);
}

#[tokio::test]
async fn complaint_35_variables_that_kubernetes_adds_are_no_settings() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let variables = [
        ("ROLLCALL_PORT", "tcp://10.0.0.1:18080"),
        ("ROLLCALL_PORT_18080_TCP", "tcp://10.0.0.1:18080"),
        ("ROLLCALL_PORT_18080_TCP_ADDR", "10.0.0.1"),
        ("ROLLCALL_SERVICE_HOST", "10.0.0.1"),
        ("ROLLCALL_SERVICE_PORT", "18080"),
        ("ROLLCALL_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ("ROLLCALL_SERVER_SERVICE_HOST", "10.0.0.3"),
    ];
    let daemon = Daemon::launch_with(&[], folder, &variables);
    daemon.ready().await;
}

#[tokio::test]
async fn complaint_37_an_idle_connection_outlives_the_60_seconds_of_a_load_balancer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let daemon = Daemon::start(&[]).await;
    let mut stream = tokio::net::TcpStream::connect(daemon.address())
        .await
        .unwrap();
    let mut ask = async || {
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 4096];
        let count = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(std::time::Duration::from_secs(65)).await;
    assert!(ask().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn complaint_40_a_host_name_may_have_underscores() {
    let daemon = Daemon::start(&[]).await;
    let path = "/v1/services/orders/instances/my_svc:8080";
    assert_eq!(daemon.put(path, json!({})).await.0, 201);
}
