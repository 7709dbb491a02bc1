//! The index from the IDs by which clients of other registries' protocols name their instances.

use foldhash::fast::RandomState;
use papaya::{Equivalent, HashMap};

use crate::model::{InstanceKey, Metadata, Protocol};

/// An ID in a protocol.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ProtocolId {
    protocol: Protocol,
    id: Box<str>,
}

/// A [`ProtocolId`] whose text is borrowed. It has the same hash.
#[derive(Hash)]
struct IdParts<'a> {
    protocol: Protocol,
    id: &'a str,
}

impl Equivalent<ProtocolId> for IdParts<'_> {
    fn equivalent(&self, other: &ProtocolId) -> bool {
        (self.protocol, self.id) == (other.protocol, &*other.id)
    }
}

/// The instances by their IDs. An ID may name several.
#[derive(Default)]
pub(super) struct Ids(HashMap<ProtocolId, Vec<InstanceKey>, RandomState>);

impl Ids {
    /// Returns the instances with an ID.
    pub(super) fn find(&self, protocol: Protocol, id: &str) -> Vec<InstanceKey> {
        self.map(protocol, id, |key| Some(key.clone()))
    }

    /// Returns what `of` returns for the instances with an ID.
    pub(super) fn map<T>(
        &self,
        protocol: Protocol,
        id: &str,
        of: impl FnMut(&InstanceKey) -> Option<T>,
    ) -> Vec<T> {
        let known = self.0.pin();
        let keys = known.get(&IdParts { protocol, id });
        keys.into_iter().flatten().filter_map(of).collect()
    }

    /// Replaces the IDs of an instance. Called by one thread at a time.
    pub(super) fn replace(
        &self,
        key: &InstanceKey,
        before: Option<&Metadata>,
        now: Option<&Metadata>,
    ) {
        if before == now {
            return;
        }
        let ids = |metadata: Option<&Metadata>| metadata.map(Metadata::ids).unwrap_or_default();
        let (before, now) = (ids(before), ids(now));
        let known = self.0.pin();
        for (protocol, id) in before.iter().filter(|id| !now.contains(id)) {
            let mut keys = self.find(*protocol, id);
            keys.retain(|other| other != key);
            let id = ProtocolId {
                protocol: *protocol,
                id: id.as_str().into(),
            };
            if keys.is_empty() {
                known.remove(&id);
            } else {
                known.insert(id, keys);
            }
        }
        for (protocol, id) in now {
            let mut keys = self.find(protocol, &id);
            if !keys.contains(key) {
                keys.push(key.clone());
                keys.sort_unstable();
                let id = id.into();
                known.insert(ProtocolId { protocol, id }, keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> InstanceKey {
        InstanceKey {
            scope: crate::model::ScopeKind::Service.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        }
    }

    fn with_ids(ids: &[&str]) -> Metadata {
        let text = serde_json::json!({ "ids": ids }).to_string();
        let metadata = Metadata::default();
        metadata
            .with_protocol(Protocol::Consul, Some(text))
            .unwrap()
    }

    #[test]
    fn an_id_names_the_instances_that_have_it() {
        let ids = Ids::default();
        let (one, two) = (key("10.0.0.1:80"), key("10.0.0.2:80"));
        let find = |id| ids.find(Protocol::Consul, id);
        ids.replace(&two, None, Some(&with_ids(&["a", "b"])));
        ids.replace(&one, None, Some(&with_ids(&["a"])));
        assert_eq!(find("a"), [one.clone(), two.clone()]);
        assert_eq!(find("b"), std::slice::from_ref(&two));
        assert_eq!(ids.find(Protocol::Eureka, "a"), []);

        ids.replace(
            &two,
            Some(&with_ids(&["a", "b"])),
            Some(&with_ids(&["b", "c"])),
        );
        assert_eq!(find("a"), std::slice::from_ref(&one));
        assert_eq!(find("c"), std::slice::from_ref(&two));
        ids.replace(&one, Some(&with_ids(&["a"])), None);
        assert_eq!(find("a"), []);
        assert!(
            ids.0
                .pin()
                .get(&IdParts {
                    protocol: Protocol::Consul,
                    id: "a"
                })
                .is_none()
        );
    }
}
