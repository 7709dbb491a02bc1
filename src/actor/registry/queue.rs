//! The group commit: writes that wait for the next transaction, and the transaction that
//! executes them.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::mem;
use std::time::Duration;

use actix::Message;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::model::{Event, EventKind, InstanceKey, Registration};
use crate::store::{Registered, RegisteredMany, RegistryTransaction, RegistryWriter, StoreError};

/// The most writes in one transaction, so that callers do not wait for ever larger ones.
const MAX_BATCH: usize = 512;

/// The most writes that may wait. Callers give up before their writes are executed, so the
/// limit of the mailbox does not bound the queue.
const MAX_WAITING: usize = 4096;

/// The time limit from the beginning of a transaction to its commit, which has its own limit.
const APPLY: Duration = Duration::from_secs(3);

/// The time limit for executing writes one by one after they failed together.
const ALONE: Duration = Duration::from_secs(6);

/// A message that is executed within a transaction.
#[async_trait]
pub trait Write:
    Message<Result = Result<Self::Output, StoreError>> + Send + Sync + 'static
{
    /// What the caller receives.
    type Output: Send + 'static;

    /// Changes the store. Called again in a transaction of its own if another write made the shared
    /// transaction fail.
    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Self::Output, StoreError>;

    /// Returns the events of the committed write.
    fn events(&self, output: &Self::Output) -> Vec<EventKind>;
}

/// The waiting writes, in the order of their arrival.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Box<dyn Entry>>,
    /// The registrations since the last other write. They become one statement, in which an
    /// instance may occur only once.
    registrations: Registrations,
    /// The number of waiting writes.
    waiting: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.registrations.is_empty()
    }

    /// Adds a write, and returns the future of its result.
    pub(super) fn push<W: Write>(
        &mut self,
        write: W,
    ) -> impl Future<Output = Result<W::Output, StoreError>> + use<W> {
        let (answer, answered) = oneshot::channel();
        if self.reserve() {
            self.close_registrations();
            self.entries.push_back(Box::new(Waiting {
                write,
                output: None,
                answer,
            }));
        } else {
            let _ = answer.send(Err(full()));
        }
        async { answered.await.unwrap_or_else(|_| Err(ended())) }
    }

    /// Adds a registration, and returns the future of its result.
    pub(super) fn push_registration(
        &mut self,
        registration: Registration,
    ) -> impl Future<Output = Result<Option<Registered>, StoreError>> + use<> {
        let (answer, answered) = oneshot::channel();
        if self.reserve() {
            if self.registrations.keys.contains(&registration.key)
                || self.registrations.len() >= MAX_BATCH
            {
                self.close_registrations();
            }
            self.registrations.push(registration, answer);
        } else {
            let _ = answer.send(Err(full()));
        }
        async { answered.await.unwrap_or_else(|_| Err(ended())) }
    }

    fn reserve(&mut self) -> bool {
        let free = self.waiting < MAX_WAITING;
        self.waiting += usize::from(free);
        free
    }

    fn close_registrations(&mut self) {
        if !self.registrations.is_empty() {
            self.entries
                .push_back(Box::new(mem::take(&mut self.registrations)));
        }
    }

    /// Takes the oldest writes, as many as fit one transaction.
    pub(super) fn take_batch(&mut self) -> Batch {
        self.close_registrations();
        let mut batch = Batch(Vec::new());
        let mut writes = 0;
        while let Some(entry) = self.entries.pop_front() {
            writes += entry.len();
            if writes > MAX_BATCH && !batch.0.is_empty() {
                self.entries.push_front(entry);
                break;
            }
            batch.0.push(entry);
        }
        self.waiting -= batch.len();
        batch
    }
}

/// Returns the error for a caller whose write does not fit the queue.
fn full() -> StoreError {
    StoreError::Unavailable("the write queue is full".into())
}

/// Returns the error for a caller whose actor ended before it answered.
pub(super) fn ended() -> StoreError {
    StoreError::OutcomeUnknown("the registry actor has ended".into())
}

/// The writes of one transaction.
pub(super) struct Batch(Vec<Box<dyn Entry>>);

/// The result of a batch.
pub(super) struct Done {
    now: DateTime<Utc>,
    /// Committed writes that are not published yet.
    committed: Vec<Box<dyn Entry>>,
    /// The events of the committed writes, in order.
    pub(super) events: Vec<Event>,
    /// Whether the available instances of a service changed.
    pub(super) availability: bool,
}

impl Done {
    fn nothing(now: DateTime<Utc>) -> Self {
        Self {
            now,
            committed: Vec::new(),
            events: Vec::new(),
            availability: false,
        }
    }

    /// Updates the Directory with the committed writes, then answers the callers.
    pub(super) fn apply_committed(&mut self, directory: &Directory, metrics: &Metrics) {
        let (now, entries) = (self.now, mem::take(&mut self.committed));
        let kinds: Vec<EventKind> = entries.iter().flat_map(|entry| entry.events()).collect();
        for (_, online) in kinds.iter().filter_map(EventKind::transition) {
            metrics.transition(online);
        }
        self.availability |= directory.apply(&kinds).availability;
        self.events
            .extend(kinds.into_iter().map(|kind| Event { at: now, kind }));
        for entry in entries {
            entry.answer(Ok(()));
        }
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.0.iter().map(|entry| entry.len()).sum()
    }

    /// Executes all writes in one transaction. Their callers are answered by
    /// [`Done::apply_committed`]. If the batch is refused or conflicts with another replica,
    /// retries each write in a transaction of its own, so that one bad write cannot fail the
    /// others.
    pub(super) async fn execute(
        mut self,
        writer: &mut dyn RegistryWriter,
        now: DateTime<Utc>,
        directory: &Directory,
        metrics: &Metrics,
    ) -> Done {
        let mut done = Done::nothing(now);
        let outcome = measured(metrics, self.len(), commit(writer, now, &mut self.0)).await;
        let error = match outcome {
            Ok(()) => {
                done.committed = self.0;
                return done;
            }
            Err(error) => error,
        };
        let alone = match &error {
            StoreError::Conflict(_) => true,
            StoreError::Refused(_) => self.len() > 1,
            _ => false,
        };
        if !alone {
            for entry in self.0 {
                entry.answer(Err(error.clone()));
            }
            return done;
        }
        let begin = Instant::now();
        let mut unavailable = None;
        for mut entry in self.0.into_iter().flat_map(Entry::split) {
            let outcome = match &unavailable {
                Some(error) => Err(StoreError::clone(error)),
                None => {
                    let alone = std::slice::from_mut(&mut entry);
                    measured(metrics, 1, commit(writer, now, alone)).await
                }
            };
            if let Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) = outcome {
                unavailable.get_or_insert_with(|| {
                    StoreError::Unavailable(
                        "not attempted, because the store failed for earlier writes of the batch"
                            .into(),
                    )
                });
            } else if begin.elapsed() > ALONE {
                unavailable.get_or_insert_with(|| {
                    StoreError::Unavailable(
                        "not attempted, because earlier writes of the batch took too long".into(),
                    )
                });
            }
            match outcome {
                Ok(()) => {
                    done.committed.push(entry);
                    done.apply_committed(directory, metrics);
                }
                Err(error) => entry.answer(Err(error)),
            }
        }
        done
    }
}

/// Runs a transaction of `writes` writes and records its metrics.
async fn measured(
    metrics: &Metrics,
    writes: usize,
    commit: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    let begin = Instant::now();
    let outcome = commit.await;
    match &outcome {
        Ok(()) => {
            metrics.commit_size.observe(writes as f64);
            let duration = begin.elapsed().as_secs_f64();
            metrics.commit_duration.observe(duration);
        }
        Err(_) => {
            metrics.commit_errors.inc();
        }
    }
    let unavailable = matches!(
        outcome,
        Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
    );
    metrics.backends.store.set((!unavailable).into());
    outcome
}

async fn commit(
    writer: &mut dyn RegistryWriter,
    now: DateTime<Utc>,
    entries: &mut [Box<dyn Entry>],
) -> Result<(), StoreError> {
    let applied = timeout(APPLY, async {
        let mut transaction = writer.begin(now).await?;
        for entry in entries {
            entry.apply(&mut *transaction).await?;
        }
        Ok(transaction)
    });
    match applied.await {
        Ok(transaction) => transaction?.commit().await,
        Err(_) => Err(StoreError::Unavailable(format!(
            "a transaction took longer than {APPLY:?}"
        ))),
    }
}

/// A write of any kind, or a run of registrations, with its callers.
#[async_trait]
trait Entry: Send {
    /// The number of writes.
    fn len(&self) -> usize;

    /// Changes the store and keeps the output.
    async fn apply(&mut self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError>;

    /// Splits a run into single writes.
    fn split(self: Box<Self>) -> Vec<Box<dyn Entry>>;

    /// Returns the events of the committed writes.
    fn events(&self) -> Vec<EventKind>;

    /// Answers the callers with their outputs, or with the error.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Waiting<W: Write> {
    write: W,
    output: Option<W::Output>,
    answer: oneshot::Sender<Result<W::Output, StoreError>>,
}

#[async_trait]
impl<W: Write> Entry for Waiting<W> {
    fn len(&self) -> usize {
        1
    }

    async fn apply(&mut self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError> {
        self.output = Some(self.write.apply(transaction).await?);
        Ok(())
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Entry>> {
        vec![self]
    }

    fn events(&self) -> Vec<EventKind> {
        let output = self.output.as_ref();
        output.map_or_else(Vec::new, |output| self.write.events(output))
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let output = self.output;
        // The caller may have given up; the write is durable all the same.
        let _ = self
            .answer
            .send(outcome.and_then(|()| output.ok_or_else(ended)));
    }
}

type RegistrationAnswer = oneshot::Sender<Result<Option<Registered>, StoreError>>;

#[derive(Default)]
struct Registrations {
    keys: HashSet<InstanceKey>,
    registrations: Vec<Registration>,
    answers: Vec<RegistrationAnswer>,
    done: RegisteredMany,
}

impl Registrations {
    fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    fn push(&mut self, registration: Registration, answer: RegistrationAnswer) {
        self.keys.insert(registration.key.clone());
        self.registrations.push(registration);
        self.answers.push(answer);
    }
}

#[async_trait]
impl Entry for Registrations {
    fn len(&self) -> usize {
        self.registrations.len()
    }

    async fn apply(&mut self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError> {
        self.done = transaction.register_instances(&self.registrations).await?;
        Ok(())
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Entry>> {
        self.registrations
            .into_iter()
            .zip(self.answers)
            .map(|(registration, answer)| {
                let mut alone = Self::default();
                alone.push(registration, answer);
                Box::new(alone) as Box<dyn Entry>
            })
            .collect()
    }

    fn events(&self) -> Vec<EventKind> {
        let services = self.done.services.iter().cloned();
        let registered = self.done.instances.iter().flatten();
        let changed = registered.filter(|registered| registered.changed);
        let event = |registered: &Registered| {
            if registered.created {
                EventKind::InstanceRegistered(registered.instance.clone())
            } else {
                EventKind::InstanceChanged(registered.instance.clone())
            }
        };
        services
            .map(EventKind::ScopeDeclared)
            .chain(changed.map(event))
            .collect()
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => {
                for (output, answer) in self.done.instances.into_iter().zip(self.answers) {
                    let _ = answer.send(Ok(output));
                }
            }
            Err(error) => {
                for answer in self.answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}
