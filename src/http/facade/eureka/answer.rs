//! The form of an answer: JSON or XML, compressed or not.

use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, VARY,
};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

use crate::directory::Coding;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Json,
    Xml,
}

impl Format {
    /// Returns the form that a client accepts: JSON only if it names that.
    pub(super) fn of(request: &HttpRequest) -> Self {
        match contains(request.headers(), &ACCEPT, "json") {
            true => Self::Json,
            false => Self::Xml,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "application/xml",
        }
    }

    /// Returns the name of the body of a snapshot that has its instances in this form.
    pub(super) fn fragment(self) -> &'static str {
        match self {
            Self::Json => "eureka.json",
            Self::Xml => "eureka.xml",
        }
    }
}

fn contains(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name);
    values.any(|value| value.to_str().is_ok_and(|value| value.contains(word)))
}

/// Answers with a body.
pub(super) fn respond(format: Format, body: Bytes, gzip: bool) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer
        .content_type(format.media_type())
        .insert_header((VARY, "Accept, Accept-Encoding"));
    // A body that was not worth it is not compressed.
    if gzip && body.starts_with(&[0x1f, 0x8b]) {
        answer.insert_header((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
    }
    answer.body(body)
}

pub(super) fn accepts_gzip(request: &HttpRequest) -> bool {
    contains(request.headers(), &ACCEPT_ENCODING, "gzip")
}

/// Compresses a body where that is accepted and worth it.
pub(super) fn compressed(body: Vec<u8>, gzip: bool) -> Bytes {
    let compressed = gzip.then(|| Coding::Gzip.compress(&body)).flatten();
    compressed.unwrap_or(body).into()
}
