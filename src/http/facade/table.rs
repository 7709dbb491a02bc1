//! The route table of the protocols of other registries: each path with its methods, their handlers
//! and policies.

use super::{consul, eureka, nacos};
use crate::auth::Role;
use crate::http::endpoint::{Path, Public, delete, get, patch, path, post, put};
use crate::model::Protocol;

/// Returns every path of the protocol of another registry, with its policies. `{v2}` is `/v2` or
/// nothing.
pub(in crate::http) fn table(protocol: Protocol) -> Vec<Path> {
    use Role::{Admin, Agent, Read};

    let paths = match protocol {
        Protocol::Eureka => vec![
            // The most frequent request, whose ID nearly always has no slash.
            eureka_instance("/eureka{v2}/apps/{app}/{id}"),
            path(
                "/eureka{v2}/apps/{app}/{path}/status",
                [
                    put(Agent, eureka::set_status),
                    delete(Agent, eureka::delete_status),
                ],
            ),
            path(
                "/eureka{v2}/apps/{app}/{path}/metadata",
                [put(Agent, eureka::add_metadata)],
            ),
            path("/eureka{v2}/apps/delta{slash}", [get(Read, eureka::delta)]),
            eureka_instance("/eureka{v2}/apps/{app}/{path}"),
            path("/eureka{v2}/apps{slash}", [get(Read, eureka::list)]),
            path(
                "/eureka{v2}/apps/{app}",
                [
                    post(Agent, eureka::register),
                    get(Read, eureka::show_application),
                ],
            ),
            path(
                "/eureka{v2}/instances/{path}",
                [get(Read, eureka::show_by_id)],
            ),
            path("/eureka{v2}/vips/{path}", [get(Read, eureka::by_vip)]),
            path(
                "/eureka{v2}/svips/{path}",
                [get(Read, eureka::by_secure_vip)],
            ),
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

/// Where the paths of a protocol are: the beginning of their patterns, and what stands for it in a
/// request. The router compares these before it tries the patterns, so they cost other paths little.
pub(in crate::http) fn mounts(protocol: Protocol) -> &'static [(&'static str, &'static str)] {
    match protocol {
        Protocol::Eureka => &[("/eureka{v2}", "/eureka/v2"), ("/eureka{v2}", "/eureka")],
        Protocol::Consul => &[
            ("/v1/agent", "/v1/agent"),
            ("/v1/health", "/v1/health"),
            ("/v1/catalog", "/v1/catalog"),
            ("/v1/status", "/v1/status"),
            ("/v1/kv", "/v1/kv"),
        ],
        Protocol::Nacos => &[("/nacos", "/nacos")],
    }
}

/// Returns a path of one instance of Eureka.
fn eureka_instance(pattern: &'static str) -> Path {
    path(
        pattern,
        [
            put(Role::Agent, eureka::renew).heartbeat(),
            get(Role::Read, eureka::show_instance),
            delete(Role::Agent, eureka::cancel),
        ],
    )
}
