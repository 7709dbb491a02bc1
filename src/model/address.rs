//! Addresses: where an instance listens, and its identity within its scope.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Invalid, from_text, shown};

/// `host:port` in its normal form, at most 100 characters: a host name in lower case, an IPv6
/// address as RFC 5952 writes it. Two ways to write one address are one address. Cheap to clone.
///
/// The host is a name (labels of letters, digits, `-` and `_`, joined by dots),
/// an IPv4 address or an IPv6 address in brackets (RFC 3986 section 3.2.2, without
/// zone). The port is 1 to 65535 without leading zeros. No scheme, user info or path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Address(Arc<str>);

impl Address {
    /// The longest address, in characters (all of them ASCII).
    pub(crate) const MAX_LEN: usize = 100;

    /// Returns the text of an address: a host, or an IP address with or without brackets, and a port.
    pub(crate) fn text_of(host: &str, port: impl fmt::Display) -> String {
        match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the host; an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or("", |(host, _)| host);
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        inner.unwrap_or(host)
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        let port = self.0.rsplit_once(':').map(|(_, port)| port.parse());
        port.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns whether it stands for all addresses of a machine, such as `0.0.0.0:80`: a server may
    /// listen there, but no client can reach it.
    pub(crate) fn is_unspecified(&self) -> bool {
        let ip = self.host().parse::<IpAddr>();
        ip.is_ok_and(|ip| ip.to_canonical().is_unspecified())
    }
}

/// Returns the normal form of a host, or `None` if it is invalid.
fn normal_host(host: &str) -> Option<Cow<'_, str>> {
    if let Some(inner) = host.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Cow::Owned(format!("[{ip}]")));
    }
    // Digits and dots alone must be a valid IPv4 address.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().ok().map(|_| Cow::Borrowed(host));
    }
    is_name(host).then(|| {
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    })
}

fn is_name(host: &str) -> bool {
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
        let Some(normal) = normal_host(host) else {
            return Err(Invalid::new(format!(
                "must have a host name, an IPv4 address or an [IPv6] address before the port, unlike {}",
                shown(text)
            )));
        };
        Ok(match normal {
            Cow::Borrowed(_) => Self(text.into()),
            Cow::Owned(host) => Self(format!("{host}:{port}").into()),
        })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string().into())
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
    fn two_ways_to_write_an_address_are_one() {
        for (given, normal) in [
            ("Orders-1.EU.example:80", "orders-1.eu.example:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[0::0001]:80", "[::1]:80"),
            ("[2001:DB8:0:0:1:0:0:1]:443", "[2001:db8::1:0:0:1]:443"),
            ("[::FFFF:c000:0201]:1", "[::ffff:192.0.2.1]:1"),
        ] {
            let address: Address = given.parse().unwrap();
            assert_eq!(address.as_str(), normal);
            assert_eq!(normal.parse(), Ok(address));
        }
    }

    #[test]
    fn a_host_and_a_port_are_an_address() {
        for (host, address) in [
            ("10.0.0.5", "10.0.0.5:80"),
            ("a.b", "a.b:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
        ] {
            assert_eq!(Address::text_of(host, 80), address);
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host, port) in [("a.b:1", "a.b", 1), ("[::1]:65535", "::1", 65_535)] {
            let address: Address = address.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
        }
    }

    #[test]
    fn all_addresses_of_a_machine_are_no_address() {
        for (address, unspecified) in [
            ("0.0.0.0:80", true),
            ("[::]:80", true),
            ("[0:0::0]:80", true),
            ("[::ffff:0.0.0.0]:80", true),
            ("10.0.0.0:80", false),
            ("[::1]:80", false),
            ("localhost:80", false),
        ] {
            let address: Address = address.parse().unwrap();
            assert_eq!(address.is_unspecified(), unspecified, "{address}");
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
