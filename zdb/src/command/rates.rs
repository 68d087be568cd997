//! Requests and bytes in a second, as INFO's `instantaneous` fields show them.

use super::ServerStats;
use std::collections::VecDeque;

/// Time between two samples at least, and over which a rate is taken at least, in milliseconds.
const SAMPLE_MS: u64 = 100;
const WINDOW_MS: u64 = 1000;
/// So many samples reach back over the window while all turns come quickly.
const SAMPLES_MAX: usize = 16;

#[derive(Default)]
pub struct Rates {
    samples: VecDeque<(u64, Totals)>,
    sampled_ms: u64,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    commands: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

/// Each in a second.
#[derive(Default)]
pub struct PerSecond {
    pub commands: f64,
    pub received_bytes: f64,
    pub sent_bytes: f64,
}

impl Totals {
    fn of(stats: &ServerStats) -> Self {
        Self {
            commands: stats.commands,
            received_bytes: stats.received_bytes,
            sent_bytes: stats.sent_bytes,
        }
    }
}

impl Rates {
    /// Called at each turn.
    #[inline]
    pub fn tick(&mut self, now_ms: u64, stats: &ServerStats) {
        if now_ms >= self.sampled_ms + SAMPLE_MS {
            self.sampled_ms = now_ms;
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back((now_ms, Totals::of(stats)));
        }
    }

    /// The rates since the last sample that is old enough.
    pub fn per_second(&self, now_ms: u64, stats: &ServerStats) -> PerSecond {
        let old = self.samples.iter().rev().find(|(at_ms, _)| at_ms + WINDOW_MS <= now_ms);
        let Some((at_ms, then)) = old.or(self.samples.front()) else {
            return PerSecond::default();
        };
        let seconds = now_ms.saturating_sub(*at_ms).max(1) as f64 / 1000.0;
        let now = Totals::of(stats);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        PerSecond {
            commands: rate(now.commands, then.commands),
            received_bytes: rate(now.received_bytes, then.received_bytes),
            sent_bytes: rate(now.sent_bytes, then.sent_bytes),
        }
    }

    /// The counters begin at zero again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_a_second_or_more() {
        let mut rates = Rates::default();
        let at = |commands| ServerStats { commands, ..ServerStats::default() };
        for turn in 0..1000 {
            rates.tick(turn * 5, &at(turn));
        }
        assert_eq!(rates.per_second(5000, &at(1000)).commands, 200.0);
        // Ten silent seconds.
        assert_eq!(rates.per_second(15_000, &at(1000)).commands.round(), 2.0);
    }
}
