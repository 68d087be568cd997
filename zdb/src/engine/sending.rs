//! The log for others to copy: what comes next behind a position.

use super::log::copy::CopiedSegment;
use super::log::format::{PackedHeader, SEGMENT_HEADER_BYTES};
use super::log::segments::Segment;
use super::node::Errand;
use super::{Engine, Pending, Waiter, cleaner};
use crate::disk::{FileId, Operation, Token};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a copy that has the log up to a position is to be sent next.
pub enum Piece<'a> {
    /// It has everything.
    Nothing,
    /// The bytes from the position on.
    Bytes(&'a [u8]),
    /// They have to be read: `length` of them, at this offset of the file.
    Read { file: FileId, offset: u64, length: u64 },
    /// A segment begins.
    Segment(CopiedSegment),
    /// A packed segment, which is sent as a file.
    File { base: u64, file: FileId, bytes: u64, end: u64 },
    /// The position is none where the log can be gone on with.
    Gone,
}

/// Which versions of its segments a copy has, as the cleaner of its master left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    pub check: u64,
    /// How far the log was when the last of them was finished.
    pub rests_on: u64,
}

impl Versions {
    /// Of segments by their bases, in their order, with the headers of the packed ones.
    pub fn of(segments: impl Iterator<Item = (u64, Option<PackedHeader>)>) -> Self {
        segments.fold(Self::default(), |versions, (base, packed)| {
            let version = packed.map_or((0, 0), |one| (one.judged_until, one.trailer_check));
            let mut bytes = [0; 24];
            for (at, number) in [base, version.0, version.1].into_iter().enumerate() {
                bytes[8 * at..][..8].copy_from_slice(&number.to_le_bytes());
            }
            Self {
                check: xxh3_64_with_seed(&bytes, versions.check),
                rests_on: versions.rests_on.max(packed.map_or(0, |one| one.rests_on_min())),
            }
        })
    }

    /// As a word of PSYNC.
    pub fn word(self) -> String {
        format!("{:016x}:{}", self.check, self.rests_on)
    }

    pub fn parse(word: &str) -> Option<Self> {
        let (check, rests_on) = word.split_once(':')?;
        let check = u64::from_str_radix(check, 16).ok()?;
        Some(Self { check, rests_on: rests_on.parse().ok()? })
    }
}

impl Engine {
    /// What follows in the log behind `position`, at most `bytes_max` of it; 0: an empty log.
    pub fn piece(&self, position: u64, bytes_max: u64) -> Piece<'_> {
        let segments = self.log.segments.list();
        let after = segments.partition_point(|segment| segment.base <= position);
        let Some(at) = after.checked_sub(1) else {
            return self.next_segment(None, segments.first());
        };
        let segment = &segments[at];
        if position == segment.base {
            let before = at.checked_sub(1).map(|before| &segments[before]);
            return self.next_segment(before, Some(segment));
        }
        let is_open = self.log.is_open() && at + 1 == segments.len();
        let end = if is_open { self.log.appended() } else { segment.end() };
        if position == end {
            return self.next_segment(Some(segment), segments.get(at + 1));
        }
        if position > end
            || segment.packed.is_some()
            || position < segment.base + SEGMENT_HEADER_BYTES
        {
            return Piece::Gone;
        }
        let length = (end - position).min(bytes_max);
        if position >= self.log.buffered_from() {
            let bytes = self.log.buffered(position, length as usize);
            return bytes.map_or(Piece::Gone, Piece::Bytes);
        }
        let length = match is_open {
            // What is not on the disk yet is in the buffer.
            true => length.min(self.log.buffered_from() - position),
            false => length,
        };
        Piece::Read { file: segment.file, offset: position - segment.base, length }
    }

    fn next_segment(&self, before: Option<&Segment>, next: Option<&Segment>) -> Piece<'_> {
        let Some(next) = next else { return Piece::Nothing };
        if next.packed.is_some() {
            let (bytes, end) = (next.file_bytes(), next.end());
            return Piece::File { base: next.base, file: next.file, bytes, end };
        }
        // Whoever has a segment that is packed here may have it as it was before, without a seal.
        let is_known = |before: &&Segment| before.is_sealed() && before.packed.is_none();
        let previous_end = before.filter(|before| !is_known(before)).map_or(0, Segment::end);
        Piece::Segment(CopiedSegment {
            base: next.base,
            capacity: next.capacity,
            previous_end,
            created_s: self.now.unix_s(),
        })
    }

    /// Whether a copy that ends at this position, and has these versions of what is before, can go on.
    pub fn can_send(&self, position: u64, versions: Versions) -> bool {
        let is_same = versions == self.versions_before(position);
        if versions.rests_on > position && !is_same {
            // What its packed segments lack was superseded by records that it has not got, and that may not be here.
            return false;
        }
        match self.piece(position, 1) {
            Piece::Gone => false,
            Piece::File { base, .. } => position == 0 || is_same || !self.may_lack_deletes(base),
            _ => true,
        }
    }

    /// The versions of the segments before a position that are here: whoever has the same lacks no delete that the
    /// cleaner dropped from what follows, as nothing is lacking here.
    pub fn versions_before(&self, position: u64) -> Versions {
        let list = self.log.segments.list();
        let before = list.iter().take_while(|segment| segment.base < position);
        let headers = before.map(|one| (one.base, one.packed.as_ref().map(|packed| packed.header)));
        Versions::of(headers)
    }

    /// Whether the log has all that it had before it was copied anew, and all by which what is lacking in its packed
    /// segments was superseded. One that is to go back may have to be copied anew for that.
    pub fn is_whole(&self) -> bool {
        let here = (self.terms.number(), self.log.end());
        let is_leaving = self.node.errand != Errand::None;
        // A packed segment that does not say on what it rests was finished where there were no copies.
        let packed = self.log.segments.list().iter().filter_map(|one| one.packed.as_ref());
        let rests_on = packed.map(|packed| packed.header.rests_on).max().unwrap_or(0);
        !is_leaving && self.node.owed <= here && rests_on <= here.1
    }

    /// Whether the packed segment with this base, or one behind it, may have lost deletes of what older segments of
    /// a copy still have: the cleaner drops one where no segment that it has itself needs it.
    fn may_lack_deletes(&self, base: u64) -> bool {
        let older = self.log.segments.list().iter().take_while(|segment| segment.base < base);
        older.map(cleaner::clean_until).all(|until| until > base)
    }

    /// Has something done for somebody outside, who gets `Answer::Work`.
    pub fn work_for(&mut self, waiter: Waiter, operation: Operation) {
        self.next_token += 1;
        let token = Token(self.next_token << 1 | 1);
        let read = match &operation {
            Operation::Read { file, .. } | Operation::ReadAround { file, .. } => Some(*file),
            _ => None,
        };
        self.pending.insert(token, Pending::Work { waiter, read });
        self.operations.push((token, operation));
    }

    /// The same where nobody waits for it.
    pub fn work_for_nobody(&mut self, operation: Operation) {
        self.operations.push((Token(0), operation));
    }
}
