//! Converts OpenMetrics to the Prometheus text format 0.0.4.
//!
//! The encoder writes OpenMetrics, which Prometheus reads, but `promtool check metrics` and
//! many other tools do not. The older format describes a counter by its full name, and
//! has no units and no end marker.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

/// Returns the same metrics in the older format.
pub(super) fn from_open_metrics(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // The description precedes the type, which says whether the metric is a counter.
        let name = |line: &str| line.split(' ').nth(2).map(str::to_owned);
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let counter = match lines.peek() {
            Some(next) if line.starts_with("# HELP ") => is_counter(next),
            _ => is_counter(line),
        };
        match name(line).filter(|_| counter) {
            Some(name) => text.push_str(&line.replacen(&name, &format!("{name}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_by_its_full_name() {
        let open_metrics = "# HELP a_b Of a_b.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n# HELP c C.\n# TYPE c gauge\n# UNIT c seconds\nc 1\n# EOF\n";
        let text = "# HELP a_b_total Of a_b.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n# HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(from_open_metrics(open_metrics), text);
    }
}
