//! Roles, tokens, and the scopes a token is limited to.
//!
//! The guard of the HTTP server uses it. A token is stored as its SHA-256 only, and is never
//! shown again after it was generated.

mod tokens;

use std::fmt;
use std::str::FromStr;

pub use self::tokens::{Token, TokenError};
pub(crate) use self::tokens::{TokenSources, Tokens};
use crate::model::{Scope, ScopeKind};

/// What a caller may do; each role includes the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read: lists, events, metrics.
    Read,
    /// Register, send heartbeats and deregister.
    Agent,
    /// Change instances of others, and scopes.
    Admin,
}

impl Role {
    /// Returns the name in a tokens file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Agent => "agent",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let roles = [Self::Read, Self::Agent, Self::Admin];
        let found = roles.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("role must be read, agent or admin, not {text:?}"))
    }
}

/// What callers without a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnonymousRole {
    /// Nothing.
    None,
    /// What a token of this role may do.
    Role(Role),
}

impl FromStr for AnonymousRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            role => role
                .parse()
                .map(Self::Role)
                .map_err(|_| format!("must be none, read, agent or admin, not {text:?}")),
        }
    }
}

/// `services/KEY` or `groups/KEY`, where the key may end in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopePattern {
    kind: ScopeKind,
    key: String,
    any_end: bool,
}

impl ScopePattern {
    /// Returns whether a scope matches.
    pub(crate) fn matches(&self, scope: &Scope) -> bool {
        let key = scope.key.as_str();
        let fits = if self.any_end {
            key.starts_with(&self.key)
        } else {
            key == self.key
        };
        scope.kind == self.kind && fits
    }
}

impl ScopePattern {
    /// Returns the kind and the key; the last part says whether it is the beginning of keys.
    pub(crate) fn parts(&self) -> (ScopeKind, String, bool) {
        (self.kind, self.key.clone(), self.any_end)
    }
}

impl fmt::Display for ScopePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.any_end { "*" } else { "" };
        write!(f, "{}/{}{end}", self.kind.plural(), self.key)
    }
}

impl FromStr for ScopePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [ScopeKind::Service, ScopeKind::Group];
        let parts = text.split_once('/').and_then(|(kind, key)| {
            let kind = kinds.into_iter().find(|known| known.plural() == kind)?;
            Some((
                kind,
                key.strip_suffix('*').unwrap_or(key),
                key.ends_with('*'),
            ))
        });
        match parts {
            Some((kind, key, any_end))
                if (any_end || !key.is_empty()) && key.chars().all(is_name_character) =>
            {
                Ok(Self {
                    kind,
                    key: key.to_owned(),
                    any_end,
                })
            }
            _ => Err(format!(
                "scope must be services/KEY or groups/KEY, where KEY may end in *, not {text:?}"
            )),
        }
    }
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._-".contains(character)
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the token, for the log and for holds.
    pub name: String,
    /// The role of the token.
    pub role: Role,
    /// The scopes to which it is limited; `None` is no limit.
    pub(crate) limit: Option<ScopePattern>,
}

impl Identity {
    /// Returns the scope to which it is limited, if that is a single one.
    pub(crate) fn only_scope(&self) -> Option<Scope> {
        let limit = self.limit.as_ref().filter(|limit| !limit.any_end)?;
        Some(limit.kind.with(limit.key.parse().ok()?))
    }

    /// Returns whether it permits a scope.
    pub(crate) fn reaches(&self, scope: &Scope) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.matches(scope))
    }
}

/// Parses a name of 1 to 100 letters, digits, `.`, `_` and `-`.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if (1..=100).contains(&text.len()) && text.chars().all(is_name_character) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "name must be 1 to 100 letters, digits, '.', '_' and '-', not {text:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScopeKey;

    fn scope(kind: ScopeKind, key: &str) -> Scope {
        kind.with(ScopeKey::try_from(key.to_owned()).unwrap())
    }

    #[test]
    fn a_pattern_means_a_scope_or_all_that_begin_so() {
        let orders = scope(ScopeKind::Service, "orders");
        let orders_eu = scope(ScopeKind::Service, "orders-eu");
        let group = scope(ScopeKind::Group, "orders");
        for (pattern, matched) in [
            ("services/orders", [true, false, false]),
            ("services/orders*", [true, true, false]),
            ("services/orders-*", [false, true, false]),
            ("services/*", [true, true, false]),
            ("groups/*", [false, false, true]),
        ] {
            let parsed: ScopePattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            let got = [&orders, &orders_eu, &group].map(|scope| parsed.matches(scope));
            assert_eq!(got, matched, "{pattern}");
        }
        for bad in [
            "",
            "*",
            "services",
            "services/",
            "service/a",
            "services/a*b",
            "services/a/b",
        ] {
            assert!(bad.parse::<ScopePattern>().is_err(), "{bad}");
        }
    }
}
