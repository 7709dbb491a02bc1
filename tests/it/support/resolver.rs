//! A private HAProxy whose servers come from DNS.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::eventually;
use super::process::{Process, free_port};
use super::web_proxies::haproxy;

/// A running HAProxy that follows the SRV records of one service.
pub(crate) struct Resolver {
    process: Process,
    dir: TempDir,
}

impl Resolver {
    /// Follows `SERVICE.service.consul` at a DNS server.
    pub(crate) async fn start(dns: SocketAddr, service: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let stats = dir.path().join("stats");
        let text = format!(
            "global\n  stats socket {stats} level admin\n\
             defaults\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             resolvers registry\n  nameserver one {dns}\n  accepted_payload_size 8192\n  \
             hold valid 500ms\n  hold obsolete 500ms\n  hold nx 500ms\n  timeout resolve 500ms\n\
             frontend all\n  bind 127.0.0.1:{port}\n  default_backend service\n\
             backend service\n  server-template s 20 _{service}._tcp.service.consul \
             resolvers registry resolve-prefer ipv4 init-addr none\n",
            stats = stats.display(),
            port = free_port(),
        );
        let resolver = Self {
            process: haproxy(dir.path(), &text),
            dir,
        };
        eventually(Duration::from_secs(20), "HAProxy runs", || {
            let runs = UnixStream::connect(&stats).is_ok();
            async move { runs.then_some(()) }
        })
        .await;
        resolver
    }

    /// Returns the addresses of its servers.
    pub(crate) fn servers(&self) -> BTreeSet<String> {
        let mut socket = UnixStream::connect(self.dir.path().join("stats")).unwrap();
        socket.write_all(b"show servers state\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let rows = rows.filter(|row| row.len() > 18 && row[0].parse::<u32>().is_ok());
        let addresses = rows.map(|row| row[4].to_owned());
        addresses.filter(|address| address != "-").collect()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.process.end_by(Signal::TERM);
    }
}
