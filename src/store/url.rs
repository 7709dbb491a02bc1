//! The registry store that `--store` selects.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::postgres;
use crate::backend::{BackendUrl, UrlError};

/// The registry store, from `--store`.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: a file, used by one daemon at a time.
    Sqlite(PathBuf),
    /// `postgres://…`: a database, shared by any number of replicas.
    Postgres(BackendUrl),
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        const FORMS: &str = "sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE";
        match text.split_once(':') {
            Some(("sqlite", rest)) => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() || path == ":memory:" {
                    return Err(UrlError::new("sqlite: needs the path of a file"));
                }
                Ok(Self::Sqlite(path.into()))
            }
            Some(("postgres" | "postgresql", _)) => {
                let url = BackendUrl::parse(text)?;
                postgres::check_url(&url)?;
                Ok(Self::Postgres(url))
            }
            _ => Err(UrlError::new(format!("must be {FORMS}"))),
        }
    }
}

/// Without the password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_url_is_chosen_by_its_scheme() {
        for (text, path) in [
            ("sqlite:rollcall.db", "rollcall.db"),
            ("sqlite:/var/lib/rollcall.db", "/var/lib/rollcall.db"),
            ("sqlite:///var/lib/rollcall.db", "/var/lib/rollcall.db"),
        ] {
            assert_eq!(text.parse(), Ok(StoreUrl::Sqlite(path.into())), "{text}");
        }
        assert!(matches!(
            "postgres://u@localhost/db?sslmode=verify-full".parse(),
            Ok(StoreUrl::Postgres(_))
        ));
    }

    #[test]
    fn a_wrong_store_url_says_what_is_wrong() {
        for (text, why) in [
            (
                "",
                "must be sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE",
            ),
            (
                "mysql://u@h/db",
                "must be sqlite:PATH or postgres://USER@HOST[,HOST]/DATABASE",
            ),
            (
                "postgres://h/db?target_session_attrs=read-only",
                "target_session_attrs must be any, read-write or primary, not 'read-only'",
            ),
            (
                "postgres://h/db?sslmode=require&sslcert=x",
                "sslcert and sslkey must be given together",
            ),
            (
                "postgres://h/db?sslcert=x&sslkey=y",
                "sslcert needs sslmode=verify-full or require: the other modes may connect without TLS",
            ),
            (
                "postgres://u:p@h/db?password_file=x",
                "password and password_file cannot be combined",
            ),
            ("sqlite:", "sqlite: needs the path of a file"),
            ("sqlite::memory:", "sqlite: needs the path of a file"),
            ("postgres://", "a host is missing"),
            ("postgres://h:99999/db", "invalid port number"),
            (
                "postgres://h/db?sslmode=on",
                "sslmode must be disable, prefer, require or verify-full, not 'on'",
            ),
            (
                "postgres://h/db?sslmode=prefer&sslrootcert=ca.pem",
                "sslrootcert needs sslmode=verify-full or require: the other modes may connect without TLS",
            ),
            (
                "postgres://h/db?bogus=1",
                "invalid connection string: unknown option `bogus`",
            ),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert_eq!(error, why, "{text}");
        }
    }

    #[test]
    fn a_store_url_may_name_several_hosts() {
        for text in [
            "postgres://u@a:1,b:2,[::1]:3/db",
            "postgres://u@a:1,b/db?target_session_attrs=primary",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://u:s3cret@h/db",
            "postgres://u:s3cret@h:1,i:2/db",
            "postgres://h/db?user=u&password=s3cret",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            for shown in [format!("{url}"), format!("{url:?}")] {
                assert!(!shown.contains("s3cret") && shown.contains("//"), "{shown}");
            }
        }
    }
}
