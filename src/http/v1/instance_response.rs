//! An instance as the API shows it.

use serde::Serialize;
use serde::ser::SerializeMap;
use utoipa::ToSchema;

use crate::directory::InstanceEntry;
use crate::model::{
    Instance, Metadata, Note, Registrant, ScopeKind, Status, Ttl, Weight, rfc3339_millis,
};

/// A registered instance.
#[derive(Serialize, ToSchema)]
#[schema(as = Instance)]
pub(in crate::http) struct InstanceResponse<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    service: Option<&'a str>,
    address: &'a str,
    name: &'a str,
    #[schema(value_type = u16)]
    weight: Weight,
    #[schema(value_type = HashMap<String, String>)]
    metadata: &'a Metadata,
    #[schema(value_type = String, pattern = "^(enabled|disabled|held)$")]
    status: Status,
    /// Who holds the instance: the name of a token, or the name that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    held_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<&'a Note>,
    /// When the hold ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    held_until: Option<String>,
    /// An operator's values, which win over those that the instance registers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    overrides: Option<ValuesResponse<'a>>,
    /// The values of the instance that are overridden.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    registered: Option<ValuesResponse<'a>>,
    #[schema(value_type = u32)]
    ttl_seconds: Ttl,
    /// Who sent the last registration that changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    registered_by: Option<RegistrantResponse<'a>>,
    registered_at: String,
    updated_at: String,
}

/// Values that an operator may override.
#[derive(Serialize, ToSchema)]
#[schema(as = Values)]
struct ValuesResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>)]
    weight: Option<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HashMap<String, String>>)]
    metadata: Option<&'a Metadata>,
}

/// The sender of a registration.
#[derive(Serialize, ToSchema)]
#[schema(as = Registrant)]
pub(super) struct RegistrantResponse<'a> {
    /// The name of its token.
    token: &'a str,
    /// Its IP address.
    peer: &'a str,
}

impl<'a> From<&'a Registrant> for RegistrantResponse<'a> {
    fn from(by: &'a Registrant) -> Self {
        Self {
            token: by.token(),
            peer: by.peer(),
        }
    }
}

/// A registered instance with the state of its lease.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedInstance)]
pub(in crate::http) struct ListedInstanceResponse<'a> {
    #[serde(flatten)]
    instance: InstanceResponse<'a>,
    online: bool,
    available: bool,
    /// The instance has no lease, and protection mode keeps it listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    suspect: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    online_changed_at: Option<String>,
}

impl<'a> InstanceResponse<'a> {
    pub(super) fn of(instance: &'a Instance, default_ttl: Ttl) -> Self {
        let scope = &instance.key.scope;
        let (hold, overrides) = (instance.hold.as_ref(), instance.overrides.as_ref());
        Self {
            id: instance.id.to_string(),
            group: scope.key_of(ScopeKind::Group),
            service: scope.key_of(ScopeKind::Service),
            address: instance.key.address.as_str(),
            name: instance.display_name(),
            weight: instance.weight(),
            metadata: instance.metadata(),
            status: instance.status,
            held_by: hold.map(|hold| hold.by.as_str()),
            reason: hold.and_then(|hold| hold.reason.as_ref()),
            held_until: hold.and_then(|hold| hold.until).map(rfc3339_millis),
            overrides: overrides.map(|overrides| ValuesResponse {
                weight: overrides.weight,
                metadata: overrides.metadata.as_ref(),
            }),
            registered: overrides.map(|overrides| ValuesResponse {
                weight: overrides.weight.map(|_| instance.registered_weight()),
                metadata: overrides
                    .metadata
                    .as_ref()
                    .map(|_| &instance.given_metadata),
            }),
            ttl_seconds: instance.ttl.unwrap_or(default_ttl),
            registered_by: instance
                .registered_by
                .as_ref()
                .map(RegistrantResponse::from),
            registered_at: rfc3339_millis(instance.registered_at),
            updated_at: rfc3339_millis(instance.updated_at),
        }
    }
}

impl<'a> ListedInstanceResponse<'a> {
    /// Writes one field, as the whole instance has it.
    pub(super) fn serialize_field<M: SerializeMap>(
        &self,
        name: &'static str,
        map: &mut M,
    ) -> Result<(), M::Error> {
        /// Writes a field that the instance may lack.
        fn write<M: SerializeMap>(
            map: &mut M,
            name: &'static str,
            value: Option<&impl Serialize>,
        ) -> Result<(), M::Error> {
            value.map_or(Ok(()), |value| map.serialize_entry(name, value))
        }

        let one = &self.instance;
        match name {
            "id" => write(map, name, Some(&one.id)),
            "group" => write(map, name, one.group.as_ref()),
            "service" => write(map, name, one.service.as_ref()),
            "address" => write(map, name, Some(&one.address)),
            "name" => write(map, name, Some(&one.name)),
            "weight" => write(map, name, Some(&one.weight)),
            "metadata" => write(map, name, Some(&one.metadata)),
            "status" => write(map, name, Some(&one.status)),
            "held_by" => write(map, name, one.held_by.as_ref()),
            "reason" => write(map, name, one.reason.as_ref()),
            "held_until" => write(map, name, one.held_until.as_ref()),
            "overrides" => write(map, name, one.overrides.as_ref()),
            "registered" => write(map, name, one.registered.as_ref()),
            "ttl_seconds" => write(map, name, Some(&one.ttl_seconds)),
            "registered_by" => write(map, name, one.registered_by.as_ref()),
            "registered_at" => write(map, name, Some(&one.registered_at)),
            "updated_at" => write(map, name, Some(&one.updated_at)),
            "online" => write(map, name, Some(&self.online)),
            "available" => write(map, name, Some(&self.available)),
            "suspect" => write(map, name, self.suspect.then_some(&true)),
            "online_changed_at" => write(map, name, self.online_changed_at.as_ref()),
            _ => Ok(()),
        }
    }

    pub(super) fn of(listed: &'a InstanceEntry, default_ttl: Ttl) -> Self {
        let InstanceEntry {
            instance, suspect, ..
        } = listed;
        Self {
            online: instance.presence.online,
            available: instance.available(),
            suspect: *suspect,
            online_changed_at: instance.presence.changed_at.map(rfc3339_millis),
            instance: InstanceResponse::of(instance, default_ttl),
        }
    }
}
