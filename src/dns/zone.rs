//! The names of the zone, and the records of their instances.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::directory::{Directory, InstanceEntry, ScopeSnapshot};
use crate::model::{Instance, Metadata};

/// The time for which an answer may be kept: none, because an instance may end at any time.
const TTL: u32 = 0;

/// The name of the data center in names.
const DATACENTER: &str = "dc1";

/// The priority of all instances.
const PRIORITY: u16 = 1;

/// A domain, such as `consul`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain(Name);

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Name::from_ascii(format!("{}.", text.trim_end_matches('.')));
        match name {
            Ok(name) if !name.is_root() && name.len() < 100 => Ok(Self(name.to_lowercase())),
            _ => Err("must be a domain, such as consul or service.example".to_owned()),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The zone of the services.
pub(super) struct Zone {
    domain: Name,
    directory: Arc<Directory>,
}

/// The records of an answer.
#[derive(Default)]
pub(super) struct Found {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// The meaning of a name.
enum Meaning {
    /// The domain.
    Apex,
    /// A name above others.
    Node,
    /// Instances of a service.
    Instances(Vec<Arc<InstanceEntry>>),
    /// The address of an instance, as the target of a record.
    Address(IpAddr),
    Unknown,
}

impl Zone {
    pub(super) fn new(Domain(domain): Domain, directory: Arc<Directory>) -> Self {
        Self { domain, directory }
    }

    /// Answers a question.
    pub(super) fn find(&self, question: &Query) -> Found {
        let (name, kind) = (question.name(), question.query_type());
        if !self.domain.zone_of(name) {
            return Found {
                code: ResponseCode::Refused,
                ..Found::default()
            };
        }
        let labels = name
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_lowercase());
        let mut labels: Vec<String> = labels.collect();
        labels.truncate(
            labels
                .len()
                .saturating_sub(usize::from(self.domain.num_labels())),
        );
        let mut found = Found::default();
        match self.meaning(&labels) {
            Meaning::Apex => {
                let is_asked = |one| kind == one || kind == RecordType::ANY;
                if is_asked(RecordType::SOA) {
                    found.answers.push(self.authority(name.clone()));
                }
                if is_asked(RecordType::NS) {
                    let server = RData::NS(NS(self.below(&["ns"])));
                    found
                        .answers
                        .push(Record::from_rdata(name.clone(), TTL, server));
                }
            }
            Meaning::Node => {}
            Meaning::Address(ip) => found.answers.extend(address(name, ip, kind)),
            Meaning::Instances(mut instances) => {
                fastrand::shuffle(&mut instances);
                let is_rfc_2782 = labels.first().is_some_and(|label| label.starts_with('_'));
                self.records(&mut found, name, kind, &instances, is_rfc_2782);
            }
            Meaning::Unknown => found.code = ResponseCode::NXDomain,
        }
        if found.answers.is_empty() {
            found.authorities.push(self.authority(self.domain.clone()));
        }
        found
    }

    /// Returns the meaning of the labels before the domain.
    fn meaning(&self, labels: &[String]) -> Meaning {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        // The data center may stand at the end.
        let labels = match labels.as_slice() {
            [rest @ .., last] if *last == DATACENTER => rest,
            all => all,
        };
        match labels {
            [] => Meaning::Apex,
            ["service" | "addr" | "ns"] => Meaning::Node,
            [hex, "addr"] => hex_address(hex).map_or(Meaning::Unknown, Meaning::Address),
            [rest @ .., "service"] => self.service(rest),
            _ => Meaning::Unknown,
        }
    }

    /// Finds the instances of `NAME`, `TAG.NAME`, `_NAME._tcp` or `_NAME._TAG`. Keys may have dots,
    /// so the longest one counts.
    fn service(&self, labels: &[&str]) -> Meaning {
        if let [name, protocol] = labels
            && let (Some(name), Some(tag)) = (name.strip_prefix('_'), protocol.strip_prefix('_'))
        {
            let tag = Some(tag).filter(|tag| !matches!(*tag, "tcp" | "udp"));
            return match self.directory.service_in_any_case(name) {
                Some(view) => instances(&view, tag),
                None => Meaning::Unknown,
            };
        }
        if let Some(view) = self.directory.service_in_any_case(&labels.join(".")) {
            return instances(&view, None);
        }
        for split in 1..labels.len() {
            let (tag, name) = labels.split_at(split);
            if let Some(view) = self.directory.service_in_any_case(&name.join(".")) {
                return instances(&view, Some(&tag.join(".")));
            }
        }
        Meaning::Unknown
    }

    /// Adds the records of instances.
    fn records(
        &self,
        found: &mut Found,
        name: &Name,
        kind: RecordType,
        instances: &[Arc<InstanceEntry>],
        is_rfc_2782: bool,
    ) {
        // An instance of weight 0 is not to be chosen, which a record without a weight cannot say.
        let chosen: Vec<&Instance> = instances.iter().map(|listed| &listed.instance).collect();
        let heaviest = chosen
            .iter()
            .map(|it| it.weight().get())
            .max()
            .unwrap_or_default();
        for ip in chosen
            .iter()
            .filter(|it| heaviest == 0 || it.weight().get() > 0)
            .filter_map(|it| ip(it))
        {
            let known = address(name, ip, kind);
            let known = known.filter(|record| !found.answers.contains(record));
            found.answers.extend(known);
        }
        if !matches!(kind, RecordType::SRV | RecordType::ANY) {
            return;
        }
        // HAProxy divides by 256. Only the ratio counts for others: RFC 2782.
        let factor = if is_rfc_2782 && heaviest <= 255 {
            256
        } else {
            1
        };
        for instance in chosen {
            let target = match ip(instance) {
                Some(ip) => self.target(ip),
                None => Name::from_ascii(format!("{}.", instance.key.address.host())).ok(),
            };
            let Some(target) = target else { continue };
            let weight = instance.weight().get() * factor;
            let port = instance.key.address.port();
            let record = SRV::new(PRIORITY, weight, port, target.clone());
            let record = Record::from_rdata(name.clone(), TTL, RData::SRV(record));
            found.answers.push(record);
            let addresses = ip(instance).and_then(|ip| address(&target, ip, RecordType::ANY));
            let addresses = addresses.filter(|record| !found.additionals.contains(record));
            found.additionals.extend(addresses);
        }
    }

    /// Returns the name whose address is an IP address: `7f000001.addr.dc1.consul.`.
    fn target(&self, ip: IpAddr) -> Option<Name> {
        let hex = match ip {
            IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
            IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
        };
        Some(self.below(&[&hex, "addr", DATACENTER]))
    }

    fn below(&self, labels: &[&str]) -> Name {
        let labels = labels.iter().map(|label| label.as_bytes());
        // The labels are short, and so is the domain.
        Name::from_labels(labels.chain(self.domain.iter())).unwrap_or_default()
    }

    /// Returns the record that says who is responsible, and that an absence may not be kept.
    fn authority(&self, name: Name) -> Record {
        let serial = self.directory.version() as u32;
        let (server, person) = (self.below(&["ns"]), self.below(&["hostmaster"]));
        let authority = SOA::new(server, person, serial, 3600, 600, 86_400, TTL);
        Record::from_rdata(name, TTL, RData::SOA(authority))
    }
}

/// Selects the available instances of a service.
fn instances(view: &ScopeSnapshot, tag: Option<&str>) -> Meaning {
    let has_tag = |metadata: &Metadata| {
        tag.is_none_or(|tag| {
            metadata
                .tags()
                .iter()
                .any(|own| own.eq_ignore_ascii_case(tag))
        })
    };
    let available = view.entries().filter(|listed| listed.instance.available());
    let selected = available.filter(|listed| has_tag(&listed.instance.given_metadata));
    Meaning::Instances(selected.cloned().collect())
}

fn ip(instance: &Instance) -> Option<IpAddr> {
    let ip: IpAddr = instance.key.address.host().parse().ok()?;
    Some(ip.to_canonical())
}

/// Returns the address record of a name, if the query asks for its kind.
fn address(name: &Name, ip: IpAddr, kind: RecordType) -> Option<Record> {
    let data = match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(A(ip)),
        (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(ip)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

fn hex_address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => Some(Ipv4Addr::from_bits(u32::from_str_radix(hex, 16).ok()?).into()),
        32 => Some(Ipv6Addr::from_bits(u128::from_str_radix(hex, 16).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_labels() {
        for good in ["consul", "consul.", "Service.Example"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", &"a".repeat(64)] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_written_in_hexadecimal_digits() {
        assert_eq!(hex_address("7f000001"), Some(Ipv4Addr::LOCALHOST.into()));
        let six = format!("{:032x}", Ipv6Addr::LOCALHOST.to_bits());
        assert_eq!(hex_address(&six), Some(Ipv6Addr::LOCALHOST.into()));
        for bad in ["", "7f00000", "7f00000g", "+7f00001"] {
            assert_eq!(hex_address(bad), None, "{bad}");
        }
    }
}
