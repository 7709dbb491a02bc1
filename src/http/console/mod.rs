//! The console at `/`: one page for operators.
//!
//! Served from the binary. The page contains no data: it requests everything from the API like
//! any client, with a token if tokens are configured.

use std::sync::LazyLock;

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETag, EntityTag, Header, IfNoneMatch,
};
use actix_web::{HttpRequest, HttpResponse, web};

use super::openapi::responses::NotFound;
use super::{Code, Problem, compression};
use crate::directory::Body;

/// Allows only the page's own parts and the API: no inline script or style, no frame, no other
/// host; and markup from text only by the template library.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types lit-html";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A part of the page.
struct Part {
    name: &'static str,
    media_type: &'static str,
    body: Body,
}

macro_rules! parts {
    ($($media_type:ident: $($name:literal)*;)*) => {
        vec![$($(Part {
            name: $name,
            media_type: $media_type,
            body: Body::new(include_str!($name)),
        },)*)*]
    };
}

static PARTS: LazyLock<Vec<Part>> = LazyLock::new(|| {
    parts! {
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
    }
});

/// The page. It names all modules, so that a browser requests them together instead of each after
/// the one that imports it.
static INDEX: LazyLock<Part> = LazyLock::new(|| {
    let mut links = String::new();
    for Part { name, .. } in PARTS.iter().filter(|part| is_module(part.name)) {
        links += &format!("<link rel=\"modulepreload\" href=\"console/{name}\">\n");
    }
    let page = include_str!("index.html").replace("</head>", &format!("{links}</head>"));
    Part {
        name: "index.html",
        media_type: HTML,
        body: Body::new(page),
    }
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
    served(&request, &INDEX).await
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
    let part = PARTS.iter().find(|part| part.name == file.as_str());
    let missing = || Problem::new(Code::RouteNotFound, "no such part of the console");
    Ok(served(&request, part.ok_or_else(missing)?).await)
}

async fn served(request: &HttpRequest, part: &Part) -> HttpResponse {
    let etag = EntityTag::new_strong(part.body.etag().to_owned());
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
        .insert_header((CACHE_CONTROL, "no-cache"));
    if is_known {
        return answer.insert_header(ETag(etag)).finish();
    }
    answer.content_type(part.media_type);
    compression::respond(answer, &part.body, compression::accepted(request)).await
}
