//! A log that copies another one: records come with their places, and so do the ends of segments. It adds
//! nothing of its own: no padding, no seal, no segment that the other does not have.

use super::format::{BLOCK, Head, Kind, SEGMENT_HEADER_BYTES};
use super::switch::Close;
use super::{Flight, Log, Prepared, Refusal, Room};
use crate::engine::index::PLACE_BITS;
use crate::limits::{RECORD_ROOM_BYTES, SEGMENT_BYTES_MAX, WRITE_BUFFER_BYTES};

/// A segment of the log that is copied, as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedSegment {
    pub base: u64,
    pub capacity: u64,
    /// Where the records of the segment before end, where no seal tells it; else 0.
    pub previous_end: u64,
    /// Unix seconds.
    pub created_s: u64,
}

impl CopiedSegment {
    /// Whether there can be such a segment, wherever the log is.
    fn is_possible(&self) -> bool {
        let is_size = SEGMENT_HEADER_BYTES + BLOCK..=SEGMENT_BYTES_MAX;
        let is_aligned = self.base.is_multiple_of(BLOCK) && self.capacity.is_multiple_of(BLOCK);
        let is_within = |base: u64| base <= (1 << PLACE_BITS) - self.capacity;
        is_aligned && is_size.contains(&self.capacity) && is_within(self.base)
    }
}

/// Why the log does not go on as the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyTrouble {
    /// Not now: try again after the next completion.
    Wait,
    /// The file system has no room, or the log takes no more writes.
    Failed,
    /// What came is no whole record: the way here damaged it, or it is so where it came from.
    Damaged(String),
    /// What came does not belong here.
    Wrong(String),
}

impl From<Refusal> for CopyTrouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wait => Self::Wait,
            Refusal::Failed => Self::Failed,
        }
    }
}

impl Log {
    /// Where the records end: a copy goes on here.
    pub fn end(&self) -> u64 {
        match self.segments.last() {
            Some(last) if !self.open => last.end(),
            _ if self.open => self.appended,
            _ => 0,
        }
    }

    /// Where the last record before a position ends. Of a segment with nothing but a header a start knows nothing.
    pub fn records_end(&self, position: u64) -> u64 {
        let segments = self.segments.list();
        let at = segments.partition_point(|one| one.base + SEGMENT_HEADER_BYTES < position);
        let Some(last) = at.checked_sub(1).map(|at| &segments[at]) else { return 0 };
        let is_within = position < last.base + last.capacity;
        if is_within { position } else { last.end() }
    }

    /// Whether the log takes records.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// From now on the log copies another one, or writes on its own.
    pub fn set_copying(&mut self, now_ms: u64, is_copy: bool) {
        self.is_copy = is_copy;
        if is_copy {
            self.rotate_due_ms = None;
            self.rotating = false;
        } else if self.open && self.appended > self.durable {
            // What is in the last block was not flushed. A flush that ends inside it would wait for a copy's way to write.
            if self.switch.is_none() {
                self.flush_target = None;
            }
            self.set_policy(now_ms, self.policy);
        }
    }

    /// Whether a seal has ended the open segment: the next one follows.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed_at == Some(self.appended)
    }

    /// Takes a whole, verified record that belongs at the end of the log.
    pub fn copy_record(
        &mut self,
        now_ms: u64,
        head: &Head,
        bytes: &[u8],
    ) -> Result<(u64, u64), CopyTrouble> {
        debug_assert!(bytes.len() as u64 == head.bytes());
        let (position, end) =
            self.copy_bytes(now_ms, head.bytes(), |room| room.copy_from_slice(bytes))?;
        match head.kind {
            Kind::Seal => self.sealed_at = Some(end),
            Kind::Batch => self.batches.push_back((position, end)),
            _ => {}
        }
        Ok((position, end))
    }

    /// Takes bytes that belong at the end of the log, whatever they are. Returns where they begin and end.
    pub fn copy_bytes(
        &mut self,
        now_ms: u64,
        length: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(u64, u64), CopyTrouble> {
        debug_assert!(self.is_copy);
        if self.broken.is_some() {
            return Err(CopyTrouble::Failed);
        }
        let wrong = |text: &str| Err(CopyTrouble::Wrong(text.to_owned()));
        let (position, end) = (self.appended, self.appended + length);
        let Some(segment) = self.segments.last().filter(|_| self.open) else {
            return wrong("a record came before its segment");
        };
        if self.is_sealed() {
            return wrong("a record came behind the seal of a segment");
        }
        if end > segment.base + segment.size {
            // The disk was nearly full when this server, as a master, made the file; or it is no record of there.
            return Err(CopyTrouble::Wrong(format!(
                "a record up to {end} came for segment {:x}, of which the file here has {} bytes",
                segment.base, segment.size
            )));
        }
        if end + BLOCK - self.written > WRITE_BUFFER_BYTES as u64 - RECORD_ROOM_BYTES {
            return Err(CopyTrouble::Wait);
        }
        fill(self.room(position, length));
        self.appended = end;
        self.appended_record(now_ms, length);
        Ok((position, end))
    }

    /// Goes on in a further segment.
    pub fn copy_segment(&mut self, now_ms: u64, next: CopiedSegment) -> Result<(), CopyTrouble> {
        if self.broken.is_some() {
            return Err(CopyTrouble::Failed);
        }
        let wrong = |text: String| Err(CopyTrouble::Wrong(text));
        if !next.is_possible() {
            let (base, capacity) = (next.base, next.capacity);
            return wrong(format!("segment {base:x} of {capacity} bytes is none that can be"));
        }
        if let Some(last) = self.segments.last()
            && next.base < last.base + last.capacity
        {
            return wrong(format!("segment {:x} would overlap {:x}", next.base, last.base));
        }
        let is_sealed = self.open && self.is_sealed();
        // A seal says it, and the header need not.
        let previous_end = if is_sealed { 0 } else { next.previous_end };
        let next = CopiedSegment { previous_end, ..next };
        if self.open && !is_sealed && next.previous_end != self.appended {
            return wrong(format!(
                "segment {:x} would follow one that ends at {:x}, and not at {:x}",
                next.base, next.previous_end, self.appended
            ));
        }
        if self.switch.is_some() {
            return Err(CopyTrouble::Wait);
        }
        match &self.prepared {
            Prepared::Ready(..) if self.copied == Some(next) => {
                self.copied = None;
                let close = if self.is_sealed() { Close::Sealed } else { Close::AsItIs };
                self.begin_segment(close);
                self.sealed_at = None;
                Ok(())
            }
            Prepared::Requested { .. } => Err(CopyTrouble::Wait),
            Prepared::Failed { at_ms, .. } if now_ms < at_ms + super::RETRY_MS => {
                Err(CopyTrouble::Failed)
            }
            _ => {
                self.copied = Some(next);
                self.create_segment(next, (next.capacity, self.reserve_bytes), Room::Free);
                Err(CopyTrouble::Wait)
            }
        }
    }

    /// Goes to the next segment, for the record of a term, without a seal: that would be of the term before, in
    /// which others may have other records here.
    pub(super) fn next_as_it_is(&mut self, now_ms: u64, bytes: u64) -> Result<(), Refusal> {
        let (base, previous_end) = match self.segments.last() {
            Some(last) if self.open => (last.base + last.capacity, self.appended),
            _ => (self.written, self.segments.previous_end),
        };
        let previous_end = if self.is_sealed() { 0 } else { previous_end };
        let needed = SEGMENT_HEADER_BYTES + bytes + super::SEAL_ROOM;
        let capacity = self.segment_bytes.max(needed.next_multiple_of(BLOCK));
        // One that was asked for before has the time of then.
        let asked = self.copied.filter(|one| one.base == base && one.previous_end == previous_end);
        let created_s = self.now_s;
        let next = asked.unwrap_or(CopiedSegment { base, capacity, previous_end, created_s });
        self.copy_segment(now_ms, next).map_err(|trouble| match trouble {
            CopyTrouble::Wait => Refusal::Wait,
            CopyTrouble::Failed | CopyTrouble::Damaged(_) | CopyTrouble::Wrong(_) => {
                Refusal::Failed
            }
        })
    }

    /// Zeroes behind the records, up to the end of the block: it is written as it is. Returns that end.
    pub(super) fn fill_with_zeroes(&mut self) -> u64 {
        let (start, end) = (self.appended, self.appended.next_multiple_of(BLOCK));
        if start < end {
            self.room(start, end - start).fill(0);
        }
        end
    }

    /// Writes the last block of a copy as it is: it cannot be padded, and what is in it is waited for. The block
    /// is written again with what follows; what was in it is the same then.
    pub(super) fn submit_tail(&mut self) {
        if !self.flights.is_empty() || self.appended <= self.written {
            return;
        }
        let Some(segment) = self.segments.of(self.submitted) else { return };
        let (file, base, start, covers) =
            (segment.file, segment.base, self.submitted, self.appended);
        let end = self.fill_with_zeroes();
        let token = self.token();
        let (done, failed) = (false, false);
        self.flights.push_back(Flight { token, file, base, start, end, covers, done, failed });
        self.push_write(token, file, base, start, end);
        self.stats.writes += 1;
    }
}
