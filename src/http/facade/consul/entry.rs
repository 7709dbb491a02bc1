//! The registrations of Consul clients, and the reserved metadata entry that is made from them. The
//! members of a request have any case.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::duration::go_duration;
use crate::http::Problem;
use crate::http::facade::key::scope_key;
use crate::http::problem::InField;
use crate::model::{
    Address, Field, Instance, InstanceKey, Metadata, Protocol, RegisteredStatus, Registrant,
    Registration, ScopeKind, Ttl, Weight,
};

/// The TTL of a service without a check. Its lease is renewed by the daemon.
const UNCHECKED_TTL: u64 = 60;

/// The ID in the index of all services without a check.
pub(super) const UNCHECKED: &str = "unchecked";

/// The members of a check that is the agent's work in Consul.
const ACTIVE: [&str; 11] = [
    "http",
    "tcp",
    "udp",
    "grpc",
    "h2ping",
    "script",
    "args",
    "dockercontainerid",
    "shell",
    "aliasservice",
    "aliasnode",
];

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
    fn index(&mut self, id: &str) {
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
    fn ttl(&self) -> Ttl {
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
            name: instance.name.as_ref().map(|name| (**name).clone()).into(),
            weight: instance.given_weight.into(),
            metadata: Field::Given(metadata.in_field("check")?),
            ttl: Field::Given(ttl),
            status: RegisteredStatus::Unchanged,
            by: Some(by),
            ..Registration::of(instance.key.clone())
        })
    }
}

/// The members of an object, by their names in lower case and without `_`: clients write
/// `TaggedAddresses` and `tagged_addresses`.
pub(super) struct Members(BTreeMap<String, Value>);

impl Members {
    /// Reads an object.
    pub(super) fn of(value: Value, field: &str) -> Result<Self, Problem> {
        let Value::Object(members) = value else {
            return Err(Problem::invalid(field, "must be an object"));
        };
        let named = members.into_iter().filter(|(_, value)| !value.is_null());
        let named = named.map(|(name, value)| (name.to_lowercase().replace('_', ""), value));
        Ok(Self(named.collect()))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.replace('\0', ""))),
            Some(_) => Err(Problem::invalid(name, "must be a text")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Problem> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_i64();
                let number = number.ok_or_else(|| Problem::invalid(name, "must be a whole number"));
                number.map(Some)
            }
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.0.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Problem::invalid(name, "must be true or false")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Problem> {
        let wrong = || Problem::invalid(name, "must be a list of texts");
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(texts)) => {
                let texts = texts
                    .iter()
                    .map(|text| text.as_str().map(|text| text.replace('\0', "")));
                texts.collect::<Option<_>>().ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    fn entries(&self, name: &str) -> Result<BTreeMap<String, String>, Problem> {
        let wrong = || Problem::invalid(name, "must be an object of texts");
        let Some(value) = self.0.get(name) else {
            return Ok(BTreeMap::new());
        };
        let entries: &Map<String, Value> = value.as_object().ok_or_else(wrong)?;
        let texts = entries
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| {
                let text = value.as_str().ok_or_else(wrong)?;
                Ok((name.replace('\0', ""), text.replace('\0', "")))
            });
        texts.collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Bool(flag) => *flag,
            Value::Object(members) => !members.is_empty(),
            _ => true,
        })
    }

    /// Returns the value of a status.
    pub(super) fn status(&self) -> Result<Option<CheckStatus>, Problem> {
        let Some(text) = self.text("status")? else {
            return Ok(None);
        };
        let status = CheckStatus::parse(&text);
        let reason = "must be passing, warning or critical";
        status
            .map(Some)
            .ok_or_else(|| Problem::invalid("status", reason))
    }

    /// Reads a check. Only TTL checks are possible: a registry that calls its clients would be one
    /// more way into a network.
    pub(super) fn check(&self, id: String, name: String) -> Result<Check, Problem> {
        let ttl = self.text("ttl")?;
        if let Some(active) = ACTIVE.iter().find(|active| self.has(active)) {
            return Err(Problem::invalid(
                "check",
                format!(
                    "must be a TTL check, not {active}: the registry calls no one. Spring Cloud has spring.cloud.consul.discovery.heartbeat.enabled=true for it"
                ),
            ));
        }
        let ttl = ttl.ok_or_else(|| Problem::invalid("check", "must have a TTL"))?;
        let ttl = go_duration(&ttl).filter(|ttl| !ttl.is_zero());
        let ttl = ttl.ok_or_else(|| Problem::invalid("TTL", "must be a duration such as 30s"))?;
        Ok(Check {
            id,
            name,
            status: self.status()?.unwrap_or(CheckStatus::Critical),
            notes: self.text("notes")?.unwrap_or_default(),
            output: self.text("output")?.unwrap_or_default(),
            ttl: ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0),
        })
    }
}

/// A registration, and the ID of the service.
pub(super) struct ServiceRegistration {
    pub(super) registration: Registration,
    pub(super) id: String,
    /// Whether its lease begins.
    pub(super) is_online: bool,
}

/// Reads a registration. `peer` is the address of a service that has none: that of its agent.
pub(super) fn registration(
    body: Value,
    peer: IpAddr,
    by: Registrant,
) -> Result<ServiceRegistration, Problem> {
    let members = Members::of(body, "body")?;
    let name = members.text("name")?;
    let name = name.ok_or_else(|| Problem::invalid("Name", "is missing"))?;
    let id = members.text("id")?.unwrap_or_else(|| name.clone());
    if members.has("connect") || members.has("kind") || members.has("proxy") {
        let reason = "must not be given: a service mesh is not a matter of this registry";
        return Err(Problem::invalid("Kind and Connect", reason));
    }
    let host = members.text("address")?;
    let host = host.unwrap_or_else(|| peer.to_string());
    let port = members.number("port")?.unwrap_or_default();
    let address: Address = match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
    .parse()
    .in_field("Address and Port")?;
    let scope = ScopeKind::Service.with(scope_key(&name).in_field("Name")?);
    let (weight, warning) = weights(&members)?;
    let mut entry = Entry {
        ids: Vec::new(),
        name: (name != scope.key.as_str()).then(|| name.clone()),
        tags: members.texts("tags")?,
        tagged_addresses: members.0.get("taggedaddresses").cloned(),
        warning,
        tag_override: members.flag("enabletagoverride")?,
        checks: checks(&members, &id, &name)?,
    };
    entry.index(&id);
    let metadata: Metadata = members.entries("meta")?.try_into().in_field("Meta")?;
    let text = serde_json::to_string(&entry).unwrap_or_default();
    let metadata = metadata.with_protocol(Protocol::Consul, Some(text));
    Ok(ServiceRegistration {
        registration: Registration {
            name: Field::Null,
            weight: weight.into(),
            metadata: Field::Given(metadata.in_field("Tags, Meta and Checks")?),
            ttl: Field::Given(entry.ttl()),
            by: Some(by),
            ..Registration::of(InstanceKey { scope, address })
        },
        id,
        is_online: !entry.is_critical(),
    })
}

fn weights(members: &Members) -> Result<(Option<Weight>, Option<u16>), Problem> {
    let Some(weights) = members.0.get("weights") else {
        return Ok((None, None));
    };
    let weights = Members::of(weights.clone(), "Weights")?;
    let number = |name: &str| {
        let weight = weights.number(name)?.map(Weight::try_from).transpose();
        weight.in_field("Weights")
    };
    let warning = number("warning")?.map(Weight::get);
    Ok((number("passing")?, warning.filter(|weight| *weight != 1)))
}

fn checks(members: &Members, service: &str, name: &str) -> Result<Vec<Check>, Problem> {
    let mut given: Vec<Value> = members.0.get("check").cloned().into_iter().collect();
    match members.0.get("checks") {
        None => {}
        Some(Value::Array(checks)) => given.extend(checks.iter().cloned()),
        Some(_) => return Err(Problem::invalid("Checks", "must be a list")),
    }
    let several = given.len() > 1;
    let mut checks = Vec::with_capacity(given.len());
    for (index, check) in given.into_iter().enumerate() {
        let members = Members::of(check, "Check")?;
        let own = members.text("checkid")?.or(members.text("id")?);
        let id = own.unwrap_or_else(|| match several {
            true => format!("service:{service}:{}", index + 1),
            false => format!("service:{service}"),
        });
        let title = members.text("name")?;
        let title = title.unwrap_or_else(|| format!("Service '{name}' check"));
        checks.push(members.check(id, title)?);
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::facade::random::{nearly_right, tree};

    fn parsed(body: Value) -> Result<ServiceRegistration, Problem> {
        let peer = IpAddr::from([10, 0, 0, 9]);
        registration(body, peer, Registrant::new("web", peer))
    }

    proptest! {
        #[test]
        fn any_registration_is_accepted_or_refused(
            body in prop_oneof![
                3 => nearly_right(json!({
                    "Name": "orders", "ID": "o1", "Address": "10.0.0.1", "Port": 80,
                    "Tags": ["v1"], "Meta": {"zone": "a"}, "Weights": {"Passing": 1},
                    "Check": {"TTL": "10s"}, "Checks": null, "TaggedAddresses": {},
                })),
                1 => tree(),
            ]
        ) {
            if let Ok(one) = parsed(body) {
                // Its entry reads back.
                let metadata = one.registration.metadata.given().unwrap();
                let entry = metadata.of_protocol(Protocol::Consul).unwrap();
                prop_assert!(serde_json::from_str::<Entry>(entry).is_ok(), "{}", entry);
            }
        }
    }

    #[test]
    fn members_have_any_case() {
        for body in [
            json!({"Name": "orders", "Port": 80, "EnableTagOverride": true, "Check": {"TTL": "10s", "Status": "passing"}, "Checks": null}),
            json!({"name": "orders", "port": 80, "enable_tag_override": true, "check": {"ttl": "10s", "status": "passing"}}),
        ] {
            let one = parsed(body).unwrap();
            assert_eq!(
                one.registration.key.to_string(),
                "services/orders/instances/10.0.0.9:80"
            );
            assert!(one.is_online);
            assert_eq!(one.registration.ttl.given().unwrap().as_secs(), 10);
            let metadata = one.registration.metadata.given().unwrap();
            let ids: Vec<String> = metadata.ids().into_iter().map(|(_, id)| id).collect();
            assert_eq!(ids, ["service/orders", "check/service:orders"]);
        }
    }

    #[test]
    fn several_checks_have_numbers_and_the_shortest_ttl_counts() {
        let checks = json!([{"TTL": "1m"}, {"TTL": "120000ms", "CheckID": "disk"}]);
        let one =
            parsed(json!({"Name": "orders", "ID": "o1", "Port": 80, "Checks": checks})).unwrap();
        assert!(!one.is_online, "a check is critical until it is passed");
        assert_eq!(one.registration.ttl.given().unwrap().as_secs(), 60);
        let metadata = one.registration.metadata.given().unwrap();
        let ids: Vec<String> = metadata.ids().into_iter().map(|(_, id)| id).collect();
        assert_eq!(ids, ["service/o1", "check/service:o1:1", "check/disk"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (body, word) in [
            (json!([]), "body"),
            (json!({"Port": 80}), "Name"),
            (json!({"Name": "a"}), "Port"),
            (json!({"Name": "a", "Port": "80"}), "port"),
            (
                json!({"Name": "a", "Port": 80, "Address": "a b"}),
                "Address",
            ),
            (json!({"Name": "a", "Port": 80, "Tags": "v1"}), "tags"),
            (json!({"Name": "a", "Port": 80, "Meta": {"a": 1}}), "meta"),
            (
                json!({"Name": "a", "Port": 80, "Kind": "connect-proxy"}),
                "Kind",
            ),
            (
                json!({"Name": "a", "Port": 80, "Check": {"HTTP": "http://a/"}}),
                "TTL check",
            ),
            (
                json!({"Name": "a", "Port": 80, "Check": {"TTL": "soon"}}),
                "TTL",
            ),
            (
                json!({"Name": "a", "Port": 80, "Check": {"TTL": "9s", "Status": "good"}}),
                "status",
            ),
            (
                json!({"Name": "a", "Port": 80, "Weights": {"Passing": -1}}),
                "Weights",
            ),
        ] {
            let problem = parsed(body.clone()).err().unwrap();
            assert!(
                problem.detail().contains(word),
                "{body}: {}",
                problem.detail()
            );
        }
    }
}
