//! Changes that every replica can read before they are answered. Clients of other registries may use
//! another server for each request, and expect to find their changes there.
//!
//! The answer to a change waits until this replica reads its event from the event log. Other requests
//! first apply the events that the log has ([`ScopeIndexes::catch_up`]).
//!
//! [`ScopeIndexes::catch_up`]: crate::replication::ScopeIndexes::catch_up

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::actor::HeartbeatOutcome;
use crate::directory::InstanceEntry;
use crate::http::access::Caller;
use crate::http::{Api, Problem, presence};
use crate::model::{InstanceKey, Registration, Scope, StatusChange};
use crate::store::Registered;

/// The longest wait: while the event log is unavailable, the change is answered without it.
const LONGEST: Duration = Duration::from_millis(100);

/// Makes a change of a scope.
async fn published<T>(
    api: &Api,
    scope: &Scope,
    change: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let index = api.indexes.index(Some(scope));
    let before = api.directory.scope(scope);
    let done = change.await?;
    let after = api.directory.scope(scope);
    let is_same = match (&before, &after) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (before, after) => before.is_none() && after.is_none(),
    };
    if !is_same {
        let deadline = Instant::now() + LONGEST;
        api.indexes.after(Some(scope), index, deadline).await;
    }
    Ok(done)
}

/// Does [`presence::register`].
pub(super) async fn register(api: &Api, registration: Registration) -> Result<Registered, Problem> {
    let scope = registration.key.scope.clone();
    published(api, &scope, presence::register(api, registration)).await
}

/// Does [`presence::register_online`].
pub(super) async fn register_online(
    api: &Api,
    registration: Registration,
) -> Result<Registered, Problem> {
    let scope = registration.key.scope.clone();
    published(api, &scope, presence::register_online(api, registration)).await
}

/// Renews the lease of an instance. Returns whether it is still registered.
pub(super) async fn renew(api: &Api, listed: &InstanceEntry) -> Result<bool, Problem> {
    let key = &listed.instance.key;
    let renew = presence::renew(api, vec![(key.clone(), Some(listed.into()))]);
    // Only a lease that begins is a change.
    let outcomes = match listed.instance.presence.online {
        true => renew.await?,
        false => published(api, &key.scope, renew).await?,
    };
    Ok(!matches!(
        outcomes.first(),
        None | Some(HeartbeatOutcome::Unknown)
    ))
}

/// Does [`presence::leave`].
pub(super) async fn leave(api: &Api, caller: &Caller, key: &InstanceKey) -> Result<bool, Problem> {
    published(api, &key.scope, presence::leave(api, caller, key)).await
}

/// Does [`presence::end_lease`].
pub(super) async fn end_lease(
    api: &Api,
    caller: &Caller,
    key: &InstanceKey,
) -> Result<bool, Problem> {
    published(api, &key.scope, presence::end_lease(api, caller, key)).await
}

/// Does [`presence::set_own_status`].
pub(super) async fn set_own_status(
    api: &Api,
    caller: &Caller,
    key: &InstanceKey,
    status: StatusChange,
) -> Result<bool, Problem> {
    let change = presence::set_own_status(api, caller, key, status);
    published(api, &key.scope, change).await
}
