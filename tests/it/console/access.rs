//! Signing in, and what a token shows and permits.

use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use super::{ORDERS, ROW, SCOPE};
use crate::support::browser::Browser;
use crate::support::daemon::{BINARY, Daemon};

/// A daemon with a token of each role but agent, and an instance.
async fn guarded() -> (Daemon, String, String) {
    let (read, admin) = ("r".repeat(32), "a".repeat(32));
    let tokens = [
        ("ROLLCALL_READ_TOKEN", read.as_str()),
        ("ROLLCALL_ADMIN_TOKEN", admin.as_str()),
    ];
    let daemon = Daemon::launch_with(&[], Arc::new(TempDir::new().unwrap()), &tokens);
    daemon.ready().await;
    register(&daemon, ORDERS, &admin).await;
    (daemon, read, admin)
}

async fn register(daemon: &Daemon, path: &str, token: &str) {
    let put = daemon.client().put(format!("{}{path}", daemon.url()));
    let put = put.bearer_auth(token).json(&json!({}));
    assert_eq!(put.send().await.unwrap().status(), 201);
}

async fn sign_in(browser: &Browser, token: &str) {
    browser.enter("#token", token).await;
    browser.click("#sign-in-button").await;
}

#[tokio::test]
async fn without_a_token_there_is_a_page_to_sign_in_and_nothing_else() {
    let (daemon, read, _) = guarded().await;
    let browser = Browser::open(&format!("{}/#services/orders", daemon.url())).await;
    let page = browser
        .sees("main", |text| text.contains("requires a token"))
        .await;
    assert!(
        !page.contains("answer") && !page.contains("registered"),
        "{page}"
    );
    sign_in(&browser, &"x".repeat(32)).await;
    browser
        .sees("#sign-in-error", |text| {
            text == "This token is not known here."
        })
        .await;
    sign_in(&browser, &read).await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    browser.sees("#me", |text| text == "read (read)").await;
    let kept = "return [sessionStorage.getItem('token'), localStorage.length, document.cookie]";
    assert_eq!(browser.run(kept).await, json!([read, 0, ""]));
    browser.close().await;
}

#[tokio::test]
async fn signing_out_ends_the_stream_and_empties_the_page() {
    let (daemon, _, admin) = guarded().await;
    let browser = Browser::open(&format!("{}/#services/orders", daemon.url())).await;
    sign_in(&browser, &admin).await;
    browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    browser.click("#sign-out").await;
    browser
        .sees("main", |text| text.contains("requires a token"))
        .await;
    let page = browser.text("body").await;
    assert!(!page.contains("10.0.0.5"), "{page}");
    register(
        &daemon,
        "/v1/services/orders/instances/10.0.0.6:8080",
        &admin,
    )
    .await;
    let streams = async || {
        let metrics = daemon.client().get(format!("{}/metrics", daemon.url()));
        let text = metrics
            .bearer_auth(&admin)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        text.contains("rollcall_http_in_flight{work=\"stream\"} 0")
            .then_some(())
    };
    crate::support::eventually(
        std::time::Duration::from_secs(20),
        "the stream has ended",
        streams,
    )
    .await;
    assert!(!browser.text("body").await.contains("10.0.0.6"));
    assert_eq!(
        browser.run("return sessionStorage.getItem('token')").await,
        json!(null)
    );
    browser.close().await;
}

#[tokio::test]
async fn a_token_that_may_only_read_sees_the_actions_and_cannot_press_them() {
    let (daemon, read, _) = guarded().await;
    let browser = Browser::open(&format!("{}/#services/orders/10.0.0.5:8080", daemon.url())).await;
    sign_in(&browser, &read).await;
    browser.sees("#drawer", |text| text.contains("Hold…")).await;
    let buttons = "return [...document.querySelectorAll('.drawer-actions button')].every((it) => it.disabled && it.title === 'Your token may only read.')";
    assert_eq!(browser.run(buttons).await, json!(true));
    browser.close().await;
}

#[tokio::test]
async fn a_token_of_some_scopes_sees_these_and_is_told_so() {
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("tokens");
    let make = |name: &str, scope: &[&str]| {
        let made = Command::new(BINARY)
            .args([
                "token", "--role", "admin", "--name", name, "--quiet", "--append",
            ])
            .arg(&list)
            .args(scope)
            .output()
            .unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let team = make("orders-team", &["--scope", "services/orders*"]);
    let all = make("ops", &[]);
    let file = list.display().to_string();
    let daemon = Daemon::start(&["--tokens-file".to_owned(), file]).await;
    register(&daemon, ORDERS, &all).await;
    register(&daemon, "/v1/services/payments/instances/h:1", &all).await;
    let browser = Browser::open(daemon.url()).await;
    sign_in(&browser, &team).await;
    browser.sees(SCOPE, |text| text.contains("orders")).await;
    assert!(!browser.text("main").await.contains("payments"));
    browser
        .sees("#banners", |text| text.contains("services/orders*"))
        .await;
    browser
        .sees("#me", |text| text == "orders-team (admin)")
        .await;
    browser.run("location.hash = 'services/payments'").await;
    browser
        .sees("main", |text| {
            text.contains("Your token does not permit services/payments")
        })
        .await;
    browser.close().await;
}
