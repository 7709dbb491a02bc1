//! Schemas of request fields, with the limits of the model's types.

use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, Array, ArrayBuilder, ObjectBuilder, Schema, SchemaType,
    Type,
};
use utoipa::openapi::{Object, Ref};

use crate::model::{Address, DisplayName, Metadata, Note, ScopeKey, Ttl, Weight};

/// Text with a character that is not blank, and no control characters.
const LABEL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$";

/// A host name (not of digits and dots alone), an IPv4 address or an IPv6 address in brackets,
/// and a port. The rules for the numbers are not in the pattern.
const ADDRESS: &str = "^((?![0-9.]+:)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*|([0-9]{1,3}\\.){3}[0-9]{1,3}|\\[[0-9A-Fa-f:.]+\\]):[1-9][0-9]{0,4}$";

/// Text without U+0000.
const NO_NUL: &str = "^[^\\u0000]*$";

fn typed(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(kind))
}

/// Allows `null`.
fn optional(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

fn label(max_chars: usize) -> Object {
    let label = optional(Type::String)
        .min_length(Some(1))
        .pattern(Some(LABEL));
    label.max_length(Some(max_chars)).build()
}

/// Instances, or with `?fields=` some fields of each.
pub(in crate::http) fn instances_or_fields() -> Array {
    let address = typed(Type::String).pattern(Some(ADDRESS));
    let fields = typed(Type::Object)
        .property("address", address)
        .required("address");
    let either = AnyOfBuilder::new()
        .item(Ref::from_schema_name("ListedInstance"))
        .item(fields);
    ArrayBuilder::new().items(either).build()
}

pub(in crate::http) fn display_name() -> Object {
    label(DisplayName::MAX_CHARS)
}

pub(in crate::http) fn note() -> Object {
    label(Note::MAX_CHARS)
}

pub(in crate::http) fn weight() -> Object {
    let weight = optional(Type::Integer).minimum(Some(0));
    weight.maximum(Some(Weight::MAX)).build()
}

pub(in crate::http) fn ttl() -> Object {
    let ttl = optional(Type::Integer).minimum(Some(Ttl::MIN_SECS));
    ttl.maximum(Some(Ttl::MAX_SECS)).build()
}

pub(in crate::http) fn metadata() -> Object {
    let names = typed(Type::String)
        .min_length(Some(1))
        .pattern(Some(NO_NUL));
    let text = typed(Type::String).pattern(Some(NO_NUL));
    optional(Type::Object)
        .max_properties(Some(Metadata::MAX_ENTRIES))
        .property_names(Some(Schema::Object(names.build())))
        .additional_properties(Some(AdditionalProperties::from(text)))
        .build()
}

pub(in crate::http) fn address() -> Object {
    let address = typed(Type::String).pattern(Some(ADDRESS));
    let address = address.max_length(Some(Address::MAX_LEN));
    address.examples(["10.0.0.5:8080"]).build()
}

pub(in crate::http) fn optional_address() -> Object {
    let address = typed(Type::String);
    address.examples(["10.0.0.5"]).build()
}

fn scope_key_pattern() -> String {
    format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", ScopeKey::MAX_LEN - 1)
}

pub(in crate::http) fn scope_key() -> Object {
    let key = typed(Type::String).pattern(Some(scope_key_pattern()));
    key.examples(["orders"]).build()
}

pub(in crate::http) fn optional_scope_key() -> Object {
    let key = optional(Type::String).pattern(Some(scope_key_pattern()));
    key.build()
}
