//! Classifies the errors of the driver and of Redis.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::address::Address;
use crate::backend::BackendError;

/// Why a call to one server failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection broke.
    Broken(BackendError),
    /// The server is not a working master.
    NotMaster(BackendError),
    /// Another server of the cluster holds the slot.
    Moved(Option<Address>),
    /// Another server of the cluster has already imported the key.
    Ask(Option<Address>),
    /// The keys are being moved to another server of the cluster; the call can be retried.
    TryAgain(BackendError),
    /// A script accessed a key of another server of the cluster, before it wrote anything.
    NonLocal(BackendError),
    /// Any other error; the connection remains usable.
    Other(BackendError),
}

impl Fault {
    /// Classifies an error of the server at `address`.
    pub(super) fn of(error: &RedisError, address: &Address) -> Self {
        let text = reason(error);
        let unavailable = || BackendError::Unavailable(text.clone());
        let redirect = || {
            let (to, _) = error.redirect_node()?;
            let (host, port) = to.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            // An empty host means the host that was called.
            let host = match (host, address) {
                ("", Address::Tcp(called, _)) => called.as_str(),
                (host, _) => host,
            };
            Some(Address::Tcp(host.to_owned(), port.parse().ok()?))
        };
        let Some(code) = code(error) else {
            return Self::Broken(unavailable());
        };
        match code {
            "MOVED" => Self::Moved(redirect()),
            "ASK" => Self::Ask(redirect()),
            "TRYAGAIN" => Self::TryAgain(unavailable()),
            "READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED" | "CLUSTERDOWN" => {
                Self::NotMaster(unavailable())
            }
            "BUSY" | "NOREPLICAS" | "OOM" | "MISCONF" => Self::Other(unavailable()),
            _ if text.contains("non local key") => Self::NonLocal(BackendError::Unavailable(text)),
            _ => Self::Other(BackendError::Refused(text)),
        }
    }

    /// Returns the error for the caller, when the call is not retried.
    pub(super) fn into_error(self) -> BackendError {
        match self {
            Self::Broken(error)
            | Self::NotMaster(error)
            | Self::TryAgain(error)
            | Self::NonLocal(error)
            | Self::Other(error) => error,
            Self::Moved(_) | Self::Ask(_) => {
                BackendError::Unavailable("slots of the Redis Cluster are being moved".to_owned())
            }
        }
    }
}

/// Returns the code of an error that the server returned; `None` for a broken connection.
/// Before Redis 7 the code of an error within a script is only in its text.
pub(super) fn code(error: &RedisError) -> Option<&str> {
    const HIDDEN: &[&str] = &[
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "NOREPLICAS",
        "OOM",
        "MISCONF",
    ];
    let code = error.code()?;
    let detail = error.detail().unwrap_or_default();
    let hidden = HIDDEN
        .iter()
        .find(|hidden| detail.contains(&format!("-{hidden} ")));
    Some(hidden.map_or(code, |hidden| hidden))
}

/// Returns whether the ACL forbids the command to the user, or the server does not know it.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("nknown command"))
}

/// Returns the text of an error, for messages.
pub(super) fn reason(error: &RedisError) -> String {
    let text = match error.detail() {
        Some(detail) => format!(
            "{}: {detail}",
            error.to_string().trim_end_matches(&format!(": {detail}"))
        ),
        None => error.to_string(),
    };
    if error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
    {
        return format!("Redis refused the user or the password of the URL ({text})");
    }
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            format!("the ACL of Redis forbids the command to this user ({text})")
        }
        _ => text,
    }
}
