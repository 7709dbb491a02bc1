//! The composition root: opens the backends, starts the actors and the server, and stops
//! everything in order. The only module that knows all others.

mod open_files;
mod reload;
mod startup;

use std::future::{Future, pending};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use actix_web::dev::Server;
use actix_web::{App, HttpServer};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use self::open_files::TooFewFiles;
pub use self::reload::Reloader;
use self::startup::wait_for_backends;
use crate::actor::{
    BackgroundJobs, Drain, HeartbeatActor, Lifeline, Mailbox, MailboxLimits, RECONCILE,
    RegisterSweeper, RegistryActor, SchedulerActor,
};
use crate::admission::ConcurrencyLimits;
use crate::auth::{TokenError, Tokens};
use crate::backend::OpenError;
use crate::clock::Clock;
use crate::coordination;
use crate::directory::Directory;
use crate::event_log;
use crate::http::{self, Api, Connections, LastProbe, Lifecycle};
use crate::lease::{self, Health, LeaseStore, ObservedLeaseStore};
use crate::liveness::{Agreement, ExpiryHandler, Protection, Reconciler};
use crate::metrics::Metrics;
use crate::model::ReplicaId;
use crate::replication::{EventBroadcast, Follower};
use crate::settings::Config;
use crate::store::{self, MigrateError, Store};
use crate::tls::{Tls, TlsError};

/// The most pending messages to the RegistryActor, and the deadline of each: longer than a
/// transaction that begins at once.
const REGISTRY: MailboxLimits = MailboxLimits {
    permits: 1024,
    deadline: Duration::from_secs(8),
};
/// The same for recording leases, with permits of its own: when all instances come online at
/// once, registrations still get theirs.
const RECORDER: MailboxLimits = MailboxLimits {
    permits: 256,
    deadline: Duration::from_secs(8),
};
/// The same for comparing the replicas' lease stores, which must not wait behind either of
/// them.
const AGREEMENT: MailboxLimits = MailboxLimits {
    permits: 1,
    deadline: Duration::from_secs(8),
};
/// The same for the HeartbeatActor of each worker.
const HEARTBEAT: MailboxLimits = MailboxLimits {
    permits: 4096,
    deadline: Duration::from_secs(5),
};
/// The same for the SchedulerActor, which probes and operators ask.
const SCHEDULER: MailboxLimits = MailboxLimits {
    permits: 64,
    deadline: Duration::from_secs(8),
};

/// Longer than the interval of heartbeats, so that agents can reuse their connections.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The time limit for the TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The settings of a backend are invalid, or its file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tokens are invalid.
    #[error("tokens: {0}")]
    Tokens(#[from] TokenError),
    /// The certificates are invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The limit on open files is too low.
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
    /// The address is in use or not available.
    #[error("cannot listen on {address} (--listen): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The schema cannot be used, and a retry does not help.
    #[error("{backend} (--store): {source}")]
    Schema {
        /// The registry store.
        backend: String,
        /// The error.
        source: MigrateError,
    },
    /// A backend was not reached in time.
    #[error("{backend} could not be reached within {waited:?} (--start-timeout): {reason}")]
    StartTimeout {
        /// The registry store or the lease store.
        backend: String,
        /// The value of `--start-timeout`.
        waited: Duration,
        /// The last error.
        reason: String,
    },
    /// An actor panicked, which the log shows. The process must be restarted.
    #[error("the {0} actor has ended; see the panic above")]
    ActorEnded(&'static str),
    /// The HTTP server ended.
    #[error("the HTTP server has ended: {0}")]
    ServerEnded(String),
}

/// A daemon that listens and can be run.
pub struct Daemon {
    config: Config,
    address: SocketAddr,
    server: Server,
    registry: Addr<RegistryActor>,
    leases: Arc<dyn LeaseStore>,
    follower: Follower,
    lifecycle: Lifecycle,
    reloader: Reloader,
    ends: mpsc::UnboundedReceiver<&'static str>,
    arbiters: Arbiters,
}

/// The threads of actors with a thread of their own.
struct Arbiters {
    scheduler: Arbiter,
    follower: Arbiter,
    registry: Arbiter,
}

impl Daemon {
    /// Opens, starts and binds everything, within an actix system. Requests are answered 503 until
    /// [`Daemon::run_until_stopped`] has reached the stores.
    pub fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, DaemonError> {
        let connections = Arc::new(Connections::new(connection_limit(&config)?));
        let tokens = Arc::new(Tokens::load(config.tokens.clone())?);
        let tls = config.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        let metrics = Arc::new(Metrics::new());
        let admission = Arc::new(ConcurrencyLimits::new(config.limits));
        let Store { reader, writer } = store::open(&config.store)?;
        let leases = lease::open(&config.leases, Arc::clone(&clock))?;
        let health = Arc::new(Health::default());
        let log = event_log::open(leases.redis(), Arc::clone(&clock));
        let coordinator = coordination::open(leases.redis());
        if let Some(redis) = leases.redis() {
            redis.report_evictions(metrics.backends.leases_evicted.clone());
        }
        let connect = {
            let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
            move || {
                let health = Arc::clone(&health);
                Arc::new(ObservedLeaseStore::new(leases.connect(), health, &metrics))
            }
        };
        let directory = Arc::new(Directory::new(Arc::clone(&reader)));
        let protection = Arc::new(Protection::new(config.protection, Arc::clone(&health)));
        let feed = Arc::new(EventBroadcast::new(Arc::clone(&log)));
        let (ends, ended) = mpsc::unbounded_channel();
        let arbiters = Arbiters {
            scheduler: Arbiter::new(),
            follower: Arbiter::new(),
            registry: Arbiter::new(),
        };

        let registry = RegistryActor::new(
            writer,
            Arc::clone(&clock),
            Arc::clone(&directory),
            Arc::clone(&log),
            Arc::clone(&coordinator),
            config.announcement.clone(),
            Arc::clone(&metrics),
            Lifeline::new("registry", ends.clone()),
        );
        let registry = RegistryActor::start_in_arbiter(&arbiters.registry.handle(), |_| registry);
        let asked = metrics.mailbox("registry");
        let registry_mailbox = Mailbox::new(registry.clone(), REGISTRY, asked);
        let asked = metrics.mailbox("recorder");
        let expiry = ExpiryHandler {
            leases: connect(),
            health,
            directory: Arc::clone(&directory),
            protection: Arc::clone(&protection),
            registry: Mailbox::new(registry.clone(), RECORDER, asked),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let jobs = BackgroundJobs {
            reconciler: Reconciler {
                reader: Arc::clone(&reader),
                expiry: expiry.clone(),
                coordinator: Arc::clone(&coordinator),
                cursor: Mutex::default(),
                claim: RECONCILE - Duration::from_secs(1),
            },
            expiry: expiry.clone(),
            agreement: Agreement {
                replica: replica_id(),
                health: Arc::clone(&expiry.health),
                registry: Mailbox::new(registry.clone(), AGREEMENT, metrics.mailbox("agreement")),
                protection: Arc::clone(&protection),
            },
            remove_offline_after: config.remove_offline_after,
        };
        let scheduler = SchedulerActor::new(
            config.roll_call.clone(),
            jobs,
            coordinator,
            Arc::clone(&log),
            Arc::clone(&clock),
            Lifeline::new("scheduler", ends.clone()),
        );
        let scheduler =
            SchedulerActor::start_in_arbiter(&arbiters.scheduler.handle(), |_| scheduler);
        let follower = Follower {
            directory: Arc::clone(&directory),
            reader,
            log,
            feed: Arc::clone(&feed),
            expiry: expiry.clone(),
            clock: Arc::clone(&clock),
            _lifeline: Lifeline::new("follower", ends.clone()),
        };

        let lifecycle = Lifecycle::default();
        let asked = metrics.mailbox("scheduler");
        let scheduler_mailbox = Mailbox::new(scheduler.clone(), SCHEDULER, asked);
        let probed = Arc::clone(&expiry.leases);
        let reloader = Reloader::new(Arc::clone(&tokens), tls.clone(), Arc::clone(&metrics));
        let shared = (directory, protection, feed, lifecycle.clone(), tokens);
        let client_certificates = tls.as_ref().is_some_and(|tls| tls.asks_clients());
        let (default_ttl, roll_call_interval) = (config.protection.ttl, config.roll_call.interval);
        let (limit, on_connect) = (connections.limit(), Arc::clone(&connections));
        // Runs once on the thread of each worker, where its HeartbeatActor lives.
        let application = move || {
            let (directory, protection, feed, lifecycle, tokens) = shared.clone();
            let own = ExpiryHandler {
                leases: connect(),
                ..expiry.clone()
            };
            let heartbeat = HeartbeatActor::new(own, Lifeline::new("heartbeat", ends.clone()));
            let heartbeat = heartbeat.start();
            scheduler.do_send(RegisterSweeper(heartbeat.clone().recipient()));
            let api = Api {
                registry: registry_mailbox.clone(),
                heartbeat: Mailbox::new(heartbeat, HEARTBEAT, metrics.mailbox("heartbeat")),
                scheduler: scheduler_mailbox.clone(),
                directory,
                protection,
                feed,
                clock: Arc::clone(&clock),
                roll_call_interval,
                default_ttl,
                lifecycle,
                tokens,
                client_certificates,
                admission: Arc::clone(&admission),
                connections: Arc::clone(&connections),
                metrics: Arc::clone(&metrics),
                last_probe: LastProbe::default(),
            };
            App::new().configure(|app| http::configure(app, api))
        };
        let listen_error = |source| DaemonError::Listen {
            address: config.listen,
            source,
        };
        let server = HttpServer::new(application)
            .workers(config.workers)
            .max_connections(limit.div_ceil(config.workers))
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HANDSHAKE)
            .tls_handshake_timeout(HANDSHAKE)
            .on_connect(move |connection, data| on_connect.opened(connection, data))
            .shutdown_timeout(config.drain_http().as_secs().max(1))
            .disable_signals();
        let server = match &tls {
            Some(tls) => server.bind_rustls_0_23(config.listen, tls.server_config()?),
            None => server.bind(config.listen),
        };
        let server = server.map_err(listen_error)?;
        let address = server.addrs().first().copied().unwrap_or(config.listen);
        Ok(Self {
            address,
            server: server.run(),
            registry,
            leases: probed,
            follower,
            lifecycle,
            reloader,
            ends: ended,
            arbiters,
            config,
        })
    }

    /// Returns the address of the server, with the picked port if the setting is port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a handle that reads tokens and certificates again.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `shutdown` resolves, or until a failure. Calls `ready` once requests are
    /// served.
    ///
    /// Then, in this order: serves requests without being ready for as long as `shutdown` says;
    /// accepts no more connections and answers the requests in flight; ends the roll calls; commits
    /// the pending writes; closes the stores. All within `--shutdown-timeout`.
    pub async fn run_until_stopped(
        self,
        ready: impl FnOnce(),
        shutdown: impl Future<Output = Duration>,
    ) -> Result<(), DaemonError> {
        let Self {
            config,
            server,
            registry,
            leases,
            follower,
            lifecycle,
            mut ends,
            arbiters,
            ..
        } = self;
        let server_handle = server.handle();
        let mut server = actix::spawn(server);
        let serve = async {
            let head = wait_for_backends(&config, &registry, &*leases, &follower).await?;
            follower.expiry.protection.start();
            arbiters
                .follower
                .spawn(async move { match follower.follow(head).await {} });
            lifecycle.start();
            log::info!("ready");
            ready();
            pending().await
        };
        let outcome: Result<Duration, DaemonError> = tokio::select! {
            delay = shutdown => Ok(delay),
            outcome = serve => outcome,
            actor = ends.recv() => Err(DaemonError::ActorEnded(actor.unwrap_or("last"))),
            ended = &mut server => Err(DaemonError::ServerEnded(match ended {
                Ok(Ok(())) => "it was stopped".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            })),
        };
        log::info!("stopping");
        let latest = Instant::now() + config.shutdown_timeout;
        if let Ok(delay) = outcome {
            lifecycle.start_draining();
            sleep(delay).await;
        }
        // Streams and long polls would delay the stop of the server.
        lifecycle.stop();
        server_handle.stop(true).await;
        end(arbiters.scheduler);
        // Every answered write is committed; this is for writes whose caller gave up. A
        // RegistryActor that has ended has nothing left to drain.
        if timeout_at(latest, registry.send(Drain)).await.is_err() {
            log::warn!("pending writes of callers that gave up were dropped");
        }
        end(arbiters.follower);
        end(arbiters.registry);
        log::info!("stopped");
        outcome.map(drop)
    }
}

/// Returns the host name, by which operators know a replica, with a random number.
fn replica_id() -> ReplicaId {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let random = RandomState::new().hash_one(Instant::now());
    ReplicaId(format!("{host}-{random:016x}"))
}

/// Returns the limit of connections: the setting, or what the system allows if that is less.
fn connection_limit(config: &Config) -> Result<usize, TooFewFiles> {
    let (allowed, wanted) = (open_files::raise_limit()?, config.max_connections);
    if allowed < wanted {
        log::warn!(
            "at most {allowed} connections are accepted instead of {wanted} (--max-connections): the limit on open files (ulimit -Hn) allows no more"
        );
    }
    Ok(allowed.min(wanted))
}

/// Ends the thread of an arbiter and waits for it.
fn end(arbiter: Arbiter) {
    arbiter.stop();
    if arbiter.join().is_err() {
        log::error!("an actor's thread panicked");
    }
}
