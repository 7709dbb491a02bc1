//! How many files the process may have open; every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not clients' connections: stores, listeners, the log.
const OWN: u64 = 128;

/// The system allows fewer open files than the daemon itself needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system allows {allowed} open files (ulimit -n), and rollcalld needs {OWN} and one for each connection: raise that limit"
)]
pub struct TooFewFiles {
    allowed: u64,
}

/// Raises the limit as far as the process may, and says how many connections it allows.
pub(crate) fn raise_limit() -> Result<usize, TooFewFiles> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("the limit on open files cannot be raised: {error}");
    }
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed <= OWN => Err(TooFewFiles { allowed }),
        Some(allowed) => Ok(usize::try_from(allowed - OWN).unwrap_or(usize::MAX)),
        None => Ok(usize::MAX),
    }
}
