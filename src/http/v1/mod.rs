//! The API v1.

pub(super) mod actions;
pub(super) mod attention;
pub(super) mod bulk;
pub(super) mod counts;
mod event_response;
pub(super) mod events;
mod fields;
pub(super) mod heartbeats;
pub(super) mod history;
mod history_query;
pub(super) mod instance_list;
mod instance_response;
pub(super) mod instances;
pub(super) mod leases;
pub(super) mod overview;
pub(super) mod registrations;
pub(super) mod replicas;
mod scope_name;
pub(super) mod scopes;
pub(super) mod search;
mod selection_query;
pub(super) mod targets;
pub(super) mod whoami;
