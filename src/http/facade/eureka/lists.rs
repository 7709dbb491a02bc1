//! Lists of Eureka: all applications, or some of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

use super::answer::{Format, accepts_gzip, compressed, respond};
use super::info::{Action, Entry, InstanceInfo, app_name, status};
use super::xml;
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::http::Api;
use crate::http::access::Caller;
use crate::http::facade::visible_services;
use crate::model::{ScopeKind, Status, Ttl};

/// The number of instances above which a list is made on another thread than the requests.
const LARGE: usize = 1000;

/// The lists that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Everything,
    Delta,
}

/// A kept body: a list, its form, and whether it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::http::facade) struct EurekaList(Kind, Format, bool);

impl EurekaList {
    pub(super) fn delta(format: Format, gzip: bool) -> Self {
        Self(Kind::Delta, format, gzip)
    }
}

/// Returns whether Eureka lists an instance. A server of Eureka would have evicted an offline one.
pub(super) fn is_listed(listed: &InstanceEntry) -> bool {
    listed.instance.presence.online
}

/// Answers with all applications.
pub(super) async fn everything(request: &HttpRequest, api: &Api, caller: &Caller) -> HttpResponse {
    let (format, gzip) = (Format::of(request), accepts_gzip(request));
    let (directory, ttl) = (Arc::clone(&api.directory), api.default_ttl);
    if caller.limit().is_some() {
        let scopes = visible_services(api, caller);
        let version = directory.version();
        let body = applications(&scopes, &Header::of(&scopes, version), format, ttl);
        return respond(format, compressed(body, gzip), gzip);
    }
    let make = || {
        render(api, gzip, move || {
            let version = directory.version();
            let scopes = directory.scopes(ScopeKind::Service);
            applications(&scopes, &Header::of(&scopes, version), format, ttl)
        })
    };
    let list = EurekaList(Kind::Everything, format, gzip);
    let version = || api.directory.version();
    let body = api.facades.eureka.get(list, version, make).await;
    respond(format, body, gzip)
}

/// Makes a body, a large one on another thread.
pub(super) async fn render(
    api: &Api,
    gzip: bool,
    make: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> Bytes {
    let make = move || compressed(make(), gzip);
    if api.directory.totals().instances.instances < LARGE {
        return make();
    }
    // The pool ends with the process only.
    web::block(make).await.unwrap_or_default()
}

/// Answers with the instances of some services as one application, or with `None` if they have no
/// listed instance.
pub(super) fn application(
    request: &HttpRequest,
    name: &str,
    scopes: &[Arc<ScopeSnapshot>],
    default_ttl: Ttl,
) -> Option<HttpResponse> {
    let format = Format::of(request);
    let mut body = Vec::new();
    if !scopes.iter().any(|view| view.iter().any(is_listed)) {
        return None;
    }
    match format {
        Format::Json => {
            body.extend_from_slice(b"{\"application\":");
            one(&mut body, name, scopes, format, default_ttl);
            body.push(b'}');
        }
        Format::Xml => {
            body.extend_from_slice(XML_DECLARATION);
            one(&mut body, name, scopes, format, default_ttl);
        }
    }
    Some(respond(format, body.into(), false))
}

/// Answers with the applications of some instances, for a virtual address.
pub(super) fn of_instances(
    request: &HttpRequest,
    api: &Api,
    listed: &[Arc<InstanceEntry>],
) -> HttpResponse {
    let format = Format::of(request);
    let mut groups: BTreeMap<String, Vec<InstanceInfo<'_>>> = BTreeMap::new();
    let mut counts = Counts::default();
    for entry in listed {
        let info = InstanceInfo::of(&entry.instance, api.default_ttl, Action::Added);
        counts.add(info.status, 1);
        groups.entry(info.app.clone()).or_default().push(info);
    }
    let header = Header {
        version: api.directory.version(),
        hash: counts.hash(),
    };
    respond(format, infos(&groups, &header, format).into(), false)
}

/// Answers with one instance.
pub(super) fn instance(
    request: &HttpRequest,
    listed: &InstanceEntry,
    default_ttl: Ttl,
) -> HttpResponse {
    let info = InstanceInfo::of(&listed.instance, default_ttl, Action::Added);
    match Format::of(request) {
        Format::Json => HttpResponse::Ok().json(serde_json::json!({ "instance": info })),
        Format::Xml => {
            let body = xml::document(|out| xml::instance(out, &info));
            respond(Format::Xml, body.into(), false)
        }
    }
}

/// The numbers of instances by status.
#[derive(Default)]
struct Counts(BTreeMap<String, usize>);

impl Counts {
    fn add(&mut self, status: &str, count: usize) {
        match self.0.get_mut(status) {
            Some(known) => *known += count,
            None if count > 0 => drop(self.0.insert(status.to_owned(), count)),
            None => {}
        }
    }

    /// Returns `DOWN_1_UP_3_`, which clients compare with their own count.
    fn hash(&self) -> String {
        let counts = self.0.iter();
        counts
            .map(|(status, count)| format!("{status}_{count}_"))
            .collect()
    }

    /// Counts the listed instances of services.
    fn of(scopes: &[Arc<ScopeSnapshot>]) -> Self {
        let (mut counts, mut up) = (Self::default(), 0);
        for listed in scopes.iter().flat_map(|view| view.iter()) {
            match listed.instance.status {
                _ if !is_listed(listed) => {}
                Status::Enabled => up += 1,
                Status::Disabled | Status::Held => {
                    let entry = Entry::of(&listed.instance);
                    let (status, _) = status(&listed.instance, &entry);
                    counts.add(status, 1);
                }
            }
        }
        counts.add("UP", up);
        counts
    }
}

/// The head of a list: its version, and the hash that clients compare with their own list.
pub(super) struct Header {
    version: u64,
    pub(super) hash: String,
}

impl Header {
    pub(super) fn of(scopes: &[Arc<ScopeSnapshot>], version: u64) -> Self {
        let hash = Counts::of(scopes).hash();
        Self { version, hash }
    }
}

const XML_DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

/// Begins a list of applications, lets `write` add them, and ends it.
fn list(header: &Header, format: Format, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let Header { version, hash } = header;
    let mut body = Vec::new();
    match format {
        Format::Json => {
            let begin = format!(
                "{{\"applications\":{{\"versions__delta\":\"{version}\",\"apps__hashcode\":\"{hash}\",\"application\":["
            );
            body.extend_from_slice(begin.as_bytes());
            write(&mut body);
            body.extend_from_slice(b"]}}");
        }
        Format::Xml => {
            body.extend_from_slice(XML_DECLARATION);
            let begin = format!(
                "<applications><versions__delta>{version}</versions__delta><apps__hashcode>{hash}</apps__hashcode>"
            );
            body.extend_from_slice(begin.as_bytes());
            write(&mut body);
            body.extend_from_slice(b"</applications>");
        }
    }
    body
}

/// Returns the body of a list of services. Services whose keys differ in case only are one
/// application.
fn applications(
    scopes: &[Arc<ScopeSnapshot>],
    header: &Header,
    format: Format,
    default_ttl: Ttl,
) -> Vec<u8> {
    let mut groups: BTreeMap<String, Vec<Arc<ScopeSnapshot>>> = BTreeMap::new();
    for view in scopes {
        if let Some(name) = name_of(view) {
            groups.entry(name).or_default().push(Arc::clone(view));
        }
    }
    list(header, format, |body| {
        for (index, (name, scopes)) in groups.iter().enumerate() {
            if index > 0 && format == Format::Json {
                body.push(b',');
            }
            one(body, name, scopes, format, default_ttl);
        }
    })
}

/// Returns the name of the application of a service; `None` if it has no listed instance.
pub(super) fn name_of(view: &ScopeSnapshot) -> Option<String> {
    let first = view.iter().find(|listed| is_listed(listed))?;
    let app = Entry::of(&first.instance).app;
    Some(app.unwrap_or_else(|| app_name(first.instance.key.scope.key.as_str())))
}

/// Writes one application.
fn one(
    body: &mut Vec<u8>,
    name: &str,
    scopes: &[Arc<ScopeSnapshot>],
    format: Format,
    default_ttl: Ttl,
) {
    let fragments = scopes.iter().map(|view| {
        view.named_body(format.fragment(), |view| {
            let listed = view.iter().filter(|listed| is_listed(listed));
            let infos =
                listed.map(|listed| InstanceInfo::of(&listed.instance, default_ttl, Action::Added));
            instances(infos, format)
        })
    });
    let fragments: Vec<Bytes> = fragments.filter(|fragment| !fragment.is_empty()).collect();
    match format {
        Format::Json => {
            body.extend_from_slice(b"{\"name\":");
            push_json(body, &name);
            body.extend_from_slice(b",\"instance\":[");
            body.extend_from_slice(&fragments.join(&b','));
            body.extend_from_slice(b"]}");
        }
        Format::Xml => {
            body.extend_from_slice(b"<application>");
            body.extend(xml::fragment(|out| xml::text(out, "name", name)));
            body.extend_from_slice(&fragments.concat());
            body.extend_from_slice(b"</application>");
        }
    }
}

/// Returns instances without the brackets or the element around them.
fn instances<'a>(infos: impl Iterator<Item = InstanceInfo<'a>>, format: Format) -> Vec<u8> {
    match format {
        Format::Json => {
            let mut body = Vec::new();
            for info in infos {
                if !body.is_empty() {
                    body.push(b',');
                }
                push_json(&mut body, &info);
            }
            body
        }
        Format::Xml => {
            let mut infos = infos;
            xml::fragment(|out| infos.try_for_each(|info| xml::instance(out, &info)))
        }
    }
}

fn push_json(body: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Serialising plain data to memory cannot fail.
    let _ = serde_json::to_writer(body, value);
}

/// Returns the body of a list of instances by application.
pub(super) fn infos(
    groups: &BTreeMap<String, Vec<InstanceInfo<'_>>>,
    header: &Header,
    format: Format,
) -> Vec<u8> {
    list(header, format, |body| match format {
        Format::Json => {
            let mut separator: &[u8] = b"";
            for (name, infos) in groups {
                body.extend_from_slice(separator);
                let group = serde_json::json!({ "name": name, "instance": infos });
                push_json(body, &group);
                separator = b",";
            }
        }
        Format::Xml => body.extend(xml::fragment(|out| {
            groups.iter().try_for_each(|(name, infos)| {
                xml::element(out, "application", |out| {
                    xml::text(out, "name", name)?;
                    infos.iter().try_for_each(|info| xml::instance(out, info))
                })
            })
        })),
    })
}
