//! How a connection is made: by the URL's login and certificates, to a master.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::error::{Fault, LinkError, is_forbidden, reason};
use super::url::{Address, Arrangement, CERT, KEY, Login, PASSWORD_FILE, ROOT_CERT, RedisUrl};

/// Making a connection, login and checks included.
pub(super) const CONNECT: Duration = Duration::from_millis(500);

/// Makes connections to the servers of one URL.
pub(super) struct Connector {
    pub(super) url: RedisUrl,
    role_forbidden: AtomicBool,
    info_forbidden: AtomicBool,
}

/// A connection to a master.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// The number of this run of the server; `None` where the ACL forbids INFO.
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

    /// The driver's client for a server that holds data. Reads the password and the
    /// certificates again, and connects to nothing.
    pub(super) fn client(&self, address: &Address) -> Result<Client, String> {
        self.client_of(address, &self.url.login, self.url.database)
    }

    fn client_of(&self, address: &Address, login: &Login, database: i64) -> Result<Client, String> {
        // Without TCP_NODELAY a small request waits for the acknowledgement of the last one.
        let tcp = TcpSettings::default().set_nodelay(true);
        let mut settings = RedisConnectionInfo::default()
            .set_db(database)
            .set_protocol(self.url.protocol);
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        if let Some(path) = &login.password_file {
            let password = read(PASSWORD_FILE, path)?;
            let password = String::from_utf8(password)
                .map_err(|_| format!("{PASSWORD_FILE} {}: is not text", path.display()))?;
            settings = settings.set_password(password.trim_end_matches(['\r', '\n']));
        } else if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let at = match (address, &self.url.tls) {
            (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Address::Tcp(host, port), Some(_)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = at.into_connection_info().map_err(|error| reason(&error))?;
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        let client = match &self.url.tls {
            Some(files) if files.root.is_some() || files.certificate.is_some() => {
                let read_if = |name, path: &Option<_>| {
                    let path: Option<&std::path::PathBuf> = path.as_ref();
                    path.map(|path| read(name, path)).transpose()
                };
                let root_cert = read_if(ROOT_CERT, &files.root)?;
                let certificate = read_if(CERT, &files.certificate)?;
                let key = read_if(KEY, &files.key)?;
                let client_tls = certificate.zip(key);
                let client_tls = client_tls.map(|(client_cert, client_key)| ClientTlsConfig {
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

    /// Connects to a server that must be a master. The connection lives on the current
    /// runtime.
    pub(super) async fn connect(&self, address: &Address) -> Result<Connected, Fault> {
        let connecting = async {
            let connection = self.open(address, &self.url.login, self.url.database);
            let mut connection = connection.await?;
            let mut also = connection.clone();
            let (is_replica, run) = tokio::try_join!(
                self.is_replica(&mut connection),
                self.check_server(address, &mut also),
            )?;
            Ok((is_replica, Connected { connection, run }))
        };
        let connected = within(address, connecting).await;
        match connected.map_err(Fault::Broken)? {
            (false, connected) => Ok(connected),
            (true, _) => Err(Fault::NotMaster(LinkError::Unavailable(format!(
                "Redis at {address} is a replica, which cannot hold leases"
            )))),
        }
    }

    /// Connects to a server that is only asked about others: a sentinel, or a node of a
    /// cluster.
    pub(super) async fn consult(
        &self,
        address: &Address,
        sentinel: bool,
    ) -> Result<MultiplexedConnection, LinkError> {
        let login = match sentinel {
            true => &self.url.sentinel_login,
            false => &self.url.login,
        };
        within(address, self.open(address, login, 0)).await
    }

    async fn open(
        &self,
        address: &Address,
        login: &Login,
        database: i64,
    ) -> Result<MultiplexedConnection, LinkError> {
        let client = self.client_of(address, login, database);
        let client = client.map_err(LinkError::Unavailable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.map_err(|error| match error.kind() {
            ErrorKind::InvalidClientConfig if self.url.tls.is_some() => {
                LinkError::Unavailable(format!(
                    "{ROOT_CERT}, {CERT} or {KEY} of the URL cannot be used ({})",
                    reason(&error)
                ))
            }
            _ => failed(&error),
        })
    }

    async fn is_replica(&self, connection: &mut MultiplexedConnection) -> Result<bool, LinkError> {
        let role = connection.req_packed_command(&redis::cmd("ROLE")).await;
        let role = match self.allowed("ROLE", &self.role_forbidden, role)? {
            Some(Value::Array(role)) => role.into_iter().next(),
            _ => None,
        };
        let role = role.map(String::from_redis_value);
        Ok(role.is_some_and(|role| role.is_ok_and(|role| role != "master")))
    }

    /// Returns the number of this run of the server.
    async fn check_server(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<String>, LinkError> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let info = connection.req_packed_command(&info).await;
        let Some(info) = self.allowed("INFO", &self.info_forbidden, info)? else {
            return Ok(None);
        };
        let info = String::from_redis_value(info).unwrap_or_default();
        let in_cluster = field(&info, "redis_mode") == Some("cluster");
        let wanted = match &self.url.arrangement {
            Arrangement::Cluster(_) => None,
            _ if in_cluster => Some("is a node of a Redis Cluster: use redis+cluster://"),
            _ => None,
        };
        match wanted {
            Some(wanted) => Err(LinkError::Unavailable(format!("{address} {wanted}"))),
            None => Ok(field(&info, "run_id").map(str::to_owned)),
        }
    }

    /// Passes an answer on; `None` where this user may not ask, which is said once.
    fn allowed(
        &self,
        command: &str,
        said: &AtomicBool,
        answer: Result<Value, RedisError>,
    ) -> Result<Option<Value>, LinkError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_forbidden(&error) => {
                if !said.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "Redis does not allow {command} to this user, so a server that took the \
                         place of another one is noticed later: ACL SETUSER … +{}",
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
    connecting: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
        Err(LinkError::Unavailable(format!(
            "no connection to Redis at {address} within {CONNECT:?}"
        )))
    })
}

fn failed(error: &RedisError) -> LinkError {
    LinkError::Unavailable(reason(error))
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name} {}: {error}", path.display()))
}

/// A field of what INFO answers.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).map(str::trim)
}
