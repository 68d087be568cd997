//! The checker: a history against what a server has, and against itself.

use super::{Found, History, Outcome, Reign, Write, value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of a history.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub acknowledged_count: usize,
    pub refused_count: usize,
    pub unknown_count: usize,
    /// Acknowledged, and neither there nor followed by a later one of its key (nor among its versions, where all of
    /// them were read). In the order in which they were acknowledged.
    pub lost: Vec<Write>,
    /// Values that nobody sent for this key.
    pub invented: Vec<String>,
    /// Values that are there though the client was told of an error.
    pub refused_but_there: Vec<String>,
    /// Keys whose versions are not in the order of their writes, or twice.
    pub disordered: Vec<String>,
    pub two_masters: Vec<TwoMasters>,
    /// The longest time without an acknowledgement between the first and the last.
    pub pause_max: Duration,
}

/// A server acknowledged writes that were sent to it after another one had acknowledged its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoMasters {
    pub older: Reign,
    pub newer: Reign,
    /// Such writes of the older one.
    pub count: usize,
    /// From the newer one's first acknowledgement to the older one's last.
    pub span: Duration,
}

/// Lost writes in two numbers and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub count: usize,
    /// When the first and the last of them were acknowledged.
    pub first_at: Instant,
    pub last_at: Instant,
}

impl Loss {
    pub fn span(&self) -> Duration {
        self.last_at - self.first_at
    }

    /// How long before a fault the first lost write was acknowledged.
    pub fn before(&self, fault_at: Instant) -> Duration {
        fault_at.saturating_duration_since(self.first_at)
    }
}

impl Verdict {
    /// None where nothing is lost.
    pub fn loss(&self) -> Option<Loss> {
        let (first, last) = (self.lost.first()?, self.lost.last()?);
        let (first_at, last_at) = (first.ended_at, last.ended_at);
        Some(Loss { count: self.lost.len(), first_at, last_at })
    }

    /// Nothing is there that was not written so. What no replication may do, however much it loses.
    #[track_caller]
    pub fn assert_nothing_wrong(&self) {
        let wrong = [&self.invented, &self.refused_but_there, &self.disordered];
        assert!(
            wrong.iter().all(|values| values.is_empty()),
            "{self}\ninvented: {:?}\nrefused, but there: {:?}\ndisordered: {:?}",
            self.invented,
            self.refused_but_there,
            self.disordered
        );
    }

    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.lost.is_empty(), "{self}\nlost: {:#?}", self.lost);
    }

    #[track_caller]
    pub fn assert_one_master(&self) {
        assert!(self.two_masters.is_empty(), "{self}\n{:#?}", self.two_masters);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes acknowledged, {} refused, {} unknown, {} ms without any; ",
            self.acknowledged_count,
            self.refused_count,
            self.unknown_count,
            self.pause_max.as_millis()
        )?;
        match self.loss() {
            None => write!(f, "none lost")?,
            Some(loss) => write!(f, "{} lost over {} ms", loss.count, loss.span().as_millis())?,
        }
        for two in &self.two_masters {
            let (older, newer) = (two.older.address, two.newer.address);
            let span_ms = two.span.as_millis();
            write!(f, "; {} acknowledged by {older} beside {newer}, {span_ms} ms", two.count)?;
        }
        let wrong = [
            (self.invented.len(), "invented"),
            (self.refused_but_there.len(), "refused but there"),
            (self.disordered.len(), "keys disordered"),
        ];
        let wrong = wrong.iter().filter(|(count, _)| *count > 0);
        wrong.into_iter().try_for_each(|(count, what)| write!(f, "; {count} {what}"))
    }
}

/// Compares a history with what a server has after all clients have ended.
pub fn check(history: &History, found: &Found) -> Verdict {
    let count = |wanted: fn(&Outcome) -> bool| {
        history.writes.iter().filter(|write| wanted(&write.outcome)).count()
    };
    let mut verdict = Verdict {
        acknowledged_count: count(|outcome| *outcome == Outcome::Acknowledged),
        refused_count: count(|outcome| matches!(outcome, Outcome::Refused(_))),
        unknown_count: count(|outcome| *outcome == Outcome::Unknown),
        two_masters: two_masters(history),
        pause_max: pause_max(history),
        ..Verdict::default()
    };
    let mut by_key: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in &history.writes {
        by_key.entry(&write.key).or_default().push(write);
    }
    for (key, versions) in &found.versions {
        let writes = by_key.get(&**key).map_or(&[][..], Vec::as_slice);
        check_values(key, versions, writes, history.value_bytes, &mut verdict);
    }
    for (key, writes) in &by_key {
        let versions = found.versions.get(*key).map_or(&[][..], Vec::as_slice);
        check_lost(versions, writes, history.value_bytes, found.is_complete, &mut verdict);
    }
    verdict.lost.sort_by_key(|write| write.ended_at);
    verdict
}

/// Which of the writes has this value.
fn writer_of<'a>(value_found: &str, writes: &[&'a Write], value_bytes: usize) -> Option<&'a Write> {
    let mut writes = writes.iter().copied();
    writes.find(|write| value(&write.key, write.number, value_bytes) == value_found)
}

fn check_values(
    key: &Arc<str>,
    versions: &[String],
    writes: &[&Write],
    value_bytes: usize,
    verdict: &mut Verdict,
) {
    let mut newer = u64::MAX;
    for version in versions {
        match writer_of(version, writes, value_bytes) {
            None => verdict.invented.push(format!("{key}: {version}")),
            Some(write) => {
                if matches!(write.outcome, Outcome::Refused(_)) {
                    verdict.refused_but_there.push(version.clone());
                }
                if write.number >= newer {
                    verdict.disordered.push(format!("{key}: {} behind {newer}", write.number));
                }
                newer = write.number;
            }
        }
    }
}

fn check_lost(
    versions: &[String],
    writes: &[&Write],
    value_bytes: usize,
    is_complete: bool,
    verdict: &mut Verdict,
) {
    let there: BTreeSet<u64> = versions
        .iter()
        .filter_map(|version| writer_of(version, writes, value_bytes))
        .map(|write| write.number)
        .collect();
    let newest = versions.first().and_then(|version| writer_of(version, writes, value_bytes));
    let newest = newest.map_or(0, |write| write.number);
    let lost = writes.iter().filter(|write| {
        let is_there = there.contains(&write.number);
        write.outcome == Outcome::Acknowledged
            && !is_there
            && (is_complete || write.number > newest)
    });
    verdict.lost.extend(lost.map(|write| (*write).clone()));
}

/// Pairs of reigns of different processes that overlap.
fn two_masters(history: &History) -> Vec<TwoMasters> {
    let mut reigns: BTreeMap<&Reign, Vec<&Write>> = BTreeMap::new();
    for write in history.acknowledged() {
        reigns.entry(&write.reign).or_default().push(write);
    }
    let first_at = |writes: &[&Write]| writes.iter().map(|write| write.ended_at).min();
    let mut found = Vec::new();
    for (older, of_older) in &reigns {
        for (newer, of_newer) in &reigns {
            let (Some(older_at), Some(newer_at)) = (first_at(of_older), first_at(of_newer)) else {
                continue;
            };
            // A client may have connected before a replica became a master: then one process has two names.
            if older.run_id == newer.run_id || older_at >= newer_at {
                continue;
            }
            let beside = of_older.iter().filter(|write| write.sent_at > newer_at);
            if let Some(last_at) = beside.clone().map(|write| write.ended_at).max() {
                found.push(TwoMasters {
                    older: (*older).clone(),
                    newer: (*newer).clone(),
                    count: beside.count(),
                    span: last_at - newer_at,
                });
            }
        }
    }
    found
}

fn pause_max(history: &History) -> Duration {
    let mut times: Vec<Instant> = history.acknowledged().map(|write| write.ended_at).collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 30;

    struct Notes {
        start: Instant,
        history: History,
    }

    fn reign(number: u16) -> Arc<Reign> {
        Arc::new(Reign {
            address: ([10, 77, 0, 1], number).into(),
            run_id: format!("run {number}"),
            replication_id: format!("replication {number}"),
        })
    }

    impl Notes {
        fn new() -> Notes {
            let history = History { value_bytes: SIZE, ..History::default() };
            Notes { start: Instant::now(), history }
        }

        /// A write in the milliseconds from..to.
        fn write(&mut self, key: &str, number: u64, ms: (u64, u64), outcome: Outcome, by: u16) {
            self.history.writes.push(Write {
                key: key.into(),
                number,
                sent_at: self.start + Duration::from_millis(ms.0),
                ended_at: self.start + Duration::from_millis(ms.1),
                outcome,
                reign: reign(by),
            });
        }

        /// Keys a and b, five acknowledged writes each, one each ten milliseconds, by master 1.
        fn plain() -> Notes {
            let mut notes = Notes::new();
            for number in 1..=5 {
                for (key, at) in [("a", number * 20), ("b", number * 20 + 10)] {
                    notes.write(key, number, (at, at + 5), Outcome::Acknowledged, 1);
                }
            }
            notes
        }
    }

    fn found(is_complete: bool, versions: &[(&str, &[u64])]) -> Found {
        let of = |key: &str, numbers: &[u64]| -> Vec<String> {
            numbers.iter().map(|number| value(key, *number, SIZE)).collect()
        };
        let versions = versions.iter().map(|(key, numbers)| ((*key).into(), of(key, numbers)));
        Found { versions: versions.collect(), is_complete }
    }

    fn lost(verdict: &Verdict) -> Vec<(&str, u64)> {
        verdict.lost.iter().map(|write| (&*write.key, write.number)).collect()
    }

    #[test]
    fn a_whole_history_is_found_whole() {
        let all: &[u64] = &[5, 4, 3, 2, 1];
        for found in
            [found(false, &[("a", &[5]), ("b", &[5])]), found(true, &[("a", all), ("b", all)])]
        {
            let verdict = check(&Notes::plain().history, &found);
            verdict.assert_nothing_lost();
            verdict.assert_nothing_wrong();
            verdict.assert_one_master();
            assert_eq!((verdict.acknowledged_count, verdict.loss()), (10, None));
            assert_eq!(verdict.pause_max, Duration::from_millis(10));
        }
    }

    #[test]
    fn a_lost_end_is_found_with_count_and_time() {
        let notes = Notes::plain();
        let verdict = check(&notes.history, &found(false, &[("a", &[3]), ("b", &[4])]));
        assert_eq!(lost(&verdict), [("a", 4), ("a", 5), ("b", 5)]);
        let loss = verdict.loss().expect("there is one");
        assert_eq!((loss.count, loss.span()), (3, Duration::from_millis(30)));
        let fault_at = notes.start + Duration::from_millis(200);
        assert_eq!(loss.before(fault_at), Duration::from_millis(115));
        let text = verdict.to_string();
        assert!(text.contains("3 lost over 30 ms"), "{text}");
    }

    #[test]
    fn a_lost_key_is_found() {
        for found in [found(false, &[("a", &[5])]), found(false, &[("a", &[5]), ("b", &[])])] {
            assert_eq!(lost(&check(&Notes::plain().history, &found)).len(), 5);
        }
    }

    /// Only a server that keeps versions shows it: the newest is there, one before it is not.
    #[test]
    fn a_hole_is_found_among_versions() {
        let all: &[u64] = &[5, 4, 3, 2, 1];
        let verdict =
            check(&Notes::plain().history, &found(true, &[("a", &[5, 4, 2, 1]), ("b", all)]));
        assert_eq!(lost(&verdict), [("a", 3)]);
    }

    #[test]
    fn a_value_that_nobody_sent_is_found() {
        let history = Notes::plain().history;
        let mut changed = found(false, &[("a", &[6]), ("b", &[5])]);
        assert_eq!(check(&history, &changed).invented.len(), 1, "a number that was never sent");
        changed.versions.insert("a".into(), vec![value("b", 5, SIZE)]);
        assert_eq!(check(&history, &changed).invented.len(), 1, "the value of another key");
        changed.versions.insert("a".into(), vec![value("a", 5, SIZE).replace('v', "w")]);
        assert_eq!(check(&history, &changed).invented.len(), 1, "a flipped byte");
        changed.versions.insert("a".into(), vec![value("a", 5, SIZE)]);
        changed.versions.insert("c".into(), vec![value("c", 1, SIZE)]);
        assert_eq!(check(&history, &changed).invented.len(), 1, "a key that nobody wrote");
    }

    #[test]
    fn a_refused_write_that_is_there_is_found() {
        let mut notes = Notes::plain();
        let refused = Outcome::Refused("NOREPLICAS".into());
        notes.write("a", 6, (120, 125), refused, 1);
        let whole = check(&notes.history, &found(false, &[("a", &[5]), ("b", &[5])]));
        whole.assert_nothing_wrong();
        whole.assert_nothing_lost();
        let verdict = check(&notes.history, &found(false, &[("a", &[6]), ("b", &[5])]));
        assert_eq!(verdict.refused_but_there, [value("a", 6, SIZE)]);
    }

    #[test]
    fn a_write_without_a_reply_may_be_there_or_not() {
        let mut notes = Notes::plain();
        notes.write("a", 6, (120, 125), Outcome::Unknown, 1);
        for newest in [5, 6] {
            let verdict = check(&notes.history, &found(false, &[("a", &[newest]), ("b", &[5])]));
            verdict.assert_nothing_lost();
            verdict.assert_nothing_wrong();
            assert_eq!(verdict.unknown_count, 1);
        }
    }

    #[test]
    fn versions_in_another_order_or_twice_are_found() {
        let all: &[u64] = &[5, 4, 3, 2, 1];
        for numbers in [&[5, 3, 4, 2, 1][..], &[5, 4, 4, 3, 2, 1]] {
            let verdict =
                check(&Notes::plain().history, &found(true, &[("a", numbers), ("b", all)]));
            assert_eq!(verdict.disordered.len(), 1, "{verdict}");
        }
    }

    #[test]
    fn two_masters_at_once_are_found_and_one_after_the_other_are_none() {
        let mut notes = Notes::plain();
        // Sent to the old one before the new one had acknowledged anything: it may have come first.
        notes.write("c", 1, (130, 210), Outcome::Acknowledged, 1);
        notes.write("d", 1, (150, 200), Outcome::Acknowledged, 2);
        notes.write("d", 2, (210, 220), Outcome::Acknowledged, 2);
        check(&notes.history, &Found::default()).assert_one_master();
        // A refusal is no promise.
        notes.write("e", 1, (230, 240), Outcome::Refused("READONLY".into()), 1);
        check(&notes.history, &Found::default()).assert_one_master();
        notes.write("e", 2, (250, 260), Outcome::Acknowledged, 1);
        let verdict = check(&notes.history, &Found::default());
        let [two] = &verdict.two_masters[..] else { panic!("{:?}", verdict.two_masters) };
        assert_eq!((&two.older, &two.newer), (&*reign(1), &*reign(2)));
        assert_eq!((two.count, two.span), (1, Duration::from_millis(60)));
    }

    #[test]
    fn a_master_that_returns_is_one_master() {
        let mut notes = Notes::plain();
        notes.write("c", 1, (200, 210), Outcome::Acknowledged, 2);
        let mut again = (*reign(1)).clone();
        again.replication_id = "a new one".into();
        notes.write("d", 1, (300, 310), Outcome::Acknowledged, 1);
        notes.history.writes.last_mut().expect("it was pushed").reign = Arc::new(again);
        check(&notes.history, &Found::default()).assert_one_master();
    }
}
