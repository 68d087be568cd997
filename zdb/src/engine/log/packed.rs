//! A packed segment: what the cleaner left of one segment or of several that follow each other. It stands for
//! all their addresses, and its file holds the records that are still wanted, byte for byte, in their order
//! and without gaps. A record keeps its position, which is in its head: places in the index, `previous` of
//! other records and cursors stay true, and who asks for a record that is not there learns that it is gone.
//!
//! Behind the records is the trailer: **stops**, which tell in which block a record is, and **residues**, which
//! tell what the forgotten records did to the counters of their namespaces.

use super::format::{
    self, ALIGN, BLOCK, Head, Kind, LogId, PackedHeader, RECORD_HEAD_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use crate::disk::aligned::AlignedBuffer;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits of a stop: the position in units of `ALIGN` behind the base, the number of the block in the file, and
/// where in the block the record begins, in units of `ALIGN`.
const POSITION_BITS: u32 = 35;
const BLOCK_BITS: u32 = 20;
const WITHIN_BITS: u32 = 9;

/// Most addresses that a packed segment stands for, in bytes.
pub const PACKED_SPAN_MAX: u64 = ALIGN << POSITION_BITS;
/// Largest file of a packed segment, trailer not counted, in bytes.
pub const PACKED_BYTES_MAX: u64 = BLOCK << BLOCK_BITS;

const STOP_BYTES: usize = 8;
const RESIDUE_BYTES: usize = 88;

const _: () = {
    assert!(POSITION_BITS + BLOCK_BITS + WITHIN_BITS == u64::BITS);
    assert!(ALIGN << WITHIN_BITS == BLOCK);
};

/// The first record that begins in a block of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(u64);

impl Stop {
    fn new(base: u64, position: u64, offset: u64) -> Self {
        let position = (position - base) / ALIGN;
        let (block, within) = (offset / BLOCK, offset % BLOCK / ALIGN);
        assert!(position >> POSITION_BITS == 0 && block >> BLOCK_BITS == 0, "a pass ends before");
        Self(position << (BLOCK_BITS + WITHIN_BITS) | block << WITHIN_BITS | within)
    }

    fn position(self, base: u64) -> u64 {
        base + (self.0 >> (BLOCK_BITS + WITHIN_BITS)) * ALIGN
    }

    /// Where in the file the record begins.
    fn offset(self) -> u64 {
        let block = self.0 >> WITHIN_BITS & ((1 << BLOCK_BITS) - 1);
        block * BLOCK + (self.0 & ((1 << WITHIN_BITS) - 1)) * ALIGN
    }
}

/// What the records of a namespace that were forgotten did to its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    pub namespace: u32,
    pub keys_added: u64,
    pub keys_removed: u64,
    /// Of payloads.
    pub bytes_added: u64,
    pub bytes_removed: u64,
    pub key_bytes_added: u64,
    pub key_bytes_removed: u64,
    pub inserts: u64,
    /// In sequential mode: how many ids the records used up, forgotten or not, and the least next id after
    /// them. From a next id `n` before the segment follows max(n + ids, ids_floor) behind it.
    pub ids: u64,
    pub ids_floor: u64,
    /// Whether a version of a key was among them.
    pub is_used: bool,
}

impl Residue {
    pub fn new(namespace: u32) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// Takes a record that is forgotten.
    pub fn forget(&mut self, head: &Head) {
        let key_bytes = u64::from(head.key_length);
        self.bytes_removed += u64::from(head.replaced.unwrap_or(0));
        match head.kind {
            Kind::Set => {
                self.is_used = true;
                self.bytes_added += u64::from(head.payload_length);
                if head.replaced.is_none() {
                    self.keys_added += 1;
                    self.inserts += 1;
                    self.key_bytes_added += key_bytes;
                }
            }
            _ if head.replaced.is_some() => {
                self.keys_removed += 1;
                self.key_bytes_removed += key_bytes;
            }
            _ => {}
        }
    }

    /// Takes a version of an id, forgotten or not.
    pub fn use_id(&mut self, id: u64) {
        self.ids += 1;
        self.ids_floor = self.ids_floor.max(id).saturating_add(1);
    }

    /// Takes damaged bytes in which so many ids may have been given out.
    pub fn lose_ids(&mut self, count: u64) {
        self.ids = self.ids.saturating_add(count);
        self.ids_floor = self.ids_floor.saturating_add(count);
    }

    /// Takes what an earlier cleaning left of addresses behind those so far.
    pub fn follow(&mut self, later: &Self) {
        self.keys_added += later.keys_added;
        self.keys_removed += later.keys_removed;
        self.bytes_added += later.bytes_added;
        self.bytes_removed += later.bytes_removed;
        self.key_bytes_added += later.key_bytes_added;
        self.key_bytes_removed += later.key_bytes_removed;
        self.inserts += later.inserts;
        self.ids_floor = later.ids_floor.max(self.ids_floor.saturating_add(later.ids));
        self.ids += later.ids;
        self.is_used |= later.is_used;
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.to_le_bytes());
        out.extend_from_slice(&u32::from(self.is_used).to_le_bytes());
        for number in [
            self.keys_added,
            self.keys_removed,
            self.bytes_added,
            self.bytes_removed,
            self.key_bytes_added,
            self.key_bytes_removed,
            self.inserts,
            self.ids,
            self.ids_floor,
            0,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; RESIDUE_BYTES]) -> Self {
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let long = |number: usize| {
            let at = 8 + 8 * number;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"))
        };
        Self {
            namespace: short(0),
            is_used: short(4) != 0,
            keys_added: long(0),
            keys_removed: long(1),
            bytes_added: long(2),
            bytes_removed: long(3),
            key_bytes_added: long(4),
            key_bytes_removed: long(5),
            inserts: long(6),
            ids: long(7),
            ids_floor: long(8),
        }
    }
}

/// What is kept in memory of a packed segment: eight bytes for each block in which a record begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    base: u64,
    stops: Vec<Stop>,
    pub header: PackedHeader,
}

/// Where in bytes of a packed file a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It begins so many bytes from their start; it may not end in them.
    At(usize),
    /// It is not in the segment any more.
    Gone,
    /// Of a record before it the head is damaged, so it may be there or not.
    Damaged,
    /// Not so many bytes that one could tell: it takes this many.
    Short(usize),
}

impl Packed {
    /// Where the file's records end.
    pub fn records_end(&self) -> u64 {
        SEGMENT_HEADER_BYTES + self.header.record_bytes
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        let (offset, length) = trailer_range(&self.header);
        (offset + length as u64).next_multiple_of(BLOCK)
    }

    /// Position of the first address that it stands for.
    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// The first stop behind an offset of the file: its own offset, and the position of the record there.
    pub fn stop_behind(&self, offset: u64) -> Option<(u64, u64)> {
        let after = self.stops.partition_point(|stop| stop.offset() <= offset);
        self.stops.get(after).map(|stop| (stop.offset(), stop.position(self.base)))
    }

    pub fn memory_bytes(&self) -> usize {
        self.stops.capacity() * STOP_BYTES
    }

    /// Where in the file to look for the record of a position: where one at or before it in the same block
    /// begins, and whether that is it. `None`: there is none at or before it.
    pub fn offset_before(&self, position: u64) -> Option<(u64, bool)> {
        let after = self.stops.partition_point(|stop| stop.position(self.base) <= position);
        let stop = self.stops[after.checked_sub(1)?];
        Some((stop.offset(), stop.position(self.base) == position))
    }

    /// The file offset behind every record that begins before `position`, or a little more.
    pub fn offset_behind(&self, position: u64) -> u64 {
        let after = self.stops.partition_point(|stop| stop.position(self.base) < position);
        match self.stops.get(after) {
            Some(stop) => stop.offset().min(self.records_end()),
            None => self.records_end(),
        }
    }
}

/// Looks for the record of a position in bytes of the file that begin where a record begins, as
/// `offset_before` says. From there the file has `remaining` bytes of records.
pub fn find(bytes: &[u8], remaining: u64, seed: u64, position: u64) -> Found {
    let mut at = 0;
    let mut is_damaged = false;
    while at < BLOCK && at < remaining {
        let rest = bytes.get(at as usize..).unwrap_or_default();
        match head_at(rest, seed) {
            Ok((here, _)) if here == position => return Found::At(at as usize),
            Ok((here, _)) if here > position => break,
            Ok((_, head)) => at += head.bytes(),
            Err(needed) if needed > rest.len() && at + (needed as u64) <= remaining => {
                return Found::Short(at as usize + needed);
            }
            Err(_) => {
                is_damaged = true;
                at += ALIGN;
            }
        }
    }
    if is_damaged { Found::Damaged } else { Found::Gone }
}

/// The head and the position of the record at the start of `bytes`, verified but for its payload; otherwise
/// how many bytes it takes to tell.
pub fn head_at(bytes: &[u8], seed: u64) -> Result<(u64, Head), usize> {
    if bytes.len() < RECORD_HEAD_BYTES {
        return Err(RECORD_HEAD_BYTES);
    }
    let Some(fields) = format::decode_fields(bytes) else { return Err(0) };
    if bytes.len() < fields.payload_offset() {
        return Err(fields.payload_offset());
    }
    let position = fields.sequence * ALIGN;
    format::decode_head(bytes, seed, position).map(|head| (position, head)).ok_or(0)
}

/// What stands behind the records of a packed file.
pub struct Trailer {
    pub stops: Vec<Stop>,
    pub residues: Vec<Residue>,
}

/// Where the trailer is in the file, and how long it is.
pub fn trailer_range(header: &PackedHeader) -> (u64, usize) {
    let offset = (SEGMENT_HEADER_BYTES + header.record_bytes).next_multiple_of(BLOCK);
    (offset, header.stops as usize * STOP_BYTES + header.residues as usize * RESIDUE_BYTES)
}

fn trailer_check(seed: u64, judged_until: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed ^ judged_until.rotate_left(21))
}

/// Reads a trailer; `None`: it is damaged.
pub fn decode_trailer(bytes: &[u8], seed: u64, header: &PackedHeader) -> Option<Trailer> {
    if trailer_check(seed, header.judged_until, bytes) != header.trailer_check {
        return None;
    }
    let (stops, residues) = bytes.split_at_checked(header.stops as usize * STOP_BYTES)?;
    let (stops, _) = stops.as_chunks::<STOP_BYTES>();
    let (residues, _) = residues.as_chunks::<RESIDUE_BYTES>();
    Some(Trailer {
        stops: stops.iter().map(|stop| Stop(u64::from_le_bytes(*stop))).collect(),
        residues: residues.iter().map(Residue::decode).collect(),
    })
}

impl Packed {
    pub fn new(base: u64, header: PackedHeader, stops: Vec<Stop>) -> Self {
        Self { base, stops, header }
    }
}

/// The stops of records that are met one after the other.
pub struct Stops {
    base: u64,
    list: Vec<Stop>,
    last_block: u64,
}

impl Stops {
    pub fn new(base: u64) -> Self {
        Self { base, list: Vec::new(), last_block: 0 }
    }

    /// Takes the next record: its position, and where it is in the file.
    pub fn push(&mut self, position: u64, offset: u64) {
        // The header is in block 0.
        if offset / BLOCK > self.last_block {
            self.last_block = offset / BLOCK;
            self.list.push(Stop::new(self.base, position, offset));
        }
    }

    pub fn finish(mut self) -> Vec<Stop> {
        self.list.shrink_to_fit();
        self.list
    }
}

/// Puts a packed segment together, from its first record to its last.
pub struct Builder {
    base: u64,
    stops: Stops,
    /// Bytes that were not taken yet, from this offset of the file on.
    bytes: Vec<u8>,
    offset: u64,
}

/// The last parts of a packed file.
pub struct Finished {
    /// Blocks that belong at this offset: the last records and the trailer.
    pub rest: (u64, AlignedBuffer),
    /// The first block, which goes there last.
    pub header: AlignedBuffer,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    pub packed: Packed,
}

/// What the header of a packed segment says beyond what the builder knows.
#[derive(Clone, Copy, Debug)]
pub struct Cover {
    pub log: LogId,
    pub seed: u64,
    pub capacity: u64,
    pub previous_end: u64,
    pub created: u64,
    pub count: u32,
    pub end: u64,
    pub judged_until: u64,
    pub rests_on: u64,
    pub is_undecided: bool,
}

impl Builder {
    pub fn new(base: u64) -> Self {
        Self { base, stops: Stops::new(base), bytes: Vec::new(), offset: SEGMENT_HEADER_BYTES }
    }

    /// Bytes of the file so far.
    pub fn file_bytes(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    pub fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn push(&mut self, position: u64, record: &[u8]) {
        debug_assert!((record.len() as u64).is_multiple_of(ALIGN));
        self.stops.push(position, self.file_bytes());
        self.bytes.extend_from_slice(record);
    }

    /// Whole blocks to be written at the offset that comes with them.
    pub fn take(&mut self) -> (u64, AlignedBuffer) {
        let length = self.bytes.len() / BLOCK as usize * BLOCK as usize;
        let mut blocks = AlignedBuffer::new(length);
        blocks.copy_from_slice(&self.bytes[..length]);
        self.bytes.drain(..length);
        let offset = self.offset;
        self.offset += length as u64;
        (offset, blocks)
    }

    pub fn finish(self, cover: Cover, residues: &[Residue]) -> Finished {
        let record_bytes = self.file_bytes() - SEGMENT_HEADER_BYTES;
        let mut rest = self.bytes;
        rest.resize(rest.len().next_multiple_of(BLOCK as usize), 0);
        let start = rest.len();
        let stops = self.stops.finish();
        stops.iter().for_each(|stop| rest.extend_from_slice(&stop.0.to_le_bytes()));
        residues.iter().for_each(|residue| residue.encode(&mut rest));
        let header = PackedHeader {
            count: cover.count,
            end: cover.end,
            judged_until: cover.judged_until,
            rests_on: cover.rests_on,
            record_bytes,
            stops: stops.len() as u32,
            residues: residues.len() as u32,
            is_undecided: cover.is_undecided,
            trailer_check: trailer_check(cover.seed, cover.judged_until, &rest[start..]),
        };
        let mut blocks = AlignedBuffer::new(rest.len().next_multiple_of(BLOCK as usize));
        blocks[..rest.len()].copy_from_slice(&rest);
        let first = SegmentHeader {
            log: cover.log,
            base: self.base,
            capacity: cover.capacity,
            previous_end: cover.previous_end,
            created: cover.created,
            packed: Some(header),
        };
        let mut block = AlignedBuffer::new(BLOCK as usize);
        block.copy_from_slice(&first.encode());
        Finished {
            file_bytes: self.offset + blocks.len() as u64,
            rest: (self.offset, blocks),
            header: block,
            packed: Packed::new(self.base, header, stops),
        }
    }
}

#[cfg(test)]
mod tests;
