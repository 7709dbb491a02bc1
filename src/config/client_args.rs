//! The flags and variables that say which registry to speak to, and as whom.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Error};
use url::Url;

use super::{invalid_value, read_token};
use crate::client;

/// The token in the clear, which has no flag.
pub(super) const TOKEN_VARIABLE: &str = "ROLLCALL_TOKEN";

/// Which registry, and as whom.
#[derive(Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct ClientArgs {
    /// A daemon of the registry; several replicas as several flags, or with commas between
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_SERVER",
        default_value = "http://127.0.0.1:18080",
        value_delimiter = ',',
        value_parser = http_url
    )]
    server: Vec<Url>,

    /// A file with the token to show; ROLLCALL_TOKEN may hold the token itself
    #[arg(long, value_name = "PATH", env = "ROLLCALL_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// The authorities to trust instead of the system's, PEM
    #[arg(long, value_name = "PATH", env = "ROLLCALL_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl ClientArgs {
    pub(super) fn settings(
        self,
        variables: &[(OsString, OsString)],
    ) -> Result<client::Settings, Error> {
        let variable = variables.iter().find(|(name, _)| name == TOKEN_VARIABLE);
        let token = match (variable, self.token_file) {
            (Some((_, token)), None) => Some(read_token(
                TOKEN_VARIABLE,
                token.to_str().unwrap_or_default(),
            )?),
            (None, Some(path)) => {
                let text = read("token-file <PATH>", &path)?;
                Some(read_token("--token-file:", text.trim())?)
            }
            (None, None) => None,
            (Some(_), Some(_)) => {
                let reason = format!("{TOKEN_VARIABLE} is given too: give one");
                return Err(invalid_value("token-file <PATH>", reason));
            }
        };
        Ok(client::Settings {
            servers: self.server,
            token,
            ca_file: self.ca_file,
        })
    }
}

/// A file that a flag names, which the error names too.
pub(super) fn read(flag: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| invalid_value(flag, format!("{}: {error}", path.display())))
}

pub(super) fn http_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    match (url.scheme(), url.username(), url.password()) {
        ("http" | "https", "", None) => Ok(url),
        ("http" | "https", ..) => Err("must have no user and no password: give a token".to_owned()),
        _ => Err("must be http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}
