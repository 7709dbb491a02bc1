//! Pooled connections, and the meaning of their errors.

use deadpool_postgres::{Object, Pool};
use futures_util::future::{try_join, try_join_all, try_join3};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::{Params, connect};
use crate::store::{StoreError, with_sources};

/// The limits of a transaction at the server, in milliseconds. They are not set for the
/// session, which under PgBouncer may be another one each time.
macro_rules! begin {
    ($mode:literal) => {
        concat!(
            "BEGIN ",
            $mode,
            "; SET LOCAL statement_timeout = 2500; SET LOCAL lock_timeout = 2000; ",
            "SET LOCAL idle_in_transaction_session_timeout = 10000"
        )
    };
}

/// Writes find rows by indexes. PostgreSQL keeps the plan of a foreign key's check for the whole
/// session: one that it made while a table had few rows would read the whole table for each row when
/// it has many. JIT is off, because the cost of a scan that has no index would turn it on.
const BEGIN: &str = concat!(
    begin!("READ WRITE"),
    "; SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
);
const BEGIN_READ_ONLY: &str = begin!("READ ONLY");

/// Without a limit: a COMMIT that is cancelled while it waits for a synchronous standby
/// succeeds although the standby does not have the data.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";

/// A connection that returns to the pool only after its last answer. Dropped before, with its
/// caller or by a timeout, it is closed.
pub(super) struct PooledConnection {
    pub(super) connection: Option<Object>,
    pub(super) idle: bool,
}

impl PooledConnection {
    pub(super) async fn from(pool: &Pool) -> Result<Self, StoreError> {
        let connection = pool
            .get()
            .await
            .map_err(|error| StoreError::Unavailable(with_sources(&error)))?;
        Ok(Self {
            connection: Some(connection),
            idle: true,
        })
    }

    /// Sends one read-only statement in a transaction of its own, in one round trip.
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.answer(async |connection: &Object| {
            let begin = connection.batch_execute(BEGIN_READ_ONLY);
            let ask = connection.query_typed(sql, params);
            let commit = connection.batch_execute("COMMIT");
            // Each is sent when it is first polled.
            let ((), rows, ()) = try_join3(begin, ask, commit).await?;
            Ok(rows)
        })
        .await
    }

    /// Sends statements together in one round trip, including the begin of their transaction. They
    /// are executed in order, and none after a failure.
    pub(super) async fn query_pipelined(
        &mut self,
        begins: bool,
        questions: &[(&'static str, Params<'_>)],
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        self.answer(async |connection: &Object| {
            let begin = async {
                if begins {
                    connection.batch_execute(BEGIN).await
                } else {
                    Ok(())
                }
            };
            let ask = questions
                .iter()
                .map(|(sql, params)| connection.query_typed(sql, params));
            // Each is sent when it is first polled.
            let ((), answers) = try_join(begin, try_join_all(ask)).await?;
            Ok(answers)
        })
        .await
    }

    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        self.answer(async |connection: &Object| connection.batch_execute(COMMIT).await)
            .await
    }

    /// Fails if the server does not answer, or does not accept writes.
    pub(super) async fn writable(&mut self) -> Result<(), StoreError> {
        let shown = self
            .answer(async |connection: &Object| {
                connection.simple_query("SHOW transaction_read_only").await
            })
            .await?;
        let is_on = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        };
        if shown.iter().any(is_on) {
            self.idle = false;
            Err(StoreError::Unavailable(
                "PostgreSQL is read-only: it is a standby, or default_transaction_read_only is on"
                    .to_owned(),
            ))
        } else {
            Ok(())
        }
    }

    /// Returns whether the connection is closed, so that the statement had no effect.
    pub(super) fn is_closed(&self) -> bool {
        self.connection
            .as_ref()
            .is_none_or(|connection| connection.is_closed())
    }

    async fn answer<T>(
        &mut self,
        ask: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let Some(connection) = &self.connection else {
            return Err(closed());
        };
        self.idle = false;
        match timeout(connect::ANSWER, ask(connection)).await {
            Ok(Ok(answer)) => {
                self.idle = true;
                Ok(answer)
            }
            Ok(Err(error)) => Err(store_error(&error)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer from Postgres within {:?}",
                connect::ANSWER
            ))),
        }
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if !self.idle
            && let Some(connection) = self.connection.take()
        {
            drop(Object::take(connection));
        }
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the connection was closed".into())
}

/// An error about the content of a statement is final. A server that is stopping, out of
/// resources or read-only (classes 08, 25, 53, 57, 58) is unavailable. A lock, a deadlock, a
/// timeout, or a scope that another transaction deletes or fills (23503) is a conflict.
pub(super) fn store_error(error: &tokio_postgres::Error) -> StoreError {
    let message = with_sources(error);
    let code = error.code().map(SqlState::code);
    match (code, code.map(|code| &code[..2])) {
        (Some("23503" | "57014"), _) | (_, Some("40" | "55")) => StoreError::Conflict(message),
        (_, None | Some("08" | "25" | "53" | "57" | "58")) => StoreError::Unavailable(message),
        (_, Some(_)) => StoreError::Refused(message),
    }
}
