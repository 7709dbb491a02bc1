//! The names of Nacos: a service has a namespace, a group and a name, and an instance a cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::params::{DEFAULT_CLUSTER, Params};
use crate::http::Problem;
use crate::http::facade::key::scope_key;
use crate::http::problem::InField;
use crate::model::{
    Address, Field, Instance, InstanceKey, Metadata, Protocol, RegisteredStatus, Registrant,
    Registration, Scope, ScopeKind, Ttl, Weight,
};

pub(super) const PUBLIC: &str = "public";
pub(super) const DEFAULT_GROUP: &str = "DEFAULT_GROUP";

/// Between a group and a name.
const SEPARATOR: &str = "@@";

/// The entry of the metadata with the TTL of the lease, in milliseconds.
const TIMEOUT_ENTRY: &str = "preserved.heart.beat.timeout";

/// The entry of the metadata with the time between beats, in milliseconds.
const INTERVAL_ENTRY: &str = "preserved.heart.beat.interval";

/// The TTL of a lease, and the time between beats, unless the metadata say another one.
const DEFAULT_TIMEOUT_MS: u64 = 15_000;
pub(super) const DEFAULT_INTERVAL_MS: u64 = 5000;

/// The reserved metadata entry: the values that only clients of Nacos use. Defaults are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    /// The name of the service, unless it is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    /// The weight, unless it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<f64>,
}

impl Entry {
    /// Reads the entry of an instance; one without members if no Nacos client registered it.
    pub(super) fn of(instance: &Instance) -> Self {
        let text = instance.given_metadata.of_protocol(Protocol::Nacos);
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Returns the cluster of an instance.
    pub(super) fn cluster(&self) -> &str {
        self.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER)
    }
}

/// A service as Nacos names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceName {
    pub(super) namespace: String,
    pub(super) group: String,
    pub(super) name: String,
}

impl ServiceName {
    /// Reads the parameters `serviceName`, which may begin with the group, `groupName` and
    /// `namespaceId`.
    pub(super) fn of(params: &Params<'_>) -> Result<Self, Problem> {
        let name = params.required("serviceName")?;
        let namespace = params.get("namespaceId").unwrap_or(PUBLIC);
        let (group, name) = match name.split_once(SEPARATOR) {
            Some((group, name)) if !group.is_empty() => (group, name),
            _ => (params.get("groupName").unwrap_or(DEFAULT_GROUP), name),
        };
        if name.is_empty() {
            let reason = "must have a name after the group";
            return Err(Problem::invalid("serviceName", reason));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            group: group.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Returns the key of the service with these names, if its name is the key.
    pub(super) fn plain_key<'a>(
        name: &'a str,
        group: Option<&str>,
        namespace: Option<&str>,
    ) -> Option<&'a str> {
        let given =
            |text: Option<&str>, default| text.is_none_or(|it| it == default || it.is_empty());
        let (own_group, name) = match name.split_once(SEPARATOR) {
            Some((group, name)) => (Some(group), name),
            None => (group, name),
        };
        (given(namespace, PUBLIC) && given(own_group, DEFAULT_GROUP)).then_some(name)
    }

    /// Returns the service of an instance that a client of any protocol registered.
    pub(super) fn of_instance(instance: &Instance, entry: &Entry) -> Self {
        let own = |text: &Option<String>, default: &str| {
            text.clone().unwrap_or_else(|| default.to_owned())
        };
        Self {
            namespace: own(&entry.namespace, PUBLIC),
            group: own(&entry.group, DEFAULT_GROUP),
            name: own(&entry.name, instance.key.scope.key.as_str()),
        }
    }

    fn is_plain(&self) -> bool {
        self.namespace == PUBLIC && self.group == DEFAULT_GROUP
    }

    /// Returns the service of the registry.
    pub(super) fn scope(&self) -> Result<Scope, Problem> {
        let key = match self.is_plain() {
            true => scope_key(&self.name),
            false => scope_key(&format!(
                "{}__{}__{}",
                self.namespace, self.group, self.name
            )),
        };
        Ok(ScopeKind::Service.with(key.in_field("serviceName")?))
    }

    /// Returns the name with the group: `DEFAULT_GROUP@@orders`.
    pub(super) fn grouped(&self) -> String {
        format!("{}{SEPARATOR}{}", self.group, self.name)
    }
}

/// Reads the parameters `ip` and `port`.
pub(super) fn address(params: &Params<'_>) -> Result<Address, Problem> {
    let (ip, port) = (params.required("ip")?, params.required("port")?);
    Address::text_of(ip, port).parse().in_field("ip and port")
}

/// Reads the registration of an instance.
pub(super) fn registration(
    service: &ServiceName,
    params: &Params<'_>,
    by: Registrant,
) -> Result<Registration, Problem> {
    if params.flag("ephemeral")? == Some(false) {
        let reason = "must be true: every instance has a lease, which its beats renew";
        return Err(Problem::invalid("ephemeral", reason));
    }
    let scope = service.scope()?;
    let metadata = params.metadata()?.unwrap_or_default();
    let ttl = millis(&metadata, TIMEOUT_ENTRY).unwrap_or(DEFAULT_TIMEOUT_MS);
    let (weight, exact) = weight(params)?.unwrap_or((Weight::default(), None));
    let unless = |text: &str, default: &str| (text != default).then(|| text.to_owned());
    let entry = Entry {
        namespace: unless(&service.namespace, PUBLIC),
        group: unless(&service.group, DEFAULT_GROUP),
        name: unless(&service.name, scope.key.as_str()),
        cluster: unless(params.cluster(), DEFAULT_CLUSTER),
        weight: exact,
    };
    let enabled = params.enabled()?.unwrap_or(true);
    Ok(Registration {
        name: Field::Null,
        weight: Field::Given(weight),
        metadata: Field::Given(with_entry(metadata, &entry)?),
        ttl: Field::Given(Ttl::nearest(ttl.div_ceil(1000))),
        status: match enabled {
            true => RegisteredStatus::Enabled,
            false => RegisteredStatus::Disabled,
        },
        by: Some(by),
        ..Registration::of(InstanceKey {
            scope,
            address: address(params)?,
        })
    })
}

/// Reads a change of a registered instance. Parameters that are not given keep their values.
pub(super) fn change(
    instance: &Instance,
    params: &Params<'_>,
    by: Registrant,
) -> Result<Registration, Problem> {
    let mut entry = Entry::of(instance);
    if let Some(cluster) = params.get("clusterName").or_else(|| params.get("cluster")) {
        entry.cluster = (cluster != DEFAULT_CLUSTER).then(|| cluster.to_owned());
    }
    let mut weight_now = instance.given_weight;
    if let Some((weight, exact)) = weight(params)? {
        (weight_now, entry.weight) = (Some(weight), exact);
    }
    let given = params.metadata()?;
    let timeout = given
        .as_ref()
        .and_then(|given| millis(given, TIMEOUT_ENTRY));
    let ttl = timeout.map(|timeout| Ttl::nearest(timeout.div_ceil(1000)));
    let known = || instance.given_metadata.iter();
    let known = || known().map(|(name, text)| (name.to_owned(), text.to_owned()));
    let metadata = given.unwrap_or_else(|| known().collect());
    Ok(Registration {
        weight: weight_now.into(),
        metadata: Field::Given(with_entry(metadata, &entry)?),
        ttl: ttl.or(instance.ttl).into(),
        status: match params.enabled()? {
            Some(true) => RegisteredStatus::Enabled,
            Some(false) => RegisteredStatus::Disabled,
            None => RegisteredStatus::Unchanged,
        },
        by: Some(by),
        ..Registration::unchanged(instance)
    })
}

fn with_entry(metadata: BTreeMap<String, String>, entry: &Entry) -> Result<Metadata, Problem> {
    let metadata: Metadata = metadata.try_into().in_field("metadata")?;
    let text = serde_json::to_string(entry).unwrap_or_default();
    let metadata = metadata.with_protocol(Protocol::Nacos, Some(text));
    metadata.in_field("metadata")
}

/// Reads the weight: a number of traffic relative to the others, of which the next greater whole one
/// counts, and the exact one if it is not whole.
fn weight(params: &Params<'_>) -> Result<Option<(Weight, Option<f64>)>, Problem> {
    let Some(text) = params.get("weight") else {
        return Ok(None);
    };
    let range = 0.0..=f64::from(Weight::MAX);
    match text.parse::<f64>() {
        Ok(exact) if range.contains(&exact) => {
            let whole = exact.ceil();
            let weight = Weight::try_from(whole as i64).in_field("weight")?;
            Ok(Some((weight, (exact != whole).then_some(exact))))
        }
        _ => Err(Problem::invalid(
            "weight",
            format!("must be a number from 0 to {}", Weight::MAX),
        )),
    }
}

/// Returns the number of an entry of the metadata.
fn millis(metadata: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    metadata.get(name)?.trim().parse().ok()
}

/// Returns the time between the beats of an instance, in milliseconds: that of its metadata, or one
/// that allows for two lost beats.
pub(super) fn beat_interval(instance: &Instance, default_ttl: Ttl) -> u64 {
    let mut entries = instance.metadata().iter();
    let own = entries.find(|(name, _)| *name == INTERVAL_ENTRY);
    let own = own.and_then(|(_, text)| text.trim().parse().ok());
    let ttl = instance.ttl.unwrap_or(default_ttl);
    let third = u64::from(ttl.as_secs()) * 1000 / 3;
    own.filter(|own| *own > 0)
        .unwrap_or(DEFAULT_INTERVAL_MS.min(third))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;
    use crate::http::facade::random::text;

    proptest! {
        #[test]
        fn any_parameters_are_accepted_or_refused(values in prop::collection::vec(text(), 9)) {
            let names = [
                "serviceName", "ip", "port", "metadata", "weight", "clusterName", "groupName",
                "enabled", "namespaceId",
            ];
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(names.iter().zip(&values));
            let request = TestRequest::default().to_http_request();
            let query = query.finish();
            let params = Params::of(&request, query.as_bytes());
            if let Ok(service) = ServiceName::of(&params) {
                prop_assert!(service.scope().is_ok());
                let by = Registrant::new("web", std::net::IpAddr::from([10, 0, 0, 9]));
                let _ = registration(&service, &params, by);
            }
        }
    }

    #[test]
    fn a_weight_that_is_not_whole_counts_as_the_next_whole_one() {
        let weight = |text: &str| {
            let request = TestRequest::with_uri(&format!("/?weight={text}")).to_http_request();
            super::weight(&Params::of(&request, b""))
        };
        let whole = |number| Weight::try_from(number).unwrap();
        for (text, expected) in [
            ("", None),
            ("1.0", Some((whole(1), None))),
            ("0", Some((whole(0), None))),
            ("0.5", Some((whole(1), Some(0.5)))),
            ("10000", Some((whole(10_000), None))),
        ] {
            assert_eq!(weight(text).unwrap(), expected, "{text}");
        }
        for bad in ["-1", "NaN", "inf", "1e9", "heavy"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
