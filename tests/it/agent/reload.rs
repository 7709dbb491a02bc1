//! What the agent reads again, its own address, and its life as PID 1.

use std::process::Command;

use crate::metrics::Samples;
use crate::support::daemon::BINARY;
use crate::support::process::{Process, spawn};

use super::*;

/// A new token of the role agent, and its line for the daemon.
fn new_token(name: &str) -> (String, String) {
    let arguments = ["token", "--role", "agent", "--name", name];
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.unwrap().trim().to_owned()
    };
    (
        words("token (shown only once):"),
        words("line for --tokens-file:"),
    )
}

#[tokio::test]
async fn complaint_6_the_agent_follows_a_rotation_of_its_token() {
    let folder = TempDir::new().unwrap();
    let (list, own) = (folder.path().join("tokens"), folder.path().join("own"));
    let (old, old_line) = new_token("web-team");
    let (new, new_line) = new_token("web-team");
    fs::write(&list, &old_line).unwrap();
    fs::write(&own, &old).unwrap();
    let tokens = ["--tokens-file", list.to_str().unwrap()].map(str::to_owned);
    let daemon = Daemon::start(&[&short_lives()[..], &tokens].concat()).await;
    let file = ["--token-file", own.to_str().unwrap()];
    let mut agent = Agent::start(folder.path(), daemon.url(), &[&ORDERS[..], &file].concat());
    let is_online = async |token: &str| {
        let url = format!("{}{INSTANCE}", daemon.url());
        let asked = daemon.client().get(url).bearer_auth(token).send().await;
        let instance: serde_json::Value = asked.unwrap().json().await.unwrap();
        instance["online"] == json!(true)
    };
    eventually(LONG, "it is online", || async {
        is_online(&old).await.then_some(())
    })
    .await;

    // Both tokens are valid under one name, until every client has the new one.
    fs::write(&list, format!("{old_line}\n{new_line}\n")).unwrap();
    daemon.signal(Signal::HUP);
    eventually(LONG, "the new one is valid", || async {
        is_online(&new).await.then_some(())
    })
    .await;
    assert!(is_online(&old).await);
    fs::write(&own, &new).unwrap();
    agent.process.signal(Signal::HUP);
    eventually(LONG, "the agent read it again", || async {
        agent.log().contains("read the token again").then_some(())
    })
    .await;
    fs::write(&list, &new_line).unwrap();
    daemon.signal(Signal::HUP);
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    assert!(is_online(&new).await);
    agent.process.signal(Signal::TERM);
    agent.process.ended(LONG).await;
    assert!(
        agent.log().contains("left services/orders"),
        "{}",
        agent.log()
    );
}

#[tokio::test]
async fn a_file_of_instances_is_read_again_at_sighup() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let file = folder.path().join("these");
    let at = |address: &str, weight: u16| json!({"service": "orders", "address": address, "weight": weight});
    fs::write(&file, json!([at("a:1", 1), at("b:1", 1)]).to_string()).unwrap();
    let agent = Agent::start(folder.path(), daemon.url(), &["--file", "these"]);
    let listed = async |wanted: &[(&str, u16)]| {
        eventually(LONG, "these are available", || async {
            let (_, body) = daemon
                .get("/v1/services/orders/instances?available=true")
                .await;
            let instances = body["instances"].as_array()?.clone();
            let listed: Vec<_> = instances
                .iter()
                .map(|one| {
                    (
                        one["address"].as_str().unwrap(),
                        one["weight"].as_u64().unwrap(),
                    )
                })
                .collect();
            let wanted: Vec<_> = wanted.iter().map(|(a, w)| (*a, u64::from(*w))).collect();
            (listed == wanted).then_some(())
        })
        .await;
    };
    listed(&[("a:1", 1), ("b:1", 1)]).await;
    fs::write(&file, json!([at("b:1", 7), at("c:1", 1)]).to_string()).unwrap();
    agent.process.signal(Signal::HUP);
    listed(&[("b:1", 7), ("c:1", 1)]).await;
    assert_eq!(daemon.counts("orders").await[0], 2, "a:1 has left");
    fs::write(&file, "[").unwrap();
    agent.process.signal(Signal::HUP);
    eventually(LONG, "it says what is wrong", || async {
        agent.log().contains("kept the instances").then_some(())
    })
    .await;
    listed(&[("b:1", 7), ("c:1", 1)]).await;
}

#[tokio::test]
async fn complaint_20_auto_is_the_local_address_that_reaches_the_registry() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let auto = ["--service", "orders", "--address", "auto:8080"];
    let _agent = Agent::start(folder.path(), daemon.url(), &auto);
    is_available(&daemon, true).await;
    let (_, body) = daemon.get("/v1/services/orders/instances").await;
    assert_eq!(body["instances"][0]["address"], json!("127.0.0.1:8080"));
    for unspecified in ["0.0.0.0:80", "[::]:80"] {
        let arguments = ["agent", "--service", "a", "--address", unspecified];
        let output = run(&arguments, &[]).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            error.contains("no address that clients can reach"),
            "{error}"
        );
        let (status, body) = daemon
            .put(
                &format!("/v1/services/a/instances/{unspecified}"),
                json!({}),
            )
            .await;
        assert_eq!((status.as_u16(), &body["field"]), (400, &json!("address")));
    }
}

/// Returns the state and the name of each child of a process.
fn children(parent: u32) -> Vec<(String, String)> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(stat) = fs::read_to_string(entry.unwrap().path().join("stat")) else {
            continue;
        };
        // PID (NAME) STATE PARENT …
        let (name, rest) = stat.rsplit_once(") ").unwrap_or_default();
        let mut words = rest.split(' ').map(str::to_owned);
        if let (Some(state), Some(of)) = (words.next(), words.next())
            && of == parent.to_string()
        {
            children.push((state, name.to_owned()));
        }
    }
    children
}

#[tokio::test]
async fn complaint_24_orphans_are_reaped_and_sighup_ends_nothing() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    // As PID 1 it gets the orphans of all processes; here those of its own command.
    let adopt = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.argv[1], sys.argv[1:])";
    let orphans = "for i in 1 2 3; do (sleep 0.2 & echo $! >> orphans); done; echo done >> orphans; trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let child = spawn("python3", None, |command| {
        command
            .args(["-c", adopt, BINARY, "agent", "--server", daemon.url()])
            .args(ORDERS)
            .args(["--start-delay", "0s", "--drain-delay", "0s"])
            .args(["--", "sh", "-c", orphans])
            .current_dir(folder.path());
    });
    let mut agent = Process::new(child);
    is_available(&daemon, true).await;
    eventually(LONG, "the orphans exist", || async {
        let text = fs::read_to_string(folder.path().join("orphans")).ok()?;
        text.ends_with("done\n").then_some(())
    })
    .await;
    let gone = |text: &str| {
        let mut ids = text.lines().filter_map(|line| line.parse::<u32>().ok());
        ids.all(|id| !Path::new(&format!("/proc/{id}")).exists())
    };
    eventually(LONG, "they are reaped", || async {
        let text = fs::read_to_string(folder.path().join("orphans")).ok()?;
        gone(&text).then_some(())
    })
    .await;
    let dead = children(agent.id())
        .into_iter()
        .filter(|(state, _)| state == "Z");
    assert_eq!(dead.collect::<Vec<_>>(), []);
    let renewed = async || {
        let samples = Samples::of(&daemon).await;
        samples.get("rollcall_heartbeats_total{outcome=\"renewed\"}")
    };
    let before = renewed().await;
    agent.signal(Signal::HUP);
    eventually(LONG, "it sends heartbeats after the signal", || async {
        (renewed().await > before + 1.0).then_some(())
    })
    .await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended(LONG).await.code(), Some(7));
}
