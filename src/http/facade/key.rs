//! The keys of services whose names come from other registries' protocols.

use sha2::{Digest, Sha256};

use crate::model::{Invalid, ScopeKey};

/// The longest part of a name that a key begins with, when the name itself is none.
const LONGEST_PART: usize = 89;

/// Returns the key of a service with this name: the name itself where it is a key, so that services
/// meet over all protocols; otherwise what is left of it, and 40 bits of a hash of the name. Every
/// replica of every version makes the same key.
///
/// # Errors
///
/// The name is empty.
pub(super) fn scope_key(name: &str) -> Result<ScopeKey, Invalid> {
    if name.is_empty() || name.parse::<ScopeKey>().is_ok() {
        return name.parse();
    }
    let mut part = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => part.push(c),
            _ if part.ends_with('-') => {}
            _ => part.push('-'),
        }
    }
    let part = part.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let part = &part[..part.len().min(LONGEST_PART)];
    let hash = hex::encode(&Sha256::digest(name)[..5]);
    let key = match part {
        "" => format!("x.{hash}"),
        part => format!("{part}.{hash}"),
    };
    key.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_key_is_the_key() {
        for name in ["orders", "Orders", "a.b_c-d", "0"] {
            assert_eq!(scope_key(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn replicas_of_all_versions_make_the_same_key_of_another_name() {
        // The first 40 bits of the SHA-256 of the name.
        for (name, key) in [
            ("DEFAULT_GROUP@@orders", "DEFAULT_GROUP-orders."),
            ("providers:org.Demo:1.0.0:", "providers-org.Demo-1.0.0-."),
            ("_nomad-task", "nomad-task."),
            ("订单", "x."),
            ("///", "x."),
        ] {
            let hash = hex::encode(&Sha256::digest(name)[..5]);
            assert_eq!(scope_key(name).unwrap().as_str(), format!("{key}{hash}"));
        }
        assert_eq!(scope_key("a b").unwrap().as_str(), "a-b.c8687a08aa");
    }

    #[test]
    fn every_name_has_a_key_of_its_own_and_the_empty_one_none() {
        assert!(scope_key("").is_err());
        let long = "a/".repeat(5000);
        let names = ["a/b", "a:b", "a\0b", "-", "--", long.as_str()];
        let keys = names.map(|name| scope_key(name).unwrap());
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key}");
        }
    }
}
