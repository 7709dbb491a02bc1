//! The rate limit of answers over UDP, where the address of a client may be forged: then the answers
//! are traffic that someone else did not ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The time for which answers are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The most networks that are counted; further ones share a count.
const NETWORKS: usize = 50_000;

/// The decision about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Answer,
    /// Answer only that the answer is too long for UDP.
    Truncate,
    /// Do not answer.
    Drop,
}

/// Counts the answers to each network: the first 24 bits of an IPv4 address, or 56 of IPv6.
pub(super) struct RateLimit {
    /// The most answers in a window; 0 for any number.
    limit: u32,
    begin: Instant,
    counts: HashMap<u64, u32>,
}

impl RateLimit {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            begin: Instant::now(),
            counts: HashMap::new(),
        }
    }

    pub(super) fn check(&mut self, peer: IpAddr) -> Verdict {
        if self.limit == 0 {
            return Verdict::Answer;
        }
        let now = Instant::now();
        if now.duration_since(self.begin) >= WINDOW {
            self.begin = now;
            self.counts.clear();
        }
        let mut network = network(peer);
        if self.counts.len() >= NETWORKS && !self.counts.contains_key(&network) {
            network = u64::MAX;
        }
        let count = self.counts.entry(network).or_default();
        *count = count.saturating_add(1);
        match *count {
            count if count <= self.limit => Verdict::Answer,
            count if count % 2 == 0 => Verdict::Truncate,
            _ => Verdict::Drop,
        }
    }
}

fn network(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
        // Marked, so that it is no network of IPv4.
        IpAddr::V6(ip) => 1 << 63 | (ip.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_network_gets_a_limited_number_of_answers_per_second() {
        let mut limit = RateLimit::new(3);
        let mut check = |ip: &str| limit.check(ip.parse().unwrap());
        for ip in ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3"] {
            assert_eq!(check(ip), Verdict::Answer);
        }
        assert_eq!(check("10.0.0.1"), Verdict::Truncate);
        assert_eq!(check("10.0.0.1"), Verdict::Drop);
        assert_eq!(check("10.0.1.1"), Verdict::Answer, "another network");
        assert_eq!(check("2001:db8::1"), Verdict::Answer);
        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.check("10.0.0.1".parse().unwrap()), Verdict::Answer);
    }

    #[test]
    fn without_a_limit_everything_is_answered() {
        let mut limit = RateLimit::new(0);
        let ip = "10.0.0.1".parse().unwrap();
        assert!((0..1000).all(|_| limit.check(ip) == Verdict::Answer));
    }
}
