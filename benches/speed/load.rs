//! The generator: raw keep-alive connections, each of which sends the next request when the
//! answer to the last has come.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What came of a round.
pub(crate) struct Round {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub requests: usize,
}

/// Sends requests over so many connections for so long. `request` makes the nth of a
/// connection. An answer that is not `status` ends the run: it would be measured for nothing.
pub(crate) async fn run(
    address: SocketAddr,
    connections: usize,
    duration: Duration,
    status: u16,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
) -> Round {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let request = request.clone();
        let send = move |n| request(connection, n);
        tasks.spawn_local(one(address, begin + duration, status, send));
    }
    let latencies = tasks.join_all().await.into_iter().flatten().collect();
    Round::of(latencies, begin.elapsed())
}

impl Round {
    /// From the latency of each request, in microseconds, and how long all of them took.
    pub(crate) fn of(mut latencies: Vec<u32>, took: Duration) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            let micros = latencies.get(index).copied().unwrap_or_default();
            Duration::from_micros(micros.into())
        };
        Self {
            per_second: latencies.len() as f64 / took.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            requests: latencies.len(),
        }
    }
}

/// The latencies of one connection, in microseconds.
async fn one(
    address: SocketAddr,
    until: Instant,
    status: u16,
    request: impl Fn(usize) -> Vec<u8>,
) -> Vec<u32> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut latencies, mut buffer) = (Vec::new(), Vec::with_capacity(16 * 1024));
    for n in 0.. {
        let bytes = request(n);
        let begin = Instant::now();
        if begin >= until {
            break;
        }
        stream.write_all(&bytes).await.unwrap();
        answer(&mut stream, &mut buffer, status).await;
        latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    latencies
}

/// Reads one answer to its end.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>, status: u16) {
    buffer.clear();
    let (head, length) = loop {
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "it was closed");
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).unwrap();
            let answered: u16 = head[9..12].parse().unwrap();
            assert_eq!(answered, status, "{}", String::from_utf8_lossy(buffer));
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let length = name.eq_ignore_ascii_case("content-length");
                length.then(|| value.parse().unwrap())
            });
            break (end + 4, length.unwrap_or(0));
        }
    };
    while buffer.len() < head + length {
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "it was closed");
    }
}

/// A request with a JSON body, or with none.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let json = match body {
        "" => String::new(),
        body => format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: rollcall\r\n{headers}{json}\r\n{body}").into_bytes()
}
