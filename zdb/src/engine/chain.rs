//! The segments of a log in their order, by their headers.

use super::log::buffer::WriteBuffer;
use super::log::format::{self, BLOCK, LogId, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::scanner::Scanner;
use super::walk::Ending;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files, Root};
use crate::limits::SEGMENT_BYTES_MIN;

/// A segment.
pub struct Link {
    pub header: SegmentHeader,
    pub file: FileId,
    pub size: u64,
    /// What is wrong with the header, of which then only the base is sure.
    pub damage: Option<String>,
}

pub struct Chain {
    pub links: Vec<Link>,
    /// At the end: made ahead, without a record on disk or in the write buffer.
    pub unused: Vec<(u64, FileId)>,
    /// Files with the name of a segment that are none of this log, and why.
    pub refused: Vec<(u64, String)>,
}

/// Opens the segments with these bases, which grow. Changes nothing.
pub fn read(
    files: &dyn Files,
    buffer: &WriteBuffer,
    id: LogId,
    bases: &[u64],
) -> Result<Chain, String> {
    let mut chain = Chain { links: Vec::new(), unused: Vec::new(), refused: Vec::new() };
    for (at, &base) in bases.iter().enumerate() {
        let name = format::segment_name(base);
        let explain = |error: std::io::Error| format!("cannot read segment {name}: {error}");
        let file = files.open(Root::Data, &name).map_err(explain)?;
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
        let next = bases.get(at + 1).copied().unwrap_or(base + size);
        let damage = header.err().map(|line| format!("segment {name} at offset 0: {line}{what}"));
        let header = header.unwrap_or(SegmentHeader {
            log: id,
            base,
            capacity: next - base,
            previous_end: 0,
            created: 0,
        });
        chain.links.push(Link { header, file, size, damage });
    }
    chain.set_unused_apart(files, buffer, id.seed())?;
    Ok(chain)
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
        while let Some(Link { header, file, size, .. }) = self.links.last() {
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
        let next = self.links.get(at + 1).map(|next| next.header.previous_end);
        let Link { header, size, .. } = &self.links[at];
        Ending {
            known_end: next.filter(|end| *end != 0),
            is_sealed: next == Some(0),
            was_cut: was_cut(*size, header.capacity),
        }
    }
}
