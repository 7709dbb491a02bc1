//! The console, in a browser: what an operator sees and can do. The table of `docs/console.md` names
//! the tests.

mod access;
mod actions;
mod page;
mod truth;

use std::time::Duration;

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::daemon::Daemon;

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// The first row of the list of instances, and of that of the scopes.
const ROW: &str = "#instance-rows .row";
const SCOPE: &str = "#scope-rows .row";

fn short_lives() -> [String; 4] {
    ["--lease-ttl", "5s", "--roll-call-interval", "2s"].map(str::to_owned)
}

/// A view of the page, once it is live.
async fn open(daemon: &Daemon, view: &str) -> Browser {
    let browser = Browser::open(&format!("{}/#{view}", daemon.url())).await;
    browser.sees("#link", |text| text == "live").await;
    browser
}

/// The selector of the row of an instance of the service orders.
fn row(address: &str) -> String {
    format!("[data-key='services/orders {address}']")
}

/// Selects an instance of the service orders.
async fn select(browser: &Browser, address: &str) {
    browser.click(&format!("{} input", row(address))).await;
}

/// Sends heartbeats for `seconds`, so that a missing lease is evidence afterwards.
async fn keep_alive(daemon: &Daemon, service: &str, addresses: &[String], seconds: u64) {
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while tokio::time::Instant::now() < until {
        daemon.send_heartbeats(service, addresses).await;
    }
}

/// The status of an instance.
async fn status(daemon: &Daemon, instance: &str) -> serde_json::Value {
    daemon.get(instance).await.1["status"].clone()
}

/// Registers two instances that are online.
async fn two_online(daemon: &Daemon) {
    let two = ["h-0:1", "h-1:1"].map(str::to_owned);
    daemon.register("orders", &two, &json!({})).await;
    daemon.send_heartbeats("orders", &two).await;
}
