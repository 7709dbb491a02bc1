//! How long a change takes to reach all clients that watch a service.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::load::{Connection, Round, micros};
use crate::requests::{LIST, fill, fill_at_once, host};
use crate::servers::{Server, processor_time, request};

/// The number of event streams, and of long polls.
const WATCHERS: usize = 1_000;

const CHANGES: usize = 20;

pub(crate) async fn run() {
    let own = TempDir::new().unwrap();
    let more = ["--max-streams-per-client", "2000", "--lease-ttl", "1h"];
    let daemon = Server::daemon(own.path(), &more.map(str::to_owned)).await;
    fill(daemon.address, 100).await;
    let (crowd, mut watchers) = (Crowd::default(), JoinSet::new());
    for _ in 0..WATCHERS {
        watchers.spawn_local(stream(daemon.address, crowd.clone()));
        watchers.spawn_local(poll(daemon.address, crowd.clone()));
    }
    crowd.all_received().await;
    let mut changing = Connection::open(daemon.address).await.unwrap();
    let (mut streams, mut polls, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
    // The first change warms up.
    for change in 0..=CHANGES {
        // By then the long polls have been sent again.
        sleep(Duration::from_millis(300)).await;
        let path = format!("/v1/services/orders/instances/{}", host(7));
        let body = format!("{{\"weight\":{}}}", 1000 + change);
        let before = processor_time(daemon.id());
        crowd.change(1000 + change);
        let answered = changing.ask(&request("PATCH", &path, "", &body)).await;
        assert_eq!(answered.unwrap(), 200);
        crowd.all_received().await;
        let received = [crowd.streams.take(), crowd.polls.take()];
        if change > 0 {
            spent += processor_time(daemon.id()) - before;
            streams.extend(&received[0]);
            polls.extend(&received[1]);
        }
    }
    drop(watchers);
    println!("\n{WATCHERS} event streams and {WATCHERS} long polls, all of one service");
    for (name, latencies) in [
        ("received by a stream", streams),
        ("received by a long poll", polls),
    ] {
        let last = latencies.iter().max().copied().unwrap_or_default();
        let round = Round::of(latencies, Duration::from_secs(1));
        println!(
            "  {name:<22} p50 {:>6.1} ms  p99 {:>6.1} ms  last {:>6.1} ms",
            round.p50.as_secs_f64() * 1e3,
            round.p99.as_secs_f64() * 1e3,
            f64::from(last) / 1e3
        );
    }
    let each = spent.as_secs_f64() * 1e6 / (2 * WATCHERS * CHANGES) as f64;
    println!("  daemon {each:.1} us of processor time per client");
}

/// The number of instances of a large service, and its changes per second.
const LARGE: usize = 10_000;
const RATE: u32 = 10;

/// For how long each kind of watcher watches it.
const WATCHED: Duration = Duration::from_secs(10);

/// What a large service costs that changes all the time, for each kind of watcher.
pub(crate) async fn large() {
    let own = TempDir::new().unwrap();
    let more = ["--max-streams-per-client", "2000", "--lease-ttl", "1h"];
    let daemon = Server::daemon(own.path(), &more.map(str::to_owned)).await;
    fill_at_once(daemon.address, LARGE).await;
    println!("\n{WATCHERS} watchers of a service of {LARGE} instances, {RATE} changes a second");
    for (name, kind) in [
        ("event streams", Kind::Stream),
        ("long polls with ?since", Kind::Changes),
        ("long polls of the list", Kind::List),
    ] {
        let (received, mut watchers) = (Rc::new(Cell::new((0, 0))), JoinSet::new());
        for _ in 0..WATCHERS {
            watchers.spawn_local(watch(daemon.address, kind, Rc::clone(&received)));
        }
        // Each has begun to watch; a stream has its head and perhaps a comment.
        let begin = Instant::now();
        while received.get().0 < WATCHERS && begin.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_secs(1)).await;
        received.set((0, 0));
        let (before, begin) = (processor_time(daemon.id()), Instant::now());
        let mut changing = Connection::open(daemon.address).await.unwrap();
        let mut changes = 0;
        while begin.elapsed() < WATCHED {
            let path = format!("/v1/services/orders/instances/{}", host(changes % 97));
            let body = format!("{{\"weight\":{}}}", 2 + changes % 1000);
            let asked = changing.ask(&request("PATCH", &path, "", &body)).await;
            assert_eq!(asked.unwrap(), 200);
            changes += 1;
            let next = begin + Duration::from_secs(1) / RATE * changes as u32;
            tokio::time::sleep_until(next).await;
        }
        let elapsed = begin.elapsed().as_secs_f64();
        let spent = (processor_time(daemon.id()) - before).as_secs_f64();
        let (answers, bytes) = received.get();
        println!(
            "  {name:<24} {:.2} of a core, {:.1} changes/s, {:.0} answers/s, {:.1} MB/s",
            spent / elapsed,
            f64::from(changes as u32) / elapsed,
            answers as f64 / elapsed,
            bytes as f64 / elapsed / 1e6
        );
        drop(watchers);
        // Until the connections are closed.
        sleep(Duration::from_secs(2)).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Changes,
    List,
}

/// Watches, and counts answers and their bytes.
async fn watch(address: SocketAddr, kind: Kind, received: Rc<Cell<(usize, usize)>>) {
    let count = |bytes: usize| {
        let (answers, all) = received.get();
        received.set((answers + 1, all + bytes));
    };
    let mut connection = Connection::open(address).await.unwrap();
    if kind == Kind::Stream {
        let subscribe = request("GET", "/v1/events?service=orders", "", "");
        connection.send(&subscribe).await.unwrap();
        loop {
            count(connection.more().await.unwrap().len());
        }
    }
    let mut known: Option<String> = None;
    loop {
        let (since, header) = match (&known, kind) {
            (None, _) => (String::new(), String::new()),
            (Some(tag), Kind::Changes) => {
                (format!("&since={}", tag.trim_matches('"')), String::new())
            }
            (Some(tag), _) => (String::new(), format!("If-None-Match: {tag}\r\n")),
        };
        let ask = request("GET", &format!("{LIST}&wait=30s{since}"), &header, "");
        match connection.ask(&ask).await.unwrap() {
            200 | 304 => count(connection.received()),
            // Rejected, because the answers of all the others are in progress, or sent too late,
            // because this generator has no processor time left.
            status => {
                assert!(matches!(status, 408 | 503), "{status}");
                sleep(Duration::from_secs(1)).await;
                if connection.is_closing() {
                    connection = Connection::open(address).await.unwrap();
                }
                continue;
            }
        }
        if let Some(tag) = connection.header("etag") {
            known = Some(tag);
        }
    }
}

/// The clients that watch.
#[derive(Clone, Default)]
struct Crowd {
    /// The present change, by its weight, and its time.
    change: Rc<Cell<Option<(usize, Instant)>>>,
    /// The number of clients that wait for it.
    waiting: Rc<Cell<usize>>,
    received: Rc<Notify>,
    streams: Rc<RefCell<Vec<u32>>>,
    polls: Rc<RefCell<Vec<u32>>>,
}

impl Crowd {
    fn change(&self, weight: usize) {
        self.waiting.set(0);
        self.change.set(Some((weight, Instant::now())));
    }

    /// Waits until all clients have received the change, or have begun to watch.
    async fn all_received(&self) {
        while self.waiting.get() < 2 * WATCHERS {
            self.received.notified().await;
        }
    }

    /// Records that a client received the change.
    fn record(&self, text: &str, latencies: &RefCell<Vec<u32>>) {
        if let Some((weight, since)) = self.change.get()
            && text.contains(&format!("\"weight\":{weight}"))
        {
            latencies.borrow_mut().push(micros(since.elapsed()));
            self.one_more();
        }
    }

    fn one_more(&self) {
        self.waiting.set(self.waiting.get() + 1);
        if self.waiting.get() == 2 * WATCHERS {
            self.received.notify_one();
        }
    }
}

async fn stream(address: SocketAddr, crowd: Crowd) {
    let mut connection = Connection::open(address).await.unwrap();
    let subscribe = request("GET", "/v1/events?service=orders", "", "");
    connection.send(&subscribe).await.unwrap();
    let head = connection.more().await.unwrap();
    assert_eq!(&head[9..12], b"200");
    crowd.one_more();
    loop {
        let text = String::from_utf8_lossy(connection.more().await.unwrap()).into_owned();
        crowd.record(&text, &crowd.streams);
    }
}

async fn poll(address: SocketAddr, crowd: Crowd) {
    let mut connection = Connection::open(address).await.unwrap();
    let path = format!("{LIST}&wait=60s");
    let mut known = String::new();
    loop {
        let ask = request("GET", &path, &known, "");
        let answered = connection.ask(&ask).await.unwrap();
        assert!(matches!(answered, 200 | 304), "{}", connection.text());
        let (text, etag) = (connection.text(), connection.header("etag"));
        if known.is_empty() {
            crowd.one_more();
        }
        known = format!("If-None-Match: {}\r\n", etag.unwrap());
        crowd.record(&text, &crowd.polls);
    }
}
