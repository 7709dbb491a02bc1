//! Services without a check are passing until they are deregistered: the daemon renews their
//! leases. Every replica renews them, so that none ends with a replica.

use std::time::Duration;

use actix_web::web;
use tokio::time::sleep;

use super::entry::UNCHECKED;
use crate::http::{Api, presence};
use crate::model::{Instance, Protocol};

/// The time between renewals: two may be lost.
const INTERVAL: Duration = Duration::from_secs(15);

/// The most leases that are renewed at once.
const BATCH: usize = 1000;

/// Renews the leases for as long as the daemon runs.
pub(in crate::http::facade) async fn keep_online(api: web::Data<Api>) {
    loop {
        if api.lifecycle.has_started() {
            let unchecked = api.directory.find_by_id(Protocol::Consul, UNCHECKED);
            // One that left stays because of an operator's decision, and must not come back.
            let has_left = |instance: &Instance| instance.is_decided() && !instance.presence.online;
            let instances = unchecked.iter().map(|listed| &listed.instance);
            let kept = instances.filter(|instance| !has_left(instance));
            let keys: Vec<_> = kept.map(|instance| (instance.key.clone(), None)).collect();
            for batch in keys.chunks(BATCH) {
                if let Err(problem) = presence::renew(&api, batch.to_vec()).await {
                    log::debug!("cannot renew the leases of services without a check: {problem}");
                }
            }
        }
        tokio::select! {
            () = sleep(if api.lifecycle.has_started() { INTERVAL } else { Duration::from_millis(100) }) => {}
            () = api.lifecycle.stopping() => return,
        }
    }
}
