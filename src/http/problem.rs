//! Errors as HTTP responses: RFC 9457 problem documents with a stable `code`.
//!
//! The cause of an internal failure is logged here and not sent to the client.

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

use super::Code;
use crate::actor::{AskError, WriteError};
use crate::admission::LimitExceeded;
use crate::backend::BackendError;
use crate::directory::DirectoryError;
use crate::model::{Instance, InstanceKey, Invalid, Scope, ScopeKind};
use crate::store::StoreError;

/// The value of `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The shortest time between log lines about one code, per worker.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    field: Option<String>,
    allow: Option<String>,
    closes: bool,
}

/// The body of an error response. Its `type` is `about:blank`, which may be omitted, so the
/// title is the text of the status.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// The text of the status.
    title: &'a str,
    status: u16,
    code: Code,
    /// What is wrong, for people.
    detail: &'a str,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'a str>,
}

/// The media type of problem documents.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            field: None,
            allow: None,
            closes: false,
        }
    }

    /// Closes the connection after this response: the rest of the request is not read.
    pub(super) fn closing(self) -> Self {
        Self {
            closes: true,
            ..self
        }
    }

    /// Returns the problem for a field that breaks a rule of the model.
    pub(super) fn invalid(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        let field = field.into();
        Self {
            detail: format!("{field} {reason}"),
            field: Some(field),
            ..Self::new(Code::InvalidField, "")
        }
    }

    /// Prepends `prefix` to the name of the field.
    pub(super) fn within(self, prefix: &str) -> Self {
        Self {
            detail: format!("{prefix}.{}", self.detail),
            field: self.field.map(|field| format!("{prefix}.{field}")),
            ..self
        }
    }

    pub(super) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Returns what went wrong, for programs.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// Returns what went wrong, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn scope_not_found(scope: &Scope) -> Self {
        let code = match scope.kind {
            ScopeKind::Group => Code::GroupNotFound,
            ScopeKind::Service => Code::ServiceNotFound,
        };
        let kind = scope.kind.as_str();
        Self::new(
            code,
            format!(
                "no {kind} {:?} is declared: PUT /v1/{scope} declares it",
                scope.key.as_str()
            ),
        )
    }

    pub(super) fn instance_not_found(key: &InstanceKey) -> Self {
        Self::new(
            Code::InstanceNotFound,
            format!("the instance is not registered: PUT /v1/{key} registers it"),
        )
    }

    /// Returns the problem for an instance that only an operator may deregister.
    pub(super) fn decided(instance: &Instance) -> Self {
        let decision = match &instance.hold {
            Some(hold) => {
                let reason = hold.reason.as_ref().map(|reason| reason.as_str());
                let reason = reason.map(|reason| format!(": {reason}"));
                format!("is held by {:?}{}", hold.by, reason.unwrap_or_default())
            }
            None if instance.overrides.is_some() => "has values of an operator".to_owned(),
            None => "is a gateway that an operator has approved".to_owned(),
        };
        Self::new(
            Code::DecidedByOperator,
            format!("the instance {decision}; only a token of the role admin may deregister it"),
        )
    }

    /// Returns the problem for a request without a valid token.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            Code::Unauthorized,
            "a valid bearer token is required: send Authorization: Bearer TOKEN",
        )
    }

    /// Returns the problem for a request that got no permit, and logs it at most once in
    /// [`LOG_EVERY`].
    pub(super) fn shed(exceeded: LimitExceeded) -> Self {
        let detail = format!("{exceeded}; retry later");
        Self::fault(Code::Overloaded, &detail, &exceeded)
    }

    pub(super) fn method_not_allowed(allow: String) -> Self {
        Self {
            detail: format!("this path supports only {allow}"),
            allow: Some(allow),
            ..Self::new(Code::MethodNotAllowed, "")
        }
    }

    /// Returns the problem for a failure of the daemon or a backend, and logs its cause.
    fn fault(code: Code, detail: &str, cause: &dyn fmt::Display) -> Self {
        log_failure(code, cause);
        Self::new(code, detail)
    }
}

/// Logs a failure, at most once in [`LOG_EVERY`] for each code and worker: an outage of a
/// backend must not fill the disk.
fn log_failure(code: Code, cause: &dyn fmt::Display) {
    thread_local! {
        static LAST: RefCell<HashMap<Code, (Instant, u64)>> = RefCell::default();
    }
    LAST.with_borrow_mut(|last| {
        let now = Instant::now();
        let name = code.as_str();
        match last.get_mut(&code) {
            Some((at, suppressed)) if now.duration_since(*at) < LOG_EVERY => *suppressed += 1,
            Some((at, suppressed)) => {
                log::warn!("{name}: {cause} ({suppressed} more since the last line)");
                (*at, *suppressed) = (now, 0);
            }
            None => {
                log::warn!("{name}: {cause}");
                last.insert(code, (now, 0));
            }
        }
    });
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.code.status();
        let mut answer = HttpResponse::build(status);
        answer.insert_header((CONTENT_TYPE, PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if status == StatusCode::UNAUTHORIZED {
            answer.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if self.closes {
            answer.force_close();
        }
        if let Some(allow) = &self.allow {
            answer.insert_header((ALLOW, allow.as_str()));
        }
        let document = Document {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        answer.body(serde_json::to_string(&document).unwrap_or_default())
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let (code, detail) = match error {
            AskError::Overloaded => (
                Code::Overloaded,
                "too many requests are waiting; retry later",
            ),
            AskError::TimedOut => (
                Code::OutcomeUnknown,
                "no answer in time: the change may or may not have happened; send the request again",
            ),
            AskError::Ended => (Code::Stopping, "the daemon is stopping"),
        };
        Self::fault(code, detail, &error)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Ask(error) => error.into(),
            WriteError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (code, detail) = match error {
            StoreError::Unavailable(_) => (
                Code::StoreUnavailable,
                "the registry store does not answer; nothing was changed; retry later",
            ),
            StoreError::Conflict(_) => (
                Code::WriteConflict,
                "another transaction holds the same rows; nothing was changed; retry",
            ),
            StoreError::OutcomeUnknown(_) => (
                Code::OutcomeUnknown,
                "the connection to the registry store was lost: the change may or may not have happened; send the request again",
            ),
            StoreError::Refused(_) => (
                Code::InternalError,
                "the registry store refused the request; see the daemon's log",
            ),
        };
        Self::fault(code, detail, &error)
    }
}

impl From<BackendError> for Problem {
    fn from(error: BackendError) -> Self {
        let (code, detail) = match error {
            BackendError::Unavailable(_) => (
                Code::LeasesUnavailable,
                "the lease store does not answer; retry later",
            ),
            BackendError::Refused(_) => (
                Code::LeasesUnavailable,
                "the lease store refused the request; see the daemon's log",
            ),
        };
        Self::fault(code, detail, &error)
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Store(error) => error.into(),
            DirectoryError::Overloaded => Self::fault(
                Code::Overloaded,
                "too many look-ups of unknown instances are in flight; retry later",
                &error,
            ),
        }
    }
}

/// Adds the name of the field to an [`Invalid`].
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_internal_failure_has_a_code_and_its_cause_stays_in_the_log() {
        let secret = || "secret cause".to_owned();
        let cases: [(Problem, Code); 11] = [
            (AskError::Overloaded.into(), Code::Overloaded),
            (AskError::TimedOut.into(), Code::OutcomeUnknown),
            (AskError::Ended.into(), Code::Stopping),
            (
                StoreError::Unavailable(secret()).into(),
                Code::StoreUnavailable,
            ),
            (
                StoreError::OutcomeUnknown(secret()).into(),
                Code::OutcomeUnknown,
            ),
            (StoreError::Conflict(secret()).into(), Code::WriteConflict),
            (StoreError::Refused(secret()).into(), Code::InternalError),
            (
                BackendError::Unavailable(secret()).into(),
                Code::LeasesUnavailable,
            ),
            (
                BackendError::Refused(secret()).into(),
                Code::LeasesUnavailable,
            ),
            (DirectoryError::Overloaded.into(), Code::Overloaded),
            (
                DirectoryError::Store(StoreError::Unavailable(secret())).into(),
                Code::StoreUnavailable,
            ),
        ];
        for (problem, code) in cases {
            assert_eq!(problem.code, code);
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
    }

    #[test]
    fn each_code_is_unique_and_an_error_with_the_headers_of_its_status() {
        let mut names = HashSet::new();
        for code in Code::ALL {
            let answer = Problem::new(*code, "because").error_response();
            let status = answer.status();
            assert!(names.insert(code.as_str()), "{code:?} twice");
            assert!(status.is_client_error() || status.is_server_error());
            assert_eq!(
                answer.headers().contains_key(RETRY_AFTER),
                status == StatusCode::SERVICE_UNAVAILABLE
            );
            assert_eq!(
                answer.headers().contains_key(WWW_AUTHENTICATE),
                status == StatusCode::UNAUTHORIZED
            );
            assert_eq!(answer.headers().get(CONTENT_TYPE).unwrap(), PROBLEM_JSON);
        }
    }
}
