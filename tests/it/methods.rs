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
        .replace("{file}", "console.css")
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
