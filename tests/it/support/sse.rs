//! A subscriber to `/v1/events`.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::daemon::{Daemon, client_builder};

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

impl Event {
    pub(crate) fn address(&self) -> &str {
        self.data["address"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_transition(&self) -> bool {
        matches!(self.name.as_str(), "instance.online" | "instance.offline")
    }
}

/// The addresses of the instances that were marked offline, in order.
pub(crate) fn offline(events: &[Event]) -> Vec<&str> {
    let offline = events
        .iter()
        .filter(|event| event.name == "instance.offline");
    offline.map(Event::address).collect()
}

/// An open stream.
pub(crate) struct Subscriber {
    response: Response,
    text: String,
    ready: VecDeque<Event>,
    /// The value for `Last-Event-ID`.
    pub(crate) last_id: Option<String>,
    pub(crate) pings: usize,
    /// The received reconnection times, in milliseconds.
    pub(crate) retries: Vec<u64>,
    /// The stream ended as it should, and was not cut.
    pub(crate) ended: bool,
}

impl Subscriber {
    /// Listens from now on: returns when nothing more can be missed.
    pub(crate) async fn new(daemon: &Daemon, query: &str) -> Self {
        let mut subscriber = Self::open(daemon, query, None).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while subscriber.last_id.is_none() {
            assert!(subscriber.read(deadline).await, "no stream");
        }
        subscriber
    }

    /// Goes on after an event.
    pub(crate) async fn resume(daemon: &Daemon, last_id: &str) -> Self {
        Self::open(daemon, "", Some(last_id)).await
    }

    /// Subscribes to a daemon that may be unavailable, after an event if one is given.
    pub(crate) async fn try_open(url: &str, last_id: Option<&str>) -> Option<Self> {
        let response = Self::request(&format!("{url}/v1/events"), last_id).await;
        let response = response.ok()?;
        (response.status() == 200).then(|| Self::of(response, last_id))
    }

    async fn open(daemon: &Daemon, query: &str, last_id: Option<&str>) -> Self {
        let url = format!("{}/v1/events{query}", daemon.url());
        let response = Self::request(&url, last_id).await.unwrap();
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("content-encoding"), "identity");
        assert_eq!(header("cache-control"), "no-store");
        Self::of(response, last_id)
    }

    async fn request(url: &str, last_id: Option<&str>) -> reqwest::Result<Response> {
        let client = client_builder().build().unwrap();
        let mut request = client.get(url);
        if let Some(last_id) = last_id {
            request = request.header("Last-Event-ID", last_id);
        }
        request.send().await
    }

    fn of(response: Response, last_id: Option<&str>) -> Self {
        Self {
            response,
            text: String::new(),
            ready: VecDeque::new(),
            last_id: last_id.map(str::to_owned),
            pings: 0,
            retries: Vec::new(),
            ended: false,
        }
    }

    /// The next event, or `None` at the end of the stream or of the time.
    pub(crate) async fn next(&mut self, within: Duration) -> Option<Event> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if !self.read(deadline).await {
                return None;
            }
        }
    }

    /// The next event of that name; others before it are passed over.
    pub(crate) async fn expect(&mut self, name: &str, within: Duration) -> Event {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left).await {
                Some(event) if event.name == name => return event,
                Some(_) => {}
                None => panic!("no {name} within {within:?}"),
            }
        }
    }

    /// Everything that comes until nothing does for that long.
    pub(crate) async fn until_quiet(&mut self, quiet: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next(quiet).await {
            events.push(event);
        }
        events
    }

    /// Reads more; whether there was any.
    async fn read(&mut self, deadline: Instant) -> bool {
        let read = timeout_at(deadline, self.response.chunk()).await;
        self.ended |= matches!(read, Ok(Ok(None)));
        let Ok(Ok(Some(bytes))) = read else {
            return false;
        };
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            self.take(&block);
        }
        true
    }

    fn take(&mut self, block: &str) {
        let (mut id, mut name, mut data) = (None, None, None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ") {
                Some(("id", text)) => id = Some(text.to_owned()),
                Some(("event", text)) => name = Some(text.to_owned()),
                Some(("data", text)) => data = Some(serde_json::from_str(text).unwrap()),
                Some(("retry", text)) => self.retries.push(text.parse().unwrap()),
                Some(("", "ping")) => self.pings += 1,
                _ => panic!("not of an event stream: {line:?}"),
            }
        }
        if id.is_some() {
            self.last_id.clone_from(&id);
        }
        if let (Some(name), Some(data)) = (name, data) {
            self.ready.push_back(Event { id, name, data });
        }
    }
}
