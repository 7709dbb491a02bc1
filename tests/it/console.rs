//! The console, in a browser: what an operator sees and can do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::browser::Browser;
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually};

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

fn short_lives() -> [String; 4] {
    ["--lease-ttl", "5s", "--roll-call-interval", "2s"].map(str::to_owned)
}

/// The page with the service orders open.
async fn open(daemon: &Daemon) -> Browser {
    let browser = Browser::open(&format!("{}/#services/orders", daemon.url())).await;
    browser.sees("#link", |text| text == "live").await;
    browser
}

/// The row of the only instance.
const ROW: &str = "#instances .rows .row";

#[tokio::test]
async fn a_healthy_daemon_shows_no_banner_about_its_backends() {
    let daemon = Daemon::start(&[]).await;
    let browser = open(&daemon).await;
    let banners = browser
        .sees("#banners", |text| text.contains("No token is required"))
        .await;
    assert!(!banners.contains("not answer"), "{banners}");
    assert!(!banners.contains("evict"), "{banners}");
    browser.close().await;
}

#[tokio::test]
async fn registered_instances_appear_and_silent_ones_go_offline_without_a_reload() {
    let daemon = Daemon::start(&short_lives()).await;
    let browser = open(&daemon).await;
    browser
        .sees("#instances .nothing", |text| text.contains("No instance"))
        .await;
    browser.run("window.notReloaded = true").await;
    daemon
        .put(
            ORDERS,
            json!({"name": "web", "weight": 3, "metadata": {"zone": "a"}}),
        )
        .await;
    let row = browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    for part in ["10.0.0.5:8080", "web", "offline", "enabled", "3", "zone=a"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    // No instance is marked offline for one TTL after the start; it sends heartbeats until then.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
        browser.sees(ROW, |text| text.contains("available")).await;
    }
    browser
        .sees(".figure.available b", |text| text == "1")
        .await;
    browser
        .sees("#scopes .rows .row", |text| text.contains("1 / 1 / 1"))
        .await;
    browser
        .sees(&format!("{ROW} .lease"), |text| text.ends_with(" s"))
        .await;
    browser.sees(ROW, |text| text.contains("offline")).await;
    browser
        .sees(".figure.available b", |text| text == "0")
        .await;
    let timeline = browser.text("#timeline").await;
    let (gone, came) = (timeline.find("offline"), timeline.find("online"));
    assert!(gone.is_some() && came.is_some(), "{timeline}");
    assert_eq!(browser.run("return window.notReloaded").await, json!(true));
    let pulse = browser.text("#pulse-left").await;
    assert!(pulse == "1 s" || pulse == "2 s", "{pulse}");
    browser.close().await;
}

#[tokio::test]
async fn several_are_held_at_once_with_a_reason_and_enabled_and_deregistered() {
    let daemon = Daemon::start(&[]).await;
    daemon.register("orders", &addresses(3), &json!({})).await;
    let browser = open(&daemon).await;
    browser.click("[data-focus='services/orders h-0:1']").await;
    browser.click("[data-focus='services/orders h-1:1']").await;
    browser.sees("#chosen", |text| text == "2 selected").await;
    browser.click("#hold").await;
    browser.enter("#dialog-input", "disk <b>4711</b>").await;
    browser.click("#dialog-ok").await;
    let row = browser.sees(ROW, |text| text.contains("held by")).await;
    assert!(row.contains("anonymous: disk <b>4711</b>"), "{row}");
    let held = async |i: usize| {
        let (_, instance) = daemon
            .get(&format!("/v1/services/orders/instances/h-{i}:1"))
            .await;
        instance["status"] == json!("held")
    };
    let all = [held(0).await, held(1).await, held(2).await];
    assert_eq!(all, [true, true, false]);

    browser.click("[data-focus='services/orders h-0:1']").await;
    browser.click("#enable").await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("enabled")).await;
    assert!(!held(0).await);

    browser.click("[data-focus='services/orders h-0:1']").await;
    browser.click("#deregister").await;
    browser.click("#dialog-cancel").await;
    assert_eq!(daemon.counts("orders").await[0], 3, "it was cancelled");
    browser.click("#deregister").await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("h-1:1")).await;
    assert_eq!(daemon.counts("orders").await[0], 2);
    browser.close().await;
}

#[tokio::test]
async fn hostile_names_and_metadata_are_text() {
    let daemon = Daemon::start(&[]).await;
    let hostile = "<img src=x onerror=window.harmed=1>";
    let body = json!({"name": hostile, "metadata": {hostile: "<script>window.harmed=2</script>"}});
    assert_eq!(daemon.put(ORDERS, body).await.0, 201);
    daemon
        .put("/v1/services/orders", json!({"name": hostile}))
        .await;
    let browser = open(&daemon).await;
    let row = browser.sees(ROW, |text| text.contains("onerror")).await;
    assert!(row.contains("<script>window.harmed=2</script>"), "{row}");
    browser
        .sees("#scopes .rows", |text| text.contains(hostile))
        .await;
    let inside =
        "return document.querySelectorAll('#scopes img, main script, #instances img').length";
    assert_eq!(browser.run(inside).await, json!(0));
    assert_eq!(
        browser.run("return window.harmed ?? null").await,
        json!(null)
    );
    browser.close().await;
}

#[tokio::test]
async fn complaint_41_five_thousand_instances_are_scrolled_and_searched() {
    let daemon = Daemon::start(&[]).await;
    let many = addresses(5000);
    daemon.register("orders", &many, &json!({})).await;
    daemon
        .register("payments", &["needle:1".to_owned()], &json!({}))
        .await;
    let browser = open(&daemon).await;
    let count = "return document.querySelector('#instances .table').getAttribute('aria-rowcount')";
    eventually(Duration::from_secs(30), "all are listed", || async {
        (browser.run(count).await == json!("5000")).then_some(())
    })
    .await;
    // Only the rows that are seen exist.
    let rows = "return document.querySelectorAll('#instances .rows .row').length";
    let rows = browser.run(rows).await.as_u64().unwrap();
    assert!((5..100).contains(&rows), "{rows}");
    browser
        .run(
            "const list = document.querySelector('#instances'); list.scrollTop = list.scrollHeight",
        )
        .await;
    // By address as text, in which a colon comes after the digits.
    let last = "return [...document.querySelectorAll('#instances .rows .row')].at(-1).innerText";
    eventually(Duration::from_secs(30), "the end is seen", || async {
        let last = browser.run(last).await;
        last.as_str()?.contains("h-9:1").then_some(())
    })
    .await;
    browser.enter("#search", "needle").await;
    let row = browser.sees(ROW, |text| text.contains("needle:1")).await;
    assert!(row.contains("services/payments"), "{row}");
    browser.close().await;
}

#[tokio::test]
async fn a_token_is_asked_once_and_kept_for_the_tab_alone() {
    let (read, admin) = ("r".repeat(32), "a".repeat(32));
    let tokens = [
        ("ROLLCALL_READ_TOKEN", read.as_str()),
        ("ROLLCALL_ADMIN_TOKEN", admin.as_str()),
    ];
    let daemon = Daemon::launch_with(&[], Arc::new(TempDir::new().unwrap()), &tokens);
    daemon.ready().await;
    let url = format!("{}{ORDERS}", daemon.url());
    let put = daemon
        .client()
        .put(&url)
        .bearer_auth(&admin)
        .json(&json!({}));
    assert_eq!(put.send().await.unwrap().status(), 201);

    let browser = Browser::open(&format!("{}/#services/orders", daemon.url())).await;
    browser.enter("#dialog-input", &read).await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    browser
        .click("[data-focus='services/orders 10.0.0.5:8080']")
        .await;
    browser.click("#hold").await;
    browser.click("#dialog-ok").await;
    // Reading is not holding: a higher one is asked for.
    browser
        .sees("#dialog-text", |text| text.contains("role admin"))
        .await;
    browser.enter("#dialog-input", &admin).await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("held by")).await;
    let kept = "return [sessionStorage.getItem('token'), localStorage.length, document.cookie]";
    assert_eq!(browser.run(kept).await, json!([admin, 0, ""]));
    browser.close().await;
}

#[tokio::test]
async fn a_daemon_that_goes_and_comes_back_is_seen_to() {
    let folder = Arc::new(TempDir::new().unwrap());
    let port = crate::support::process::free_port();
    let listen = format!("127.0.0.1:{port}");
    let start = || Daemon::launch_on(&listen, &[], Arc::clone(&folder), &[]);
    let mut daemon = start();
    daemon.ready().await;
    daemon.put(ORDERS, json!({})).await;
    let browser = open(&daemon).await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    daemon.signal(rustix::process::Signal::KILL);
    daemon.ended().await;
    browser
        .sees("#banners", |text| text.contains("does not answer"))
        .await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    let daemon = start();
    daemon.ready().await;
    browser.sees("#link", |text| text == "live").await;
    browser
        .sees("#banners", |text| !text.contains("does not answer"))
        .await;
    browser.close().await;
}

#[tokio::test]
async fn it_speaks_chinese_too() {
    let daemon = Daemon::start(&[]).await;
    let browser = open(&daemon).await;
    browser.click("#language").await;
    browser
        .sees("#scopes-panel h2", |text| text == "服务与网关组")
        .await;
    assert_eq!(
        browser.run("return document.documentElement.lang").await,
        json!("zh-CN")
    );
    browser.close().await;
}

#[tokio::test]
async fn protection_is_shown_with_its_reason_and_ended_by_an_operator() {
    let daemon = Daemon::start(&short_lives()).await;
    let many = addresses(20);
    daemon.register("orders", &many, &json!({})).await;
    // All instances send heartbeats until a missing lease is evidence; then all stop.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        daemon.send_heartbeats("orders", &many).await;
    }
    let browser = open(&daemon).await;
    browser
        .sees("#banners", |text| {
            text.contains("20 of 20 online instances")
        })
        .await;
    browser.sees(ROW, |text| text.contains("suspect")).await;
    browser.click("#release").await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("offline")).await;
    browser
        .sees("#banners", |text| !text.contains("Protection"))
        .await;
    browser.close().await;
}

/// Without a browser: the served page itself forbids requests to other hosts.
#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_writes_no_markup() {
    let daemon = Daemon::start(&[]).await;
    let get = async |path: &str| {
        let url = format!("{}{path}", daemon.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let content_type = header("content-type");
        (content_type, answer.text().await.unwrap())
    };
    let (content_type, page) = get("/").await;
    assert_eq!(content_type, "text/html; charset=utf-8");
    let parts = page.split('"').filter(|text| text.starts_with("console/"));
    let mut parts: Vec<String> = parts.map(|part| format!("/{part}")).collect();
    let mut seen = 0;
    while let Some(path) = parts.get(seen).cloned() {
        let (content_type, part) = get(&path).await;
        let imports = part.split("from \"./").skip(1);
        let imports = imports.map(|rest| format!("/console/{}", rest.split('"').next().unwrap()));
        let new: Vec<String> = imports.filter(|import| !parts.contains(import)).collect();
        parts.extend(new);
        for bad in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
        ] {
            assert!(!part.contains(bad), "{path} has {bad}");
        }
        if content_type.starts_with("text/") {
            assert!(!part.contains("://"), "{path} names another site");
        }
        seen += 1;
    }
    assert!(seen >= 7, "{parts:?}");
    assert!(
        !page.contains("://") && !page.contains("style=") && !page.contains(" on"),
        "{page}"
    );
    assert_eq!(daemon.get("/console/none.js").await.0, 404);
    assert_eq!(daemon.get("/console/../Cargo.toml").await.0, 404);
}
