//! The stub of a segment that was moved away: what a start reads of its file beside the sidecar. The header, what
//! is about namespaces themselves, and of a packed segment the trailer.
//!
//! It is written when the server lets go of the file, and counts only together with the whole sidecar of the same
//! segment: the seed of that one's pages is in its check. All numbers are little endian.

use super::format::{self, BLOCK, Kind, LogId, SegmentHeader};
use super::packed::{self, Packed};
use super::segments::{self, Segment};
use super::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, PageEnd, PageHeader};
use crate::disk::{Files, Root};
use crate::limits::KEY_BYTES_MAX;
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: &[u8; 8] = b"zdbstub1";
/// Magic, log, base, and the bytes of the segment's file.
const HEAD_BYTES: usize = 8 + 16 + 8 + 8;
const PART_HEAD_BYTES: usize = 16;
const CHECK_BYTES: usize = 8;

/// Bytes of a file that are read at once.
const READ_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Stub {
    /// Of the segment's file.
    pub file_bytes: u64,
    /// Bytes of it, by their offsets.
    pub parts: Vec<(u64, Vec<u8>)>,
}

impl Stub {
    /// `page_seed`: that of the segment's sidecar.
    pub fn encode(&self, log: LogId, base: u64, page_seed: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(log.0);
        bytes.extend(base.to_le_bytes());
        bytes.extend(self.file_bytes.to_le_bytes());
        for (offset, part) in &self.parts {
            bytes.extend(offset.to_le_bytes());
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(xxh3_64_with_seed(&bytes, page_seed).to_le_bytes());
        bytes
    }

    /// The header of the segment.
    pub fn header(&self) -> Option<SegmentHeader> {
        let first = self.parts.first().filter(|(offset, _)| *offset == 0)?;
        SegmentHeader::decode(&first.1).ok()
    }

    /// The stub of the segment with this base, and the seed of its sidecar's pages.
    fn decode(bytes: &[u8], log: LogId, base: u64, sidecar_seed: u64) -> Option<(Self, u64)> {
        let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        let number = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?))
        };
        let is_ours = body.get(..8)? == MAGIC && body.get(8..24)? == log.0 && number(24)? == base;
        let mut stub = Self { file_bytes: number(32).filter(|_| is_ours)?, parts: Vec::new() };
        let mut at = HEAD_BYTES;
        while at < body.len() {
            let (offset, length) = (number(at)?, usize::try_from(number(at + 8)?).ok()?);
            at += PART_HEAD_BYTES;
            let end = at.checked_add(length)?;
            if offset.checked_add(length as u64)? > stub.file_bytes.next_multiple_of(BLOCK) {
                return None;
            }
            stub.parts.push((offset, body.get(at..end)?.to_vec()));
            at = end;
        }
        let header = stub.header()?;
        let page_seed = segments::page_seed(sidecar_seed, base, header.packed.as_ref());
        let is_whole = xxh3_64_with_seed(body, page_seed) == u64::from_le_bytes(*check);
        is_whole.then_some((stub, page_seed))
    }
}

/// Which bytes of a segment's file its stub has, by the sidecar: offsets and lengths of whole blocks, which grow.
/// `None`: the sidecar does not tell all of it.
pub fn wanted(segment: &Segment, sidecar: &[u8], page_seed: u64) -> Option<Vec<(u64, u64)>> {
    let mut blocks = BTreeSet::from([0]);
    let mut want = |offset: u64, bytes: u64| {
        let end = (offset + bytes).min(segment.file_bytes());
        blocks.extend(offset / BLOCK..end.div_ceil(BLOCK));
    };
    if let Some(packed) = &segment.packed {
        let (offset, length) = packed::trailer_range(&packed.header);
        want(offset, length as u64);
    }
    for entry in &control_entries(sidecar, page_seed)? {
        let (offset, bytes) = place_of(segment, segment.packed.as_deref(), entry);
        want(offset, bytes);
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for offset in blocks.into_iter().map(|block| block * BLOCK) {
        match ranges.last_mut() {
            Some((start, length)) if *start + *length == offset && *length < READ_BYTES_MAX => {
                *length += BLOCK;
            }
            _ => ranges.push((offset, BLOCK)),
        }
    }
    Some(ranges)
}

/// Where a start looks for the record of an entry, and how many bytes it reads there.
fn place_of(segment: &Segment, packed: Option<&Packed>, entry: &LogEntry) -> (u64, u64) {
    let bytes = format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
    match packed {
        None => (entry.position - segment.base, bytes),
        Some(packed) => {
            let (offset, _) = packed.offset_before(entry.position).unwrap_or_default();
            (offset, bytes + BLOCK + (format::RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64)
        }
    }
}

/// The entries about namespaces themselves. `None`: the sidecar is not whole.
fn control_entries(sidecar: &[u8], page_seed: u64) -> Option<Vec<LogEntry>> {
    let pages = whole_pages(sidecar, page_seed)?;
    let mut entries = Vec::new();
    let mut offset = 0;
    for (header, bytes) in pages {
        let body = &sidecar[offset + PAGE_HEADER_BYTES..offset + bytes];
        let is_control =
            |entry: &LogEntry| matches!(entry.kind, Kind::Namespace | Kind::NamespaceEnd);
        entries.extend(sidecar::entries(header.first, body).filter(is_control));
        offset += bytes;
    }
    Some(entries)
}

/// The pages of a sidecar that is whole and closed.
fn whole_pages(sidecar: &[u8], page_seed: u64) -> Option<Vec<(PageHeader, usize)>> {
    let pages = sidecar::read_pages(sidecar, page_seed);
    let is_whole = pages.iter().map(|(_, bytes)| bytes).sum::<usize>() == sidecar.len();
    let is_closed = pages.last().is_some_and(|(header, _)| header.ending != PageEnd::Open);
    (is_whole && is_closed).then_some(pages)
}

/// The stubs in the index directory for segments that have no file. `None`: stub or sidecar are damaged, and a start
/// cannot do with them.
pub fn find(
    files: &dyn Files,
    log: LogId,
    sidecar_seed: u64,
    bases: &[u64],
) -> std::io::Result<Vec<(u64, Option<Stub>)>> {
    let names = files.list(Root::Index)?;
    let away = names.iter().filter_map(|name| format::stub_base(name));
    let read_whole = |base: u64| {
        let read = |name: String| files.read_small(Root::Index, &name).ok();
        let bytes = read(format::stub_name(base))?;
        let (stub, page_seed) = Stub::decode(&bytes, log, base, sidecar_seed)?;
        whole_pages(&read(format::sidecar_name(base))?, page_seed)?;
        Some(stub)
    };
    let found = away.filter(|base| bases.binary_search(base).is_err());
    Ok(found.map(|base| (base, read_whole(base))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([7; 16]);

    fn header(base: u64) -> Vec<u8> {
        SegmentHeader {
            log: LOG,
            base,
            capacity: 1 << 20,
            previous_end: 0,
            created: 1,
            packed: None,
        }
        .encode()
        .to_vec()
    }

    #[test]
    fn a_stub_comes_back_as_it_was_and_nothing_else_does() {
        let stub =
            Stub { file_bytes: 3 * BLOCK, parts: vec![(0, header(0)), (8192, vec![9; 4096])] };
        let seed = segments::page_seed(5, 0, None);
        let bytes = stub.encode(LOG, 0, seed);
        assert_eq!(Stub::decode(&bytes, LOG, 0, 5), Some((stub, seed)));
        assert_eq!(Stub::decode(&bytes, LOG, 4096, 5), None, "of another segment");
        assert_eq!(Stub::decode(&bytes, LogId([8; 16]), 0, 5), None, "of another log");
        assert_eq!(Stub::decode(&bytes, LOG, 0, 6), None, "of another index");
        for length in 0..bytes.len() {
            assert_eq!(Stub::decode(&bytes[..length], LOG, 0, 5), None, "cut at {length}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut other = bytes.clone();
            other[at] ^= 0x10;
            assert_eq!(Stub::decode(&other, LOG, 0, 5), None, "changed at {at}");
        }
    }
}
