//! A segment item by item: which records count, and what is damaged between them. A start takes them into
//! the index; the offline commands look at the same.

use super::log::format::{
    ALIGN, BATCH_HEAD_BYTES, BLOCK, FLAG_MEMBER, FLAGS_KNOWN, Head, ID_RECORD_BYTES_MIN, Kind,
    Verified,
};
use super::scanner::{HEAD_AND_KEY_BYTES_MAX, Scanner};
use crate::planted::{self, Bug};

/// What a disk writes as a whole, in bytes.
pub const SECTOR: u64 = 512;

pub enum Item {
    /// A whole record, padding and seal too. `end` is that of the batch that it is in, or its own.
    Record { position: u64, head: Head, from_buffer: bool, end: u64 },
    /// The head of a whole batch, whose records follow.
    Batch { position: u64, head: Head },
    /// A record of a batch that is not whole, where it may never have been durable: it does not count.
    Dropped { position: u64, head: Head },
    /// No whole record begins in these bytes. With head and key of the record that was there, where these
    /// are whole. Half-written: that record was never durable, and does not end the version before it.
    Damaged { start: u64, end: u64, lost: Option<(Head, Vec<u8>)>, is_half_written: bool },
}

/// How many records that gave ids out may have been in damaged bytes. One with a whole head is not among
/// them: its id is known, or was never durable.
pub fn ids_lost_max(start: u64, end: u64, head: Option<&Head>) -> u64 {
    match head {
        Some(head) if head.kind != Kind::Batch => {
            end.saturating_sub(start + head.bytes()) / ID_RECORD_BYTES_MIN
        }
        _ => (end - start) / ID_RECORD_BYTES_MIN,
    }
}

/// What is known of a segment before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    /// Where its records end, if the next segment tells.
    pub known_end: Option<u64>,
    /// Whether its end was durable once: a seal was before the next segment was begun.
    pub is_sealed: bool,
    /// Whether another segment comes after it, whatever that tells.
    pub is_followed: bool,
    /// Whether its file was cut behind the last record.
    pub was_cut: bool,
    /// Nothing is known of its capacity.
    pub is_header_lost: bool,
}

/// Whether a damaged record with a whole head was never written as a whole: what a power cut took reads as
/// zeroes, for a block of a segment is written once, and only zeroes before. Damage does not make a whole
/// sector zero. `bytes` are those of the record, as far as the file has them.
pub fn is_half_written(bytes: &[u8], position: u64, head: &Head) -> bool {
    // Zeroes are all that these hold.
    if matches!(head.kind, Kind::Padding | Kind::Seal) {
        return false;
    }
    let start = position + head.payload_offset() as u64;
    let end = start + u64::from(head.payload_length);
    let mut at = start;
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        let sector = bytes.get((at - position) as usize..(next - position) as usize);
        // Behind the end of the file there is nothing either.
        if sector.is_none_or(|sector| sector.iter().all(|byte| *byte == 0)) {
            return true;
        }
        at = next;
    }
    false
}

/// What is wrong with a record whose checksums are right: one word for programs, and a line.
pub fn wrong_form(position: u64, record: &Verified<'_>) -> Option<(&'static str, &'static str)> {
    let head = record.head;
    let bytes = record.bytes();
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let behind = &bytes[head.payload_offset() + head.payload_length as usize..];
    if !is_zero(behind) {
        return Some(("padding", "the bytes between this record and the next are not zero"));
    }
    if head.sequence > position / ALIGN {
        return Some(("record", "its sequence number is of a later place"));
    }
    if head.flags & !FLAGS_KNOWN != 0 {
        return Some(("record", "it has flags that this zdb does not know"));
    }
    if head.previous.get() >= position && !head.previous.is_none() {
        return Some(("previous", "the version before it would be behind it"));
    }
    let is_filler = matches!(head.kind, Kind::Padding | Kind::Seal);
    if is_filler && (!(position + head.bytes()).is_multiple_of(BLOCK) || !is_zero(record.payload()))
    {
        return Some(("padding", "a padding that is not zeroes up to the end of a block"));
    }
    None
}

/// Whether a record whose head is damaged was never written, or not in the sector in which it begins, or not beyond it.
/// What a sector holds of a head is zeroes only where it is as it was before. `bytes` are those of the record: what is
/// behind the end of a file counts as zeroes.
pub fn is_gap(bytes: &[u8], position: u64) -> bool {
    let is_zero = |from: u64, length: u64| {
        let sector = bytes.iter().skip(from as usize).take(length as usize);
        sector.into_iter().all(|byte| *byte == 0)
    };
    let begun = (position + 1).next_multiple_of(SECTOR) - position;
    let beyond = if begun < HEAD_AND_KEY_BYTES_MAX { begun } else { 0 };
    is_zero(0, begun) || is_zero(beyond, SECTOR)
}

pub struct Walk<'a> {
    pub scanner: Scanner<'a>,
    position: u64,
    known_end: Option<u64>,
    may_be_torn: bool,
    was_cut: bool,
    sealed: bool,
    has_gaps: bool,
    /// End of the whole batch that the position is in.
    batch_end: u64,
}

impl<'a> Walk<'a> {
    /// From a record's place on.
    ///
    /// A batch that is not whole does not count in a segment that is or was the last at a crash: it may
    /// never have been durable. In another one it was, so its damage is that of the disk, and what is
    /// whole of it stays.
    pub fn new(mut scanner: Scanner<'a>, from: u64, ending: Ending) -> Result<Self, String> {
        // A seal in a file that was not cut behind it may have come through a crash that took what was on
        // its way with it.
        let was_durable = ending.is_sealed || ending.was_cut && scanner.ends_with_seal()?;
        let may_be_torn = !was_durable && !planted::is(Bug::HalfBatch);
        Ok(Self {
            scanner,
            position: from,
            known_end: ending.known_end,
            may_be_torn,
            was_cut: ending.was_cut,
            sealed: false,
            has_gaps: false,
            batch_end: from,
        })
    }

    /// Where the next item begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether a seal has ended the segment.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Whether nothing was met that a crash may have left.
    pub fn was_durable(&self) -> bool {
        !(self.may_be_torn && self.has_gaps)
    }

    /// The next item; none behind the seal, the known end, or the last whole record.
    pub fn next_item(&mut self) -> Result<Option<Item>, String> {
        let position = self.position;
        if self.sealed || self.known_end.is_some_and(|end| position >= end) {
            return Ok(None);
        }
        let Some((head, from_buffer)) = self.scanner.whole_at(position)? else {
            return self.damaged();
        };
        if head.kind == Kind::Batch {
            self.batch_end = position + head.bytes();
            self.position = position + BATCH_HEAD_BYTES as u64;
            return Ok(Some(Item::Batch { position, head }));
        }
        self.position = position + head.bytes();
        if self.may_be_torn && head.flags & FLAG_MEMBER != 0 && position >= self.batch_end {
            self.has_gaps = true;
            return Ok(Some(Item::Dropped { position, head }));
        }
        self.sealed = head.kind == Kind::Seal;
        let end = self.position.max(self.batch_end);
        Ok(Some(Item::Record { position, head, from_buffer, end }))
    }

    fn damaged(&mut self) -> Result<Option<Item>, String> {
        let start = self.position;
        let lost = self.scanner.damaged_at(start)?;
        let behind = lost.as_ref().map_or(ALIGN, |(head, _)| match head.kind {
            Kind::Batch if !self.may_be_torn => BATCH_HEAD_BYTES as u64,
            _ => head.bytes(),
        });
        let found = self.scanner.next_whole(start + behind)?;
        let end = match (found, self.known_end) {
            // A whole head tells where the next record is, damaged or not.
            (Some(_), _) if lost.is_some() => start + behind,
            (Some(next), _) => next,
            (None, Some(end)) => end,
            (None, None) => return Ok(None),
        };
        let end = self.known_end.map_or(end, |known| end.min(known));
        let is_half_written = match &lost {
            Some((head, _)) if self.may_be_torn => self.scanner.is_half_written(start, head)?,
            _ => false,
        };
        self.has_gaps = true;
        self.position = end;
        Ok(Some(Item::Damaged { start, end, lost, is_half_written }))
    }

    /// How many durable records that gave ids out may be behind the last whole one: in a file that was cut
    /// behind its last record, and of which nothing else tells where that was. What a crash tore in another
    /// one was never durable. Nor is that in the rest of the last block, where a start has cut it: a file that
    /// a stop cut, of which that block alone is damaged, looks the same.
    pub fn ids_lost_behind(&self) -> u64 {
        if self.sealed || self.known_end.is_some() || !self.was_cut {
            return 0;
        }
        let end = self.scanner.end();
        if end <= self.position.next_multiple_of(BLOCK) {
            return 0;
        }
        (end - self.position) / ID_RECORD_BYTES_MIN
    }

    /// The bytes of a record that was just met.
    pub fn record(&mut self, position: u64, head: &Head, from_buffer: bool) -> &[u8] {
        self.scanner.record(position, head, from_buffer)
    }
}
