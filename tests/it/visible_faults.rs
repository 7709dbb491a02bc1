//! Faults are visible: logged once, and in the metrics.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics::Samples;
use crate::support::backends::{Backends, Embedded, Shared};
use crate::support::daemon::Daemon;
use crate::support::sse::Subscriber;
use crate::support::{addresses, eventually};

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

#[tokio::test]
async fn malformed_requests_are_counted_and_logged_at_most_once_a_second() {
    let daemon = Daemon::start(&Embedded.arguments()).await;
    let begin = Instant::now();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400 "));
    }
    let seconds = begin.elapsed().as_secs() as usize + 1;
    eventually(Duration::from_secs(10), "all are counted", || async {
        let counted = Samples::of(&daemon)
            .await
            .get("rollcall_http_malformed_requests_total");
        (counted == 300.0).then_some(())
    })
    .await;
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("malformed request"));
    let lines: Vec<&str> = lines.collect();
    assert!((1..=seconds + 1).contains(&lines.len()), "{log}");
    assert!(
        lines[0].contains("malformed request from 127.0.0.1:"),
        "{log}"
    );
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn probes_are_answered_while_idle_clients_have_all_connections() {
    let daemon = Daemon::start(&flags(&["--max-connections", "64"])).await;
    let limit = Samples::of(&daemon)
        .await
        .get("rollcall_http_connections_limit");
    assert_eq!(limit, 64.0);
    let mut idle = Vec::new();
    for _ in 0..100 {
        let opened = async {
            let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
            let request = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            stream
        };
        idle.push(
            timeout(Duration::from_secs(5), opened)
                .await
                .expect("a place is left"),
        );
    }
    // A client of its own for each, as probes have it.
    for path in ["/livez", "/readyz", "/metrics"] {
        let client = crate::support::daemon::client_builder().build().unwrap();
        let url = format!("{}{path}", daemon.url());
        let answer = timeout(Duration::from_secs(5), client.get(url).send()).await;
        assert_eq!(answer.expect(path).unwrap().status(), 200);
    }
    let open = Samples::of(&daemon).await.get("rollcall_http_connections");
    assert!((50.0..=64.0).contains(&open), "{open}");
    let said = daemon
        .log()
        .matches("(--max-connections): each response now")
        .count();
    assert_eq!(said, 1, "{}", daemon.log());
}

#[tokio::test]
async fn events_that_the_log_refuses_are_logged_once_and_appended_later() {
    let setup = Shared::new().await;
    let daemon = Daemon::start(&setup.arguments()).await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
    let mut forbid = redis::cmd("ACL");
    forbid.arg("SETUSER").arg("default").arg("-xadd");
    setup.redis.run::<()>(&forbid).await;
    daemon.register("orders", &addresses(3), &json!({})).await;
    eventually(Duration::from_secs(10), "it is seen", || async {
        let samples = Samples::of(&daemon).await;
        let (_, overview) = daemon.get("/v1/overview").await;
        let seen = samples.get("rollcall_events_waiting") >= 3.0
            && samples.get("rollcall_backend_up{backend=\"event_log\"}") == 0.0
            && overview["backends"]["event_log"] == false;
        seen.then_some(())
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    let log = daemon.log();
    assert_eq!(
        log.matches("the event log accepts no events").count(),
        1,
        "{log}"
    );
    let mut allow = redis::cmd("ACL");
    allow.arg("SETUSER").arg("default").arg("+xadd");
    setup.redis.run::<()>(&allow).await;
    for _ in 0..3 {
        subscriber
            .expect("instance.registered", Duration::from_secs(20))
            .await;
    }
    eventually(Duration::from_secs(10), "the event log is up", || async {
        let samples = Samples::of(&daemon).await;
        let up = samples.get("rollcall_events_waiting") == 0.0
            && samples.get("rollcall_backend_up{backend=\"event_log\"}") == 1.0;
        up.then_some(())
    })
    .await;
}
