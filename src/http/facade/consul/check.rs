//! The checks of services: reported, added, removed.

use actix_web::{HttpRequest, HttpResponse, web};

use super::entry::{CheckStatus, Entry, check_id, service_id};
use super::named::{NamePath, body, named, unknown};
use super::registration::Members;
use crate::directory::InstanceEntry;
use crate::http::access::Caller;
use crate::http::facade::{Answer, AnyBody, find_computed, parameter, published, variables};
use crate::http::{Api, Problem};

/// The longest output of a check that is kept, in characters.
const OUTPUT: usize = 200;

fn done() -> HttpResponse {
    HttpResponse::Ok().finish()
}

/// Reports that a check passes.
pub(in crate::http) async fn check_pass(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Passing).await
}

/// Reports that a check warns.
pub(in crate::http) async fn check_warn(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Warning).await
}

/// Reports that a check fails.
pub(in crate::http) async fn check_fail(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    report(&request, &api, &caller, CheckStatus::Critical).await
}

async fn report(request: &HttpRequest, api: &Api, caller: &Caller, status: CheckStatus) -> Answer {
    let NamePath { name } = variables(request)?;
    let note = parameter(request, "note").unwrap_or_default();
    update(api, caller, &name, status, &note).await
}

/// Reports the status of a check.
pub(in crate::http) async fn check_update(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    given: AnyBody,
) -> Answer {
    let NamePath { name } = variables(&request)?;
    let members = Members::of(body(&given)?, "body")?;
    let status = members.status()?;
    let status = status.ok_or_else(|| Problem::invalid("Status", "is missing"))?;
    let output = members.text("output")?.unwrap_or_default();
    update(&api, &caller, &name, status, &output).await
}

/// Changes the status of a check, and renews or ends the lease. A check that goes on passing changes
/// nothing, so it costs as much as a heartbeat.
async fn update(api: &Api, caller: &Caller, id: &str, status: CheckStatus, output: &str) -> Answer {
    let listed = named(api, caller, &check_id(id)).await?;
    let listed = match listed {
        Some(listed) => listed,
        // The check of an instance that came by another protocol.
        None => {
            let service = id.strip_prefix("service:");
            let listed = service.and_then(|id| find_computed(&api.directory, id));
            listed.ok_or_else(|| unknown("check", id))?
        }
    };
    let instance = &listed.instance;
    caller.check(&instance.key.scope)?;
    let mut is_critical = status == CheckStatus::Critical;
    if let Some(mut entry) = Entry::of(instance) {
        if let Some(check) = entry.checks.iter_mut().find(|check| check.id == id)
            && check.status != status
        {
            check.status = status;
            check.output = output.chars().take(OUTPUT).filter(|c| *c != '\0').collect();
            is_critical = entry.is_critical();
            published::register(api, entry.change(instance, caller.registrant())?).await?;
        } else {
            is_critical = entry.is_critical();
        }
    }
    if !is_critical {
        published::renew(api, &listed).await?;
    } else if instance.presence.online {
        published::end_lease(api, caller, &instance.key).await?;
    }
    Ok(done())
}

/// Adds a check to a service, or replaces it.
pub(in crate::http) async fn check_register(
    api: web::Data<Api>,
    caller: Caller,
    given: AnyBody,
) -> Answer {
    let members = Members::of(body(&given)?, "body")?;
    let name = members.text("name")?;
    let name = name.ok_or_else(|| Problem::invalid("Name", "is missing"))?;
    let id = members.text("checkid")?.or(members.text("id")?);
    let service = members.text("serviceid")?.ok_or_else(|| {
        let reason = "is missing: a check belongs to a service, because a machine has none";
        Problem::invalid("ServiceID", reason)
    })?;
    let check = members.check(id.unwrap_or_else(|| name.clone()), name)?;
    let listed = named(&api, &caller, &service_id(&service)).await?;
    let listed = listed.ok_or_else(|| unknown("service", &service))?;
    let instance = &listed.instance;
    let mut entry = Entry::of(instance).unwrap_or_default();
    entry.checks.retain(|known| known.id != check.id);
    entry.checks.push(check);
    change(&api, &caller, &listed, entry).await
}

/// Removes a check.
pub(in crate::http) async fn check_deregister(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let NamePath { name: id } = variables(&request)?;
    let listed = named(&api, &caller, &check_id(&id)).await?;
    let listed = listed.ok_or_else(|| unknown("check", &id))?;
    let mut entry = Entry::of(&listed.instance).unwrap_or_default();
    entry.checks.retain(|known| known.id != id);
    change(&api, &caller, &listed, entry).await
}

/// Changes the checks of a service. It is offline exactly if one of them is critical.
async fn change(api: &Api, caller: &Caller, listed: &InstanceEntry, entry: Entry) -> Answer {
    let (instance, is_critical) = (&listed.instance, entry.is_critical());
    let registration = entry.change(instance, caller.registrant())?;
    if is_critical {
        published::register(api, registration).await?;
        published::end_lease(api, caller, &instance.key).await?;
    } else {
        published::register_online(api, registration).await?;
    }
    Ok(done())
}
