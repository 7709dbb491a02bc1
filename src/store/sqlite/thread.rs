//! The thread that has the SQLite connection. SQLite blocks, so nothing else runs on it.

use std::fs::File;
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::store::StoreError;

enum Job {
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
    Close,
}

/// How many jobs may wait. Callers beyond it wait for a place; admission to the
/// actors keeps them few.
const QUEUE: usize = 1024;

/// A handle to the thread. The thread ends, and closes the database, when it is told
/// to or when the last handle is gone.
#[derive(Clone)]
pub(super) struct SqliteThread {
    jobs: mpsc::Sender<Job>,
}

impl SqliteThread {
    /// Starts the thread with its connection and the lock that keeps other daemons
    /// from the file; both live as long as it does.
    pub(super) fn start(
        mut connection: Connection,
        lock: File,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sqlite".into())
            .spawn(move || {
                while let Some(Job::Run(job)) = queue.blocking_recv() {
                    job(&mut connection);
                }
                drop(connection);
                drop(lock);
            })?;
        Ok((Self { jobs }, thread))
    }

    /// Ends the thread after what was sent before. Later callers are told that it has ended.
    pub(super) fn close(&self) {
        // A full queue means that callers still wait; the last handle ends it then.
        let _ = self.jobs.try_send(Job::Close);
    }

    /// Runs `work` on the thread, after what was sent before it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.send(move |connection| {
            // Whoever asked may have given up: then nobody needs the answer.
            let _ = answer.send(work(connection));
        })
        .await?;
        answered.await.map_err(|_| gone())
    }

    /// Puts `job` in the queue without waiting for it.
    pub(super) async fn send(
        &self,
        job: impl FnOnce(&mut Connection) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.jobs
            .send(Job::Run(Box::new(job)))
            .await
            .map_err(|_| gone())
    }
}

/// The error of a caller whose thread has ended.
pub(super) fn gone() -> StoreError {
    StoreError::Unavailable("the SQLite thread has ended".into())
}

/// A full disk, a lock held by another program and the like may pass; what SQLite
/// says of a statement's own content does not.
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
