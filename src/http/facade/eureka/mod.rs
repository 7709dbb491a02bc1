//! The REST operations of Netflix Eureka, in JSON and XML.
//!
//! An application is a service, and its name is the key of the service in upper case. An instance is
//! known by its ID, which stands in its reserved entry; for an instance that no Eureka client
//! registered it is `host:service:port`.

mod answer;
mod delta;
mod info;
mod lists;
mod registration;
mod xml;

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded;

pub(super) use self::delta::DELTA_TIME;
use self::info::{Entry, OVERRIDE_REASON, app_name, instance_id, known_status};
pub(super) use self::lists::EurekaList;
use super::{
    Answer, AnyBody, Refusal, find_computed, keep_other_entries, parameter, published, variables,
};
use crate::directory::{InstanceEntry, ScopeSnapshot};
use crate::http::access::Caller;
use crate::http::problem::InField;
use crate::http::{Api, Code, Problem};
use crate::model::{Field, Hold, Metadata, Note, Protocol, Registration, ScopeKind, StatusChange};

/// An application in a path.
#[derive(Deserialize)]
struct AppPath {
    app: String,
}

/// An instance in a path.
#[derive(Deserialize)]
struct InstancePath<'a> {
    app: Cow<'a, str>,
    id: Cow<'a, str>,
}

impl<'a> InstancePath<'a> {
    fn of(request: &'a HttpRequest) -> Result<Self, Problem> {
        let path = request.match_info();
        // Most paths need no decoding, so their parts can be borrowed.
        if !path.as_str().contains('%') {
            let part = |name| Cow::Borrowed(path.query(name));
            return Ok(Self {
                app: part("app"),
                id: part("id"),
            });
        }
        variables::<InstancePath<'static>>(request)
    }
}

/// An ID in a path.
#[derive(Deserialize)]
struct IdPath {
    id: String,
}

/// Registers an instance, which is then up.
pub(in crate::http) async fn register(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    AnyBody(body): AnyBody,
) -> Answer {
    let AppPath { app } = variables(&request)?;
    let body = tree(&request, &body)?;
    let mut registration = registration::parse(&app, &body, caller.registrant())?;
    caller.check(&registration.key.scope)?;
    keep_other_entries(&api, &mut registration, Protocol::Eureka);
    let registered = published::register_online(&api, registration).await?;
    let key = &registered.instance.key;
    // An ID is one instance: under another address it was the one before.
    let id = instance_id(&registered.instance, &Entry::of(&registered.instance));
    for before in api.directory.find_by_id(Protocol::Eureka, &id) {
        let before = &before.instance.key;
        if before.scope == key.scope && before.address != key.address {
            published::leave(&api, &caller, before).await?;
        }
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Reads a body in JSON or XML.
fn tree(request: &HttpRequest, body: &[u8]) -> Result<Value, Problem> {
    let media_type = request.headers().get(CONTENT_TYPE);
    let is_xml = media_type.is_some_and(|value| value.to_str().is_ok_and(|it| it.contains("xml")));
    if is_xml {
        return xml::read(body).map_err(|reason| Problem::invalid("body", reason));
    }
    serde_json::from_slice(body).map_err(|error| {
        let reason = format!("the body is not JSON: {error}");
        Problem::new(Code::InvalidJson, reason)
    })
}

/// Renews a lease. An unknown instance is answered 404, and then registers.
pub(in crate::http) async fn renew(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    let dirty = parameter(&request, "lastDirtyTimestamp");
    // The client has changed, and is to register that.
    if dirty.is_some_and(|dirty| Entry::is_earlier(&listed.instance, &dirty)) {
        return Err(unknown(&listed.instance.key.to_string()));
    }
    match published::renew(&api, &listed).await? {
        true => Ok(HttpResponse::Ok().finish()),
        false => Err(unknown(&listed.instance.key.to_string())),
    }
}

/// Lets an instance leave.
pub(in crate::http) async fn cancel(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    let key = &listed.instance.key;
    match published::leave(&api, &caller, key).await? {
        true => Ok(HttpResponse::Ok().finish()),
        false => Err(unknown(&key.to_string())),
    }
}

/// Overrides the status: UP enables the instance, and any other one holds it.
pub(in crate::http) async fn set_status(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    let value = parameter(&request, "value").unwrap_or_default();
    let status = known_status(&value);
    if !status.eq_ignore_ascii_case(value.trim()) {
        let reason = "must be a status such as OUT_OF_SERVICE";
        return Err(Problem::invalid("value", reason).into());
    }
    let change = match status {
        "UP" => StatusChange::Enable,
        value => StatusChange::Hold(Hold {
            until: None,
            by: caller.name().to_owned(),
            reason: Some(Note::try_from(format!("{OVERRIDE_REASON}{value}")).in_field("value")?),
        }),
    };
    change_status(&api, &caller, &listed, change).await
}

/// Ends the override of the status.
pub(in crate::http) async fn delete_status(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    change_status(&api, &caller, &listed, StatusChange::Enable).await
}

async fn change_status(
    api: &Api,
    caller: &Caller,
    listed: &InstanceEntry,
    change: StatusChange,
) -> Answer {
    let key = &listed.instance.key;
    match published::set_own_status(api, caller, key, change).await? {
        true => Ok(HttpResponse::Ok().finish()),
        false => Err(unknown(&key.to_string())),
    }
}

/// Adds metadata of the query to those that the instance registered.
pub(in crate::http) async fn add_metadata(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    let instance = &listed.instance;
    let known = instance.given_metadata.iter();
    let given = form_urlencoded::parse(request.query_string().as_bytes());
    let given = given.map(|(name, text)| (name.into_owned(), text.into_owned()));
    let all = known.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let metadata = Metadata::try_from(
        all.chain(given)
            .collect::<std::collections::BTreeMap<_, _>>(),
    );
    let entry = instance.given_metadata.of_protocol(Protocol::Eureka);
    let metadata = metadata
        .and_then(|metadata| metadata.with_protocol(Protocol::Eureka, entry.map(str::to_owned)));
    let mut registration = Registration {
        metadata: Field::Given(metadata.in_field("metadata")?),
        by: Some(caller.registrant()),
        ..Registration::unchanged(instance)
    };
    keep_other_entries(&api, &mut registration, Protocol::Eureka);
    published::register(&api, registration).await?;
    Ok(HttpResponse::Ok().finish())
}

/// Lists all applications.
pub(in crate::http) async fn list(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    Ok(lists::everything(&request, &api, &caller).await)
}

/// Lists the instances that changed lately.
pub(in crate::http) async fn delta(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    match caller.check_unlimited() {
        Ok(()) => Ok(delta::answer(&request, &api).await),
        // All that it may see: its numbers are always right.
        Err(_) => Ok(lists::everything(&request, &api, &caller).await),
    }
}

/// Shows an application.
pub(in crate::http) async fn show_application(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let AppPath { app } = variables(&request)?;
    let app = app_name(&app);
    let mut scopes = api.directory.scopes(ScopeKind::Service);
    scopes.retain(|view| lists::name_of(view).is_some_and(|name| name == app));
    for view in &scopes {
        check(&caller, view)?;
    }
    lists::application(&request, &app, &scopes, api.default_ttl)
        .ok_or_else(|| unknown(&format!("the application {app}")))
}

fn check(caller: &Caller, view: &ScopeSnapshot) -> Result<(), Problem> {
    match &view.record {
        Some(record) => caller.check(&record.scope),
        None => Ok(()),
    }
}

/// Shows an instance of an application.
pub(in crate::http) async fn show_instance(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let listed = named(&request, &api, &caller).await?;
    Ok(lists::instance(&request, &listed, api.default_ttl))
}

/// Shows the instance with an ID.
pub(in crate::http) async fn show_by_id(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let IdPath { id } = variables(&request)?;
    let listed = find(&api, None, &id).ok_or_else(|| unknown(&id))?;
    caller.check(&listed.instance.key.scope)?;
    Ok(lists::instance(&request, &listed, api.default_ttl))
}

/// Lists the instances with a virtual address.
pub(in crate::http) async fn by_vip(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let IdPath { id: vip } = variables(&request)?;
    of_address(&request, &api, &caller, &vip, |entry| entry.vip)
}

/// Lists the instances with a secure virtual address.
pub(in crate::http) async fn by_secure_vip(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Answer {
    let IdPath { id: vip } = variables(&request)?;
    of_address(&request, &api, &caller, &vip, |entry| entry.secure_vip)
}

fn of_address(
    request: &HttpRequest,
    api: &Api,
    caller: &Caller,
    address: &str,
    of: impl Fn(Entry) -> Option<String>,
) -> Answer {
    let mut found = Vec::new();
    for view in api.directory.scopes(ScopeKind::Service) {
        for listed in view
            .entries()
            .filter(|listed| listed.instance.presence.online)
        {
            let scope = &listed.instance.key.scope;
            let vip = of(Entry::of(&listed.instance));
            // Several addresses may be given, separated by commas.
            let is_one = match &vip {
                Some(vip) => vip.split(',').any(|one| one.trim() == address),
                None => scope.key.as_str() == address,
            };
            if is_one {
                caller.check(scope)?;
                found.push(Arc::clone(listed));
            }
        }
    }
    match found.is_empty() {
        true => Err(unknown(&format!("the virtual address {address}"))),
        false => Ok(lists::of_instances(request, api, &found)),
    }
}

/// Refuses the replication between servers of Eureka: replicas of Rollcall share their stores.
pub(in crate::http) async fn peers() -> Answer {
    Err(Problem::new(
        Code::RouteNotFound,
        "replicas share their stores, so there is no replication between peers",
    )
    .into())
}

/// Returns the instance that a path names.
async fn named(
    request: &HttpRequest,
    api: &Api,
    caller: &Caller,
) -> Result<Arc<InstanceEntry>, Refusal> {
    let InstancePath { app, id } = InstancePath::of(request)?;
    let mut listed = find(api, Some(&app), &id);
    if listed.is_none() {
        api.indexes.catch_up().await;
        listed = find(api, Some(&app), &id);
    }
    let listed = listed.ok_or_else(|| unknown(&format!("{app}/{id}")))?;
    caller.check(&listed.instance.key.scope)?;
    Ok(listed)
}

/// Finds an instance by its ID: the registered one, or the one that is made from its key.
fn find(api: &Api, app: Option<&str>, id: &str) -> Option<Arc<InstanceEntry>> {
    let is_of_app = |listed: &Arc<InstanceEntry>| match app {
        None => true,
        Some(app) => {
            let key = listed.instance.key.scope.key.as_str();
            // Only a key that is not made from the name of the application has it in its entry.
            key.eq_ignore_ascii_case(app)
                || Entry::of(&listed.instance)
                    .app
                    .is_some_and(|known| known == app_name(app))
        }
    };
    let mut known = api.directory.find_by_id(Protocol::Eureka, id).into_iter();
    if let Some(listed) = known.find(is_of_app) {
        return Some(listed);
    }
    let listed = find_computed(&api.directory, id).filter(is_of_app)?;
    let has_own_id = !Entry::of(&listed.instance).ids.is_empty();
    (!has_own_id).then_some(listed)
}

fn unknown(name: &str) -> Refusal {
    let detail = format!("{name} is not registered");
    Problem::new(Code::InstanceNotFound, detail).into()
}
