//! Cross-origin requests of browsers: <https://fetch.spec.whatwg.org/#http-cors-protocol>.

use actix_cors::Cors;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER,
};
use actix_web::middleware::Condition;

/// The time for which a browser remembers what is allowed, in seconds.
const MAX_AGE: usize = 3600;

/// Lets pages of these origins use the API; `*` is every origin. Tokens are sent in a header by
/// the page itself, so no credentials of the browser are allowed.
pub(crate) fn cross_origin(origins: &[String]) -> Condition<Cors> {
    let cors = Cors::default()
        .allow_any_method()
        .allowed_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH])
        .allowed_header("Last-Event-ID")
        .expose_headers([ETAG, RETRY_AFTER])
        .max_age(MAX_AGE);
    let cors = origins
        .iter()
        .fold(cors, |cors, origin| match origin.as_str() {
            "*" => cors.allow_any_origin(),
            origin => cors.allowed_origin(origin),
        });
    Condition::new(!origins.is_empty(), cors)
}
