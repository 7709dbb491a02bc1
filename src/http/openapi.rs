//! The API document, OpenAPI 3.1, generated from the handlers, and the page that shows it. Both
//! load nothing from other hosts.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use actix_web::{HttpResponse, web};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Response, ResponseBuilder, ResponsesBuilder};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::Code;
use super::error::{Document, PROBLEM_JSON, Problem};
use super::{
    console, events, gateway_center, heartbeats, instances, leases, ops, overview, schema, scopes,
    targets,
};

/// Allows only scripts and images from the daemon.
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

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
        instances::list,
        instances::show,
        instances::register,
        instances::change,
        instances::deregister,
        leases::list,
        heartbeats::send,
        heartbeats::send_batch,
        events::stream,
        overview::show,
        overview::release,
        targets::list,
        gateway_center::create,
        gateway_center::keep_gateway_alive,
        gateway_center::register,
        gateway_center::keep_server_alive,
        gateway_center::offline,
        ops::metrics,
        ops::livez,
        ops::readyz,
        console::index,
        console::part,
        show,
        page,
        index,
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
static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| ApiDocument::openapi().to_json().unwrap_or_default());

/// The path of a scope.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the parameters of ScopePath")]
pub(super) struct ScopePathParams {
    /// `groups` or `services`.
    #[param(pattern = "^(groups|services)$", example = "services")]
    kind: String,
    /// The key of the group or service.
    #[param(schema_with = schema::scope_key)]
    key: String,
}

/// The path of an instance.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the parameters of InstancePath")]
pub(super) struct InstancePathParams {
    /// `groups` or `services`.
    #[param(pattern = "^(groups|services)$", example = "services")]
    kind: String,
    /// The key of the group or service.
    #[param(schema_with = schema::scope_key)]
    key: String,
    /// `host:port`.
    #[param(schema_with = schema::address)]
    address: String,
}

/// Declares groups of error responses with problem documents.
macro_rules! error_responses {
    ($($(#[$doc:meta])* $name:ident: $($status:literal $why:literal),+;)+) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                error_responses(&[$(($status, $why)),+])
            }
        }
    )+};
}

error_responses! {
    /// The responses of the guard on every route with a role.
    AuthErrors:
        401 "no valid token",
        403 "the role or scope of the token does not permit the request",
        503 "too many requests are in flight, or a backend is unavailable: retry after `Retry-After`";
    /// An invalid path or query.
    BadRequest: 400 "the request is invalid; `field` names the field";
    /// An unknown scope or instance.
    NotFound: 404 "no such scope or instance, or unknown path";
    /// An invalid body.
    BodyErrors:
        400 "the request is invalid; `field` names the field",
        408 "the body did not arrive in time",
        413 "the body or the batch is too large",
        415 "the body is not `application/json` in UTF-8";
    /// A change whose outcome may be unknown.
    OutcomeErrors:
        500 "a backend refused the request; see the daemon's log",
        504 "the change may or may not have happened: send the request again";
}

fn error_responses(all: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let mut responses = ResponsesBuilder::new();
    for (status, why) in all {
        let reference = utoipa::openapi::Ref::from_schema_name("Problem");
        let content = Content::builder().schema(Some(reference)).build();
        let response = ResponseBuilder::new()
            .description(*why)
            .content(PROBLEM_JSON, content);
        responses = responses.response(status.to_string(), response);
    }
    responses.build().responses.into_iter().collect()
}

/// Returns the document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "api_document", tag = "daemon", security(()),
    responses((status = 200, description = "this document", body = serde_json::Value))
)]
pub(super) async fn show() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(DOCUMENT.as_str())
}

/// Redirects to the page.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "daemon", security(()),
    responses((status = 308, description = "the page is at `/docs/`"))
)]
pub(super) async fn index() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, "/docs/"))
        .finish()
}

/// Returns the page and its parts.
#[utoipa::path(
    get, path = "/docs/{file}", operation_id = "docs_file", tag = "daemon", security(()),
    params(("file" = String, Path, description = "empty for the page itself")),
    responses(
        (status = 200, description = "the page or one of its parts", body = String, content_type = "*/*"),
        NotFound,
    )
)]
pub(super) async fn page(file: web::Path<String>) -> Result<HttpResponse, Problem> {
    let config = Arc::new(Config::from("/openapi.json"));
    match utoipa_swagger_ui::serve(&file, config) {
        Ok(Some(file)) => Ok(HttpResponse::Ok()
            .insert_header((CONTENT_SECURITY_POLICY, PAGE_POLICY))
            .content_type(file.content_type)
            .body(file.bytes.into_owned())),
        _ => Err(Problem::new(
            Code::RouteNotFound,
            "no such part of the page at /docs/",
        )),
    }
}
