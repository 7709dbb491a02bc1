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

/// A backend's URL, shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl(Url);

impl BackendUrl {
    /// Wraps a URL.
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// The whole URL with its password, for the driver alone.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() && shown.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        if shown.query().is_some() {
            let pairs: Vec<(String, String)> = shown
                .query_pairs()
                .map(|(name, value)| {
                    let hidden = name.to_ascii_lowercase().contains("pass");
                    let value = if hidden { "***".into() } else { value };
                    (name.into_owned(), value.into_owned())
                })
                .collect();
            shown.query_pairs_mut().clear().extend_pairs(pairs);
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendUrl({self})")
    }
}
