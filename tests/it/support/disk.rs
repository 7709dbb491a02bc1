//! Measures how long the disk takes to sync, beside a test of something that waits for it.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::time::Instant;

/// How often it is tried.
const EACH: Duration = Duration::from_millis(50);

/// A page that is written and synced in the folder where the servers' files are, again and again.
pub(crate) struct Disk {
    stop: Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Disk {
    pub(crate) fn watch() -> Self {
        let (stop, stopped) = channel();
        let thread = spawn(move || {
            let mut file = NamedTempFile::new().unwrap();
            let mut longest = Duration::ZERO;
            while stopped.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
                let begin = Instant::now();
                file.write_all(&[0; 4096]).unwrap();
                file.as_file().sync_data().unwrap();
                longest = longest.max(begin.elapsed());
            }
            longest
        });
        Self { stop, thread }
    }

    /// Ends that; the longest that it took.
    pub(crate) fn longest_sync(self) -> Duration {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}
