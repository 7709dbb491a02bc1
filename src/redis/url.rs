//! The Redis URLs of `--leases`: for one server, for a master behind Sentinels, or for a
//! cluster.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use redis::{IntoConnectionInfo, ProtocolVersion};
use url::Url;

use super::address::Address;
use super::error::reason;
use crate::backend::{BackendUrl, UrlError};

/// The parameter for the PEM file of the certificate authorities that the server certificate is
/// checked against. The default is the authorities of the system. The TLS parameters have the
/// names that PostgreSQL uses.
pub(super) const ROOT_CERT: &str = "sslrootcert";
/// The parameter for the PEM file of the client certificate.
pub(super) const CERT: &str = "sslcert";
/// The parameter for the PEM file of the key of the client certificate.
pub(super) const KEY: &str = "sslkey";
/// The parameter for the file of the password, which is read again for each new connection.
pub(super) const PASSWORD_FILE: &str = "password_file";

const PROTOCOL: &str = "protocol";
const DATABASE: &str = "db";
const SOCKET_USER: &str = "user";
const SOCKET_PASSWORD: &str = "pass";
const SENTINEL_USERNAME: &str = "sentinel_username";
const SENTINEL_PASSWORD: &str = "sentinel_password";
const SENTINEL_PASSWORD_FILE: &str = "sentinel_password_file";

/// The forms of the URL, for error messages.
pub(crate) const FORMS: &str = "redis://HOST, redis+sentinel://HOST,HOST/MASTER, \
                         redis+cluster://HOST,HOST or redis+unix:///PATH (rediss for TLS)";

/// The kind of deployment.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// The server at this address, or behind a proxy at it.
    Single(Address),
    /// The master of this name, whose address these Sentinels report.
    Sentinel {
        sentinels: Vec<Address>,
        master: String,
    },
    /// The cluster that contains these nodes.
    Cluster(Vec<Address>),
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) root: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// A parsed URL of a single Redis, of a master behind Sentinels, or of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// The URL as it is displayed, without passwords.
    display: BackendUrl,
    pub(super) arrangement: Arrangement,
    /// `None` without TLS.
    pub(super) tls: Option<TlsFiles>,
    pub(super) login: Login,
    /// The login at the Sentinels.
    pub(super) sentinel_login: Login,
    pub(super) database: i64,
    pub(super) protocol: ProtocolVersion,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel,
    Cluster,
    Unix,
}

/// Returns the kind that a scheme stands for, and whether it uses TLS.
fn scheme(name: &str) -> Option<(Kind, bool)> {
    let (server, kind) = match name.split_once('+') {
        None if name == "unix" => return Some((Kind::Unix, false)),
        None => (name, Kind::Single),
        Some((server, "sentinel")) => (server, Kind::Sentinel),
        Some((server, "cluster")) => (server, Kind::Cluster),
        Some((server, "unix")) => (server, Kind::Unix),
        Some(_) => return None,
    };
    match server {
        "redis" | "valkey" => Some((kind, false)),
        "rediss" | "valkeys" if kind != Kind::Unix => Some((kind, true)),
        _ => None,
    }
}

impl RedisUrl {
    /// Returns whether `name` is the scheme of a Redis URL.
    pub(crate) fn has_scheme(name: &str) -> bool {
        scheme(name).is_some()
    }

    fn parse(text: &str) -> Result<Self, UrlError> {
        let (name, _) = text
            .split_once("://")
            .ok_or_else(|| UrlError::new(format!("must be {FORMS}")))?;
        let (kind, tls) = scheme(name).ok_or_else(|| UrlError::new(format!("must be {FORMS}")))?;
        let display = BackendUrl::parse(text)?;
        let url = display.first().clone();
        if url.fragment().is_some() {
            return Err(UrlError::new("a # in the URL must be written as %23"));
        }
        let mut parsed = Self {
            display,
            arrangement: Arrangement::Cluster(Vec::new()),
            tls: tls.then(TlsFiles::default),
            login: Login::default(),
            sentinel_login: Login::default(),
            database: 0,
            protocol: ProtocolVersion::default(),
        };
        let database = parsed.read_parameters(&url, kind)?;
        let path = url.path().trim_matches('/');
        let path_database = match (kind, path) {
            (_, "") | (Kind::Unix, _) => None,
            (Kind::Single, path) => Some(number(path)?),
            (Kind::Sentinel, _) => None,
            (Kind::Cluster, _) => {
                return Err(UrlError::new(
                    "a Redis Cluster has only database 0: remove the number of the database",
                ));
            }
        };
        if path_database.is_some() && database.is_some() && path_database != database {
            return Err(UrlError::new(
                "the path and the parameter db select different databases: keep one of them",
            ));
        }
        parsed.database = path_database.or(database).unwrap_or_default();
        if kind == Kind::Unix {
            let path = Url::parse(&format!("file://{}", url.path()))
                .ok()
                .and_then(|path| path.to_file_path().ok())
                .filter(|_| parsed.display.hosts() == [""] && url.path().len() > 1)
                .ok_or_else(|| UrlError::new("must be redis+unix:///PATH"))?;
            parsed.arrangement = Arrangement::Single(Address::Unix(path));
            return Ok(parsed);
        }
        let port = match kind {
            Kind::Sentinel => 26379,
            _ => 6379,
        };
        let mut addresses = Vec::new();
        for host in parsed.display.hosts() {
            let (address, login) = host_and_login(parsed.display.user(), host, port)?;
            addresses.push(address);
            if login.username.is_some() {
                parsed.login.username = login.username;
            }
            if login.password.is_some() {
                parsed.login.password = login.password;
            }
        }
        if parsed.login.password.is_some() && parsed.login.password_file.is_some() {
            return Err(UrlError::new(
                "password and password_file cannot be combined",
            ));
        }
        parsed.arrangement = match kind {
            Kind::Cluster if parsed.database != 0 => {
                return Err(UrlError::new(
                    "a Redis Cluster has only database 0: remove the number of the database",
                ));
            }
            Kind::Cluster => Arrangement::Cluster(addresses),
            Kind::Sentinel => Arrangement::Sentinel {
                sentinels: addresses,
                master: match path {
                    "" => {
                        let reason = "the name of the master is missing: use \
                                      redis+sentinel://HOST,HOST/MASTER";
                        return Err(UrlError::new(reason));
                    }
                    master => decoded(master)?,
                },
            },
            _ if addresses.len() > 1 => {
                let reason = "several hosts require redis+sentinel:// or redis+cluster://";
                return Err(UrlError::new(reason));
            }
            _ => Arrangement::Single(addresses.swap_remove(0)),
        };
        Ok(parsed)
    }

    /// Reads the query parameters. Returns the database, if the parameter `db` selects one.
    fn read_parameters(&mut self, url: &Url, kind: Kind) -> Result<Option<i64>, UrlError> {
        let mut database = None;
        for (name, value) in url.query_pairs() {
            let value = value.into_owned();
            match (&*name, &mut self.tls) {
                (ROOT_CERT, Some(tls)) => tls.root = Some(value.into()),
                (CERT, Some(tls)) => tls.certificate = Some(value.into()),
                (KEY, Some(tls)) => tls.key = Some(value.into()),
                (ROOT_CERT | CERT | KEY, None) => {
                    return Err(UrlError::new(format!("{name} requires rediss://")));
                }
                (DATABASE, _) => database = Some(number(&value)?),
                (PASSWORD_FILE, _) => self.login.password_file = Some(value.into()),
                (PROTOCOL, _) => {
                    let text = format!("redis://h/?{PROTOCOL}={value}");
                    let info = text
                        .into_connection_info()
                        .map_err(|error| UrlError::new(reason(&error)))?;
                    self.protocol = info.redis_settings().protocol();
                }
                (SOCKET_USER, _) if kind == Kind::Unix => self.login.username = Some(value),
                (SOCKET_PASSWORD, _) if kind == Kind::Unix => self.login.password = Some(value),
                (SENTINEL_USERNAME, _) if kind == Kind::Sentinel => {
                    self.sentinel_login.username = Some(value);
                }
                (SENTINEL_PASSWORD, _) if kind == Kind::Sentinel => {
                    self.sentinel_login.password = Some(value);
                }
                (SENTINEL_PASSWORD_FILE, _) if kind == Kind::Sentinel => {
                    self.sentinel_login.password_file = Some(value.into());
                }
                (other, _) => {
                    let mut known = vec![DATABASE, PROTOCOL, PASSWORD_FILE];
                    match kind {
                        Kind::Unix => known.extend([SOCKET_USER, SOCKET_PASSWORD]),
                        Kind::Sentinel => known.extend([
                            SENTINEL_USERNAME,
                            SENTINEL_PASSWORD,
                            SENTINEL_PASSWORD_FILE,
                        ]),
                        _ => {}
                    }
                    if self.tls.is_some() {
                        known.extend([ROOT_CERT, CERT, KEY]);
                    }
                    return Err(UrlError::new(format!(
                        "unknown parameter {other}; the known ones are {}",
                        known.join(", ")
                    )));
                }
            }
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            return Err(UrlError::new(format!(
                "{CERT} and {KEY} must be given together"
            )));
        }
        Ok(database)
    }
}

fn number(text: &str) -> Result<i64, UrlError> {
    text.parse()
        .ok()
        .filter(|number| *number >= 0)
        .ok_or_else(|| UrlError::new(format!("{text:?} is not the number of a database")))
}

/// Parses a host and a login with the driver, which also decodes escaped characters.
fn host_and_login(user: &str, host: &str, port: u16) -> Result<(Address, Login), UrlError> {
    let url = Url::parse(&format!("redis://{user}{host}")).map_err(UrlError::new)?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(UrlError::new("a host is missing"));
    }
    let port = url.port().unwrap_or(port);
    let info = url
        .into_connection_info()
        .map_err(|error| UrlError::new(reason(&error)))?;
    let redis::ConnectionAddr::Tcp(host, _) = info.addr() else {
        return Err(UrlError::new("a host is missing"));
    };
    let login = Login {
        username: info.redis_settings().username().map(str::to_owned),
        password: info.redis_settings().password().map(str::to_owned),
        password_file: None,
    };
    Ok((Address::Tcp(host.clone(), port), login))
}

/// Decodes the escaped characters in a part of a path, with the driver's decoder of user names.
fn decoded(text: &str) -> Result<String, UrlError> {
    let (_, login) = host_and_login(&format!("{text}@"), "h", 0)?;
    Ok(login.username.unwrap_or_default())
}

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

/// Hides the passwords.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display.fmt(f)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RedisUrl {
        text.parse().unwrap()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn a_url_selects_one_server_a_master_behind_sentinels_or_a_cluster() {
        for text in ["redis://h", "valkey://h", "rediss://h/", "valkeys://h"] {
            assert!(
                parse(text).arrangement == Arrangement::Single(tcp("h", 6379)),
                "{text}"
            );
        }
        let url = parse("redis+sentinel://u:p%40ss@a:1,b,[::1]:3/my%20master?db=4");
        let sentinels = vec![tcp("a", 1), tcp("b", 26379), tcp("::1", 3)];
        let master = "my master".to_owned();
        assert!(url.arrangement == Arrangement::Sentinel { sentinels, master });
        assert_eq!(url.login.username.as_deref(), Some("u"));
        assert_eq!(url.login.password.as_deref(), Some("p@ss"));
        assert_eq!((url.database, url.tls.is_none()), (4, true));
        let url = parse("rediss+cluster://a,b:2?sslrootcert=x");
        assert!(url.arrangement == Arrangement::Cluster(vec![tcp("a", 6379), tcp("b", 2)]));
        assert_eq!(url.tls.unwrap().root, Some("x".into()));
        let url = parse("redis+unix:///run/redis.sock?db=2&user=u&pass=p");
        assert!(url.arrangement == Arrangement::Single(Address::Unix("/run/redis.sock".into())));
        assert_eq!(
            (url.database, url.login.password.as_deref()),
            (2, Some("p"))
        );
        assert_eq!(parse("redis://h/3").database, 3);
        assert_eq!(parse("redis://h?db=3").database, 3);
    }

    #[test]
    fn the_error_for_an_invalid_url_says_what_is_wrong() {
        for (text, why) in [
            (
                "redis://a,b",
                "several hosts require redis+sentinel:// or redis+cluster://",
            ),
            (
                "redis://h/1?db=2",
                "the path and the parameter db select different databases: keep one of them",
            ),
            ("redis://h/x", "\"x\" is not the number of a database"),
            (
                "redis+cluster://h/1",
                "a Redis Cluster has only database 0: remove the number of the database",
            ),
            (
                "redis+cluster://h?db=1",
                "a Redis Cluster has only database 0: remove the number of the database",
            ),
            (
                "redis+sentinel://h",
                "the name of the master is missing: use redis+sentinel://HOST,HOST/MASTER",
            ),
            ("redis+sentinel://a,,b/m", "a host is missing"),
            ("redis://h?sslcert=x", "sslcert requires rediss://"),
            (
                "rediss://h?sslcert=x",
                "sslcert and sslkey must be given together",
            ),
            (
                "redis://:p@h?password_file=x",
                "password and password_file cannot be combined",
            ),
            ("redis+unix://h/x", "must be redis+unix:///PATH"),
            (
                "redis://h?x=1",
                "unknown parameter x; the known ones are db, protocol, password_file",
            ),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert_eq!(error.to_string(), why, "{text}");
        }
    }

    #[test]
    fn a_url_is_displayed_with_all_hosts_and_without_passwords() {
        let url = "redis+sentinel://u:s3cret@a:1,b,c/m?sentinel_password=s3cret&db=1";
        let shown = parse(url).to_string();
        assert_eq!(
            shown,
            "redis+sentinel://u:***@a:1,b,c/m?sentinel_password=***&db=1"
        );
        assert_eq!(
            parse("redis+cluster://a,b").to_string(),
            "redis+cluster://a,b"
        );
    }
}
