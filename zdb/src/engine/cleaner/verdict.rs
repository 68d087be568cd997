//! Whether a record is still wanted, by what its namespace keeps of the past.
//!
//! The index alone cannot tell: an overwrite goes by the hash of a key, so under the newest record of a hash there
//! may be the newest of another key. A version is dropped only where a newer record of its own key was
//! looked at, and only where no record of another key is reached through it.

use super::super::log::format::{FLAG_UNVERIFIED, Head, Kind};
use super::super::namespace::Retention;
use crate::planted::{self, Bug};

/// How many records are followed from one to the one before it until the cleaner gives up and keeps a record.
const STEPS_MAX: usize = 64;
/// The same for a namespace that keeps more versions than that,
const STEPS_FAR_MAX: usize = 4096;
/// and for one that keeps them for days, in which a key may have many.
const STEPS_DAYS_MAX: usize = 512;
const DAY_S: u64 = 86_400;

/// What is known of a record that another leads to.
#[derive(Clone, Debug)]
pub struct Fact {
    pub key: Box<[u8]>,
    pub namespace: u32,
    pub kind: Kind,
    pub flags: u8,
    pub previous: u64,
    pub timestamp: u32,
}

/// What there is at a position.
pub enum Look<'a> {
    Record(&'a Fact),
    /// The cleaner dropped it.
    Gone,
    /// It cannot be read.
    Lost,
    /// Nobody has looked yet.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Nobody can tell whether it is wanted, or it is only for now.
    KeepUndecided,
    Drop,
    /// What is at this position has to be known first.
    Ask(u64),
}

/// What the index holds for the hash or the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    pub position: u64,
}

/// A record and what its namespace keeps.
pub struct Case<'a> {
    pub position: u64,
    pub head: &'a Head,
    pub key: &'a [u8],
    pub newest: Option<Newest>,
    /// Ids, of which each is its own: no two keys share a hash.
    pub is_sequential: bool,
    pub retention: Retention,
    /// Unix seconds since when it is that.
    pub retention_since: u32,
    pub now_s: u64,
    /// The time of a later record of its key, where one was met beside it.
    pub ended_at: Option<u32>,
    /// Whether nothing that this record ended is left in older segments.
    pub older_are_clean: bool,
}

impl Case<'_> {
    pub fn judge<'f>(&self, look: &mut dyn FnMut(u64) -> Look<'f>) -> Verdict {
        match (self.retention, self.head.kind) {
            (Retention::Forever, Kind::Set) => self.keep_for_now(),
            (Retention::Forever, _) => Verdict::Keep,
            (_, Kind::Set) => self.judge_version(look),
            (_, Kind::Delete) => self.judge_delete(look),
            _ => Verdict::Keep,
        }
    }

    /// Whether something that happened then is past what the namespace keeps.
    fn is_past(&self, timestamp: u64) -> bool {
        match self.retention {
            Retention::Forever => false,
            Retention::Versions(_) => true,
            Retention::Days(days) => timestamp + u64::from(days) * DAY_S <= self.now_s,
        }
    }

    fn judge_version<'f>(&self, look: &mut dyn FnMut(u64) -> Look<'f>) -> Verdict {
        let Some(newest) = self.newest else { return self.of_a_former_life() };
        let mut at = newest.position;
        if at < self.position {
            // The start did not count this record. That may be for a reason that is not known here.
            return Verdict::KeepUndecided;
        }
        let is_days = matches!(self.retention, Retention::Days(_));
        if is_days
            && at > self.position
            && self.ended_at.is_some_and(|time| self.is_past(time.into()))
        {
            return self.drop_unless_needed(look);
        }
        let mut newer = 0_u32;
        let steps_max = match self.retention {
            Retention::Versions(kept) => STEPS_MAX.max(kept as usize + 2).min(STEPS_FAR_MAX),
            _ => STEPS_DAYS_MAX,
        };
        for _ in 0..steps_max {
            if at == self.position {
                // No delete of its key lies between, so none has to stay for its sake.
                let has_no_delete = matches!(self.retention, Retention::Versions(_));
                return if has_no_delete { Verdict::Keep } else { self.keep_for_now() };
            }
            if at < self.position {
                return self.of_a_former_life();
            }
            if self.is_sequential && self.retention == Retention::Versions(0) {
                return Verdict::Drop;
            }
            let record = match look(at) {
                Look::Record(record) => record,
                // What was dropped led to nothing but older versions of its own key.
                Look::Gone => return self.of_a_former_life(),
                Look::Lost => return Verdict::KeepUndecided,
                Look::Unknown => return Verdict::Ask(at),
            };
            let is_ours = self.is_ours(record);
            if is_ours {
                newer = newer.saturating_add(1);
                let is_beyond = match self.retention {
                    Retention::Versions(kept) => newer > kept || record.kind == Kind::Delete,
                    _ => self.is_past(record.timestamp.into()),
                };
                if is_beyond {
                    return self.drop_unless_needed(look);
                }
            } else if record.flags & FLAG_UNVERIFIED == 0 {
                return self.of_a_former_life();
            }
            at = record.previous;
        }
        Verdict::KeepUndecided
    }

    /// What is kept although a newer record has superseded or ended it needs the delete that did, whatever
    /// the namespace keeps by then: the segment does not count as clean.
    fn keep_for_now(&self) -> Verdict {
        let is_newest = self.newest.is_some_and(|newest| newest.position == self.position);
        if is_newest { Verdict::Keep } else { Verdict::KeepUndecided }
    }

    /// Its key was deleted after it, and whatever has the hash now began anew: nothing leads here.
    fn of_a_former_life(&self) -> Verdict {
        match self.retention {
            // Since then deletes stay in the index; this one was before.
            Retention::Days(_) if self.is_sequential => Verdict::KeepUndecided,
            Retention::Days(_) if !self.is_past(self.retention_since.into()) => {
                Verdict::KeepUndecided
            }
            _ => Verdict::Drop,
        }
    }

    fn judge_delete<'f>(&self, look: &mut dyn FnMut(u64) -> Look<'f>) -> Verdict {
        // As long as a version that it ended is in the log, a start would take that for the newest.
        let older_are_clean = self.older_are_clean || planted::is(Bug::LooseDelete);
        if !self.is_past(self.head.timestamp.into()) || !older_are_clean {
            return Verdict::Keep;
        }
        match self.newest {
            None => Verdict::Drop,
            Some(newest) if newest.position < self.position => Verdict::KeepUndecided,
            Some(_) => self.drop_unless_needed(look),
        }
    }

    fn is_ours(&self, record: &Fact) -> bool {
        let is_same_key = *record.key == *self.key || planted::is(Bug::HashClean);
        record.namespace == self.head.namespace && is_same_key
    }

    /// A record of another key that is reached through this one would be lost with it.
    fn drop_unless_needed<'f>(&self, look: &mut dyn FnMut(u64) -> Look<'f>) -> Verdict {
        if self.is_sequential {
            return Verdict::Drop;
        }
        let (mut flags, mut previous) = (self.head.flags, self.head.previous.get());
        for _ in 0..STEPS_MAX {
            if flags & FLAG_UNVERIFIED == 0 || previous == 0 {
                return Verdict::Drop;
            }
            let record = match look(previous) {
                Look::Record(record) => record,
                Look::Gone => return Verdict::Drop,
                Look::Lost => return Verdict::KeepUndecided,
                Look::Unknown => return Verdict::Ask(previous),
            };
            if !self.is_ours(record) {
                return Verdict::KeepUndecided;
            }
            (flags, previous) = (record.flags, record.previous);
        }
        Verdict::KeepUndecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::Place;

    /// What is said of a version at 100 that ended long ago by what was met beside it, where the index leads to
    /// `newest` and that is one of its own versions.
    fn verdict(newest: u64) -> Verdict {
        let head = Head {
            kind: Kind::Set,
            flags: 0,
            key_length: 3,
            payload_length: 0,
            payload_check: 0,
            sequence: 0,
            timestamp: 0,
            namespace: 1,
            previous: Place::new(0),
            replaced: None,
        };
        let case = Case {
            position: 100,
            head: &head,
            key: b"key",
            newest: Some(Newest { position: newest }),
            is_sequential: false,
            retention: Retention::Days(1),
            retention_since: 0,
            now_s: 10 * DAY_S,
            ended_at: Some(0),
            older_are_clean: true,
        };
        case.judge(&mut |_| Look::Unknown)
    }

    #[test]
    fn only_what_the_index_has_a_newer_version_of_has_ended() {
        assert_eq!(verdict(200), Verdict::Drop);
        assert_eq!(verdict(100), Verdict::Keep);
        assert_eq!(verdict(50), Verdict::KeepUndecided);
    }
}
