//! The instances of a service as Nacos lists them.

use std::time::Duration;

use actix_web::HttpResponse;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::service::{Entry, ServiceName};
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::model::{Metadata, Status};

/// How long an instance without a lease is listed as unhealthy.
const UNHEALTHY: Duration = Duration::from_secs(30);

/// The time between two requests of a subscriber, in milliseconds.
const CACHE_MILLIS: u32 = 3000;

/// An instance in a list. No member changes from request to request: clients compare them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Host<'a> {
    instance_id: String,
    ip: &'a str,
    port: u16,
    weight: f64,
    healthy: bool,
    valid: bool,
    enabled: bool,
    ephemeral: bool,
    marked: bool,
    cluster_name: &'a str,
    service_name: &'a str,
    metadata: &'a Metadata,
}

fn write(body: &mut Vec<u8>, listed: &InstanceEntry) {
    let instance = &listed.instance;
    let entry = Entry::of(instance);
    let service = ServiceName::of_instance(instance, &entry).grouped();
    let healthy = instance.presence.online;
    let host = Host {
        instance_id: instance_id(listed, &entry, &service),
        ip: instance.key.address.host(),
        port: instance.key.address.port(),
        weight: weight(listed, &entry),
        healthy,
        valid: healthy,
        enabled: true,
        ephemeral: true,
        marked: false,
        cluster_name: entry.cluster(),
        service_name: &service,
        metadata: instance.metadata(),
    };
    if !body.is_empty() {
        body.push(b',');
    }
    // Serialising plain data to memory cannot fail.
    let _ = serde_json::to_writer(body, &host);
}

fn instance_id(listed: &InstanceEntry, entry: &Entry, service: &str) -> String {
    let address = &listed.instance.key.address;
    let (ip, port, cluster) = (address.host(), address.port(), entry.cluster());
    format!("{ip}#{port}#{cluster}#{service}")
}

/// Returns the weight: the exact one, unless an operator has overridden it.
fn weight(listed: &InstanceEntry, entry: &Entry) -> f64 {
    let instance = &listed.instance;
    let is_own = instance.weight() == instance.registered_weight();
    let exact = entry.weight.filter(|_| is_own);
    exact.unwrap_or_else(|| f64::from(instance.weight().get()))
}

/// Returns one instance.
pub(super) fn detail(listed: &InstanceEntry) -> Value {
    let instance = &listed.instance;
    let entry = Entry::of(instance);
    let service = ServiceName::of_instance(instance, &entry).grouped();
    json!({
        "service": service,
        "ip": instance.key.address.host(),
        "port": instance.key.address.port(),
        "clusterName": entry.cluster(),
        "weight": weight(listed, &entry),
        "healthy": instance.presence.online,
        "instanceId": instance_id(listed, &entry, &service),
        "metadata": instance.metadata(),
    })
}

/// Returns the listed instances, without the brackets around them. Instances that are not enabled are
/// left out, and instances without a lease are listed for some time.
pub(super) fn hosts(
    view: Option<&ScopeSnapshot>,
    clusters: &[&str],
    healthy_only: bool,
    now: DateTime<Utc>,
) -> Bytes {
    let Some(view) = view else {
        return Bytes::new();
    };
    let in_clusters = |listed: &InstanceEntry| {
        clusters.is_empty() || clusters.contains(&Entry::of(&listed.instance).cluster())
    };
    let is_unhealthy = |listed: &InstanceEntry| {
        let presence = &listed.instance.presence;
        let since = presence
            .changed_at
            .map(|at| (now - at).to_std().unwrap_or_default());
        !presence.online && since.is_some_and(|since| since < UNHEALTHY)
    };
    let is_enabled = |listed: &&InstanceEntry| listed.instance.status == Status::Enabled;
    let has_unhealthy = !healthy_only && view.iter().any(|it| is_enabled(&it) && is_unhealthy(it));
    let make = |view: &ScopeSnapshot, only: &dyn Fn(&InstanceEntry) -> bool| {
        let mut body = Vec::new();
        let enabled = view.iter().filter(is_enabled);
        enabled
            .filter(|it| only(it))
            .for_each(|it| write(&mut body, it));
        body
    };
    let is_online = |listed: &InstanceEntry| listed.instance.presence.online;
    if clusters.is_empty() && !has_unhealthy {
        return view.named_body("nacos", |view| make(view, &is_online));
    }
    let is_listed = |listed: &InstanceEntry| {
        (is_online(listed) || (!healthy_only && is_unhealthy(listed))) && in_clusters(listed)
    };
    make(view, &is_listed).into()
}

/// Answers with a list. The name with its group, and the clusters as they were asked for, are the
/// client's key of the list.
pub(super) fn answer(
    service: &ServiceName,
    clusters: &str,
    hosts: &[u8],
    now: DateTime<Utc>,
) -> HttpResponse {
    let list = json!({
        "name": service.grouped(),
        "groupName": service.group,
        "dom": service.name,
        "clusters": clusters,
        "cacheMillis": CACHE_MILLIS,
        "lastRefTime": now.timestamp_millis(),
        "checksum": "",
        "allIPs": false,
        "useSpecifiedURL": false,
        "env": "",
        "metadata": {},
    });
    let mut body = list.to_string().into_bytes();
    body.pop();
    body.extend_from_slice(b",\"hosts\":[");
    body.extend_from_slice(hosts);
    body.extend_from_slice(b"]}");
    HttpResponse::Ok()
        .content_type("application/json;charset=UTF-8")
        .body(body)
}

/// Returns the name of a service, which its instances know.
pub(super) fn name_of(view: &ScopeSnapshot) -> Option<ServiceName> {
    let record = view.record.as_ref()?;
    let mut named = view
        .iter()
        .map(|listed| (listed, Entry::of(&listed.instance)));
    let named = named.find(|(_, entry)| *entry != Entry::default());
    Some(match named {
        Some((listed, entry)) => ServiceName::of_instance(&listed.instance, &entry),
        None => ServiceName {
            namespace: super::service::PUBLIC.to_owned(),
            group: super::service::DEFAULT_GROUP.to_owned(),
            name: record.scope.key.as_str().to_owned(),
        },
    })
}
