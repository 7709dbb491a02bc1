//! The daemon under test: the real binary, as a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::process::{Process, spawn};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rollcalld");

/// A running `rollcalld`.
pub(crate) struct Daemon {
    process: Process,
    url: String,
    log: PathBuf,
    client: reqwest::Client,
    arguments: Vec<String>,
    dir: Arc<TempDir>,
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
        let log = dir.path().join("log");
        let mut child = spawn(BINARY, None, |command| {
            command
                .args(["--listen", "127.0.0.1:0"])
                .args(arguments)
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
            process: Process::new(child),
            url: url.to_owned(),
            log,
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(20))
                .build()
                .unwrap(),
            arguments: arguments.to_vec(),
            dir,
        }
    }

    /// Starts it again with the same arguments, in the same folder, once it has ended.
    pub(crate) async fn restart(mut self) -> Self {
        assert!(self.process.status().is_some(), "it is still running");
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

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process.ended(Duration::from_secs(30)).await
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
