//! The types of the domain: plain data that parses itself.
//!
//! Every value is valid: each type is made by a parser that states its limits, where the value
//! enters the daemon. This module knows no database, no wire format other than its own text,
//! and no time.

mod action;
mod address;
mod decision;
mod event;
mod instance;
mod json;
mod label;
mod metadata;
mod registration;
mod replica;
mod scope;
mod selection;
mod time;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserializer;
use serde::de::{Error, Visitor};

pub use action::{Action, ActionKind, ActionRecord, ActionSelection, Subject};
pub use address::Address;
pub use decision::{Hold, InstanceChange, Overrides, StatusChange};
pub use event::{Event, EventId, EventKind, ProtectionCause, ProtectionReason};
pub use instance::{Instance, InstanceId, InstanceKey, Presence, Status, Ttl, Weight};
pub(crate) use json::parse_json;
pub use label::{DisplayName, Label, Note};
pub use metadata::{Metadata, Protocol};
pub(crate) use metadata::{StoredMetadata, stored as stored_metadata};
pub(crate) use registration::Resets;
pub use registration::{Field, RegisteredStatus, Registrant, Registration};
pub use replica::{ReplicaId, ReplicaState};
pub use scope::{Scope, ScopeId, ScopeKey, ScopeKind, ScopeRecord};
pub use selection::{AddressPattern, SearchText, Selection};
pub use time::Epoch;
pub(crate) use time::rfc3339_millis;

/// The text or number is not a valid value. The message states the rule and the input; the
/// caller prepends the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Returns at most the first 40 characters of the input, quoted and escaped, so that an error
/// message stays short and on one line.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Parses a JSON string without copying it.
fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Invalid>,
{
    struct Text<T>(PhantomData<T>);

    impl<T: FromStr<Err = Invalid>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(PhantomData))
}
