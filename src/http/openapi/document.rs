//! The API document, OpenAPI 3.1, generated from the handlers.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::page;
use crate::directory::Body;
use crate::http::problem::Document;
use crate::http::v1::{
    actions, attention, bulk, counts, events, heartbeats, history, instance_list, instances,
    leases, overview, registrations, replicas, scopes, search, targets, whoami,
};
use crate::http::{compression, console, gateway_center, ops};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rollcall",
        description = "Gateways and services register and send heartbeats; clients ask which instances are online. Errors are problem documents (RFC 9457) with a stable `code`; after 503 retry as `Retry-After` says. Every request may be repeated, also after 504.",
    ),
    paths(
        scopes::list,
        scopes::show,
        scopes::declare,
        scopes::remove,
        instance_list::list,
        search::list,
        bulk::change,
        instances::show,
        instances::register,
        instances::change,
        instances::deregister,
        instances::leave,
        instances::end_lease,
        leases::list,
        heartbeats::send,
        heartbeats::send_batch,
        registrations::register,
        events::stream,
        overview::show,
        overview::release,
        replicas::list,
        attention::show,
        counts::show,
        history::list,
        actions::list,
        targets::list,
        whoami::show,
        gateway_center::create,
        gateway_center::keep_gateway_alive,
        gateway_center::register,
        gateway_center::keep_server_alive,
        gateway_center::offline,
        ops::metrics,
        ops::scope_metrics,
        ops::livez,
        ops::readyz,
        console::index,
        console::part,
        document,
        page::page,
        page::redirect,
    ),
    components(schemas(Document<'_>)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct ApiDocument;

/// How clients authenticate.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// The serialised document.
static DOCUMENT: LazyLock<Body> =
    LazyLock::new(|| Body::new(ApiDocument::openapi().to_json().unwrap_or_default()));

/// Returns the document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "api_document", tag = "daemon", security(()),
    responses((status = 200, description = "this document", body = serde_json::Value))
)]
pub(in crate::http) async fn document(request: HttpRequest) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/json");
    compression::respond(answer, &DOCUMENT, compression::accepted(&request)).await
}
