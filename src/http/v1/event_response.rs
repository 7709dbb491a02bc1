//! An event as streams and the history show it.

use serde::Serialize;
use utoipa::ToSchema;

use super::instance_response::RegistrantResponse;
use crate::history::{HistoryEntry, InstanceState, Subject};
use crate::model::{ProtectionCause, ScopeKind, Status, Weight, rfc3339_millis};

/// The data of an event.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(in crate::http) struct EventResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    service: Option<&'a str>,
    /// The instance, as it was after the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u16, required = false)]
    weight: Option<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, pattern = "^(enabled|disabled|held)$")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    available: Option<bool>,
    /// The name of a declared scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<&'a str>,
    /// The reason of a hold, or of protection mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'a str>,
    /// The same for programs: `code`, and the numbers in the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    cause: Option<&'a ProtectionCause>,
    /// The fields that changed.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    changed: &'a [String],
    /// Who requested the change; absent if no client did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<RegistrantResponse<'a>>,
    at: String,
}

impl<'a> From<&'a HistoryEntry> for EventResponse<'a> {
    fn from(entry: &'a HistoryEntry) -> Self {
        let (scope, instance) = (entry.scope(), entry.instance());
        let name = match &entry.subject {
            Subject::Scope(_, name) => name.as_deref(),
            Subject::Registry | Subject::Instance(_) => None,
        };
        Self {
            group: scope.and_then(|scope| scope.key_of(ScopeKind::Group)),
            service: scope.and_then(|scope| scope.key_of(ScopeKind::Service)),
            address: instance.map(|state| state.key.address.as_str()),
            id: instance.map(|state| state.id.to_string()),
            weight: instance.map(|state| state.weight),
            status: instance.map(|state| state.status),
            online: instance.map(|state| state.online),
            available: instance.map(InstanceState::available),
            name,
            reason: entry.reason.as_deref(),
            cause: entry.cause.as_ref(),
            changed: &entry.changed,
            by: entry.by.as_ref().map(RegistrantResponse::from),
            at: rfc3339_millis(entry.at),
        }
    }
}
