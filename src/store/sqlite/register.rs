//! Registrations: a statement for each, and one for each new service.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::rows;
use crate::model::{DisplayName, Instance, InstanceId, Registration, Scope, ScopeId, ScopeKind};
use crate::store::{Registered, RegisteredMany};

/// Registers instances; `now` is in Unix milliseconds.
pub(super) fn register(
    connection: &Connection,
    registrations: &[Registration],
    now: i64,
) -> Result<RegisteredMany> {
    let at = rows::from_millis(now)?;
    let mut find_scope = connection.prepare_cached(sql!("find_scope"))?;
    let mut declare = connection.prepare_cached(sql!("declare_services"))?;
    let mut register = connection.prepare_cached(sql!("register_instances"))?;
    let mut find = connection.prepare_cached(sql!("find_instances"))?;
    let mut done = RegisteredMany::default();
    // Many registrations come service by service.
    let mut last: Option<(&Scope, ScopeId)> = None;
    for registration in registrations {
        let [kind, scope, address] = rows::key_params(&registration.key);
        let id = |row: &Row<'_>| row.get("id").map(ScopeId);
        let mut scope_id = match last {
            Some((last, id)) if *last == registration.key.scope => Some(id),
            _ => find_scope.query_row([kind, scope], id).optional()?,
        };
        if scope_id.is_none() && registration.key.scope.kind == ScopeKind::Service {
            let declared = declare.query_row(params![scope, now], rows::scope)?;
            scope_id = Some(declared.id);
            done.services.push(declared);
        }
        let Some(ScopeId(scope_id)) = scope_id else {
            done.instances.push(None);
            continue;
        };
        last = Some((&registration.key.scope, ScopeId(scope_id)));
        let resets = registration.resets();
        let last_id = connection.last_insert_rowid();
        let changes = register.execute(params![
            scope_id,
            registration.first_status().as_str(),
            address,
            registration.name.given().map(DisplayName::as_str),
            registration.weight.given().copied().map(i64::from),
            registration.metadata.given().map(rows::json).transpose()?,
            registration.ttl.given().copied().map(i64::from),
            registration.by.as_ref().map(ToString::to_string),
            now,
            resets.name,
            resets.weight,
            resets.metadata,
            resets.ttl,
            resets.keeps_status
        ])?;
        // An update leaves it as it is. If the new ID is that of the last row of another table by
        // chance, the row is read.
        let id = connection.last_insert_rowid();
        let instance = match id != last_id {
            true => Instance::first_registered(InstanceId(id), registration, at),
            false => find.query_row([kind, scope, address], rows::instance)?,
        };
        done.instances.push(Some(Registered {
            created: changes == 1 && instance.revision == 1,
            changed: changes == 1,
            instance,
        }));
    }
    Ok(done)
}
