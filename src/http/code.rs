//! The stable codes of error responses: a closed list, each with its status and what a client
//! does about it. The API document and the table in `docs/api.md` come from this list.

use actix_web::http::StatusCode;
use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{RefOr, schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($status:ident: $($code:ident $text:literal $remedy:literal),+;)+) => {
        /// What went wrong, for programs. A code keeps its meaning and its status from version
        /// to version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the remedy of each one stands beside it")]
        pub enum Code {
            $($($code,)+)+
        }

        impl Code {
            /// All codes, by status.
            pub const ALL: &[Self] = &[$($(Self::$code,)+)+];

            /// The code in a response.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$code => $text,)+)+
                }
            }

            /// The status of every response with this code.
            pub fn status(self) -> StatusCode {
                match self {
                    $($(Self::$code)|+ => StatusCode::$status,)+
                }
            }

            /// What a client does about it.
            pub fn remedy(self) -> &'static str {
                match self {
                    $($(Self::$code => $remedy,)+)+
                }
            }
        }
    };
}

codes! {
    BAD_REQUEST:
        InvalidJson "invalid_json" "correct the JSON of the body",
        InvalidField "invalid_field" "correct the field that `field` names",
        UnknownField "unknown_field" "remove or correct the field that `field` names",
        IncompleteBody "incomplete_body" "send the whole body";
    UNAUTHORIZED:
        Unauthorized "unauthorized" "send a valid bearer token",
        ClientCertificateRequired "client_certificate_required" "connect with a client certificate";
    FORBIDDEN:
        Forbidden "forbidden" "use a token of a higher role",
        ScopeForbidden "scope_forbidden" "use a token for this scope",
        DecidedByOperator "decided_by_operator" "leave instead, which keeps the decision, or use a token of the role admin";
    NOT_FOUND:
        GroupNotFound "group_not_found" "declare the group",
        ServiceNotFound "service_not_found" "declare the service, or register its first instance",
        InstanceNotFound "instance_not_found" "register the instance",
        RouteNotFound "route_not_found" "correct the path";
    METHOD_NOT_ALLOWED:
        MethodNotAllowed "method_not_allowed" "use a method that `Allow` lists";
    REQUEST_TIMEOUT:
        BodyTimeout "body_timeout" "send the body faster";
    CONFLICT:
        ScopeNotEmpty "scope_not_empty" "deregister the instances of the scope first";
    PAYLOAD_TOO_LARGE:
        BodyTooLarge "body_too_large" "send a smaller body",
        BatchTooLarge "batch_too_large" "send several smaller batches";
    UNSUPPORTED_MEDIA_TYPE:
        UnsupportedMediaType "unsupported_media_type" "send `application/json` in UTF-8, not compressed";
    EXPECTATION_FAILED:
        ExpectationFailed "expectation_failed" "send no `Expect` header other than `100-continue`";
    INTERNAL_SERVER_ERROR:
        InternalError "internal_error" "see the daemon's log for the cause";
    SERVICE_UNAVAILABLE:
        Starting "starting" "retry after `Retry-After`: the daemon waits for its backends",
        Stopping "stopping" "retry after `Retry-After`, on another replica",
        Overloaded "overloaded" "retry after `Retry-After`",
        WriteConflict "write_conflict" "retry after `Retry-After`: nothing was changed",
        StoreUnavailable "store_unavailable" "retry after `Retry-After`: nothing was changed",
        LeasesUnavailable "leases_unavailable" "retry after `Retry-After`";
    GATEWAY_TIMEOUT:
        OutcomeUnknown "outcome_unknown" "the change may have happened: send the request again, every request may be repeated";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl ToSchema for Code {}

impl PartialSchema for Code {
    fn schema() -> RefOr<schema::Schema> {
        let codes = Self::ALL.iter().map(|code| code.as_str());
        let schema = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .description(Some(
                "What went wrong, for programs: stays the same from version to version.",
            ))
            .enum_values(Some(codes))
            .build();
        RefOr::T(Schema::Object(schema))
    }
}
