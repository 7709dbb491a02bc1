//! `?fields=`: instances with the requested fields alone, for clients that need few of them.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::instance_response::ListedInstanceResponse;
use crate::http::Problem;

/// The fields of an instance in a list.
const NAMES: [&str; 21] = [
    "id",
    "group",
    "service",
    "address",
    "name",
    "weight",
    "metadata",
    "status",
    "held_by",
    "reason",
    "held_until",
    "overrides",
    "registered",
    "ttl_seconds",
    "registered_by",
    "registered_at",
    "updated_at",
    "online",
    "available",
    "suspect",
    "online_changed_at",
];

/// The requested fields, in the order of [`NAMES`]; all if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<&'static str>);

impl Fields {
    /// Parses names that are separated by commas. An instance always has its address.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let wanted: Vec<&str> = text.split(',').map(str::trim).collect();
        if let Some(unknown) = wanted.iter().find(|name| !NAMES.contains(name)) {
            let known = NAMES.join(", ");
            let reason = format!("has no field {unknown:?}; there are {known}");
            return Err(Problem::invalid("fields", reason));
        }
        let is_wanted = |name: &&str| *name == "address" || wanted.contains(name);
        Ok(Self(NAMES.into_iter().filter(is_wanted).collect()))
    }

    pub(super) fn are_all(&self) -> bool {
        self.0.is_empty()
    }
}

/// An instance with some of its fields.
pub(super) struct Selected<'a> {
    pub(super) instance: ListedInstanceResponse<'a>,
    pub(super) fields: &'a Fields,
}

impl Serialize for Selected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.fields.are_all() {
            return self.instance.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        for name in &self.fields.0 {
            self.instance.serialize_field(name, &mut map)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_and_the_address_is_always_there() {
        let fields = |text| Fields::parse(text).unwrap().0;
        assert_eq!(fields("weight, id"), ["id", "address", "weight"]);
        assert_eq!(fields("address"), ["address"]);
        let refused = Fields::parse("wight").unwrap_err();
        assert!(
            refused
                .detail()
                .starts_with("fields has no field \"wight\"")
        );
    }
}
