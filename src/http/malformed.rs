//! Requests that are no HTTP: counted, and logged rarely, with the address they came from.
//!
//! The library answers them itself and logs each as an error, without the address. It does so
//! on the thread of the connection, right before it drops what was noted with the connection:
//! so what it says is kept for a moment, and told when the connection ends.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How often they are logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Where the library says that a request is malformed, and how its words begin.
const DISPATCHER: (&str, &str) = (
    "actix_http::h1::dispatcher",
    "stream error: request parse error: ",
);

/// Where it says that a head is too large, which it then says there as well.
const DECODER: &str = "actix_http::h1::decoder";

/// How many there were since the process started.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// When they were logged last, and how many there were since.
static LOGGED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

thread_local! {
    /// What the library said of the connection that is about to end.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How many malformed requests there were since the process started.
pub(super) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// A connection ended, perhaps because of a malformed request.
pub(super) fn ended(peer: Option<SocketAddr>) {
    let Some(reason) = SAID.take() else { return };
    let more = {
        let mut logged = LOGGED.lock();
        let now = Instant::now();
        if logged
            .0
            .is_some_and(|last| now.duration_since(last) < LOG_EVERY)
        {
            logged.1 += 1;
            return;
        }
        std::mem::replace(&mut *logged, (Some(now), 0)).1
    };
    let peer = peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string());
    log::info!("malformed request from {peer}: {reason} ({more} more since the last line)");
}

/// Makes `log` the log, without what the library says of malformed requests. They are counted
/// whatever the log's level is.
pub fn log_to(log: Box<dyn Log>, level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(WithoutMalformed(log)))?;
    log::set_max_level(level.max(LevelFilter::Error));
    Ok(())
}

struct WithoutMalformed(Box<dyn Log>);

impl Log for WithoutMalformed {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        [DISPATCHER.0, DECODER].contains(&metadata.target()) || self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == DECODER && record.level() == log::Level::Error {
            return;
        }
        if record.target() == DISPATCHER.0 {
            let said = record.args().to_string();
            if let Some(reason) = said.strip_prefix(DISPATCHER.1) {
                COUNT.fetch_add(1, Ordering::Relaxed);
                SAID.set(Some(reason.to_owned()));
                return;
            }
        }
        self.0.log(record);
    }

    fn flush(&self) {
        self.0.flush();
    }
}
