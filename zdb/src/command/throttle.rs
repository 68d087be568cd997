//! Failed passwords, counted for each peer: after too many at once only one a second is looked at.

use crate::limits::{PASSWORD_FAILURE_FORGIVEN_MS, PASSWORD_FAILURES_MAX, THROTTLED_SOURCES_MAX};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who is counted as one. All of a /64 of IPv6 is: a single machine has that many addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Everybody on the unix socket.
    Unix,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => Self::V6(*address.octets().first_chunk().expect("16 bytes")),
        }
    }
}

/// The failures that are not forgiven yet: for each source the time when its last one is, since each
/// is forgiven this long after the one before. A source without failures needs no entry.
#[derive(Default)]
pub struct Throttle {
    forgiven_at_ms: BTreeMap<Source, u64>,
}

impl Throttle {
    /// Whether a password from there may be looked at now.
    pub fn allows(&self, source: Source, now_ms: u64) -> bool {
        let forgiven_at = self.forgiven_at_ms.get(&source).copied().unwrap_or(0);
        let open_ms = forgiven_at.saturating_sub(now_ms);
        open_ms <= (PASSWORD_FAILURES_MAX - 1) * PASSWORD_FAILURE_FORGIVEN_MS
    }

    /// Counts a wrong password.
    pub fn failed(&mut self, source: Source, now_ms: u64) {
        if !self.forgiven_at_ms.contains_key(&source) {
            self.make_room(now_ms);
        }
        let forgiven_at = self.forgiven_at_ms.entry(source).or_insert(now_ms);
        *forgiven_at = now_ms.max(*forgiven_at) + PASSWORD_FAILURE_FORGIVEN_MS;
    }

    /// Whoever has more addresses than this table has places is not held up by it anyway. The one that
    /// has least to be forgiven goes, rather than the newest peer being refused for others' failures.
    fn make_room(&mut self, now_ms: u64) {
        if self.forgiven_at_ms.len() < THROTTLED_SOURCES_MAX {
            return;
        }
        self.forgiven_at_ms.retain(|_, forgiven_at| *forgiven_at > now_ms);
        if self.forgiven_at_ms.len() < THROTTLED_SOURCES_MAX {
            return;
        }
        let least = self.forgiven_at_ms.iter().min_by_key(|(_, forgiven_at)| **forgiven_at);
        if let Some(source) = least.map(|(source, _)| *source) {
            self.forgiven_at_ms.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().expect("an address"))
    }

    #[test]
    fn many_at_once_then_one_a_second() {
        let mut throttle = Throttle::default();
        let here = source("192.0.2.1");
        for failure in 0..PASSWORD_FAILURES_MAX {
            assert!(throttle.allows(here, 5000), "failure {failure}");
            throttle.failed(here, 5000);
        }
        assert!(!throttle.allows(here, 5000));
        assert!(!throttle.allows(here, 5999));
        assert!(throttle.allows(here, 6000));
        throttle.failed(here, 6000);
        assert!(!throttle.allows(here, 6999));
        assert!(throttle.allows(here, 7000));
        assert!(throttle.allows(source("192.0.2.2"), 5000));
        // All forgiven: as many at once as before.
        let later = 5000 + 100 * PASSWORD_FAILURE_FORGIVEN_MS;
        for _ in 0..PASSWORD_FAILURES_MAX {
            assert!(throttle.allows(here, later));
            throttle.failed(here, later);
        }
        assert!(!throttle.allows(here, later));
    }

    #[test]
    fn who_counts_as_one() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("0.0.0.0"), Source::Unix);
    }

    #[test]
    fn the_table_stays_small_and_keeps_the_worst() {
        let mut throttle = Throttle::default();
        let guilty = source("198.51.100.1");
        for _ in 0..PASSWORD_FAILURES_MAX {
            throttle.failed(guilty, 1000);
        }
        for number in 0..2 * THROTTLED_SOURCES_MAX as u32 {
            throttle.failed(Source::V4(number.to_be_bytes()), 1000);
        }
        assert_eq!(throttle.forgiven_at_ms.len(), THROTTLED_SOURCES_MAX);
        assert!(!throttle.allows(guilty, 1000));
        // Those that are forgiven leave when room is needed.
        throttle.failed(Source::Unix, 1000 + 1000 * PASSWORD_FAILURE_FORGIVEN_MS);
        assert_eq!(throttle.forgiven_at_ms.len(), 1);
    }
}
