//! The HTTP API of Consul: agent, health, catalog and status.
//!
//! All services are those of one agent. A service has TTL checks, whose lease is that of the
//! instance, or none: then the daemon renews the lease itself ([`unchecked`]).

mod agent;
mod blocking;
mod catalog;
mod check;
mod duration;
mod entry;
mod named;
mod registration;
mod show;
mod unchecked;

pub(in crate::http) use self::agent::{
    checks, deregister, health_by_id, health_by_name, leader, maintenance, members, no_key, peers,
    register, self_, service as agent_service, services,
};
pub(super) use self::catalog::ConsulList;
pub(in crate::http) use self::catalog::{
    checks_in_state, checks_of_node, checks_of_service, datacenters, health, list, node, nodes,
    service,
};
pub(in crate::http) use self::check::{
    check_deregister, check_fail, check_pass, check_register, check_update, check_warn,
};
pub(super) use self::unchecked::keep_online;
