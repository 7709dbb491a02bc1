//! An instance under the agent is listed only while it is able to serve.

use tokio::net::TcpListener;

use super::*;
use crate::support::sse::Subscriber;

#[tokio::test]
async fn heartbeats_are_sent_only_while_the_check_passes() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let checked = FakeRegistry::start().await;
    checked.set_health(500);
    let check = format!("{}/health", checked.url());
    let arguments = [&ORDERS[..], &["--check", &check, "--check-interval", "1s"]].concat();
    let agent = Agent::start(folder.path(), daemon.url(), &arguments);
    eventually(LONG, "it says why it is silent", || async {
        agent.log().contains("/health answers 500").then_some(())
    })
    .await;
    assert!(!is_registered(&daemon).await);
    checked.set_health(204);
    is_available(&daemon, true).await;
    checked.set_health(503);
    is_available(&daemon, false).await;
    checked.set_health(200);
    is_available(&daemon, true).await;
}

#[tokio::test]
async fn complaint_30_one_failed_check_is_not_an_end_and_several_end_the_lease_early() {
    let (daemon, folder) = (Daemon::start(&[]).await, TempDir::new().unwrap());
    let checked = FakeRegistry::start().await;
    let check = format!("{}/health", checked.url());
    let often = ["--check-interval", "200ms", "--check-failures", "5"];
    let arguments = [&ORDERS[..], &["--check", &check], &often].concat();
    let agent = Agent::start(folder.path(), daemon.url(), &arguments);
    is_available(&daemon, true).await;
    checked.set_health(500);
    eventually(LONG, "a check fails", || async {
        agent.log().contains("failed, 1 of 5 times").then_some(())
    })
    .await;
    assert_eq!(daemon.counts("orders").await, [1, 1, 1]);
    // Long before the TTL of 30 s; it stays registered.
    let failed = Instant::now();
    is_available(&daemon, false).await;
    assert!(failed.elapsed() < Duration::from_secs(15));
    assert_eq!(daemon.counts("orders").await, [1, 0, 0]);
    let (_, leases) = daemon.get("/v1/services/orders/leases").await;
    assert_eq!(leases["leases"], json!([]));
    checked.set_health(200);
    is_available(&daemon, true).await;
}

#[tokio::test]
async fn a_check_may_be_a_port() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let port = free_port();
    let check = format!("tcp://127.0.0.1:{port}");
    let often = ["--check-interval", "200ms"];
    let arguments = [&ORDERS[..], &["--check", &check], &often].concat();
    let agent = Agent::start(folder.path(), daemon.url(), &arguments);
    eventually(LONG, "it says why it is silent", || async {
        agent.log().contains("cannot connect to").then_some(())
    })
    .await;
    assert!(!is_registered(&daemon).await);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    is_available(&daemon, true).await;
    drop(listener);
    is_available(&daemon, false).await;
}

#[tokio::test]
async fn a_command_is_registered_when_its_port_accepts_connections() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let port = free_port();
    let address = format!("127.0.0.77:{port}");
    let orders = ["--service", "orders", "--address", &address];
    let wait = ["--start-delay", "60s", "--", "sleep", "60"];
    let arguments = [&orders[..], &wait].concat();
    let mut events = Subscriber::new(&daemon, "?service=orders").await;
    let _agent = Agent::start(folder.path(), daemon.url(), &arguments);
    // From one roll call to the next, two seconds later, it is not registered.
    for _ in 0..2 {
        let event = events.next(LONG).await.unwrap();
        assert_eq!(event.name, "roll.call");
    }
    let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    is_available(&daemon, true).await;
}

#[tokio::test]
async fn a_command_without_a_port_is_registered_after_the_start_delay() {
    let (daemon, folder) = (start_daemon().await, TempDir::new().unwrap());
    let address = format!("127.0.0.77:{}", free_port());
    let orders = ["--service", "orders", "--address", &address];
    let wait = ["--start-delay", "2s", "--", "sleep", "60"];
    let arguments = [&orders[..], &wait].concat();
    let begin = Instant::now();
    let agent = Agent::start(folder.path(), daemon.url(), &arguments);
    is_available(&daemon, true).await;
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert!(agent.log().contains("--start-delay"), "{}", agent.log());
}
