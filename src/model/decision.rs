//! Decisions of operators about instances. No heartbeat, registration or end of a process changes
//! them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Field, Metadata, Note, Status, Weight, rfc3339_millis};

/// Who holds an instance, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The name of the operator's token.
    pub by: String,
    /// The reason, if one was given.
    pub reason: Option<Note>,
    /// When the hold ends by itself and the instance is enabled; `None` for a hold that only an
    /// operator ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// An operator's values, which win over those that the instance registers; at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// The share of traffic.
    pub weight: Option<Weight>,
    /// All metadata.
    pub metadata: Option<Metadata>,
}

impl Overrides {
    /// Returns the overrides, unless there is none.
    pub fn of(weight: Option<Weight>, metadata: Option<Metadata>) -> Option<Box<Self>> {
        (weight.is_some() || metadata.is_some()).then(|| Box::new(Self { weight, metadata }))
    }
}

/// An operator's decision about the status of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusChange {
    /// Enables it, whatever its status was.
    Enable,
    /// Disables it until its next registration.
    Disable,
    /// Holds it until an operator ends that.
    Hold(Hold),
}

impl StatusChange {
    /// Returns the resulting status.
    pub fn status(&self) -> Status {
        match self {
            Self::Enable => Status::Enabled,
            Self::Disable => Status::Disabled,
            Self::Hold(_) => Status::Held,
        }
    }

    /// Returns the hold, if it is one.
    pub fn hold(&self) -> Option<&Hold> {
        match self {
            Self::Hold(hold) => Some(hold),
            Self::Enable | Self::Disable => None,
        }
    }
}

/// An operator's change of an instance. What is omitted stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceChange {
    /// The new status.
    pub status: Option<StatusChange>,
    /// Overrides the weight; `null` ends that.
    pub weight: Field<Weight>,
    /// Overrides all metadata; `null` ends that.
    pub metadata: Field<Metadata>,
    /// If this is a name, an instance that another one holds stays as it is.
    pub only_own_hold: Option<String>,
}

impl InstanceChange {
    /// Returns the change as it is logged, such as `status held (disk full), weight 5`.
    pub(crate) fn describe(&self) -> String {
        let status = self.status.as_ref();
        let hold = status.and_then(StatusChange::hold);
        let reason = hold.and_then(|hold| hold.reason.as_ref());
        let reason = reason.map_or_else(String::new, |reason| format!(" ({})", reason.as_str()));
        let until = hold.and_then(|hold| hold.until);
        let until = until.map_or_else(String::new, |it| format!(" until {}", rfc3339_millis(it)));
        let status =
            status.map(|status| format!("status {}{until}{reason}", status.status().as_str()));
        let weight = match &self.weight {
            Field::Omitted => None,
            Field::Null => Some("weight as registered".to_owned()),
            Field::Given(weight) => Some(format!("weight {}", weight.get())),
        };
        let metadata = match &self.metadata {
            Field::Omitted => None,
            Field::Null => Some("metadata as registered"),
            Field::Given(_) => Some("metadata"),
        };
        let parts = [status, weight, metadata.map(str::to_owned)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
