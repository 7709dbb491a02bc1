//! The dialects of the endpoints: how errors are written, and where requests have their tokens.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::Problem;
use crate::model::Protocol;

/// The dialect of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Rollcall's own API: problem documents.
    Native,
    /// The API of the original gateway center: its envelope, with status 200.
    GatewayCenter,
    /// The protocol of another registry: plain text.
    Protocol(Protocol),
}

/// The challenge for clients that know only Basic authentication.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"rollcall\"");

/// The text of a success of the original's API.
pub(super) const SUCCESS: &str = "success";

/// The response of the original.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope<'a, T> {
    /// 1 is success.
    pub(super) code: u8,
    pub(super) msg: &'a str,
    pub(super) data: Option<T>,
}

impl Dialect {
    /// Returns the dialect of a path that is not served.
    pub(super) fn of_unknown(path: &str) -> Self {
        const CONSUL: [&str; 10] = [
            "acl", "agent", "catalog", "connect", "event", "health", "kv", "query", "session",
            "txn",
        ];

        let mut segments = path.split('/').skip(1);
        match (segments.next(), segments.next()) {
            (Some(first), _) if first.starts_with("gateway-") => Self::GatewayCenter,
            (Some("eureka"), _) => Self::Protocol(Protocol::Eureka),
            (Some("nacos"), _) => Self::Protocol(Protocol::Nacos),
            (Some("v1"), Some(second)) if CONSUL.contains(&second) => {
                Self::Protocol(Protocol::Consul)
            }
            _ => Self::Native,
        }
    }

    /// Returns the response to a request that was refused before its handler.
    pub(super) fn refusal(self, problem: &Problem) -> HttpResponse {
        match self {
            Self::Native => problem.error_response(),
            Self::GatewayCenter => HttpResponse::Ok().json(Envelope::<()> {
                code: 0,
                msg: &problem.to_string(),
                data: None,
            }),
            Self::Protocol(protocol) => {
                if problem.status_code() != StatusCode::UNAUTHORIZED {
                    return text(problem);
                }
                match protocol {
                    Protocol::Eureka => {
                        let hint =
                            "a token is required: send it as the password of Basic authentication";
                        let mut answer = plain(StatusCode::UNAUTHORIZED, hint);
                        answer.headers_mut().insert(WWW_AUTHENTICATE, BASIC);
                        answer
                    }
                    // Their servers answer 403, which their clients look for.
                    Protocol::Consul => {
                        let hint = "Permission denied: a token is required, as X-Consul-Token";
                        plain(StatusCode::FORBIDDEN, hint)
                    }
                    Protocol::Nacos => {
                        let hint = "a token is required: log in with it as the password";
                        plain(StatusCode::FORBIDDEN, hint)
                    }
                }
            }
        }
    }

    /// Returns the token that a request has elsewhere than in `Authorization`.
    pub(super) fn token(self, request: &HttpRequest) -> Option<Cow<'_, str>> {
        let Self::Protocol(protocol) = self else {
            return None;
        };
        let names: &[&str] = match protocol {
            Protocol::Eureka => return None,
            Protocol::Consul => {
                if let Some(header) = request.headers().get("x-consul-token") {
                    return header.to_str().ok().map(Cow::Borrowed);
                }
                &["token"]
            }
            Protocol::Nacos => &["accessToken", "password"],
        };
        let mut tokens = names.iter().filter_map(|name| parameter(request, name));
        tokens.find(|token| !token.is_empty())
    }
}

/// Returns the value of the first parameter of a query with this name, decoding nothing else.
pub(super) fn parameter<'a>(request: &'a HttpRequest, name: &str) -> Option<Cow<'a, str>> {
    let mut segments = request.query_string().split('&');
    let segment = segments.find(|segment| {
        let rest = segment.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    let (_, value) = form_urlencoded::parse(segment.as_bytes()).next()?;
    Some(value)
}

/// Returns an answer in plain text.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/plain; charset=utf-8")
        .body(text.into())
}

/// Returns a problem as plain text, with the status and the headers of the problem document.
pub(super) fn text(problem: &Problem) -> HttpResponse {
    let (head, _) = problem.error_response().into_parts();
    let mut answer = head.set_body(problem.to_string()).map_into_boxed_body();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_parameter_is_the_first_one_with_exactly_this_name() {
        let request =
            TestRequest::with_uri("/?tokens=a&token&to=b&token=c%20d+e&dc=").to_http_request();
        let found = |name| parameter(&request, name);
        assert_eq!(found("token").as_deref(), Some(""));
        assert_eq!(found("to").as_deref(), Some("b"));
        assert_eq!(found("dc").as_deref(), Some(""));
        assert_eq!(found("d"), None);
        let request = TestRequest::with_uri("/?a=%2Fx+y%3D").to_http_request();
        assert_eq!(parameter(&request, "a").as_deref(), Some("/x y="));
    }
}
