//! The agent: registers instances, sends their heartbeats, and takes them out at the end.
//!
//! Called by `program` for `rollcalld agent`. It knows only the daemon's API and stores nothing on
//! disk: after any outage it registers again.

mod check;
mod command;
mod own_address;
mod presence;
mod roll_call;
mod signals;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::maybe_done;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use self::check::{Check, Health, until_listening};
use self::command::Command;
use self::presence::Presence;
pub(crate) use self::signals::Signals;
use crate::client::{Client, ClientError};
use crate::settings::AgentSettings;

/// The time limit for leaving before the command is stopped, unless the drain delay is longer, and
/// again for what is left of it afterwards.
const LEAVE: Duration = Duration::from_secs(2);

/// Runs until a signal or until the command ends, and then takes the instances out. Returns the
/// exit code of the command, or 0.
pub(crate) async fn run(
    mut settings: AgentSettings,
    mut signals: Signals,
) -> Result<u8, ClientError> {
    let client = Arc::new(Client::new(&settings.client)?);
    let check = settings.check().map(Check::new).transpose()?;
    let mut command = match Command::start(&settings.command) {
        Ok(command) => command,
        Err(code) => return Ok(code),
    };
    let has_command = command.is_some();
    let presence = Presence::new(Arc::clone(&client));
    let (health, called) = (watch::Sender::new(Health::Starting), Notify::new());
    let mut instances = std::mem::take(&mut settings.instances);
    let settings = settings;
    let live = async {
        own_address::resolve(&mut instances, &settings.client.server).await;
        let first = instances.first().map(|one| one.key.clone());
        let addresses: Vec<_> = instances
            .iter()
            .map(|one| one.key.address.clone())
            .collect();
        presence.replace(instances).await;
        let watch_health = async {
            match &check {
                Some(check) => check.run(&health).await,
                None if has_command => {
                    let limit = *settings.start_delay;
                    until_listening(addresses.into_iter(), limit, &health).await;
                }
                None => drop(health.send_replace(Health::Passing)),
            }
        };
        let listen = async {
            if let (false, Some(key)) = (settings.no_roll_calls, first) {
                roll_call::listen(&client, &key.scope, &called).await;
            }
        };
        tokio::join!(
            presence.keep(&called, health.subscribe()),
            watch_health,
            listen
        );
    };
    let reload = async || {
        client.reload_token();
        match settings.read_instances() {
            Ok(Some(mut instances)) => {
                own_address::resolve(&mut instances, &settings.client.server).await;
                presence.replace(instances).await;
                log::info!("read the instances again");
            }
            Ok(None) => {}
            Err(reason) => log::error!("kept the instances as they were: {reason}"),
        }
        called.notify_one();
    };
    // The first never ends.
    let ended = tokio::select! {
        () = live => None,
        code = command.ended() => Some(code),
        () = signals.reload_until_stop(reload) => None,
    };
    let drain = if has_command && ended.is_none() {
        *settings.drain_delay
    } else {
        Duration::ZERO
    };
    // Begins before the command is stopped, and early enough for clients to stop using it.
    let mut left = pin!(maybe_done(presence.end(settings.deregister)));
    let ended = match ended {
        Some(code) => Some(code),
        None => {
            let drained = async {
                let leave = timeout(drain.max(LEAVE), left.as_mut());
                tokio::join!(leave, sleep(drain))
            };
            tokio::select! {
                _ = drained => None,
                () = signals.stop() => None,
                code = command.ended() => Some(code),
            }
        }
    };
    let stop = async {
        match ended {
            Some(code) => code,
            None => command.stop(*settings.stop_timeout).await,
        }
    };
    // A signal that skips the drain delay does not skip leaving.
    let (code, left) = tokio::join!(stop, timeout(LEAVE, left));
    if left.is_err() {
        log::warn!(
            "the registry did not answer in time; it marks the instances offline one TTL later"
        );
    }
    Ok(code)
}
