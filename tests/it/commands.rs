//! The commands for operators, by their output and exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::run;
use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;
use crate::support::process::{Process, free_port, spawn};
use crate::support::prometheus::Exporter;
use crate::support::web_proxies::{WebProxy, write_nginx};

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
    for says in [
        "3 new, 0 changed, 0 unchanged",
        "0 new, 0 changed, 3 unchanged",
    ] {
        let dry_run = printed(&new, &[&import[..], &["--dry-run"]].concat()).await;
        let expected = format!("would import 2 groups and services, 3 instances: {says}\n");
        assert_eq!(dry_run, expected);
        let said = printed(&new, &import).await;
        let expected = format!("imported 2 groups and services, 3 instances: {says}\n");
        assert_eq!(said, expected);
        assert_eq!(printed(&new, &["export"]).await, export);
    }
    fs::write(&file, "{}").unwrap();
    let (code, error) = refused(&new, &import).await;
    assert_eq!(code, 1);
    assert!(error.contains("export.json: missing field"), "{error}");
}

#[tokio::test]
async fn complaint_23_an_import_ends_no_decision_and_writes_no_default() {
    let old = Daemon::start(&[]).await;
    let new = Daemon::start(&["--lease-ttl", "60s"].map(str::to_owned)).await;
    let instance = |i: usize| format!("/v1/services/orders/instances/10.0.0.{i}:80");
    for i in 1..=4 {
        old.put(&instance(i), json!({})).await;
    }
    printed(
        &old,
        &[
            "hold",
            "orders",
            "10.0.0.1:80",
            "--by",
            "ada",
            "--reason",
            "disk",
        ],
    )
    .await;
    old.patch(&instance(3), json!({"weight": 7})).await;
    let export = printed(&old, &["export"]).await;
    let entry: Value = serde_json::from_str(&export).unwrap();
    assert_eq!(
        entry["instances"][1],
        json!({"service": "orders", "address": "10.0.0.2:80", "status": "enabled"})
    );
    let file = old.dir().join("export.json");
    fs::write(&file, &export).unwrap();

    // Decisions of the other registry: they stay.
    for i in [2, 4] {
        new.put(&instance(i), json!({})).await;
    }
    let held = json!({"status": "held", "reason": "held there", "held_by": "bob"});
    new.patch(&instance(2), held).await;
    new.patch(&instance(4), json!({"weight": 5})).await;
    let import = ["import", file.to_str().unwrap()];
    printed(&new, &import).await;
    let get = async |i: usize| new.get(&instance(i)).await.1;
    let first = get(1).await;
    assert_eq!(
        (&first["held_by"], &first["reason"]),
        (&json!("ada"), &json!("disk"))
    );
    assert_eq!(
        first["ttl_seconds"],
        json!(60),
        "the default of this registry"
    );
    let second = get(2).await;
    assert_eq!(
        (&second["held_by"], &second["reason"]),
        (&json!("bob"), &json!("held there"))
    );
    assert_eq!(get(3).await["overrides"], json!({"weight": 7}));
    assert_eq!(get(4).await["overrides"], json!({"weight": 5}));
    printed(&new, &[&import[..], &["--replace-decisions"]].concat()).await;
    assert_eq!(get(2).await["status"], json!("enabled"));
    assert_eq!(get(4).await.get("overrides"), None);

    // An error names the entry and the field.
    fs::write(&file, export.replace("\"weight\": 7", "\"weight\": 99999")).unwrap();
    let (code, error) = refused(&new, &import).await;
    assert_eq!(code, 1);
    let says = "instances[2].overrides.weight: must be a whole number from 0 to 65535, not 99999";
    assert!(error.contains(says), "{error}");
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
            // The local date and time, what changed, and by whom.
            assert_eq!(
                words[2..],
                [
                    "instance.changed",
                    "services/orders",
                    "10.0.0.5:8080",
                    "weight,",
                    "overrides",
                    "by",
                    "anonymous",
                    "from",
                    "127.0.0.1",
                ]
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

#[tokio::test]
async fn an_unknown_scope_is_3_with_the_key_that_it_resembles() {
    let daemon = filled().await;
    for (arguments, says) in [
        (
            &["instances", "ordrs"][..],
            "no service \"ordrs\" is declared; did you mean \"orders\"?",
        ),
        (
            &["instances", "groups/edg"],
            "no group \"edg\" is declared; did you mean \"edge\"?",
        ),
        (&["remove", "ordrs"], "did you mean \"orders\"?"),
        (
            &["instances", "quite-another"],
            "no service \"quite-another\" is declared\n",
        ),
    ] {
        let (code, error) = refused(&daemon, arguments).await;
        assert_eq!(code, 3, "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn instances_are_selected_shown_and_changed_by_conditions() {
    let daemon = filled().await;
    let where_ = |condition: &'static str| ["--where", condition];
    let zone = printed(
        &daemon,
        &[&["instances"][..], &where_("metadata.zone=a")].concat(),
    )
    .await;
    assert_eq!(
        words(&zone)[1][..3],
        ["services/orders", "10.0.0.5:8080", "available"]
    );
    assert_eq!(zone.lines().count(), 2);
    let names = printed(&daemon, &["instances", "-o", "name"]).await;
    assert_eq!(
        names,
        "services/orders 10.0.0.5:8080\nservices/orders 10.0.0.6:8080\ngroups/edge g:1\n"
    );
    let names = printed(
        &daemon,
        &["instances", "orders", "--available", "-o", "name"],
    )
    .await;
    assert_eq!(names, "10.0.0.5:8080\n");
    let wide = printed(&daemon, &["instances", "orders", "--output", "wide"]).await;
    assert!(wide.contains("zone=a") && wide.contains("30s"), "{wide}");
    assert!(wide.contains("anonymous from 127.0.0.1"), "{wide}");
    let shown = printed(&daemon, &["show", "orders", "10.0.0.5:8080"]).await;
    let rows = words(&shown);
    for row in [
        &["metadata", "zone=a"][..],
        &["registered", "by", "anonymous", "from", "127.0.0.1"],
    ] {
        assert!(rows.iter().any(|words| words == row), "{shown}");
    }

    let hold = ["hold", "--where", "address=10.0.0.5", "--reason", "disk"];
    let plan = printed(&daemon, &[&hold[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        plan,
        "services/orders: 1 selected, 1 available before, 0 after\n1 instances would be held\n"
    );
    assert_eq!(daemon.get(ORDERS).await.1["status"], json!("enabled"));
    let done = printed(&daemon, &hold).await;
    assert!(done.ends_with("1 instances held\n"), "{done}");
    assert_eq!(daemon.get(ORDERS).await.1["reason"], json!("disk"));
    printed(&daemon, &["disable", "services/orders", "10.0.0.6:8080"]).await;
    let (_, disabled) = daemon
        .get("/v1/services/orders/instances/10.0.0.6:8080")
        .await;
    assert_eq!(disabled["status"], json!("disabled"));
    let all = ["deregister", "orders", "--where", "q=10.0.0"];
    let plan = printed(&daemon, &[&all[..], &["--dry-run"]].concat()).await;
    assert!(
        plan.ends_with("2 instances would be deregistered\n"),
        "{plan}"
    );
    printed(&daemon, &all).await;
    assert_eq!(
        daemon.get("/v1/instances").await.1["instances"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (code, error) = refused(&daemon, &["hold"]).await;
    assert_eq!(code, 2, "{error}");
    let (code, error) = refused(&daemon, &["hold", "--where", "version=v1"]).await;
    assert_eq!((code, error.contains("version")), (1, true), "{error}");
    for (conditions, reason) in [
        (
            ["metadata.zone=a", "metadata.zone=b"],
            "must not be given twice",
        ),
        (["status=held", "status=enabled"], "must not be given twice"),
        (["service=orders", "online=maybe"], "must be true or false"),
    ] {
        let [first, second] = conditions;
        let hold = ["hold", "--where", first, "--where", second];
        let (code, error) = refused(&daemon, &hold).await;
        assert_eq!((code, error.contains(reason)), (2, true), "{error}");
    }
}

#[tokio::test]
async fn scopes_are_declared_and_removed_and_protection_is_released() {
    let daemon = filled().await;
    printed(&daemon, &["declare", "billing", "--name", "Billing"]).await;
    assert_eq!(
        daemon.get("/v1/services/billing").await.1["name"],
        json!("Billing")
    );
    printed(&daemon, &["remove", "services/billing"]).await;
    assert_eq!(daemon.get("/v1/services/billing").await.0, 404);
    let released = printed(&daemon, &["release"]).await;
    assert_eq!(released, "protection mode was not active\n");
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up_after_the_timeout() {
    let daemon = filled().await;
    daemon.signal(rustix::process::Signal::STOP);
    let begin = tokio::time::Instant::now();
    let (code, _) = refused(&daemon, &["services", "--timeout", "500ms"]).await;
    daemon.signal(rustix::process::Signal::CONT);
    assert_eq!(code, 5);
    assert!(begin.elapsed() < std::time::Duration::from_secs(8));
}

#[tokio::test]
async fn complaint_22_an_nginx_upstream_follows_the_registry() {
    let daemon = Daemon::start(&[]).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nginx/upstream.py");
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let upstream = folder.path().join("orders.conf");
    let http = "include orders.conf; proxy_connect_timeout 1s;";
    write_nginx(
        folder.path(),
        port,
        http,
        "location / { proxy_pass http://orders; }",
    );
    fs::write(
        &upstream,
        "upstream orders {\n  server 127.0.0.1:9 down;\n}\n",
    )
    .unwrap();
    let prefix = folder.path().to_str().unwrap().to_owned();
    let nginx = WebProxy::nginx_in(folder, port).await;
    daemon.put("/v1/services/orders", json!({})).await;
    let exec = format!(
        "{script} orders {} -p {prefix} -c nginx.conf",
        upstream.display()
    );
    let child = spawn(BINARY, None, |command| {
        command
            .args(["watch", "orders", "--available", "--exec", &exec])
            .env("ROLLCALL_SERVER", daemon.url());
    });
    let _watch = Process::new(child);
    let is_served = async |wanted: bool| {
        eventually(
            std::time::Duration::from_secs(20),
            "nginx follows",
            || async {
                let answer = daemon.client().get(nginx.url()).send().await.ok()?;
                (answer.status().is_success() == wanted).then_some(())
            },
        )
        .await;
    };
    is_served(false).await;
    let exporter = Exporter::start().await;
    let instance = format!("/v1/services/orders/instances/{}", exporter.address());
    daemon.put(&instance, json!({})).await;
    daemon
        .put(&format!("{instance}/heartbeat"), json!({}))
        .await;
    is_served(true).await;
    daemon.patch(&instance, json!({"status": "held"})).await;
    is_served(false).await;
    daemon.patch(&instance, json!({"status": "enabled"})).await;
    is_served(true).await;
    // Weight 0 is available, and not to be chosen.
    daemon.patch(&instance, json!({"weight": 0})).await;
    is_served(false).await;
}

#[tokio::test]
async fn runs_of_a_watched_command_neither_overlap_nor_pile_up() {
    let daemon = Daemon::start(&[]).await;
    daemon.put("/v1/services/orders", json!({})).await;
    let folder = TempDir::new().unwrap();
    let exec = "[ -e busy ] && echo overlap >> runs; touch busy; sleep 0.5; python3 -c 'import json, sys; print(len(json.load(sys.stdin)[\"instances\"]))' >> runs; rm busy; [ $(wc -l < runs) != 2 ]";
    let child = spawn(BINARY, None, |command| {
        command
            .args(["watch", "orders", "--exec", exec])
            .env("ROLLCALL_SERVER", daemon.url())
            .current_dir(folder.path());
    });
    let _watch = Process::new(child);
    let runs = || fs::read_to_string(folder.path().join("runs")).unwrap_or_default();
    let last_is = async |wanted: &str| {
        eventually(std::time::Duration::from_secs(20), "it ran", || async {
            (runs().lines().last() == Some(wanted)).then_some(())
        })
        .await;
    };
    last_is("0").await;
    for i in 1..=40 {
        daemon
            .put(&format!("/v1/services/orders/instances/h-{i}:1"), json!({}))
            .await;
    }
    last_is("40").await;
    let runs = runs();
    assert!(!runs.contains("overlap"), "{runs}");
    // The second one failed, and others followed.
    assert!((3..20).contains(&runs.lines().count()), "{runs}");
}
