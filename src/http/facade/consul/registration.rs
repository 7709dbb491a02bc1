//! The registrations of Consul clients. The members of a request have any case.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::duration::go_duration;
use super::entry::{Check, CheckStatus, Entry};
use crate::http::Problem;
use crate::http::facade::key::scope_key;
use crate::http::problem::InField;
use crate::model::{
    Address, Field, InstanceKey, Metadata, Protocol, Registrant, Registration, ScopeKind, Weight,
};

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
    let address: Address = Address::text_of(&host, port)
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
