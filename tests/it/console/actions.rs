//! What an operator does: the page says before what it leaves, and after how to take it back.

use serde_json::json;

use super::{ORDERS, ROW, open, row, select, status, two_online};
use crate::support::browser::Browser;
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

#[tokio::test]
async fn a_hold_says_what_stays_available_and_is_taken_back() {
    let daemon = Daemon::start(&[]).await;
    let three = addresses(3);
    daemon.register("orders", &three, &json!({})).await;
    daemon.send_heartbeats("orders", &three).await;
    let browser = open(&daemon, "services/orders").await;
    select(&browser, "h-0:1").await;
    select(&browser, "h-1:1").await;
    browser
        .sees("#selected", |text| text.starts_with("2 selected; 1 of 3"))
        .await;
    browser.click("#do-hold").await;
    let question = browser
        .sees("#dialog", |text| {
            text.contains("Hold 2 instances of orders?")
        })
        .await;
    assert!(question.contains("h-0:1, h-1:1"), "{question}");
    assert!(
        question.contains("1 of 3 stay available in orders"),
        "{question}"
    );
    browser.enter("#dialog-reason", "disk <b>4711</b>").await;
    browser.click("#dialog-ok").await;
    let held = browser
        .sees(&row("h-0:1"), |text| text.contains("Held by"))
        .await;
    assert!(held.contains("disk <b>4711</b>"), "{held}");
    assert_eq!(
        status(&daemon, "/v1/services/orders/instances/h-1:1").await,
        json!("held")
    );
    browser
        .sees("#messages", |text| text.contains("2 held."))
        .await;
    browser.click("#messages button:not(.quiet)").await;
    for address in ["h-0:1", "h-1:1"] {
        browser
            .sees(&row(address), |text| text.contains("Available"))
            .await;
    }
    browser.close().await;
}

#[tokio::test]
async fn taking_the_last_available_one_requires_its_name() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "services/orders").await;
    browser.click("#select-all").await;
    browser.click("#do-hold").await;
    browser
        .sees("#dialog .bad", |text| {
            text.contains("No instance of orders would be available")
        })
        .await;
    // The button does nothing until then.
    browser.press("\u{e007}").await;
    assert_eq!(
        status(&daemon, "/v1/services/orders/instances/h-0:1").await,
        json!("enabled")
    );
    browser.enter("#dialog-confirm", "orders").await;
    browser.click("#dialog-ok").await;
    browser.sees(ROW, |text| text.contains("Held by")).await;
    browser.close().await;
}

#[tokio::test]
async fn an_error_stays_until_it_is_dismissed() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "services/orders").await;
    select(&browser, "h-0:1").await;
    browser.click("#do-hold").await;
    // The instance goes while the question is open.
    daemon.delete("/v1/services/orders/instances/h-0:1").await;
    browser.click("#dialog-ok").await;
    browser
        .sees("#messages .bad", |text| text.contains("That failed"))
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    browser
        .sees("#messages .bad", |text| text.contains("That failed"))
        .await;
    browser.click("#messages .bad button.quiet").await;
    browser.sees("#messages", str::is_empty).await;
    browser.close().await;
}

#[tokio::test]
async fn a_cancelled_question_changes_nothing() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "services/orders").await;
    select(&browser, "h-0:1").await;
    browser.click("#do-hold").await;
    browser.click("#dialog-cancel").await;
    browser.click("#do-hold").await;
    browser.press("\u{e00c}").await;
    let open = "return document.querySelector('dialog').open";
    assert_eq!(browser.run(open).await, json!(false));
    assert_eq!(
        status(&daemon, "/v1/services/orders/instances/h-0:1").await,
        json!("enabled")
    );
    browser.close().await;
}

#[tokio::test]
async fn weight_and_metadata_are_overridden_in_the_drawer() {
    let daemon = Daemon::start(&[]).await;
    daemon
        .put(ORDERS, json!({"weight": 3, "metadata": {"zone": "a"}}))
        .await;
    let browser = open(&daemon, "services/orders/10.0.0.5:8080").await;
    let press = async |label: &str| {
        let script = format!(
            "[...document.querySelectorAll('.drawer-actions button')].find((it) => it.innerText.startsWith('{label}')).click()"
        );
        browser.sees("#drawer", |text| text.contains(label)).await;
        browser.run(&script).await;
    };
    press("Weight").await;
    browser.replace("#dialog-weight", "9").await;
    browser.click("#dialog-ok").await;
    browser
        .sees("#drawer", |text| text.contains("set by an operator"))
        .await;
    press("Metadata").await;
    browser
        .replace("#dialog-metadata", "zone=b\nlane=canary")
        .await;
    browser.click("#dialog-ok").await;
    browser
        .sees("#drawer", |text| text.contains("canary"))
        .await;
    let (_, instance) = daemon.get(ORDERS).await;
    assert_eq!(instance["weight"], json!(9));
    assert_eq!(instance["metadata"], json!({"zone": "b", "lane": "canary"}));
    browser.close().await;
}

#[tokio::test]
async fn a_new_gateway_waits_in_the_inbox_and_is_enabled_there() {
    let daemon = Daemon::start(&[]).await;
    let gateway = "/v1/groups/edge/instances/g:1";
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put(gateway, json!({})).await;
    let browser = open(&daemon, "").await;
    browser
        .sees("#attention", |text| text.contains("new gateway in edge"))
        .await;
    browser.click("#attention .waits button").await;
    browser.click("#dialog-ok").await;
    let enabled = async || (status(&daemon, gateway).await == json!("enabled")).then_some(());
    eventually(SOON, "the gateway is enabled", enabled).await;
    browser.close().await;
}

#[tokio::test]
async fn a_group_is_declared_and_an_empty_one_removed() {
    let daemon = Daemon::start(&[]).await;
    let browser = open(&daemon, "groups").await;
    let declare = "[...document.querySelectorAll('main button')].find((it) => it.innerText.startsWith('Declare')).click()";
    browser
        .sees("main", |text| text.contains("Declare a group"))
        .await;
    browser.run(declare).await;
    browser.enter("#dialog-key", "edge").await;
    browser.enter("#dialog-name", "Edge").await;
    browser.click("#dialog-ok").await;
    browser
        .sees("#scope-rows", |text| {
            text.contains("edge") && text.contains("Edge")
        })
        .await;
    browser.run("location.hash = 'groups/edge'").await;
    browser.click(".title .danger").await;
    browser.click("#dialog-ok").await;
    let gone = async || (daemon.get("/v1/groups/edge").await.0 == 404).then_some(());
    eventually(SOON, "the group is removed", gone).await;
    browser.close().await;
}

#[tokio::test]
async fn many_are_held_in_one_request() {
    let daemon = Daemon::start(&[]).await;
    daemon.register("orders", &addresses(300), &json!({})).await;
    let browser = open(&daemon, "services/orders").await;
    browser
        .sees("main", |text| text.contains("0 of 300 available"))
        .await;
    browser.click("#select-all").await;
    browser.click("#do-hold").await;
    browser.click("#dialog-ok").await;
    browser
        .sees("#messages", |text| text.contains("300 held."))
        .await;
    let (_, actions) = daemon.get("/v1/actions").await;
    assert_eq!(actions["actions"].as_array().unwrap().len(), 1, "{actions}");
    assert_eq!(actions["actions"][0]["instances"], json!(300));
    browser.close().await;
}

/// Presses a key until the page has done what it does.
async fn press_until(browser: &Browser, key: &str, script: &str) {
    let what = format!("{key} does its work");
    eventually(SOON, &what, || async {
        browser.press(key).await;
        (browser.run(script).await == json!(true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn everything_is_done_by_keyboard_and_no_update_takes_the_focus() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "services/orders").await;
    browser.sees(ROW, |text| text.contains("Available")).await;
    let focused = "return document.activeElement.closest('.row')?.dataset.key ?? ''";
    press_until(
        &browser,
        "j",
        &format!(
            "{} === 'services/orders h-1:1'",
            focused.replace("return ", "return (").replace("''", "'')")
        ),
    )
    .await;
    browser.press("x").await;
    browser
        .sees("#selected", |text| text.starts_with("1 selected"))
        .await;
    // Events change the rows; the focus stays where it is.
    for weight in 2..6 {
        let path = "/v1/services/orders/instances/h-0:1";
        daemon.patch(path, json!({ "weight": weight })).await;
        browser
            .sees(&row("h-0:1"), |text| text.contains(&weight.to_string()))
            .await;
    }
    assert_eq!(browser.run(focused).await, json!("services/orders h-1:1"));
    browser.press("h").await;
    browser
        .sees("#dialog", |text| {
            text.contains("Hold 1 instance of orders?")
        })
        .await;
    browser.press("\u{e007}").await;
    browser
        .sees(&row("h-1:1"), |text| text.contains("Held by"))
        .await;
    browser.press("gn").await;
    browser
        .sees(".verdict", |text| text.contains("available"))
        .await;
    browser.press("/").await;
    let searching = "return document.activeElement.id";
    assert_eq!(browser.run(searching).await, json!("search"));
    browser.close().await;
}
