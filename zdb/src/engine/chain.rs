//! The segments of a log in their order, by their headers.

use super::log::buffer::WriteBuffer;
use super::log::format::{self, BLOCK, LogId, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::log::packed::PACKED_SPAN_MAX;
use super::packed_walk;
use super::scanner::Scanner;
use super::walk::Ending;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files, Root};
use crate::limits::SEGMENT_BYTES_MIN;
use std::collections::HashMap;

/// No segment has so many addresses: the next one after a header that cannot be read begins behind all that the
/// header may say when it is read again.
const CAPACITY_END: u64 = 1 << 32;

/// A segment.
pub struct Link {
    pub header: SegmentHeader,
    pub file: FileId,
    pub size: u64,
    /// What is wrong with the header, of which then only the base is sure.
    pub damage: Option<String>,
    /// The file is only a stand-in, with what a start needs beside the sidecar.
    pub is_away: bool,
}

pub struct Chain {
    pub links: Vec<Link>,
    /// At the end: made ahead, without a record on disk or in the write buffer.
    pub unused: Vec<(u64, FileId)>,
    /// Files with the name of a segment that are none of this log, and why.
    pub refused: Vec<(u64, String)>,
    /// Whose addresses are those of a packed segment before them, which was made of them.
    pub left_over: Vec<u64>,
}

/// Opens the segments with these bases, which grow; some have stand-ins for their files. Changes nothing.
pub fn read(
    files: &dyn Files,
    buffer: &WriteBuffer,
    id: LogId,
    bases: &[u64],
    stand_ins: &HashMap<u64, FileId>,
) -> Result<Chain, String> {
    let mut chain =
        Chain { links: Vec::new(), unused: Vec::new(), refused: Vec::new(), left_over: Vec::new() };
    let mut packed_until = 0;
    for (at, &base) in bases.iter().enumerate() {
        if base < packed_until {
            chain.left_over.push(base);
            continue;
        }
        let name = format::segment_name(base);
        let explain = |error: std::io::Error| format!("cannot read segment {name}: {error}");
        let stand_in = stand_ins.get(&base).copied();
        let file = match stand_in {
            Some(file) => file,
            None => files.open(Root::Data, &name).map_err(explain)?,
        };
        let size = files.size(file).map_err(explain)?;
        let mut block = AlignedBuffer::new(BLOCK as usize);
        let (header, what) = match files.read_at(file, 0, &mut block) {
            Ok(read) => {
                block.truncate(read);
                (SegmentHeader::decode(&block), String::new())
            }
            Err(error) => (Err("it cannot be read"), format!(": {error}")),
        };
        let refusal = match header {
            Ok(header) if header.log != id => Some(format!(
                "segment {name} belongs to another log ({}): move it out of the data directory",
                header.log.to_hex()
            )),
            Ok(header) if header.base != base => Some(format!(
                "segment {name} was renamed: its header says {}",
                format::segment_name(header.base)
            )),
            Err(what) if what.contains("version") => Some(format!("{name}: {what}")),
            _ => None,
        };
        if let Some(line) = refusal {
            files.close(file);
            chain.refused.push((base, line));
            continue;
        }
        let damage = header.err().map(|line| format!("segment {name} at offset 0: {line}{what}"));
        let header = header.unwrap_or_else(|_| {
            let scanner = Scanner::new(files, buffer, id.seed(), base, file, size);
            without_header(scanner, id, base, bases.get(at + 1).copied())
        });
        if header.packed.is_some() {
            packed_until = base.saturating_add(header.capacity);
        }
        chain.links.push(Link { header, file, size, damage, is_away: stand_in.is_some() });
    }
    chain.set_unused_apart(files, buffer, id.seed())?;
    Ok(chain)
}

/// What can be said of a segment whose header is lost.
fn without_header(scanner: Scanner<'_>, log: LogId, base: u64, next: Option<u64>) -> SegmentHeader {
    let size = scanner.end() - base;
    let packed_end = next.unwrap_or(base + PACKED_SPAN_MAX);
    // What cannot be read is told by whoever reads all of it.
    let is_packed = packed_walk::is_packed(scanner, log.seed(), base, packed_end).unwrap_or(false);
    // Behind the last one no address may be given out that is the packed one's already, however many it
    // stands for.
    let end = if is_packed { packed_end } else { next.unwrap_or(base + size.max(CAPACITY_END)) };
    SegmentHeader {
        log,
        base,
        capacity: end - base,
        previous_end: 0,
        created: 0,
        packed: is_packed.then(|| packed_walk::lost_header(size, end)),
    }
}

/// Segments that a packed one stands for, out of those with these bases, which grow: their files are
/// left-overs, and so are their sidecars.
pub fn without_packed(files: &dyn Files, bases: &[u64], wanted: &mut Vec<u64>) {
    for &base in bases {
        if !wanted.iter().any(|one| *one > base) {
            continue;
        }
        if let Some(header) = read_header(files, base).filter(|header| header.packed.is_some()) {
            let end = base.saturating_add(header.capacity);
            wanted.retain(|one| *one <= base || *one >= end);
        }
    }
}

fn read_header(files: &dyn Files, base: u64) -> Option<SegmentHeader> {
    let file = files.open(Root::Data, &format::segment_name(base)).ok()?;
    let mut block = AlignedBuffer::new(BLOCK as usize);
    let read = files.read_at(file, 0, &mut block);
    files.close(file);
    read.ok()?;
    SegmentHeader::decode(&block).ok().filter(|header| header.base == base)
}

/// Whether a file has none of the sizes that it can be made with: it was cut behind its last record, which
/// happens when all of it is durable.
fn was_cut(size: u64, capacity: u64) -> bool {
    let mut made = capacity;
    while made > size && made / 2 >= SEGMENT_BYTES_MIN.min(capacity) {
        made = (made / 2).next_multiple_of(BLOCK);
    }
    made != size
}

impl Chain {
    /// Finds the segments at the end that were made ahead and hold no record. One that cannot be read
    /// may hold some.
    fn set_unused_apart(
        &mut self,
        files: &dyn Files,
        buffer: &WriteBuffer,
        seed: u64,
    ) -> Result<(), String> {
        while let Some(Link { header, file, size, is_away, .. }) = self.links.last() {
            if header.packed.is_some() || *is_away {
                return Ok(());
            }
            let mut scanner = Scanner::new(files, buffer, seed, header.base, *file, *size);
            let start = header.base + SEGMENT_HEADER_BYTES;
            if scanner.whole_at(start)?.is_some()
                || scanner.next_whole(start)?.is_some()
                || !scanner.unreadable().is_empty()
            {
                return Ok(());
            }
            self.unused.push((header.base, *file));
            self.links.pop();
        }
        Ok(())
    }

    /// What the next segment says about the end of one.
    pub fn ending(&self, at: usize) -> Ending {
        // A header that is lost says nothing: not that there was a seal before it, either.
        let next = self.links.get(at + 1);
        let is_followed = next.is_some();
        let next = next.filter(|next| next.damage.is_none()).map(|next| next.header.previous_end);
        let Link { header, size, damage, .. } = &self.links[at];
        Ending {
            known_end: next.filter(|end| *end != 0),
            is_sealed: next == Some(0),
            is_followed,
            was_cut: was_cut(*size, header.capacity),
            is_header_lost: damage.is_some(),
        }
    }
}
