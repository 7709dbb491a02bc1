//! The operations on instances that the endpoints of all protocols share: register, renew or end a
//! lease, leave, change.

use std::sync::Arc;

use super::access::Caller;
use super::{Api, Code, Problem};
use crate::actor::{
    ChangeInstance, DeleteScope, HeartbeatOutcome, HideLease, LeaveInstance, Left,
    RecordHeartbeats, RegisterInstance, Requested, Revoke, TakeOffline, Write, WriteError,
};
use crate::auth::Role;
use crate::directory::{HeartbeatInfo, InstanceEntry};
use crate::model::{
    Address, Instance, InstanceChange, InstanceKey, Protocol, Registration, Scope, ScopeKind,
    Status, StatusChange,
};
use crate::store::{Registered, ScopeDeletion};

/// Returns the instances that clients of a protocol name by an ID. An unknown one may have been
/// registered at another replica a moment ago.
pub(super) async fn find_by_id(api: &Api, protocol: Protocol, id: &str) -> Vec<Arc<InstanceEntry>> {
    let known = api.directory.find_by_id(protocol, id);
    if !known.is_empty() {
        return known;
    }
    api.indexes.catch_up().await;
    api.directory.find_by_id(protocol, id)
}

/// Checks that clients can reach an address.
pub(super) fn check_address(address: &Address) -> Result<(), Problem> {
    if address.is_unspecified() {
        let reason = "must be an address that clients can reach, not all addresses of a machine";
        return Err(Problem::invalid("address", reason));
    }
    Ok(())
}

/// Registers an instance.
pub(super) async fn register(api: &Api, registration: Registration) -> Result<Registered, Problem> {
    check_address(&registration.key.address)?;
    let scope = registration.key.scope.clone();
    let registered = api.registry.write(RegisterInstance(registration)).await?;
    registered.ok_or_else(|| Problem::scope_not_found(&scope))
}

/// Registers an instance, and begins or renews its lease. For clients that send no heartbeat right
/// after they registered.
pub(super) async fn register_online(
    api: &Api,
    registration: Registration,
) -> Result<Registered, Problem> {
    let registered = register(api, registration).await?;
    let key = registered.instance.key.clone();
    renew(api, vec![(key, None)]).await?;
    Ok(registered)
}

/// Renews leases, and returns the outcomes in the same order. The information about an instance may
/// be given if it is known.
pub(super) async fn renew(
    api: &Api,
    mut instances: Vec<(InstanceKey, Option<HeartbeatInfo>)>,
) -> Result<Vec<HeartbeatOutcome>, Problem> {
    if let Err(error) = api.directory.resolve(&mut instances).await {
        let heartbeats = &api.metrics.heartbeats;
        heartbeats.rejected.inc_by(instances.len() as u64);
        return Err(error.into());
    }
    let outcomes = api.heartbeat.ask_with(|reply| RecordHeartbeats {
        instances,
        must_be_registered: true,
        reply,
    });
    let outcomes = outcomes
        .await
        .inspect_err(|_| api.protection.heartbeat_rejected());
    Ok(outcomes??)
}

/// Marks an instance offline because it ends, and revokes its lease. Its registration is removed,
/// unless an operator's decision is attached to it. Returns whether it was registered.
pub(super) async fn leave(api: &Api, caller: &Caller, key: &InstanceKey) -> Result<bool, Problem> {
    let left = write(api, caller, LeaveInstance { key: key.clone() }).await;
    Ok(match then_revoke(api, key, left).await? {
        Left::Removed(_) | Left::WentOffline(_) | Left::WasOffline => true,
        Left::Unknown => false,
    })
}

/// Marks an instance offline because it is not able to serve, and revokes its lease. It stays
/// registered. Returns whether it is.
pub(super) async fn end_lease(
    api: &Api,
    caller: &Caller,
    key: &InstanceKey,
) -> Result<bool, Problem> {
    if api.directory.instance(key).await?.is_none() {
        return Ok(false);
    }
    let ended = write(api, caller, TakeOffline { key: key.clone() }).await;
    then_revoke(api, key, ended).await?;
    Ok(true)
}

/// Revokes the lease of an instance whose end was written, and returns the result of the write.
///
/// The lease is revoked last: a heartbeat that creates a lease checks for the instance afterwards,
/// so either it finds that the instance ended, or the lease is revoked here. The lease is also
/// revoked if the result of the write is unknown or there was no instance.
pub(super) async fn then_revoke<T>(
    api: &Api,
    key: &InstanceKey,
    written: Result<T, WriteError>,
) -> Result<T, Problem> {
    let keys = vec![key.clone()];
    let revoked = api.heartbeat.ask(Revoke { keys }).await;
    let written = written?;
    revoked??;
    Ok(written)
}

/// Sends a write for a caller. If it is an operator, the write is recorded as its action.
pub(super) async fn write<W: Write>(
    api: &Api,
    caller: &Caller,
    write: W,
) -> Result<W::Output, WriteError> {
    let message = Requested {
        by: caller.registrant(),
        is_operator: caller.has_role(Role::Admin),
        write,
    };
    api.registry.write(message).await
}

/// Changes an instance for a caller, and returns it; `None` if it is not registered.
pub(super) async fn change(
    api: &Api,
    caller: &Caller,
    key: &InstanceKey,
    change: InstanceChange,
) -> Result<Option<Instance>, Problem> {
    let changed = change.describe();
    let key = key.clone();
    let instance = write(api, caller, ChangeInstance { key, change }).await?;
    if let Some(instance) = &instance {
        show_status(api, instance).await;
        caller.log_action(api, format_args!("changed {}: {changed}", instance.key));
    }
    Ok(instance)
}

/// Changes the status of an instance for its own application, whose token may have the role agent:
/// then it ends only a hold that the application itself asked for. Returns whether the instance is
/// registered.
pub(super) async fn set_own_status(
    api: &Api,
    caller: &Caller,
    key: &InstanceKey,
    status: StatusChange,
) -> Result<bool, Problem> {
    let own = !caller.has_role(Role::Admin);
    let wanted = InstanceChange {
        status: Some(status),
        only_own_hold: own.then(|| caller.name().to_owned()),
        ..InstanceChange::default()
    };
    if change(api, caller, key, wanted).await?.is_some() {
        return Ok(true);
    }
    match api.directory.instance(key).await? {
        Some(listed) if listed.instance.status == Status::Held => {
            Err(Problem::decided(&listed.instance))
        }
        Some(_) => Err(Problem::new(
            Code::WriteConflict,
            "another one held the instance a moment ago; retry later",
        )),
        None => Ok(false),
    }
}

/// Removes a group or service without instances for an operator.
pub(super) async fn remove_scope(api: &Api, caller: &Caller, scope: &Scope) -> Result<(), Problem> {
    let message = DeleteScope {
        scope: scope.clone(),
    };
    match write(api, caller, message).await? {
        ScopeDeletion::Deleted(_) => {
            caller.log_action(api, format_args!("removed {scope}"));
            Ok(())
        }
        ScopeDeletion::Unknown => Err(Problem::scope_not_found(scope)),
        ScopeDeletion::HasInstances => Err(Problem::new(
            Code::ScopeNotEmpty,
            format!("the scope has instances: deregister those of /v1/{scope}/instances first"),
        )),
    }
}

/// Hides the lease of an instance that is not enabled, so that the original's gateways stop sending
/// traffic to it, and asks them to refresh.
pub(super) async fn show_status(api: &Api, instance: &Instance) {
    let key = instance.key.clone();
    let is_service = key.scope.kind == ScopeKind::Service;
    let is_hidden = instance.status != Status::Enabled;
    match api.heartbeat.ask(HideLease { key, is_hidden }).await {
        Ok(Ok(true)) if is_service => api.registry.announce_services().await,
        Ok(Ok(_)) => {}
        // The next heartbeat does it.
        Ok(Err(error)) => log::debug!("cannot hide or show a lease: {error}"),
        Err(error) => log::debug!("cannot hide or show a lease: {error}"),
    }
}
