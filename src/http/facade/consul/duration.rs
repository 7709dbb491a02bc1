//! Durations as Go writes them.

use std::time::Duration;

/// Parses a duration such as `1m30s` or `1.5h`, or a number of seconds. `None` if it is none, or
/// negative.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let unit = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[unit.len()..];
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
    }
    match text {
        "" => None,
        _ => Duration::try_from_secs_f64(seconds).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_units_or_is_a_number_of_seconds() {
        for (text, millis) in [
            ("60", 60_000),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("120000ms", 120_000),
            ("1.5h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                go_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for bad in [
            "",
            "s",
            "-1s",
            "1x",
            "1s1",
            "1..5s",
            "soon",
            "99999999999999999999999h",
        ] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }
}
