//! An instance as Eureka has it: made from an instance of the registry, and from its reserved entry if
//! an Eureka client registered it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::http::facade::computed_id;
use crate::model::{Instance, Protocol, Status, Ttl};

/// The class of the data center that most clients name.
const OWN_DATA_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

/// The statuses of Eureka.
const STATUSES: [&str; 5] = ["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"];

/// Returns a status, in any case. One that Eureka does not have is UNKNOWN there, too.
pub(super) fn known_status(text: &str) -> &'static str {
    let mut known = STATUSES.into_iter();
    known
        .find(|status| status.eq_ignore_ascii_case(text.trim()))
        .unwrap_or("UNKNOWN")
}

/// The name of the application of a service.
pub(super) fn app_name(key: &str) -> String {
    key.to_uppercase()
}

/// The reserved metadata entry: the values that only clients of Eureka use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The ID, alone.
    pub(super) ids: Vec<String>,
    /// The name of the application, if the key of the service is not made from it in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) host: String,
    /// The status, unless it is UP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secure_vip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secure_port: Option<Port>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) home: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) status_page: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) health_check: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) secure_health_check: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scaling_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) country: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_center: Option<DataCenter>,
    /// The time between renewals, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renewal: Option<u32>,
    /// The TTL that was asked for, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<u32>,
    /// `lastDirtyTimestamp`, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dirty: Option<i64>,
}

/// The members of [`Entry`] that a renewal needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Dirty {
    dirty: Option<i64>,
}

impl Entry {
    /// Reads the entry of an instance; one without members if no Eureka client registered it.
    pub(super) fn of(instance: &Instance) -> Self {
        let text = instance.given_metadata.of_protocol(Protocol::Eureka);
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Returns whether an instance was registered with an earlier `lastDirtyTimestamp` than this one.
    pub(super) fn is_earlier(instance: &Instance, dirty: &str) -> bool {
        let Some(text) = instance.given_metadata.of_protocol(Protocol::Eureka) else {
            return false;
        };
        // Nearly always they are equal, and it is the last member of the entry. No text has an
        // unescaped quotation mark.
        let rest = text.strip_suffix('}');
        let rest = rest.and_then(|rest| rest.strip_suffix(dirty));
        if rest.is_some_and(|rest| rest.ends_with("\"dirty\":")) {
            return false;
        }
        let known = serde_json::from_str::<Dirty>(text).ok();
        let known = known.and_then(|known| known.dirty);
        let given = dirty.parse::<i64>().ok();
        given.zip(known).is_some_and(|(given, known)| given > known)
    }
}

/// A port, and whether clients may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    #[serde(rename = "$")]
    pub(super) number: u16,
    #[serde(rename = "@enabled", with = "text_flag")]
    pub(super) enabled: bool,
}

/// A flag as Eureka writes it: `"true"`.
mod text_flag {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(flag: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if *flag { "true" } else { "false" })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<bool, D::Error> {
        String::deserialize(deserializer).map(|text| text == "true")
    }
}

/// Where an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DataCenter {
    #[serde(rename = "@class")]
    pub(super) class: String,
    pub(super) name: String,
    /// Of Amazon's data centers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
}

impl Default for DataCenter {
    fn default() -> Self {
        Self {
            class: OWN_DATA_CENTER.to_owned(),
            name: "MyOwn".to_owned(),
            metadata: BTreeMap::new(),
        }
    }
}

/// The kind of a change, as a delta reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Action {
    Added,
    Modified,
    Deleted,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// The lease of an instance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaseInfo {
    pub(super) renewal_interval_in_secs: u32,
    pub(super) duration_in_secs: u32,
    pub(super) registration_timestamp: i64,
    pub(super) last_renewal_timestamp: i64,
    pub(super) eviction_timestamp: i64,
    pub(super) service_up_timestamp: i64,
}

/// An instance as Eureka has it; serialised as JSON. Times are in Unix milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceInfo<'a> {
    pub(super) instance_id: String,
    pub(super) host_name: Cow<'a, str>,
    pub(super) app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app_group_name: Option<String>,
    pub(super) ip_addr: &'a str,
    pub(super) status: &'static str,
    pub(super) overridden_status: &'static str,
    pub(super) port: Port,
    pub(super) secure_port: Port,
    pub(super) country_id: i64,
    pub(super) data_center_info: DataCenter,
    pub(super) lease_info: LeaseInfo,
    pub(super) metadata: BTreeMap<&'a str, &'a str>,
    pub(super) home_page_url: String,
    pub(super) status_page_url: String,
    pub(super) health_check_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) secure_health_check_url: String,
    pub(super) vip_address: String,
    pub(super) secure_vip_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asg_name: Option<String>,
    pub(super) is_coordinating_discovery_server: &'static str,
    #[serde(serialize_with = "as_text")]
    pub(super) last_updated_timestamp: i64,
    #[serde(serialize_with = "as_text")]
    pub(super) last_dirty_timestamp: i64,
    pub(super) action_type: Action,
}

fn as_text<S: serde::Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

impl<'a> InstanceInfo<'a> {
    /// Returns an instance as Eureka has it.
    pub(super) fn of(instance: &'a Instance, default_ttl: Ttl, action: Action) -> Self {
        let entry = Entry::of(instance);
        let (key, address) = (&instance.key.scope.key, &instance.key.address);
        let own_port = Port {
            number: address.port(),
            enabled: true,
        };
        let disabled = |number| Port {
            number,
            enabled: false,
        };
        let (status, overridden) = status(instance, &entry);
        let updated = instance.updated_at.timestamp_millis();
        let changed = instance.presence.changed_at;
        let up = changed.map_or(updated, |at| at.timestamp_millis());
        let registered = instance.registered_at.timestamp_millis();
        let ttl = instance.ttl.unwrap_or(default_ttl).as_secs();
        let key = key.as_str();
        Self {
            instance_id: instance_id(instance, &entry),
            host_name: match entry.host.is_empty() {
                true => Cow::Borrowed(address.host()),
                false => Cow::Owned(entry.host),
            },
            app: entry.app.unwrap_or_else(|| app_name(key)),
            app_group_name: entry.group,
            ip_addr: address.host(),
            status,
            overridden_status: overridden,
            port: entry.port.unwrap_or(own_port),
            secure_port: entry.secure_port.unwrap_or(disabled(443)),
            country_id: entry.country.unwrap_or(1),
            data_center_info: entry.data_center.unwrap_or_default(),
            lease_info: LeaseInfo {
                renewal_interval_in_secs: entry.renewal.unwrap_or(u32::from(ttl / 3)),
                duration_in_secs: entry.duration.unwrap_or(u32::from(ttl)),
                registration_timestamp: registered,
                last_renewal_timestamp: up,
                eviction_timestamp: 0,
                service_up_timestamp: up,
            },
            metadata: instance.metadata().iter().collect(),
            home_page_url: entry.home,
            status_page_url: entry.status_page,
            health_check_url: entry.health_check,
            secure_health_check_url: entry.secure_health_check,
            vip_address: entry.vip.unwrap_or_else(|| key.to_owned()),
            secure_vip_address: entry.secure_vip.unwrap_or_else(|| key.to_owned()),
            asg_name: entry.scaling_group,
            is_coordinating_discovery_server: "false",
            last_updated_timestamp: updated.max(up),
            last_dirty_timestamp: entry.dirty.unwrap_or(updated),
            action_type: action,
        }
    }
}

/// Returns the ID of an instance: the registered one, or one that is made from its key.
pub(super) fn instance_id(instance: &Instance, entry: &Entry) -> String {
    let own = entry.ids.first().cloned();
    own.unwrap_or_else(|| computed_id(&instance.key))
}

/// The reason of a hold that an Eureka client asked for: the status that it set.
pub(super) const OVERRIDE_REASON: &str = "Eureka status override: ";

/// Returns the status of an instance and the overridden one, which is UNKNOWN unless it is held.
pub(super) fn status(instance: &Instance, entry: &Entry) -> (&'static str, &'static str) {
    const OUT_OF_SERVICE: &str = "OUT_OF_SERVICE";
    const UNKNOWN: &str = "UNKNOWN";

    match instance.status {
        Status::Enabled => ("UP", UNKNOWN),
        Status::Disabled => {
            let own = entry.status.as_deref();
            (own.map_or(OUT_OF_SERVICE, known_status), UNKNOWN)
        }
        Status::Held => {
            let hold = instance.hold.as_ref();
            let reason = hold.and_then(|hold| hold.reason.as_ref());
            let reason = reason.and_then(|reason| reason.as_str().strip_prefix(OVERRIDE_REASON));
            let status = reason.map_or(OUT_OF_SERVICE, known_status);
            (status, status)
        }
    }
}
