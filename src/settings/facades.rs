//! The settings of the protocols of other registries.

use std::net::SocketAddr;

use clap::Args;

use crate::dns::{DnsSettings, Domain};
use crate::model::Protocol;

/// The protocols of other registries.
#[derive(Debug, Clone, Args)]
pub(crate) struct FacadeSettings {
    /// The protocols of other registries whose clients are served on --listen, separated by commas:
    /// eureka, consul, nacos
    #[arg(long, value_name = "PROTOCOLS", value_delimiter = ',')]
    pub(crate) facades: Vec<Protocol>,

    /// The address and port of the DNS server, on UDP and TCP. It answers everyone who reaches it,
    /// without a token
    #[arg(long, value_name = "IP:PORT")]
    dns_listen: Option<SocketAddr>,

    /// The domain of the services in DNS: the name of orders is orders.service.consul
    #[arg(long, value_name = "DOMAIN", default_value = "consul")]
    dns_domain: Domain,

    /// The most answers over UDP per second to a network (/24, or /56 of IPv6); 0 for any number
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    dns_rate_limit: u32,
}

impl FacadeSettings {
    /// Returns the settings of the DNS server, if there is to be one.
    pub(crate) fn dns(&self) -> Option<DnsSettings> {
        Some(DnsSettings {
            listen: self.dns_listen?,
            domain: self.dns_domain.clone(),
            rate_limit: self.dns_rate_limit,
        })
    }
}
