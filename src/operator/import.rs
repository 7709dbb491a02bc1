//! `rollcalld import`: registers everything in an export.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::pin::pin;

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use super::backup::{self, Export, InstanceEntry, ScopeEntry};
use super::{CommandError, print_error, print_line};
use crate::client::{Client, ClientError};
use crate::model::{InstanceKey, ScopeKind, parse_json};
use crate::settings::ImportSettings;

/// The most registrations in one request.
const BATCH: usize = 2_000;

/// The number of such requests in flight.
const BATCHES: usize = 4;

/// The number of other requests in flight.
const REQUESTS: usize = 64;

/// The time between two lines about the progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// Registers everything in an export. Existing scopes and instances are changed to match it,
/// except the decisions of operators, and nothing is removed, so it may be repeated.
pub(super) async fn import(client: &Client, settings: ImportSettings) -> Result<(), CommandError> {
    let export = read(settings.path.as_deref())?;
    let known = backup::instances(client).await?.into_iter();
    let known = known.map(|entry| Ok((entry.key()?, entry)));
    let known: HashMap<InstanceKey, InstanceEntry> = known.collect::<Result<_, ClientError>>()?;
    let scopes = declare(client, &export, settings.dry_run).await?;
    let mut report = Report::new(export.instances.len());
    let mut steps = Vec::with_capacity(export.instances.len());
    for entry in export.instances {
        let entry = entry.without_defaults();
        match entry.key() {
            Ok(key) => {
                let known = known.get(&key);
                steps.push(Step::of(key, entry, known, settings.replace_decisions));
            }
            Err(error) => report.failed(entry.address.as_str(), error)?,
        }
    }
    if settings.dry_run {
        for step in &steps {
            report.done(step);
        }
    } else {
        run(client, steps, &mut report).await?;
    }
    let verb = if settings.dry_run {
        "would import"
    } else {
        "imported"
    };
    report.end(verb, scopes)
}

fn read(path: Option<&Path>) -> Result<Export, CommandError> {
    let from = path.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    let text = match path {
        Some(path) => std::fs::read_to_string(path),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
    };
    let text = text.map_err(|error| error.to_string());
    text.and_then(|text| parse_json(&text))
        .map_err(|reason| CommandError::Import { from, reason })
}

/// Declares the scopes, and returns their number. A service with instances and without a name is
/// declared by its first instance, as it was.
async fn declare(client: &Client, export: &Export, dry_run: bool) -> Result<usize, CommandError> {
    let of_services = export.instances.iter();
    let with_instances: HashSet<_> = of_services
        .filter_map(|entry| entry.service.as_ref())
        .collect();
    let mut count = 0;
    for (kind, entries) in [
        (ScopeKind::Group, &export.groups),
        (ScopeKind::Service, &export.services),
    ] {
        for ScopeEntry { key, name } in entries {
            count += 1;
            let comes_along =
                kind == ScopeKind::Service && name.is_none() && with_instances.contains(key);
            if !dry_run && !comes_along {
                let path = format!("/v1/{}/{key}", kind.plural());
                let body = json!({ "name": name });
                client.send(Method::PUT, &path, Some(&body)).await?;
            }
        }
    }
    Ok(count)
}

/// What an import does with an instance.
struct Step {
    key: InstanceKey,
    entry: InstanceEntry,
    is_known: bool,
    registers: bool,
    /// The decisions of operators that it changes.
    decisions: Map<String, Value>,
}

impl Step {
    fn of(
        key: InstanceKey,
        entry: InstanceEntry,
        known: Option<&InstanceEntry>,
        replace: bool,
    ) -> Self {
        let decisions = match known {
            Some(known) => entry.decisions(known, replace),
            None => entry.decisions(&entry.undecided(), replace),
        };
        Self {
            registers: known.is_none_or(|known| !entry.is_registered_as(known)),
            is_known: known.is_some(),
            key,
            entry,
            decisions,
        }
    }
}

/// Registers the instances, many in one request, and then changes those with decisions.
async fn run(client: &Client, steps: Vec<Step>, report: &mut Report) -> Result<(), CommandError> {
    let (registering, mut registered): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|step| step.registers);
    let mut rest = registering.into_iter().peekable();
    let batches = std::iter::from_fn(|| {
        rest.peek()?;
        Some(rest.by_ref().take(BATCH).collect::<Vec<_>>())
    });
    let sent = stream::iter(batches).map(async |batch: Vec<Step>| {
        let entries = batch.iter().map(|step| step.entry.registration(&step.key));
        let outcomes = client.register(&entries.collect::<Vec<_>>()).await;
        (batch, outcomes)
    });
    let mut sent = pin!(sent.buffer_unordered(BATCHES));
    while let Some((batch, outcomes)) = sent.next().await {
        // Without an answer to one request there is none to the next.
        for (step, outcome) in batch.into_iter().zip(outcomes?) {
            match outcome {
                Ok(()) if step.decisions.is_empty() => report.done(&step),
                Ok(()) => registered.push(step),
                Err(error) => report.failed(&step.key.to_string(), error)?,
            }
        }
        report.progress()?;
    }
    let decided = stream::iter(registered).map(async |step| {
        if step.decisions.is_empty() {
            return (step, Ok(Value::Null));
        }
        let path = format!("/v1/{}", step.key);
        let change = Value::Object(step.decisions.clone());
        let changed = client.send(Method::PATCH, &path, Some(&change)).await;
        (step, changed)
    });
    let mut decided = pin!(decided.buffer_unordered(REQUESTS));
    while let Some((step, changed)) = decided.next().await {
        match changed {
            Ok(_) => report.done(&step),
            Err(error) => report.failed(&step.key.to_string(), error)?,
        }
        report.progress()?;
    }
    Ok(())
}

/// What was done, for people.
struct Report {
    all: usize,
    created: usize,
    changed: usize,
    unchanged: usize,
    failed: usize,
    /// The exit code of the first failure.
    code: Option<u8>,
    said_at: Instant,
}

impl Report {
    fn new(all: usize) -> Self {
        Self {
            all,
            created: 0,
            changed: 0,
            unchanged: 0,
            failed: 0,
            code: None,
            said_at: Instant::now(),
        }
    }

    fn done(&mut self, step: &Step) {
        let count = match step {
            Step {
                is_known: false, ..
            } => &mut self.created,
            Step {
                registers,
                decisions,
                ..
            } if *registers || !decisions.is_empty() => &mut self.changed,
            Step { .. } => &mut self.unchanged,
        };
        *count += 1;
    }

    fn failed(&mut self, instance: &str, error: ClientError) -> Result<(), CommandError> {
        print_error(&format!("{instance}: {error}"))?;
        self.failed += 1;
        self.code
            .get_or_insert(CommandError::from(error).exit_code());
        Ok(())
    }

    fn progress(&mut self) -> Result<(), CommandError> {
        if self.said_at.elapsed() > PROGRESS {
            let done = self.created + self.changed + self.unchanged + self.failed;
            print_error(&format!("{done} of {} instances", self.all))?;
            self.said_at = Instant::now();
        }
        Ok(())
    }

    fn end(self, verb: &str, scopes: usize) -> Result<(), CommandError> {
        let Self {
            all,
            created,
            changed,
            unchanged,
            failed,
            ..
        } = self;
        print_line(&format!(
            "{verb} {scopes} groups and services, {} instances: {created} new, {changed} changed, {unchanged} unchanged",
            all - failed
        ))?;
        match self.code {
            None => Ok(()),
            Some(code) => Err(CommandError::Partly { failed, all, code }),
        }
    }
}
