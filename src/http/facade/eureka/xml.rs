//! Eureka's XML: the same tree as its JSON.

use std::io;

use quick_xml::Reader;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesStart, BytesText, Event};
use serde_json::{Map, Value};

use super::info::{DataCenter, InstanceInfo, Port};

/// The deepest element of a body.
const MAX_DEPTH: usize = 16;

type Out = Writer<Vec<u8>>;

/// Begins a document.
pub(super) fn document(write: impl FnOnce(&mut Out) -> io::Result<()>) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    // Writing to memory cannot fail.
    let _ = out.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    let _ = write(&mut out);
    out.into_inner()
}

/// Returns an element of a document, without the declaration.
pub(super) fn fragment(write: impl FnOnce(&mut Out) -> io::Result<()>) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    let _ = write(&mut out);
    out.into_inner()
}

/// Writes an element with other elements.
pub(super) fn element(
    out: &mut Out,
    name: &str,
    write: impl FnOnce(&mut Out) -> io::Result<()>,
) -> io::Result<()> {
    out.create_element(name).write_inner_content(write)?;
    Ok(())
}

/// Writes an element with a text, without the characters that XML does not have.
pub(super) fn text(out: &mut Out, name: &str, text: &str) -> io::Result<()> {
    let known: String = text.chars().filter(|c| is_character(*c)).collect();
    out.create_element(name)
        .write_text_content(BytesText::new(&known))?;
    Ok(())
}

/// Writes an instance.
pub(super) fn instance(out: &mut Out, info: &InstanceInfo<'_>) -> io::Result<()> {
    element(out, "instance", |out| members(out, info))
}

fn members(out: &mut Out, info: &InstanceInfo<'_>) -> io::Result<()> {
    let texts = [
        ("instanceId", info.instance_id.as_str()),
        ("hostName", &info.host_name),
        ("app", &info.app),
        ("ipAddr", info.ip_addr),
        ("status", info.status),
        ("overriddenstatus", info.overridden_status),
    ];
    for (name, value) in texts {
        text(out, name, value)?;
    }
    port(out, "port", info.port)?;
    port(out, "securePort", info.secure_port)?;
    text(out, "countryId", &info.country_id.to_string())?;
    data_center(out, &info.data_center_info)?;
    element(out, "leaseInfo", |out| {
        let lease = &info.lease_info;
        let numbers = [
            (
                "renewalIntervalInSecs",
                i64::from(lease.renewal_interval_in_secs),
            ),
            ("durationInSecs", i64::from(lease.duration_in_secs)),
            ("registrationTimestamp", lease.registration_timestamp),
            ("lastRenewalTimestamp", lease.last_renewal_timestamp),
            ("evictionTimestamp", lease.eviction_timestamp),
            ("serviceUpTimestamp", lease.service_up_timestamp),
        ];
        let mut numbers = numbers.into_iter();
        numbers.try_for_each(|(name, number)| text(out, name, &number.to_string()))
    })?;
    metadata(out, info.metadata.iter().map(|(name, text)| (*name, *text)))?;
    let texts = [
        ("appGroupName", info.app_group_name.as_deref()),
        ("homePageUrl", Some(info.home_page_url.as_str())),
        ("statusPageUrl", Some(&info.status_page_url)),
        ("healthCheckUrl", Some(&info.health_check_url)),
        (
            "secureHealthCheckUrl",
            Some(info.secure_health_check_url.as_str()).filter(|url| !url.is_empty()),
        ),
        ("vipAddress", Some(&info.vip_address)),
        ("secureVipAddress", Some(&info.secure_vip_address)),
        ("asgName", info.asg_name.as_deref()),
        (
            "isCoordinatingDiscoveryServer",
            Some(info.is_coordinating_discovery_server),
        ),
        (
            "lastUpdatedTimestamp",
            Some(&info.last_updated_timestamp.to_string()),
        ),
        (
            "lastDirtyTimestamp",
            Some(&info.last_dirty_timestamp.to_string()),
        ),
        ("actionType", Some(info.action_type.as_str())),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            text(out, name, value)?;
        }
    }
    Ok(())
}

fn port(out: &mut Out, name: &str, port: Port) -> io::Result<()> {
    let enabled = if port.enabled { "true" } else { "false" };
    out.create_element(name)
        .with_attribute(("enabled", enabled))
        .write_text_content(BytesText::new(&port.number.to_string()))?;
    Ok(())
}

fn data_center(out: &mut Out, center: &DataCenter) -> io::Result<()> {
    let class: String = center.class.chars().filter(|c| is_character(*c)).collect();
    out.create_element("dataCenterInfo")
        .with_attribute(("class", class.as_str()))
        .write_inner_content(|out| {
            text(out, "name", &center.name)?;
            if center.metadata.is_empty() {
                return Ok(());
            }
            let entries = center.metadata.iter();
            metadata(
                out,
                entries.map(|(name, text)| (name.as_str(), text.as_str())),
            )
        })?;
    Ok(())
}

/// Writes metadata. A name that is none in XML would make the whole document unreadable.
fn metadata<'a>(
    out: &mut Out,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    element(out, "metadata", |out| {
        let mut written = Vec::new();
        for (name, value) in entries {
            let name = element_name(name);
            if !written.contains(&name) {
                text(out, &name, value)?;
                written.push(name);
            }
        }
        Ok(())
    })
}

/// Returns the name of an element for a name of metadata: letters, digits, `_`, `-` and `.`, of
/// ASCII, which all versions of XML know.
fn element_name(name: &str) -> String {
    let known = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') => c,
        _ => '_',
    };
    let mut known: String = name.chars().map(known).collect();
    if !known.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        known.insert(0, '_');
    }
    known
}

/// Returns whether XML has a character: XML 1.0, section 2.2.
fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Reads a document as the JSON that has the same tree: an attribute `enabled` is a member
/// `@enabled`, and the text beside attributes is the member `$`.
///
/// # Errors
///
/// Says what is wrong. A document type is refused, so no entity can be declared.
pub(super) fn read(document: &[u8]) -> Result<Value, String> {
    let document = std::str::from_utf8(document).map_err(|_| "is not UTF-8".to_owned())?;
    let mut reader = Reader::from_str(document);
    // The open elements; the first one stands for the document.
    let mut open = vec![Element::default()];
    loop {
        let event = reader.read_event();
        let event = event.map_err(|error| format!("is not XML: {error}"))?;
        match event {
            Event::Start(start) => {
                if open.len() > MAX_DEPTH {
                    return Err(format!("is XML with more than {MAX_DEPTH} levels"));
                }
                open.push(Element::begin(&start)?);
            }
            Event::Empty(start) => Element::begin(&start)?.end_in(&mut open)?,
            Event::End(_) => {
                let ended = open.pop().unwrap_or_default();
                ended.end_in(&mut open)?;
            }
            Event::Text(text) => last(&mut open)?.text.push_str(&text),
            Event::CData(data) => last(&mut open)?.text.push_str(&data),
            Event::GeneralRef(name) => {
                let character = name.resolve_char_ref().map_err(|error| error.to_string())?;
                let text = &mut last(&mut open)?.text;
                match (
                    character,
                    quick_xml::escape::resolve_predefined_entity(&name),
                ) {
                    (Some(character), _) => text.push(character),
                    (None, Some(known)) => text.push_str(known),
                    (None, None) => return Err("is XML with an unknown entity".to_owned()),
                }
            }
            Event::DocType(_) => return Err("is XML with a document type".to_owned()),
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(document), true) => Ok(Value::Object(document.members)),
        _ => Err("is XML that ends early".to_owned()),
    }
}

/// An open element.
#[derive(Default)]
struct Element {
    name: String,
    members: Map<String, Value>,
    text: String,
}

impl Element {
    fn begin(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut element = Self {
            name: start.name().as_ref().to_owned(),
            ..Self::default()
        };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| format!("is not XML: {error}"))?;
            let value = quick_xml::escape::unescape(&attribute.value)
                .map_err(|error| format!("is not XML: {error}"))?
                .into_owned();
            let name = format!("@{}", attribute.key.as_ref());
            element.members.insert(name, Value::String(value));
        }
        Ok(element)
    }

    /// Adds the element to the one in which it is.
    fn end_in(self, open: &mut [Self]) -> Result<(), String> {
        let has_elements = self.members.keys().any(|name| !name.starts_with('@'));
        let mut members = self.members;
        let text = self.text.trim();
        let value = if members.is_empty() {
            Value::String(text.to_owned())
        } else {
            if !has_elements {
                members.insert("$".to_owned(), Value::String(text.to_owned()));
            }
            Value::Object(members)
        };
        last(open)?.members.insert(self.name, value);
        Ok(())
    }
}

fn last(open: &mut [Element]) -> Result<&mut Element, String> {
    open.last_mut()
        .ok_or_else(|| "is XML with an element that does not begin".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::facade::random::text as text_of_clients;

    #[test]
    fn a_document_reads_as_the_json_with_the_same_tree() {
        let document = br#"<?xml version="1.0"?><instance><app>ORDERS</app>
            <port enabled="true">80</port><metadata/>
            <dataCenterInfo class="a &lt; b"><name><![CDATA[MyOwn]]></name></dataCenterInfo>
            <homePageUrl>http://a/?b=1&amp;c=&#50;</homePageUrl></instance>"#;
        let expected = json!({"instance": {
            "app": "ORDERS", "port": {"@enabled": "true", "$": "80"}, "metadata": "",
            "dataCenterInfo": {"@class": "a < b", "name": "MyOwn"},
            "homePageUrl": "http://a/?b=1&c=2",
        }});
        assert_eq!(read(document), Ok(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_document_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_parts_are_a_document_or_refused(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "<a>", "</a>", "<b/>", "<a c='1'>", "&amp;", "&#x41;", "&x;", "text",
                    "<![CDATA[", "]]>", "<!--", "-->", "<?", "?>", "<!DOCTYPE a>", "<", ">", "&",
                ]),
                0..30,
            )
        ) {
            let _ = read(parts.concat().as_bytes());
        }

        #[test]
        fn any_text_is_written_so_that_it_reads_back(name in text_of_clients(), value in text_of_clients()) {
            let written = fragment(|out| {
                element(out, "a", |out| metadata(out, [(&*name, &*value)].into_iter()))
            });
            let read = read(&written).unwrap();
            let metadata = &read["a"]["metadata"];
            let expected: String = value.chars().filter(|c| is_character(*c)).collect();
            let found = metadata[element_name(&name)].as_str().unwrap();
            // XML has one kind of line end.
            let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(lines(found.trim()), lines(expected.trim()));
        }
    }

    #[test]
    fn a_bad_document_is_refused() {
        let deep = "<a>".repeat(100_000);
        let documents: [&[u8]; 11] = [
            b"<instance>",
            b"<instance></other>",
            b"</instance>",
            b"<a b='1' b='2'/>",
            b"<a>&unknown;</a>",
            b"<a b='&unknown;'/>",
            b"<a>&#xFFFFFFFF;</a>",
            b"<!DOCTYPE a [<!ENTITY b 'bbbb'>]><a>&b;</a>",
            b"<a>\xff</a>",
            b"<a",
            deep.as_bytes(),
        ];
        for document in documents {
            let shown = String::from_utf8_lossy(&document[..document.len().min(40)]);
            assert!(read(document).is_err(), "{shown}");
        }
    }

    #[test]
    fn every_name_of_metadata_becomes_that_of_an_element() {
        for (name, expected) in [
            ("zone", "zone"),
            ("a b", "a_b"),
            ("1x", "_1x"),
            ("ns:k", "ns_k"),
            ("-a", "_-a"),
            ("é", "_"),
            ("<&>", "___"),
        ] {
            assert_eq!(element_name(name), expected);
        }
    }

    #[test]
    fn no_text_breaks_a_document() {
        let written = fragment(|out| text(out, "a", "\u{1}<b>&]]>\u{ffff}\r\né"));
        let written = String::from_utf8(written).unwrap();
        assert!(!written.contains('\u{1}') && !written.contains('\u{ffff}'));
        let read = read(written.as_bytes()).unwrap();
        assert!(read["a"].as_str().unwrap().starts_with("<b>&]]>"), "{read}");
    }
}
