//! The thread that has the SQLite connection. SQLite blocks, so nothing else runs on it.

use std::fs::File;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::store::StoreError;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// How many jobs may wait. Callers beyond it wait for a place; admission to the
/// actors keeps them few.
const QUEUE: usize = 1024;

/// A handle to the thread. The thread ends, and closes the database, when the last
/// handle is gone.
#[derive(Clone)]
pub(super) struct SqliteThread {
    jobs: mpsc::Sender<Job>,
}

impl SqliteThread {
    /// Starts the thread with its connection and the lock that keeps other daemons
    /// from the file; both live as long as it does.
    pub(super) fn start(mut connection: Connection, lock: File) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("sqlite".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
                drop(connection);
                drop(lock);
            })?;
        Ok(Self { jobs })
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
        self.jobs.send(Box::new(job)).await.map_err(|_| gone())
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
