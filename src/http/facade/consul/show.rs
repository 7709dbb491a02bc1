//! Instances, checks and nodes as Consul shows them. A node is a host.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::entry::{CheckStatus, Entry};
use crate::directory::InstanceEntry;
use crate::http::facade::computed_id;
use crate::model::{Instance, Metadata, Status};

/// The name of the only data center.
pub(super) const DATACENTER: &str = "dc1";

/// Returns the ID of a node: a UUID of version 8 (RFC 9562), made from the name of the host.
pub(super) fn node_id(host: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(host)[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// A node.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: &'a str,
    address: &'a str,
    datacenter: &'static str,
    tagged_addresses: Value,
    meta: Map<String, Value>,
    create_index: i64,
    modify_index: i64,
}

impl<'a> Node<'a> {
    pub(super) fn of(host: &'a str) -> Self {
        Self {
            id: node_id(host),
            node: host,
            address: host,
            datacenter: DATACENTER,
            tagged_addresses: json!({ "lan": host, "wan": host }),
            meta: Map::new(),
            create_index: 1,
            modify_index: 1,
        }
    }
}

/// A check of an instance.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    node: String,
    #[serde(rename = "CheckID")]
    pub(super) check_id: String,
    name: String,
    pub(super) status: CheckStatus,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    service_tags: Vec<String>,
    r#type: &'static str,
    definition: Map<String, Value>,
    create_index: i64,
    modify_index: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
    warning: u16,
}

/// The service of an instance.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Service<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    address: &'a str,
    tagged_addresses: &'a Value,
    meta: &'a Metadata,
    port: u16,
    weights: Weights,
    enable_tag_override: bool,
    create_index: i64,
    modify_index: i64,
}

/// An instance with its reserved entry, or with defaults if no Consul client registered it.
pub(super) struct Shown<'a> {
    pub(super) listed: &'a InstanceEntry,
    entry: Entry,
    has_entry: bool,
    pub(super) id: String,
    tagged_addresses: Value,
}

impl<'a> Shown<'a> {
    pub(super) fn of(listed: &'a InstanceEntry) -> Self {
        let entry = Entry::of(&listed.instance);
        let has_entry = entry.is_some();
        let mut entry = entry.unwrap_or_default();
        let id = entry.id().map(str::to_owned);
        let addresses = entry.tagged_addresses.take();
        Self {
            id: id.unwrap_or_else(|| computed_id(&listed.instance.key)),
            tagged_addresses: addresses.unwrap_or_else(|| json!({})),
            listed,
            entry,
            has_entry,
        }
    }

    fn instance(&self) -> &'a Instance {
        &self.listed.instance
    }

    pub(super) fn host(&self) -> &'a str {
        self.instance().key.address.host()
    }

    /// Returns the name of the service.
    pub(super) fn name(&self) -> &str {
        let key = self.instance().key.scope.key.as_str();
        self.entry.name.as_deref().unwrap_or(key)
    }

    pub(super) fn tags(&self) -> &[String] {
        &self.entry.tags
    }

    /// Returns whether it has all tags, in any case.
    pub(super) fn has_tags(&self, tags: &[String]) -> bool {
        let has = |tag: &String| {
            let mut own = self.entry.tags.iter();
            own.any(|known| known.eq_ignore_ascii_case(tag))
        };
        tags.iter().all(has)
    }

    /// Returns the worst status of the checks.
    pub(super) fn status(&self) -> CheckStatus {
        let checks = self.checks();
        let has = |status| checks.iter().any(|check| check.status == status);
        match (has(CheckStatus::Critical), has(CheckStatus::Warning)) {
            (true, _) => CheckStatus::Critical,
            (_, true) => CheckStatus::Warning,
            _ => CheckStatus::Passing,
        }
    }

    /// Returns the checks of the instance: the registered ones, or one for its lease; and one more
    /// while the instance is taken out of traffic.
    pub(super) fn checks(&self) -> Vec<Check> {
        let instance = self.instance();
        let online = instance.presence.online;
        // Otherwise the lease has expired, with all statuses.
        let is_reported = online || self.entry.is_critical();
        let own = self.entry.checks.iter().map(|check| {
            let status = if is_reported {
                check.status
            } else {
                CheckStatus::Critical
            };
            let output = match is_reported {
                true => check.output.clone(),
                false => "TTL expired".to_owned(),
            };
            self.check(&check.id, &check.name, status, &check.notes, output)
        });
        let mut checks: Vec<Check> = own.collect();
        if checks.is_empty() && !(self.has_entry && online) {
            let status = if online {
                CheckStatus::Passing
            } else {
                CheckStatus::Critical
            };
            let id = format!("service:{}", self.id);
            let name = format!("Service '{}' check", self.name());
            checks.push(self.check(&id, &name, status, "", String::new()));
        }
        let reason = instance.hold.as_ref().and_then(|hold| hold.reason.as_ref());
        let reason = match instance.status {
            Status::Enabled => None,
            Status::Disabled => Some("disabled"),
            Status::Held => Some(reason.map_or("held", |reason| reason.as_str())),
        };
        if let Some(reason) = reason {
            let id = format!("_service_maintenance:{}", self.id);
            let name = "Service Maintenance Mode";
            let status = CheckStatus::Critical;
            checks.push(self.check(&id, name, status, reason, String::new()));
        }
        checks
    }

    fn check(
        &self,
        id: &str,
        name: &str,
        status: CheckStatus,
        notes: &str,
        output: String,
    ) -> Check {
        let instance = self.instance();
        Check {
            node: self.host().to_owned(),
            check_id: id.to_owned(),
            name: name.to_owned(),
            status,
            notes: notes.to_owned(),
            output,
            service_id: self.id.clone(),
            service_name: self.name().to_owned(),
            service_tags: self.entry.tags.clone(),
            r#type: "ttl",
            definition: Map::new(),
            create_index: instance.id.0,
            modify_index: instance.revision,
        }
    }

    fn weights(&self) -> Weights {
        Weights {
            passing: self.instance().weight().get(),
            warning: self.entry.warning.unwrap_or(1),
        }
    }

    /// Returns the entry of a list of health.
    pub(super) fn health(&self) -> Value {
        let instance = self.instance();
        json!({
            "Node": Node::of(self.host()),
            "Service": Service {
                id: &self.id,
                service: self.name(),
                tags: &self.entry.tags,
                address: self.host(),
                tagged_addresses: &self.tagged_addresses,
                meta: instance.metadata(),
                port: instance.key.address.port(),
                weights: self.weights(),
                enable_tag_override: self.entry.tag_override,
                create_index: instance.id.0,
                modify_index: instance.revision,
            },
            "Checks": self.checks(),
        })
    }

    /// Returns the entry of a list of the catalog.
    pub(super) fn catalog(&self) -> Value {
        let (instance, host) = (self.instance(), self.host());
        json!({
            "ID": node_id(host),
            "Node": host,
            "Address": host,
            "Datacenter": DATACENTER,
            "TaggedAddresses": { "lan": host, "wan": host },
            "NodeMeta": {},
            "ServiceKind": "",
            "ServiceID": self.id,
            "ServiceName": self.name(),
            "ServiceTags": self.entry.tags,
            "ServiceAddress": host,
            "ServiceTaggedAddresses": self.tagged_addresses,
            "ServiceMeta": instance.metadata(),
            "ServicePort": instance.key.address.port(),
            "ServiceWeights": self.weights(),
            "ServiceEnableTagOverride": self.entry.tag_override,
            "CreateIndex": instance.id.0,
            "ModifyIndex": instance.revision,
        })
    }

    /// Returns the entry of the services of the agent.
    pub(super) fn agent(&self) -> Value {
        let instance = self.instance();
        json!({
            "ID": self.id,
            "Service": self.name(),
            "Tags": self.entry.tags,
            "Meta": instance.metadata(),
            "Port": instance.key.address.port(),
            "Address": self.host(),
            "TaggedAddresses": self.tagged_addresses,
            "Weights": self.weights(),
            "EnableTagOverride": self.entry.tag_override,
            "Datacenter": DATACENTER,
        })
    }
}
