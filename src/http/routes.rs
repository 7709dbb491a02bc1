//! The route table: each path with its methods, their handlers and policies.

use std::rc::Rc;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, web};

use super::dialect::Dialect;
use super::endpoint::{Path, Public, delete, get, patch, path, post, put};
use super::facade::{Facades, table as facades};
use super::guard::{RouteGuard, add_headers};
use super::v1::{
    actions, attention, bulk, counts, events, heartbeats, history, instance_list, instances,
    leases, overview, registrations, replicas, scopes, search, targets, whoami,
};
use super::{Api, Code, Problem, console, gateway_center, openapi, ops};
use crate::admission::RequestClass;
use crate::auth::Role;

/// Returns every path of Rollcall's own API and of the original's, with its policies. The router
/// tries them in this order, so the most frequent ones come first.
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
        path(
            "/v1/registrations",
            [post(Agent, registrations::register).checks_scopes()],
        ),
        path(
            "/v1/{kind}",
            [get(Read, scopes::list).checks_scopes().with_query()],
        ),
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
        path("/v1/overview", [get(Read, overview::show).checks_scopes()]),
        path(
            "/v1/attention",
            [get(Read, attention::show).checks_scopes()],
        ),
        path(
            "/v1/counts",
            [get(Read, counts::show).checks_scopes().with_query()],
        ),
        path(
            "/v1/history",
            [get(Read, history::list).checks_scopes().with_query()],
        ),
        path(
            "/v1/actions",
            [get(Read, actions::list).checks_scopes().with_query()],
        ),
        path("/v1/replicas", [get(Read, replicas::list).checks_scopes()]),
        path("/v1/whoami", [get(Read, whoami::show).checks_scopes()]),
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
        )
        .in_dialect(Dialect::GatewayCenter),
        path(
            "/gateway-group-detail/keep-alive",
            [put(Agent, gateway_center::keep_gateway_alive)
                .heartbeat()
                .checks_scopes()
                .with_query()],
        )
        .in_dialect(Dialect::GatewayCenter),
        path(
            "/gateway-server-detail/register",
            [post(Agent, gateway_center::register)
                .checks_scopes()
                .with_query()],
        )
        .in_dialect(Dialect::GatewayCenter),
        path(
            "/gateway-server-detail/keep-alive",
            [put(Agent, gateway_center::keep_server_alive)
                .token_in_body()
                .heartbeat()
                .checks_scopes()
                .with_query()],
        )
        .in_dialect(Dialect::GatewayCenter),
        path(
            "/gateway-server-detail/offline",
            [put(Agent, gateway_center::offline).with_query()],
        )
        .in_dialect(Dialect::GatewayCenter),
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
    Facades::start(&api);
    let mut table = table().into_iter();
    // The heartbeat is the most frequent request.
    if let Some(heartbeat) = table.next() {
        app.service(resource(&api, heartbeat, ""));
    }
    for protocol in api.facades.protocols() {
        for (beginning, mount) in facades::mounts(*protocol) {
            let mut scope = web::scope(mount);
            let all = facades::table(*protocol).into_iter();
            for path in all.filter(|path| path.pattern.starts_with(beginning)) {
                scope = scope.service(resource(&api, path, beginning));
            }
            app.service(scope);
        }
    }
    for path in table {
        app.service(resource(&api, path, ""));
    }
    // Creates each metric with the value 0.
    for work in RequestClass::ALL {
        api.metrics.shed(work.as_str());
    }
    let unknown_paths = Rc::new(api.metrics.refusals("none"));
    app.default_service(web::to(move |request: HttpRequest| {
        unknown_paths.answered(StatusCode::NOT_FOUND.as_u16());
        let dialect = Dialect::of_unknown(request.path());
        let mut answer = dialect.refusal(&route_not_found(&request));
        add_headers(request.method(), answer.headers_mut());
        async { answer }
    }));
    app.app_data(api);
}

/// Returns the resource of a path, whose pattern is what follows `beginning`.
fn resource(api: &web::Data<Api>, path: Path, beginning: &str) -> impl HttpServiceFactory + use<> {
    let Path {
        pattern,
        dialect,
        endpoints,
    } = path;
    let allow = endpoints.iter().map(|endpoint| match endpoint.method {
        "GET" => "GET, HEAD",
        method => method,
    });
    let allow = Vec::from_iter(allow.chain(["OPTIONS"])).join(", ");
    let policies = endpoints
        .iter()
        .map(|endpoint| (endpoint.method, endpoint.policy));
    let route_guard = RouteGuard::new(pattern, policies, allow.clone(), dialect, api);
    let route_guard = Rc::new(route_guard);
    let rest = pattern.strip_prefix(beginning).unwrap_or(pattern);
    let mut resource = web::resource(matcher(rest));
    for endpoint in endpoints {
        resource = resource.route(endpoint.route);
    }
    let resource = resource.default_service(web::to(move || {
        let answer = dialect.refusal(&Problem::method_not_allowed(allow.clone()));
        async { answer }
    }));
    let pass = move |request, next| Rc::clone(&route_guard).pass(request, next);
    resource.wrap(from_fn(pass))
}

/// Returns each route as its pattern, its method and the least role, `None` for public routes;
/// for the tests and the API document.
pub fn routes() -> Vec<(&'static str, &'static str, Option<Role>)> {
    let paths = table().into_iter();
    let routes = paths.flat_map(|path| {
        let (pattern, endpoints) = (path.pattern, path.endpoints.into_iter());
        endpoints.map(move |endpoint| (pattern, endpoint.method, endpoint.policy.role))
    });
    routes.collect()
}

/// Returns the pattern in the router's syntax, which restricts the variables.
fn matcher(pattern: &str) -> String {
    pattern
        .replace("{kind}", "{kind:groups|services}")
        .replace("{slash}", "{slash:/?}")
        .replace("{users}", "{users:(?:/users)?}")
        .replace("{path}", "{id:.+}")
        .replace("{name}", "{name:.+}")
        .replace("{file}", "{file:.*}")
}

fn route_not_found(request: &HttpRequest) -> Problem {
    let path: String = request.path().chars().take(200).collect();
    Problem::new(
        Code::RouteNotFound,
        format!("no route has the path {path:?}"),
    )
}
