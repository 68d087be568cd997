//! From one segment of the log to the next: made ahead, begun when the old one is full or told to end, and
//! not written to before the old one is durable.

use super::copy::CopiedSegment;
use super::format::{self, BLOCK, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segments::Segment;
use super::{Current, Jump, Log, Prepared, RETRY_MS, Refusal, Room, SEAL_ROOM, Switch};
use crate::disk::{Done, FileId, Operation, Root, Token};
use crate::engine::index::PLACE_BITS;
use crate::limits::*;
use crate::planted::{self, Bug};
use std::io::{self, ErrorKind};

/// How the open segment ends before the next one begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// By a seal of ours.
    Seal,
    /// A seal was copied.
    Sealed,
    /// Where its records end, as the next header says.
    AsItIs,
}

impl Log {
    /// Goes to the next segment, which takes a record of `bytes`, or asks for one.
    pub(super) fn next_segment(
        &mut self,
        now_ms: u64,
        bytes: u64,
        room: Room,
    ) -> Result<(), Refusal> {
        if self.is_copy {
            return self.next_as_it_is(now_ms, bytes);
        }
        if self.switch.is_some() {
            return Err(Refusal::Wait);
        }
        let needed = SEGMENT_HEADER_BYTES + bytes + SEAL_ROOM;
        match &self.prepared {
            Prepared::Ready(segment, source)
                if segment.size >= needed && (*source == Room::Free || room == Room::Reserve) =>
            {
                self.begin_segment(Close::Seal);
                Ok(())
            }
            Prepared::Requested { .. } => Err(Refusal::Wait),
            // It is kept for the delete that asked for it.
            Prepared::Ready(_, Room::Reserve)
                if room == Room::Free
                    && self.no_room_ms.is_some_and(|at| now_ms < at + RETRY_MS) =>
            {
                Err(Refusal::Failed)
            }
            Prepared::Failed { at_ms, source } if now_ms < at_ms + RETRY_MS => {
                let is_last_try = *source == Room::Reserve || self.reserve_bytes == 0;
                if room == Room::Free || is_last_try || !self.stats.disk_full {
                    return Err(Refusal::Failed);
                }
                self.request_segment(bytes, Room::Reserve);
                Err(Refusal::Wait)
            }
            Prepared::Ready(..) | Prepared::Nothing | Prepared::Failed { .. } => {
                self.request_segment(bytes, Room::Free);
                match self.prepared {
                    Prepared::Requested { .. } => Err(Refusal::Wait),
                    _ => Err(Refusal::Failed),
                }
            }
        }
    }

    /// Closes the open segment, empty or not, and begins the next one.
    pub fn jump(&mut self, now_ms: u64) -> Result<(), Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Failed);
        }
        if self.segments.last().is_none() {
            // Clients see a first segment before there is one: it comes into being to be closed.
            self.next_segment(now_ms, 0, Room::Free)?;
        }
        self.next_segment(now_ms, 0, Room::Free)
    }

    /// Where the next record goes. A log that takes no records yet shows the end of its last segment.
    pub fn current(&self) -> Current {
        let Some(last) = self.segments.last() else {
            return Current { number: 0, base: self.appended, offset: SEGMENT_HEADER_BYTES };
        };
        let number = last.number + u64::from(last.count - 1);
        let end = if self.open { self.appended } else { last.end() };
        Current { number, base: last.base, offset: end - last.base }
    }

    /// Whether there was no room for a segment.
    pub fn is_full(&self) -> bool {
        self.stats.disk_full
    }

    /// There may be room again where there was none.
    pub fn try_again(&mut self) {
        self.no_room_ms = None;
        if matches!(self.prepared, Prepared::Failed { .. }) {
            self.prepared = Prepared::Nothing;
        }
    }

    /// The size that segments are made with.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Changes after how long a segment with records is closed, in milliseconds; 0: never.
    pub fn set_rotation(&mut self, rotate_ms: u64) {
        self.rotate_ms = rotate_ms;
        // It counts from the next record.
        self.rotate_due_ms = None;
    }

    /// Closes a segment that has had records for long enough.
    pub(super) fn rotate_if_due(&mut self, now_ms: u64) {
        if self.rotate_due_ms.is_some_and(|due| due <= now_ms) {
            self.rotate_due_ms = None;
            // The setting may have changed since.
            self.rotating = self.rotate_ms > 0;
        }
        if self.is_copy {
            return;
        }
        if self.rotating && self.jump(now_ms) == Err(Refusal::Failed) {
            self.rotating = false;
            self.rotate_due_ms = Some(now_ms + self.rotate_ms);
        }
    }

    pub(super) fn request_segment(&mut self, record_bytes: u64, source: Room) {
        let needed = (SEGMENT_HEADER_BYTES + record_bytes + SEAL_ROOM).next_multiple_of(BLOCK);
        let (wanted, least, keep_free) = match source {
            Room::Free => (self.segment_bytes, SEGMENT_BYTES_MIN, self.reserve_bytes),
            Room::Reserve => (SEGMENT_BYTES_MIN, needed, self.reserve_bytes / 2),
        };
        let capacity = wanted.max(needed);
        let base = match self.segments.last() {
            Some(last) if self.open => last.base + last.capacity,
            _ => self.written,
        };
        if base + capacity > 1 << PLACE_BITS {
            return self.cannot_grow(base);
        }
        let next = CopiedSegment {
            base,
            capacity,
            previous_end: if self.open { 0 } else { self.segments.previous_end },
            created_s: self.now_s,
        };
        self.create_segment(next, (needed.max(least.min(capacity)), keep_free), source);
    }

    /// Asks for the file of a segment, of which it needs so many bytes at least, where so many stay free.
    pub(super) fn create_segment(
        &mut self,
        next: CopiedSegment,
        (capacity_min, keep_free): (u64, u64),
        source: Room,
    ) {
        let CopiedSegment { base, capacity, previous_end, created_s } = next;
        let header = SegmentHeader {
            log: self.id,
            base,
            capacity,
            previous_end,
            created: created_s,
            packed: None,
        };
        let token = self.token();
        self.creating = Some(token);
        match &self.prepared {
            // Another master has another one here: a start would find both.
            Prepared::Ready(other, _) if other.base != base => {
                self.remove_prepared(other.base, other.file);
            }
            Prepared::Ready(same, _) => {
                self.operations.push((Token(0), Operation::Close { file: same.file }));
            }
            Prepared::Requested { .. } | Prepared::Failed { .. } | Prepared::Nothing => {}
        }
        self.prepared = Prepared::Requested { base, capacity, source };
        self.operations.push((
            token,
            Operation::CreateSegment {
                name: format::segment_name(base),
                capacity,
                capacity_min,
                keep_free,
                header: header.encode().to_vec(),
            },
        ));
    }

    /// Removes the segment that was made ahead, for a file is to come that may have its name.
    pub fn drop_prepared(&mut self) {
        self.copied = None;
        match std::mem::replace(&mut self.prepared, Prepared::Nothing) {
            Prepared::Ready(segment, _) => self.remove_prepared(segment.base, segment.file),
            requested @ Prepared::Requested { .. } => {
                self.prepared = requested;
                self.drops_prepared = true;
            }
            Prepared::Failed { .. } | Prepared::Nothing => {}
        }
    }

    fn remove_prepared(&mut self, base: u64, file: FileId) {
        self.operations.push((Token(0), Operation::Close { file }));
        let names = vec![(Root::Data, format::segment_name(base))];
        self.operations.push((Token(0), Operation::Remove { names }));
    }

    /// Ends the open segment, if any, and goes on in the prepared one.
    pub(super) fn begin_segment(&mut self, close: Close) {
        let prepared = std::mem::replace(&mut self.prepared, Prepared::Nothing);
        let Prepared::Ready(segment, room) = prepared else {
            unreachable!("only called with a prepared segment")
        };
        self.room = room;
        let next_start = segment.base + SEGMENT_HEADER_BYTES;
        if let Some(old) = self.segments.last() {
            self.jumping.push_back(Jump { old: old.base, new: segment.base });
        }
        self.rotate_due_ms = None;
        self.rotating = false;
        if self.open {
            let end = match close {
                Close::Seal => self.seal(),
                Close::Sealed => {
                    self.segments.seal(self.appended);
                    self.appended
                }
                Close::AsItIs => {
                    self.segments.end_as_it_is(self.appended);
                    let end = self.fill_with_zeroes();
                    self.filled_to = Some(end);
                    end
                }
            };
            self.switch = Some(Switch { end, next_start });
            self.flush_target = Some(end);
        } else {
            self.submitted = next_start;
            self.written = next_start;
            self.durable = next_start;
            self.buffered_from = next_start;
            self.zeroed = next_start;
        }
        self.appended = next_start;
        self.open = true;
        self.segments.push(segment);
    }

    /// Tells of jumps once their old segment is as it stays: others may copy its files then.
    pub(super) fn report_jumps(&mut self) {
        while let Some(jump) = self.jumping.front() {
            // A switch is always that of the last jump. The cut of the file goes before its last page.
            let switching = self.switch.is_some() && self.jumping.len() == 1;
            if switching || !self.segments.is_settled(jump.old) {
                return;
            }
            self.jumps.extend(self.jumping.pop_front());
        }
    }

    /// Lets writes go to the next segment once the old one is durable. True when it did.
    pub(super) fn finish_switch(&mut self) -> bool {
        let Some(switch) = self.switch else { return false };
        let is_durable = self.durable >= switch.end || planted::is(Bug::EarlySwitch);
        // A zeroing of the old segment that came behind its cut would make it longer again.
        if !is_durable || self.sync.is_some() || self.zero.is_some() {
            return false;
        }
        self.switch = None;
        self.flush_target = None;
        self.filled_to = None;
        self.submitted = switch.next_start;
        self.written = switch.next_start;
        self.durable = switch.next_start;
        self.zeroed = switch.next_start;
        let old = self.segments.of(switch.end - 1).expect("a sealed segment stays");
        let (file, length, size) = (old.file, switch.end - old.base, old.size);
        if size - length >= ZERO_UNIT_BYTES {
            let token = self.token();
            self.truncating = Some(token);
            self.operations.push((token, Operation::Truncate { file, length }));
        }
        true
    }

    pub(super) fn segment_created(&mut self, now_ms: u64, result: io::Result<Done>) {
        let Prepared::Requested { base, capacity, source } = self.prepared else {
            unreachable!("a segment was asked for")
        };
        match result {
            Ok(Done::File(file, _)) if self.drops_prepared => {
                self.drops_prepared = false;
                self.prepared = Prepared::Nothing;
                self.remove_prepared(base, file);
            }
            Ok(Done::File(file, size)) => {
                self.stats.disk_full &= source == Room::Reserve;
                self.prepared = Prepared::Ready(Segment::new(base, capacity, size, file), source);
            }
            Ok(other) => unreachable!("making a segment gives a file, not {other:?}"),
            Err(error) => {
                self.drops_prepared = false;
                self.prepared = Prepared::Failed { at_ms: now_ms, source };
                if source == Room::Free {
                    self.no_room_ms = Some(now_ms);
                }
                self.stats.disk_full =
                    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                self.stats.write_errors += 1;
                if self.now_s != self.stats.write_error_last {
                    self.notices.push(format!(
                        "cannot make segment {} of {capacity} bytes: {error}; writes are refused until there \
                         is room, reads go on",
                        format::segment_name(base)
                    ));
                }
                self.stats.write_error_last = self.now_s;
            }
        }
    }

    /// The log has given all its addresses away. Jumps use them up too: each takes a whole segment's.
    pub(super) fn cannot_grow(&mut self, base: u64) {
        self.prepared = Prepared::Failed { at_ms: 0, source: Room::Reserve };
        if self.now_s != self.stats.write_error_last {
            self.notices.push(format!(
                "no segment can follow {}: the log's {PLACE_BITS} bits of addresses are used up. Writes \
                 are refused, reads go on; copy the data into a new directory",
                format::segment_name(base)
            ));
        }
        self.stats.write_errors += 1;
        self.stats.write_error_last = self.now_s;
    }
}
