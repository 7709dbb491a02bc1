//! The console at `/`: one page for operators.
//!
//! Served from the binary. The page contains no data: it requests everything from the API like
//! any client, with a token if tokens are configured.

use std::sync::LazyLock;

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETag, EntityTag, Header, IfNoneMatch,
};
use actix_web::{HttpRequest, HttpResponse, web};
use sha2::{Digest, Sha256};

use super::Code;
use super::Problem;
use super::openapi::responses::NotFound;

/// Allows only the page's own parts and the API: no inline script or style, no frame, no other
/// host; and markup from text only by the template library.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types lit-html";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! parts {
    ($($media_type:ident: $($name:literal)*;)*) => {
        &[$($(($name, $media_type, include_str!($name)),)*)*]
    };
}

/// Each part as its name, its media type and its content.
const PARTS: &[(&str, &str, &str)] = parts! {
    CSS: "base.css" "views.css" "vendor/uplot/uPlot.min.css";
    SVG: "icon.svg" "icon-alert.svg";
    JS: "actions.js" "api.js" "app.js" "chart.js" "dialog.js" "format.js" "html.js" "keys.js"
        "messages.js" "reader.js" "registry.js" "route.js" "selection.js" "states.js" "table.js"
        "words-zh.js" "words.js"
        "views/activity.js" "views/cluster.js" "views/instance.js" "views/instances.js"
        "views/now.js" "views/parts.js" "views/scope.js" "views/scopes.js" "views/search.js"
        "views/sign-in.js"
        "vendor/lit-html/lit-html.js" "vendor/lit-html/directive.js"
        "vendor/lit-html/directive-helpers.js" "vendor/lit-html/directives/repeat.js"
        "vendor/uplot/uPlot.iife.min.js";
};

/// The page. It names all modules, so that a browser requests them together instead of each after
/// the one that imports it.
static INDEX: LazyLock<String> = LazyLock::new(|| {
    let mut links = String::new();
    for (name, ..) in PARTS.iter().filter(|(name, ..)| is_module(name)) {
        links += &format!("<link rel=\"modulepreload\" href=\"console/{name}\">\n");
    }
    include_str!("index.html").replace("</head>", &format!("{links}</head>"))
});

/// Returns whether a part is a module; an "iife" is a script that runs at once.
fn is_module(name: &str) -> bool {
    name.ends_with(".js") && !name.ends_with(".iife.min.js")
}

/// Returns the page.
#[utoipa::path(
    get, path = "/", operation_id = "console", tag = "daemon", security(()),
    responses(
        (status = 200, description = "the console", body = String, content_type = "text/html"),
        (status = 304, description = "the client has it"),
    )
)]
pub(super) async fn index(request: HttpRequest) -> HttpResponse {
    served(&request, HTML, &INDEX)
}

/// Returns a part of the page.
#[utoipa::path(
    get, path = "/console/{file}", operation_id = "console_part", tag = "daemon", security(()),
    params(("file" = String, Path, description = "the name of the file in the page")),
    responses(
        (status = 200, description = "a part of the console", body = String, content_type = "*/*"),
        (status = 304, description = "the client has it"),
        NotFound,
    )
)]
pub(super) async fn part(
    request: HttpRequest,
    file: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let part = PARTS.iter().find(|(name, ..)| *name == file.as_str());
    let missing = || Problem::new(Code::RouteNotFound, "no such part of the console");
    let (_, content_type, text) = part.ok_or_else(missing)?;
    Ok(served(&request, content_type, text))
}

fn served(request: &HttpRequest, content_type: &'static str, text: &'static str) -> HttpResponse {
    let etag = EntityTag::new_strong(hex::encode(&Sha256::digest(text)[..16]));
    let is_known = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(&etag)),
        Err(_) => false,
    };
    let mut answer = match is_known {
        true => HttpResponse::NotModified(),
        false => HttpResponse::Ok(),
    };
    answer
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("Referrer-Policy", "no-referrer"))
        // A new version of the daemon has new parts.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(ETag(etag));
    match is_known {
        true => answer.finish(),
        false => answer.content_type(content_type).body(text),
    }
}
