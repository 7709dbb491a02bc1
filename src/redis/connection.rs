//! Opens connections, with the login and the certificates of the URL.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::address::Address;
use super::error::{Fault, is_forbidden, reason};
use super::url::{Arrangement, CERT, KEY, Login, PASSWORD_FILE, ROOT_CERT, RedisUrl};
use crate::backend::BackendError;

/// The time limit for a connection, including its login and checks.
pub(super) const CONNECT: Duration = Duration::from_millis(500);

/// Opens connections to the servers of one URL.
pub(super) struct Connector {
    pub(super) url: RedisUrl,
    role_forbidden: AtomicBool,
    info_forbidden: AtomicBool,
}

/// A connection to a master.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// The run ID of the server; `None` if the ACL forbids INFO.
    pub(super) run: Option<String>,
}

impl Connector {
    pub(super) fn new(url: RedisUrl) -> Self {
        Self {
            url,
            role_forbidden: AtomicBool::new(false),
            info_forbidden: AtomicBool::new(false),
        }
    }

    /// Returns the driver's client for a server that holds data. Reads the password file and
    /// the certificates again; does not connect.
    pub(super) fn client(&self, address: &Address) -> Result<Client, String> {
        self.client_with_login(address, &self.url.login, self.url.database)
    }

    fn client_with_login(
        &self,
        address: &Address,
        login: &Login,
        database: i64,
    ) -> Result<Client, String> {
        // Without TCP_NODELAY a small request waits until the previous one is acknowledged.
        let tcp = TcpSettings::default().set_nodelay(true);
        let mut settings = RedisConnectionInfo::default()
            .set_db(database)
            .set_protocol(self.url.protocol);
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        if let Some(path) = &login.password_file {
            let password = String::from_utf8(read(PASSWORD_FILE, path)?)
                .map_err(|_| format!("{PASSWORD_FILE} {}: is not UTF-8 text", path.display()))?;
            settings = settings.set_password(password.trim_end_matches(['\r', '\n']));
        } else if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let driver_address = match (address, &self.url.tls) {
            (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Address::Tcp(host, port), Some(_)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = driver_address
            .into_connection_info()
            .map_err(|error| reason(&error))?
            .set_tcp_settings(tcp)
            .set_redis_settings(settings);
        let client = match &self.url.tls {
            Some(files) if files.root.is_some() || files.certificate.is_some() => {
                let read_if = |name, path: &Option<_>| {
                    let path: Option<&std::path::PathBuf> = path.as_ref();
                    path.map(|path| read(name, path)).transpose()
                };
                let root_cert = read_if(ROOT_CERT, &files.root)?;
                let certificate = read_if(CERT, &files.certificate)?;
                let key = read_if(KEY, &files.key)?;
                let client_tls =
                    certificate
                        .zip(key)
                        .map(|(client_cert, client_key)| ClientTlsConfig {
                            client_cert,
                            client_key,
                        });
                let certificates = TlsCertificates {
                    client_tls,
                    root_cert,
                };
                Client::build_with_tls(info, certificates)
            }
            _ => Client::open(info),
        };
        client.map_err(|error| reason(&error))
    }

    /// Connects to a master; fails if the server is a replica. The connection runs on the
    /// current runtime.
    pub(super) async fn connect(&self, address: &Address) -> Result<Connected, Fault> {
        let connecting = async {
            let mut connection = self
                .open(address, &self.url.login, self.url.database)
                .await?;
            let mut clone = connection.clone();
            let (is_replica, run) = tokio::try_join!(
                self.is_replica(&mut connection),
                self.check_server(address, &mut clone),
            )?;
            Ok((is_replica, Connected { connection, run }))
        };
        let connected = within(address, connecting).await;
        match connected.map_err(Fault::Broken)? {
            (false, connected) => Ok(connected),
            (true, _) => Err(Fault::NotMaster(BackendError::Unavailable(format!(
                "Redis at {address} is a read-only replica, not a master"
            )))),
        }
    }

    /// Connects to a server that only reports the addresses of masters: a Sentinel, or a node
    /// of a cluster.
    pub(super) async fn connect_for_discovery(
        &self,
        address: &Address,
        sentinel: bool,
    ) -> Result<MultiplexedConnection, BackendError> {
        let login = if sentinel {
            &self.url.sentinel_login
        } else {
            &self.url.login
        };
        within(address, self.open(address, login, 0)).await
    }

    async fn open(
        &self,
        address: &Address,
        login: &Login,
        database: i64,
    ) -> Result<MultiplexedConnection, BackendError> {
        let client = self
            .client_with_login(address, login, database)
            .map_err(BackendError::Unavailable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.map_err(|error| match error.kind() {
            ErrorKind::InvalidClientConfig if self.url.tls.is_some() => {
                BackendError::Unavailable(format!(
                    "{ROOT_CERT}, {CERT} or {KEY} of the URL cannot be used ({})",
                    reason(&error)
                ))
            }
            _ => failed(&error),
        })
    }

    async fn is_replica(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<bool, BackendError> {
        let reply = redis::cmd("ROLE")
            .query_async::<Vec<Value>>(connection)
            .await;
        let role = self
            .if_permitted("ROLE", &self.role_forbidden, reply)?
            .and_then(|fields| fields.into_iter().next())
            .map(String::from_redis_value);
        Ok(role.is_some_and(|role| role.is_ok_and(|role| role == "slave")))
    }

    /// Returns the run ID of the server. Fails if the scheme of the URL is for another kind of
    /// server.
    async fn check_server(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<String>, BackendError> {
        let reply = redis::cmd("INFO")
            .arg("server")
            .query_async::<String>(connection)
            .await;
        let Some(info) = self.if_permitted("INFO", &self.info_forbidden, reply)? else {
            return Ok(None);
        };
        let kind = match (field(&info, "redis_mode"), &self.url.arrangement) {
            (Some("sentinel"), _) => Some("a Sentinel: use redis+sentinel://HOST,HOST/MASTER"),
            (_, Arrangement::Cluster(_)) => None,
            (Some("cluster"), _) => {
                Some("a node of a Redis Cluster: use redis+cluster://HOST,HOST")
            }
            _ => None,
        };
        match kind {
            Some(kind) => Err(BackendError::Unavailable(format!("{address} is {kind}"))),
            None => Ok(field(&info, "run_id").map(str::to_owned)),
        }
    }

    /// Returns the reply, or `None` if the ACL forbids the command. Logs the latter once.
    fn if_permitted<T>(
        &self,
        command: &str,
        logged: &AtomicBool,
        reply: Result<T, RedisError>,
    ) -> Result<Option<T>, BackendError> {
        match reply {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if is_forbidden(&error) => {
                if !logged.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "the ACL of Redis forbids {command} to this user, so a failover or a \
                         restart of Redis is detected later; grant +{}",
                        command.to_lowercase()
                    );
                }
                Ok(None)
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

async fn within<T>(
    address: &Address,
    connecting: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
        Err(BackendError::Unavailable(format!(
            "no connection to Redis at {address} within {CONNECT:?}"
        )))
    })
}

fn failed(error: &RedisError) -> BackendError {
    BackendError::Unavailable(reason(error))
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name} {}: {error}", path.display()))
}

/// Returns a field of the reply to INFO.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).map(str::trim)
}
