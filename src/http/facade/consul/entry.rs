//! The reserved metadata entry of Consul clients: IDs, tags and checks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::Problem;
use crate::http::problem::InField;
use crate::model::{Field, Instance, Protocol, Registrant, Registration, Ttl};

/// The TTL of a service without a check. Its lease is renewed by the daemon.
const UNCHECKED_TTL: u64 = 60;

/// The ID in the index of all services without a check.
pub(super) const UNCHECKED: &str = "unchecked";

/// The status of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http::facade) enum CheckStatus {
    Passing,
    Warning,
    Critical,
}

impl CheckStatus {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" | "pass" => Some(Self::Passing),
            "warning" | "warn" => Some(Self::Warning),
            "critical" | "fail" => Some(Self::Critical),
            _ => None,
        }
    }
}

/// A TTL check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) id: String,
    pub(super) name: String,
    /// The last status that was reported.
    pub(super) status: CheckStatus,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) notes: String,
    /// The text that was reported with the status.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) output: String,
    /// In seconds.
    pub(super) ttl: u64,
}

/// The reserved metadata entry: the values that only clients of Consul use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// `service/ID`, and `check/ID` for each check.
    pub(super) ids: Vec<String>,
    /// The name of the service, unless it is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tagged_addresses: Option<Value>,
    /// The weight while a check warns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) tag_override: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) checks: Vec<Check>,
}

/// Returns the index entry of the ID of a service.
pub(super) fn service_id(id: &str) -> String {
    format!("service/{id}")
}

/// Returns the index entry of the ID of a check.
pub(super) fn check_id(id: &str) -> String {
    format!("check/{id}")
}

impl Entry {
    /// Reads the entry of an instance; `None` if no Consul client registered it.
    pub(super) fn of(instance: &Instance) -> Option<Self> {
        let text = instance.given_metadata.of_protocol(Protocol::Consul)?;
        serde_json::from_str(text).ok()
    }

    /// Returns the ID of the service.
    pub(super) fn id(&self) -> Option<&str> {
        self.ids.iter().find_map(|id| id.strip_prefix("service/"))
    }

    /// Makes the entries of the index.
    pub(super) fn index(&mut self, id: &str) {
        let checks = self.checks.iter().map(|check| check_id(&check.id));
        let unchecked = self.checks.is_empty().then(|| UNCHECKED.to_owned());
        self.ids = [service_id(id)]
            .into_iter()
            .chain(checks)
            .chain(unchecked)
            .collect();
    }

    /// Returns whether a check says that the instance is not able to serve.
    pub(super) fn is_critical(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|check| check.status == CheckStatus::Critical)
    }

    /// Returns the TTL of the lease: that of the check which is to be updated first.
    pub(super) fn ttl(&self) -> Ttl {
        let shortest = self.checks.iter().map(|check| check.ttl).min();
        Ttl::nearest(shortest.unwrap_or(UNCHECKED_TTL))
    }

    /// Returns the registration that changes the entry of an instance, and nothing else but its TTL.
    pub(super) fn change(
        mut self,
        instance: &Instance,
        by: Registrant,
    ) -> Result<Registration, Problem> {
        let id = self.id().unwrap_or_default().to_owned();
        self.index(&id);
        let ttl = self.ttl();
        let text = serde_json::to_string(&self).unwrap_or_default();
        let metadata = instance
            .given_metadata
            .with_protocol(Protocol::Consul, Some(text));
        Ok(Registration {
            metadata: Field::Given(metadata.in_field("check")?),
            ttl: Field::Given(ttl),
            by: Some(by),
            ..Registration::unchanged(instance)
        })
    }
}
