//! Behind real proxies: nginx and HAProxy with their default time limits. The numbers are those of
//! `docs/complaints.md`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::browser::Browser;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::sse::Subscriber;
use crate::support::web_proxies::WebProxy;

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";
const LIST: &str = "/v1/services/orders/instances";
const SOON: Duration = Duration::from_secs(20);

async fn behind_nginx(daemon: &Daemon) -> WebProxy {
    WebProxy::nginx(&format!("location / {{ proxy_pass {}; }}", daemon.url())).await
}

#[tokio::test]
async fn complaint_9_haproxy_checks_by_options_and_by_head() {
    let daemon = Daemon::start(&[]).await;
    for check in [
        "  option httpchk",
        "  option httpchk HEAD /readyz",
        "  option httpchk GET /readyz",
    ] {
        let server = format!("  server one {} check inter 100ms", daemon.address());
        let proxy = WebProxy::haproxy(&format!("{check}\n{server}")).await;
        // Several checks later it still passes requests on; without a server it would answer 503.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let url = format!("{}/livez", proxy.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{check}");
    }
}

#[tokio::test]
async fn complaint_10_the_longest_long_poll_ends_before_default_proxies_cut_it() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let nginx = behind_nginx(&daemon).await;
    let haproxy = WebProxy::haproxy(&format!("  server one {}", daemon.address())).await;
    let client = reqwest::Client::new();
    let poll = async |proxy: &WebProxy| {
        let url = format!("{}{LIST}", proxy.url());
        let first = client.get(&url).send().await.unwrap();
        let etag = first.headers()["etag"].to_str().unwrap().to_owned();
        let begin = Instant::now();
        let waited = client
            .get(format!("{url}?wait=10m"))
            .header("if-none-match", etag);
        let status = waited.send().await.unwrap().status();
        assert_eq!(status, 304);
        let took = begin.elapsed();
        assert!(took > Duration::from_secs(44), "{took:?}");
    };
    tokio::join!(poll(&nginx), poll(&haproxy));
}

#[tokio::test]
async fn complaint_36_an_etag_that_nginx_weakens_matches() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let location = format!(
        "gzip on; gzip_types application/json; gzip_min_length 1; location / {{ proxy_pass {}; }}",
        daemon.url()
    );
    let nginx = WebProxy::nginx(&location).await;
    let client = reqwest::Client::new();
    let url = format!("{}{LIST}", nginx.url());
    let first = client.get(&url).header("accept-encoding", "gzip");
    let first = first.send().await.unwrap();
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(etag.starts_with("W/"), "{etag}");
    let again = client.get(&url).header("if-none-match", etag);
    assert_eq!(again.send().await.unwrap().status(), 304);
}

#[tokio::test]
async fn complaint_38_events_pass_an_untuned_nginx_at_once() {
    let daemon = Daemon::start(&[]).await;
    let nginx = behind_nginx(&daemon).await;
    let mut subscriber = eventually(SOON, "it subscribes", || {
        Subscriber::try_open(nginx.url(), None)
    })
    .await;
    daemon.put(ORDERS, json!({})).await;
    let declared = subscriber.expect("scope.declared", SOON).await;
    assert_eq!(declared.data["service"], json!("orders"));
    subscriber.expect("instance.registered", SOON).await;
}

#[tokio::test]
async fn complaint_7_console_and_docs_work_under_another_path() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let location = format!("location /registry/ {{ proxy_pass {}/; }}", daemon.url());
    let nginx = WebProxy::nginx(&location).await;
    let page = format!("{}/registry/#services/orders", nginx.url());
    let browser = Browser::open(&page).await;
    browser.sees("#link", |text| text == "live").await;
    let row = browser
        .sees("#instance-rows .row", |text| text.contains("10.0.0.5"))
        .await;
    assert!(row.contains("Offline"), "{row}");
    // It follows the events under the same path.
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    browser
        .sees("#instance-rows .row", |text| text.contains("Available"))
        .await;
    browser.close().await;

    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let answer = client.get(format!("{}{path}", nginx.url())).send().await;
        answer.unwrap()
    };
    let docs = get("/registry/docs").await;
    assert_eq!(docs.url().path(), "/registry/docs/", "it was redirected");
    assert_eq!(docs.status(), 200);
    let script = get("/registry/docs/swagger-initializer.js").await;
    let script = script.text().await.unwrap();
    assert!(script.contains("../openapi.json"), "{script}");
    let document: Value = get("/registry/openapi.json").await.json().await.unwrap();
    assert!(document["paths"].is_object());
}
