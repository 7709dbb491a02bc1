//! The flags and variables that select a registry and a token.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Error};
use url::Url;

use super::{invalid_value, read_token};
use crate::auth::Token;

/// The token itself. It has no flag, because other users can see a process's flags.
pub(super) const TOKEN_VARIABLE: &str = "ROLLCALL_TOKEN";

/// The flags below.
pub(super) const FLAGS: [&str; 4] = ["server", "token-file", "ca-file", "timeout"];

/// The flag of the token, as messages name it.
const TOKEN_FILE: &str = "--token-file <PATH>";

/// The registry and the token.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct ClientSettings {
    /// The URL of a replica of the registry; may be repeated, or separated by commas
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:18080",
        value_delimiter = ',',
        value_parser = http_url
    )]
    pub(crate) server: Vec<Url>,

    /// The file of the token to send; ROLLCALL_TOKEN may contain the token itself
    #[arg(long, value_name = "PATH")]
    pub(crate) token_file: Option<PathBuf>,

    /// The PEM file of the certificate authorities to trust instead of the system's
    #[arg(long, value_name = "PATH")]
    pub(crate) ca_file: Option<PathBuf>,

    /// The time limit for an answer of the registry
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) timeout: humantime::Duration,

    /// Sent as a bearer token.
    #[arg(skip)]
    pub(crate) token: Option<Token>,
}

impl ClientSettings {
    /// Reads the token.
    pub(super) fn read_token(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Error> {
        let variable = variables.iter().find(|(name, _)| name == TOKEN_VARIABLE);
        self.token = match (variable, &self.token_file) {
            (Some((_, token)), None) => Some(read_token(
                TOKEN_VARIABLE,
                token.to_str().unwrap_or_default(),
            )?),
            (None, Some(path)) => {
                let text = read(TOKEN_FILE, path)?;
                Some(read_token("--token-file:", text.trim())?)
            }
            (None, None) => None,
            (Some(_), Some(_)) => {
                let reason = format!("{TOKEN_VARIABLE} is set as well: use only one");
                return Err(invalid_value(TOKEN_FILE, &reason));
            }
        };
        Ok(())
    }
}

/// Reads the file of a flag. The error names the flag.
pub(super) fn read(flag: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| invalid_value(flag, &format!("{}: {error}", path.display())))
}

pub(super) fn http_url(text: &str) -> Result<Url, String> {
    let url = text
        .parse::<Url>()
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or("must be http://HOST:PORT or https://HOST:PORT")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no password: use a token instead".to_owned());
    }
    Ok(url)
}
