//! A private PostgreSQL, shared by the tests, with a database for each; and one of
//! its own for a test that stops it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

use super::eventually;
use super::process::{Process, free_port, spawn};

/// The user the server runs as when the tests run as root, which it refuses to be.
const USER: &str = "postgres";

static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// A PostgreSQL cluster in a temporary folder.
pub(crate) struct Postgres {
    port: u16,
    dir: TempDir,
    options: Vec<String>,
    process: Option<Process>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It takes its own children with it, of which one could go on for ever without it.
            process.end_by(Signal::QUIT);
        }
    }
}

impl Postgres {
    /// A cluster that a test has for itself.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// The same, with options of the server. `prepare` may put files into the folder,
    /// which then belong to the server's user.
    pub(crate) async fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = TempDir::new().unwrap();
        let options = prepare(dir.path());
        if geteuid().is_root() {
            let status = Command::new("chown")
                .args(["-R", USER])
                .arg(dir.path())
                .status()
                .unwrap();
            assert!(status.success());
        }
        let data = dir.path().join("data");
        let mut initdb = spawn(&program("initdb"), Some(USER), |command| {
            command
                .args(["-A", "trust", "-U", USER, "-E", "UTF8", "--no-sync", "-D"])
                .arg(&data)
                // A language's order, as many real databases have it, is not that of bytes.
                .args(["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"])
                .current_dir(dir.path())
                .stdout(Stdio::null());
        });
        assert!(initdb.wait().unwrap().success(), "initdb failed");
        let mut postgres = Self {
            port: free_port(),
            dir,
            options,
            process: None,
        };
        postgres.restart().await;
        postgres
    }

    /// Starts it (again) on the same port and data.
    pub(crate) async fn restart(&mut self) {
        self.process = None;
        let dir = self.dir.path();
        let child = spawn(&program("postgres"), Some(USER), |command| {
            command
                .arg("-D")
                .arg(dir.join("data"))
                .args([
                    "-p",
                    &self.port.to_string(),
                    "-c",
                    "listen_addresses=127.0.0.1",
                ])
                .args([
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "max_connections=300",
                ])
                .args(&self.options)
                .current_dir(dir)
                .stdout(Stdio::null())
                .stderr(fs::File::create(dir.join("log")).unwrap());
        });
        self.process = Some(Process::new(child));
        eventually(Duration::from_secs(60), "postgres answers", || async {
            self.try_connect("postgres").await.ok()
        })
        .await;
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        // Immediate shutdown: no checkpoint, and no children left behind to hold the data.
        process.signal(Signal::QUIT);
        process.ended(Duration::from_secs(20)).await;
    }

    /// Starts a standby of this server, named `standby`.
    pub(crate) async fn standby(&self) -> Self {
        let dir = TempDir::new().unwrap();
        if geteuid().is_root() {
            let mut chown = Command::new("chown");
            let status = chown.arg(USER).arg(dir.path()).status().unwrap();
            assert!(status.success());
        }
        let primary = format!(
            "host=127.0.0.1 port={} user={USER} application_name=standby",
            self.port
        );
        let mut copy = spawn(&program("pg_basebackup"), Some(USER), |command| {
            command
                .args(["-d", &primary, "-R", "-X", "stream", "-c", "fast", "-D"])
                .arg(dir.path().join("data"))
                .current_dir(dir.path())
                .stdout(Stdio::null());
        });
        assert!(copy.wait().unwrap().success(), "pg_basebackup failed");
        let mut standby = Self {
            port: free_port(),
            dir,
            options: self.options.clone(),
            process: None,
        };
        standby.restart().await;
        standby
    }

    /// A primary whose commits wait for its standby.
    pub(crate) async fn with_standby() -> (Self, Self) {
        let primary = Self::start().await;
        let standby = primary.standby().await;
        let synchronous = "ALTER SYSTEM SET synchronous_standby_names = 'standby'";
        primary.run("postgres", synchronous).await;
        primary.run("postgres", "SELECT pg_reload_conf()").await;
        (primary, standby)
    }

    /// The URL of whichever of them can be written to.
    pub(crate) fn url_of(servers: &[&Self], database: &str) -> String {
        let hosts: Vec<String> = servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        format!("postgres://{USER}@{}/{database}", hosts.join(","))
    }

    /// Runs statements as the owner of everything.
    pub(crate) async fn run(&self, database: &str, statements: &str) {
        let client = self.try_connect(database).await.unwrap();
        client.batch_execute(statements).await.unwrap();
    }

    /// A new, empty database.
    pub(crate) async fn create_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.try_connect("postgres")
            .await
            .unwrap()
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        self.url(&name)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    async fn try_connect(
        &self,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect(&self.url(database)).await
    }
}

/// The cluster that tests share which leave it running.
pub(crate) async fn shared() -> &'static Postgres {
    // Its connections are per test, so it may outlive the runtime it was started on.
    SHARED
        .get_or_init(|| async {
            // Nothing here survives a crash of the machine, nor has to.
            Postgres::start_with(|_| vec!["-c".into(), "fsync=off".into()]).await
        })
        .await
}

/// A client of its own.
pub(crate) async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A server program, which Debian keeps out of `PATH`.
fn program(name: &str) -> String {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    match found.pop() {
        Some(path) => path.to_str().unwrap().to_owned(),
        None => name.to_owned(),
    }
}
