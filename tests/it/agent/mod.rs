//! The agent: an instance under it is listed while it runs.

mod checks;
mod end;
mod reload;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::command::{Agent, run};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::fake_registry::FakeRegistry;
use crate::support::process::free_port;
use crate::support::proxy::{Fault, Proxy};

const ADDRESS: &str = "10.0.0.5:8080";
const ORDERS: [&str; 4] = ["--service", "orders", "--address", ADDRESS];
const INSTANCE: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// The shortest TTL, so that its end can be waited for.
const TTL: Duration = Duration::from_secs(5);

fn short_lives() -> [String; 4] {
    ["--lease-ttl", "5s", "--roll-call-interval", "2s"].map(str::to_owned)
}

async fn start_daemon() -> Daemon {
    Daemon::start(&short_lives()).await
}

/// Under `command`, for the service orders.
fn agent(folder: &Path, server: &str, command: &[&str]) -> Agent {
    let at_once = ["--start-delay", "0s", "--drain-delay", "0s", "--"];
    let arguments = [&ORDERS[..], &at_once, command].concat();
    Agent::start(folder, server, &arguments)
}

async fn is_available(daemon: &Daemon, wanted: bool) {
    eventually(LONG, "it is as available as it should be", || async {
        let is = daemon.counts("orders").await[2] == 1;
        (is == wanted).then_some(())
    })
    .await;
}

async fn is_registered(daemon: &Daemon) -> bool {
    daemon.get(INSTANCE).await.0 == 200
}

fn kill(id: &str, signal: Signal) {
    let id = Pid::from_raw(id.trim().parse().unwrap()).unwrap();
    kill_process(id, signal).unwrap();
}

/// Waits for a file that a command writes, and returns its content.
async fn written(file: &Path) -> String {
    eventually(LONG, "the command wrote it", || async {
        let text = fs::read_to_string(file).ok()?;
        text.ends_with('\n').then_some(text)
    })
    .await
}

#[tokio::test]
async fn an_instance_of_the_agent_is_listed_with_its_description() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let says = [
        "--metadata",
        "zone=a",
        "--metadata",
        "rack=b=c",
        "--name",
        "一",
    ];
    let more = ["--weight", "7", "--ttl", "60"];
    let arguments = [&ORDERS[..], &says, &more].concat();
    let _agent = Agent::start(folder.path(), daemon.url(), &arguments);
    is_available(&daemon, true).await;
    let (_, instance) = daemon.get(INSTANCE).await;
    assert_eq!(instance["metadata"], json!({"zone": "a", "rack": "b=c"}));
    assert_eq!(instance["name"], json!("一"));
    assert_eq!(
        (&instance["weight"], &instance["ttl_seconds"]),
        (&json!(7), &json!(60))
    );
}

#[tokio::test]
async fn an_instance_killed_with_its_agent_is_offline_one_ttl_later() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let command = ["sh", "-c", "echo $$ > id; exec sleep 60"];
    let mut agent = agent(folder.path(), daemon.url(), &command);
    is_available(&daemon, true).await;
    let id = written(&folder.path().join("id")).await;
    // No instance is marked offline for one TTL after the start.
    eventually(LONG, "a missing lease is evidence", || async {
        let (_, overview) = daemon.get("/v1/overview").await;
        overview["protection"]["reason"].is_null().then_some(())
    })
    .await;
    agent.process.kill();
    kill(&id, Signal::KILL);
    let killed = Instant::now();
    is_available(&daemon, false).await;
    let took = killed.elapsed();
    assert!(took < TTL + Duration::from_secs(4), "{took:?}");
    assert!(is_registered(&daemon).await, "it may come back");
}

#[tokio::test]
async fn sigterm_takes_it_off_the_list_and_ends_the_command() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let command = "trap 'echo > ended; exit 3' TERM; echo > up; while :; do sleep 0.05; done";
    let mut agent = agent(folder.path(), daemon.url(), &["sh", "-c", command]);
    written(&folder.path().join("up")).await;
    is_available(&daemon, true).await;
    agent.process.signal(Signal::TERM);
    let status = agent.process.ended(LONG).await;
    assert_eq!(status.code(), Some(3), "its exit code is the command's");
    assert!(folder.path().join("ended").exists());
    assert!(!is_registered(&daemon).await);
}

#[tokio::test]
async fn a_command_that_does_not_end_is_killed() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let command = "trap '' TERM; echo > up; while :; do sleep 0.05; done";
    let stop = ["--drain-delay", "0s", "--stop-timeout", "300ms"];
    let stop = [&stop[..], &["--", "sh", "-c", command]].concat();
    let arguments = [&ORDERS[..], &stop].concat();
    let mut agent = Agent::start(folder.path(), daemon.url(), &arguments);
    written(&folder.path().join("up")).await;
    agent.process.signal(Signal::TERM);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(128 + 9));
    assert!(agent.log().contains("--stop-timeout"), "{}", agent.log());
}

#[tokio::test]
async fn it_ends_as_the_command_does_and_takes_it_off_the_list() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    for (command, code) in [
        ("until [ -e end ]; do sleep 0.05; done; exit 42", 42),
        ("until [ -e end ]; do sleep 0.05; done; kill -9 $$", 128 + 9),
    ] {
        let end = folder.path().join("end");
        let mut agent = agent(folder.path(), daemon.url(), &["sh", "-c", command]);
        is_available(&daemon, true).await;
        fs::write(&end, "").unwrap();
        assert_eq!(agent.process.ended(LONG).await.code(), Some(code));
        assert!(!is_registered(&daemon).await);
        fs::remove_file(&end).unwrap();
    }
    let mut agent = agent(folder.path(), daemon.url(), &["/no/such/program"]);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(127));
    assert!(agent.log().contains("/no/such/program"), "{}", agent.log());
}

#[tokio::test]
async fn an_instance_deregistered_by_another_client_registers_again() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let agent = agent(folder.path(), daemon.url(), &["sleep", "60"]);
    is_available(&daemon, true).await;
    assert_eq!(daemon.delete(INSTANCE).await.0, 204);
    is_available(&daemon, true).await;
    let log = agent.log();
    assert!(log.contains("was deregistered by another client"), "{log}");
}

#[tokio::test]
async fn complaint_31_it_begins_before_the_registry_does_and_outlives_its_outages() {
    let folder = Arc::new(TempDir::new().unwrap());
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let proxy = Proxy::before(port).await;
    let own = TempDir::new().unwrap();
    let server = format!("http://127.0.0.1:{}", proxy.port());
    let mut agent = agent(own.path(), &server, &["sleep", "60"]);
    eventually(LONG, "it logs that no replica answers", || async {
        agent.log().contains("no answer from").then_some(())
    })
    .await;
    let start = || Daemon::launch_on(&listen, &short_lives(), Arc::clone(&folder), &[]);
    let mut daemon = start();
    is_available(&daemon, true).await;

    // A registry that does not answer, for longer than a time to live.
    proxy.set(Fault::BlackHole);
    is_available(&daemon, false).await;
    proxy.set(Fault::None);
    is_available(&daemon, true).await;

    // One that is killed, and comes back with nothing in memory.
    daemon.signal(Signal::KILL);
    daemon.ended().await;
    let daemon = start();
    is_available(&daemon, true).await;
    assert_eq!(agent.process.status(), None);
    agent.process.signal(Signal::TERM);
    agent.process.ended(LONG).await;
    assert!(!is_registered(&daemon).await);
}

#[tokio::test]
async fn it_ends_even_if_the_registry_is_away() {
    let folder = TempDir::new().unwrap();
    let server = format!("http://127.0.0.1:{}", free_port());
    let mut agent = agent(folder.path(), &server, &["sleep", "60"]);
    eventually(LONG, "it runs", || async {
        agent.log().contains("no answer").then_some(())
    })
    .await;
    agent.process.signal(Signal::TERM);
    let status = agent.process.ended(LONG).await;
    assert_eq!(status.code(), Some(128 + 15));
    assert!(agent.log().contains("cannot leave"), "{}", agent.log());
}

#[tokio::test]
async fn the_agent_answers_roll_calls_unless_disabled() {
    let registry = FakeRegistry::start().await;
    let beats = || registry.asked("/v1/heartbeats").len();
    let folder = TempDir::new().unwrap();
    let _agent = Agent::start(folder.path(), registry.url(), &ORDERS);
    eventually(LONG, "it listens", || async {
        (registry.call_roll() == 1).then_some(())
    })
    .await;
    // The next one by itself would come an hour later.
    eventually(LONG, "it answers", || async {
        (beats() == 2).then_some(())
    })
    .await;
    let listening = registry.asked("/v1/events?service=orders").len();
    assert_eq!(listening, 1);

    let deaf = FakeRegistry::start().await;
    let folder = TempDir::new().unwrap();
    let arguments = [&ORDERS[..], &["--no-roll-calls"]].concat();
    let mut agent = Agent::start(folder.path(), deaf.url(), &arguments);
    eventually(LONG, "it beats", || async {
        (deaf.asked("/v1/heartbeats").len() == 1).then_some(())
    })
    .await;
    agent.process.signal(Signal::TERM);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
    assert_eq!(deaf.asked("/v1/events?service=orders"), []);
    let left = deaf.asked(&format!("{INSTANCE}/leave"));
    assert_eq!(left[0].method, "POST");
}

#[tokio::test]
async fn instances_of_a_file_share_one_batch_of_heartbeats() {
    let registry = FakeRegistry::start().await;
    let folder = TempDir::new().unwrap();
    let instances = json!([
        {"service": "orders", "address": ADDRESS, "weight": 2, "metadata": {"zone": "a"}},
        {"group": "edge", "address": "[::1]:80", "name": "gate"},
    ]);
    fs::write(folder.path().join("these"), instances.to_string()).unwrap();
    let _agent = Agent::start(folder.path(), registry.url(), &["--file", "these"]);
    let heartbeat = eventually(LONG, "it beats", || async {
        registry.asked("/v1/heartbeats").pop()
    })
    .await;
    let leases = heartbeat.body["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2);
    assert!(leases.contains(&json!({"service": "orders", "address": ADDRESS})));
    assert!(leases.contains(&json!({"group": "edge", "address": "[::1]:80"})));
    let registrations = registry.asked("/v1/registrations");
    let gateway = json!({"group": "edge", "address": "[::1]:80", "name": "gate", "weight": null, "metadata": null, "ttl_seconds": null});
    let orders = json!({"service": "orders", "address": ADDRESS, "name": null, "weight": 2, "metadata": {"zone": "a"}, "ttl_seconds": null});
    assert_eq!(
        registrations[0].body,
        json!({"registrations": [gateway, orders]}),
        "complete descriptions"
    );
}

#[tokio::test]
async fn the_command_does_not_find_the_agents_token() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let arguments = [&ORDERS[..], &["--", "sh", "-c", "env > all; echo > done"]].concat();
    let token = [("ROLLCALL_TOKEN", "0123456789abcdef0123456789abcdef")];
    let mut agent = Agent::start_with(folder.path(), daemon.url(), &arguments, &token);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
    let variables = fs::read_to_string(folder.path().join("all")).unwrap();
    assert!(variables.contains("PATH=") && !variables.contains("0123456789abcdef"));
}

#[tokio::test]
async fn a_usage_error_names_the_flag_and_the_reason() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("these");
    let file = file.to_str().unwrap();
    for (content, arguments, says) in [
        (
            "",
            vec![],
            "give --service KEY or --group KEY with --address HOST:PORT, or --file PATH",
        ),
        ("", vec!["--service", "orders"], "--address <HOST:PORT>"),
        (
            "",
            vec!["--service", "a:b", "--address", ADDRESS],
            "'--service <KEY>'",
        ),
        (
            "",
            vec!["--service", "a", "--address", "5"],
            "'--address <HOST:PORT>'",
        ),
        (
            "",
            [&ORDERS[..], &["--metadata", "zone"]].concat(),
            "must be KEY=VALUE",
        ),
        ("", [&ORDERS[..], &["--weight=-1"]].concat(), "weight"),
        (
            "",
            [&ORDERS[..], &["--server", "redis://h"]].concat(),
            "must be http://",
        ),
        ("[]", vec!["--file", file], "contains no instance"),
        ("{", vec!["--file", file], "'--file <PATH>'"),
        (
            r#"[{"address":"a:1"}]"#,
            vec!["--file", file],
            "entry 1: must contain either",
        ),
        (
            r#"[{"servce":"a","address":"a:1"}]"#,
            vec!["--file", file],
            "servce",
        ),
    ] {
        fs::write(file, content).unwrap();
        let output = run(&[&["agent"], &arguments[..]].concat(), &[]).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?} says {error}");
    }
}
