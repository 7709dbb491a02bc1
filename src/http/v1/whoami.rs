//! `/v1/whoami`: the caller, as the daemon knows it.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::access::Caller;
use crate::http::openapi::responses::AuthErrors;

/// The caller of a request.
#[derive(Serialize, ToSchema)]
#[schema(as = WhoAmI)]
pub(in crate::http) struct WhoAmIResponse<'a> {
    /// The name of the token.
    name: &'a str,
    #[schema(value_type = String, pattern = "^(read|agent|admin)$")]
    role: &'static str,
    /// The scopes to which the token is limited, such as `services/orders*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    scope: Option<String>,
    /// The request has no token, or the daemon requires none.
    anonymous: bool,
}

/// Returns the name, the role and the scopes of the caller's token.
#[utoipa::path(
    get, path = "/v1/whoami", operation_id = "whoami", tag = "daemon",
    responses((status = 200, description = "the caller", body = WhoAmIResponse<'_>), AuthErrors)
)]
pub(in crate::http) async fn show(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    HttpResponse::Ok().json(WhoAmIResponse {
        name: caller.name(),
        role: caller.role().as_str(),
        scope: caller.limit().map(ToString::to_string),
        anonymous: caller.is_anonymous(&api),
    })
}
