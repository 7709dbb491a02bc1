//! The guard of every route: authentication, authorization and permits.
//!
//! A policy belongs to the matched route, never to the text of a path, so a path in an unusual
//! notation meets the same policy. A route without a policy does not exist, and unknown paths
//! are rejected.

use std::rc::Rc;

use actix_web::body::{self, BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, EXPECT, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse, web};
use tokio::time::Instant;

use super::access::{check_role, check_scope, identify, limited};
use super::context::RequestContext;
use super::dialect::Dialect;
use super::extract::ScopePath;
use super::{Api, Code, Problem};
use crate::admission::RequestClass;
use crate::auth::{Identity, Role};
use crate::metrics::RouteMetrics;

/// What a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoutePolicy {
    /// The least role; `None` for public routes.
    pub(super) role: Option<Role>,
    /// The class of its permit. A route without one is also served before the backends answer.
    pub(super) work: Option<RequestClass>,
    /// Where the request names its scope, for tokens that are limited to scopes.
    pub(super) scope: ScopeSource,
    /// Whether the body may have the token: then the handler is called without a caller.
    pub(super) token_in_body: bool,
    /// Whether the request is served only after this replica has applied what any replica has
    /// appended to the event log until now.
    pub(super) catches_up: bool,
    /// Whether the handler reads the query; otherwise a request with one is refused.
    pub(super) reads_query: bool,
}

/// Where a request names its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeSource {
    /// In the path: the guard checks it.
    Path,
    /// In the query or body: the handler checks it with [`Caller::check`](super::access::Caller::check).
    Content,
    /// The route concerns all scopes: a limited token is refused.
    Nowhere,
}

/// The guard of one path.
pub(super) struct RouteGuard {
    api: web::Data<Api>,
    policies: Vec<(&'static str, RoutePolicy, RouteMetrics)>,
    /// Metrics of methods that the path does not support.
    other: RouteMetrics,
    /// Whether each of its routes is public, so that another method needs no token either.
    public: bool,
    /// The value of `Allow`.
    allow: String,
    dialect: Dialect,
}

impl RouteGuard {
    pub(super) fn new(
        pattern: &'static str,
        policies: impl Iterator<Item = (&'static str, RoutePolicy)>,
        allow: String,
        dialect: Dialect,
        api: &web::Data<Api>,
    ) -> Self {
        let policies: Vec<_> = policies
            .map(|(method, policy)| (method, policy, api.metrics.route(pattern, method)))
            .collect();
        Self {
            public: policies.iter().all(|(_, policy, _)| policy.role.is_none()),
            policies,
            other: api.metrics.refusals(pattern),
            allow,
            dialect,
            api: api.clone(),
        }
    }

    /// Handles a request, and records its metrics.
    pub(super) async fn pass(
        self: Rc<Self>,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, actix_web::Error> {
        let begin = Instant::now();
        let method = request.method().clone();
        let name = match method {
            Method::HEAD => "GET",
            _ => method.as_str(),
        };
        let known = self.policies.iter().find(|(known, ..)| *known == name);
        let (policy, metrics) = match known {
            Some((_, policy, metrics)) => (Some(policy), metrics),
            None => (None, &self.other),
        };
        let mut answer = match self.admit(policy, &request) {
            _ if method == Method::OPTIONS => {
                let allow = (ALLOW, self.allow.as_str());
                let answer = HttpResponse::NoContent().insert_header(allow).finish();
                request.into_response(answer)
            }
            Ok(()) => {
                if policy.is_some_and(|policy| policy.catches_up) && !self.api.directory.is_stale()
                {
                    self.api.indexes.catch_up().await;
                }
                next.call(request).await?
            }
            Err(problem) => {
                let answer = self.dialect.refusal(&problem);
                request.into_response(answer)
            }
        };
        // actix-web sends no body here, but would wait for the end of a stream.
        if method == Method::HEAD && answer.response().body().size() == BodySize::Stream {
            answer = answer.map_body(|_, _| BoxBody::new(body::None::new()));
        }
        let head = answer.response_mut().head_mut();
        if self.api.lifecycle.is_draining() || self.api.connections.are_scarce() {
            // The client's next request goes to another replica, or another client gets the
            // connection.
            head.set_connection_type(ConnectionType::Close);
        }
        add_headers(&method, head.headers_mut());
        metrics.answered(answer.status().as_u16());
        // The time that a client asked to wait says nothing about the daemon.
        let context = answer.request().extensions();
        if !context
            .get::<RequestContext>()
            .is_some_and(|context| context.waited)
        {
            metrics.took(begin.elapsed());
        }
        drop(context);
        Ok(answer)
    }

    fn admit(&self, policy: Option<&RoutePolicy>, request: &ServiceRequest) -> Result<(), Problem> {
        let api = &**self.api;
        let expectation = request.headers().get(EXPECT);
        if expectation.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            let problem = Problem::new(
                Code::ExpectationFailed,
                "the only supported expectation is Expect: 100-continue",
            );
            return Err(problem.closing());
        }
        let mut context = RequestContext::default();
        let role = match policy {
            Some(policy) => policy.role,
            // The response lists the supported methods.
            None => (!self.public).then_some(Role::Read),
        };
        if let Some(role) = role {
            let has_other_token = policy.is_some_and(|policy| policy.token_in_body);
            match identify(api, request.request(), self.dialect) {
                Err(_) if has_other_token && !request.headers().contains_key(AUTHORIZATION) => {}
                caller => {
                    let caller = caller?;
                    check_role(&caller, role)?;
                    if let Some(policy) = policy {
                        check_limit(&caller, policy.scope, request)?;
                    }
                    context.caller = Some(caller);
                }
            }
        }
        if policy.is_some_and(|policy| !policy.reads_query) && !request.query_string().is_empty() {
            let reason = "must be empty: this route has no parameters";
            return Err(Problem::invalid("query", reason));
        }
        if let Some(work) = policy.and_then(|policy| policy.work) {
            if !api.lifecycle.has_started() {
                return Err(Problem::new(
                    Code::Starting,
                    "the daemon is starting and waits for its backends; /readyz names them",
                ));
            }
            context.permit = Some((work, api.acquire(work)?));
        }
        request.extensions_mut().insert(context);
        Ok(())
    }
}

/// Adds the headers of every response. Caches do not store responses to unsafe methods unless
/// allowed to: RFC 9111, section 3.
pub(super) fn add_headers(method: &Method, headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if method.is_safe() && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn check_limit(
    caller: &Identity,
    scope: ScopeSource,
    request: &ServiceRequest,
) -> Result<(), Problem> {
    match scope {
        _ if caller.limit.is_none() => Ok(()),
        ScopeSource::Content => Ok(()),
        ScopeSource::Nowhere => Err(limited(caller)),
        ScopeSource::Path => {
            let ScopePath(scope) = ScopePath::of(request.request())?;
            check_scope(caller, &scope)
        }
    }
}
