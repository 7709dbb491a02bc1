//! Authentication, authorization and TLS of a daemon.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Error};
use ipnet::IpNet;
use url::Url;

use super::read_token;
use crate::auth::{AnonymousRole, Role, TokenSources};
use crate::tls::TlsFiles;

/// Variables that contain a token. They have no flags, because other users can see a process's
/// flags.
pub(super) const TOKEN_VARIABLES: [(&str, Role); 3] = [
    ("ROLLCALL_ADMIN_TOKEN", Role::Admin),
    ("ROLLCALL_AGENT_TOKEN", Role::Agent),
    ("ROLLCALL_READ_TOKEN", Role::Read),
];

/// Authentication, authorization and TLS.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessSettings {
    /// A file with one line per token: ROLE NAME SHA256, and SCOPE for a limited one. `rollcalld
    /// token` generates tokens and their lines
    #[arg(long, value_name = "PATH")]
    tokens_file: Option<PathBuf>,

    /// A file with one token of the role admin, which may do everything
    #[arg(long, value_name = "PATH")]
    admin_token_file: Option<PathBuf>,

    /// A file with one token of the role agent, which may register, send heartbeats, deregister and
    /// read
    #[arg(long, value_name = "PATH")]
    agent_token_file: Option<PathBuf>,

    /// A file with one token of the role read
    #[arg(long, value_name = "PATH")]
    read_token_file: Option<PathBuf>,

    /// The role of clients without a token: none, read, agent or admin. By default none; admin if no
    /// tokens are configured, which is allowed only while --listen is on the loopback interface
    #[arg(long, value_name = "ROLE")]
    pub(super) anonymous_role: Option<AnonymousRole>,

    /// The network of proxies whose X-Forwarded-For names the client, such as 10.0.0.0/8; may be
    /// repeated, or separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub(crate) trusted_proxy: Vec<IpNet>,

    /// An origin whose pages in a browser may use the API, such as `https://status.example`, or
    /// * for all; may be repeated, or separated by commas
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub(crate) cors_origin: Vec<String>,

    /// The PEM file of the certificate chain for HTTPS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The PEM file of the private key for HTTPS
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The PEM file of the authorities of client certificates, which are then required, except for
    /// probes
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// The tokens, from the files above and from variables.
    #[arg(skip)]
    pub(crate) tokens: TokenSources,
}

impl AccessSettings {
    /// Reads the sources of tokens: per role at most one besides those of the list.
    pub(super) fn read_tokens(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Error> {
        self.tokens.list.clone_from(&self.tokens_file);
        let files = [
            &self.admin_token_file,
            &self.agent_token_file,
            &self.read_token_file,
        ];
        for ((name, role), file) in TOKEN_VARIABLES.into_iter().zip(files) {
            let variable = variables.iter().find(|(variable, _)| variable == name);
            match (variable, file) {
                (Some(_), Some(_)) => {
                    let message = format!("{name} and {name}_FILE are both set: set only one");
                    return Err(Error::raw(ErrorKind::ArgumentConflict, message));
                }
                (Some((_, token)), None) => {
                    let token = read_token(name, token.to_str().unwrap_or_default())?;
                    self.tokens.given.push((role, token));
                }
                (None, Some(file)) => self.tokens.files.push((role, file.clone())),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Returns the role of clients without a token.
    pub(crate) fn anonymous_role(&self) -> AnonymousRole {
        self.anonymous_role.unwrap_or(if self.tokens.is_empty() {
            AnonymousRole::Role(Role::Admin)
        } else {
            AnonymousRole::None
        })
    }

    /// Returns the files for HTTPS; `None` is HTTP.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.tls_client_ca.clone(),
        })
    }
}

/// Parses a network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: IpAddr| address.into());
    text.parse()
        .or_else(|_| address())
        .map_err(|_| "must be a network such as 10.0.0.0/8, or an IP address".to_owned())
}

/// Parses an origin: a scheme, a host, and a port unless it is the default.
fn origin(text: &str) -> Result<String, String> {
    let is_origin = |url: &Url| url.origin().ascii_serialization() == text;
    if text == "*" || text.parse().is_ok_and(|url| is_origin(&url)) {
        Ok(text.to_owned())
    } else {
        Err("must be an origin such as https://status.example, or *".to_owned())
    }
}
