//! The route table: each path with its methods, their handlers and policies.

use std::future::Future;
use std::rc::Rc;

use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, HttpRequest, Responder, ResponseError, Route, guard, web};

use super::guard::{RouteGuard, RoutePolicy, ScopeSource, add_headers};
use super::v1::{
    bulk, events, heartbeats, instance_list, instances, leases, overview, scopes, search, targets,
};
use super::{Api, Code, Problem, console, gateway_center, openapi, ops};
use crate::admission::RequestClass;
use crate::auth::Role;

/// A path and its methods.
struct Path {
    pattern: &'static str,
    endpoints: Vec<Endpoint>,
}

/// A method of a path.
struct Endpoint {
    method: &'static str,
    route: Route,
    policy: RoutePolicy,
}

/// Returns every path of the daemon with its policies. The router tries them in this order, so
/// the most frequent ones come first.
fn table() -> Vec<Path> {
    use Role::{Admin, Agent, Read};

    vec![
        path(
            "/v1/{kind}/{key}/instances/{address}/heartbeat",
            [
                put(Agent, heartbeats::send).heartbeat().of_its_scope(),
                delete(Agent, instances::end_lease).of_its_scope(),
            ],
        ),
        path(
            "/v1/heartbeats",
            [post(Agent, heartbeats::send_batch)
                .heartbeat()
                .checks_scopes()],
        ),
        path(
            "/v1/{kind}/{key}/instances",
            [get(Read, instance_list::list).of_its_scope().with_query()],
        ),
        path(
            "/v1/instances",
            [
                get(Read, search::list).checks_scopes().with_query(),
                patch(Admin, bulk::change).checks_scopes(),
            ],
        ),
        path("/v1/{kind}", [get(Read, scopes::list).with_query()]),
        path(
            "/v1/{kind}/{key}",
            [
                get(Read, scopes::show).of_its_scope(),
                put(Admin, scopes::declare).of_its_scope(),
                delete(Admin, scopes::remove).of_its_scope(),
            ],
        ),
        path(
            "/v1/{kind}/{key}/leases",
            [get(Read, leases::list).of_its_scope().with_query()],
        ),
        path(
            "/v1/{kind}/{key}/instances/{address}",
            [
                get(Read, instances::show).of_its_scope(),
                put(Agent, instances::register).of_its_scope(),
                patch(Admin, instances::change).of_its_scope(),
                delete(Agent, instances::deregister).of_its_scope(),
            ],
        ),
        path(
            "/v1/{kind}/{key}/instances/{address}/leave",
            [post(Agent, instances::leave).of_its_scope()],
        ),
        path(
            "/v1/events",
            [get(Read, events::stream).checks_scopes().with_query()],
        ),
        path("/v1/overview", [get(Read, overview::show)]),
        path(
            "/v1/prometheus/targets",
            [get(Read, targets::list).checks_scopes().with_query()],
        ),
        path("/v1/protection/release", [post(Admin, overview::release)]),
        path(
            "/gateway-group-detail/create",
            [post(Agent, gateway_center::create)
                .checks_scopes()
                .with_query()],
        ),
        path(
            "/gateway-group-detail/keep-alive",
            [put(Agent, gateway_center::keep_gateway_alive)
                .heartbeat()
                .checks_scopes()
                .with_query()],
        ),
        path(
            "/gateway-server-detail/register",
            [post(Agent, gateway_center::register)
                .checks_scopes()
                .with_query()],
        ),
        path(
            "/gateway-server-detail/keep-alive",
            [put(Agent, gateway_center::keep_server_alive)
                .token_in_body()
                .heartbeat()
                .checks_scopes()
                .with_query()],
        ),
        path(
            "/gateway-server-detail/offline",
            [put(Agent, gateway_center::offline).with_query()],
        ),
        path("/metrics", [get(Read, ops::metrics).outside_limits()]),
        path(
            "/metrics/scopes",
            [get(Read, ops::scope_metrics).checks_scopes()],
        ),
        path("/openapi.json", [get(Public, openapi::document)]),
        path("/docs", [get(Public, openapi::redirect).with_query()]),
        path("/docs/{file}", [get(Public, openapi::page).with_query()]),
        path("/", [get(Public, console::index).with_query()]),
        path("/console/{file}", [get(Public, console::part).with_query()]),
        path("/livez", [get(Public, ops::livez)]),
        path("/readyz", [get(Public, ops::readyz).with_query()]),
    ]
}

/// Adds every path to an application.
pub(crate) fn configure(app: &mut web::ServiceConfig, api: Api) {
    let api = web::Data::new(api);
    for Path { pattern, endpoints } in table() {
        let allow = endpoints.iter().map(|endpoint| match endpoint.method {
            "GET" => "GET, HEAD",
            method => method,
        });
        let allow = Vec::from_iter(allow.chain(["OPTIONS"])).join(", ");
        let policies = endpoints
            .iter()
            .map(|endpoint| (endpoint.method, endpoint.policy));
        let route_guard = Rc::new(RouteGuard::new(pattern, policies, allow.clone(), &api));
        let mut resource = web::resource(matcher(pattern));
        for endpoint in endpoints {
            resource = resource.route(endpoint.route);
        }
        let resource = resource.default_service(web::to(move || {
            let problem = Problem::method_not_allowed(allow.clone());
            let answer = match gateway_center::is_path(pattern) {
                true => gateway_center::refusal(&problem),
                false => problem.error_response(),
            };
            async { answer }
        }));
        let pass = move |request, next| Rc::clone(&route_guard).pass(request, next);
        app.service(resource.wrap(from_fn(pass)));
    }
    // Creates each metric with the value 0.
    for work in RequestClass::ALL {
        api.metrics.shed(work.as_str());
    }
    let unknown_paths = Rc::new(api.metrics.refusals("none"));
    app.default_service(web::to(move |request: HttpRequest| {
        unknown_paths.answered(StatusCode::NOT_FOUND.as_u16());
        let problem = route_not_found(&request);
        let mut answer = match gateway_center::is_path(request.path()) {
            true => gateway_center::refusal(&problem),
            false => problem.error_response(),
        };
        add_headers(request.method(), answer.headers_mut());
        async { answer }
    }));
    app.app_data(api);
}

/// Returns each route as its pattern, its method and the least role, `None` for public routes;
/// for the tests and the API document.
pub fn routes() -> Vec<(&'static str, &'static str, Option<Role>)> {
    let paths = table().into_iter();
    let routes = paths.flat_map(|Path { pattern, endpoints }| {
        let endpoints = endpoints.into_iter();
        endpoints.map(move |endpoint| (pattern, endpoint.method, endpoint.policy.role))
    });
    routes.collect()
}

/// Returns the pattern in the router's syntax, which restricts the variables.
fn matcher(pattern: &str) -> String {
    pattern
        .replace("{kind}", "{kind:groups|services}")
        .replace("{file}", "{file:.*}")
}

fn route_not_found(request: &HttpRequest) -> Problem {
    let path: String = request.path().chars().take(200).collect();
    Problem::new(
        Code::RouteNotFound,
        format!("no route has the path {path:?}"),
    )
}

fn path<const N: usize>(pattern: &'static str, endpoints: [Endpoint; N]) -> Path {
    Path {
        pattern,
        endpoints: endpoints.into(),
    }
}

/// The access to a route: a least role, or public.
trait Access {
    fn role(self) -> Option<Role>;
}

/// Access without a token.
struct Public;

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
                reads_query: false,
            },
        }
    }

    /// Uses the limit of heartbeats: the route waits for the lease store, and is rejected last.
    fn heartbeat(mut self) -> Self {
        self.policy.work = Some(RequestClass::Heartbeat);
        self
    }

    /// Exempts the route from the limits, so that it is served under overload and at the start.
    fn outside_limits(mut self) -> Self {
        self.policy.work = None;
        self
    }

    /// Lets requests without a header pass, whose bodies may have the token.
    fn token_in_body(mut self) -> Self {
        self.policy.token_in_body = true;
        self
    }

    /// Lets the handler read the query, or ignore it.
    fn with_query(mut self) -> Self {
        self.policy.reads_query = true;
        self
    }

    /// Takes the scope from the path.
    fn of_its_scope(mut self) -> Self {
        self.policy.scope = ScopeSource::Path;
        self
    }

    /// Leaves the check of the scopes to the handler.
    fn checks_scopes(mut self) -> Self {
        self.policy.scope = ScopeSource::Content;
        self
    }
}

/// Creates an endpoint for GET and HEAD, which has the same response without the body.
fn get<F, Args>(access: impl Access, handler: F) -> Endpoint
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
        fn $name<F, Args>(access: impl Access, handler: F) -> Endpoint
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
