//! Registrations: what an instance says about itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{DisplayName, Instance, InstanceKey, Metadata, ScopeKind, Status, Ttl, Weight};

/// A field of a request that may be omitted or `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// The field is omitted.
    #[default]
    Omitted,
    /// The field is `null`.
    Null,
    /// The field has a value.
    Given(T),
}

impl<T> Field<T> {
    /// Returns the value, if there is one.
    pub fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Omitted | Self::Null => None,
        }
    }

    /// Returns whether the field is omitted.
    pub fn is_omitted(&self) -> bool {
        matches!(self, Self::Omitted)
    }

    /// Returns whether the field is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// An optional value as part of a complete description: `None` is `null`.
impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Given)
    }
}

impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.given().serialize(serializer)
    }
}

/// For a field with `#[serde(default)]`.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::from)
    }
}

/// Who registered an instance: the name of the token and the address of the client, separated by
/// a space. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Registrant(Arc<str>);

impl Registrant {
    /// A client with the token of this name, which has no space.
    pub fn new(token: &str, peer: IpAddr) -> Self {
        Self(format!("{token} {peer}").into())
    }

    /// Returns the name of the token.
    pub fn token(&self) -> &str {
        self.0.split_once(' ').map_or(&self.0, |(token, _)| token)
    }

    /// Returns whether there is another copy of it.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Returns the address of the client.
    pub fn peer(&self) -> &str {
        self.0.split_once(' ').map_or("", |(_, peer)| peer)
    }
}

impl From<String> for Registrant {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Registrant> for String {
    fn from(registrant: Registrant) -> Self {
        registrant.0.as_ref().to_owned()
    }
}

/// As it is stored.
impl fmt::Display for Registrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The status that a registration gives to a service instance that is not held. A gateway is
/// disabled until an operator enables it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RegisteredStatus {
    /// It accepts traffic while it is online.
    #[default]
    Enabled,
    /// It accepts no traffic yet.
    Disabled,
    /// A new instance is enabled, and a known one keeps its status.
    Unchanged,
}

/// The fields of a registration. One that is omitted keeps its value while the lease of the
/// instance is alive, and takes the default otherwise: another process may have the address now.
/// One that is `null` takes the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The scope and address to register.
    pub key: InstanceKey,
    /// The name for people.
    pub name: Field<DisplayName>,
    /// The share of traffic.
    pub weight: Field<Weight>,
    /// Replaces all metadata.
    pub metadata: Field<Metadata>,
    /// The instance's own TTL.
    pub ttl: Field<Ttl>,
    /// The status.
    pub status: RegisteredStatus,
    /// Who registers it.
    pub by: Option<Registrant>,
}

/// How registrations that are one statement treat known instances: the fields that they reset to
/// the default although the lease is alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Resets {
    pub(crate) name: bool,
    pub(crate) weight: bool,
    pub(crate) metadata: bool,
    pub(crate) ttl: bool,
    /// Whether a known instance keeps its status.
    pub(crate) keeps_status: bool,
}

impl Registration {
    /// A registration of this instance without other fields.
    pub fn of(key: InstanceKey) -> Self {
        Self {
            key,
            name: Field::Omitted,
            weight: Field::Omitted,
            metadata: Field::Omitted,
            ttl: Field::Omitted,
            status: RegisteredStatus::default(),
            by: None,
        }
    }

    /// A registration of an instance as it is, and with its status; also after its lease has ended.
    pub(crate) fn unchanged(instance: &Instance) -> Self {
        Self {
            key: instance.key.clone(),
            name: instance.name.as_ref().map(|name| (**name).clone()).into(),
            weight: instance.given_weight.into(),
            metadata: Field::Given(instance.given_metadata.clone()),
            ttl: instance.ttl.into(),
            status: RegisteredStatus::Unchanged,
            by: None,
        }
    }

    /// Returns the status of a new instance.
    pub(crate) fn first_status(&self) -> Status {
        match (self.key.scope.kind, self.status) {
            (ScopeKind::Group, _) | (_, RegisteredStatus::Disabled) => Status::Disabled,
            (_, RegisteredStatus::Enabled | RegisteredStatus::Unchanged) => Status::Enabled,
        }
    }

    /// Returns whether a known instance that is not held keeps its status.
    pub(crate) fn keeps_status(&self) -> bool {
        self.key.scope.kind == ScopeKind::Group || self.status == RegisteredStatus::Unchanged
    }

    /// Returns which fields are reset. A field that is given may count as reset or not, so that all
    /// complete registrations have the same.
    pub(crate) fn resets(&self) -> Resets {
        let some_null = self.name.is_null()
            || self.weight.is_null()
            || self.metadata.is_null()
            || self.ttl.is_null();
        Resets {
            name: some_null && !self.name.is_omitted(),
            weight: some_null && !self.weight.is_omitted(),
            metadata: some_null && !self.metadata.is_omitted(),
            ttl: some_null && !self.ttl.is_omitted(),
            keeps_status: self.keeps_status(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        weight: Field<Weight>,
    }

    #[test]
    fn a_field_is_omitted_null_or_given() {
        let weight = |json| serde_json::from_str::<Body>(json).unwrap().weight;
        assert_eq!(weight("{}"), Field::Omitted);
        assert_eq!(weight(r#"{"weight":null}"#), Field::Null);
        let given = Weight::try_from(5).unwrap();
        assert_eq!(weight(r#"{"weight":5}"#), Field::Given(given));
    }

    #[test]
    fn a_registrant_is_a_token_and_a_peer() {
        let registrant = Registrant::new("web-team", "2001:db8::1".parse().unwrap());
        assert_eq!(registrant.token(), "web-team");
        assert_eq!(registrant.peer(), "2001:db8::1");
        assert_eq!(Registrant::from(registrant.to_string()), registrant);
    }
}
