//! Malformed requests: counted, and logged at most once a second, with the client's address.
//!
//! actix-http answers them itself and logs each as an error, without the address. It does so on
//! the thread of the connection, right before it drops the data of the connection. So its
//! message is kept for a moment, and logged when the connection ends.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The shortest time between log lines.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The module that logs a malformed request.
const DISPATCHER: &str = "actix_http::h1::dispatcher";

/// The beginning of its message.
const PARSE_ERROR: &str = "stream error: request parse error: ";

/// The module that logs a head that is too large; the dispatcher logs it as well.
const DECODER: &str = "actix_http::h1::decoder";

/// The number of malformed requests since the process started.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The time of the last log line, and the number of malformed requests since.
static LOGGED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

thread_local! {
    /// The message about the connection that is about to end.
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Returns the number of malformed requests since the process started.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs the malformed request that ended a connection, if one did.
pub(super) fn ended(peer: Option<SocketAddr>) {
    let Some(reason) = MESSAGE.take() else { return };
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

/// Installs `log` as the logger, without the library's messages about malformed requests. They
/// are counted at every log level.
pub fn log_to(log: Box<dyn Log>, level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(WithoutMalformed(log)))?;
    log::set_max_level(level.max(LevelFilter::Error));
    Ok(())
}

struct WithoutMalformed(Box<dyn Log>);

impl Log for WithoutMalformed {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        [DISPATCHER, DECODER].contains(&metadata.target()) || self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == DECODER && record.level() == log::Level::Error {
            return;
        }
        if record.target() == DISPATCHER {
            let message = record.args().to_string();
            if let Some(reason) = message.strip_prefix(PARSE_ERROR) {
                COUNT.fetch_add(1, Ordering::Relaxed);
                MESSAGE.set(Some(reason.to_owned()));
                return;
            }
        }
        self.0.log(record);
    }

    fn flush(&self) {
        self.0.flush();
    }
}
