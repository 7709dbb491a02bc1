//! A registry that answers as a test wants, and records its requests: for situations that a
//! real one does not produce at will.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// A recorded request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    pub body: Value,
}

/// Accepts every registration and heartbeat, and asks for the next one in an hour. `/health`
/// answers with a configurable status.
pub(crate) struct FakeRegistry {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    asked: Mutex<Vec<Asked>>,
    health: AtomicU16,
    roll_calls: broadcast::Sender<()>,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            health: AtomicU16::new(200),
            roll_calls: broadcast::Sender::new(8),
        });
        let server = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&server);
                // A client that disconnects has its answer.
                tokio::spawn(async move { drop(shared.serve(stream).await) });
            }
        });
        Self { url, shared }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::Relaxed);
    }

    /// Publishes a roll call, and returns the number of subscribers.
    pub(crate) fn call_roll(&self) -> usize {
        self.shared.roll_calls.send(()).unwrap_or_default()
    }

    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        let asked = asked.iter().filter(|asked| asked.path == path);
        asked.cloned().collect()
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            let lower = head.to_ascii_lowercase();
            let length = lower
                .split_once("content-length: ")
                .and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await?;
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let mut words = head.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let is_stream = path.starts_with("/v1/events");
            let health = (path == "/health").then(|| self.health.load(Ordering::Relaxed));
            self.asked.lock().unwrap().push(Asked {
                method,
                path,
                body: body.clone(),
            });
            if is_stream {
                let mut calls = self.roll_calls.subscribe();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                writer.write_all(head.as_bytes()).await?;
                while calls.recv().await.is_ok() {
                    writer.write_all(b"event: roll.call\ndata: {}\n\n").await?;
                }
                return Ok(());
            }
            let registrations = body["registrations"].as_array().map_or(0, Vec::len);
            let results = vec![json!({"outcome": "created"}); registrations];
            let answer = json!({"failed": 0, "results": results, "renewed": 1, "created": 0, "unknown": [], "next_heartbeat_in_ms": 3_600_000});
            let (status, answer) = (health.unwrap_or(200), answer.to_string());
            let head = format!(
                "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            writer.write_all((head + &answer).as_bytes()).await?;
        }
    }
}
