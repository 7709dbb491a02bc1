//! The load generator: raw keep-alive connections, each of which sends the next request after
//! the answer to the previous one.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The result of a round.
pub(crate) struct Round {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub requests: usize,
}

/// Sends requests over `connections` connections, in turn to these addresses, for `duration`. `request` makes the nth
/// request of a connection. An answer with another status ends the run, because the measurement
/// would be useless.
pub(crate) async fn run(
    addresses: &[SocketAddr],
    connections: usize,
    duration: Duration,
    status: u16,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
) -> Round {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for (connection, address) in (0..connections).zip(addresses.iter().copied().cycle()) {
        let request = request.clone();
        let send = move |n| request(connection, n);
        tasks.spawn_local(one(address, begin + duration, status, send));
    }
    let latencies = tasks.join_all().await.into_iter().flatten().collect();
    Round::of(latencies, begin.elapsed())
}

impl Round {
    /// Computes the result from the latency of each request, in microseconds, and the duration of
    /// the round.
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

/// Returns the latencies of one connection, in microseconds.
async fn one(
    address: SocketAddr,
    until: Instant,
    status: u16,
    request: impl Fn(usize) -> Vec<u8>,
) -> Vec<u32> {
    let mut connection = Connection::open(address).await.unwrap();
    let mut latencies = Vec::new();
    for n in 0.. {
        let bytes = request(n);
        let begin = Instant::now();
        if begin >= until {
            break;
        }
        let answered = connection.ask(&bytes).await.unwrap();
        assert_eq!(answered, status, "{}", connection.text());
        latencies.push(micros(begin.elapsed()));
    }
    latencies
}

pub(crate) fn micros(latency: Duration) -> u32 {
    u32::try_from(latency.as_micros()).unwrap_or(u32::MAX)
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// Sends a request, reads its answer to the end, and returns its status.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (status, end) = loop {
            self.read().await?;
            let head = self.buffer.windows(4).position(|at| at == b"\r\n\r\n");
            if let Some(head) = head {
                let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
                let length = text.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    let length = name.eq_ignore_ascii_case("content-length");
                    length.then(|| value.parse::<usize>().unwrap())
                });
                break (
                    text[9..12].parse().unwrap(),
                    head + 4 + length.unwrap_or_default(),
                );
            }
        };
        while self.buffer.len() < end {
            self.read().await?;
        }
        Ok(status)
    }

    /// Waits for more of an endless stream, and returns what was read.
    pub(crate) async fn more(&mut self) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.read().await?;
        Ok(&self.buffer)
    }

    /// Sends a request whose answer does not end.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Returns whether the last answer closes this connection.
    pub(crate) fn is_closing(&self) -> bool {
        let text = self.text().to_ascii_lowercase();
        text.contains("\r\nconnection: close\r\n")
    }

    /// Returns the number of bytes of the last answer.
    pub(crate) fn received(&self) -> usize {
        self.buffer.len()
    }

    /// Returns a header of the last answer.
    pub(crate) fn header(&self, wanted: &str) -> Option<String> {
        let head = self.buffer.windows(4).position(|at| at == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.buffer[..head]).ok()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_owned())
    }

    /// Returns what was read last.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.buffer)
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Formats a request with or without a JSON body.
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
