//! A packed segment record by record: which records count, and what is damaged between them. A start takes
//! them into the index; the offline commands look at the same.
//!
//! A record says itself where it was written, so it counts wherever in the file it is met, as long as
//! positions ascend. Where a head is damaged, the next stop tells where records go on.

use super::log::format::{
    self, ALIGN, BATCH_HEAD_BYTES, BLOCK, Head, Kind, PackedHeader, RECORD_HEAD_BYTES,
    SEGMENT_HEADER_BYTES,
};
use super::log::packed::{self, Packed, Stop, Stops, Trailer};
use super::scanner::Scanner;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files};
use crate::limits::KEY_BYTES_MAX;

/// Bytes in which the head and the key of every record fit.
const HEAD_AND_KEY_BYTES_MAX: u64 = (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;

pub enum PackedItem {
    /// A whole record.
    Record { position: u64, offset: u64, head: Head },
    /// No whole record begins in these bytes of the file.
    Damaged {
        start: u64,
        end: u64,
        /// The record that was there, where its head and key are whole.
        lost: Option<LostRecord>,
        /// Positions that records in these bytes can have had.
        positions: (u64, u64),
    },
}

pub struct LostRecord {
    pub position: u64,
    pub head: Head,
    pub key: Vec<u8>,
}

/// Two ends of the same records: in the file and in the log.
#[derive(Clone, Copy)]
struct End {
    offset: u64,
    position: u64,
}

pub struct PackedWalk<'a> {
    /// Addresses of the file are the base plus the offset here.
    pub scanner: Scanner<'a>,
    seed: u64,
    base: u64,
    packed: &'a Packed,
    /// Where the next item begins in the file.
    offset: u64,
    /// No record that follows has a position before this one.
    least: u64,
    end: End,
    /// Nothing tells where the records end: behind the last one may be anything.
    is_open: bool,
}

impl<'a> PackedWalk<'a> {
    /// All records from the one at a position on, and perhaps some before it.
    pub fn new(scanner: Scanner<'a>, seed: u64, packed: &'a Packed, from: u64) -> Self {
        let first = SEGMENT_HEADER_BYTES;
        let offset = packed.offset_before(from).map_or(first, |(offset, _)| offset);
        let end = End { offset: packed.records_end(), position: packed.header.end };
        let (base, least) = (packed.base(), packed.base() + first);
        Self { scanner, seed, base, packed, offset, least, end, is_open: false }
    }

    /// The same for a file whose header is lost, so that nothing tells where its records end.
    pub fn open_ended(scanner: Scanner<'a>, seed: u64, packed: &'a Packed) -> Self {
        Self { is_open: true, ..Self::new(scanner, seed, packed, 0) }
    }

    /// Where in the file the next item begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// No record that follows has a position before this one.
    pub fn least(&self) -> u64 {
        self.least
    }

    /// The next item; none behind the last record.
    pub fn next_item(&mut self) -> Result<Option<PackedItem>, String> {
        let start = self.offset;
        if start >= self.end.offset {
            return Ok(None);
        }
        let Some((position, head, is_whole)) = self.record_at(start)? else {
            return self.damaged();
        };
        let least = self.least;
        let bytes = advance(&head);
        self.offset = start + bytes;
        self.least = position + bytes;
        if is_whole {
            return Ok(Some(PackedItem::Record { position, offset: start, head }));
        }
        let head_bytes = self.scanner.bytes(self.base + start, HEAD_AND_KEY_BYTES_MAX)?;
        let key = head_bytes[RECORD_HEAD_BYTES..head.payload_offset()].to_vec();
        Ok(Some(PackedItem::Damaged {
            start,
            end: self.offset,
            lost: Some(LostRecord { position, head, key }),
            positions: (least, self.least),
        }))
    }

    fn damaged(&mut self) -> Result<Option<PackedItem>, String> {
        let (start, limit) = (self.offset, self.limit(self.offset));
        let mut at = start + ALIGN;
        let mut next = limit.position;
        loop {
            at = self.possible_from(at)?;
            if at >= limit.offset {
                break;
            }
            if let Some((position, ..)) = self.record_at(at)? {
                next = position;
                break;
            }
            at += ALIGN;
        }
        if self.is_open && at >= limit.offset {
            self.offset = self.end.offset;
            return Ok(None);
        }
        self.offset = at.min(limit.offset);
        let positions = (self.least, next);
        Ok(Some(PackedItem::Damaged { start, end: self.offset, lost: None, positions }))
    }

    /// The next offset from one on where a record is not out of the question.
    fn possible_from(&mut self, offset: u64) -> Result<u64, String> {
        let bytes = self.scanner.bytes(self.base + offset, BLOCK)?;
        let Some(last) = bytes.len().checked_sub(RECORD_HEAD_BYTES) else { return Ok(u64::MAX) };
        let mut places = (0..=last).step_by(ALIGN as usize);
        let found = places.find(|at| format::decode_fields(&bytes[*at..]).is_some());
        Ok(offset + found.map_or(last as u64 / ALIGN * ALIGN + ALIGN, |at| at as u64))
    }

    /// The record at an offset, and whether its payload is whole too.
    fn record_at(&mut self, offset: u64) -> Result<Option<(u64, Head, bool)>, String> {
        let (seed, limit) = (self.seed, self.limit(offset));
        let address = self.base + offset;
        let bytes = self.scanner.bytes(address, HEAD_AND_KEY_BYTES_MAX)?;
        let Ok((position, head)) = packed::head_at(bytes, seed) else { return Ok(None) };
        let length = advance(&head);
        if position < self.least
            || position + length > limit.position
            || offset + length > limit.offset
        {
            return Ok(None);
        }
        let bytes = self.scanner.bytes(address, head.bytes())?;
        let is_whole =
            bytes.len() as u64 >= head.bytes() && format::payload_is_whole(bytes, seed, &head);
        Ok(Some((position, head, is_whole)))
    }

    /// The ends that a record at an offset cannot pass: another begins there.
    fn limit(&self, offset: u64) -> End {
        self.packed
            .stop_behind(offset)
            .map_or(self.end, |(offset, position)| End { offset, position })
    }

    /// The bytes of a record that was just met.
    pub fn record(&mut self, offset: u64, head: &Head) -> &[u8] {
        self.scanner.record(self.base + offset, head, false)
    }
}

/// Bytes to the next record. Packed segments hold no batches, but what is taken for one may be a segment
/// that is none.
fn advance(head: &Head) -> u64 {
    match head.kind {
        Kind::Batch => BATCH_HEAD_BYTES as u64,
        _ => head.bytes(),
    }
}

/// Reads the trailer of a packed segment; `None`: it is damaged, or cannot be read.
pub fn read_trailer(
    files: &dyn Files,
    (file, size): (FileId, u64),
    seed: u64,
    header: &PackedHeader,
) -> Option<Trailer> {
    let (offset, length) = packed::trailer_range(header);
    if offset.checked_add(length as u64)? > size {
        return None;
    }
    let mut bytes = AlignedBuffer::new(length.next_multiple_of(BLOCK as usize));
    if length > 0 {
        files.read_at(file, offset, &mut bytes).ok()?;
    }
    packed::decode_trailer(bytes.get(..length)?, seed, header)
}

/// What follows from the records alone.
pub struct Rebuilt {
    pub stops: Vec<Stop>,
    /// Where the last record ends: in the file and in the log.
    pub end: (u64, u64),
}

/// Makes the stops anew.
pub fn rebuild(mut walk: PackedWalk<'_>) -> Result<Rebuilt, String> {
    let mut stops = Stops::new(walk.base);
    let mut end = (SEGMENT_HEADER_BYTES, walk.base + SEGMENT_HEADER_BYTES);
    while let Some(item) = walk.next_item()? {
        let met = match item {
            PackedItem::Record { position, offset, .. } => Some((position, offset)),
            PackedItem::Damaged { start, lost, .. } => lost.map(|lost| (lost.position, start)),
        };
        if let Some((position, offset)) = met {
            stops.push(position, offset);
            end = (walk.offset, walk.least);
        }
    }
    Ok(Rebuilt { stops: stops.finish(), end })
}

/// What is known of a packed segment whose header is lost: nothing but where its addresses end.
pub fn lost_header(size: u64, end: u64) -> PackedHeader {
    PackedHeader {
        count: 1,
        end,
        judged_until: 0,
        rests_on: 0,
        record_bytes: size.saturating_sub(SEGMENT_HEADER_BYTES),
        stops: 0,
        residues: 0,
        is_undecided: true,
        trailer_check: 0,
    }
}

/// Whether a file without a header is a packed segment: one record in another place than its own tells.
/// Where all are in their places, the file reads the same either way.
pub fn is_packed(scanner: Scanner<'_>, seed: u64, base: u64, end: u64) -> Result<bool, String> {
    let size = scanner.end() - base;
    let packed = Packed::new(base, lost_header(size, end), Vec::new());
    let mut walk = PackedWalk::open_ended(scanner, seed, &packed);
    while let Some(item) = walk.next_item()? {
        let met = match item {
            PackedItem::Record { position, offset, .. } => Some((position, offset)),
            PackedItem::Damaged { start, lost, .. } => lost.map(|lost| (lost.position, start)),
        };
        if met.is_some_and(|(position, offset)| position != base + offset) {
            return Ok(true);
        }
    }
    Ok(false)
}
