//! Compressed answers: the client names the codings that it decodes in `Accept-Encoding`.

use actix_web::http::header::{
    AcceptEncoding, CONTENT_ENCODING, ETag, Encoding, EntityTag, Header, HeaderName, VARY,
};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;

use crate::directory::{Body, Coding};

/// A cache must not give a client the answer to another one with another `Accept-Encoding`.
const VARIES: (HeaderName, &str) = (VARY, "Accept-Encoding");

/// Returns the coding that a client prefers, if it accepts one.
pub(super) fn accepted(request: &HttpRequest) -> Option<Coding> {
    let accepted = AcceptEncoding::parse(request).ok()?;
    // Of those that the client likes equally, the first one.
    let known = [Encoding::zstd(), Encoding::gzip(), Encoding::identity()];
    let preferred = accepted.negotiate(known.iter())?;
    match preferred {
        coding if coding == Encoding::zstd() => Some(Coding::Zstd),
        coding if coding == Encoding::gzip() => Some(Coding::Gzip),
        _ => None,
    }
}

/// Answers with a body and its entity tag. A compressed one has a weak tag, because its bytes are
/// others: RFC 9110, section 8.8.1.
pub(super) async fn respond(
    mut answer: HttpResponseBuilder,
    body: &Body,
    coding: Option<Coding>,
) -> HttpResponse {
    let etag = body.etag().to_owned();
    answer.insert_header(VARIES);
    if let Some(coding) = coding
        && let Some(compressed) = body.compressed(coding).await
    {
        return answer
            .insert_header((CONTENT_ENCODING, coding.name()))
            .insert_header(ETag(EntityTag::new_weak(etag)))
            .body(compressed);
    }
    answer
        .insert_header(ETag(EntityTag::new_strong(etag)))
        .body(body.bytes().clone())
}

/// Answers with JSON that no other request shares.
pub(super) fn json(request: &HttpRequest, content: &impl Serialize) -> HttpResponse {
    // Serialising plain data cannot fail.
    let body = serde_json::to_vec(content).unwrap_or_default();
    let coding = accepted(request);
    let compressed = coding.and_then(|coding| Some((coding, coding.compress(&body)?)));
    let mut answer = HttpResponse::Ok();
    answer
        .content_type("application/json")
        .insert_header(VARIES);
    match compressed {
        Some((coding, compressed)) => answer
            .insert_header((CONTENT_ENCODING, coding.name()))
            .body(compressed),
        None => answer.body(body),
    }
}
