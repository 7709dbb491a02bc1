//! Who may send a request: authentication and authorization.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Payload};
use actix_web::http::header::AUTHORIZATION;
use actix_web::rt::net::TcpStream;
use actix_web::{FromRequest, HttpRequest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::{Ready, ready};

use super::context::context;
use super::dialect::Dialect;
use super::extract::api;
use super::{Api, Code, Problem};
use crate::admission::Client;
use crate::auth::{Identity, Role, ScopePattern};
use crate::model::{Registrant, Scope};

/// Returns the caller of a request, by the token in its `Authorization` header, or else in the place
/// that the dialect has for it.
pub(super) fn identify(
    api: &Api,
    request: &HttpRequest,
    dialect: Dialect,
) -> Result<Arc<Identity>, Problem> {
    if api.client_certificates && request.conn_data::<ClientCertificate>().is_none() {
        return Err(Problem::new(
            Code::ClientCertificateRequired,
            "a client certificate is required, and the connection has none",
        ));
    }
    let mut given = request.headers().get_all(AUTHORIZATION);
    let identity = match (given.next(), given.next()) {
        // Without tokens none is wrong.
        _ if api.tokens.is_empty() => api.tokens.anonymous().cloned(),
        (None, _) => match dialect.token(request) {
            Some(token) => api.tokens.identify(&token),
            None => api.tokens.anonymous().cloned(),
        },
        (Some(header), None) => {
            let token = header.to_str().ok().and_then(token);
            token.and_then(|token| api.tokens.identify(&token))
        }
        _ => None,
    };
    identity.ok_or_else(Problem::unauthorized)
}

/// Returns the token of an `Authorization` header: a bearer token (RFC 6750, section 2.1), or the
/// password of Basic authentication (RFC 7617) with any user.
fn token(header: &str) -> Option<Cow<'_, str>> {
    let (scheme, credentials) = header.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Cow::Borrowed(credentials));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
    let (_, password) = pair.split_once(':')?;
    Some(Cow::Owned(password.to_owned()))
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
pub(super) struct Caller {
    identity: Arc<Identity>,
    /// The address of the client.
    peer: IpAddr,
}

impl Caller {
    /// Returns the name of its token, for holds.
    pub(super) fn name(&self) -> &str {
        &self.identity.name
    }

    /// Returns the role of its token.
    pub(super) fn role(&self) -> Role {
        self.identity.role
    }

    /// Returns whether it has no token.
    pub(super) fn is_anonymous(&self, api: &Api) -> bool {
        let anonymous = api.tokens.anonymous();
        anonymous.is_some_and(|anonymous| Arc::ptr_eq(anonymous, &self.identity))
    }

    /// Returns whether its token has at least this role.
    pub(super) fn has_role(&self, role: Role) -> bool {
        self.identity.role >= role
    }

    /// Returns the address of its client.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Returns it as the sender of a registration.
    pub(super) fn registrant(&self) -> Registrant {
        Registrant::new(self.name(), self.peer)
    }

    /// Returns the client whose streams are limited together.
    pub(super) fn client(&self) -> Client {
        (self.name().to_owned(), self.peer)
    }

    /// Logs an action, and counts it if it is one of an operator.
    pub(super) fn log_action(&self, api: &Api, action: impl fmt::Display) {
        if self.has_role(Role::Admin) {
            api.metrics.operator_actions.inc();
        }
        log::info!("token {:?} from {}: {action}", self.name(), self.peer);
    }

    /// Checks that the token permits a scope; for routes with [`ScopeSource::Content`](super::guard::ScopeSource::Content).
    pub(super) fn check(&self, scope: &Scope) -> Result<(), Problem> {
        check_scope(&self.identity, scope)
    }

    /// Checks that the token is not limited to scopes.
    pub(super) fn check_unlimited(&self) -> Result<(), Problem> {
        match self.identity.limit {
            None => Ok(()),
            Some(_) => Err(limited(&self.identity)),
        }
    }

    /// Returns the scopes to which the token is limited.
    pub(super) fn limit(&self) -> Option<&ScopePattern> {
        self.identity.limit.as_ref()
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let identity = context(request).and_then(|context| context.caller.clone());
        let caller = identity.map(|identity| Self {
            identity,
            peer: peer(request),
        });
        ready(caller.ok_or_else(Problem::unauthorized))
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

/// Returns the address of the client of a request. A trusted proxy adds the address of its own
/// client at the end of `X-Forwarded-For`; what is before an address that is not trusted may be
/// forged.
fn peer(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let mut peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let Ok(api) = api(request) else { return peer };
    let is_trusted = |peer| api.trusted_proxies.iter().any(|net| net.contains(&peer));
    if api.trusted_proxies.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let headers = request.headers().get_all("x-forwarded-for");
    let texts: Vec<&str> = headers.filter_map(|header| header.to_str().ok()).collect();
    for hop in texts.iter().rev().flat_map(|text| text.rsplit(',')) {
        let Some(forwarded) = hop_address(hop.trim()) else {
            break;
        };
        peer = forwarded;
        if !is_trusted(peer) {
            break;
        }
    }
    peer
}

/// Parses an IP address, which some proxies write with a port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    let address = text.parse().or_else(|_| with_port()).ok()?;
    Some(IpAddr::to_canonical(&address))
}
