//! A private Prometheus, and its targets.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

use super::eventually;
use super::process::{Process, free_port, spawn};

/// A Prometheus server on a port of its own, which asks every second for its targets and
/// scrapes them every second.
pub(crate) struct Prometheus {
    url: String,
    client: Client,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts with the targets listed at `targets`. Their meta labels become labels: `service`, and
    /// their metadata.
    pub(crate) async fn start(targets: &str) -> Self {
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{
                "job_name": "rollcall",
                "http_sd_configs": [{"url": targets, "refresh_interval": "1s"}],
                "relabel_configs": [
                    {"source_labels": ["__meta_rollcall_service"], "target_label": "service"},
                    {"action": "labelmap", "regex": "__meta_rollcall_metadata_(.+)"},
                ],
            }],
        });
        Self::start_with(&config.to_string(), "").await
    }

    /// Starts with a configuration and the file `rollcall.token` beside it.
    pub(crate) async fn start_with(config: &str, token: &str) -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        fs::write(dir.path().join("rollcall.token"), token).unwrap();
        let [config_file, storage, log] =
            ["prometheus.yml", "data", "log"].map(|name| dir.path().join(name));
        fs::write(&config_file, config).unwrap();
        let child = spawn("prometheus", None, |command| {
            command
                .arg(format!("--config.file={}", config_file.display()))
                .arg(format!("--storage.tsdb.path={}", storage.display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .current_dir(dir.path())
                .stderr(File::create(&log).unwrap());
        });
        let mut process = Process::new(child);
        let url = format!("http://127.0.0.1:{port}");
        let client = Client::builder().timeout(Duration::from_secs(10));
        let client = client.build().unwrap();
        eventually(Duration::from_secs(30), "Prometheus is ready", || {
            let log = || fs::read_to_string(&log).unwrap();
            assert_eq!(process.status(), None, "{}", log());
            let answer = client.get(format!("{url}/-/ready")).send();
            async { answer.await.ok()?.error_for_status().ok() }
        })
        .await;
        Self {
            url,
            client,
            _process: process,
            _dir: dir,
        }
    }

    /// The `data` of an answer of its API.
    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).unwrap();
        let answer = self.client.get(url).send().await.unwrap();
        let mut answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["status"], json!("success"), "{answer}");
        answer["data"].take()
    }

    /// The targets that it scrapes.
    pub(crate) async fn targets(&self) -> Vec<Value> {
        let mut data = self.ask("/api/v1/targets", &[("state", "active")]).await;
        serde_json::from_value(data["activeTargets"].take()).unwrap()
    }

    /// Evaluates an expression: the value of each series.
    pub(crate) async fn values(&self, expression: &str) -> Vec<String> {
        let data = self.ask("/api/v1/query", &[("query", expression)]).await;
        let series = data["result"].as_array().unwrap().iter();
        let values = series.map(|one| one["value"][1].as_str().unwrap().to_owned());
        values.collect()
    }

    /// Evaluates an expression: the label `instance` and the value of each series, in order.
    pub(crate) async fn query(&self, expression: &str) -> Vec<(String, String)> {
        let data = self.ask("/api/v1/query", &[("query", expression)]).await;
        let series = data["result"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let series = series.map(|one| (text(&one["metric"]["instance"]), text(&one["value"][1])));
        let mut series: Vec<_> = series.collect();
        series.sort();
        series
    }
}

/// An instance that is scraped: whatever it is asked, it answers `demo_value 42`.
pub(crate) struct Exporter {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Exporter {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            serving: tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(answer(client));
                }
            }),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads one request and answers it.
async fn answer(mut client: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(client.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    let metrics = "# TYPE demo_value gauge\ndemo_value 42\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{metrics}",
        metrics.len()
    );
    let _ = client.write_all(answer.as_bytes()).await;
}
