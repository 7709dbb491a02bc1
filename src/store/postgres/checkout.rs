//! Connections on loan from the pool, and what their errors mean.

use deadpool_postgres::{Object, Pool};
use futures_util::future::{try_join, try_join_all};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::{DbError, SqlState};

use super::{Params, connect};
use crate::store::{StoreError, with_sources};

/// A connection that goes back to the pool only when the last answer has come. Dropped
/// before, with its caller or by a timeout, it is closed.
pub(super) struct Checkout {
    pub(super) connection: Option<Object>,
    pub(super) idle: bool,
}

impl Checkout {
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

    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.answer(async |connection: &Object| {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, params).await
        })
        .await
    }

    /// Statements that are sent together, so that they cost one round trip; where they begin
    /// a transaction, that too. They are carried out in this order, and after a failure none is.
    pub(super) async fn query_together(
        &mut self,
        begins: bool,
        questions: &[(&'static str, Params<'_>)],
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        self.answer(async |connection: &Object| {
            let mut statements = Vec::with_capacity(questions.len());
            for (sql, _) in questions {
                statements.push(connection.prepare_cached(sql).await?);
            }
            let begin = async {
                match begins {
                    true => connection.batch_execute("BEGIN").await,
                    false => Ok(()),
                }
            };
            let questions = statements.iter().zip(questions);
            let answers =
                questions.map(|(statement, (_, params))| connection.query(statement, params));
            // Each is sent when it is first polled.
            let ((), answers) = try_join(begin, try_join_all(answers)).await?;
            Ok(answers)
        })
        .await
    }

    pub(super) async fn execute_simple(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.answer(async |connection: &Object| connection.batch_execute(sql).await)
            .await
    }

    /// Whether the server is gone, so that nothing can have come of what was asked.
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
            return Err(gone());
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

impl Drop for Checkout {
    fn drop(&mut self) {
        if !self.idle
            && let Some(connection) = self.connection.take()
        {
            drop(Object::take(connection));
        }
    }
}

pub(super) fn gone() -> StoreError {
    StoreError::Unavailable("the connection was closed".into())
}

/// What Postgres says of a statement's content is final. That it is stopping, out of
/// resources or read-only (classes 08, 25, 53, 57, 58) is not; and a lock, a deadlock, a
/// statement's time, a scope that another transaction deletes or fills (23503), or a statement
/// that was prepared before another daemon migrated is a matter of the moment.
pub(super) fn store_error(error: &tokio_postgres::Error) -> StoreError {
    let message = with_sources(error);
    // Its code, 0A000, is also that of what the server never does.
    let routine = error.as_db_error().and_then(DbError::routine);
    if routine == Some("RevalidateCachedQuery") {
        return StoreError::Conflict(message);
    }
    let code = error.code().map(SqlState::code);
    match (code, code.map(|code| &code[..2])) {
        (Some("23503" | "57014"), _) | (_, Some("40" | "55")) => StoreError::Conflict(message),
        (_, None | Some("08" | "25" | "53" | "57" | "58")) => StoreError::Unavailable(message),
        (_, Some(_)) => StoreError::Refused(message),
    }
}
