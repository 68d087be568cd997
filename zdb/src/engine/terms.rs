//! Terms: who wrote which part of the log. Each time a server begins to write to a log that has replicas, it
//! first appends a record with a number and a name of its own: copies of the log that were written to in
//! different places tell by these where they part.

use super::index::Place;
use super::log::format::{self, Head, Kind};
use super::log::sidecar::LogEntry;

/// A stretch of the log that one server wrote in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub number: u64,
    /// The server that began it.
    pub node: u32,
    /// Where its record stands: what is before is of the term before.
    pub start: u64,
}

/// The terms of a log in their order. What is before the first is of term 0, which all copies share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(Vec<Term>);

impl Terms {
    /// Takes the entry of a term's record.
    pub fn push(&mut self, entry: &LogEntry) {
        let term = Term { number: entry.key, node: entry.namespace, start: entry.position };
        // A cleaner that was interrupted may have left its record twice.
        if self.0.last().is_none_or(|last| last.start < term.start) {
            self.0.push(term);
        }
    }

    pub fn list(&self) -> &[Term] {
        &self.0
    }

    pub fn last(&self) -> Option<Term> {
        self.0.last().copied()
    }

    /// Number of the last term; 0: the log never had one.
    pub fn number(&self) -> u64 {
        self.last().map_or(0, |term| term.number)
    }

    /// Number of the term in which the bytes before a position were written; 0: before there were terms.
    pub fn number_at(&self, position: u64) -> u64 {
        let before = self.0.partition_point(|term| term.start < position);
        before.checked_sub(1).map_or(0, |at| self.0[at].number)
    }

    /// Up to where two copies of a log are the same: `other` are the newest terms of one that ends at
    /// `other_end`, all of them where `is_all`. None: nobody can tell.
    pub fn common_end(
        &self,
        end: u64,
        (other, other_end, is_all): (&[Term], u64, bool),
    ) -> Option<u64> {
        let end_of =
            |terms: &[Term], at: usize, end: u64| terms.get(at + 1).map_or(end, |next| next.start);
        for (at, term) in other.iter().enumerate().rev() {
            let Some(ours) = self.0.iter().rposition(|one| one == term) else { continue };
            return Some(end_of(&self.0, ours, end).min(end_of(other, at, other_end)));
        }
        let first = |terms: &[Term], end| terms.first().map_or(end, |term: &Term| term.start);
        is_all.then(|| first(&self.0, end).min(first(other, other_end)))
    }
}

/// The head of a term's record, and its key.
pub fn record(seed: u64, number: u64, node: u32, timestamp: u32) -> (Head, [u8; 8]) {
    let key = number.to_le_bytes();
    let head = Head {
        kind: Kind::Term,
        flags: 0,
        key_length: key.len() as u8,
        payload_length: 0,
        payload_check: format::payload_check(seed, &[]),
        sequence: 0,
        timestamp,
        namespace: node,
        previous: Place::NONE,
        replaced: None,
    };
    (head, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(list: &[(u64, u32, u64)]) -> Terms {
        Terms(list.iter().map(|&(number, node, start)| Term { number, node, start }).collect())
    }

    #[test]
    fn copies_are_the_same_up_to_the_end_of_the_last_term_that_both_have() {
        let ours = terms(&[(1, 7, 100), (3, 8, 500)]);
        for (other, other_end, is_all, common) in [
            // In the middle of our last term, at our end, and behind it.
            (&[(1, 7, 100), (3, 8, 500)][..], 600, true, Some(600)),
            (&[(1, 7, 100), (3, 8, 500)], 900, true, Some(900)),
            (&[(1, 7, 100), (3, 8, 500)], 950, true, Some(900)),
            // It wrote on where another took over.
            (&[(1, 7, 100)], 700, true, Some(500)),
            (&[(1, 7, 100), (2, 7, 450)], 700, true, Some(450)),
            (&[(1, 7, 100), (2, 7, 550)], 700, true, Some(500)),
            (&[(1, 7, 100), (3, 9, 500)], 700, true, Some(500)),
            // From before there were terms.
            (&[], 50, true, Some(50)),
            (&[], 150, true, Some(100)),
            (&[(1, 6, 80)], 150, true, Some(80)),
            // Its older terms are not told.
            (&[(9, 9, 800)], 900, false, None),
        ] {
            let theirs = terms(other);
            let found = ours.common_end(900, (theirs.list(), other_end, is_all));
            assert_eq!(found, common, "{other:?} up to {other_end}");
        }
    }
}
