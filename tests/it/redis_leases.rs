//! Leases on Redis beyond the conformance suite: complete at every moment, whatever was there
//! before, and after kills.

use std::collections::HashMap;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use reqwest::Method;
use rollcalld::clock::SystemClock;
use rollcalld::lease::{self, LeaseStore, LeaseUrl, Renewal};
use rollcalld::model::{InstanceKey, ScopeKind, Ttl, Weight};
use serde_json::json;
use tokio::time::Instant;

use crate::metrics::Samples;
use crate::support::backends::{Backends, Setup, Shared};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;

const KEY: &str = "heartbeat:server:orders:a:1";

fn leases(url: &str) -> Arc<dyn LeaseStore> {
    let url: LeaseUrl = url.parse().unwrap();
    lease::open(&url, Arc::new(SystemClock)).unwrap().connect()
}

fn renewal(address: &str) -> Renewal {
    Renewal {
        key: InstanceKey {
            scope: ScopeKind::Service.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        },
        weight: Weight::default(),
        ttl: Ttl::try_from(30).unwrap(),
        is_hidden: false,
    }
}

/// Asserts that every lease there is has a time to live and all four fields.
async fn every_lease_is_whole(redis: &mut MultiplexedConnection) -> usize {
    let keys: Vec<String> = redis.keys("heartbeat:*").await.unwrap();
    for key in &keys {
        let fields: HashMap<String, String> = redis.hgetall(key).await.unwrap();
        let left: i64 = redis.pttl(key).await.unwrap();
        // 0: its last millisecond. -2: it has expired since it was listed.
        assert!(
            left >= 0 || left == -2,
            "{key} has a time to live of {left}"
        );
        assert!(fields.len() == 4 || left == -2, "{key} has only {fields:?}");
    }
    keys.len()
}

#[tokio::test]
async fn what_the_originals_three_calls_could_leave_behind_is_made_whole() {
    let redis = Redis::start().await;
    let (leases, mut connection) = (leases(&redis.url()), redis.connect().await);
    // A hash that never expires, as when the caller died before the expiry; one of
    // lastTime alone, as when it expired between the look and the touch; startTime as
    // Java writes it; and a key of another type.
    for (broken, command) in [
        (
            "no expiry",
            "HSET lastTime x startTime 2026-01-01T00:00:00.000Z url a:1 weight 1",
        ),
        ("lastTime alone", "HSET lastTime x"),
        (
            "a Java time",
            "HSET lastTime x startTime \"2026-01-01T00:00\" url a:1 weight 1",
        ),
        (
            "no time at all",
            "HSET lastTime x startTime 2026-01-01_00:00:00.0000 url a:1 weight 1",
        ),
        ("not a hash", "SET x"),
    ] {
        let mut words = command.split(' ');
        let mut write = redis::cmd(words.next().unwrap());
        write.arg(KEY);
        words.for_each(|word| {
            write.arg(word);
        });
        let _: () = connection.del(KEY).await.unwrap();
        let _: () = write.query_async(&mut connection).await.unwrap();
        let key = [renewal("a:1").key];
        assert_eq!(
            leases.inspect(&key).await.unwrap().leases,
            [None],
            "{broken}: it proves nothing"
        );
        // Others in the same batch do not suffer.
        let renewed = leases
            .renew(&[renewal("a:1"), renewal("b:1")])
            .await
            .unwrap();
        assert_eq!(renewed.len(), 2, "{broken}");
        assert_eq!(every_lease_is_whole(&mut connection).await, 2, "{broken}");
        assert!(
            leases.inspect(&key).await.unwrap().leases[0].is_some(),
            "{broken}"
        );
    }
}

#[tokio::test]
async fn a_renewal_is_one_script_for_the_whole_batch() {
    let redis = Redis::start().await;
    let (leases, mut connection) = (leases(&redis.url()), redis.connect().await);
    leases.renew(&[renewal("a:1")]).await.unwrap();
    let _: () = redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .query_async(&mut connection)
        .await
        .unwrap();
    let batch: Vec<Renewal> = (0..500).map(|i| renewal(&format!("h-{i}:1"))).collect();
    leases.renew(&batch).await.unwrap();
    leases.renew(&batch).await.unwrap();
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let calls = |command: &str| -> u64 {
        let line = stats
            .lines()
            .find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.map_or(0, |line| {
            let calls = line.split_once("calls=").unwrap().1;
            calls.split(',').next().unwrap().parse().unwrap()
        })
    };
    assert_eq!(
        calls("evalsha"),
        2,
        "one round trip for each batch:\n{stats}"
    );
    assert_eq!((calls("hset"), calls("expire")), (1000, 1000), "{stats}");
}

/// Redis keeps a key through the whole millisecond in which its time to live is 0.
#[tokio::test]
async fn no_renewal_goes_on_with_a_life_that_was_seen_to_be_over() {
    let redis = Redis::start().await;
    let (leases, mut connection) = (leases(&redis.url()), redis.connect().await);
    let batch = [renewal("a:1")];
    let key = [renewal("a:1").key];
    for _ in 0..50 {
        let life = leases.renew(&batch).await.unwrap()[0].epoch;
        let _: () = connection.pexpire(KEY, 10).await.unwrap();
        while leases.inspect(&key).await.unwrap().leases[0].is_some() {}
        let next = leases.renew(&batch).await.unwrap()[0];
        assert!(next.created && next.epoch > life, "{next:?} after {life:?}");
        leases.revoke(&key).await.unwrap();
    }
}

#[tokio::test]
async fn a_redis_that_lost_its_leases_is_another_one() {
    let mut redis = Redis::start().await;
    let leases = leases(&redis.url());
    let incarnation = async || {
        eventually(Duration::from_secs(10), "redis answers", || async {
            leases.probe().await.ok()
        })
        .await
    };
    let first = incarnation().await;
    let mut connection = redis.connect().await;
    let _: () = redis::cmd("FLUSHALL")
        .query_async(&mut connection)
        .await
        .unwrap();
    let flushed = incarnation().await;
    assert_ne!(flushed, first);
    assert_eq!(incarnation().await, flushed);
    redis.kill();
    redis.restart().await;
    assert_ne!(incarnation().await, flushed);
}

#[tokio::test]
async fn start_times_are_those_of_the_calendar() {
    let redis = Redis::start().await;
    // The clock of Redis cannot be set, so that part of the script is run with another one.
    let (_, script) = include_str!("../../src/lease/renew.lua")
        .split_once("local clock = call('TIME')\n")
        .unwrap();
    let (calendar, _) = script.split_once("local answer").unwrap();
    let script = format!("local clock = ARGV\n{calendar}\nreturn {{ time, created }}");
    for (millis, text) in [
        (0_i64, "1970-01-01T00:00:00.000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (4_107_456_000_000, "2100-02-28T00:00:00.000Z"),
        (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        (13_574_563_200_000, "2400-02-29T00:00:00.000Z"),
        (4_133_980_799_001, "2100-12-31T23:59:59.001Z"),
    ] {
        let mut call = redis::cmd("EVAL");
        let micros = millis % 1000 * 1000 + 999;
        call.arg(&script).arg(0).arg(millis / 1000).arg(micros);
        let created = text.replace('Z', "+");
        assert_eq!(
            redis.run::<[String; 2]>(&call).await,
            [text.to_owned(), created]
        );
    }
}

#[tokio::test]
async fn killing_the_daemon_at_any_moment_leaves_no_broken_lease() {
    let mut setup = Setup::<Shared>::start().await;
    let mut connection = setup.backends.redis.connect().await;
    let arguments = [
        "--store".to_owned(),
        setup.backends.store.clone(),
        "--leases".to_owned(),
        setup.backends.redis.url(),
    ];
    let mut beaten = 0;
    for round in 0..8_u64 {
        let begin = Instant::now();
        let beats = async {
            let daemon = &setup.daemon;
            let heartbeat = async |i: usize| {
                let body = json!({"server": format!("s{round}"), "addr": format!("h-{i}:1")});
                daemon
                    .try_send(
                        Method::PUT,
                        "/gateway-server-detail/keep-alive",
                        Some(&body),
                    )
                    .await
            };
            for batch in 0.. {
                let beats = (0..32).map(|i| heartbeat((batch * 32 + i) % 400));
                let answers = futures_util::future::join_all(beats).await;
                if answers.iter().any(Result::is_err) {
                    break;
                }
                // Each round kills at another moment of the stream.
                if begin.elapsed() > Duration::from_millis(40 + 37 * round) {
                    setup.signal(rustix::process::Signal::KILL);
                }
            }
        };
        beats.await;
        setup.daemon.ended().await;
        beaten += every_lease_is_whole(&mut connection).await;
        setup.daemon = Daemon::start(&arguments).await;
    }
    assert!(beaten > 100, "{beaten} leases were looked at");
}

/// Waits until readiness reports the backend; a recent result may be reused.
async fn says_unavailable(daemon: &Daemon, backend: &str) {
    eventually(Duration::from_secs(5), "it is not ready", || async {
        let (status, body) = daemon.get("/readyz?backends=required").await;
        let said = body["checks"][backend] == json!("unavailable");
        said.then(|| assert_eq!(status, 503))
    })
    .await;
}

#[tokio::test]
async fn without_redis_heartbeats_are_503_and_registrations_go_on() {
    let mut setup = Setup::<Shared>::start().await;
    let instance = "/v1/services/orders/instances/a:1";
    setup.put(instance, json!({})).await;
    let path = format!("{instance}/heartbeat");
    let heartbeat =
        async |daemon: &Daemon| daemon.try_send(Method::PUT, &path, None).await.unwrap();
    assert_eq!(heartbeat(&setup).await.0, 200);

    setup.backends.redis.kill();
    let (status, body) = heartbeat(&setup).await;
    assert_eq!(
        (status.as_u16(), &body["code"]),
        (503, &json!("leases_unavailable"))
    );
    assert_eq!(
        setup
            .put("/v1/services/orders/instances/b:1", json!({}))
            .await
            .0,
        201
    );
    says_unavailable(&setup, "leases").await;
    assert_eq!(setup.get("/livez").await.0, 200);
    let server = json!({"server": "orders", "addr": "a:1"});
    let (status, body) = setup.put("/gateway-server-detail/keep-alive", server).await;
    assert_eq!((status.as_u16(), &body["code"]), (200, &json!(0)));

    setup.backends.redis.restart().await;
    eventually(
        Duration::from_secs(10),
        "the registry accepts heartbeats again",
        || async { (heartbeat(&setup).await.0 == 200).then_some(()) },
    )
    .await;

    setup.backends.redis.freeze();
    let begin = Instant::now();
    assert_eq!(heartbeat(&setup).await.0, 503);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "it does not wait for a frozen Redis"
    );
    setup.backends.redis.thaw();
    eventually(
        Duration::from_secs(10),
        "the registry accepts heartbeats again",
        || async { (heartbeat(&setup).await.0 == 200).then_some(()) },
    )
    .await;
}

#[tokio::test]
async fn without_postgres_registrations_are_503_and_heartbeats_go_on() {
    let mut postgres = crate::support::postgres::Postgres::start().await;
    let redis = Redis::start().await;
    let arguments = [
        "--store".into(),
        postgres.url("postgres"),
        "--leases".into(),
        redis.url(),
    ];
    let daemon = Daemon::start(&arguments).await;
    let instance = "/v1/services/orders/instances/a:1";
    daemon.put(instance, json!({})).await;
    let path = format!("{instance}/heartbeat");
    let heartbeat = async || daemon.try_send(Method::PUT, &path, None).await.unwrap().0;
    assert_eq!(heartbeat().await, 200);

    postgres.kill().await;
    let (status, body) = daemon.put(instance, json!({"weight": 2})).await;
    assert_eq!(
        (status.as_u16(), &body["code"]),
        (503, &json!("store_unavailable"))
    );
    assert_eq!(heartbeat().await, 200);
    says_unavailable(&daemon, "store").await;

    postgres.restart().await;
    eventually(
        Duration::from_secs(10),
        "registrations are taken again",
        || async {
            let (status, body) = daemon.put(instance, json!({"weight": 2})).await;
            (status == 200).then(|| assert_eq!(body["weight"], json!(2)))
        },
    )
    .await;
    assert_eq!(heartbeat().await, 200);
}

#[tokio::test]
async fn an_instance_deregistered_on_one_replica_is_unknown_to_the_other_at_its_next_heartbeat() {
    let setup = Setup::<Shared>::start().await;
    let arguments = [
        "--store".to_owned(),
        setup.backends.store.clone(),
        "--leases".to_owned(),
        setup.backends.redis.url(),
    ];
    let other = Daemon::start(&arguments).await;
    let instance = "/v1/services/orders/instances/a:1";
    let path = format!("{instance}/heartbeat");
    assert_eq!(setup.put(instance, json!({})).await.0, 201);
    // Registered there a moment ago, it is known here.
    assert_eq!(
        other.try_send(Method::PUT, &path, None).await.unwrap().0,
        200
    );
    assert_eq!(other.get(instance).await.1["available"], json!(true));
    assert_eq!(setup.delete(instance).await.0, 204);
    let (status, body) = other.try_send(Method::PUT, &path, None).await.unwrap();
    assert_eq!(
        (status.as_u16(), &body["code"]),
        (404, &json!("instance_not_found"))
    );
    let mut connection = setup.backends.redis.connect().await;
    let left: Vec<String> = connection.keys("heartbeat:*").await.unwrap();
    assert_eq!(left, Vec::<String>::new(), "no lease was left behind");
}

#[tokio::test]
async fn a_locked_row_costs_only_its_own_registration_and_no_heartbeat() {
    let setup = Setup::<Shared>::start().await;
    let path = |i: u32| format!("/v1/services/orders/instances/h-{i}:1");
    for i in 0..20 {
        assert_eq!(setup.put(&path(i), json!({})).await.0, 201);
    }
    let client = crate::support::postgres::connect(&setup.backends.store)
        .await
        .unwrap();
    client
        .batch_execute("BEGIN; SELECT FROM instance WHERE address = 'h-7:1' FOR UPDATE")
        .await
        .unwrap();
    let registrations = (0..20).map(|i| async move { (i, path(i)) });
    let registrations = registrations.map(|path| async {
        let (i, path) = path.await;
        (i, setup.put(&path, json!({"weight": 2})).await)
    });
    let beats = (0..20).map(|i| {
        let path = format!("{}/heartbeat", path(i));
        let daemon = &setup.daemon;
        async move { daemon.try_send(Method::PUT, &path, None).await.unwrap().0 }
    });
    let (registered, beaten) = tokio::join!(
        futures_util::future::join_all(registrations),
        futures_util::future::join_all(beats),
    );
    for (i, (status, body)) in registered {
        let expected = if i == 7 { 503 } else { 200 };
        assert_eq!(status, expected, "{i}: {body}");
    }
    assert!(beaten.iter().all(|status| *status == 200), "{beaten:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        setup.put(&path(7), json!({"weight": 2})).await.1["weight"],
        json!(2)
    );
}

#[tokio::test]
async fn a_scope_that_is_deleted_while_it_gets_instances_is_either_there_or_not() {
    let setup = Setup::<Shared>::start().await;
    let other = Daemon::start(&setup.backends.arguments()).await;
    let scope = "/v1/services/orders";
    for round in 0..60 {
        let instance = format!("{scope}/instances/a:1");
        let (deleted, registered) =
            tokio::join!(other.delete(scope), setup.put(&instance, json!({})));
        assert_eq!(registered.0, 201, "round {round}: {}", registered.1);
        assert!(
            [204, 404, 409].contains(&deleted.0.as_u16()),
            "round {round}: {}",
            deleted.1
        );
        assert_eq!(setup.delete(&instance).await.0, 204);
    }
}

#[tokio::test]
async fn complaint_8_an_outage_of_redis_leaves_a_replica_ready_and_degraded() {
    let mut setup = Setup::<Shared>::start().await;
    let instance = "/v1/services/orders/instances/a:1";
    setup.put(instance, json!({})).await;
    setup.put(&format!("{instance}/heartbeat"), json!({})).await;
    setup.backends.redis.kill();
    eventually(Duration::from_secs(10), "it is degraded", || async {
        let (status, body) = setup.get("/readyz").await;
        assert_eq!(status, 200, "{body}");
        let is_degraded = body["status"] == json!("degraded");
        is_degraded.then(|| assert_eq!(body["checks"]["leases"], json!("unavailable")))
    })
    .await;
    assert_eq!(setup.get("/readyz?backends=required").await.0, 503);
    let (status, list) = setup
        .get("/v1/services/orders/instances?available=true")
        .await;
    assert_eq!((status.as_u16(), &list["stale"]), (200, &json!(true)));
    assert_eq!(list["instances"].as_array().unwrap().len(), 1);
    let degraded = Samples::of(&setup).await.get("rollcall_degraded");
    assert_eq!(degraded, 1.0);
}

#[tokio::test]
async fn complaint_39_a_heartbeat_right_after_a_registration_finds_its_instance() {
    let setup = Setup::<Shared>::start().await;
    let second = Daemon::start(&setup.backends.arguments()).await;
    for i in 0..200 {
        let instance = format!("/v1/services/orders/instances/h-{i}:1");
        assert_eq!(setup.put(&instance, json!({})).await.0, 201);
        // On the other replica.
        let (status, body) = second
            .put(&format!("{instance}/heartbeat"), json!({}))
            .await;
        assert_eq!(status, 200, "{i}: {body}");
    }
}

#[tokio::test]
async fn a_hidden_lease_stays_the_same_one_while_its_slot_is_moved() {
    const HIDDEN: &str = "rollcall:hidden:{heartbeat:server:orders:a:1}";
    let cluster = RedisCluster::start().await;
    let leases = leases(&cluster.url());
    let hidden = Renewal {
        is_hidden: true,
        ..renewal("a:1")
    };
    let keys = [hidden.key.clone()];
    let begun = leases.renew(from_ref(&hidden)).await.unwrap()[0].epoch;
    let is_the_same = async |when: &str| {
        let look = leases.inspect(&keys).await.unwrap();
        assert_eq!(
            look.leases[0].map(|lease| lease.epoch),
            Some(begun),
            "{when}"
        );
        let renewed = leases.renew(from_ref(&hidden)).await.unwrap()[0];
        assert_eq!((renewed.created, renewed.epoch), (false, begun), "{when}");
    };
    is_the_same("before").await;
    let (source, target) = cluster.begin_to_move(HIDDEN).await;
    is_the_same("it is still at the old master").await;
    RedisCluster::move_key(HIDDEN, source, target).await;
    is_the_same("it is at the new master").await;
    let visible = leases.renew(&[renewal("a:1")]).await.unwrap()[0];
    assert_eq!((visible.created, visible.epoch), (false, begun));
    let gone: Vec<String> = target
        .run(redis::cmd("KEYS").arg("rollcall:hidden:*"))
        .await;
    assert_eq!(gone, Vec::<String>::new(), "it is visible");
}
