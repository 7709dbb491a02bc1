//! The console at `/`: one page for operators.
//!
//! Served from the binary. The page contains no data: it requests everything from the API like
//! any client, with a token if tokens are configured.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use actix_web::{HttpResponse, web};

use super::Code;
use super::Problem;
use super::openapi::responses::NotFound;

/// Allows only the page's own parts and the API: no inline script or style, no frame, no other
/// host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Each part as its name, its media type and its content.
const PARTS: [(&str, &str, &str); 7] = [
    ("console.css", CSS, include_str!("console.css")),
    ("console.js", JS, include_str!("console.js")),
    ("registry.js", JS, include_str!("registry.js")),
    ("elements.js", JS, include_str!("elements.js")),
    ("list.js", JS, include_str!("list.js")),
    ("words.js", JS, include_str!("words.js")),
    ("icon.svg", SVG, include_str!("icon.svg")),
];

/// Returns the page.
#[utoipa::path(
    get, path = "/", operation_id = "console", tag = "daemon", security(()),
    responses((status = 200, description = "the console", body = String, content_type = "text/html"))
)]
pub(super) async fn index() -> HttpResponse {
    served(HTML, include_str!("index.html"))
}

/// Returns a part of the page.
#[utoipa::path(
    get, path = "/console/{file}", operation_id = "console_part", tag = "daemon", security(()),
    params(("file" = String, Path, description = "the name of the file in the page")),
    responses(
        (status = 200, description = "a part of the console", body = String, content_type = "*/*"),
        NotFound,
    )
)]
pub(super) async fn part(file: web::Path<String>) -> Result<HttpResponse, Problem> {
    let part = PARTS.iter().find(|(name, ..)| *name == file.as_str());
    let missing = || Problem::new(Code::RouteNotFound, "no such part of the console");
    let (_, content_type, text) = part.ok_or_else(missing)?;
    Ok(served(content_type, text))
}

fn served(content_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("Referrer-Policy", "no-referrer"))
        // A new version of the daemon has new parts.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .content_type(content_type)
        .body(text)
}
