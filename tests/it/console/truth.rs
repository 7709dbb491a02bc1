//! What the page says is the case, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::{ORDERS, ROW, SCOPE, keep_alive, open, short_lives, two_online};
use crate::support::addresses;
use crate::support::browser::Browser;
use crate::support::daemon::Daemon;

#[tokio::test]
async fn a_healthy_registry_is_one_green_sentence() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "").await;
    browser
        .sees(".verdict h1", |text| {
            text == "Every service has all its instances"
        })
        .await;
    browser
        .sees("#attention", |text| {
            text.contains("Nothing needs attention")
        })
        .await;
    assert_eq!(browser.text("#banners").await, "");
    browser.close().await;
}

#[tokio::test]
async fn an_outage_is_the_first_thing_that_is_seen() {
    let daemon = Daemon::start(&[]).await;
    let all = addresses(3);
    daemon.register("broken", &all, &json!({})).await;
    daemon.register("a-healthy-one", &all, &json!({})).await;
    daemon.send_heartbeats("a-healthy-one", &all).await;
    let browser = open(&daemon, "").await;
    browser
        .sees(".verdict h1", |text| {
            text == "1 service has no available instance"
        })
        .await;
    browser
        .sees("#attention", |text| {
            text.contains("broken") && text.contains("all 3 offline")
        })
        .await;
    // The worst comes first, whatever its name.
    let first = browser.sees(SCOPE, |text| text.contains("broken")).await;
    assert!(first.contains("None available"), "{first}");
    let title = browser.run("return document.title").await;
    assert_eq!(title, json!("(1) Rollcall · Now"));
    browser.close().await;
}

#[tokio::test]
async fn what_changes_is_seen_without_a_reload() {
    let daemon = Daemon::start(&short_lives()).await;
    let browser = open(&daemon, "services/orders").await;
    browser
        .sees("main", |text| text.contains("There is no services/orders"))
        .await;
    browser.run("window.notReloaded = true").await;
    let body = json!({"name": "web", "weight": 3, "metadata": {"zone": "a"}});
    daemon.put(ORDERS, body).await;
    let row = browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    for part in ["10.0.0.5:8080", "web", "Offline", "3"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    let one = ["10.0.0.5:8080".to_owned()];
    let until = tokio::time::Instant::now() + Duration::from_secs(6);
    while tokio::time::Instant::now() < until {
        daemon.send_heartbeats("orders", &one).await;
        browser.sees(ROW, |text| text.contains("Available")).await;
    }
    browser
        .sees(&format!("{ROW} .c-lease"), |text| text.ends_with(" s"))
        .await;
    browser.sees(ROW, |text| text.contains("Offline")).await;
    browser
        .sees(".title", |text| text.contains("0 of 1 available"))
        .await;
    assert_eq!(browser.run("return window.notReloaded").await, json!(true));
    browser.close().await;
}

#[tokio::test]
async fn during_protection_mode_every_scope_shows_its_suspects_and_the_end_says_what_it_costs() {
    let daemon = Daemon::start(&short_lives()).await;
    let many = addresses(20);
    daemon.register("orders", &many, &json!({})).await;
    keep_alive(&daemon, "orders", &many, 6).await;
    let browser = open(&daemon, "").await;
    browser
        .sees(".verdict", |text| {
            text.contains("20 of 20 instances stopped sending heartbeats")
        })
        .await;
    browser.sees(SCOPE, |text| text.contains("Suspect")).await;
    let bar = "return document.querySelector('#scope-rows .gauge').getAttribute('aria-label')";
    assert_eq!(
        browser.run(bar).await,
        json!("0 available, 0 held, 20 suspect, 0 offline")
    );
    browser.click("#release").await;
    browser
        .sees("#dialog", |text| {
            text.contains("20 instances in 1 scopes") && text.contains("orders")
        })
        .await;
    browser.click("#dialog-ok").await;
    browser.enter("#dialog-confirm", "release").await;
    browser.click("#dialog-ok").await;
    browser
        .sees(SCOPE, |text| text.contains("None available"))
        .await;
    browser
        .sees("#messages", |text| {
            text.contains("20 instances went offline")
        })
        .await;
    // The history says who ended it, beside the loss as one line.
    browser
        .sees("#recent", |text| {
            text.contains("Protection mode ended") && text.contains("20 instances")
        })
        .await;
    browser.close().await;
}

#[tokio::test]
async fn a_daemon_that_hangs_is_noticed_within_seconds_and_the_clocks_stop() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "services/orders").await;
    browser.sees(ROW, |text| text.contains("Available")).await;
    daemon.signal(Signal::STOP);
    let begin = tokio::time::Instant::now();
    browser
        .sees("#banners", |text| {
            text.contains("No answer from the daemon for")
        })
        .await;
    assert!(
        begin.elapsed() < Duration::from_secs(25),
        "{:?}",
        begin.elapsed()
    );
    browser.sees("#link", |text| text == "no answer").await;
    let lease = format!("{ROW} .c-lease");
    let before = browser.text(&lease).await;
    // The page is drawn again, seconds later.
    for _ in 0..2 {
        let said = browser.text("#banners").await;
        browser.sees("#banners", |text| text != said).await;
    }
    assert_eq!(
        browser.text(&lease).await,
        before,
        "it is as old as the answer"
    );
    daemon.signal(Signal::CONT);
    browser.sees("#link", |text| text == "live").await;
    browser
        .sees("#banners", |text| !text.contains("No answer"))
        .await;
    browser.close().await;
}

#[tokio::test]
async fn a_daemon_that_ends_and_comes_back_is_followed_again() {
    let folder = Arc::new(TempDir::new().unwrap());
    let port = crate::support::process::free_port();
    let listen = format!("127.0.0.1:{port}");
    let start = || Daemon::launch_on(&listen, &[], Arc::clone(&folder), &[]);
    let mut daemon = start();
    daemon.ready().await;
    daemon.put(ORDERS, json!({})).await;
    let browser = open(&daemon, "services/orders").await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    daemon.signal(Signal::KILL);
    daemon.ended().await;
    browser
        .sees("#banners", |text| text.contains("No answer"))
        .await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    let daemon = start();
    daemon.ready().await;
    browser.sees("#link", |text| text == "live").await;
    browser.sees("#banners", |text| text.is_empty()).await;
    browser.close().await;
}

#[tokio::test]
async fn a_wrong_link_says_so_and_the_page_goes_on() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = Browser::open(&format!("{}/#foo/bar", daemon.url())).await;
    browser
        .sees("main", |text| text.contains("There is no such page"))
        .await;
    browser.run("location.hash = 'services/nope'").await;
    browser
        .sees("main", |text| text.contains("There is no services/nope"))
        .await;
    browser.run("location.hash = 'services/orders/h-9:1'").await;
    browser
        .sees("#drawer", |text| text.contains("h-9:1 is not registered"))
        .await;
    browser.click("#close-drawer").await;
    browser.sees(ROW, |text| text.contains("h-0:1")).await;
    browser.close().await;
}

#[tokio::test]
async fn an_address_of_the_page_shows_the_same_filter_order_and_group() {
    let daemon = Daemon::start(&[]).await;
    for (address, zone) in [("h-0:1", "a"), ("h-1:1", "b"), ("h-10:1", "b")] {
        let path = format!("/v1/services/orders/instances/{address}");
        daemon.put(&path, json!({"metadata": {"zone": zone}})).await;
    }
    let browser = open(&daemon, "services/orders?group=zone&find=zone%3Db").await;
    let rows = browser
        .sees("#instance-rows", |text| text.contains("h-10:1"))
        .await;
    assert!(
        rows.contains("0 of 2 available") && !rows.contains("h-0:1"),
        "{rows}"
    );
    let (first, last) = (rows.find("h-1:1"), rows.find("h-10:1"));
    assert!(
        first < last,
        "numbers in addresses are sorted as numbers: {rows}"
    );
    browser.close().await;
}

#[tokio::test]
async fn an_instance_shows_its_state_its_facts_and_its_history() {
    let daemon = Daemon::start(&[]).await;
    let body = json!({"weight": 3, "metadata": {"git": "a1b2c3d"}});
    daemon.put(ORDERS, body).await;
    daemon
        .put("/v1/services/payments/instances/10.0.0.5:8080", json!({}))
        .await;
    let hold = json!({"status": "held", "reason": "disk is failing"});
    daemon.patch(ORDERS, hold).await;
    let browser = open(&daemon, "services/orders/10.0.0.5:8080").await;
    let seen = browser
        .sees("#drawer", |text| {
            text.contains("services/payments") && text.contains("was changed")
        })
        .await;
    for part in [
        "Held by anonymous",
        "disk is failing",
        "a1b2c3d",
        "30 s",
        "registered",
        "anonymous (127.0.0.1)",
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    browser.close().await;
}

#[tokio::test]
async fn activity_shows_events_and_operators_and_selects_them() {
    let daemon = Daemon::start(&[]).await;
    let many = addresses(12);
    daemon.register("orders", &many, &json!({})).await;
    daemon.send_heartbeats("orders", &many).await;
    daemon
        .patch("/v1/services/orders/instances/h-3:1", json!({"weight": 7}))
        .await;
    let browser = open(&daemon, "activity").await;
    browser
        .sees("#activity", |text| {
            text.contains("came online") && text.contains("12 instances")
        })
        .await;
    browser.click("#show-operators").await;
    browser
        .sees("#activity", |text| {
            text.contains("weight 1 → 7") && text.contains("anonymous")
        })
        .await;
    browser
        .run("location.hash = 'activity?kind=instance.changed'")
        .await;
    let only = browser
        .sees("#activity .events", |text| text.contains("h-3:1"))
        .await;
    assert!(!only.contains("came online"), "{only}");
    browser.close().await;
}
