//! Errors as HTTP answers: RFC 9457 problem documents with a stable `code`.
//!
//! The one place that knows statuses. What went wrong inside is logged here and not
//! told to the client.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::actor::{AskError, BeatError};
use crate::admission::Full;
use crate::directory::DirectoryError;
use crate::lease::LeaseError;
use crate::model::{InstanceKey, Invalid, Scope, ScopeKind};
use crate::store::StoreError;

/// Seconds after which it makes sense to try again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// How often one kind of failure is logged by each worker.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    allow: Option<String>,
    closes: bool,
}

/// The body of a problem. Its `type` is `about:blank`, which need not be said; so the
/// title is the status's own.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// The status in words.
    title: &'a str,
    status: u16,
    /// What went wrong, for programs: it stays the same from version to version.
    code: &'a str,
    /// What went wrong, for people.
    detail: &'a str,
    /// Which field it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'a str>,
}

/// The media type of that.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            field: None,
            allow: None,
            closes: false,
        }
    }

    /// The connection ends with this answer: the rest of the request is not read.
    pub(super) fn closing(self) -> Self {
        Self {
            closes: true,
            ..self
        }
    }

    /// A field that breaks a rule of the model.
    pub(super) fn invalid(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        let field = field.into();
        Self {
            detail: format!("{field} {reason}"),
            field: Some(field),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", "")
        }
    }

    /// The same of a field within `place`.
    pub(super) fn within(self, place: &str) -> Self {
        Self {
            detail: format!("{place}.{}", self.detail),
            field: self.field.map(|field| format!("{place}.{field}")),
            ..self
        }
    }

    pub(super) fn with_code(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    pub(super) fn scope_not_found(scope: &Scope) -> Self {
        let code = match scope.kind {
            ScopeKind::Group => "group_not_found",
            ScopeKind::Service => "service_not_found",
        };
        let kind = scope.kind.as_str();
        Self::new(
            StatusCode::NOT_FOUND,
            code,
            format!(
                "no {kind} {:?} is declared: PUT /v1/{scope} declares it",
                scope.key.as_str()
            ),
        )
    }

    pub(super) fn instance_not_found(key: &InstanceKey) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "instance_not_found",
            format!("no such instance is registered: PUT /v1/{key} registers it"),
        )
    }

    /// Nobody is known to call.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this takes a token that is known here: Authorization: Bearer TOKEN",
        )
    }

    /// There is no place for it. Logged as rarely as any failure.
    pub(super) fn shed(full: Full) -> Self {
        let detail = format!("{full}; try again later");
        Self::fault(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            &detail,
            &full,
        )
    }

    pub(super) fn method_not_allowed(allow: String) -> Self {
        Self {
            detail: format!("this path takes {allow}"),
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "")
        }
    }

    /// The daemon cannot do it now and may soon: what `detail` says is for clients.
    pub(super) fn unavailable(code: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// As [`Problem::new`] for a fault of the daemon's or a backend's, with `cause` for the log.
    fn fault(
        status: StatusCode,
        code: &'static str,
        detail: &str,
        cause: &dyn fmt::Display,
    ) -> Self {
        log_failure(code, cause);
        Self::new(status, code, detail)
    }
}

/// Logs a failure, at most once in [`LOG_EVERY`] for each code and worker: a store that
/// is away must not fill the disk as well.
fn log_failure(code: &'static str, cause: &dyn fmt::Display) {
    thread_local! {
        static LAST: RefCell<HashMap<&'static str, (Instant, u64)>> = RefCell::default();
    }
    LAST.with_borrow_mut(|last| {
        let now = Instant::now();
        match last.get_mut(code) {
            Some((at, unsaid)) if now.duration_since(*at) < LOG_EVERY => *unsaid += 1,
            Some((at, unsaid)) => {
                log::warn!("{code}: {cause} ({unsaid} more since the last line)");
                (*at, *unsaid) = (now, 0);
            }
            None => {
                log::warn!("{code}: {cause}");
                last.insert(code, (now, 0));
            }
        }
    });
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        answer.insert_header((CONTENT_TYPE, PROBLEM_JSON));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            answer.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if self.closes {
            answer.force_close();
        }
        if let Some(allow) = &self.allow {
            answer.insert_header((ALLOW, allow.as_str()));
        }
        let document = Document {
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        answer.body(serde_json::to_string(&document).unwrap_or_default())
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Overloaded => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "too many requests are waiting; try again later",
                &error,
            ),
            AskError::TimedOut => Self::fault(
                StatusCode::GATEWAY_TIMEOUT,
                "outcome_unknown",
                "no answer in time: it may or may not have happened; send it again",
                &error,
            ),
            AskError::Gone => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the daemon is stopping",
                &error,
            ),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "the registry store does not answer; nothing was changed; try again later",
                &error,
            ),
            StoreError::Conflict(_) => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "conflict",
                "something else holds the same rows; nothing was changed; try again",
                &error,
            ),
            StoreError::OutcomeUnknown(_) => Self::fault(
                StatusCode::GATEWAY_TIMEOUT,
                "outcome_unknown",
                "the connection to the registry store was lost: it may or may not have happened; send it again",
                &error,
            ),
            StoreError::Refused(_) => Self::fault(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "the registry store refused; the daemon's log says why",
                &error,
            ),
        }
    }
}

impl From<LeaseError> for Problem {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Unavailable(_) => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "leases_unavailable",
                "the lease store does not answer; try again later",
                &error,
            ),
            LeaseError::Refused(_) => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "leases_unavailable",
                "the lease store refused; the daemon's log says why",
                &error,
            ),
        }
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Store(error) => error.into(),
            DirectoryError::Overloaded => Self::fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "too many look-ups of unknown instances are under way; try again later",
                &error,
            ),
        }
    }
}

impl From<BeatError> for Problem {
    fn from(error: BeatError) -> Self {
        match error {
            BeatError::Leases(error) => error.into(),
            BeatError::Directory(error) => error.into(),
        }
    }
}

/// Names the field of an [`Invalid`].
pub(super) trait InField<T> {
    fn in_field(self, field: &str) -> Result<T, Problem>;
}

impl<T> InField<T> for Result<T, Invalid> {
    fn in_field(self, field: &str) -> Result<T, Problem> {
        self.map_err(|invalid| Problem::invalid(field, invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_within_has_a_status_and_a_code_and_reveals_nothing() {
        let secret = || "secret cause".to_owned();
        let cases: [(Problem, u16, &str); 11] = [
            (AskError::Overloaded.into(), 503, "overloaded"),
            (AskError::TimedOut.into(), 504, "outcome_unknown"),
            (AskError::Gone.into(), 503, "stopping"),
            (
                StoreError::Unavailable(secret()).into(),
                503,
                "store_unavailable",
            ),
            (
                StoreError::OutcomeUnknown(secret()).into(),
                504,
                "outcome_unknown",
            ),
            (StoreError::Conflict(secret()).into(), 503, "conflict"),
            (StoreError::Refused(secret()).into(), 500, "internal_error"),
            (
                LeaseError::Unavailable(secret()).into(),
                503,
                "leases_unavailable",
            ),
            (
                LeaseError::Refused(secret()).into(),
                503,
                "leases_unavailable",
            ),
            (DirectoryError::Overloaded.into(), 503, "overloaded"),
            (
                BeatError::Leases(LeaseError::Unavailable(secret())).into(),
                503,
                "leases_unavailable",
            ),
        ];
        for (problem, status, code) in cases {
            let answer = problem.error_response();
            assert_eq!((answer.status().as_u16(), problem.code), (status, code));
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), status == 503);
            let content_type = answer.headers().get(CONTENT_TYPE).unwrap();
            assert_eq!(content_type, "application/problem+json");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
    }
}
