//! The composition root: opens the backends, starts the actors and the server, and stops
//! everything in order. The only module that knows all others.

mod core;
mod listen;
mod open_files;
mod reload;
mod signals;
mod startup;
mod state;

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use actix_web::dev::Server;
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::core::{Backends, Core, Threads};
use self::listen::{listen, listen_dns};
use self::open_files::TooFewFiles;
pub(crate) use self::reload::Reloader;
pub(crate) use self::signals::run;
use self::startup::wait_for_backends;
use self::state::DaemonState;
use crate::actor::Drain;
use crate::admission::ConcurrencyLimits;
use crate::auth::{TokenError, Tokens};
use crate::backend::OpenError;
use crate::clock::Clock;
use crate::coordination;
use crate::dns::DnsServer;
use crate::event_log;
use crate::http::{Api, BodyCache, Connections, Facades, LastProbe, Lifecycle};
use crate::lease;
use crate::metrics::Metrics;
use crate::settings::ServeSettings;
use crate::store::{self, MigrateError};
use crate::tls::{Tls, TlsError};

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
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// The setting with the address.
        setting: &'static str,
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
    /// An actor or a background loop panicked, which the log shows. The process must be restarted.
    #[error("the {0} has ended; see the panic above")]
    PartEnded(&'static str),
    /// The system refused to deliver signals, or to print the address.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The HTTP server ended.
    #[error("the HTTP server has ended: {0}")]
    ServerEnded(String),
}

/// A daemon that listens and can be run.
pub struct Daemon {
    settings: ServeSettings,
    address: SocketAddr,
    server: Server,
    dns: Option<DnsServer>,
    core: Arc<Core>,
    lifecycle: Lifecycle,
    reloader: Reloader,
    ends: mpsc::UnboundedReceiver<&'static str>,
    arbiters: Arbiters,
}

/// The threads of actors with a thread of their own.
struct Arbiters {
    registry: Arbiter,
    scheduler: Arbiter,
    follower: Arbiter,
    dns: Arbiter,
}

/// What the handlers of all workers share.
#[derive(Clone)]
struct Shared {
    core: Arc<Core>,
    lifecycle: Lifecycle,
    tokens: Arc<Tokens>,
    trusted_proxies: Arc<[IpNet]>,
    client_certificates: bool,
    roll_call_interval: Duration,
    admission: Arc<ConcurrencyLimits>,
    connections: Arc<Connections>,
    bodies: Arc<BodyCache>,
    facades: Arc<Facades>,
}

impl Daemon {
    /// Opens, starts and binds everything, within an actix system. Requests are answered 503 until
    /// [`Daemon::run_until_stopped`] has reached the stores.
    pub fn build(settings: ServeSettings, clock: Arc<dyn Clock>) -> Result<Self, DaemonError> {
        let connections = Arc::new(Connections::new(connection_limit(&settings)?));
        let access = &settings.access;
        let tokens = Tokens::load(access.tokens.clone(), access.anonymous_role())?;
        let tokens = Arc::new(tokens);
        let tls = settings
            .access
            .tls()
            .map(Tls::load)
            .transpose()?
            .map(Arc::new);
        let metrics = Arc::new(Metrics::new());
        let backends = open_backends(&settings, clock, &metrics)?;
        let (end, ends) = mpsc::unbounded_channel();
        let arbiters = Arbiters {
            registry: Arbiter::new(),
            scheduler: Arbiter::new(),
            follower: Arbiter::new(),
            dns: Arbiter::new(),
        };
        let threads = Threads {
            registry: arbiters.registry.handle(),
            scheduler: arbiters.scheduler.handle(),
            follower: arbiters.follower.handle(),
        };
        let core = Core::start(
            settings.core(),
            backends,
            &threads,
            Arc::clone(&metrics),
            end,
        );
        let facades = Facades::new(settings.facades.facades.clone(), &core.directory);
        let shared = Shared {
            core: Arc::new(core),
            lifecycle: Lifecycle::default(),
            tokens: Arc::clone(&tokens),
            trusted_proxies: settings.access.trusted_proxy.clone().into(),
            client_certificates: tls.as_ref().is_some_and(|tls| tls.asks_clients()),
            roll_call_interval: settings.core().roll_call.interval,
            admission: Arc::new(ConcurrencyLimits::new(settings.limits())),
            connections,
            bodies: Arc::default(),
            facades: Arc::new(facades),
        };
        metrics.show(DaemonState {
            core: Arc::downgrade(&shared.core),
            lifecycle: shared.lifecycle.clone(),
            tokens: Arc::clone(&tokens),
            admission: Arc::clone(&shared.admission),
            connections: Arc::clone(&shared.connections),
            roll_call_interval: shared.roll_call_interval,
        });
        let (server, address) = listen(&settings, &shared, tls.as_deref())?;
        let dns = settings.facades.dns();
        let dns = dns.map(|dns| listen_dns(dns, &shared.core)).transpose()?;
        Ok(Self {
            settings,
            address,
            server,
            dns,
            core: shared.core,
            lifecycle: shared.lifecycle,
            reloader: Reloader::new(tokens, tls, metrics),
            ends,
            arbiters,
        })
    }

    /// Returns the address of the server, with the picked port if the setting is port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a handle that reads tokens and certificates again.
    pub(crate) fn reloader(&self) -> Reloader {
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
            settings,
            server,
            dns,
            core,
            lifecycle,
            mut ends,
            arbiters,
            ..
        } = self;
        let server_handle = server.handle();
        let mut server = actix::spawn(server);
        let serve = async {
            let head = wait_for_backends(&settings, &core).await?;
            core.follow(head);
            lifecycle.start();
            if let Some(dns) = dns {
                let lifeline = core.lifeline("DNS server");
                arbiters.dns.spawn(async {
                    let _lifeline = lifeline;
                    if let Err(error) = dns.serve().await {
                        log::error!("the DNS server has ended: {error}");
                    }
                });
            }
            log::info!("ready");
            ready();
            pending().await
        };
        let outcome: Result<Duration, DaemonError> = tokio::select! {
            delay = shutdown => Ok(delay),
            outcome = serve => outcome,
            part = ends.recv() => Err(DaemonError::PartEnded(part.unwrap_or("last actor"))),
            ended = &mut server => Err(DaemonError::ServerEnded(match ended {
                Ok(Ok(())) => "it was stopped".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            })),
        };
        log::info!("stopping");
        let latest = Instant::now() + *settings.shutdown_timeout;
        if let Ok(delay) = outcome {
            lifecycle.start_draining();
            sleep(delay).await;
        }
        // Streams and long polls would delay the stop of the server.
        lifecycle.stop();
        server_handle.stop(true).await;
        core.stop();
        end(arbiters.dns);
        end(arbiters.scheduler);
        // Every answered write is committed; this is for writes whose caller gave up. A
        // RegistryActor that has ended has nothing left to drain.
        let drained = core.registry.address().send(Drain);
        if timeout_at(latest, drained).await.is_err() {
            log::warn!("pending writes of callers that gave up were dropped");
        }
        end(arbiters.follower);
        end(arbiters.registry);
        log::info!("stopped");
        outcome.map(drop)
    }
}

/// Opens the stores, without connecting.
fn open_backends(
    settings: &ServeSettings,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Backends, OpenError> {
    let store = store::open(&settings.store.store)?;
    let leases = lease::open(&settings.leases, Arc::clone(&clock))?;
    if let Some(redis) = leases.redis() {
        redis.report_evictions(metrics.leases_evicted.clone());
    }
    Ok(Backends {
        store,
        log: event_log::open(
            leases.redis(),
            Arc::clone(&clock),
            settings.event_log_length,
        ),
        coordinator: coordination::open(leases.redis()),
        connect: Box::new(move || leases.connect()),
        clock,
    })
}

impl Shared {
    /// Returns the state of the handlers of one worker, and starts its HeartbeatActor.
    fn api(&self) -> Api {
        let core = &self.core;
        let leases = core.connect();
        Api {
            replica: core.replica.clone(),
            replicas: Arc::clone(&core.replicas),
            started_at: core.started_at,
            registry: core.registry.clone(),
            heartbeat: core.start_heartbeat_actor(Arc::clone(&leases)),
            scheduler: core.scheduler.clone(),
            roll_calls: Arc::clone(&core.roll_calls),
            reader: Arc::clone(&core.reader),
            leases,
            directory: Arc::clone(&core.directory),
            unregistered: Arc::clone(&core.unregistered),
            protection: Arc::clone(&core.protection),
            expiry: Arc::clone(&core.expiry),
            reconciler: Arc::clone(&core.reconciler),
            feed: Arc::clone(&core.feed),
            history: Arc::clone(&core.history),
            counts: Arc::clone(&core.counts),
            indexes: Arc::clone(&core.indexes),
            clock: Arc::clone(&core.clock),
            roll_call_interval: self.roll_call_interval,
            default_ttl: core.protection.limits().ttl,
            lifecycle: self.lifecycle.clone(),
            tokens: Arc::clone(&self.tokens),
            trusted_proxies: Arc::clone(&self.trusted_proxies),
            client_certificates: self.client_certificates,
            admission: Arc::clone(&self.admission),
            connections: Arc::clone(&self.connections),
            metrics: Arc::clone(&core.metrics),
            bodies: Arc::clone(&self.bodies),
            facades: Arc::clone(&self.facades),
            last_probe: LastProbe::default(),
        }
    }
}

/// Returns the limit of connections: the setting, or what the system allows if that is less.
fn connection_limit(settings: &ServeSettings) -> Result<usize, TooFewFiles> {
    let (allowed, wanted) = (open_files::raise_limit()?, settings.max_connections());
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
