//! How the daemon reaches the Redis of `--leases`, which rights it needs, and how it checks the
//! settings of the server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::metrics::Samples;
use crate::support::certificates::Certificates;
use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;
use crate::support::process::free_port;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::sentinels::Sentinels;
use crate::support::sse::Subscriber;

const SOON: Duration = Duration::from_secs(20);
const INSTANCE: &str = "/v1/services/orders/instances/a:1";
const LEASE: &str = "heartbeat:server:orders:a:1";

async fn start(leases: &str) -> Daemon {
    Daemon::start(&["--leases", leases].map(str::to_owned)).await
}

async fn status_of_a_heartbeat(daemon: &Daemon) -> u16 {
    let path = format!("{INSTANCE}/heartbeat");
    let sent = daemon.try_send(Method::PUT, &path, None).await;
    sent.unwrap().0.as_u16()
}

/// Registers an instance and sends a heartbeat, until a subscriber receives the event.
async fn register_and_send(daemon: &Daemon) {
    let mut events = Subscriber::new(daemon, "").await;
    assert_eq!(daemon.put(INSTANCE, json!({})).await.0, 201);
    assert_eq!(status_of_a_heartbeat(daemon).await, 200);
    let online = events.expect("instance.online", SOON).await;
    assert_eq!(online.address(), "a:1");
}

/// The reason why a daemon with these leases does not start.
fn refusal(leases: &str) -> String {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(BINARY);
    command.args(["--listen", "127.0.0.1:0", "--start-timeout", "1s"]);
    let output = command
        .args(["--leases", leases])
        .current_dir(folder.path());
    let output = output.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn redis_is_reached_by_a_unix_socket() {
    let socket = |dir: &Path| dir.join("redis.sock").display().to_string();
    let redis = Redis::start_with(|dir| vec!["--unixsocket".to_owned(), socket(dir)]).await;
    let path = socket(redis.dir());
    register_and_send(&start(&format!("redis+unix://{path}?db=2")).await).await;
    let keys: String = redis.run(redis::cmd("INFO").arg("keyspace")).await;
    assert!(keys.contains("db2:") && !keys.contains("db0:"), "{keys}");
    let missing = refusal(&format!("redis+unix://{path}.not"));
    assert!(missing.contains("No such file or directory"), "{missing}");
}

#[tokio::test]
async fn a_url_for_another_kind_of_server_is_corrected() {
    let single = Redis::start().await;
    let node = Redis::start_with(|_| {
        let arguments = format!("--cluster-enabled yes --cluster-port {}", free_port());
        arguments.split(' ').map(str::to_owned).collect()
    })
    .await;
    let sentinels = Sentinels::start(&single, 0).await;
    let hosts = sentinels.url();
    let sentinel = hosts
        .split([',', '/'])
        .find(|host| host.contains(':') && !host.contains('+'));
    let cluster = single.url().replace("redis://", "redis+cluster://");
    for (url, said) in [
        (
            node.url(),
            "is a node of a Redis Cluster: use redis+cluster://HOST,HOST",
        ),
        (
            format!("redis://{}", sentinel.unwrap()),
            "is a Sentinel: use redis+sentinel://HOST,HOST/MASTER",
        ),
        (cluster, "This instance has cluster support disabled"),
        (
            format!("{hosts}-other"),
            "no sentinel reports the master \"main-other\"",
        ),
    ] {
        let reason = refusal(&url);
        assert!(reason.contains(said), "{url}: {reason}");
    }
}

#[tokio::test]
async fn redis_asks_for_a_client_certificate() {
    let port = free_port();
    let (server, client) = (
        Certificates::new("127.0.0.1"),
        Certificates::new("rollcall"),
    );
    let redis = Redis::start_with(|dir| {
        let (certificate, key) = server.write(dir);
        let authority = dir.join("clients.pem");
        fs::write(&authority, &client.authority).unwrap();
        let arguments = format!(
            "--tls-port {port} --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {}",
            certificate.display(),
            key.display(),
            authority.display()
        );
        arguments.split(' ').map(str::to_owned).collect()
    })
    .await;
    let folder = TempDir::new().unwrap();
    let authority = folder.path().join("authority.pem");
    fs::write(&authority, &server.authority).unwrap();
    let (certificate, key) = client.write(folder.path());
    let without = format!(
        "rediss://127.0.0.1:{port}?sslrootcert={}",
        authority.display()
    );
    let with = format!(
        "{without}&sslcert={}&sslkey={}",
        certificate.display(),
        key.display()
    );
    register_and_send(&start(&with).await).await;
    assert!(redis.run(redis::cmd("EXISTS").arg(LEASE)).await);
    let reason = refusal(&without);
    assert!(reason.contains("CertificateRequired"), "{reason}");
    let stranger = Certificates::new("rollcall");
    let (certificate, _) = stranger.write(folder.path());
    fs::write(folder.path().join("client.key"), &client.key).unwrap();
    let mixed = format!(
        "{without}&sslcert={}&sslkey={}/client.key",
        certificate.display(),
        folder.path().display()
    );
    let reason = refusal(&mixed);
    let said = "sslrootcert, sslcert or sslkey of the URL cannot be used";
    assert!(reason.contains(said), "{reason}");
}

#[tokio::test]
async fn the_password_file_is_read_again_for_each_new_connection() {
    let redis = Redis::start().await;
    let set_password = async |password: &str| {
        let mut set = redis::cmd("ACL");
        set.arg("SETUSER").arg("rollcall").arg("resetpass");
        set.arg(&["on", "~*", "&*", "+@all"]);
        redis.run::<()>(set.arg(format!(">{password}"))).await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "USER", "rollcall"]);
        redis.run::<i64>(&kill).await;
    };
    set_password("first of them").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first of them\n").unwrap();
    let url = format!(
        "redis://rollcall@127.0.0.1:{}?password_file={}",
        redis.port(),
        file.display()
    );
    let daemon = start(&url).await;
    register_and_send(&daemon).await;
    set_password("second").await;
    assert_eq!(status_of_a_heartbeat(&daemon).await, 503);
    let reason = "Redis refused the user or the password of the URL";
    let log = daemon.log();
    assert!(log.contains(reason) && !log.contains("first of"), "{log}");
    fs::write(&file, "second").unwrap();
    eventually(SOON, "the new password is used", || async {
        (status_of_a_heartbeat(&daemon).await == 200).then_some(())
    })
    .await;
    fs::remove_file(&file).unwrap();
    set_password("third").await;
    assert_eq!(status_of_a_heartbeat(&daemon).await, 503);
    let reason = refusal(&url);
    let named = format!("password_file {}: No such file", file.display());
    assert!(reason.contains(&named), "{reason}");
}

#[tokio::test]
async fn a_redis_that_evicts_or_cannot_save_is_warned_of() {
    let redis = Redis::start_with(|_| {
        let arguments = "--maxmemory 100mb --maxmemory-policy allkeys-lru \
                         --enable-protected-configs yes --stop-writes-on-bgsave-error no";
        arguments.split_whitespace().map(str::to_owned).collect()
    })
    .await;
    let set = async |setting: &str, value: &str| {
        let mut set = redis::cmd("CONFIG");
        redis
            .run::<()>(set.arg("SET").arg(setting).arg(value))
            .await;
    };
    // Nothing can be saved there.
    set("dir", "/proc").await;
    redis.run::<()>(&redis::cmd("BGSAVE")).await;
    eventually(SOON, "saving fails", || async {
        let info: String = redis.run(redis::cmd("INFO").arg("persistence")).await;
        info.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    let daemon = start(&redis.url()).await;
    let evicts = async |expected: bool| {
        eventually(SOON, "it says whether leases are evicted", || async {
            let (_, overview) = daemon.get("/v1/overview").await;
            let sample = Samples::of(&daemon)
                .await
                .get("rollcall_lease_store_evicts");
            let said = overview["backends"]["leases_evicted"] == json!(expected);
            (said && sample == f64::from(u8::from(expected))).then_some(())
        })
        .await;
    };
    evicts(true).await;
    let log = daemon.log();
    for warning in [
        "its maxmemory-policy is allkeys-lru; set it to noeviction",
        "cannot save (rdb_last_bgsave_status is not ok)",
    ] {
        let lines = log.lines().filter(|line| line.contains(warning));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 1, "{warning}:\n{log}");
        assert!(lines[0].contains("WARN"), "{lines:?}");
    }
    set("maxmemory-policy", "noeviction").await;
    evicts(false).await;
}

/// The ACL commands of docs/deployment.md, the second one for a cluster.
fn documented_acl() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../docs/deployment.md").lines();
    let lines = page.filter_map(|line| {
        let command = line.trim_start();
        command
            .starts_with("ACL SETUSER rollcall ")
            .then_some(command)
    });
    let acl: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    assert_eq!(acl.len(), 2);
    acl
}

/// Makes the user on these servers.
async fn restrict(servers: &[Redis], acl: &[Vec<&str>]) {
    for server in servers {
        for words in acl {
            let mut set = redis::cmd(words[0]);
            server.run::<()>(set.arg(&words[1..])).await;
        }
    }
}

/// Has a daemon do all that it ever does, as the restricted user.
async fn do_everything(leases: &str) -> Daemon {
    let arguments = [
        "--leases",
        leases,
        "--lease-ttl",
        "5s",
        "--roll-call-interval",
        "1s",
    ];
    let daemon = Daemon::start(&arguments.map(str::to_owned)).await;
    register_and_send(&daemon).await;
    assert_eq!(status_of_a_heartbeat(&daemon).await, 200);
    for status in ["held", "enabled"] {
        let change = json!({ "status": status });
        assert_eq!(daemon.patch(INSTANCE, change).await.0, 200);
    }
    let mut events = Subscriber::new(&daemon, "").await;
    let offline = events.expect("instance.offline", SOON).await;
    assert_eq!(offline.address(), "a:1");
    assert_eq!(status_of_a_heartbeat(&daemon).await, 200);
    daemon
}

/// Every command that the user may run was run, and nothing else was asked for.
async fn the_acl_is_what_was_needed(servers: &[Redis], acl: &[Vec<&str>]) {
    let commands = acl
        .iter()
        .flatten()
        .filter_map(|word| word.strip_prefix('+'));
    for command in commands {
        // The reconcile comes every 15 seconds.
        eventually(SOON, command, || async {
            for server in servers {
                let stats: String = server.run(redis::cmd("INFO").arg("commandstats")).await;
                if stats.contains(&format!("cmdstat_{command}:")) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    for server in servers {
        let denied: Vec<redis::Value> = server.run(redis::cmd("ACL").arg("LOG")).await;
        assert!(denied.is_empty(), "{denied:?}");
    }
}

#[tokio::test]
async fn the_documented_acl_is_enough_on_one_server() {
    let servers = [Redis::start().await];
    let acl = &documented_acl()[..1];
    restrict(&servers, acl).await;
    let url = format!("redis://rollcall:PASSWORD@127.0.0.1:{}", servers[0].port());
    let daemon = do_everything(&url).await;
    assert_eq!(daemon.delete(INSTANCE).await.0, 204);
    the_acl_is_what_was_needed(&servers, acl).await;
    let log = daemon.log();
    assert!(!log.contains("the ACL of Redis forbids"), "{log}");
}

#[tokio::test]
async fn a_daemon_that_must_not_ask_for_the_role_works_and_says_so() {
    let servers = [Redis::start().await];
    let without = vec!["ACL", "SETUSER", "rollcall", "-role", "-info"];
    restrict(&servers, &[documented_acl().remove(0), without]).await;
    let url = format!("redis://rollcall:PASSWORD@127.0.0.1:{}", servers[0].port());
    let daemon = do_everything(&url).await;
    let log = daemon.log();
    for said in [
        "the ACL of Redis forbids ROLE to this user",
        "the ACL of Redis forbids INFO to this user",
        "make sure that maxmemory-policy is noeviction",
    ] {
        let lines = log.lines().filter(|line| line.contains(said)).count();
        assert_eq!(lines, 1, "{said}:\n{log}");
    }
}

#[tokio::test]
async fn the_documented_acl_is_enough_on_a_cluster() {
    let cluster = RedisCluster::start().await;
    let acl = documented_acl();
    restrict(cluster.nodes(), &acl).await;
    let url = cluster.url().replace("://", "://rollcall:PASSWORD@");
    let daemon = do_everything(&url).await;
    // A lease that is already on another master than its slot.
    let (source, target) = cluster.begin_to_move(LEASE).await;
    RedisCluster::move_key(LEASE, source, target).await;
    assert_eq!(status_of_a_heartbeat(&daemon).await, 200);
    let keys: Vec<String> = source.run(redis::cmd("KEYS").arg(LEASE)).await;
    assert_eq!(keys, Vec::<String>::new(), "it was renewed where it is");
    assert_eq!(daemon.delete(INSTANCE).await.0, 204);
    the_acl_is_what_was_needed(cluster.nodes(), &acl).await;
}
