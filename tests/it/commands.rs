//! The commands for operators, by their output and exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::run;
use crate::support::daemon::{BINARY, Daemon};
use crate::support::process::{Process, free_port, spawn};

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

async fn ask(daemon: &Daemon, arguments: &[&str]) -> Output {
    run(arguments, &[("ROLLCALL_SERVER", daemon.url())]).await
}

/// Returns the output of a command that must succeed.
async fn printed(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = ask(daemon, arguments).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Its exit code and its complaint, where it does not.
async fn refused(daemon: &Daemon, arguments: &[&str]) -> (i32, String) {
    let output = ask(daemon, arguments).await;
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), error)
}

async fn filled() -> Daemon {
    let daemon = Daemon::start(&[]).await;
    daemon.put("/v1/groups/edge", json!({"name": "入口"})).await;
    daemon
        .put(
            ORDERS,
            json!({"name": "订单 1", "weight": 3, "metadata": {"zone": "a"}}),
        )
        .await;
    daemon
        .put("/v1/services/orders/instances/10.0.0.6:8080", json!({}))
        .await;
    daemon
        .put("/v1/groups/edge/instances/g:1", json!({"ttl_seconds": 60}))
        .await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    daemon
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[tokio::test]
async fn scopes_and_instances_are_tables_for_people_and_json_for_machines() {
    let daemon = filled().await;
    let services = printed(&daemon, &["services"]).await;
    let head = vec!["KEY", "AVAILABLE", "ONLINE", "REGISTERED", "NAME"];
    assert_eq!(
        words(&services),
        [head.clone(), vec!["orders", "1", "1", "2", "orders"]]
    );
    let groups = printed(&daemon, &["groups"]).await;
    assert_eq!(words(&groups), [head, vec!["edge", "0", "0", "1", "入口"]]);
    let json: Value =
        serde_json::from_str(&printed(&daemon, &["services", "--json"]).await).unwrap();
    assert_eq!(json, daemon.get("/v1/services").await.1);

    let instances = printed(&daemon, &["instances", "orders"]).await;
    let rows = words(&instances);
    assert_eq!(rows[1][..4], ["10.0.0.5:8080", "available", "enabled", "3"]);
    assert_eq!(rows[1][5..], ["订单", "1"]);
    assert_eq!(rows[2][..4], ["10.0.0.6:8080", "offline", "enabled", "1"]);
    let available = printed(&daemon, &["instances", "services/orders", "--available"]).await;
    assert_eq!(available.lines().count(), 2);
    let gateways = printed(&daemon, &["instances", "groups/edge"]).await;
    assert_eq!(words(&gateways)[1][..3], ["g:1", "offline", "disabled"]);

    let overview = printed(&daemon, &["overview"]).await;
    assert_eq!(words(&overview)[1], ["services", "1", "2", "1", "1", "0"]);
    assert!(overview.contains("auth disabled        yes"), "{overview}");
}

#[tokio::test]
async fn instances_are_held_enabled_and_deregistered() {
    let daemon = filled().await;
    let hold = [
        "hold",
        "orders",
        "10.0.0.5:8080",
        "10.0.0.6:8080",
        "--reason",
        "disk",
    ];
    let done = printed(&daemon, &hold).await;
    assert_eq!(done.lines().count(), 2);
    let (_, instance) = daemon.get(ORDERS).await;
    assert_eq!(
        (&instance["status"], &instance["reason"]),
        (&json!("held"), &json!("disk"))
    );
    let list = printed(&daemon, &["instances", "orders"]).await;
    assert!(
        list.contains("anonymous") && list.contains("disk"),
        "{list}"
    );
    printed(&daemon, &["enable", "orders", "10.0.0.5:8080"]).await;
    assert_eq!(daemon.get(ORDERS).await.1["status"], json!("enabled"));
    printed(&daemon, &["deregister", "orders", "10.0.0.5:8080"]).await;
    assert_eq!(daemon.get(ORDERS).await.0, 404);
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_went_wrong() {
    let daemon = filled().await;
    let (code, error) = refused(&daemon, &["enable", "orders", "10.9.9.9:1"]).await;
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("the instance is not registered"), "{error}");
    // The instances that exist are changed nevertheless.
    let some = ["hold", "orders", "10.9.9.9:1", "10.0.0.5:8080"];
    let (code, error) = refused(&daemon, &some).await;
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("1 of 2 failed"), "{error}");
    assert_eq!(daemon.get(ORDERS).await.1["status"], json!("held"));
    let (code, error) = refused(&daemon, &["instances", "groups/nope"]).await;
    assert_eq!((code, error.contains("nope")), (3, true), "{error}");
    let (code, error) = refused(&daemon, &["instances", "a:b"]).await;
    assert_eq!(
        (code, error.contains("must begin with")),
        (2, true),
        "{error}"
    );
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (code, error) = refused(&daemon, &["services", "--server", &nobody]).await;
    assert_eq!((code, error.contains(&nobody)), (5, true), "{error}");
    // One reachable replica is enough.
    let both = format!("{nobody},{}", daemon.url());
    printed(&daemon, &["services", "--server", &both]).await;
}

#[tokio::test]
async fn a_token_is_shown_and_a_lesser_one_is_refused() {
    let (read, admin) = ("r".repeat(32), "a".repeat(32));
    let tokens = [
        ("ROLLCALL_READ_TOKEN", read.as_str()),
        ("ROLLCALL_ADMIN_TOKEN", admin.as_str()),
    ];
    let folder = Arc::new(TempDir::new().unwrap());
    let daemon = Daemon::launch_with(&[], Arc::clone(&folder), &tokens);
    daemon.ready().await;
    let server = ("ROLLCALL_SERVER", daemon.url());
    let import = folder.path().join("import.json");
    let entry = json!({"service": "orders", "address": "a:1", "name": "a", "weight": 1, "metadata": {}, "ttl_seconds": 30, "status": "enabled"});
    let export = json!({"groups": [], "services": [], "instances": [entry]});
    fs::write(&import, export.to_string()).unwrap();
    let import = ["import", import.to_str().unwrap()];
    let code = async |arguments: &[&str], token: Option<&str>| {
        let token = token.map(|token| ("ROLLCALL_TOKEN", token));
        let variables: Vec<_> = [server].into_iter().chain(token).collect();
        let output = run(arguments, &variables).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains(&read) && !error.contains(&admin), "{error}");
        output.status.code().unwrap()
    };
    assert_eq!(code(&["services"], None).await, 4);
    assert_eq!(code(&["services"], Some(&read)).await, 0);
    assert_eq!(code(&import, Some(&read)).await, 4);
    assert_eq!(code(&import, Some(&admin)).await, 0);
    assert_eq!(code(&["services"], Some("short")).await, 2);
    let file = folder.path().join("token");
    fs::write(&file, format!("{read}\n")).unwrap();
    let by_file = ["services", "--token-file", file.to_str().unwrap()];
    assert_eq!(code(&by_file, None).await, 0);
}

#[tokio::test]
async fn what_is_exported_is_the_same_after_an_import_elsewhere() {
    let (old, new) = (filled().await, Daemon::start(&[]).await);
    printed(
        &old,
        &["hold", "orders", "10.0.0.5:8080", "--reason", "disk"],
    )
    .await;
    printed(&old, &["enable", "groups/edge", "g:1"]).await;
    let export = printed(&old, &["export"]).await;
    let file = old.dir().join("export.json");
    fs::write(&file, &export).unwrap();
    let import = ["import", file.to_str().unwrap()];
    for _ in 0..2 {
        let said = printed(&new, &import).await;
        assert_eq!(said, "imported 2 groups and services, 3 instances\n");
        assert_eq!(printed(&new, &["export"]).await, export);
    }
    fs::write(&file, "{}").unwrap();
    let (code, error) = refused(&new, &import).await;
    assert_eq!(code, 1);
    assert!(error.contains("export.json: missing field"), "{error}");
}

#[tokio::test]
async fn what_happens_is_watched_line_by_line() {
    let daemon = filled().await;
    for (arguments, json) in [
        (vec!["watch", "orders"], false),
        (vec!["watch", "--json"], true),
    ] {
        let mut child = spawn(BINARY, None, |command| {
            command
                .args(arguments)
                .env("ROLLCALL_SERVER", daemon.url())
                .stdout(Stdio::piped());
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let _process = Process::new(child);
        let reader = tokio::task::spawn_blocking(move || {
            let mut lines = lines.map(Result::unwrap);
            lines
                .find(|line| line.contains("instance.changed"))
                .unwrap()
        });
        // The subscription may not exist yet, so changes are repeated until one is printed.
        let mut weight = 0;
        while !reader.is_finished() {
            weight = weight % 1000 + 1;
            daemon.patch(ORDERS, json!({ "weight": weight })).await;
        }
        let line = reader.await.unwrap();
        if json {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["event"], json!("instance.changed"));
            assert_eq!(event["address"], json!("10.0.0.5:8080"));
        } else {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(
                words[1..],
                ["instance.changed", "services/orders", "10.0.0.5:8080"]
            );
        }
    }
}

#[tokio::test]
async fn a_registered_name_cannot_move_the_cursor_of_a_terminal() {
    let daemon = Daemon::start(&[]).await;
    // A name has no control characters, but may change the direction of text.
    let name = "a\u{202e}gnp.exe";
    assert_eq!(daemon.put(ORDERS, json!({ "name": name })).await.0, 201);
    let list = printed(&daemon, &["instances", "orders"]).await;
    assert!(list.contains("a\u{fffd}gnp.exe"), "{list}");
}

#[tokio::test]
async fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell], &[]).await;
        let script = String::from_utf8(output.stdout).unwrap();
        for command in [
            "agent",
            "services",
            "instances",
            "deregister",
            "completions",
        ] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}
