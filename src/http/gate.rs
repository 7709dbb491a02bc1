//! The guard of every route: authentication, authorization and permits.
//!
//! A policy belongs to the matched route, never to the text of a path, so a path in an unusual
//! notation meets the same policy. A route without a policy does not exist, and unknown paths
//! are rejected.

use std::cell::RefMut;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::body::{self, BodySize, BoxBody, MessageBody};
use actix_web::dev::{Extensions, Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, EXPECT, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{FromRequest, HttpMessage, HttpRequest, ResponseError, web};
use futures_util::future::{Ready, ready};
use tokio::time::Instant;

use super::Code;
use super::extract::ScopePath;
use super::{Api, Problem};
use crate::admission::{Permit, RequestClass};
use crate::auth::{Identity, Role};
use crate::metrics::RouteMetrics;
use crate::model::{Scope, ScopeKey, ScopeKind};

/// What a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoutePolicy {
    /// The least role; `None` for public routes.
    pub(super) role: Option<Role>,
    /// The class of its permit. A route without one is also served before the backends answer.
    pub(super) work: Option<RequestClass>,
    /// Where the request names its scope, for tokens that are limited to scopes.
    pub(super) scope: ScopeSource,
}

/// Where a request names its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeSource {
    /// In the path: the guard checks it.
    Path,
    /// In the query or body: the handler checks it with [`Caller::check`].
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
}

impl RouteGuard {
    pub(super) fn new(
        pattern: &'static str,
        policies: impl Iterator<Item = (&'static str, RoutePolicy)>,
        api: &web::Data<Api>,
    ) -> Self {
        let policies: Vec<_> = policies
            .map(|(method, policy)| (method, policy, api.metrics.route(pattern, method)))
            .collect();
        Self {
            public: policies.iter().all(|(_, policy, _)| policy.role.is_none()),
            policies,
            other: api.metrics.refusals(pattern),
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
            Ok(()) => next.call(request).await?,
            Err(problem) => {
                let answer = problem.error_response();
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
            let caller = identify(api, request.request())?;
            check_role(&caller, role)?;
            if let Some(policy) = policy {
                check_limit(&caller, policy.scope, request)?;
            }
            context.caller = Some(caller);
        }
        if let Some(work) = policy.and_then(|policy| policy.work) {
            if !api.lifecycle.has_started() {
                return Err(Problem::new(
                    Code::Starting,
                    "the daemon is starting and waits for its backends; /readyz names them",
                ));
            }
            let permit = api.admission.acquire(work);
            context.permit = Some(permit.map_err(|exceeded| api.shed(exceeded))?);
        }
        request.extensions_mut().insert(context);
        Ok(())
    }
}

/// The data that the guard stores with a request.
#[derive(Default)]
struct RequestContext {
    caller: Option<Arc<Identity>>,
    permit: Option<Permit>,
    /// Whether the request was held because its client asked for that.
    waited: bool,
}

fn context(request: &HttpRequest) -> Option<RefMut<'_, RequestContext>> {
    RefMut::filter_map(request.extensions_mut(), Extensions::get_mut).ok()
}

/// Releases the permit of a request, and returns its class.
pub(super) fn release_permit(request: &HttpRequest) -> Option<RequestClass> {
    let permit = context(request)?.permit.take();
    permit.map(|permit| permit.work)
}

/// Stores another permit with a request, until it is answered.
pub(super) fn replace_permit(request: &HttpRequest, permit: Permit) {
    if let Some(mut context) = context(request) {
        context.permit = Some(permit);
    }
}

/// Marks a request as held because its client asked for that.
pub(super) fn note_wait(request: &HttpRequest) {
    if let Some(mut context) = context(request) {
        context.waited = true;
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

fn identify(api: &Api, request: &HttpRequest) -> Result<Arc<Identity>, Problem> {
    if api.client_certificates && request.conn_data::<ClientCertificate>().is_none() {
        return Err(Problem::new(
            Code::ClientCertificateRequired,
            "a client certificate is required, and the connection has none",
        ));
    }
    if let Some(anonymous) = api.tokens.anonymous() {
        return Ok(Arc::clone(anonymous));
    }
    let mut given = request.headers().get_all(AUTHORIZATION);
    let token = match (given.next(), given.next()) {
        (Some(header), None) => header.to_str().ok().and_then(bearer),
        _ => None,
    };
    token
        .and_then(|token| api.tokens.identify(token))
        .ok_or_else(Problem::unauthorized)
}

/// Returns the token of an `Authorization` header: RFC 6750, section 2.1.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn check_role(caller: &Identity, role: Role) -> Result<(), Problem> {
    if caller.role >= role {
        Ok(())
    } else {
        Err(Problem::new(
            Code::Forbidden,
            format!(
                "this request requires the role {role}, but the token {:?} has the role {}",
                caller.name, caller.role
            ),
        ))
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

fn check_scope(caller: &Identity, scope: &Scope) -> Result<(), Problem> {
    if caller.reaches(scope) {
        Ok(())
    } else {
        Err(limited(caller))
    }
}

fn limited(caller: &Identity) -> Problem {
    let limit = caller.limit.as_ref();
    let limit = limit.map(ToString::to_string).unwrap_or_default();
    Problem::new(
        Code::ScopeForbidden,
        format!("the token {:?} is limited to {limit}", caller.name),
    )
}

/// The authenticated caller.
pub(super) struct Caller(Arc<Identity>);

impl Caller {
    /// Returns the name of its token, for the log and for holds.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// Checks that the token permits a scope; for routes with [`ScopeSource::Content`].
    pub(super) fn check(&self, scope: &Scope) -> Result<(), Problem> {
        check_scope(&self.0, scope)
    }

    /// Checks that the token permits the service or group of a query, or all scopes if it names
    /// none.
    pub(super) fn check_filter(
        &self,
        service: Option<&ScopeKey>,
        group: Option<&ScopeKey>,
    ) -> Result<(), Problem> {
        if service.is_none() && group.is_none() && self.0.limit.is_some() {
            return Err(limited(&self.0));
        }
        let service = service.map(|key| ScopeKind::Service.with(key.clone()));
        let group = group.map(|key| ScopeKind::Group.with(key.clone()));
        service
            .iter()
            .chain(&group)
            .try_for_each(|scope| self.check(scope))
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = context(request).and_then(|context| context.caller.clone());
        ready(caller.map(Self).ok_or_else(Problem::unauthorized))
    }
}

/// The connection has a valid client certificate.
struct ClientCertificate;

/// Stores whether the connection has a client certificate.
pub(super) fn note_client_certificate(tls: Option<&TlsStream<TcpStream>>, data: &mut Extensions) {
    let certificates = tls.and_then(|stream| stream.get_ref().1.peer_certificates());
    if certificates.is_some_and(|certificates| !certificates.is_empty()) {
        data.insert(ClientCertificate);
    }
}

/// Identifies a client for limits per client: a token name at an IP address.
pub type Client = (String, IpAddr);

/// Returns the client of a request.
pub(super) fn client(caller: &Caller, request: &HttpRequest) -> Client {
    let address = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    (caller.name().to_owned(), address.unwrap_or(unknown))
}
