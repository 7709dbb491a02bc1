//! Lease servers in memory that replicas of a daemon may reach differently: one forks, falls
//! back to an older state, comes back empty, stops, or refuses to write. Each has an event log
//! of its own, as a Redis has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollcalld::backend::BackendError;
use rollcalld::clock::Clock;
use rollcalld::coordination::{self, Coordinator};
use rollcalld::event_log::{self, EventLog, LogEntry, ReadOutcome};
use rollcalld::lease::{
    Identity, Lease, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed,
};
use rollcalld::model::{Epoch, Event, EventId, InstanceKey};
use tokio::time::Instant;

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Works,
    /// It answers reads alone, as with OOM, MISCONF, NOREPLICAS or READONLY.
    RefusesWrites,
    Stopped,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: Epoch,
    expires_at: Instant,
}

type Leases = HashMap<InstanceKey, Held>;

#[derive(Clone)]
struct Server {
    name: String,
    mode: Mode,
    leases: Leases,
    /// The leases as they were at some moments before.
    history: Vec<(Instant, Leases)>,
    log: Arc<dyn EventLog>,
    coordinator: Arc<dyn Coordinator>,
}

/// All servers there ever were, and which of them each replica reaches.
#[derive(Clone)]
pub(crate) struct LeaseServers(Arc<Mutex<State>>);

struct State {
    clock: Arc<dyn Clock>,
    /// Added to the clock of every server.
    skew: i64,
    servers: Vec<Server>,
    routes: Vec<usize>,
}

impl State {
    fn add(&mut self, leases: Leases) -> usize {
        self.servers.push(Server {
            name: format!("server-{}", self.servers.len()),
            mode: Mode::Works,
            leases,
            history: Vec::new(),
            log: event_log::open(None, self.clock.clone(), 20_000),
            coordinator: coordination::open(None),
        });
        self.servers.len() - 1
    }
}

impl LeaseServers {
    /// One server, which all `replicas` reach.
    pub(crate) fn new(clock: Arc<dyn Clock>, replicas: usize) -> Self {
        let mut state = State {
            clock,
            skew: 0,
            servers: Vec::new(),
            routes: vec![0; replicas],
        };
        state.add(Leases::new());
        Self(Arc::new(Mutex::new(state)))
    }

    /// The lease store, the event log and the coordinator of a replica, wherever it is led.
    pub(crate) fn of(&self, replica: usize) -> Arc<Route> {
        Arc::new(Route {
            servers: self.clone(),
            replica,
        })
    }

    /// Leads `replica` to a new server that has the leases of its old one as they were `ago`
    /// before. The others stay where they are.
    pub(crate) fn fork(&self, replica: usize, ago: Duration) {
        let mut state = self.0.lock().unwrap();
        let old = state.servers[state.routes[replica]].clone();
        let then = Instant::now() - ago;
        let older = old.history.iter().rev().find(|(at, _)| *at <= then);
        let leases = match older {
            _ if ago.is_zero() => old.leases.clone(),
            Some((_, leases)) => leases.clone(),
            None => Leases::new(),
        };
        let new = state.add(leases);
        state.routes[replica] = new;
    }

    /// Leads every replica to where `replica` is.
    pub(crate) fn join(&self, replica: usize) {
        let mut state = self.0.lock().unwrap();
        let server = state.routes[replica];
        state.routes.fill(server);
        state.servers[server].mode = Mode::Works;
    }

    /// The server that `replica` reaches comes back empty.
    pub(crate) fn empty(&self, replica: usize) {
        let mut state = self.0.lock().unwrap();
        let old = state.routes[replica];
        let new = state.add(Leases::new());
        for route in &mut state.routes {
            if *route == old {
                *route = new;
            }
        }
    }

    /// The server that `replica` reaches behaves like that from now on.
    pub(crate) fn set_mode(&self, replica: usize, mode: Mode) {
        let mut state = self.0.lock().unwrap();
        let server = state.routes[replica];
        state.servers[server].mode = mode;
    }

    /// Sets the clocks of all servers off by so much.
    pub(crate) fn set_skew(&self, millis: i64) {
        self.0.lock().unwrap().skew = millis;
    }

    /// Whether the server that `replica` reaches works.
    pub(crate) fn works(&self, replica: usize) -> bool {
        let state = self.0.lock().unwrap();
        state.servers[state.routes[replica]].mode == Mode::Works
    }

    /// Whether all replicas reach one working server.
    pub(crate) fn is_one(&self) -> bool {
        let state = self.0.lock().unwrap();
        let first = state.routes[0];
        let same = state.routes.iter().all(|server| *server == first);
        same && state.servers[first].mode == Mode::Works
    }

    /// The event logs of all servers there ever were.
    pub(crate) fn logs(&self) -> Vec<Arc<dyn EventLog>> {
        let state = self.0.lock().unwrap();
        let logs = state.servers.iter().map(|server| server.log.clone());
        logs.collect()
    }
}

/// The way of one replica to its server.
pub(crate) struct Route {
    servers: LeaseServers,
    replica: usize,
}

impl Route {
    fn ask<T>(
        &self,
        writes: bool,
        ask: impl FnOnce(&mut Server, i64) -> T,
    ) -> Result<T, BackendError> {
        let mut state = self.servers.0.lock().unwrap();
        let now = state.clock.now().timestamp_millis() + state.skew;
        let server = state.routes[self.replica];
        let server = &mut state.servers[server];
        match server.mode {
            Mode::Stopped => Err(BackendError::Unavailable("it has stopped".into())),
            Mode::RefusesWrites if writes => Err(BackendError::Refused("OOM".into())),
            _ => {
                let answer = ask(server, now);
                if writes {
                    server.history.push((Instant::now(), server.leases.clone()));
                }
                Ok(answer)
            }
        }
    }

    fn log(&self, writes: bool) -> Result<Arc<dyn EventLog>, BackendError> {
        self.ask(writes, |server, _| server.log.clone())
    }

    fn coordinator(&self) -> Result<Arc<dyn Coordinator>, BackendError> {
        self.ask(true, |server, _| server.coordinator.clone())
    }
}

fn identity(server: &Server) -> Identity {
    Identity::of([server.name.clone()])
}

#[async_trait]
impl LeaseStore for Route {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let now = Instant::now();
        self.ask(true, |server, millis| {
            let renew = |renewal: &Renewal| {
                let expires_at = now + renewal.ttl.as_duration();
                let alive = server.leases.get(&renewal.key);
                let alive = alive.filter(|held| held.expires_at > now).copied();
                let epoch = alive.map_or(Epoch(millis), |held| held.epoch);
                let held = Held { epoch, expires_at };
                server.leases.insert(renewal.key.clone(), held);
                Renewed {
                    created: alive.is_none(),
                    epoch,
                }
            };
            renewals.iter().map(renew).collect()
        })
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        let now = Instant::now();
        self.ask(false, |server, _| {
            let look = |key| {
                let Held { epoch, expires_at } = *server.leases.get(key)?;
                let left = expires_at.saturating_duration_since(now);
                (!left.is_zero()).then_some(Lease { left, epoch })
            };
            LeaseSnapshot {
                leases: keys.iter().map(look).collect(),
                identity: identity(server),
            }
        })
    }

    async fn set_hidden(&self, _: &InstanceKey, _: bool) -> Result<bool, BackendError> {
        Ok(false)
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        self.ask(true, |server, _| {
            for key in keys {
                server.leases.remove(key);
            }
        })
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        self.ask(true, |server, _| identity(server))
    }

    async fn list(&self, _: ListCursor) -> Result<LeasePage, BackendError> {
        let now = Instant::now();
        self.ask(false, |server, _| LeasePage {
            keys: (server.leases.iter())
                .filter(|(_, held)| held.expires_at > now)
                .map(|(key, _)| key.clone())
                .collect(),
            next: None,
        })
    }
}

#[async_trait]
impl Coordinator for Route {
    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BackendError> {
        let coordinator = self.coordinator()?;
        coordinator
            .publish_once(channel, message, claim, remember)
            .await
    }

    async fn try_claim(&self, claim: &str, remember: Duration) -> Result<bool, BackendError> {
        self.coordinator()?.try_claim(claim, remember).await
    }
}

#[async_trait]
impl EventLog for Route {
    async fn append(&self, events: &[Event]) -> Result<(), BackendError> {
        self.log(true)?.append(events).await
    }

    async fn head(&self) -> Result<EventId, BackendError> {
        self.log(false)?.head().await
    }

    async fn read_before(&self, before: EventId) -> Result<Vec<LogEntry>, BackendError> {
        self.log(false)?.read_before(before).await
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BackendError> {
        self.log(false)?.read(after, wait).await
    }
}
