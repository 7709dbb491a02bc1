//! The page that shows the document. It loads nothing from other hosts.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::Config;

use super::responses::NotFound;
use crate::http::{Code, Problem};

/// Allows only scripts and images from the daemon.
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// Redirects to the page. All references are relative, so that a proxy may serve the daemon under
/// another path.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "daemon", security(()),
    responses((status = 308, description = "the page is at `/docs/`"))
)]
pub(in crate::http) async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, "docs/"))
        .finish()
}

/// Returns the page and its parts.
#[utoipa::path(
    get, path = "/docs/{file}", operation_id = "docs_file", tag = "daemon", security(()),
    params(("file" = String, Path, description = "empty for the page itself")),
    responses(
        (status = 200, description = "the page or one of its parts", body = String, content_type = "*/*"),
        NotFound,
    )
)]
pub(in crate::http) async fn page(file: web::Path<String>) -> Result<HttpResponse, Problem> {
    let config = Arc::new(Config::from("../openapi.json"));
    match utoipa_swagger_ui::serve(&file, config) {
        Ok(Some(file)) => Ok(HttpResponse::Ok()
            .insert_header((CONTENT_SECURITY_POLICY, PAGE_POLICY))
            .content_type(file.content_type)
            .body(file.bytes.into_owned())),
        _ => Err(Problem::new(
            Code::RouteNotFound,
            "no such part of the page at /docs/",
        )),
    }
}
