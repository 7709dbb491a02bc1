//! The services as a zone of DNS, for clients that know nothing else: A, AAAA and SRV over UDP and
//! TCP, without recursion.
//!
//! DNS has no tokens: every client that reaches the port reads the available instances of all
//! services.

mod limit;
mod message;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::limit::{RateLimit, Verdict};
use self::message::{Answered, MAX_TCP};
pub(crate) use self::zone::Domain;
use self::zone::Zone;
use crate::directory::Directory;
use crate::metrics::Metrics;

/// The most connections.
const CONNECTIONS: usize = 512;

/// The time after which a connection without a query is closed.
const IDLE: Duration = Duration::from_secs(10);

/// The pause after the system refused a connection, such as for lack of open files.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The settings of the DNS server.
#[derive(Debug, Clone)]
pub(crate) struct DnsSettings {
    /// Where it listens, on UDP and TCP.
    pub(crate) listen: SocketAddr,
    /// The domain of the zone.
    pub(crate) domain: Domain,
    /// The most answers over UDP per second and network; 0 for any number.
    pub(crate) rate_limit: u32,
}

/// A DNS server that listens.
pub(crate) struct DnsServer {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    zone: Zone,
    limit: RateLimit,
    metrics: Arc<Metrics>,
}

impl DnsServer {
    /// Binds the sockets, so that a wrong setting is an error of the start.
    pub(crate) fn bind(
        settings: DnsSettings,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let tcp = std::net::TcpListener::bind(settings.listen)?;
        // With port 0 both have the port that TCP got.
        let udp = std::net::UdpSocket::bind(tcp.local_addr()?)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self {
            udp,
            tcp,
            zone: Zone::new(settings.domain, directory),
            limit: RateLimit::new(settings.rate_limit),
            metrics,
        })
    }

    /// Returns the address of the server.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers queries for as long as the runtime runs.
    pub(crate) async fn serve(self) -> io::Result<()> {
        let udp = UdpSocket::from_std(self.udp)?;
        let tcp = TcpListener::from_std(self.tcp)?;
        let (zone, metrics) = (Arc::new(self.zone), self.metrics);
        tokio::join!(
            serve_udp(&udp, &zone, self.limit, &metrics),
            serve_tcp(&tcp, &zone, &metrics)
        );
        Ok(())
    }
}

async fn serve_udp(socket: &UdpSocket, zone: &Zone, mut limit: RateLimit, metrics: &Metrics) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Such as the ICMP answer to an earlier datagram.
            Err(error) => {
                log::debug!("cannot receive a DNS query: {error}");
                continue;
            }
        };
        let answered = match limit.check(peer.ip()) {
            // A query that makes the decoder panic must not end the server.
            Verdict::Answer => {
                let answer = AssertUnwindSafe(|| message::over_udp(zone, &buffer[..length]));
                catch_unwind(answer).unwrap_or_default()
            }
            // An honest client then asks over TCP, and a forged address gets no more than it sent.
            Verdict::Truncate => message::truncated(&buffer[..length]),
            Verdict::Drop => None,
        };
        let Some(Answered { bytes, code }) = answered else {
            metrics.dns.dropped.inc();
            continue;
        };
        count(metrics, code);
        if let Err(error) = socket.send_to(&bytes, peer).await {
            log::debug!("cannot send a DNS response to {peer}: {error}");
        }
    }
}

fn count(metrics: &Metrics, code: ResponseCode) {
    let outcome = match code {
        ResponseCode::NoError => &metrics.dns.no_error,
        ResponseCode::NXDomain => &metrics.dns.no_name,
        ResponseCode::Refused => &metrics.dns.refused,
        _ => &metrics.dns.failed,
    };
    outcome.inc();
}

async fn serve_tcp(listener: &TcpListener, zone: &Arc<Zone>, metrics: &Arc<Metrics>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::debug!("cannot accept a DNS connection: {error}");
                sleep(REFUSED_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            metrics.dns.dropped.inc();
            continue;
        };
        let (zone, metrics) = (Arc::clone(zone), Arc::clone(metrics));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = serve_connection(stream, &zone, &metrics).await {
                log::debug!("a DNS connection ended: {error}");
            }
        });
    }
}

/// Answers the queries of a connection in their order.
async fn serve_connection(mut stream: TcpStream, zone: &Zone, metrics: &Metrics) -> io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        };
        let Ok(query) = timeout(IDLE, read).await else {
            return Ok(());
        };
        let Some(Answered { bytes, code }) = message::over_tcp(zone, &query?) else {
            metrics.dns.dropped.inc();
            return Ok(());
        };
        count(metrics, code);
        // At most MAX_TCP bytes.
        let length = u16::try_from(bytes.len()).unwrap_or(MAX_TCP);
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let written = timeout(IDLE, stream.write_all(&framed)).await;
        written.map_err(io::Error::from)??;
    }
}
