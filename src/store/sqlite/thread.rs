//! The thread that owns the SQLite connection. SQLite blocks, so nothing else runs on it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{BUSY_TIMEOUT, PROBE_TIMEOUT};
use crate::store::StoreError;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The most jobs in the channel. Further callers wait until one is taken.
const QUEUE: usize = 1024;

/// The time limit for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// A handle to the thread. The thread ends, and closes the database, when it is closed or when
/// the last handle is dropped.
#[derive(Clone)]
pub(super) struct SqliteThread {
    jobs: mpsc::Sender<Job>,
    closing: Arc<AtomicBool>,
    writes: Writes,
}

/// Whether the last write failed because the store is unavailable, for example on a full disk.
#[derive(Clone, Default)]
pub(super) struct Writes {
    failed: Arc<AtomicBool>,
}

impl Writes {
    /// Remembers the result of a write.
    pub(super) fn note<T>(&self, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => self.failed.store(false, Ordering::Relaxed),
            Err(StoreError::Unavailable(_)) => self.failed.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// Returns whether the store can be written: after a failed write only a successful write shows
    /// that, because a full disk lets a transaction begin; otherwise a transaction that changes
    /// nothing does.
    pub(super) fn probe(&self, connection: &mut Connection) -> Result<(), StoreError> {
        connection
            .busy_timeout(PROBE_TIMEOUT)
            .map_err(store_error)?;
        let probed = if self.failed.load(Ordering::Relaxed) {
            // A header field that no program reads is set to its present value, which writes one
            // page of the log.
            let same = connection
                .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
                .and_then(|version| connection.pragma_update(None, "user_version", version));
            let outcome = same.map_err(store_error);
            self.note(&outcome);
            outcome
        } else {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            begun.map(drop).map_err(store_error)
        };
        connection.busy_timeout(BUSY_TIMEOUT).map_err(store_error)?;
        probed
    }
}

impl SqliteThread {
    /// Starts the thread with its connection and the lock that excludes other daemons; both live as
    /// long as the thread, and the lock is released last.
    pub(super) fn start(
        mut connection: Connection,
        lock: File,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let thread = std::thread::Builder::new()
            .name("sqlite".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    if closed.load(Ordering::Acquire) {
                        break;
                    }
                    job(&mut connection);
                }
                drop(connection);
                drop(lock);
            })?;
        let handle = Self {
            jobs,
            closing,
            writes: Writes::default(),
        };
        Ok((handle, thread))
    }

    /// Returns the state of the last write.
    pub(super) fn writes(&self) -> Writes {
        self.writes.clone()
    }

    /// Ends the thread after its present job. Waiting callers get an error.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        // Wakes an idle thread; one whose queue is full is not idle.
        let _ = self.jobs.try_send(Box::new(|_| {}));
    }

    /// Runs `work` on the thread, after earlier jobs. A caller gets an error after [`ANSWER`], and
    /// a job without a waiting caller is skipped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.send(move |connection| {
                if !answer.is_closed() {
                    // The caller may have given up.
                    let _ = answer.send(work(connection));
                }
            })
            .await?;
            answered.await.map_err(|_| closed())
        };
        timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Puts `job` into the queue without waiting for its result.
    pub(super) async fn send(
        &self,
        job: impl FnOnce(&mut Connection) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.jobs.send(Box::new(job)).await.map_err(|_| closed())
    }
}

/// Returns the error for a caller that has waited too long.
fn late() -> StoreError {
    StoreError::Unavailable(format!("no answer from SQLite within {ANSWER:?}"))
}

/// Returns the error for a caller whose thread has ended.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the SQLite thread has ended".into())
}

/// A full disk, a lock of another program and the like are temporary; an error about the
/// content of a statement is not.
pub(super) fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::TooBig
            | ErrorCode::ParameterOutOfRange,
        )
        | None => StoreError::Refused(error.to_string()),
        Some(_) => StoreError::Unavailable(error.to_string()),
    }
}
