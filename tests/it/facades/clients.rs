//! Real clients, through their verbs: embedded, and on two replicas with requests spread over both; with
//! and without tokens. The scripts are in `python`, the packages in `tests/requirements.txt`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::ALL;
use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::web_proxies::WebProxy;

/// The longest run of a client.
const LONGEST: Duration = Duration::from_secs(120);

const TOKEN: &str = "the-token-of-the-application-0123456789";

on_both_backends! {
    eureka_s_python_client_works_with_all_its_verbs,
    consul_s_python_client_works_with_all_its_verbs,
    nacos_s_python_client_works_with_all_its_verbs,
}

async fn eureka_s_python_client_works_with_all_its_verbs<B: Backends>() {
    works::<B>("eureka").await;
}

async fn consul_s_python_client_works_with_all_its_verbs<B: Backends>() {
    works::<B>("consul").await;
}

async fn nacos_s_python_client_works_with_all_its_verbs<B: Backends>() {
    works::<B>("nacos").await;
}

/// Runs a client without tokens, and then with one of the role agent.
async fn works<B: Backends>(client: &str) {
    run::<B>(client, &[], None).await;
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let flag = format!("--agent-token-file={}", file.display());
    run::<B>(client, &[&flag], Some(TOKEN)).await;
}

async fn run<B: Backends>(client: &str, flags: &[&str], token: Option<&str>) {
    let flags: Vec<&str> = ALL.iter().chain(flags).copied().collect();
    let setup = Setup::<B>::start_with(&flags).await;
    let other = setup.replica(&flags).await;
    let servers: Vec<&Daemon> = [Some(&setup.daemon), other.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    let lines = servers.iter().enumerate();
    let lines = lines.map(|(at, daemon)| format!("  server s{at} {}\n", daemon.address()));
    let backend = format!("  balance roundrobin\n{}", lines.collect::<String>());
    let spread = WebProxy::haproxy(&backend).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join(format!("tests/it/facades/python/{client}_client.py"));
    let mut command = Command::new(root.join("target/python/bin/python"));
    command.arg(script).arg(spread.url());
    command.arg(token.unwrap_or_default());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let run = timeout(LONGEST, command.output()).await;
    let output = run.expect("the client ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{client}: {}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    for daemon in servers {
        assert!(!daemon.log().contains(TOKEN), "a token is in the log");
    }
}
