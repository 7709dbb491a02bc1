//! The group commit: writes that wait for the next transaction, and the transaction that
//! executes them.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::mem;
use std::time::Duration;

use actix::Message;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::RegisterInstance;
use super::write::{Entry, PendingRegistration, PendingWrite, Write, ended};
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::model::{Event, EventKind};
use crate::store::{RegistryTransaction, RegistryWriter, StoreError};

/// The most instances that one transaction writes, so that callers do not wait for ever larger
/// ones. One write alone may have more.
const MAX_BATCH: usize = 1_024;

/// The time limit from the beginning of a transaction to its commit, which has its own limit.
const APPLY: Duration = Duration::from_secs(3);

/// The time limit for executing writes one by one after they failed together.
const ALONE: Duration = Duration::from_secs(6);

/// The waiting writes, in the order of their arrival; the permits of the mailbox bound them.
#[derive(Default)]
pub struct Queue(VecDeque<Entry>);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the oldest writes, as many as fit one transaction.
    pub(super) fn take_batch(&mut self) -> Batch {
        let mut size = 0;
        let fits = |entry: &&Entry| {
            size += entry.size();
            size <= MAX_BATCH
        };
        let count = self.0.iter().take_while(fits).count().max(1);
        Batch(self.0.drain(..count.min(self.0.len())).collect())
    }
}

/// A message that waits for a transaction.
pub trait Enqueue: Message<Result: Send> + Send + Sized + 'static {
    /// Adds the message to the queue, and returns the future of its result.
    fn enqueue(self, queue: &mut Queue) -> impl Future<Output = Self::Result> + use<Self>;
}

impl<W: Write> Enqueue for W {
    fn enqueue(self, queue: &mut Queue) -> impl Future<Output = Self::Result> + use<W> {
        let (reply, answer) = oneshot::channel();
        queue.0.push_back(Entry::Write(Box::new(PendingWrite {
            write: self,
            output: None,
            reply,
        })));
        answered(answer)
    }
}

impl Enqueue for RegisterInstance {
    fn enqueue(self, queue: &mut Queue) -> impl Future<Output = Self::Result> + use<> {
        let (reply, answer) = oneshot::channel();
        queue
            .0
            .push_back(Entry::Registration(Box::new(PendingRegistration {
                registration: self.0,
                registered: None,
                services: Vec::new(),
                reply,
            })));
        answered(answer)
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(ended()))
}

/// The writes of one transaction.
pub(super) struct Batch(Vec<Entry>);

/// The result of a batch.
pub(super) struct Done {
    now: DateTime<Utc>,
    /// Committed writes that are not published yet.
    committed: Vec<Entry>,
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
        let events: Vec<Event> = entries
            .iter()
            .flat_map(|entry| {
                let by = entry.by().cloned();
                entry.events().into_iter().map(move |kind| Event {
                    changed: changed_fields(directory, &kind),
                    by: by.clone(),
                    ..Event::new(now, kind)
                })
            })
            .collect();
        let kinds = events.iter().map(|event| &event.kind);
        for (_, online) in kinds.clone().filter_map(EventKind::transition) {
            metrics.transition(online);
        }
        self.availability |= directory.apply(kinds).availability;
        self.events.extend(events);
        for entry in entries {
            entry.answer(Ok(()));
        }
    }
}

/// Returns the fields in which a changed instance differs from the known one.
fn changed_fields(directory: &Directory, kind: &EventKind) -> Vec<String> {
    let EventKind::InstanceChanged(instance) = kind else {
        return Vec::new();
    };
    let known = directory.find(&instance.key);
    known.map_or_else(Vec::new, |known| instance.changed_fields(&known.instance))
}

impl Batch {
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
        let outcome = measured(metrics, self.0.len(), commit(writer, now, &mut self.0)).await;
        let error = match outcome {
            Ok(()) => {
                done.committed = self.0;
                return done;
            }
            Err(error) => error,
        };
        let alone = match &error {
            StoreError::Conflict(_) => true,
            StoreError::Refused(_) => self.0.len() > 1,
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
        for mut entry in self.0 {
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
    mut entries: &mut [Entry],
) -> Result<(), StoreError> {
    let applied = timeout(APPLY, async {
        let mut transaction = writer.begin(now).await?;
        while !entries.is_empty() {
            let count = registrations(entries).max(1);
            let (first, rest) = entries.split_at_mut(count);
            apply(first, &mut *transaction).await?;
            entries = rest;
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

/// Returns the number of registrations at the beginning of the entries that fit one statement,
/// in which an instance may occur only once.
fn registrations(entries: &[Entry]) -> usize {
    let mut keys = HashSet::new();
    let registrations = entries.iter().map_while(|entry| match entry {
        Entry::Registration(pending) => Some(&pending.registration.key),
        Entry::Write(_) => None,
    });
    registrations.take_while(|key| keys.insert(*key)).count()
}

/// Executes one write, or several registrations in one statement.
async fn apply(
    entries: &mut [Entry],
    transaction: &mut dyn RegistryTransaction,
) -> Result<(), StoreError> {
    if let [Entry::Write(write)] = entries {
        return write.apply(transaction).await;
    }
    let pending: Vec<&mut PendingRegistration> = entries
        .iter_mut()
        .filter_map(|entry| match entry {
            Entry::Registration(pending) => Some(&mut **pending),
            Entry::Write(_) => None,
        })
        .collect();
    let registrations: Vec<_> = pending.iter().map(|one| one.registration.clone()).collect();
    let done = transaction.register_instances(&registrations).await?;
    let mut services = done.services;
    for (pending, registered) in pending.into_iter().zip(done.instances) {
        pending.registered = registered;
        pending.services = mem::take(&mut services);
    }
    Ok(())
}
