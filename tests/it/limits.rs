//! The limits: requests above them are rejected, memory stays bounded, and heartbeats continue.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually, raw};

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// The connections of a crowd.
const CROWD: usize = 2000;

/// The memory that a daemon may use under such a load: its own, twice the memory of large
/// bodies, because they grow, and what the server library reads ahead per connection: 128 KiB,
/// and twice that of memory, because its buffer grows by doubling. Less than the load sends.
const MEMORY: usize = 64 * 1024 * 1024 + 2 * 32 * 1024 * 1024 + CROWD * 256 * 1024;

fn assert_memory(daemon: &Daemon) {
    let memory = usize::try_from(daemon.memory()).unwrap();
    assert!(memory < MEMORY, "{memory} bytes");
}

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

/// One registered instance, whose heartbeats must continue during the load.
async fn heartbeats_go_on(daemon: &Daemon, until: Instant) {
    let heartbeat = format!("{ORDERS}/heartbeat");
    let mut beats = 0;
    while Instant::now() < until {
        let begin = Instant::now();
        let (status, body) = daemon.put(&heartbeat, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
        beats += 1;
    }
    assert!(beats > 0);
}

/// A connection that sends a part of a body and no more: of the largest that there may be,
/// and a lot of it; or of an ordinary one, and little.
async fn slow_body(address: &str, large: bool) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (line, length, sent) = if large {
        ("POST /v1/heartbeats", 4 * 1024 * 1024, 1_000_000)
    } else {
        ("PUT /v1/services/x/instances/h:1", 60_000, 100)
    };
    let head = format!(
        "{line} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let body = vec![b' '; sent];
    let send = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await
    };
    // A rejected request may find its connection closed, or no reader.
    let _ = timeout(Duration::from_millis(200), send).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_bodies_hold_up_no_heartbeat_and_little_memory() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    // The second load finds what the first one left behind.
    for _ in 0..2 {
        let mut slow = Vec::new();
        for _ in 0..CROWD / 100 {
            let streams = (0..100).map(|i| slow_body(daemon.address(), i % 2 == 0));
            slow.extend(join_all(streams).await);
        }
        heartbeats_go_on(&daemon, Instant::now() + Duration::from_secs(3)).await;
        assert_memory(&daemon);
        let (_, overview) = daemon.get("/v1/overview").await;
        assert_eq!(overview["online"], json!(1));
        // All requests are answered in the end, and the permits are free again.
        let answers = answers(slow).await;
        let known = answers.keys().all(|status| [408, 503].contains(status));
        let both = answers.contains_key(&408) && answers.contains_key(&503);
        assert!(known && both, "{answers:?}");
    }
    assert_eq!(daemon.put(ORDERS, json!({"weight": 2})).await.0, 200);
}

/// How often each status was answered; some find their connection closed first.
async fn answers(streams: Vec<TcpStream>) -> BTreeMap<u16, usize> {
    let mut answers = BTreeMap::new();
    for mut stream in streams {
        let mut head = [0; 12];
        let read = timeout(Duration::from_secs(20), stream.read_exact(&mut head)).await;
        if let Ok(Ok(_)) = read {
            *answers.entry(status(&head)).or_default() += 1;
        }
    }
    answers
}

/// The status of `HTTP/1.1 200`.
fn status(head: &[u8; 12]) -> u16 {
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// Opens an event stream without reading it, and returns its status.
async fn idle_stream(address: &str) -> (u16, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /v1/events HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(Duration::from_secs(20), stream.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    (status(&head), stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_streams_are_refused_above_the_limit() {
    raise_open_files();
    let limit = 2000;
    let daemon = Daemon::start(&flags(&[
        "--max-streams",
        "2000",
        "--max-streams-per-client",
        "100000",
    ]))
    .await;
    daemon.put(ORDERS, json!({})).await;
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let streams = (0..100).map(|_| idle_stream(daemon.address()));
        for (status, stream) in join_all(streams).await {
            match status {
                200 => open.push(stream),
                503 => refused.push(stream),
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!((open.len(), refused.len()), (limit, 10_000 - limit));
    heartbeats_go_on(&daemon, Instant::now() + Duration::from_secs(1)).await;
    // The events go to all streams, whose clients do not read.
    for weight in 0..200 {
        daemon.patch(ORDERS, json!({ "weight": weight })).await;
    }
    heartbeats_go_on(&daemon, Instant::now() + Duration::from_secs(1)).await;
    assert_memory(&daemon);
    drop(open);
    eventually(
        Duration::from_secs(30),
        "there are places again",
        || async {
            let (status, _) = idle_stream(daemon.address()).await;
            (status == 200).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_paths_leaves_nothing_behind() {
    let daemon = Daemon::start(&[]).await;
    daemon.put(ORDERS, json!({})).await;
    let before = daemon.memory();
    let flood = (0..8).map(|client| {
        let address = daemon.address().to_owned();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let read = async {
                let mut buffer = vec![0; 64 * 1024];
                while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            };
            let write = async {
                for i in 0..10_000 {
                    let path = format!("/{client}/{i}/{}", "x".repeat(1000));
                    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
                    writer.write_all(request.as_bytes()).await.unwrap();
                }
            };
            tokio::select! {
                () = read => panic!("the connection was closed"),
                () = write => {}
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    heartbeats_go_on(&daemon, Instant::now() + Duration::from_secs(2)).await;
    for client in flood {
        client.await.unwrap();
    }
    let after = daemon.memory();
    assert!(after < before + 50 * 1024 * 1024, "{before} became {after}");
}

#[tokio::test]
async fn a_client_has_a_share_of_the_streams() {
    let daemon = Daemon::start(&flags(&["--max-streams-per-client", "3"])).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (status, stream) = idle_stream(daemon.address()).await;
        assert_eq!(status, 200);
        open.push(stream);
    }
    let (status, body) = daemon.get("/v1/events").await;
    assert_eq!(status, 503);
    assert_eq!(body["code"], json!("overloaded"));
    assert_eq!(
        body["detail"],
        json!("this client already has the maximum number of event streams; retry later")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_take_no_permits_of_reads() {
    let arguments = [
        "--max-long-polls",
        "20",
        "--max-in-flight",
        "64",
        "--workers",
        "1",
    ];
    let daemon = Daemon::start(&flags(&arguments)).await;
    daemon.register("orders", &addresses(1), &json!({})).await;
    let url = format!("{}/v1/services/orders/instances", daemon.url());
    let first = daemon.client().get(&url).send().await.unwrap();
    let etag = first.headers()["etag"].clone();
    // More than there are permits for reads.
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let request = daemon.client().get(format!("{url}?wait=60s"));
            let request = request.header("If-None-Match", etag.clone());
            tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
        })
        .collect();
    eventually(Duration::from_secs(10), "they wait", || async {
        let (_, overview) = daemon.get("/v1/overview").await;
        (overview["events"]["waiting"] == json!(20)).then_some(())
    })
    .await;
    let reads = (0..16).map(|_| daemon.get("/v1/services/orders/instances"));
    let reads = join_all(reads).await;
    assert!(reads.iter().all(|(status, _)| *status == 200), "{reads:?}");
    daemon
        .patch("/v1/services/orders/instances/h-0:1", json!({"weight": 9}))
        .await;
    let mut statuses = Vec::new();
    for answer in waiting {
        statuses.push(answer.await.unwrap());
    }
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(503)), (20, 10), "{statuses:?}");
}

/// The route is public, so it must not lead to the stores.
#[tokio::test]
async fn a_crowd_that_asks_for_readiness_asks_the_stores_few_times() {
    let daemon = Daemon::start(&flags(&["--workers", "1"])).await;
    let looks = async || {
        let url = format!("{}/metrics", daemon.url());
        let text = daemon
            .client()
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let name = "rollcall_lease_round_trip_seconds_count{operation=\"inspect\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = looks().await;
    let begin = Instant::now();
    let answers = (0..500).map(|_| daemon.get("/readyz"));
    let answers = join_all(answers).await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    // Four a second, and two by the sweep.
    let allowed = 6 * (begin.elapsed().as_secs() + 2);
    let asked = looks().await - before;
    assert!(asked <= allowed, "{asked} in {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let daemon = Daemon::start(&[]).await;
    let large = format!("X-Large: {}\r\n", "x".repeat(200 * 1024));
    let request = format!("GET /livez HTTP/1.1\r\nHost: h\r\n{large}\r\n");
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    // It may be rejected before it was sent completely.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    assert_eq!(
        raw::status(daemon.address(), "GET", "/livez", "").await,
        200
    );
}

/// The streams of the tests are files too.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    assert!(
        maximum.is_none_or(|files| files > 12_000),
        "this test opens 10,000 connections: raise the limit on open files (ulimit -Hn)"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_heartbeats_are_rejected_no_instance_is_marked_offline() {
    let daemon = Daemon::start(&flags(&[
        "--lease-ttl",
        "5s",
        "--roll-call-interval",
        "2s",
        "--max-in-flight",
        "64",
    ]))
    .await;
    daemon.put(ORDERS, json!({})).await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    // More leases at once than there are permits for, again and again.
    let leases: Vec<_> = (0..1_000)
        .map(|i| json!({"service": "orders", "address": format!("host-{i}:1")}))
        .collect();
    let body = json!({ "leases": leases }).to_string();
    let flood = || async {
        let post = daemon
            .client()
            .post(format!("{}/v1/heartbeats", daemon.url()));
        let post = post
            .header("Content-Type", "application/json")
            .body(body.clone());
        post.send().await.is_ok_and(|answer| answer.status() == 503)
    };
    let (begin, mut rejected) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(9) {
        let answers = join_all((0..32).map(|_| flood())).await;
        rejected += answers
            .into_iter()
            .filter(|is_rejected| *is_rejected)
            .count();
    }
    assert!(rejected > 0);
    assert_eq!(daemon.get(ORDERS).await.1["online"], json!(true));
    let (_, overview) = daemon.get("/v1/overview").await;
    let reason = overview["protection"]["reason"]
        .as_str()
        .unwrap_or_default();
    assert!(reason.contains("heartbeats were rejected"), "{overview}");
    eventually(Duration::from_secs(15), "it is offline", || async {
        (daemon.get(ORDERS).await.1["online"] == json!(false)).then_some(())
    })
    .await;
}
