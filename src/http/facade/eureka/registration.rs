//! The registrations of Eureka clients. Clients of different versions send numbers and flags as texts
//! or not, and members that no server reads, so the known members are taken from a tree.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::info::{DataCenter, Entry, Port, app_name, known_status};
use crate::http::Problem;
use crate::http::facade::key::scope_key;
use crate::http::problem::InField;
use crate::model::{
    Address, Field, InstanceKey, Metadata, Protocol, RegisteredStatus, Registrant, Registration,
    ScopeKind, Ttl,
};

/// The TTL of a lease, in seconds, unless the client asks for another one.
const DEFAULT_DURATION: u32 = 90;

/// Parses a registration of an application: the object `instance`.
pub(super) fn parse(app: &str, body: &Value, by: Registrant) -> Result<Registration, Problem> {
    let instance = body.get("instance").and_then(Value::as_object);
    let members =
        Members(instance.ok_or_else(|| Problem::invalid("instance", "must be an object"))?);
    let host = members.required("hostName")?;
    let ip = members.required("ipAddr")?;
    let given_app = members.required("app")?;
    if !given_app.eq_ignore_ascii_case(app) {
        let reason = format!("must be the application of the path, {app:?}, not {given_app:?}");
        return Err(Problem::invalid("app", reason));
    }
    let center = members.data_center()?;
    let (port, secure) = (
        members.port("port", true)?,
        members.port("securePort", false)?,
    );
    let number = match (&port, &secure) {
        (Some(port), _) if port.enabled => port.number,
        (_, Some(secure)) if secure.enabled => secure.number,
        _ => return Err(Problem::invalid("port", "must be a port that is enabled")),
    };
    let vip = members.text("vipAddress");
    let name = match &vip {
        Some(vip) if app_name(vip) == app_name(app) => vip.clone(),
        _ => app.to_lowercase(),
    };
    let scope = ScopeKind::Service.with(scope_key(&name).in_field("app")?);
    let id = members.text("instanceId").or_else(|| members.amazon_id());
    let status = members
        .text("status")
        .map(|status| known_status(&status).to_owned());
    let status = status.filter(|status| status != "UP");
    let duration = members.lease("durationInSecs")?;
    let entry = Entry {
        ids: vec![id.unwrap_or_else(|| host.clone())],
        app: (app_name(scope.key.as_str()) != app_name(app)).then(|| app_name(app)),
        status: status.clone(),
        vip: vip.filter(|vip| vip != scope.key.as_str()),
        secure_vip: members.text("secureVipAddress"),
        port: port.filter(|port| !port.enabled || port.number != number),
        secure_port: secure,
        home: members.text("homePageUrl").unwrap_or_default(),
        status_page: members.text("statusPageUrl").unwrap_or_default(),
        health_check: members.text("healthCheckUrl").unwrap_or_default(),
        secure_health_check: members.text("secureHealthCheckUrl").unwrap_or_default(),
        group: members.text("appGroupName"),
        scaling_group: members.text("asgName"),
        country: members.number("countryId")?.filter(|country| *country != 1),
        data_center: Some(center).filter(|center| *center != DataCenter::default()),
        renewal: members.lease("renewalIntervalInSecs")?,
        duration,
        dirty: members.number("lastDirtyTimestamp")?,
        host: if host == ip { String::new() } else { host },
    };
    let metadata: Metadata = members.metadata().try_into().in_field("metadata")?;
    let text = serde_json::to_string(&entry).unwrap_or_default();
    let metadata = metadata.with_protocol(Protocol::Eureka, Some(text));
    Ok(Registration {
        name: Field::Null,
        weight: Field::Null,
        metadata: Field::Given(metadata.in_field("instance")?),
        ttl: Field::Given(Ttl::nearest(duration.unwrap_or(DEFAULT_DURATION).into())),
        status: match status {
            None => RegisteredStatus::Enabled,
            Some(_) => RegisteredStatus::Disabled,
        },
        by: Some(by),
        ..Registration::of(InstanceKey {
            scope,
            address: Address::text_of(&ip, number).parse().in_field("ipAddr")?,
        })
    })
}

/// The members of an instance.
struct Members<'a>(&'a Map<String, Value>);

/// Returns a text, number or flag as a text.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Members<'_> {
    /// Returns a text that is not empty.
    fn text(&self, name: &str) -> Option<String> {
        let text = self.0.get(name).and_then(plain);
        text.filter(|text| !text.trim().is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, Problem> {
        let text = self.text(name);
        text.ok_or_else(|| Problem::invalid(name, "is missing"))
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, Problem> {
        number(self.0.get(name), name)
    }

    /// Returns a time of the lease, in seconds.
    fn lease(&self, name: &'static str) -> Result<Option<u32>, Problem> {
        let lease = self.0.get("leaseInfo").and_then(|lease| lease.get(name));
        let seconds = number(lease, name)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)))
    }

    /// Returns a port: an object with `$` and `@enabled`, or a number.
    fn port(&self, name: &'static str, by_default: bool) -> Result<Option<Port>, Problem> {
        let (value, enabled) = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(port)) => (port.get("$"), port.get("@enabled").and_then(plain)),
            Some(value) => (Some(value), None),
        };
        let enabled = enabled.map_or(by_default, |enabled| enabled.eq_ignore_ascii_case("true"));
        let given = number(value, name)?.unwrap_or_default();
        let reason = "must be a port from 1 to 65535";
        match u16::try_from(given) {
            Ok(0) if enabled => Err(Problem::invalid(name, reason)),
            Ok(number) => Ok(Some(Port { number, enabled })),
            Err(_) if enabled => Err(Problem::invalid(name, reason)),
            Err(_) => Ok(None),
        }
    }

    fn data_center(&self) -> Result<DataCenter, Problem> {
        let center = self.0.get("dataCenterInfo");
        let center = center.and_then(Value::as_object).map(Members);
        let name = center.as_ref().and_then(|center| center.text("name"));
        let name = name.ok_or_else(|| Problem::invalid("dataCenterInfo.name", "is missing"))?;
        let class = center.as_ref().and_then(|center| center.text("@class"));
        Ok(DataCenter {
            class: class.unwrap_or_else(|| DataCenter::default().class),
            name,
            metadata: center.map(|center| center.metadata()).unwrap_or_default(),
        })
    }

    /// Returns the ID of a machine at Amazon, which names an instance that has no ID of its own.
    fn amazon_id(&self) -> Option<String> {
        let center = self.0.get("dataCenterInfo")?.as_object()?;
        Members(center).metadata().remove("instance-id")
    }

    /// Returns the metadata, without the members that Java's encoder adds for its decoder.
    fn metadata(&self) -> BTreeMap<String, String> {
        let entries = self.0.get("metadata").and_then(Value::as_object);
        let entries = entries.into_iter().flatten();
        let entries = entries.filter(|(name, _)| !name.is_empty() && !name.starts_with('@'));
        let texts = entries.filter_map(|(name, value)| Some((clean(name), clean(&plain(value)?))));
        texts.collect()
    }
}

/// Returns a text without U+0000, which no store keeps.
fn clean(text: &str) -> String {
    text.replace('\0', "")
}

fn number(value: Option<&Value>, name: &'static str) -> Result<Option<i64>, Problem> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => plain(value),
    };
    let text = text.filter(|text| !text.trim().is_empty());
    let parsed = text.as_deref().map(|text| text.trim().parse());
    match (value, parsed) {
        (Some(Value::String(_)), None) => Ok(None),
        (_, Some(Ok(number))) => Ok(Some(number)),
        _ => Err(Problem::invalid(name, "must be a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::facade::eureka::info::{Action, InstanceInfo};
    use crate::http::facade::eureka::xml;
    use crate::http::facade::random::{nearly_right, tree};
    use crate::model::{Instance, InstanceId, Presence};

    fn registrant() -> Registrant {
        Registrant::new("web", "10.0.0.9".parse().unwrap())
    }

    fn parsed(instance: Value) -> Result<Registration, Problem> {
        parse("ORDERS", &json!({ "instance": instance }), registrant())
    }

    fn bare() -> Value {
        json!({
            "app": "ORDERS", "hostName": "a.example", "ipAddr": "10.0.0.5",
            "port": {"$": 8080}, "dataCenterInfo": {"name": "MyOwn"},
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut instance = bare();
        instance[name] = value;
        instance
    }

    fn random() -> impl Strategy<Value = Value> {
        let right = json!({
            "instanceId": "a", "app": "ORDERS", "hostName": "a", "ipAddr": "10.0.0.1",
            "status": "UP", "port": {"$": 80}, "securePort": {"$": 443},
            "dataCenterInfo": {"name": "MyOwn"}, "metadata": {"zone": "a"},
            "leaseInfo": {"durationInSecs": 90}, "vipAddress": "orders", "countryId": 1,
            "homePageUrl": "http://a", "appGroupName": "a", "asgName": "a",
            "lastDirtyTimestamp": "1",
        });
        let instance = nearly_right(right).prop_map(|instance| json!({ "instance": instance }));
        prop_oneof![3 => instance, 1 => tree()]
    }

    /// Returns the instance that a registration makes.
    fn registered(registration: &Registration) -> Instance {
        Instance {
            id: InstanceId(1),
            key: registration.key.clone(),
            name: None,
            given_weight: None,
            given_metadata: registration.metadata.given().unwrap().clone(),
            ttl: registration.ttl.given().copied(),
            status: registration.first_status(),
            hold: None,
            overrides: None,
            registered_by: None,
            presence: Presence::default(),
            registered_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            revision: 1,
        }
    }

    proptest! {
        #[test]
        fn any_registration_is_refused_or_shown_in_documents_that_are_whole(body in random()) {
            if let Ok(registration) = parse("ORDERS", &body, registrant()) {
                let instance = registered(&registration);
                let info = InstanceInfo::of(&instance, Ttl::nearest(30), Action::Added);
                let json = serde_json::to_string(&info).unwrap();
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok());
                let document = xml::document(|out| xml::instance(out, &info));
                let read = xml::read(&document);
                prop_assert!(read.is_ok(), "{:?}: {}", read, String::from_utf8_lossy(&document));
                // What is shown may be registered again.
                prop_assert!(parse("ORDERS", &read.unwrap(), registrant()).is_ok());
            }
        }
    }

    #[test]
    fn the_least_registration_has_the_defaults_of_eureka() {
        let registration = parsed(bare()).unwrap();
        assert_eq!(
            registration.key.to_string(),
            "services/orders/instances/10.0.0.5:8080"
        );
        assert_eq!(registration.ttl.given().unwrap().as_secs(), 90);
        assert_eq!(registration.status, RegisteredStatus::Enabled);
        let metadata = registration.metadata.given().unwrap();
        assert_eq!(metadata.ids(), [(Protocol::Eureka, "a.example".to_owned())]);
    }

    #[test]
    fn a_number_may_be_a_text_and_a_flag_a_text_or_not() {
        for port in [
            json!({"$": "81", "@enabled": "true"}),
            json!({"$": 81, "@enabled": true}),
            json!(81),
            json!("81"),
        ] {
            let registration = parsed(with("port", port)).unwrap();
            assert_eq!(registration.key.address.as_str(), "10.0.0.5:81");
        }
    }

    #[test]
    fn the_secure_port_counts_if_it_alone_is_enabled() {
        let mut instance = with("port", json!({"$": 80, "@enabled": "false"}));
        instance["securePort"] = json!({"$": 443, "@enabled": "true"});
        let address = parsed(instance).unwrap().key.address;
        assert_eq!(address.as_str(), "10.0.0.5:443");
    }

    #[test]
    fn the_service_is_the_vip_address_if_that_is_the_application() {
        for (vip, key) in [("Orders", "Orders"), ("other", "orders"), ("", "orders")] {
            let registration = parsed(with("vipAddress", json!(vip))).unwrap();
            assert_eq!(registration.key.scope.key.as_str(), key);
        }
    }

    #[test]
    fn a_duration_becomes_the_nearest_ttl() {
        for (duration, seconds) in [(6, 6), (1, 5), (100_000, 3600), (-1, 90), (0, 90)] {
            let lease = json!({"durationInSecs": duration});
            let registration = parsed(with("leaseInfo", lease)).unwrap();
            assert_eq!(registration.ttl.given().unwrap().as_secs(), seconds);
        }
    }

    #[test]
    fn a_renewal_with_a_later_time_is_of_a_client_that_has_changed() {
        let registration = parsed(with("lastDirtyTimestamp", json!("100"))).unwrap();
        let instance = registered(&registration);
        for (time, is_earlier) in [
            ("100", false),
            ("99", false),
            ("101", true),
            ("1000", true),
            ("00", false),
            ("", false),
            ("soon", false),
        ] {
            assert_eq!(Entry::is_earlier(&instance, time), is_earlier, "{time}");
        }
        let without = registered(&parsed(bare()).unwrap());
        assert!(!Entry::is_earlier(&without, "101"));
    }

    #[test]
    fn another_status_than_up_accepts_no_traffic() {
        let registration = parsed(with("status", json!("STARTING"))).unwrap();
        assert_eq!(registration.status, RegisteredStatus::Disabled);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, value, field) in [
            ("hostName", json!(""), "hostName"),
            ("ipAddr", json!(null), "ipAddr"),
            ("ipAddr", json!("a b"), "ipAddr"),
            ("app", json!("OTHER"), "app"),
            ("port", json!({"$": 0}), "port"),
            ("port", json!({"$": 70_000}), "port"),
            ("port", json!({"$": "x"}), "port"),
            ("port", json!({"$": 80, "@enabled": "false"}), "port"),
            ("port", json!([80]), "port"),
            ("dataCenterInfo", json!({}), "dataCenterInfo.name"),
            ("dataCenterInfo", json!("MyOwn"), "dataCenterInfo.name"),
            ("lastDirtyTimestamp", json!("soon"), "lastDirtyTimestamp"),
            ("leaseInfo", json!({"durationInSecs": []}), "durationInSecs"),
            ("metadata", json!({"a": "x".repeat(9000)}), "metadata"),
        ] {
            let problem = parsed(with(name, value.clone())).unwrap_err();
            assert!(
                problem.detail().starts_with(field),
                "{value}: {}",
                problem.detail()
            );
        }
        assert!(parse("ORDERS", &json!([]), registrant()).is_err());
    }
}
