//! Expiry: an instance that stops sending heartbeats is marked offline within a second of its
//! TTL, once, and no living instance ever is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use redis::AsyncCommands;
use rollcalld::actor::RegisterInstance;
use rollcalld::clock::{Clock, SystemClock};
use rollcalld::coordination;
use rollcalld::event_log;
use rollcalld::lease::{self, LeaseUrl};
use rollcalld::liveness::Limits;
use rollcalld::model::{InstanceKey, Registration, ScopeKind, Ttl};
use rollcalld::settings::{CoreSettings, ServeSettings};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::metrics::Samples;
use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::clock::FakeClock;
use crate::support::daemon::Daemon;
use crate::support::disk::Disk;
use crate::support::memory_store::MemoryStore;
use crate::support::sse::{Event, Subscriber, offline};
use crate::support::{addresses, core_settings, eventually, start_core};

on_both_backends! {
    two_thousand_silent_instances_are_detected_within_a_second_and_published_once,
    a_heartbeat_in_flight_while_its_lease_expires_wins,
    complaint_32_instances_offline_for_long_are_removed,
    a_shortened_ttl_is_detected_by_the_new_time,
}

const TTL: Duration = Duration::from_secs(5);

/// The shortest TTL, and no protection mode.
const SHORT: [&str; 6] = [
    "--lease-ttl",
    "5s",
    "--roll-call-interval",
    "2s",
    "--protection-threshold",
    "1",
];

fn transitions(events: &[Event]) -> HashMap<String, Vec<String>> {
    let mut by_address: HashMap<String, Vec<String>> = HashMap::new();
    for event in events.iter().filter(|event| event.is_transition()) {
        let of = by_address.entry(event.address().to_owned()).or_default();
        of.push(event.name.clone());
    }
    by_address
}

/// Asserts that each instance went online and offline in turn, beginning with online.
fn alternate(events: &[Event]) {
    for (address, transitions) in transitions(events) {
        for (index, name) in transitions.iter().enumerate() {
            let expected = ["instance.online", "instance.offline"][index % 2];
            assert_eq!(name, expected, "{address}: {transitions:?}");
        }
    }
}

async fn two_thousand_silent_instances_are_detected_within_a_second_and_published_once<
    B: Backends,
>() {
    let setup = Setup::<B>::start_with(&SHORT).await;
    let daemon = &setup.daemon;
    let addresses = addresses(2000);
    daemon.register("orders", &addresses, &json!({})).await;
    // After its start a daemon marks no instance offline for one TTL.
    eventually(Duration::from_secs(20), "instances may expire", || async {
        let (_, overview) = daemon.get("/v1/overview").await;
        overview["protection"]["reason"].is_null().then_some(())
    })
    .await;
    let mut subscriber = Subscriber::new(daemon, "").await;
    let mut beats: HashMap<&str, (Instant, Instant)> = HashMap::new();
    for group in addresses.chunks(100) {
        let sent = Instant::now();
        daemon.send_heartbeats("orders", group).await;
        let answered = Instant::now();
        for address in group {
            beats.insert(address, (sent, answered));
        }
        sleep_until(sent + Duration::from_millis(100)).await;
    }
    let disk = Disk::watch();
    let mut lateness = Vec::new();
    let (mut online, deadline) = (0, Instant::now() + Duration::from_secs(30));
    while lateness.len() < 2000 {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = subscriber.next(left).await.expect("all go offline in time");
        let (sent, answered) = match event.name.as_str() {
            "instance.online" => {
                online += 1;
                continue;
            }
            "instance.offline" => beats.remove(event.address()).expect("once"),
            _ => continue,
        };
        assert!(sent.elapsed() >= TTL, "{} is early", event.address());
        lateness.push(answered.elapsed().saturating_sub(TTL));
    }
    assert_eq!(online, 2000);
    lateness.sort();
    // A transition is published after its commit, so it is as late as the disk is.
    let (p99, sync) = (lateness[1980], disk.longest_sync());
    assert!(
        p99 <= Duration::from_secs(1) + sync,
        "p99 is {p99:?} late, and a sync took at most {sync:?}"
    );
    assert_eq!(daemon.counts("orders").await, [2000, 0, 0]);
    // No transition is published twice, and a reconcile finds none.
    let reconciles = async || Samples::of(daemon).await.get("rollcall_reconciles_total");
    let before = reconciles().await;
    eventually(Duration::from_secs(40), "a reconcile", || async {
        (reconciles().await > before).then_some(())
    })
    .await;
    let later = subscriber.until_quiet(Duration::from_millis(100)).await;
    assert!(!later.iter().any(Event::is_transition), "{later:?}");
}

#[tokio::test]
async fn nothing_is_found_by_searching_the_keys() {
    let setup = Setup::<Shared>::start_with(&SHORT).await;
    let begin = Instant::now();
    let addresses = addresses(300);
    setup.register("orders", &addresses, &json!({})).await;
    setup.send_heartbeats("orders", &addresses).await;
    eventually(Duration::from_secs(20), "all are offline", || async {
        (setup.counts("orders").await == [300, 0, 0]).then_some(())
    })
    .await;
    let mut connection = setup.backends.redis.connect().await;
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(!stats.contains("cmdstat_keys"), "{stats}");
    // Only the reconcile goes through the leases: a page or two every 15 seconds.
    let scans = stats.lines().find_map(|line| {
        let calls = line.strip_prefix("cmdstat_scan:calls=")?;
        calls.split(',').next()?.parse::<u64>().ok()
    });
    let reconciles = begin.elapsed().as_secs() / 15 + 1;
    assert!(scans.unwrap_or_default() <= 3 * reconciles, "{scans:?}");
    let _: () = connection.ping().await.unwrap();
}

/// The deadline of the longer TTL still exists, and is not the one that detects it.
async fn a_shortened_ttl_is_detected_by_the_new_time<B: Backends>() {
    let setup = Setup::<B>::start_with(&SHORT).await;
    let path = "/v1/services/orders/instances/h-0:1";
    for (seconds, status) in [(3600, 201), (5, 200)] {
        let registered = setup.put(path, json!({ "ttl_seconds": seconds })).await;
        assert_eq!(registered.0, status, "{registered:?}");
        setup.send_heartbeats("orders", &["h-0:1".to_owned()]).await;
    }
    assert_eq!(setup.counts("orders").await, [1, 1, 1]);
    // Its time, and the interval of the reconcile.
    eventually(Duration::from_secs(25), "it is offline", || async {
        (setup.counts("orders").await == [1, 0, 0]).then_some(())
    })
    .await;
}

/// Each of 200 instances sends five heartbeats around the end of its lease, to the daemons in
/// turn if there are two.
async fn a_heartbeat_in_flight_while_its_lease_expires_wins<B: Backends>() {
    let setup = Setup::<B>::start_with(&SHORT).await;
    let other = setup.replica(&SHORT).await;
    let daemons = [&setup.daemon, other.as_ref().unwrap_or(&setup.daemon)];
    let addresses = addresses(200);
    setup.register("orders", &addresses, &json!({})).await;
    let mut subscriber = Subscriber::new(daemons[1], "").await;
    let (stop, mut stopped) = oneshot::channel::<()>();
    let listen = tokio::spawn(async move {
        let mut events = Vec::new();
        while stopped.try_recv().is_err() {
            events.extend(subscriber.until_quiet(Duration::from_millis(200)).await);
        }
        events
    });
    let rounds = addresses.iter().enumerate().map(|(i, address)| async move {
        for round in 0..6_usize {
            let daemon = daemons[(i + round) % 2];
            let begin = Instant::now();
            daemon
                .send_heartbeats("orders", std::slice::from_ref(address))
                .await;
            // Within 300 ms before and after the end of the lease, differently each time.
            let spread = (i * 7919 + round * 104_729) % 600;
            sleep_until(
                begin + TTL + Duration::from_millis(spread as u64) - Duration::from_millis(300),
            )
            .await;
        }
        daemons[i % 2]
            .send_heartbeats("orders", std::slice::from_ref(address))
            .await;
    });
    join_all(rounds).await;
    eventually(Duration::from_secs(4), "all are online", || async {
        (daemons[1].counts("orders").await == [200, 200, 200]).then_some(())
    })
    .await;
    eventually(Duration::from_secs(20), "all are offline", || async {
        (daemons[1].counts("orders").await == [200, 0, 0]).then_some(())
    })
    .await;
    stop.send(()).unwrap();
    let events = listen.await.unwrap();
    alternate(&events);
    let transitions = transitions(&events);
    assert_eq!(transitions.len(), 200);
    assert!(
        transitions.values().all(|of| of.len() % 2 == 0),
        "all ended offline"
    );
    assert!(
        offline(&events).len() > 300,
        "some leases expired before their beats"
    );
}

async fn complaint_32_instances_offline_for_long_are_removed<B: Backends>() {
    let mut arguments = SHORT.to_vec();
    arguments.extend(["--remove-offline-after", "3s"]);
    let setup = Setup::<B>::start_with(&arguments).await;
    let addresses = addresses(3);
    let mut subscriber = Subscriber::new(&setup, "").await;
    setup.register("orders", &addresses, &json!({})).await;
    let held = json!({"status": "held", "reason": "stays"});
    setup
        .patch("/v1/services/orders/instances/h-0:1", held)
        .await;
    let beaten = Instant::now();
    setup.send_heartbeats("orders", &addresses[1..2]).await;
    let mut forgotten = Vec::new();
    for _ in 0..2 {
        let event = subscriber
            .expect("instance.deregistered", Duration::from_secs(20))
            .await;
        forgotten.push(event.address().to_owned());
    }
    assert_eq!(forgotten, ["h-2:1", "h-1:1"]);
    assert!(beaten.elapsed() > TTL + Duration::from_secs(3));
    assert_eq!(setup.counts("orders").await, [1, 0, 0]);
}

/// Sends heartbeats to the daemons in turn, until `until`.
async fn send_heartbeats_in_turn(daemons: &[&Daemon], addresses: &[String], until: Instant) {
    for turn in 0.. {
        if Instant::now() >= until {
            return;
        }
        daemons[turn % daemons.len()]
            .send_heartbeats("orders", addresses)
            .await;
        sleep(Duration::from_millis(500)).await;
    }
}

/// Eight instances send heartbeats to two daemons in turn, and four to the first one only,
/// which `kill` then kills.
async fn heartbeats_on_two_daemons(first: Daemon, second: &Daemon, kill: impl AsyncFnOnce(Daemon)) {
    let addresses = addresses(12);
    let (shared, own) = addresses.split_at(8);
    first.register("orders", &addresses, &json!({})).await;
    let mut subscriber = Subscriber::new(second, "?service=orders").await;
    let alternately = Instant::now() + Duration::from_secs(12);
    let (both, one) = ([&first, second], [&first]);
    tokio::join!(
        send_heartbeats_in_turn(&both, shared, alternately),
        send_heartbeats_in_turn(&one, own, alternately),
    );
    let events = subscriber.until_quiet(Duration::from_millis(500)).await;
    let online = events
        .iter()
        .filter(|event| event.name == "instance.online");
    assert_eq!(
        (online.count(), transitions(&events).len()),
        (12, 12),
        "{events:?}"
    );
    alternate(&events);

    // The last heartbeats of the four were sent by now.
    let last_beat = Instant::now();
    kill(first).await;
    let found_by = last_beat + TTL + Duration::from_secs(16);
    send_heartbeats_in_turn(&[second], shared, found_by).await;
    let events = subscriber.until_quiet(Duration::from_millis(500)).await;
    let mut gone = offline(&events);
    gone.sort_unstable();
    let mut expected: Vec<&str> = own.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(gone, expected, "each once, and no other");
    assert_eq!(second.counts("orders").await, [12, 8, 8]);
}

#[tokio::test]
async fn heartbeats_on_two_daemons_renew_one_lease_and_either_detects_its_end() {
    let Setup { daemon, backends } = Setup::<Shared>::start_with(&SHORT).await;
    let second = Daemon::start(&backends.arguments_with(&SHORT)).await;
    heartbeats_on_two_daemons(daemon, &second, async |mut first: Daemon| {
        first.signal(Signal::KILL);
        first.ended().await;
    })
    .await;
}

fn settings(backends: &Shared, more: &[&str]) -> ServeSettings {
    let backends = backends.arguments_with(&SHORT);
    let arguments = ["--listen", "127.0.0.1:0", "--shutdown-delay", "0s"];
    let arguments = arguments.iter().chain(more).copied();
    ServeSettings::from_arguments(arguments.chain(backends.iter().map(String::as_str))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_ten_seconds_apart_change_nothing() {
    let backends = Shared::new().await;
    let (begin, skew) = (SystemClock.now(), TimeDelta::seconds(10));
    let slow = FakeClock::of_machine();
    slow.set(-skew);
    let first = Daemon::start_with_clock(settings(&backends, &[]), slow).await;
    let second = Daemon::start_with_clock(settings(&backends, &[]), Arc::new(SystemClock)).await;
    heartbeats_on_two_daemons(first, &second, async |first: Daemon| {
        tokio::task::spawn_blocking(move || drop(first))
            .await
            .unwrap();
    })
    .await;
    // The displayed time comes from the clock of the replica that recorded it, and decides
    // nothing: the first one recorded the others as online, the second one the four as offline.
    let (_, body) = second.get("/v1/services/orders/instances").await;
    let instances = body["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 12);
    for instance in instances {
        let at: DateTime<Utc> = instance["online_changed_at"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let earliest = if instance["online"] == json!(true) {
            begin - skew
        } else {
            begin
        };
        assert!((earliest..=SystemClock.now()).contains(&at), "{instance}");
    }
}

#[actix::test]
async fn a_jump_of_the_clock_removes_no_instance() {
    tokio::time::pause();
    let clock = FakeClock::new();
    let leases = lease::open(&LeaseUrl::Memory, clock.clone()).unwrap();
    let backends = rollcalld::daemon::Backends {
        store: MemoryStore::default().open(),
        log: event_log::open(None, clock.clone(), 20_000),
        coordinator: coordination::open(None),
        connect: Box::new(move || leases.connect()),
        clock: clock.clone(),
    };
    let limits = Limits {
        ratio: 1.0,
        min: 10,
        max: Duration::from_secs(600),
        ttl: Ttl::try_from(5).unwrap(),
    };
    let settings = CoreSettings {
        remove_offline_after: Some(Duration::from_secs(3600)),
        ..core_settings(limits)
    };
    let core = start_core(settings, backends);
    let head = core.load().await.unwrap();
    core.follow(head);
    let keys: Vec<InstanceKey> = addresses(3)
        .iter()
        .map(|address| InstanceKey {
            scope: ScopeKind::Service.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        })
        .collect();
    for key in &keys {
        let message = RegisterInstance(Registration::of(key.clone()));
        core.registry.ask(message).await.unwrap().unwrap();
    }
    let is_registered = |key: &&InstanceKey| core.directory.find(key).is_some();
    let registered = || keys.iter().filter(is_registered).count();
    // The clock is watched for a tenth of the window before it is trusted.
    sleep(Duration::from_secs(600)).await;
    let skipped_before = core.roll_calls.lock().skipped;
    for ahead in [TimeDelta::hours(2), TimeDelta::zero(), TimeDelta::hours(-2)] {
        clock.set(ahead);
        // Several intervals of the purge.
        sleep(Duration::from_secs(600)).await;
        assert_eq!(registered(), 3, "{ahead}");
    }
    let skipped = core.roll_calls.lock().skipped - skipped_before;
    assert!(
        skipped <= 6,
        "{skipped} roll calls are counted as skipped that were not"
    );
    clock.set(TimeDelta::zero());
    // Once the slow clock has left the window. They never went offline, so the time of their
    // registration counts.
    sleep(Duration::from_secs(3600 + 120)).await;
    assert_eq!(registered(), 0, "they are removed in the end");
}
