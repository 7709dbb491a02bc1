//! The meaning of errors of the driver and of Redis.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::url::Address;

/// Why a call failed. It may have taken effect all the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The server cannot be reached, did not answer in time, or cannot serve now.
    #[error("{0}")]
    Unavailable(String),
    /// The server answered with an error.
    #[error("{0}")]
    Refused(String),
}

/// Why one server gave no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection broke.
    Broken(LinkError),
    /// The server is not a master that works.
    NotMaster(LinkError),
    /// Another server of the cluster holds the slot.
    Moved(Option<Address>),
    /// Another server of the cluster already holds the key.
    Ask(Option<Address>),
    /// The keys are being moved to another server of the cluster.
    TryAgain(LinkError),
    /// A script named a key of another server of the cluster, and has written nothing.
    NonLocal(LinkError),
    /// Anything else; the connection stays usable.
    Other(LinkError),
}

impl Fault {
    /// Classifies an error of the server at `address`.
    pub(super) fn of(error: &RedisError, address: &Address) -> Self {
        let text = reason(error);
        let away = || LinkError::Unavailable(text.clone());
        let redirect = || {
            let (to, _) = error.redirect_node()?;
            let (host, port) = to.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            // An empty host stands for the host that was asked.
            let host = match (host, address) {
                ("", Address::Tcp(asked, _)) => asked.as_str(),
                (host, _) => host,
            };
            Some(Address::Tcp(host.to_owned(), port.parse().ok()?))
        };
        let Some(code) = code(error) else {
            return Self::Broken(away());
        };
        match code {
            "MOVED" => Self::Moved(redirect()),
            "ASK" => Self::Ask(redirect()),
            "TRYAGAIN" => Self::TryAgain(away()),
            "READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED" | "CLUSTERDOWN" => {
                Self::NotMaster(away())
            }
            "BUSY" | "NOREPLICAS" | "OOM" | "MISCONF" => Self::Other(away()),
            _ if text.contains("non local key") => Self::NonLocal(LinkError::Unavailable(text)),
            _ => Self::Other(LinkError::Refused(text)),
        }
    }

    /// Returns the error for the caller, when nothing else can be tried.
    pub(super) fn into_error(self) -> LinkError {
        match self {
            Self::Broken(error)
            | Self::NotMaster(error)
            | Self::TryAgain(error)
            | Self::NonLocal(error)
            | Self::Other(error) => error,
            Self::Moved(_) | Self::Ask(_) => {
                LinkError::Unavailable("the slots of the cluster are moving".to_owned())
            }
        }
    }
}

/// Returns the code of an error that the server answered; `None` for a broken connection.
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

/// Whether the user must not run the command, or the server does not know it.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("nknown command"))
}

/// Returns the text of an error.
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
            format!("the ACL of Redis forbids it to this user ({text})")
        }
        _ => text,
    }
}
