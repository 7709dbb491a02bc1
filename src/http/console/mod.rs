//! The console: one page for whoever looks at the registry in an incident, `/`.
//!
//! Served from the binary. The page holds no data: everything that it shows it asks of the
//! API as any client does, with a token where there are some.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use actix_web::{HttpResponse, web};

use super::Code;
use super::Problem;
use super::openapi::NotFound;

/// The page's own parts and the API; no inline script or style, no frame, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Each part by its name, its type, and itself.
const PARTS: [(&str, &str, &str); 7] = [
    ("console.css", CSS, include_str!("console.css")),
    ("console.js", JS, include_str!("console.js")),
    ("registry.js", JS, include_str!("registry.js")),
    ("elements.js", JS, include_str!("elements.js")),
    ("list.js", JS, include_str!("list.js")),
    ("words.js", JS, include_str!("words.js")),
    ("icon.svg", SVG, include_str!("icon.svg")),
];

/// GET: the page.
#[utoipa::path(
    get, path = "/", operation_id = "console", tag = "daemon", security(()),
    responses((status = 200, description = "the console", body = String, content_type = "text/html"))
)]
pub(super) async fn index() -> HttpResponse {
    served(HTML, include_str!("index.html"))
}

/// GET: a part of the page.
#[utoipa::path(
    get, path = "/console/{file}", operation_id = "console_part", tag = "daemon", security(()),
    params(("file" = String, Path, description = "as the page names it")),
    responses(
        (status = 200, description = "a part of the console", body = String, content_type = "*/*"),
        NotFound,
    )
)]
pub(super) async fn part(file: web::Path<String>) -> Result<HttpResponse, Problem> {
    let part = PARTS.iter().find(|(name, ..)| *name == file.as_str());
    let missing = || {
        let detail = "the console has no such part";
        Problem::new(Code::RouteNotFound, detail)
    };
    let (_, content_type, text) = part.ok_or_else(missing)?;
    Ok(served(content_type, text))
}

fn served(content_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("Referrer-Policy", "no-referrer"))
        // With a new version of the daemon come new parts.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .content_type(content_type)
        .body(text)
}
