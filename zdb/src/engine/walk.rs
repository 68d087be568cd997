//! A segment item by item: which records count, and what is damaged between them. A start takes them into
//! the index; the offline commands look at the same.

use super::log::format::{
    ALIGN, BATCH_HEAD_BYTES, FLAG_ID, FLAG_MEMBER, Head, ID_RECORD_BYTES_MIN, Kind,
};
use super::scanner::Scanner;
use crate::planted::{self, Bug};

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

/// How many records that gave ids out may have been in damaged bytes. One with a whole head that counts is
/// not among them: its id is known.
pub fn ids_lost_max(start: u64, end: u64, head: Option<&Head>, is_half_written: bool) -> u64 {
    match head {
        Some(head) if head.kind != Kind::Batch => {
            let behind = end.saturating_sub(start + head.bytes());
            u64::from(is_half_written && head.flags & FLAG_ID != 0) + behind / ID_RECORD_BYTES_MIN
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
    /// Whether its file was cut behind the last record.
    pub was_cut: bool,
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
            // Zeroes are all that these hold.
            Some((head, _)) if matches!(head.kind, Kind::Padding | Kind::Seal) => false,
            Some((head, _)) if self.may_be_torn => self.scanner.is_half_written(start, head)?,
            _ => false,
        };
        self.has_gaps = true;
        self.position = end;
        Ok(Some(Item::Damaged { start, end, lost, is_half_written }))
    }

    /// How many records that gave ids out may be behind the last whole one, in a segment whose end nothing
    /// tells.
    pub fn ids_lost_behind(&mut self) -> Result<u64, String> {
        if self.sealed || self.known_end.is_some() {
            return Ok(0);
        }
        // A file that was cut was cut behind its last record.
        let end = match self.was_cut {
            true => self.scanner.end(),
            false => self.scanner.written_end(self.position)?,
        };
        // The last of them may end in zeroes.
        Ok(end.saturating_sub(self.position).div_ceil(ID_RECORD_BYTES_MIN))
    }

    /// The bytes of a record that was just met.
    pub fn record(&mut self, position: u64, head: &Head, from_buffer: bool) -> &[u8] {
        self.scanner.record(position, head, from_buffer)
    }
}
