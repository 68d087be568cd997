//! What commands cost: counters and latency histograms by command, and of the waits for the log.

use super::table::COMMANDS;
use std::collections::{BTreeMap, VecDeque};

/// Each power of two of nanoseconds has four buckets: a value is known to a fifth at worst.
const SUB_BUCKETS_LOG: u32 = 2;
/// Up to 2^44 ns, which are nearly five hours.
const BUCKETS: usize = 172;
/// Samples that are kept of each latency event, as in Redis.
const EVENT_SAMPLES_MAX: usize = 160;

/// How often something took how long.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    total_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, total_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Notes `count` times `ns` nanoseconds.
    #[inline]
    pub fn record(&mut self, ns: u64, count: u64) {
        self.buckets[Self::bucket(ns)] += count;
        self.count += count;
        self.total_ns += ns * count;
        self.max_ns = self.max_ns.max(ns);
    }

    #[inline]
    fn bucket(ns: u64) -> usize {
        let top = ns.max(1 << SUB_BUCKETS_LOG).ilog2() - SUB_BUCKETS_LOG;
        let bucket = ((top as usize) << SUB_BUCKETS_LOG) + (ns >> top) as usize;
        bucket.min(BUCKETS - 1)
    }

    /// The first value above a bucket, in nanoseconds.
    fn end_ns(bucket: usize) -> u64 {
        let top = (bucket >> SUB_BUCKETS_LOG).saturating_sub(1);
        let within = bucket - (top << SUB_BUCKETS_LOG);
        (within as u64 + 1) << top
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The buckets that hold something: the first value above each in nanoseconds, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (Self::end_ns(bucket), *count))
    }

    /// How many values are below `ns`, which is a power of two.
    pub fn count_below(&self, ns: u64) -> u64 {
        self.buckets().take_while(|(end_ns, _)| *end_ns <= ns).map(|(_, count)| count).sum()
    }

    /// A value that this share of all values, out of 1, does not exceed, in nanoseconds.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (end_ns, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return end_ns.min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// What one command did so far.
#[derive(Clone, Default)]
pub struct CommandCost {
    /// Requests that ran; `histogram` has their times once there is one.
    pub calls: u64,
    /// Of these, requests that an error answered.
    pub failed: u64,
    /// Requests that were refused before they ran: wrong arguments, or no right to it.
    pub rejected: u64,
    pub histogram: Option<Histogram>,
}

impl CommandCost {
    pub fn total_ns(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::total_ns)
    }
}

/// Times above the threshold of the latency monitor: one sample a second at most, the worst.
#[derive(Clone, Default)]
pub struct LatencyEvent {
    /// Unix seconds and milliseconds, oldest first.
    pub samples: VecDeque<(u64, u64)>,
    pub max_ms: u64,
}

/// The costs of all commands.
pub struct Latencies {
    /// In the order of the table.
    commands: Vec<CommandCost>,
    /// From the append of records to the moment their replies may go: one value for each reply that
    /// waits for the log.
    pub commit: Histogram,
    pub events: BTreeMap<&'static str, LatencyEvent>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            commands: vec![CommandCost::default(); COMMANDS.len()],
            commit: Histogram::default(),
            events: BTreeMap::new(),
        }
    }
}

impl Latencies {
    /// The commands that were called, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &CommandCost)> {
        COMMANDS
            .iter()
            .map(|command| command.name)
            .zip(&self.commands)
            .filter(|(_, cost)| cost.calls + cost.rejected > 0)
    }

    pub fn get(&self, command: usize) -> &CommandCost {
        &self.commands[command]
    }

    /// Notes `count` calls of a command that took `ns` nanoseconds each.
    #[inline]
    pub fn record(&mut self, command: usize, ns: u64, count: u64) {
        let cost = &mut self.commands[command];
        cost.calls += count;
        cost.histogram.get_or_insert_default().record(ns, count);
    }

    #[inline]
    pub fn failed(&mut self, command: usize) {
        self.commands[command].failed += 1;
    }

    pub fn rejected(&mut self, command: usize) {
        self.commands[command].rejected += 1;
    }

    pub fn note_event(&mut self, name: &'static str, unix_s: u64, ms: u64) {
        let event = self.events.entry(name).or_default();
        event.max_ms = event.max_ms.max(ms);
        match event.samples.back_mut() {
            Some((at_s, worst_ms)) if *at_s == unix_s => *worst_ms = ms.max(*worst_ms),
            _ => {
                if event.samples.len() == EVENT_SAMPLES_MAX {
                    event.samples.pop_front();
                }
                event.samples.push_back((unix_s, ms));
            }
        }
    }

    /// Forgets the costs of commands, as CONFIG RESETSTAT does.
    pub fn reset(&mut self) {
        *self = Self { events: std::mem::take(&mut self.events), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_meet() {
        for ns in (0..1000).chain([1 << 20, (1 << 20) - 1, 3 << 30, u64::MAX >> 8]) {
            let bucket = Histogram::bucket(ns);
            assert!(bucket == BUCKETS - 1 || ns < Histogram::end_ns(bucket), "{ns}");
            assert!(bucket == 0 || ns >= Histogram::end_ns(bucket - 1), "{ns}");
        }
        for bucket in 1..BUCKETS {
            assert!(Histogram::end_ns(bucket) > Histogram::end_ns(bucket - 1), "{bucket}");
        }
    }

    #[test]
    fn quantiles_are_near() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.record(us * 1000, 1));
        for (share, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.quantile_ns(share) as f64;
            assert!((exact..=exact * 1.25).contains(&found), "{share}: {found}");
        }
        assert_eq!(histogram.count_below(1 << 19), 524);
        assert_eq!((histogram.count(), histogram.max_ns()), (1000, 1_000_000));
    }

    #[test]
    fn an_event_keeps_the_worst_of_each_second() {
        let mut latencies = Latencies::default();
        for (at_s, ms) in [(1, 5), (1, 9), (1, 7), (2, 3)] {
            latencies.note_event("command", at_s, ms);
        }
        let event = &latencies.events["command"];
        assert_eq!(event.samples, [(1, 9), (2, 3)]);
        assert_eq!(event.max_ms, 9);
    }
}
