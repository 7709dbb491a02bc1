//! The end: in order, with everything answered, and at once when asked twice.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::{BINARY, Daemon, client_builder};
use crate::support::sse::Subscriber;
use crate::support::{addresses, eventually};

on_both_backends! {
    sigterm_under_load_ends_in_order_and_loses_nothing,
}

async fn sigterm_under_load_ends_in_order_and_loses_nothing<B: Backends>() {
    let mut setup = Setup::<B>::start_with(&["--shutdown-delay", "1s"]).await;
    setup.register("orders", &addresses(1), &json!({})).await;
    let mut listener = Subscriber::new(&setup, "").await;
    let url = format!("{}/v1/services/orders/instances", setup.url());
    let etag = setup.client().get(&url).send().await.unwrap().headers()["etag"].clone();
    let waiting = setup
        .client()
        .get(format!("{url}?wait=60s"))
        .header("If-None-Match", etag)
        .send();
    let waiting = tokio::spawn(async { waiting.await.unwrap().status() });

    // Continuous registrations, each noted as answered only after its answer.
    let answered = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::new(AtomicUsize::new(0));
    let load = (0..8).map(|client| {
        let (answered, refused) = (Arc::clone(&answered), Arc::clone(&refused));
        let base = setup.url().to_owned();
        let http = client_builder().build().unwrap();
        tokio::spawn(async move {
            for i in 0.. {
                let address = format!("c{client}-{i}:1");
                let url = format!("{base}/v1/services/load/instances/{address}");
                match http.put(url).json(&json!({})).send().await {
                    Ok(answer) if answer.status() == StatusCode::CREATED => {
                        answered.lock().await.push(address);
                    }
                    Ok(answer) => {
                        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    // It accepts no more.
                    Err(_) => return,
                }
            }
        })
    });
    let load: Vec<_> = load.collect();
    eventually(Duration::from_secs(10), "there is load", || async {
        (answered.lock().await.len() > 100).then_some(())
    })
    .await;

    let begin = Instant::now();
    setup.daemon.signal(Signal::TERM);
    eventually(Duration::from_secs(1), "it says that it stops", || async {
        let (status, body) = setup.daemon.get("/readyz").await;
        (status == 503 && body["status"] == json!("stopping")).then_some(())
    })
    .await;
    let ended = setup.daemon.ended().await;
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(ended.code(), Some(0), "{}", setup.daemon.log());
    assert_eq!(waiting.await.unwrap(), StatusCode::NOT_MODIFIED);
    while listener.next(Duration::from_secs(1)).await.is_some() {}
    assert!(listener.ended, "the stream ended in order");
    let [_, at_the_end] = listener.retries[..] else {
        panic!("{:?}", listener.retries);
    };
    assert!((1000..4000).contains(&at_the_end), "spread over a while");
    for client in load {
        client.await.unwrap();
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0, "none was shed");

    let Setup { daemon, backends } = setup;
    let daemon = daemon.restart().await;
    let (_, body) = daemon.get("/v1/services/load/instances").await;
    let listed = body["instances"].as_array().unwrap();
    let listed: std::collections::HashSet<&str> = listed
        .iter()
        .map(|instance| instance["address"].as_str().unwrap())
        .collect();
    let answered = answered.lock().await;
    let lost = answered
        .iter()
        .filter(|address| !listed.contains(address.as_str()));
    assert_eq!(lost.count(), 0, "of {}", answered.len());
    drop(backends);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut daemon = Daemon::start(&["--shutdown-delay".into(), "10s".into()]).await;
    daemon.signal(Signal::TERM);
    eventually(Duration::from_secs(5), "it is stopping", || async {
        let (_, body) = daemon.get("/readyz").await;
        (body["status"] == json!("stopping")).then_some(())
    })
    .await;
    // Requests are still served, on connections that end with them.
    let url = format!("{}/v1/services", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["connection"], "close");
    let begin = Instant::now();
    // A signal that comes within the same moment counts as the first.
    let again = async {
        loop {
            daemon.signal(Signal::TERM);
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = again => {}
        () = async {
            while !daemon.log().contains("exiting at once") {
                sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_store_that_hangs_does_not_keep_it_beyond_its_time() {
    let mut setup =
        Setup::<Shared>::start_with(&["--shutdown-delay", "0s", "--shutdown-timeout", "3s"]).await;
    setup.backends.redis.freeze();
    setup.register("orders", &addresses(1), &json!({})).await;
    let begin = Instant::now();
    setup.daemon.signal(Signal::TERM);
    assert_eq!(setup.daemon.ended().await.code(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(6),
        "{:?}",
        begin.elapsed()
    );
    setup.backends.redis.thaw();
}

#[tokio::test]
async fn systemd_is_notified_of_readiness_and_of_the_stop() {
    let dir = Arc::new(TempDir::new().unwrap());
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let socket = Arc::new(socket);
    let receive = async || {
        let socket = Arc::clone(&socket);
        let received = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 200];
            let count = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        });
        received.await.unwrap().trim().to_owned()
    };
    let variable = ("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut daemon = Daemon::launch_with(&[], Arc::clone(&dir), &[variable]);
    assert_eq!(receive().await, "READY=1");
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.signal(Signal::INT);
    assert_eq!(receive().await, "STOPPING=1");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_healthcheck_ends_as_the_daemon_is() {
    let mut daemon = Daemon::start(&["--shutdown-delay".into(), "10s".into()]).await;
    let check = |listen: &str| {
        let output = Command::new(BINARY)
            .args(["healthcheck", "--listen", listen])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let address = daemon.address().to_owned();
    let port = address.rsplit(':').next().unwrap();
    assert_eq!(check(&address), (Some(0), "ready\n".to_owned()));
    assert_eq!(check(&format!("0.0.0.0:{port}")).0, Some(0));
    daemon.signal(Signal::TERM);
    eventually(Duration::from_secs(5), "it says that it stops", || async {
        let (code, text) = check(&address);
        (code == Some(1) && text.contains("503") && text.contains("stopping")).then_some(())
    })
    .await;
    daemon.signal(Signal::KILL);
    daemon.ended().await;
    let (code, text) = check(&address);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(&format!("http://{address}/readyz: ")),
        "{text}"
    );
}

/// A load balancer in front of the replicas: it knows which ones are ready.
struct Balancer {
    replicas: Mutex<Vec<String>>,
    http: reqwest::Client,
}

impl Balancer {
    async fn choose(&self, i: usize) -> String {
        let replicas = self.replicas.lock().await;
        replicas[i % replicas.len()].clone()
    }

    /// Takes replicas out that are not ready, and in again.
    async fn watch(&self, all: &Mutex<Vec<String>>) {
        let mut ready = Vec::new();
        for url in all.lock().await.iter() {
            let answer = self.http.get(format!("{url}/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                ready.push(url.clone());
            }
        }
        *self.replicas.lock().await = ready;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_replicas_one_by_one_disturbs_no_client() {
    let flags = ["--lease-ttl", "10s", "--roll-call-interval", "5s"];
    let setup = Setup::<Shared>::start_with(&flags).await;
    let second = setup.replica(&flags).await.unwrap();
    let instances = addresses(500);
    setup.register("orders", &instances, &json!({})).await;
    setup.send_heartbeats("orders", &instances).await;
    let all = Arc::new(Mutex::new(vec![
        setup.url().to_owned(),
        second.url().to_owned(),
    ]));
    let balancer = Arc::new(Balancer {
        replicas: Mutex::new(all.lock().await.clone()),
        http: client_builder()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap(),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let watch = {
        let (balancer, all, stop) = (Arc::clone(&balancer), Arc::clone(&all), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                balancer.watch(&all).await;
                sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let failed = Arc::new(Mutex::new(Vec::<String>::new()));
    let beats = Arc::new(AtomicUsize::new(0));
    let load = instances.iter().cloned().enumerate().map(|(i, address)| {
        let (balancer, stop) = (Arc::clone(&balancer), Arc::clone(&stop));
        let (failed, beats) = (Arc::clone(&failed), Arc::clone(&beats));
        tokio::spawn(async move {
            // Each at its own moment of the second.
            sleep(Duration::from_millis(2 * i as u64)).await;
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let base = balancer.choose(i + round).await;
                let url = format!("{base}/v1/services/orders/instances/{address}/heartbeat");
                let outcome = match balancer.http.put(url).send().await {
                    Ok(answer) if [200, 503].contains(&answer.status().as_u16()) => Ok(()),
                    Ok(answer) => Err(answer.status().to_string()),
                    Err(error) => Err(format!("{error:?}")),
                };
                if let Err(error) = outcome {
                    failed.lock().await.push(error);
                }
                beats.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
            }
        })
    });
    let load: Vec<_> = load.collect();

    let Setup { daemon, backends } = setup;
    let mut listener = Subscriber::new(&second, "").await;
    let mut offline = Vec::<Value>::new();
    let mut hear = async |listener: &mut Subscriber| {
        while let Some(event) = listener.next(Duration::from_millis(200)).await {
            if event.name == "instance.offline" {
                offline.push(event.data);
            }
        }
    };
    let mut daemons = vec![daemon, second];
    for index in 0..2 {
        let mut old = daemons.remove(0);
        old.signal(Signal::TERM);
        assert_eq!(old.ended().await.code(), Some(0));
        hear(&mut listener).await;
        let new = Daemon::start(&backends.arguments_with(&flags)).await;
        if index == 0 {
            // The listener goes on where it will not be cut off.
            let last = listener.last_id.clone().unwrap();
            listener = Subscriber::resume(&new, &last).await;
        }
        all.lock().await[index] = new.url().to_owned();
        daemons.push(new);
        // Longer than a TTL: a lost instance would be seen.
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            hear(&mut listener).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    watch.await.unwrap();
    hear(&mut listener).await;
    assert_eq!(offline, Vec::<Value>::new());
    assert_eq!(*failed.lock().await, Vec::<String>::new());
    assert!(beats.load(Ordering::Relaxed) > 10_000, "{beats:?}");
    assert_eq!(daemons[0].counts("orders").await, [500, 500, 500]);
}
