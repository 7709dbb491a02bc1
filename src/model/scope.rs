//! Scopes: a group of gateways or a service, known by its key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use super::{DisplayName, Invalid, from_text, shown};

/// The key of a group or service: 1 to 100 characters, `[A-Za-z0-9][A-Za-z0-9._-]*`. It has no
/// colon and no glob character, so it can neither forge the lease key of another scope nor
/// widen a Redis pattern. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct ScopeKey(Arc<str>);

impl ScopeKey {
    /// The longest key, in characters (all ASCII).
    pub(crate) const MAX_LEN: usize = 100;

    /// Returns the key as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScopeKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let follows = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        match text.as_bytes() {
            [] => Err(Invalid::new("must not be empty")),
            bytes if bytes.len() > Self::MAX_LEN => Err(Invalid::new(format!(
                "must have at most {} characters, not {}",
                Self::MAX_LEN,
                text.chars().count()
            ))),
            [first, rest @ ..] if first.is_ascii_alphanumeric() && rest.iter().all(follows) => {
                Ok(Self(text.into()))
            }
            _ => Err(Invalid::new(format!(
                "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike {}",
                shown(text)
            ))),
        }
    }
}

impl TryFrom<String> for ScopeKey {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for ScopeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl From<ScopeKey> for String {
    fn from(key: ScopeKey) -> Self {
        key.as_str().to_owned()
    }
}

impl fmt::Display for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// A group of gateways. It must be declared before a gateway can register.
    Group,
    /// A service. Its first instance declares it.
    Service,
}

impl ScopeKind {
    /// Returns `group` or `service`, as in the database and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Service => "service",
        }
    }

    /// Returns `groups` or `services`, as in paths and lists.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Group => "groups",
            Self::Service => "services",
        }
    }

    /// Returns the scope of this kind with this key.
    pub fn with(self, key: ScopeKey) -> Scope {
        Scope { kind: self, key }
    }
}

impl FromStr for ScopeKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "group" => Ok(Self::Group),
            "service" => Ok(Self::Service),
            _ => Err(Invalid::new(format!(
                "must be 'group' or 'service', unlike {}",
                shown(text)
            ))),
        }
    }
}

/// A group or a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// The kind. A group and a service with the same key are different scopes.
    pub kind: ScopeKind,
    /// The key within the kind.
    pub key: ScopeKey,
}

impl Scope {
    /// Returns the key if the scope is of this kind.
    pub(crate) fn key_of(&self, kind: ScopeKind) -> Option<&str> {
        (self.kind == kind).then(|| self.key.as_str())
    }
}

/// `groups/edge`, `services/orders`: as in paths.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.key)
    }
}

/// The ID of a scope: 64 bits, assigned by the registry store, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScopeId(pub i64);

/// A scope as the registry store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRecord {
    /// Assigned by the registry store.
    pub id: ScopeId,
    /// The kind and the key.
    pub scope: Scope,
    /// The name for people; `None` shows the key.
    pub name: Option<DisplayName>,
    /// When it was declared.
    pub created_at: DateTime<Utc>,
    /// 1 for a new row, plus one with each change.
    pub revision: i64,
}

impl ScopeRecord {
    /// Returns the name for people, or the key if none was given.
    pub fn display_name(&self) -> &str {
        self.name
            .as_ref()
            .map_or(self.scope.key.as_str(), DisplayName::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_of_letters_digits_dot_underscore_and_dash() {
        for good in ["a", "0", "orders", "Order.v2_eu-1", &"k".repeat(100)] {
            assert_eq!(good.parse::<ScopeKey>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            ".a",
            "-a",
            "_a",
            "a:b",
            "*",
            "a*",
            "a?",
            "[a]",
            "a b",
            "a/b",
            "a\n",
            "é",
            "订单",
            &"k".repeat(101),
        ] {
            assert!(bad.parse::<ScopeKey>().is_err(), "{bad:?} must not parse");
        }
    }

    #[test]
    fn an_error_shows_the_rule_and_a_bounded_part_of_the_input() {
        let error = format!("a:{}", "b".repeat(90))
            .parse::<ScopeKey>()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike \"a:{}…\"",
                "b".repeat(38)
            )
        );
    }
}
