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

/// The length of a startTime, and of the separator after it, in the answer of renew.lua.
const START_TIME: usize = 24;
const SEPARATOR: usize = 1;

/// Parses what renew.lua returned; `None` for each lease whose startTime is not a time.
pub(super) fn all_renewed(
    reply: &[u8],
    count: usize,
) -> Result<Vec<Option<Renewed>>, BackendError> {
    let starts = reply.chunks(START_TIME + SEPARATOR);
    let renewed: Vec<Option<Renewed>> = starts.map(renewed).collect();
    check_count(renewed.len(), count)?;
    Ok(renewed)
}

fn renewed(start: &[u8]) -> Option<Renewed> {
    let mut start_time: [u8; START_TIME] = *start.first_chunk()?;
    let last = start_time.last_mut()?;
    let created = *last == b'+';
    if created {
        *last = b'Z';
    }
    let epoch = redis_key::parse_start_time(str::from_utf8(&start_time).ok()?)?;
    Some(Renewed { created, epoch })
}
