//! Acknowledged is committed: the daemon is killed during registrations, and every answered one
//! exists afterwards.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;

on_both_backends! {
    a_kill_among_ten_thousand_registrations_loses_none_that_was_answered,
    a_stop_among_registrations_loses_none_that_was_answered,
}

const CLIENTS: usize = 64;

/// Registers `range` from many clients at once until one cannot go on, and returns
/// the addresses whose registration was answered. `signal` is sent when `after` were.
async fn register(
    daemon: &Daemon,
    range: std::ops::Range<usize>,
    signal: Signal,
    after: usize,
) -> HashSet<String> {
    let (next, answered) = (AtomicUsize::new(range.start), Mutex::new(HashSet::new()));
    let client = async || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= range.end {
                return;
            }
            let address = format!("host-{i}:1");
            let path = format!("/v1/services/s/instances/{address}");
            let body = json!({"weight": i % 10});
            match daemon.try_send(Method::PUT, &path, Some(&body)).await {
                Ok((status, _)) if status == 201 => {
                    let mut answered = answered.lock().unwrap();
                    answered.insert(address);
                    if answered.len() == after {
                        daemon.signal(signal);
                    }
                }
                // Shed while it stops; not acknowledged.
                Ok((status, body)) => assert_eq!(status, 503, "{body}"),
                Err(_) => return,
            }
        }
    };
    join_all((0..CLIENTS).map(|_| client())).await;
    answered.into_inner().unwrap()
}

async fn registered(daemon: &Daemon) -> HashSet<String> {
    let (_, body) = daemon.get("/v1/services/s/instances").await;
    let instances = body["instances"].as_array().unwrap();
    let addresses = instances
        .iter()
        .map(|instance| instance["address"].as_str().unwrap().to_owned());
    addresses.collect()
}

async fn a_kill_among_ten_thousand_registrations_loses_none_that_was_answered<B: Backends>() {
    let Setup {
        mut daemon,
        backends,
    } = Setup::<B>::start().await;
    let mut answered = HashSet::new();
    // Killed in the midst of each part, after ever another number of answers.
    for (part, after) in [397, 1171, 73, 1499, 1].into_iter().enumerate() {
        answered
            .extend(register(&daemon, part * 2000..(part + 1) * 2000, Signal::KILL, after).await);
        daemon.ended().await;
        daemon = daemon.restart().await;
        let registered = registered(&daemon).await;
        let lost: Vec<&String> = answered.difference(&registered).collect();
        assert!(
            lost.is_empty(),
            "lost {lost:?} of {} answered",
            answered.len()
        );
    }
    assert!(answered.len() > 3100, "{} were answered", answered.len());
    drop(backends);
}

async fn a_stop_among_registrations_loses_none_that_was_answered<B: Backends>() {
    let Setup {
        mut daemon,
        backends,
    } = Setup::<B>::start().await;
    let answered = register(&daemon, 0..4000, Signal::TERM, 500).await;
    assert!(daemon.ended().await.success());
    assert!(answered.len() >= 500);
    let log = daemon.log();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    daemon = daemon.restart().await;
    let registered = registered(&daemon).await;
    assert!(answered.is_subset(&registered));
    // And an idle daemon stops at once.
    daemon.signal(Signal::INT);
    let begin = tokio::time::Instant::now();
    assert!(daemon.ended().await.success());
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(backends);
}
