//! The daemon under test: the real binary, as a process of its own.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rollcalld::clock::Clock;
use rollcalld::settings::ServeSettings;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::eventually;
use super::process::{Process, spawn};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rollcalld");

/// A running `rollcalld`.
pub(crate) struct Daemon {
    running: Running,
    url: String,
    log: PathBuf,
    client: reqwest::Client,
    arguments: Vec<String>,
    dir: Arc<TempDir>,
}

enum Running {
    Process(Process),
    /// A thread of the test, which ends when the sender is dropped.
    Thread(Option<oneshot::Sender<()>>, Option<JoinHandle<()>>),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Thread(stop, thread) = self {
            stop.take();
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

/// With the cryptography that reqwest wants and does not bring.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

fn client() -> reqwest::Client {
    let client = client_builder().timeout(Duration::from_secs(20));
    client.build().unwrap()
}

/// A status and a body, `Null` where there was none.
pub(crate) type Answer = (StatusCode, Value);

impl Daemon {
    /// Starts it in a folder of its own, on a port of its own, and waits until it is ready.
    pub(crate) async fn start(arguments: &[String]) -> Self {
        let daemon = Self::launch(arguments, Arc::new(TempDir::new().unwrap()));
        daemon.ready().await;
        daemon
    }

    /// Starts it and waits only until it listens.
    pub(crate) fn launch(arguments: &[String], dir: Arc<TempDir>) -> Self {
        Self::launch_with(arguments, dir, &[])
    }

    /// With variables.
    pub(crate) fn launch_with(
        arguments: &[String],
        dir: Arc<TempDir>,
        variables: &[(&str, &str)],
    ) -> Self {
        Self::launch_on("127.0.0.1:0", arguments, dir, variables)
    }

    /// On a port to which others come back.
    pub(crate) fn launch_on(
        listen: &str,
        arguments: &[String],
        dir: Arc<TempDir>,
        variables: &[(&str, &str)],
    ) -> Self {
        Self::launch_command(&[BINARY.into()], listen, arguments, dir, variables)
    }

    fn launch_command(
        command: &[OsString],
        listen: &str,
        arguments: &[String],
        dir: Arc<TempDir>,
        variables: &[(&str, &str)],
    ) -> Self {
        let (program, before) = command.split_first().unwrap();
        let log = dir.path().join("log");
        let mut child = spawn(program.to_str().unwrap(), None, |command| {
            command
                .args(before)
                .args(["--listen", listen])
                .args(arguments)
                .envs(variables.iter().copied())
                .current_dir(dir.path())
                .stdout(Stdio::piped())
                .stderr(fs::File::create(&log).unwrap());
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            panic!(
                "no address: {line:?}\n{}",
                fs::read_to_string(&log).unwrap()
            );
        };
        Self {
            running: Running::Process(Process::new(child)),
            url: url.to_owned(),
            log,
            client: client(),
            arguments: arguments.to_vec(),
            dir,
        }
    }

    /// By a command that becomes the daemon, with a changed surrounding.
    pub(crate) fn launch_under(
        wrapper: &[&str],
        binary: &Path,
        arguments: &[String],
        dir: Arc<TempDir>,
    ) -> Self {
        let mut command: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        command.push(binary.into());
        Self::launch_command(&command, "127.0.0.1:0", arguments, dir, &[])
    }

    /// Starts it on a thread of this process, with a clock that the test sets.
    pub(crate) async fn start_with_clock(settings: ServeSettings, clock: Arc<dyn Clock>) -> Self {
        let (listening, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(async {
                let daemon = rollcalld::daemon::Daemon::build(settings, clock).unwrap();
                listening.send(daemon.address()).unwrap();
                let stopped = async {
                    // The sender is dropped.
                    let _ = stopped.await;
                    Duration::ZERO
                };
                daemon.run_until_stopped(|| (), stopped).await.unwrap();
            });
        });
        let dir = Arc::new(TempDir::new().unwrap());
        let daemon = Self {
            running: Running::Thread(Some(stop), Some(thread)),
            url: format!("http://{}", address.recv().unwrap()),
            log: dir.path().join("log"),
            client: client(),
            arguments: Vec::new(),
            dir,
        };
        daemon.ready().await;
        daemon
    }

    fn process(&self) -> &Process {
        match &self.running {
            Running::Process(process) => process,
            Running::Thread(..) => panic!("it is not a process of its own"),
        }
    }

    fn process_mut(&mut self) -> &mut Process {
        match &mut self.running {
            Running::Process(process) => process,
            Running::Thread(..) => panic!("it is not a process of its own"),
        }
    }

    /// How much memory it has, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process().id());
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Starts it again with the same arguments, in the same folder, once it has ended.
    pub(crate) async fn restart(mut self) -> Self {
        assert!(self.process_mut().status().is_some(), "it is still running");
        let daemon = Self::launch(&self.arguments, Arc::clone(&self.dir));
        daemon.ready().await;
        daemon
    }

    pub(crate) async fn ready(&self) {
        eventually(Duration::from_secs(30), "the daemon is ready", || async {
            let (status, _) = self.get("/readyz").await;
            (status == StatusCode::OK).then_some(())
        })
        .await;
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Returns its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process_mut().ended(Duration::from_secs(30)).await
    }

    /// Sends a request whose body, if there is one, is JSON.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Answer> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// Registers many instances of a service, each with that body.
    pub(crate) async fn register(&self, service: &str, addresses: &[String], body: &Value) {
        for part in addresses.chunks(100) {
            let registered = part.iter().map(|address| {
                let path = format!("/v1/services/{service}/instances/{address}");
                async move { self.put(&path, body.clone()).await.0 }
            });
            let answers = futures_util::future::join_all(registered).await;
            assert!(answers.iter().all(|status| *status == 201), "{answers:?}");
        }
    }

    /// Sends the heartbeats of many instances of a service in one batch.
    pub(crate) async fn try_send_heartbeats(&self, service: &str, addresses: &[String]) -> Answer {
        let lease = |address: &String| json!({"service": service, "address": address});
        let leases: Vec<Value> = addresses.iter().map(lease).collect();
        let body = json!({ "leases": leases });
        let sent = self.try_send(Method::POST, "/v1/heartbeats", Some(&body));
        sent.await.unwrap()
    }

    /// The same; the batch must be accepted.
    pub(crate) async fn send_heartbeats(&self, service: &str, addresses: &[String]) {
        let (status, body) = self.try_send_heartbeats(service, addresses).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["unknown"], json!([]), "{body}");
    }

    /// How many instances there are of a service: registered, online, available.
    pub(crate) async fn counts(&self, service: &str) -> [u64; 3] {
        let (_, body) = self.get(&format!("/v1/services/{service}")).await;
        ["instances", "online", "available"].map(|name| body[name].as_u64().unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_send(Method::GET, path, None).await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.try_send(Method::PUT, path, Some(&body)).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_send(Method::POST, path, Some(&body))
            .await
            .unwrap()
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.try_send(Method::PATCH, path, Some(&body))
            .await
            .unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.try_send(Method::DELETE, path, None).await.unwrap()
    }
}
