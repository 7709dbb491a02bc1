//! Listens for roll calls.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::presence::at_random;
use crate::client::Client;
use crate::model::Scope;

/// Between attempts to listen, and at random up to as long again: whoever cannot be told
/// beats at its own moments all the same.
const AGAIN: Duration = Duration::from_secs(5);

/// Says each time when the roll is called. Listens to what concerns one scope, so that little
/// is told besides.
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
            Err(error) => log::debug!("roll calls are not heard: {error}"),
        }
        sleep(AGAIN + at_random(AGAIN)).await;
    }
}
