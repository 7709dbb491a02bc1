//! Times for people: how long ago something was, and the local time.

use std::time::Duration;

use chrono::{DateTime, Local, TimeDelta, Utc};

use crate::clock::{Clock, SystemClock};
use crate::model::rfc3339_millis;

/// Returns how long ago a time of the API was, such as `3m`; the text itself if it is none.
pub(super) fn ago(text: &str) -> String {
    let Ok(time) = DateTime::parse_from_rfc3339(text) else {
        return text.to_owned();
    };
    let seconds = (SystemClock.now() - time.with_timezone(&Utc))
        .num_seconds()
        .max(0);
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m", seconds / 60),
        3600..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Returns the time after a duration from now, as the API takes it.
pub(super) fn after(duration: Duration) -> String {
    let duration = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    let time = SystemClock.now().checked_add_signed(duration);
    rfc3339_millis(time.unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// Returns a time of the API as local time.
pub(super) fn local(text: &str) -> String {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => {
            let local = time.with_timezone(&Local);
            local.format("%Y-%m-%d %H:%M:%S").to_string()
        }
        Err(_) => text.to_owned(),
    }
}
