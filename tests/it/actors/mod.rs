//! The three actors against ports that the test holds in its hand.

mod heartbeat;
mod registry;
mod scheduler;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use rollcalld::actor::{Lifeline, Mailbox, RegistryActor};
use rollcalld::clock::SystemClock;
use rollcalld::coordination;
use rollcalld::directory::Directory;
use rollcalld::event_log::{self, EventLog};
use rollcalld::model::{InstanceKey, ScopeKind};
use tokio::sync::mpsc;

use crate::support::faulty_store::FaultyStore;
use crate::support::mailbox;

fn key(address: &str) -> InstanceKey {
    InstanceKey {
        scope: ScopeKind::Service.with("orders".parse().unwrap()),
        address: address.parse().unwrap(),
    }
}

fn lifeline() -> (Lifeline, mpsc::UnboundedReceiver<&'static str>) {
    let (ends, ended) = mpsc::unbounded_channel();
    (Lifeline::new("tested", ends), ended)
}

/// Lets sent messages arrive.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn registry(
    store: &Arc<FaultyStore>,
) -> (Addr<RegistryActor>, mpsc::UnboundedReceiver<&'static str>) {
    let directory = Arc::new(Directory::new(store.clone()));
    registry_of(store, directory, memory_log())
}

fn registry_of(
    store: &Arc<FaultyStore>,
    directory: Arc<Directory>,
    log: Arc<dyn EventLog>,
) -> (Addr<RegistryActor>, mpsc::UnboundedReceiver<&'static str>) {
    let (lifeline, ended) = lifeline();
    let writer = store.writer();
    let clock = Arc::new(SystemClock);
    let actor = RegistryActor::new(
        writer,
        clock,
        directory,
        log,
        coordination::open(None),
        None,
        Arc::default(),
        lifeline,
    );
    (actor.start(), ended)
}

fn memory_log() -> Arc<dyn EventLog> {
    event_log::open(None, Arc::new(SystemClock), 20_000)
}

fn recorder(store: &Arc<FaultyStore>, directory: &Arc<Directory>) -> Mailbox<RegistryActor> {
    let (registry, _) = registry_of(store, directory.clone(), memory_log());
    mailbox(registry, 100, Duration::from_secs(5))
}
