//! Listens for roll calls.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::presence::at_random;
use crate::client::Client;
use crate::model::Scope;

/// The time between attempts to connect, and at random up to as long again. Heartbeats are sent
/// without roll calls as well.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Notifies `called` at each roll call. Subscribes to one scope, which keeps the stream small.
pub(super) async fn listen(client: &Client, scope: &Scope, called: &Notify) {
    let query = format!("?{}={}", scope.kind.as_str(), scope.key);
    loop {
        match client.events(&query, None).await {
            Ok(mut events) => {
                while let Ok(Some(event)) = events.next().await {
                    if event.name == "roll.call" {
                        called.notify_one();
                    }
                }
            }
            Err(error) => log::debug!("cannot listen for roll calls, retrying: {error}"),
        }
        sleep(RETRY_DELAY + at_random(RETRY_DELAY)).await;
    }
}
