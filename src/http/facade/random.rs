//! Random bodies for property tests. `tests/fuzz` runs many more cases than the tests.

use proptest::prelude::*;
use serde_json::Value;

/// A text, often one that breaks documents.
pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,20}",
        Just("</instance>&<!DOCTYPE a>]]>\0\u{1}\"'".to_owned()),
        Just("-1".to_owned()),
        Just("99999999999999999999".to_owned()),
        "[0-9]{1,5}(s|m|ms)?",
        "[a-z0-9.:-]{1,30}",
    ]
}

/// A tree with the members that the protocols know.
pub(super) fn tree() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "instance",
            "app",
            "hostName",
            "ipAddr",
            "port",
            "securePort",
            "$",
            "@enabled",
            "dataCenterInfo",
            "name",
            "metadata",
            "leaseInfo",
            "durationInSecs",
            "status",
            "Name",
            "ID",
            "Port",
            "Address",
            "Tags",
            "Meta",
            "Check",
            "Checks",
            "TTL",
            "Status",
            "Weights",
            "Passing",
            "TaggedAddresses",
        ])
        .prop_map(str::to_owned),
        text(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (1..65_535_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// A registration that is right but for some members.
pub(super) fn nearly_right(right: Value) -> impl Strategy<Value = Value> {
    let members = right.as_object().into_iter().flatten();
    let names: Vec<String> = members.map(|(name, _)| name.clone()).collect();
    let changes = prop::collection::vec((prop::sample::select(names), tree()), 0..3);
    changes.prop_map(move |changes| {
        let mut body = right.clone();
        for (name, value) in changes {
            body[name] = value;
        }
        body
    })
}
