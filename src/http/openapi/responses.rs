//! The parameters and the error responses that the operations share.

use std::collections::BTreeMap;

use utoipa::openapi::{Content, RefOr, Response, ResponseBuilder, ResponsesBuilder};
use utoipa::{IntoParams, IntoResponses};

use super::schema;
use crate::http::problem::PROBLEM_JSON;

/// The path of a scope.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the parameters of ScopePath")]
pub(in crate::http) struct ScopePathParams {
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
pub(in crate::http) struct InstancePathParams {
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
        pub(in crate::http) struct $name;

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
