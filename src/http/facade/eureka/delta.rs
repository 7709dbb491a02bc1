//! The delta of Eureka: the instances that changed lately.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};

use super::answer::{Format, accepts_gzip, respond};
use super::info::{Action, InstanceInfo};
use super::lists::{EurekaList, Header, infos, is_listed, render};
use crate::directory::Directory;
use crate::http::Api;
use crate::model::{ScopeKind, Ttl};

/// How long a change is part of the delta.
pub(in crate::http::facade) const DELTA_TIME: Duration = Duration::from_secs(180);

/// Answers with the instances that changed within [`DELTA_TIME`]. The client applies them to its
/// own list, and reads everything if the hash of its list then differs from the hash in the answer.
/// If not all changes are known, the hash in the answer matches no list.
pub(super) async fn answer(request: &HttpRequest, api: &Api) -> HttpResponse {
    let (format, gzip) = (Format::of(request), accepts_gzip(request));
    let (directory, ttl) = (Arc::clone(&api.directory), api.default_ttl);
    let make = || render(api, gzip, move || changes(&directory, format, ttl));
    let list = EurekaList::delta(format, gzip);
    // Also without a change it becomes another one, when the known changes cover all the time.
    let version = || api.directory.version() + api.facades.started.elapsed().as_secs() / 5;
    let body = api.facades.eureka.get(list, version, make).await;
    respond(format, body, gzip)
}

/// Returns the body of the delta.
fn changes(directory: &Directory, format: Format, default_ttl: Ttl) -> Vec<u8> {
    let version = directory.version();
    // Read before the list: a change in between is in the next delta.
    let (recent, is_complete) = directory.recent_changes();
    let scopes = directory.scopes(ScopeKind::Service);
    let mut header = Header::of(&scopes, version);
    if !is_complete {
        header.hash.push_str(&format!("INCOMPLETE_{version}_"));
    }
    let of_services = recent
        .iter()
        .filter(|listed| listed.instance.key.scope.kind == ScopeKind::Service);
    let (mut seen, mut present, mut gone) = (HashSet::new(), Vec::new(), Vec::new());
    for before in of_services.rev() {
        let known = directory.find(&before.instance.key);
        present.extend(known.filter(|known| is_listed(known)));
        gone.push(before);
    }
    let mut groups: BTreeMap<String, Vec<InstanceInfo<'_>>> = BTreeMap::new();
    let present = present.iter().map(|listed| (&**listed, Action::Modified));
    let gone = gone.iter().map(|listed| (&***listed, Action::Deleted));
    for (listed, action) in present.chain(gone) {
        let info = InstanceInfo::of(&listed.instance, default_ttl, action);
        if seen.insert((info.app.clone(), info.instance_id.clone())) {
            groups.entry(info.app.clone()).or_default().push(info);
        }
    }
    infos(&groups, &header, format)
}
