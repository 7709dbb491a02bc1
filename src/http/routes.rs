//! The route table: each path with its methods, their handlers and policies.

use std::rc::Rc;

use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, web};

use super::dialect::Dialect;
use super::endpoint::{Path, Public, delete, get, patch, path, post, put};
use super::facade::{Facades, consul, eureka, nacos};
use super::guard::{RouteGuard, add_headers};
use super::v1::{
    bulk, events, heartbeats, instance_list, instances, leases, overview, scopes, search, targets,
};
use super::{Api, Code, Problem, console, gateway_center, openapi, ops};
use crate::admission::RequestClass;
use crate::auth::Role;
use crate::model::Protocol;

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

/// Returns every path of the protocol of another registry, with its policies. `{v2}` stands for the
/// prefix of some clients.
fn facade_table(protocol: Protocol) -> Vec<Path> {
    use Role::{Admin, Agent, Read};

    let paths = match protocol {
        Protocol::Eureka => vec![
            path(
                "/eureka{v2}/apps/{app}/{id}/status",
                [
                    put(Agent, eureka::set_status),
                    delete(Agent, eureka::delete_status),
                ],
            ),
            path(
                "/eureka{v2}/apps/{app}/{id}/metadata",
                [put(Agent, eureka::add_metadata)],
            ),
            path("/eureka{v2}/apps/delta{slash}", [get(Read, eureka::delta)]),
            path(
                "/eureka{v2}/apps/{app}/{id}",
                [
                    put(Agent, eureka::renew).heartbeat(),
                    get(Read, eureka::show_instance),
                    delete(Agent, eureka::cancel),
                ],
            ),
            path("/eureka{v2}/apps{slash}", [get(Read, eureka::list)]),
            path(
                "/eureka{v2}/apps/{app}",
                [
                    post(Agent, eureka::register),
                    get(Read, eureka::show_application),
                ],
            ),
            path(
                "/eureka{v2}/instances/{id}",
                [get(Read, eureka::show_by_id)],
            ),
            path("/eureka{v2}/vips/{id}", [get(Read, eureka::by_vip)]),
            path("/eureka{v2}/svips/{id}", [get(Read, eureka::by_secure_vip)]),
            path(
                "/eureka{v2}/peerreplication/{file}",
                [post(Agent, eureka::peers)],
            ),
        ],
        Protocol::Nacos => vec![
            path(
                "/nacos/v1/ns/instance/beat",
                [put(Agent, nacos::beat).heartbeat()],
            ),
            path("/nacos/v1/ns/instance/list", [get(Read, nacos::list)]),
            path(
                "/nacos/v1/ns/instance",
                [
                    get(Read, nacos::show),
                    post(Agent, nacos::register),
                    put(Agent, nacos::change),
                    patch(Agent, nacos::change),
                    delete(Agent, nacos::leave),
                ],
            ),
            path("/nacos/v1/ns/service/list", [get(Read, nacos::services)]),
            path(
                "/nacos/v1/ns/service",
                [
                    get(Read, nacos::show_service),
                    post(Admin, nacos::declare),
                    put(Admin, nacos::declare),
                    delete(Admin, nacos::remove),
                ],
            ),
            path("/nacos/v1/ns/operator/metrics", [get(Read, nacos::metrics)]),
            path("/nacos/v1/auth{users}/login", [post(Public, nacos::login)]),
            path(
                "/nacos/v1/console/health/readiness",
                [get(Public, nacos::ready)],
            ),
            path("/nacos/serverlist", [get(Read, nacos::servers)]),
            path(
                "/nacos/v1/cs/{file}",
                [
                    get(Read, nacos::configuration),
                    post(Read, nacos::configuration),
                    delete(Read, nacos::configuration),
                ],
            ),
        ],
        Protocol::Consul => vec![
            path(
                "/v1/agent/check/pass/{name}",
                [put(Agent, consul::check_pass).heartbeat().catches_up()],
            ),
            path(
                "/v1/agent/check/warn/{name}",
                [put(Agent, consul::check_warn).heartbeat().catches_up()],
            ),
            path(
                "/v1/agent/check/fail/{name}",
                [put(Agent, consul::check_fail)],
            ),
            path(
                "/v1/agent/check/update/{name}",
                [put(Agent, consul::check_update).heartbeat().catches_up()],
            ),
            path(
                "/v1/agent/check/register",
                [put(Agent, consul::check_register)],
            ),
            path(
                "/v1/agent/check/deregister/{name}",
                [put(Agent, consul::check_deregister)],
            ),
            path("/v1/agent/service/register", [put(Agent, consul::register)]),
            path(
                "/v1/agent/service/deregister/{name}",
                [put(Agent, consul::deregister)],
            ),
            path(
                "/v1/agent/service/maintenance/{name}",
                [put(Agent, consul::maintenance)],
            ),
            path(
                "/v1/agent/service/{name}",
                [get(Read, consul::agent_service)],
            ),
            path("/v1/agent/services", [get(Read, consul::services)]),
            path("/v1/agent/checks", [get(Read, consul::checks)]),
            path("/v1/agent/self", [get(Public, consul::self_)]),
            path("/v1/agent/members", [get(Read, consul::members)]),
            path(
                "/v1/agent/health/service/id/{name}",
                [get(Read, consul::health_by_id)],
            ),
            path(
                "/v1/agent/health/service/name/{name}",
                [get(Read, consul::health_by_name)],
            ),
            path("/v1/health/service/{name}", [get(Read, consul::health)]),
            path(
                "/v1/health/checks/{name}",
                [get(Read, consul::checks_of_service)],
            ),
            path(
                "/v1/health/state/{name}",
                [get(Read, consul::checks_in_state)],
            ),
            path(
                "/v1/health/node/{name}",
                [get(Read, consul::checks_of_node)],
            ),
            path("/v1/catalog/services", [get(Read, consul::list)]),
            path("/v1/catalog/service/{name}", [get(Read, consul::service)]),
            path("/v1/catalog/nodes", [get(Read, consul::nodes)]),
            path("/v1/catalog/node/{name}", [get(Read, consul::node)]),
            path(
                "/v1/catalog/datacenters",
                [get(Public, consul::datacenters)],
            ),
            path("/v1/status/leader", [get(Public, consul::leader)]),
            path("/v1/status/peers", [get(Public, consul::peers)]),
            path("/v1/kv/{file}", [get(Read, consul::no_key)]),
        ],
    };
    let paths = paths.into_iter();
    paths.map(|path| path.of_protocol(protocol)).collect()
}

/// Adds every path to an application.
pub(crate) fn configure(app: &mut web::ServiceConfig, api: Api) {
    let api = web::Data::new(api);
    Facades::start(&api);
    let facades = api
        .facades
        .protocols()
        .iter()
        .flat_map(|facade| facade_table(*facade));
    for Path {
        pattern,
        dialect,
        endpoints,
    } in facades.chain(table())
    {
        let allow = endpoints.iter().map(|endpoint| match endpoint.method {
            "GET" => "GET, HEAD",
            method => method,
        });
        let allow = Vec::from_iter(allow.chain(["OPTIONS"])).join(", ");
        let policies = endpoints
            .iter()
            .map(|endpoint| (endpoint.method, endpoint.policy));
        let route_guard = Rc::new(RouteGuard::new(
            pattern,
            policies,
            allow.clone(),
            dialect,
            &api,
        ));
        let mut resource = web::resource(matcher(pattern));
        for endpoint in endpoints {
            resource = resource.route(endpoint.route);
        }
        let resource = resource.default_service(web::to(move || {
            let answer = dialect.refusal(&Problem::method_not_allowed(allow.clone()));
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
        let dialect = Dialect::of_unknown(request.path());
        let mut answer = dialect.refusal(&route_not_found(&request));
        add_headers(request.method(), answer.headers_mut());
        async { answer }
    }));
    app.app_data(api);
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
        .replace("{v2}", "{v2:(?:/v2)?}")
        .replace("{slash}", "{slash:/?}")
        .replace("{users}", "{users:(?:/users)?}")
        .replace("{id}", "{id:.+}")
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
