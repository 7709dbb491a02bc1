//! The limit on open files of the process; every connection is an open file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of files for other purposes than client connections: stores, listeners, the log.
const RESERVED: u64 = 128;

/// The system allows fewer open files than the daemon itself needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system allows {allowed} open files (ulimit -n), but rollcalld needs {RESERVED} and one more for each connection: raise this limit"
)]
pub struct TooFewFiles {
    allowed: u64,
}

/// Raises the limit as far as the process may, and returns how many connections it allows.
pub(crate) fn raise_limit() -> Result<usize, TooFewFiles> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("cannot raise the limit on open files (ulimit -n) to its maximum: {error}");
    }
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed <= RESERVED => Err(TooFewFiles { allowed }),
        Some(allowed) => Ok(usize::try_from(allowed - RESERVED).unwrap_or(usize::MAX)),
        None => Ok(usize::MAX),
    }
}
