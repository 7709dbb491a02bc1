//! What the backends have in common: their URLs, and the errors of opening and of calling one.
//!
//! A URL may contain a password, which no error shows. The registry store has an error type of
//! its own for its calls, because it can fail in more ways.

use std::fmt;

use url::Url;

/// Why a text is not the URL of a backend. Never contains the URL itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    /// Creates the error; `reason` must not contain the URL.
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// Why a backend could not be opened. A retry does not help.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {backend}: {reason}")]
pub struct OpenError {
    /// The backend's URL without its password.
    pub(crate) backend: String,
    /// What was wrong, and what to do.
    pub(crate) reason: String,
}

/// Why a call of the lease store, the event log or the coordinator failed. The call may still
/// have taken effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// The backend cannot be reached, did not answer in time, or cannot serve the call now.
    #[error("{0}")]
    Unavailable(String),
    /// The backend answered with an error.
    #[error("{0}")]
    Refused(String),
}

/// The URL of a backend, with one or more hosts. It is displayed without passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// The URL as it was given.
    text: String,
    /// The URL with the first host only.
    url: Url,
    /// The user and the password with the `@` after them, or an empty text.
    user: String,
    /// The hosts, each with its port if it has one.
    hosts: Vec<String>,
}

impl BackendUrl {
    /// Parses a URL that may have several hosts: `scheme://user:password@host,host:port/path`.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let begin = text.find("://").map_or(0, |scheme| scheme + 3);
        let (scheme, rest) = text.split_at(begin);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let hosts: Vec<String> = hosts
            .split(',')
            .map(|host| host.trim().to_owned())
            .collect();
        let first = hosts.first().map(String::as_str).unwrap_or_default();
        let url = Url::parse(&format!("{scheme}{user}{first}{tail}")).map_err(UrlError::new)?;
        Ok(Self {
            text: text.to_owned(),
            url,
            user: user.to_owned(),
            hosts,
        })
    }

    /// Returns the URL with its passwords, for the driver only.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// Returns the URL with its passwords and the first host only.
    pub(crate) fn first(&self) -> &Url {
        &self.url
    }

    /// Returns the user and the password as given, with the `@` after them, or an empty text.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Returns the hosts as given, each with its port if it has one.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        if url.query().is_some() {
            let pairs: Vec<(String, String)> = url
                .query_pairs()
                .map(|(name, value)| {
                    let name_lower = name.to_ascii_lowercase();
                    let hidden = name_lower.contains("pass") && !name_lower.ends_with("_file");
                    let displayed = if hidden { "***".into() } else { value };
                    (name.into_owned(), displayed.into_owned())
                })
                .collect();
            url.query_pairs_mut().clear().extend_pairs(pairs);
        }
        let mut text = url.to_string();
        let begin = text.find("://").map_or(0, |scheme| scheme + 3);
        let end = text[begin..].find(['/', '?']).map(|end| begin + end);
        let other_hosts: String = self
            .hosts
            .iter()
            .skip(1)
            .map(|host| format!(",{host}"))
            .collect();
        text.insert_str(end.unwrap_or(text.len()), &other_hosts);
        f.write_str(&text)
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendUrl({self})")
    }
}
