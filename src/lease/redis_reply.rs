//! Parses what the scripts of the leases return.

use std::time::Duration;

use super::{Lease, Renewed, redis_key};
use crate::backend::BackendError;

/// A lease as inspect.lua returns it: its startTime and its remaining milliseconds.
pub(super) type RawLease = (String, u64);

/// Fails if Redis did not answer for each lease.
pub(super) fn check_count(returned: usize, requested: usize) -> Result<(), BackendError> {
    if returned == requested {
        Ok(())
    } else {
        Err(BackendError::Refused(format!(
            "Redis returned {returned} of {requested} leases"
        )))
    }
}

/// Parses the leases that inspect.lua returned; `None` for each that is missing.
pub(super) fn leases(raw: Vec<RawLease>, count: usize) -> Result<Vec<Option<Lease>>, BackendError> {
    check_count(raw.len(), count)?;
    let lease = |(start_time, remaining_millis): &RawLease| {
        Some(Lease {
            // renew.lua always writes a time. Any other text is not a lease.
            epoch: redis_key::parse_start_time(start_time)?,
            left: Duration::from_millis(*remaining_millis),
        })
    };
    Ok(raw.iter().map(lease).collect())
}

/// Parses what renew.lua returned.
pub(super) fn all_renewed(reply: &str, count: usize) -> Result<Vec<Renewed>, BackendError> {
    let renewed: Vec<Renewed> = reply.split(' ').map(renewed).collect::<Result<_, _>>()?;
    check_count(renewed.len(), count)?;
    Ok(renewed)
}

fn renewed(reply: &str) -> Result<Renewed, BackendError> {
    let (created, start_time) = match reply.strip_prefix('+') {
        Some(start_time) => (true, start_time),
        None => (false, reply),
    };
    let epoch = redis_key::parse_start_time(start_time).ok_or_else(|| {
        BackendError::Refused(format!(
            "Redis returned a lease whose startTime {start_time:?} is not a time"
        ))
    })?;
    Ok(Renewed { created, epoch })
}
