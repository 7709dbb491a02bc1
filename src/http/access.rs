//! Who may send a request: authentication and authorization.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Payload};
use actix_web::http::header::AUTHORIZATION;
use actix_web::rt::net::TcpStream;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::{Ready, ready};

use super::context::context;
use super::{Api, Code, Problem};
use crate::admission::Client;
use crate::auth::{Identity, Role};
use crate::model::{Scope, ScopeKey, ScopeKind};

pub(super) fn identify(api: &Api, request: &HttpRequest) -> Result<Arc<Identity>, Problem> {
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

pub(super) fn check_role(caller: &Identity, role: Role) -> Result<(), Problem> {
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

pub(super) fn check_scope(caller: &Identity, scope: &Scope) -> Result<(), Problem> {
    if caller.reaches(scope) {
        Ok(())
    } else {
        Err(limited(caller))
    }
}

pub(super) fn limited(caller: &Identity) -> Problem {
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

    /// Checks that the token permits a scope; for routes with [`ScopeSource::Content`](super::guard::ScopeSource::Content).
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

/// Returns the client of a request.
pub(super) fn client(caller: &Caller, request: &HttpRequest) -> Client {
    let address = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    (caller.name().to_owned(), address.unwrap_or(unknown))
}
