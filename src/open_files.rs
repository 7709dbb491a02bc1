//! How many files the process may have open; every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not clients' connections: stores, listeners, the log.
const OWN: u64 = 128;

/// Raises the limit as far as the process may, and says how many connections it allows.
pub(crate) fn raise_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("the limit on open files cannot be raised: {error}");
    }
    let allowed = getrlimit(Resource::Nofile).current;
    let connections = allowed.map_or(u64::MAX, |files| files.saturating_sub(OWN).max(1));
    usize::try_from(connections).unwrap_or(usize::MAX)
}
