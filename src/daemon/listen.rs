//! Binds the servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer};

use super::core::Core;
use super::{DaemonError, Shared};
use crate::dns::{DnsServer, DnsSettings};
use crate::http;
use crate::settings::ServeSettings;
use crate::tls::Tls;

/// Longer than the interval of heartbeats, so that agents can reuse their connections.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The time limit for the TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Binds the server, and returns its address, with the picked port if the setting is port 0.
pub(super) fn listen(
    settings: &ServeSettings,
    shared: &Shared,
    tls: Option<&Tls>,
) -> Result<(Server, SocketAddr), DaemonError> {
    let (per_worker, on_connect) = (shared.clone(), Arc::clone(&shared.connections));
    // Runs once on the thread of each worker, where its HeartbeatActor lives.
    let origins = settings.access.cors_origin.clone();
    let application = move || {
        let api = per_worker.api();
        App::new()
            .wrap(http::cross_origin(&origins))
            .configure(|app| http::configure(app, api))
    };
    let server = HttpServer::new(application)
        .workers(settings.workers())
        .max_connections(shared.connections.limit().div_ceil(settings.workers()))
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HANDSHAKE)
        .tls_handshake_timeout(HANDSHAKE)
        .on_connect(move |connection, data| on_connect.opened(connection, data))
        .shutdown_timeout(settings.drain_http().as_secs().max(1))
        .disable_signals();
    let server = match tls {
        Some(tls) => server.bind_rustls_0_23(settings.listen, tls.server_config()?),
        None => server.bind(settings.listen),
    };
    let server = server.map_err(|source| DaemonError::Listen {
        setting: "--listen",
        address: settings.listen,
        source,
    })?;
    let address = server.addrs().first().copied().unwrap_or(settings.listen);
    Ok((server.run(), address))
}

/// Binds the DNS server.
pub(super) fn listen_dns(settings: DnsSettings, core: &Core) -> Result<DnsServer, DaemonError> {
    let address = settings.listen;
    let (directory, metrics) = (Arc::clone(&core.directory), Arc::clone(&core.metrics));
    let server = DnsServer::bind(settings, directory, metrics);
    server
        .and_then(|server| {
            let address = server.address()?;
            log::info!("DNS listens on {address}, and answers everyone who reaches it");
            Ok(server)
        })
        .map_err(|source| DaemonError::Listen {
            setting: "--dns-listen",
            address,
            source,
        })
}
