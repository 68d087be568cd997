//! Where in a log a time ends: before the first record that was written later.
//!
//! Records of keys carry the time that they were written at, or one that an administrator gave them. Paddings,
//! seals, terms and what is about namespaces carry the server's clock alone; a server that is written to makes a
//! padding each time it flushes what is not a whole block. A record was not written after the next of these: one
//! with a time beyond that says nothing, and counts by those beside it.

use crate::engine::log::format::Kind;

/// Goes through a log record by record.
pub struct Until {
    time_s: u64,
    /// Where the last record or batch ended.
    end: u64,
    /// Records of later times behind the last clock, as where they begin and their time: each of an earlier time
    /// than all before it.
    later: Vec<(u64, u64)>,
    found: Option<u64>,
}

impl Until {
    pub fn new(time_s: u64) -> Self {
        Self { time_s, end: 0, later: Vec::new(), found: None }
    }

    /// Takes the next record: `end` is that of the batch that it is in, or its own. True: enough is known.
    pub fn record(&mut self, kind: Kind, timestamp: u32, end: u64) -> bool {
        let (start, time_s) = (self.end, u64::from(timestamp));
        let has_clock = !matches!(kind, Kind::Set | Kind::Delete | Kind::Batch);
        if has_clock {
            if self.clock(start, time_s) {
                return true;
            }
        } else if time_s > self.time_s
            // Of a batch the first record decides.
            && end > start
            && self.later.last().is_none_or(|(_, least)| time_s < *least)
        {
            self.later.push((start, time_s));
        }
        self.end = self.end.max(end);
        false
    }

    /// The server's clock at a position.
    fn clock(&mut self, position: u64, time_s: u64) -> bool {
        if time_s > self.time_s {
            let first = self.later.iter().find(|(_, written)| *written <= time_s);
            self.found = Some(first.map_or(position, |(start, _)| *start));
        }
        self.later.clear();
        self.found.is_some()
    }

    /// The log ends, and the clock was this then.
    pub fn finish(&mut self, time_s: u64) {
        if self.found.is_none() {
            let first = self.later.iter().find(|(_, written)| *written <= time_s);
            self.found = first.map(|(start, _)| *start);
        }
    }

    /// Where the log is to be cut; none: nothing is later.
    pub fn position(&self) -> Option<u64> {
        self.found
    }

    /// Where the last record ended that was met.
    pub fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 100 bytes each, of which this is the time; a time below 0 is of a clock.
    fn cut_at(time_s: u64, times: &[i64]) -> Option<u64> {
        let mut until = Until::new(time_s);
        for (at, time) in times.iter().enumerate() {
            let kind = if *time < 0 { Kind::Padding } else { Kind::Set };
            if until.record(kind, time.unsigned_abs() as u32, 100 * (at as u64 + 1)) {
                break;
            }
        }
        until.finish(100);
        until.position()
    }

    #[test]
    fn a_time_ends_before_the_first_record_of_a_later_one() {
        assert_eq!(cut_at(5, &[3, 4, 5, 6, 7]), Some(300));
        assert_eq!(cut_at(9, &[3, 4, 5, 6, 7]), None);
        assert_eq!(cut_at(1, &[3, 4]), Some(0));
        // Times that an administrator gave: from the future, and from the past.
        assert_eq!(cut_at(5, &[3, 9000, -4, 5, 6, -6]), Some(400));
        assert_eq!(cut_at(5, &[3, -4, 1, 1, -6, 1]), Some(400));
        assert_eq!(cut_at(5, &[3, -4, 9000, 1, -6, 1]), Some(400));
        assert_eq!(cut_at(5, &[3, -4, 9000, 8000, 7, 6, 6, -7, 1]), Some(400));
        assert_eq!(cut_at(5, &[3, -4, 9000, 1]), None);
    }

    #[test]
    fn a_batch_counts_as_a_whole() {
        let mut until = Until::new(5);
        until.record(Kind::Set, 5, 100);
        until.record(Kind::Set, 6, 400);
        until.record(Kind::Set, 6, 400);
        until.finish(7);
        assert_eq!(until.position(), Some(100));
    }
}
