//! The core of a replica: the stores, the actors and the background jobs, without HTTP.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Arbiter, ArbiterHandle};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::actor::{
    HeartbeatActor, Lifeline, Mailbox, MailboxLimits, RegistryActor, RollCallReport,
    SchedulerActor, Spawner,
};
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::directory::Directory;
use crate::event_log::EventLog;
use crate::history::{CountSamples, History};
use crate::lease::{Health, LeaseStore, ObservedLeaseStore};
use crate::liveness::{
    Agreement, AuditPurge, ClockWatch, ExpiryHandler, Holds, Jobs, Protection, Purge, Reconciler,
    Replicas, UnregisteredLeases,
};
use crate::metrics::Metrics;
use crate::model::{EventId, ReplicaId, ReplicaState};
use crate::replication::{EventBroadcast, Follower, LoadError, ScopeIndexes};
use crate::settings::CoreSettings;
use crate::store::{RegistryReader, Store};

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

/// What the core works on.
pub struct Backends {
    /// The registry store.
    pub store: Store,
    /// Returns a handle to the lease store, whose connection runs on the current thread.
    pub connect: Box<dyn Fn() -> Arc<dyn LeaseStore> + Send + Sync>,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The coordination with other replicas.
    pub coordinator: Arc<dyn Coordinator>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// The threads of the actors, and of the background loops.
pub struct Threads {
    /// The RegistryActor's.
    pub(crate) registry: ArbiterHandle,
    /// The SchedulerActor's, and the background jobs'.
    pub(crate) scheduler: ArbiterHandle,
    /// The Follower's: large reads delay no actor.
    pub(crate) follower: ArbiterHandle,
}

impl Threads {
    /// Everything runs on the current thread.
    pub fn current() -> Self {
        Self {
            registry: Arbiter::current(),
            scheduler: Arbiter::current(),
            follower: Arbiter::current(),
        }
    }
}

/// The running core. Its roll calls, jobs and Follower end when it is dropped.
pub struct Core {
    /// The ID of this replica.
    pub(crate) replica: ReplicaId,
    /// All replicas that run.
    pub(crate) replicas: Arc<Replicas>,
    /// When it started.
    pub(crate) started_at: DateTime<Utc>,
    /// Changes the registry.
    pub registry: Mailbox<RegistryActor>,
    /// Calls the roll.
    pub(crate) scheduler: Mailbox<SchedulerActor>,
    /// Its statistics.
    pub roll_calls: Arc<Mutex<RollCallReport>>,
    /// Reads the registry store.
    pub reader: Arc<dyn RegistryReader>,
    /// Reads the leases.
    pub leases: Arc<dyn LeaseStore>,
    /// Answers which instances are registered and online.
    pub directory: Arc<Directory>,
    /// Decides whether instances are marked offline.
    pub protection: Arc<Protection>,
    /// Marks them.
    pub(crate) expiry: Arc<ExpiryHandler>,
    /// The leases of addresses that never registered.
    pub(crate) unregistered: Arc<UnregisteredLeases>,
    /// Finds what the deadlines of this replica do not.
    pub reconciler: Arc<Reconciler>,
    /// Watches the wall clock.
    pub(crate) clock_watch: Arc<ClockWatch>,
    /// Sends events to subscribers.
    pub(crate) feed: Arc<EventBroadcast>,
    /// The latest events.
    pub(crate) history: Arc<History>,
    /// Samples of the numbers of instances.
    pub(crate) counts: Arc<CountSamples>,
    /// The indexes of the scopes.
    pub(crate) indexes: Arc<ScopeIndexes>,
    /// Keeps the Directory current.
    follower: Arc<Follower>,
    /// The metrics of all parts.
    pub(crate) metrics: Arc<Metrics>,
    /// The wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    recorder: Mailbox<RegistryActor>,
    connect: Box<dyn Fn() -> Arc<dyn LeaseStore> + Send + Sync>,
    health: Arc<Health>,
    cancelled: CancellationToken,
    follower_thread: Spawner,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Core {
    /// Starts the actors and the jobs. Call [`Core::follow`] once the backends were reached. The
    /// unexpected end of a part is reported to `ends`.
    pub fn start(
        settings: CoreSettings,
        backends: Backends,
        threads: &Threads,
        metrics: Arc<Metrics>,
        ends: mpsc::UnboundedSender<&'static str>,
    ) -> Self {
        let Backends {
            store: Store { reader, writer },
            connect,
            log,
            coordinator,
            clock,
        } = backends;
        let cancelled = CancellationToken::new();
        let (replica, started_at) = (replica_id(), clock.now());
        let spawner =
            |thread: &ArbiterHandle| Spawner::new(thread.clone(), cancelled.clone(), ends.clone());
        let health = Arc::<Health>::default();
        let leases = observed(connect(), &health, &metrics);
        let directory = Arc::new(Directory::new(Arc::clone(&reader)));
        let protection = Arc::new(Protection::new(settings.limits, Arc::clone(&health)));
        let feed = Arc::new(EventBroadcast::new(Arc::clone(&log)));
        let history = Arc::new(History::new(settings.event_log_length));
        let counts = Arc::<CountSamples>::default();
        let indexes = Arc::new(ScopeIndexes::new(Arc::clone(&log)));

        let registry = RegistryActor::new(
            writer,
            Arc::clone(&clock),
            Arc::clone(&directory),
            Arc::clone(&log),
            Arc::clone(&coordinator),
            settings.announcement,
            Arc::clone(&metrics),
            Lifeline::new("registry actor", ends.clone()),
        );
        let registry = RegistryActor::start_in_arbiter(&threads.registry, |_| registry);
        let mailbox = |limits, name| Mailbox::new(registry.clone(), limits, metrics.mailbox(name));
        let recorder = mailbox(RECORDER, "recorder");
        let scheduler = SchedulerActor::new(
            settings.roll_call,
            Arc::clone(&coordinator),
            Arc::clone(&log),
            Arc::clone(&clock),
            cancelled.clone(),
            Lifeline::new("scheduler actor", ends.clone()),
        );
        let roll_calls = scheduler.report();
        let scheduler = SchedulerActor::start_in_arbiter(&threads.scheduler, |_| scheduler);

        let expiry = Arc::new(ExpiryHandler {
            leases: Arc::clone(&leases),
            health: Arc::clone(&health),
            directory: Arc::clone(&directory),
            protection: Arc::clone(&protection),
            registry: recorder.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        });
        let reconciler = Arc::new(Reconciler::new(
            Arc::clone(&expiry),
            Arc::clone(&directory),
            Arc::clone(&leases),
            Arc::clone(&reader),
            recorder.clone(),
            Arc::clone(&coordinator),
            Arc::clone(&clock),
        ));
        let window = settings.remove_offline_after.or(settings.keep_audit);
        let clock_watch = Arc::new(ClockWatch::new(
            Arc::clone(&clock),
            window.unwrap_or_default(),
        ));
        let unregistered = Arc::new(UnregisteredLeases::default());
        let describe = {
            let (feed, reconciler) = (Arc::clone(&feed), Arc::clone(&reconciler));
            let roll_calls = Arc::clone(&roll_calls);
            move |directory: &Directory| {
                let counts = directory.totals().instances;
                ReplicaState {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    started_at,
                    instances: counts.instances as u64,
                    online: counts.online as u64,
                    streams: feed.subscribers() as u64,
                    roll_calls_sent: roll_calls.lock().sent,
                    last_reconcile_at: reconciler.report().last_at,
                }
            }
        };
        let replicas = Arc::new(Replicas::new(Arc::clone(&directory), Box::new(describe)));
        let jobs = Jobs {
            unregistered: Arc::clone(&unregistered),
            protection: Arc::clone(&protection),
            clock_watch: Arc::clone(&clock_watch),
            expiry: Arc::clone(&expiry),
            reconciler: Arc::clone(&reconciler),
            agreement: Agreement {
                replica: replica.clone(),
                replicas: Arc::clone(&replicas),
                health: Arc::clone(&health),
                registry: mailbox(AGREEMENT, "agreement"),
                protection: Arc::clone(&protection),
            },
            purge: settings.remove_offline_after.map(|after| Purge {
                after,
                directory: Arc::clone(&directory),
                registry: recorder.clone(),
                coordinator,
                clock_watch: Arc::clone(&clock_watch),
            }),
            holds: Holds {
                directory: Arc::clone(&directory),
                registry: recorder.clone(),
                clock: Arc::clone(&clock),
            },
            audit: settings.keep_audit.map(|keep| AuditPurge {
                keep,
                registry: recorder.clone(),
                clock_watch: Arc::clone(&clock_watch),
            }),
        };
        jobs.start(&spawner(&threads.scheduler));
        let sampling = Arc::clone(&counts).run(Arc::clone(&directory), Arc::clone(&clock));
        spawner(&threads.scheduler).spawn("count samples loop", sampling);
        let follower = Arc::new(Follower {
            directory: Arc::clone(&directory),
            reader: Arc::clone(&reader),
            log,
            indexes: Arc::clone(&indexes),
            history: Arc::clone(&history),
            feed: Arc::clone(&feed),
            protection: Arc::clone(&protection),
            expiry: Arc::clone(&expiry),
            registry: recorder.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        });
        Self {
            replica,
            replicas,
            started_at,
            registry: mailbox(REGISTRY, "registry"),
            scheduler: Mailbox::new(scheduler, SCHEDULER, metrics.mailbox("scheduler")),
            roll_calls,
            reader,
            leases,
            directory,
            protection,
            expiry,
            unregistered,
            reconciler,
            clock_watch,
            feed,
            history,
            counts,
            indexes,
            follower,
            clock,
            recorder,
            connect,
            health,
            follower_thread: spawner(&threads.follower),
            cancelled,
            metrics,
            ends,
        }
    }

    /// Loads the Directory, and returns the event after which to follow.
    pub async fn load(&self) -> Result<EventId, LoadError> {
        self.follower.load().await
    }

    /// Begins to follow the event log after `head`, and to mark instances offline.
    pub fn follow(&self, head: EventId) {
        self.protection.start();
        let follower = Arc::clone(&self.follower);
        self.follower_thread
            .spawn("follower", async move { follower.follow(head).await });
    }

    /// Returns a handle to the lease store, whose connection runs on the current thread.
    pub(crate) fn connect(&self) -> Arc<dyn LeaseStore> {
        observed((self.connect)(), &self.health, &self.metrics)
    }

    /// Returns what reports the end of a part of the daemon, when it is dropped.
    pub(crate) fn lifeline(&self, part: &'static str) -> Lifeline {
        Lifeline::new(part, self.ends.clone())
    }

    /// Starts a HeartbeatActor on the current thread, which renews leases in `leases`.
    pub fn start_heartbeat_actor(&self, leases: Arc<dyn LeaseStore>) -> Mailbox<HeartbeatActor> {
        let heartbeat = HeartbeatActor::new(
            leases,
            Arc::clone(&self.directory),
            self.recorder.clone(),
            self.protection.limits().ttl,
            Arc::clone(&self.metrics),
            self.lifeline("heartbeat actor"),
        );
        let metrics = self.metrics.mailbox("heartbeat");
        Mailbox::new(heartbeat.start(), HEARTBEAT, metrics)
    }

    /// Ends the roll calls, the jobs and the Follower.
    pub fn stop(&self) {
        self.cancelled.cancel();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop();
    }
}

fn observed(
    leases: Arc<dyn LeaseStore>,
    health: &Arc<Health>,
    metrics: &Metrics,
) -> Arc<dyn LeaseStore> {
    Arc::new(ObservedLeaseStore::new(leases, Arc::clone(health), metrics))
}

/// Returns the host name, by which operators know a replica, with a random number.
fn replica_id() -> ReplicaId {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let random = RandomState::new().hash_one(Instant::now());
    ReplicaId::new(&host, random)
}
