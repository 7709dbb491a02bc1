//! What the agent does at the end: the instance leaves, clients get time, the command stops.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use super::*;

/// A command that writes a line when it starts and when it receives SIGTERM.
const WATCHED: &str = "trap 'echo > ended; exit 0' TERM; echo > up; while :; do sleep 0.02; done";

async fn watched(folder: &Path, server: &str, more: &[&str]) -> Agent {
    let rest = ["--start-delay", "0s", "--", "sh", "-c", WATCHED];
    let agent = Agent::start(folder, server, &[&ORDERS[..], more, &rest].concat());
    written(&folder.join("up")).await;
    agent
}

#[tokio::test]
async fn complaint_4_it_leaves_before_the_command_gets_sigterm() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let mut agent = watched(folder.path(), daemon.url(), &["--drain-delay", "2s"]).await;
    is_available(&daemon, true).await;
    let stopped = Instant::now();
    agent.process.signal(Signal::TERM);
    is_available(&daemon, false).await;
    assert!(!folder.path().join("ended").exists());
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
    assert!(folder.path().join("ended").exists());
    assert!(stopped.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_second_signal_skips_the_drain_delay() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let mut agent = watched(folder.path(), daemon.url(), &["--drain-delay", "60s"]).await;
    is_available(&daemon, true).await;
    agent.process.signal(Signal::TERM);
    is_available(&daemon, false).await;
    agent.process.signal(Signal::INT);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
}

#[tokio::test]
async fn two_signals_at_once_do_not_skip_leaving() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let (_, port) = daemon.url().rsplit_once(':').unwrap();
    let proxy = Proxy::before(port.parse().unwrap()).await;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut agent = watched(folder.path(), &url, &["--drain-delay", "60s"]).await;
    is_available(&daemon, true).await;
    proxy.set(Fault::Delay(Duration::from_millis(300)));
    agent.process.signal(Signal::TERM);
    agent.process.signal(Signal::INT);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
    assert!(
        agent.log().contains("left services/orders"),
        "{}",
        agent.log()
    );
    assert_eq!(daemon.counts("orders").await, [0, 0, 0]);
}

#[tokio::test]
async fn with_a_registry_that_hangs_the_command_gets_sigterm_in_time() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let mut agent = watched(folder.path(), daemon.url(), &["--drain-delay", "500ms"]).await;
    is_available(&daemon, true).await;
    daemon.signal(Signal::STOP);
    let stopped = Instant::now();
    agent.process.signal(Signal::TERM);
    written(&folder.path().join("ended")).await;
    let took = stopped.elapsed();
    assert_eq!(agent.process.ended(LONG).await.code(), Some(0));
    daemon.signal(Signal::CONT);
    // Not the 10 s after which a request to the registry fails.
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(
        agent.log().contains("did not answer in time"),
        "{}",
        agent.log()
    );
}

#[tokio::test]
async fn it_deregisters_if_that_is_asked() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let more = ["--drain-delay", "0s", "--deregister"];
    let mut agent = watched(folder.path(), daemon.url(), &more).await;
    is_available(&daemon, true).await;
    daemon.patch(INSTANCE, json!({"weight": 9})).await;
    agent.process.signal(Signal::TERM);
    agent.process.ended(LONG).await;
    assert!(!is_registered(&daemon).await);
}

#[tokio::test]
async fn an_agent_that_never_registered_takes_no_other_instance_out() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let address = format!("127.0.0.77:{}", free_port());
    let instance = format!("/v1/services/orders/instances/{address}");
    daemon.put(&instance, json!({})).await;
    let orders = ["--service", "orders", "--address", &address];
    let arguments = [&orders[..], &["--start-delay", "60s", "--", "false"]].concat();
    let mut agent = Agent::start(folder.path(), daemon.url(), &arguments);
    assert_eq!(agent.process.ended(LONG).await.code(), Some(1));
    assert_eq!(daemon.get(&instance).await.0, 200);
}

/// An HTTP server of the standard library of Python, which ends at SIGTERM at once.
const SERVER: &str = r#"#!/usr/bin/env python3
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[tokio::test]
async fn a_client_that_lists_each_second_sees_no_failed_call_during_a_graceful_restart() {
    let daemon = Daemon::start(&[]).await;
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let ports = [free_port(), free_port()];
    let start = |i: usize| {
        let folder = folders[i].path();
        let server = folder.join("server");
        fs::write(&server, SERVER).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        let (address, port) = (format!("127.0.0.1:{}", ports[i]), ports[i].to_string());
        let orders = ["--service", "orders", "--address", &address];
        let rest = ["--drain-delay", "3s", "--", server.to_str().unwrap(), &port];
        Agent::start(folder, daemon.url(), &[&orders[..], &rest].concat())
    };
    let all_available = async || {
        eventually(LONG, "both are available", || async {
            (daemon.counts("orders").await[2] == 2).then_some(())
        })
        .await;
    };
    let mut agents = [start(0), start(1)];
    all_available().await;
    let done = AtomicBool::new(false);
    let client = async {
        let list = "/v1/services/orders/instances?available=true";
        let (mut calls, mut failed, mut known) = (0, 0, Vec::new());
        let mut listed: Option<Instant> = None;
        while !done.load(Ordering::SeqCst) {
            if listed.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                let (_, body) = daemon.get(list).await;
                let instances = body["instances"].as_array().unwrap().iter();
                known = instances
                    .map(|one| one["address"].as_str().unwrap().to_owned())
                    .collect();
                listed = Some(Instant::now());
            }
            let url = format!("http://{}/", known[calls % known.len()]);
            // A connection of its own for each call.
            let connections = reqwest::Client::builder().pool_max_idle_per_host(0);
            let called = connections.build().unwrap().get(url).send().await;
            failed += usize::from(called.is_err());
            calls += 1;
            sleep(Duration::from_millis(20)).await;
        }
        (calls, failed)
    };
    let restarts = async {
        for i in [0, 1] {
            agents[i].process.signal(Signal::TERM);
            agents[i].process.ended(LONG).await;
            agents[i] = start(i);
            all_available().await;
        }
        done.store(true, Ordering::SeqCst);
    };
    let ((calls, failed), ()) = tokio::join!(client, restarts);
    assert!(calls > 100, "{calls}");
    assert_eq!(failed, 0, "of {calls}");
}
