//! What the backends have in common when they are named or cannot be opened.
//!
//! Each layer has its own error type beside its trait; this is for the URL a
//! backend is chosen by, which is also the one thing that may hold a password.

use std::fmt;

use url::Url;

/// Why a text is not the URL of a backend. Never shows the URL itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    /// With the reason, which must not hold the URL.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// Why a backend could not be opened. Trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {backend}: {reason}")]
pub struct OpenError {
    /// The backend's URL without its password.
    pub backend: String,
    /// What was wrong, and what to do.
    pub reason: String,
}

/// A backend's URL, which may name several hosts, shown without its passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// As it was given.
    text: String,
    /// With the first host alone.
    url: Url,
    /// The user and the password with the `@` after them, or nothing.
    user: String,
    /// Each with its port if one was given.
    hosts: Vec<String>,
}

impl BackendUrl {
    /// Reads a URL whose authority may be a list: `scheme://user:password@host,host:port/path`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
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

    /// The text with its passwords, for the driver alone.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The URL with its passwords and the first host alone.
    pub fn first(&self) -> &Url {
        &self.url
    }

    /// The user and the password as they were written, with the `@` after them, or nothing.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The hosts as they were written, each with its port if one was given.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if shown.password().is_some() && shown.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        if shown.query().is_some() {
            let pairs: Vec<(String, String)> = shown
                .query_pairs()
                .map(|(name, value)| {
                    let name_lower = name.to_ascii_lowercase();
                    let hidden = name_lower.contains("pass") && !name_lower.ends_with("_file");
                    let value = if hidden { "***".into() } else { value };
                    (name.into_owned(), value.into_owned())
                })
                .collect();
            shown.query_pairs_mut().clear().extend_pairs(pairs);
        }
        let mut shown = shown.to_string();
        let begin = shown.find("://").map_or(0, |scheme| scheme + 3);
        let end = shown[begin..].find(['/', '?']).map(|end| begin + end);
        let more: String = self
            .hosts
            .iter()
            .skip(1)
            .map(|host| format!(",{host}"))
            .collect();
        shown.insert_str(end.unwrap_or(shown.len()), &more);
        f.write_str(&shown)
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendUrl({self})")
    }
}
