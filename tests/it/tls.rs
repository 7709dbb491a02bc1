//! TLS: to PostgreSQL by `sslmode`, to Redis by `rediss://`, and of the daemon itself, with
//! certificates of a throw-away authority.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::certificates::Certificates;
use crate::support::daemon::{BINARY, Daemon, client_builder};
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

async fn serve(certificates: &Certificates) -> Postgres {
    Postgres::start_with(|dir| {
        let (cert, key) = certificates.write(dir);
        let setting = |name: &str, path: &Path| format!("{name}={}", path.display());
        [
            "-c".into(),
            "ssl=on".into(),
            "-c".into(),
            setting("ssl_cert_file", &cert),
            "-c".into(),
            setting("ssl_key_file", &key),
        ]
        .into()
    })
    .await
}

/// Migrates over `url`, which shows whether the daemon can connect.
fn migrate(url: &str) -> Result<(), String> {
    let output = Command::new(BINARY)
        .args(["migrate", "--store", url])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test]
async fn sslmode_says_how_the_server_is_identified() {
    let certificates = Certificates::new("127.0.0.1");
    let postgres = serve(&certificates).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let own = write("own.pem", &certificates.authority);
    let other = write("other.pem", &Certificates::new("127.0.0.1").authority);
    let empty = write("empty.pem", "");
    let url = postgres.url("postgres");
    let with = |parameters: &str| migrate(&format!("{url}?{parameters}"));

    for fine in [
        "sslmode=disable".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=require&sslrootcert={own}"),
        format!("sslmode=verify-full&sslrootcert={own}"),
        format!("sslrootcert={own}"),
        "sslmode=require&options=-c%20work_mem%3D8MB".to_owned(),
    ] {
        assert_eq!(with(&fine), Ok(()), "{fine}");
    }
    for (bad, says) in [
        (
            format!("sslmode=verify-full&sslrootcert={other}"),
            "invalid peer certificate".to_owned(),
        ),
        (
            format!("sslmode=require&sslrootcert={other}"),
            "invalid peer certificate".to_owned(),
        ),
        ("sslmode=verify-full".to_owned(), String::new()),
        (
            format!("sslmode=verify-full&sslrootcert={empty}"),
            format!("sslrootcert {empty}: contains no PEM certificate"),
        ),
        (
            "sslmode=verify-full&sslrootcert=/no/such/file".to_owned(),
            "sslrootcert /no/such/file: ".to_owned(),
        ),
    ] {
        let error = with(&bad).unwrap_err();
        assert!(
            error.contains(&says) && !error.contains("panicked"),
            "{bad} says {error}"
        );
    }
    // The same server by a name that is not in its certificate.
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(migrate(&format!("{by_name}?sslmode=require")), Ok(()));
    let error = migrate(&format!("{by_name}?sslmode=verify-full&sslrootcert={own}")).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn postgres_asks_for_a_client_certificate_or_a_password_from_a_file() {
    let (server, client) = (
        Certificates::new("127.0.0.1"),
        Certificates::new("rollcall"),
    );
    let postgres = Postgres::start_with(|dir| {
        let (cert, key) = server.write(dir);
        let (authority, hba) = (dir.join("clients.pem"), dir.join("hba.conf"));
        fs::write(&authority, &client.authority).unwrap();
        let rules = "host all postgres 127.0.0.1/32 trust\n\
                     hostssl all certified 127.0.0.1/32 trust clientcert=verify-ca\n\
                     host all secret 127.0.0.1/32 scram-sha-256\n";
        fs::write(&hba, rules).unwrap();
        let settings = format!(
            "-c ssl=on -c ssl_cert_file={} -c ssl_key_file={} -c ssl_ca_file={} -c hba_file={}",
            cert.display(),
            key.display(),
            authority.display(),
            hba.display()
        );
        settings.split(' ').map(str::to_owned).collect()
    })
    .await;
    let roles = "CREATE ROLE certified LOGIN; CREATE ROLE secret LOGIN PASSWORD 'first';
        GRANT certified TO secret; GRANT CREATE, USAGE ON SCHEMA public TO certified";
    postgres.run("postgres", roles).await;
    let url = |user: &str| {
        postgres
            .url("postgres")
            .replace("postgres@", &format!("{user}@"))
    };
    let folder = TempDir::new().unwrap();
    let (certificate, key) = client.write(folder.path());

    let without = format!("{}?sslmode=require", url("certified"));
    let error = migrate(&without).unwrap_err();
    assert!(
        error.contains("requires a valid client certificate"),
        "{error}"
    );
    let with = format!(
        "{without}&sslcert={}&sslkey={}",
        certificate.display(),
        key.display()
    );
    assert_eq!(migrate(&with), Ok(()));
    let missing = with.replace("server.key", "none.key");
    let error = migrate(&missing).unwrap_err();
    assert!(error.contains("none.key: "), "{error}");

    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let redis = Redis::start().await;
    let store = format!("{}?password_file={}", url("secret"), file.display());
    let arguments = ["--store", &store, "--leases", &redis.url()].map(str::to_owned);
    let daemon = Daemon::start(&arguments).await;
    let register = async |address: &str| {
        let path = format!("/v1/services/orders/instances/{address}");
        daemon.put(&path, json!({})).await.0.as_u16()
    };
    assert_eq!(register("a:1").await, 201);
    let rotated = "ALTER ROLE secret PASSWORD 'second';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'secret'";
    postgres.run("postgres", rotated).await;
    assert_eq!(register("b:1").await, 503);
    fs::write(&file, "second").unwrap();
    eventually(
        Duration::from_secs(10),
        "the new password is used",
        || async { (register("b:1").await == 201).then_some(()) },
    )
    .await;
    assert!(!daemon.log().contains("first") && !daemon.log().contains("second"));
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_tls_is_required() {
    let postgres = Postgres::start().await;
    let url = postgres.url("postgres");
    assert_eq!(migrate(&format!("{url}?sslmode=prefer")), Ok(()));
    let error = migrate(&format!("{url}?sslmode=require")).unwrap_err();
    assert!(error.contains("server does not support TLS"), "{error}");
}

#[tokio::test]
async fn redis_is_reached_by_tls_and_identified() {
    let certificates = Certificates::new("127.0.0.1");
    let port = crate::support::process::free_port();
    let redis = Redis::start_with(|dir| {
        let (cert, key) = certificates.write(dir);
        let port = port.to_string();
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let flags = [
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
        ];
        let flags = flags.iter().chain(&["--tls-auth-clients", "no"]);
        flags.map(|flag| (*flag).to_owned()).collect()
    })
    .await;
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let own = write("own.pem", &certificates.authority);
    let other = write("other.pem", &Certificates::new("127.0.0.1").authority);
    let url = format!("rediss://127.0.0.1:{port}");
    let leases = |url: String| ["--leases".to_owned(), url];
    let daemon = Daemon::start(&leases(format!("{url}?sslrootcert={own}"))).await;
    let orders = "/v1/services/orders/instances/10.0.0.5:8080";
    daemon.put(orders, json!({})).await;
    let (_, heartbeat) = daemon.put(&format!("{orders}/heartbeat"), json!({})).await;
    assert_eq!(heartbeat["created"], json!(true));
    let mut connection = redis.connect().await;
    let key = "heartbeat:server:orders:10.0.0.5:8080";
    let exists: bool = redis::cmd("EXISTS")
        .arg(key)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(exists);

    for (bad, code, says) in [
        (
            format!("{url}?sslrootcert={other}"),
            1,
            "invalid peer certificate",
        ),
        (url.clone(), 1, "invalid peer certificate"),
        (
            format!("{url}?sslrootcert=/no/such/file"),
            1,
            "sslrootcert /no/such/file: ",
        ),
        (
            format!("{url}?sslrootcrt={own}"),
            2,
            "unknown parameter sslrootcrt",
        ),
        (
            redis.url() + "?sslrootcert=x",
            2,
            "sslrootcert requires rediss://",
        ),
    ] {
        let output = Command::new(BINARY)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--start-timeout",
                "1s",
                "--leases",
                &bad,
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{bad} says {text}");
        assert!(
            text.contains(says) && !text.contains("panicked"),
            "{bad} says {text}"
        );
    }
}

/// A daemon that serves HTTPS, with the files it was given.
struct Served {
    daemon: Daemon,
    folder: Arc<TempDir>,
}

impl Served {
    fn launch(certificates: &Certificates, client_ca: Option<&str>) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let (certificate, key) = certificates.write(folder.path());
        let mut arguments = ["--tls-cert", "--tls-key"]
            .iter()
            .zip([certificate, key])
            .flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])
            .collect::<Vec<_>>();
        if let Some(authority) = client_ca {
            let path = folder.path().join("clients.pem");
            fs::write(&path, authority).unwrap();
            arguments.extend(["--tls-client-ca".to_owned(), path.display().to_string()]);
        }
        Self {
            daemon: Daemon::launch(&arguments, Arc::clone(&folder)),
            folder,
        }
    }

    async fn status(&self, client: &Client, path: &str) -> Option<u16> {
        let url = format!("{}{path}", self.daemon.url());
        Some(client.get(url).send().await.ok()?.status().as_u16())
    }

    async fn ready(&self, client: &Client) {
        eventually(Duration::from_secs(20), "it is ready", || async {
            (self.status(client, "/readyz").await == Some(200)).then_some(())
        })
        .await;
    }

    fn healthcheck(&self) -> bool {
        let address = self.daemon.url().strip_prefix("https://").unwrap();
        let certificate = self.folder.path().join("server.crt");
        Command::new(BINARY)
            .args(["healthcheck", "--listen", address, "--tls-cert"])
            .arg(certificate)
            .status()
            .unwrap()
            .success()
    }
}

/// A client that believes that authority and no other, and may have a certificate itself.
fn trusting(authority: &str, own: Option<&Certificates>) -> Client {
    let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = client_builder().tls_certs_only([authority]);
    let client = match own {
        Some(own) => {
            let pem = format!("{}{}", own.certificate, own.key);
            client.identity(Identity::from_pem(pem.as_bytes()).unwrap())
        }
        None => client,
    };
    client.pool_max_idle_per_host(0).build().unwrap()
}

#[tokio::test]
async fn https_shows_a_certificate_that_sighup_replaces() {
    let (old, new) = (
        Certificates::new("127.0.0.1"),
        Certificates::new("127.0.0.1"),
    );
    let served = Served::launch(&old, None);
    assert!(served.daemon.url().starts_with("https://"));
    let believes_old = trusting(&old.authority, None);
    let believes_new = trusting(&new.authority, None);
    served.ready(&believes_old).await;
    assert!(served.healthcheck());
    assert_eq!(served.status(&believes_new, "/readyz").await, None);
    // Plain HTTP is refused.
    let plain = served.daemon.url().replace("https://", "http://");
    assert!(
        client_builder()
            .build()
            .unwrap()
            .get(plain)
            .send()
            .await
            .is_err()
    );

    new.write(served.folder.path());
    served.daemon.signal(Signal::HUP);
    served.ready(&believes_new).await;
    assert_eq!(served.status(&believes_old, "/readyz").await, None);

    // A key of another certificate is not taken, and the daemon goes on.
    fs::write(served.folder.path().join("server.key"), &old.key).unwrap();
    served.daemon.signal(Signal::HUP);
    eventually(Duration::from_secs(10), "it is said", || async {
        let says = "the previous ones stay in use: --tls-key ";
        served.daemon.log().contains(says).then_some(())
    })
    .await;
    assert_eq!(served.status(&believes_new, "/readyz").await, Some(200));
}

#[tokio::test]
async fn clients_must_have_a_certificate_of_the_authority_but_probes_need_none() {
    let server = Certificates::new("127.0.0.1");
    let client = Certificates::new("agent");
    let stranger = Certificates::new("agent");
    let served = Served::launch(&server, Some(&client.authority));
    let without = trusting(&server.authority, None);
    served.ready(&without).await;
    assert!(served.healthcheck());
    assert_eq!(served.status(&without, "/livez").await, Some(200));
    assert_eq!(served.status(&without, "/v1/services").await, Some(401));
    let with = trusting(&server.authority, Some(&client));
    assert_eq!(served.status(&with, "/v1/services").await, Some(200));
    let strange = trusting(&server.authority, Some(&stranger));
    assert_eq!(served.status(&strange, "/v1/services").await, None);
    assert_eq!(served.status(&strange, "/livez").await, None);

    // The authority is replaced by SIGHUP as well.
    fs::write(
        served.folder.path().join("clients.pem"),
        &stranger.authority,
    )
    .unwrap();
    served.daemon.signal(Signal::HUP);
    eventually(Duration::from_secs(10), "the other is believed", || async {
        (served.status(&strange, "/v1/services").await == Some(200)).then_some(())
    })
    .await;
    assert_eq!(served.status(&with, "/v1/services").await, None);
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start_and_is_named() {
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::new("127.0.0.1");
    let (certificate, key) = certificates.write(folder.path());
    let other = folder.path().join("other.key");
    fs::write(&other, Certificates::new("h").key).unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    for (certificate, key, says) in [
        (Path::new("/no/cert"), &*key, "--tls-cert /no/cert: "),
        (&*empty, &*key, "empty.pem: contains no PEM certificate"),
        (&*certificate, &*empty, "--tls-key "),
        (&*certificate, &*other, "other.key: "),
    ] {
        let output = Command::new(BINARY)
            .args(["--listen", "127.0.0.1:0", "--tls-cert"])
            .arg(certificate)
            .arg("--tls-key")
            .arg(key)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(says) && !text.contains("panicked"),
            "{says}: {text}"
        );
    }
}
