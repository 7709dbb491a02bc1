//! Metadata: names and texts of an instance. Some names are reserved for the protocols of other
//! registries.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::str::FromStr;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Invalid, shown};

/// A protocol of another registry, whose clients register instances here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// The HTTP API of Consul.
    Consul,
    /// The REST operations of Netflix Eureka.
    Eureka,
    /// The HTTP API of Nacos, version 1.
    Nacos,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Consul, Self::Eureka, Self::Nacos];

    /// Returns the name of the reserved metadata entry, whose text is a JSON object: what a client
    /// of the protocol registered and no other one needs. Its member `ids` lists the IDs by which
    /// such clients name the instance.
    pub fn entry(self) -> &'static str {
        match self {
            Self::Consul => "_consul",
            Self::Eureka => "_eureka",
            Self::Nacos => "_nacos",
        }
    }

    /// Returns the name in the setting.
    fn as_str(self) -> &'static str {
        match self {
            Self::Consul => "consul",
            Self::Eureka => "eureka",
            Self::Nacos => "nacos",
        }
    }

    fn of_entry(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.entry() == name)
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|one| one.as_str() == text);
        known.ok_or_else(|| {
            let shown = shown(text);
            Invalid::new(format!("must be eureka, consul or nacos, unlike {shown}"))
        })
    }
}

/// The metadata of an instance: names and texts, at most 64 entries and 8 KiB as JSON. No name
/// is empty, and nothing contains NUL, which PostgreSQL cannot store.
///
/// Every instance has one, so it is one text: names and texts in turn, sorted by the bytes of
/// the names, separated by NUL. The reserved entries ([`Protocol::entry`]) are hidden: they are not
/// iterated over, not serialised, and refused where metadata is parsed; [`StoredMetadata`] has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// The most entries.
    pub(crate) const MAX_ENTRIES: usize = 64;
    /// The largest size as compact JSON, in bytes.
    pub(crate) const MAX_BYTES: usize = 8 * 1024;

    /// Iterates over the entries that are not reserved, sorted by the bytes of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.all();
        entries.filter(|(name, _)| Protocol::of_entry(name).is_none())
    }

    /// Returns the text of the reserved entry of a protocol.
    pub fn of_protocol(&self, protocol: Protocol) -> Option<&str> {
        let mut entries = self.all();
        let found = entries.find(|(name, _)| *name == protocol.entry());
        found.map(|(_, text)| text)
    }

    /// Returns the metadata with another reserved entry of a protocol, or without one.
    ///
    /// # Errors
    ///
    /// All entries are too many or too large.
    pub fn with_protocol(&self, protocol: Protocol, text: Option<String>) -> Result<Self, Invalid> {
        let others = self.all().filter(|(name, _)| *name != protocol.entry());
        let others = others.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let own = text.map(|text| (protocol.entry().to_owned(), text));
        Self::from_entries(others.chain(own).collect())
    }

    /// Returns the tags that a Consul client registered.
    pub(crate) fn tags(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Vec<String>,
        }

        let entry = self.of_protocol(Protocol::Consul);
        let entry = entry.and_then(|text| serde_json::from_str(text).ok());
        entry.map(|Tags { tags }| tags).unwrap_or_default()
    }

    /// Returns the IDs by which clients of the protocols name the instance.
    pub(crate) fn ids(&self) -> Vec<(Protocol, String)> {
        #[derive(Deserialize)]
        struct Ids {
            #[serde(default)]
            ids: Vec<String>,
        }

        let mut found = Vec::new();
        for (name, text) in self.all() {
            if let Some(protocol) = Protocol::of_entry(name)
                && let Ok(Ids { ids }) = serde_json::from_str(text)
            {
                found.extend(ids.into_iter().map(|id| (protocol, id)));
            }
        }
        found
    }

    /// Iterates over all entries.
    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.0.split('\0');
        // No name is empty, so an empty name ends the entries.
        iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Reads a map without duplicate names.
fn read_entries<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some((name, text)) = map.next_entry::<String, String>()? {
                if entries.contains_key(&name) {
                    let twice = format!("must not have the entry {} twice", shown(&name));
                    return Err(A::Error::custom(twice));
                }
                entries.insert(name, text);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Entries)
}

/// Refuses reserved entries.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_entries(deserializer)?
            .try_into()
            .map_err(D::Error::custom)
    }
}

/// Refuses reserved entries.
impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = Invalid;

    fn try_from(entries: BTreeMap<String, String>) -> Result<Self, Invalid> {
        let mut names = entries.keys();
        if let Some(name) = names.find(|name| Protocol::of_entry(name).is_some()) {
            return Err(Invalid::new(format!(
                "must not have the entry {name:?}, whose name is reserved"
            )));
        }
        Self::from_entries(entries)
    }
}

impl Metadata {
    fn from_entries(entries: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if entries.len() > Self::MAX_ENTRIES {
            return Err(Invalid::new(format!(
                "must have at most {} entries, not {}",
                Self::MAX_ENTRIES,
                entries.len()
            )));
        }
        if entries.keys().any(String::is_empty) {
            return Err(Invalid::new("must not have an entry with an empty name"));
        }
        if entries
            .iter()
            .any(|(k, v)| k.contains('\0') || v.contains('\0'))
        {
            return Err(Invalid::new("must not hold the character U+0000"));
        }
        let bytes = serde_json::to_string(&entries)
            .map_err(|error| Invalid::new(error.to_string()))?
            .len();
        if bytes > Self::MAX_BYTES {
            return Err(Invalid::new(format!(
                "must have at most {} bytes as JSON, not {bytes}",
                Self::MAX_BYTES
            )));
        }
        let texts: Vec<String> = entries
            .into_iter()
            .flat_map(|(name, text)| [name, text])
            .collect();
        Ok(Self(texts.join("\0").into()))
    }
}

/// All entries, also reserved ones, for the registry store and the event log.
pub(crate) struct StoredMetadata<'a>(pub(crate) &'a Metadata);

impl Serialize for StoredMetadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.all())
    }
}

/// Reads and writes all entries, for `#[serde(with)]`.
pub(crate) mod stored {
    use serde::de::Error;
    use serde::{Deserializer, Serialize, Serializer};

    use super::{Metadata, StoredMetadata, read_entries};

    /// Writes all entries.
    pub(crate) fn serialize<S: Serializer>(
        metadata: &Metadata,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        StoredMetadata(metadata).serialize(serializer)
    }

    /// Reads all entries.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Metadata, D::Error> {
        Metadata::from_entries(read_entries(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, value: &str) -> BTreeMap<String, String> {
        (0..count)
            .map(|i| (format!("k{i}"), value.to_owned()))
            .collect()
    }

    #[test]
    fn metadata_has_at_most_64_entries_and_8_kib() {
        assert!(Metadata::try_from(entries(64, "v")).is_ok());
        assert!(Metadata::try_from(entries(65, "v")).is_err());
        // {"k0":"…"} has 9 bytes around the value.
        assert!(Metadata::try_from(entries(1, &"x".repeat(8192 - 9))).is_ok());
        assert!(Metadata::try_from(entries(1, &"x".repeat(8192 - 8))).is_err());
    }

    #[test]
    fn metadata_holds_neither_empty_names_nor_nul() {
        for (name, value) in [("", "v"), ("a\0", "v"), ("a", "\0")] {
            let entries = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(Metadata::try_from(entries).is_err(), "{name:?}: {value:?}");
        }
    }

    fn metadata(entries: &[(&str, &str)]) -> Metadata {
        let entries = entries.iter();
        let entries = entries.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Metadata::try_from(BTreeMap::from_iter(entries)).unwrap()
    }

    #[test]
    fn a_reserved_entry_is_hidden_and_refused_but_stored() {
        let shown = metadata(&[("zone", "a")]);
        let text = r#"{"ids":["orders-1"],"host":"a"}"#;
        let both = shown.with_protocol(Protocol::Eureka, Some(text.to_owned()));
        let both = both.unwrap();
        assert_eq!(both.of_protocol(Protocol::Eureka), Some(text));
        assert_eq!(both.of_protocol(Protocol::Nacos), None);
        assert_eq!(both.ids(), [(Protocol::Eureka, "orders-1".to_owned())]);
        assert_eq!(both.iter().collect::<Vec<_>>(), [("zone", "a")]);
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"{"zone":"a"}"#);
        assert_eq!(both.with_protocol(Protocol::Eureka, None), Ok(shown));

        let json = serde_json::to_value(StoredMetadata(&both)).unwrap();
        assert_eq!(stored::deserialize(json.clone()).unwrap(), both);
        assert!(serde_json::from_value::<Metadata>(json).is_err());
    }

    #[test]
    fn an_entry_without_ids_names_no_instance() {
        for text in ["", "{}", "[]", r#"{"ids":1}"#, r#"{"ids":[]}"#] {
            let one = Metadata::default().with_protocol(Protocol::Nacos, Some(text.to_owned()));
            assert_eq!(one.unwrap().ids(), []);
        }
    }
}
