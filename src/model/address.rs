//! Addresses: where an instance listens, and by which it is known in its scope.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Invalid, from_text, shown};

/// `host:port`, kept byte for byte as it was given, at most 100 characters. Cheap to clone.
///
/// The host is a name (labels of letters, digits, `-` and `_`, joined by dots),
/// an IPv4 address or an IPv6 address in brackets (RFC 3986 section 3.2.2, without
/// zone). The port is 1 to 65535 without leading zeros. No scheme, user info or path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Address(Arc<str>);

impl Address {
    /// The longest address, in characters (all of them ASCII).
    pub const MAX_LEN: usize = 100;

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    }
    // Digits and dots alone are meant as an IPv4 address and must be one.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    })
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit())
        && !port.starts_with('0')
        && port.parse::<u16>().is_ok()
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > Self::MAX_LEN {
            return Err(Invalid::new(format!(
                "must have at most {} characters, not {}",
                Self::MAX_LEN,
                text.chars().count()
            )));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Invalid::new(format!(
                "must be host:port, unlike {}",
                shown(text)
            )));
        };
        if !is_port(port) {
            return Err(Invalid::new(format!(
                "must end in a port from 1 to 65535, unlike {}",
                shown(text)
            )));
        }
        if !is_host(host) {
            return Err(Invalid::new(format!(
                "must have a host name, an IPv4 address or an [IPv6] address before the port, unlike {}",
                shown(text)
            )));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Address {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.as_str().to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "10.0.0.5:8080",
            "localhost:1",
            "orders-1.eu.example:65535",
            "my_service:80",
            "[::1]:8080",
            "[2001:db8::17]:443",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn what_is_not_a_host_and_a_port_is_refused() {
        for bad in [
            "",
            "10.0.0.5",
            ":8080",
            "10.0.0.5:",
            "10.0.0.5:0",
            "10.0.0.5:70000",
            "a:080",
            "a:+80",
            "a:-1",
            "10.0.0.256:80",
            "1.2.3:80",
            "::1:80",
            "[::1:80",
            "[::1%eth0]:80",
            "[a]:80",
            "user@host:80",
            "http://a:80",
            "a:80/path",
            "a b:80",
            "a*:80",
            "-a:80",
            "a-:80",
            "a..b:80",
            "é:80",
            "a:80\n",
            &format!("{}:80", "a".repeat(64)),
            &format!("{}:80", "a.".repeat(60)),
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} must not parse");
        }
    }
}
