//! The parts of the route table: paths, their methods and the policies of these.

use std::future::Future;

use actix_web::{FromRequest, Handler, Responder, Route, guard, web};

use super::dialect::Dialect;
use super::guard::{RoutePolicy, ScopeSource};
use crate::admission::RequestClass;
use crate::auth::Role;
use crate::model::Protocol;

/// A path and its methods.
pub(super) struct Path {
    pub(super) pattern: &'static str,
    pub(super) dialect: Dialect,
    pub(super) endpoints: Vec<Endpoint>,
}

/// A method of a path.
pub(super) struct Endpoint {
    pub(super) method: &'static str,
    pub(super) route: Route,
    pub(super) policy: RoutePolicy,
}

/// Creates a path of Rollcall's own API.
pub(super) fn path<const N: usize>(pattern: &'static str, endpoints: [Endpoint; N]) -> Path {
    Path {
        pattern,
        dialect: Dialect::Native,
        endpoints: endpoints.into(),
    }
}

impl Path {
    /// Makes it a path of the protocol of another registry: its handlers check the scopes, and ignore
    /// parameters that they do not know. Its clients may use another replica for each request, so
    /// every request but a renewal sees the changes that other replicas have answered.
    pub(super) fn of_protocol(self, protocol: Protocol) -> Self {
        let endpoints = self.endpoints.into_iter();
        let endpoints = endpoints.map(|endpoint| {
            let mut endpoint = endpoint.checks_scopes().with_query();
            let work = endpoint.policy.work;
            let is_renewal = work.is_none_or(|work| work == RequestClass::Heartbeat);
            endpoint.policy.catches_up |= !is_renewal;
            endpoint
        });
        Self {
            dialect: Dialect::Protocol(protocol),
            endpoints: endpoints.collect(),
            ..self
        }
    }

    /// Uses another dialect.
    pub(super) fn in_dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }
}

/// The access to a route: a least role, or public.
pub(super) trait Access {
    fn role(self) -> Option<Role>;
}

/// Access without a token.
pub(super) struct Public;

impl Access for Public {
    fn role(self) -> Option<Role> {
        None
    }
}

impl Access for Role {
    fn role(self) -> Option<Role> {
        Some(self)
    }
}

impl Endpoint {
    /// Creates an endpoint. A GET reads from memory; every other method waits for a commit.
    fn new(access: impl Access, method: &'static str, route: Route) -> Self {
        let role = access.role();
        let work = match method {
            "GET" => RequestClass::Read,
            _ => RequestClass::Write,
        };
        Self {
            method,
            route,
            policy: RoutePolicy {
                role,
                work: role.map(|_| work),
                scope: ScopeSource::Nowhere,
                token_in_body: false,
                catches_up: false,
                reads_query: false,
            },
        }
    }

    /// Uses the limit of heartbeats: the route waits for the lease store, and is rejected last.
    pub(super) fn heartbeat(mut self) -> Self {
        self.policy.work = Some(RequestClass::Heartbeat);
        self
    }

    /// Serves requests only after this replica has applied what any replica has appended to the
    /// event log until now.
    pub(super) fn catches_up(mut self) -> Self {
        self.policy.catches_up = true;
        self
    }

    /// Exempts the route from the limits, so that it is served under overload and at the start.
    pub(super) fn outside_limits(mut self) -> Self {
        self.policy.work = None;
        self
    }

    /// Lets requests without a header pass, whose bodies may have the token.
    pub(super) fn token_in_body(mut self) -> Self {
        self.policy.token_in_body = true;
        self
    }

    /// Lets the handler read the query, or ignore it.
    pub(super) fn with_query(mut self) -> Self {
        self.policy.reads_query = true;
        self
    }

    /// Takes the scope from the path.
    pub(super) fn of_its_scope(mut self) -> Self {
        self.policy.scope = ScopeSource::Path;
        self
    }

    /// Leaves the check of the scopes to the handler.
    pub(super) fn checks_scopes(mut self) -> Self {
        self.policy.scope = ScopeSource::Content;
        self
    }
}

/// Creates an endpoint for GET and HEAD, which has the same response without the body.
pub(super) fn get<F, Args>(access: impl Access, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
    F::Future: Future,
{
    let either = guard::Any(guard::Get()).or(guard::Head());
    Endpoint::new(access, "GET", web::route().guard(either).to(handler))
}

macro_rules! methods {
    ($($name:ident $method:literal),*) => {$(
        pub(super) fn $name<F, Args>(access: impl Access, handler: F) -> Endpoint
        where
            F: Handler<Args>,
            Args: FromRequest + 'static,
            F::Output: Responder + 'static,
            F::Future: Future,
        {
            Endpoint::new(access, $method, web::$name().to(handler))
        }
    )*};
}
methods!(put "PUT", post "POST", patch "PATCH", delete "DELETE");
