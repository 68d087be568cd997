//! A closed segment that comes piece by piece: which bytes to read next, and what of them is damaged. Places are
//! the base plus the offset in the file, which in a packed segment are not the positions of the records there.
//!
//! What looks damaged is read once more before it counts: a bit that flips on its way is no damage.

use crate::disk::FileId;
use crate::engine::log::format::{
    self, ALIGN, BATCH_HEAD_BYTES, BLOCK, FLAG_MEMBER, Head, Kind, PackedHeader, RECORD_HEAD_BYTES,
    SEGMENT_HEADER_BYTES, SegmentHeader, Verified,
};
use crate::engine::log::packed;
use crate::engine::log::segments::Segment;
use crate::engine::walk;
use crate::limits::{KEY_BYTES_MAX, SCRUB_FAILED_BLOCKS_MAX, SCRUB_READ_BYTES};
use std::io;

/// Bytes that hold the head and the key of any record.
const HEAD_AND_KEY_BYTES_MAX: u64 = (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;

/// Bytes of a segment that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub start: u64,
    pub end: u64,
    pub what: String,
    /// Of the record that was there, where its head is whole.
    pub head: Option<Head>,
}

/// What the disk does not give, in whole blocks.
struct Unreadable {
    start: u64,
    end: u64,
    error: String,
}

pub struct Reader {
    seed: u64,
    pub base: u64,
    pub capacity: u64,
    pub file: FileId,
    /// Where the records end, and all that is read.
    records_end: u64,
    end: u64,
    packed: Option<PackedHeader>,
    /// Of a packed segment: no record that follows has a position before this one.
    least: u64,
    /// Whether a crash may have left what is no record.
    may_be_torn: bool,
    /// Where the record is that comes next, or the header, or the trailer of a packed segment.
    at: u64,
    /// End of the whole batch that it is in.
    batch_end: u64,
    /// Where the bytes began that no whole record begins in.
    gap: Option<u64>,
    /// What was read and is still wanted, from which place on, and where the next read begins.
    window: Vec<u8>,
    window_start: u64,
    next_read: u64,
    /// Up to here single blocks are read, around those that the disk does not give.
    careful_until: u64,
    /// The place that is read once more.
    again_at: Option<u64>,
    /// The block that failed once.
    failed_at: Option<u64>,
    unreadable: Vec<Unreadable>,
    /// Blocks that failed since the last one that the disk gave.
    failed_in_a_row: u64,
    /// Whole records so far.
    pub records: u64,
}

impl Reader {
    /// Of a closed segment.
    pub fn new(seed: u64, segment: &Segment, may_be_torn: bool) -> Self {
        let (base, capacity, file) = (segment.base, segment.capacity, segment.file);
        let records_end = base + segment.records_end();
        let packed = segment.packed.as_ref().map(|packed| packed.header);
        let trailer = packed.map(|header| packed::trailer_range(&header));
        let trailer = trailer.filter(|(_, length)| *length > 0);
        let end = trailer.map_or(records_end, |(offset, length)| base + offset + length as u64);
        Self {
            seed,
            base,
            capacity,
            file,
            records_end,
            end,
            packed,
            least: base + SEGMENT_HEADER_BYTES,
            may_be_torn,
            at: base,
            batch_end: base,
            gap: None,
            window: Vec::new(),
            window_start: base,
            next_read: base,
            careful_until: base,
            again_at: None,
            failed_at: None,
            unreadable: Vec::new(),
            failed_in_a_row: 0,
            records: 0,
        }
    }

    /// How far it has come.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next bytes to read, as a place and a length in whole blocks; none at the end.
    pub fn wanted(&self) -> Option<(u64, u64)> {
        if self.at >= self.end {
            return None;
        }
        let most = if self.next_read < self.careful_until { BLOCK } else { SCRUB_READ_BYTES };
        let left = self.end.next_multiple_of(BLOCK).saturating_sub(self.next_read);
        assert!(left > 0, "a record that ends in the segment is judged with its last byte");
        Some((self.next_read, left.min(most)))
    }

    /// Takes what was read of the `length` bytes that were wanted, and tells what is damaged.
    pub fn take(&mut self, read: io::Result<&[u8]>, length: u64, damage: &mut Vec<Damage>) {
        match read {
            // A read may end early; at the end of a file that is too short it brings nothing.
            Ok(bytes) if bytes.len() as u64 >= BLOCK => {
                let whole = bytes.len() as u64 / BLOCK * BLOCK;
                self.window.extend_from_slice(&bytes[..whole.min(length) as usize]);
                self.next_read += whole.min(length);
                self.failed_in_a_row = 0;
            }
            Ok(_) => self.read_failed(length, "the file is cut short"),
            Err(error) => self.read_failed(length, &error.to_string()),
        }
        self.judge(damage);
    }

    fn read_failed(&mut self, length: u64, error: &str) {
        if length > BLOCK {
            self.careful_until = self.next_read + length;
        } else if self.failed_at != Some(self.next_read) {
            self.failed_at = Some(self.next_read);
        } else {
            // Zeroes, which no record of this place survives.
            self.note_unreadable(BLOCK, error);
            self.window.resize(self.window.len() + BLOCK as usize, 0);
            self.next_read += BLOCK;
            self.failed_in_a_row += 1;
            if self.failed_in_a_row == SCRUB_FAILED_BLOCKS_MAX {
                self.give_up(error);
            }
        }
    }

    fn note_unreadable(&mut self, length: u64, error: &str) {
        let (start, end) = (self.next_read, self.next_read + length);
        match self.unreadable.last_mut() {
            Some(last) if last.end == start && last.error == error => last.end = end,
            _ => self.unreadable.push(Unreadable { start, end, error: error.to_owned() }),
        }
    }

    /// The disk gives nothing of the records any more: asking for each block that is left, twice, would take
    /// hours.
    fn give_up(&mut self, error: &str) {
        if self.at < self.records_end {
            let end = self.records_end.next_multiple_of(BLOCK);
            self.note_unreadable(end.saturating_sub(self.next_read), error);
            self.gap.get_or_insert(self.at);
            self.at = self.records_end;
            self.window.clear();
            self.window_start = self.records_end / BLOCK * BLOCK;
            self.next_read = self.window_start;
        }
    }

    /// Goes on over the records that are there as a whole.
    fn judge(&mut self, damage: &mut Vec<Damage>) {
        let window = std::mem::take(&mut self.window);
        let first = self.window_start;
        let held = &window[..(self.next_read.min(self.end) - first) as usize];
        while self.at < self.end {
            // What is read once more begins before the record, at its block.
            let bytes = held.get((self.at - first) as usize..).unwrap_or_default();
            if self.at == self.base {
                if (bytes.len() as u64) < SEGMENT_HEADER_BYTES {
                    break;
                }
                let header = SegmentHeader::decode(bytes).and_then(|header| {
                    let is_own = header.base == self.base && header.packed == self.packed;
                    is_own.then_some(()).ok_or("the header of another segment")
                });
                match header {
                    Err(_) if self.again_at.is_none() => return self.read_again(),
                    Err(line) => self.header_damaged(line, damage),
                    Ok(()) => {}
                }
                self.at += SEGMENT_HEADER_BYTES;
                continue;
            }
            if self.at >= self.records_end {
                self.close_gap(damage);
                let Some(is_whole) = self.trailer_is_whole(bytes) else { break };
                if !is_whole && self.again_at != Some(self.at) {
                    return self.read_again();
                }
                if !is_whole {
                    self.trailer_damaged(damage);
                }
                self.at = self.end;
                continue;
            }
            let left = self.records_end - self.at;
            if (bytes.len() as u64) < HEAD_AND_KEY_BYTES_MAX.min(left) {
                break;
            }
            let found = self.head_at(bytes).filter(|(_, head)| head.bytes() <= left);
            let head = found.map(|(_, head)| head);
            if head.is_some_and(|head| head.bytes() > bytes.len() as u64) {
                break;
            }
            let is_whole =
                head.is_some_and(|head| format::payload_is_whole(bytes, self.seed, &head));
            if !is_whole && self.gap.is_none() && self.again_at != Some(self.at) {
                return self.read_again();
            }
            match head {
                None => {
                    self.gap.get_or_insert(self.at);
                    self.at += ALIGN;
                }
                Some(head) => {
                    self.close_gap(damage);
                    let position = found.map_or(self.at, |(position, _)| position);
                    self.least = position + head.bytes();
                    match is_whole {
                        true => self.whole(&bytes[..head.bytes() as usize], position, head, damage),
                        false => self.damaged(&bytes[..head.bytes() as usize], head, damage),
                    }
                }
            }
        }
        if self.at >= self.end {
            return self.close_gap(damage);
        }
        self.window = window;
        if self.at <= self.next_read {
            self.window.drain(..(self.at - first) as usize);
            self.window_start = self.at;
        }
    }

    /// The head at the next place, with the position of its record.
    fn head_at(&self, bytes: &[u8]) -> Option<(u64, Head)> {
        if self.packed.is_none() {
            return Some((self.at, format::decode_head(bytes, self.seed, self.at)?));
        }
        packed::head_at(bytes, self.seed).ok().filter(|(position, _)| *position >= self.least)
    }

    /// Whether what stands behind the records of a packed segment is whole; none: not all of it is read.
    fn trailer_is_whole(&self, bytes: &[u8]) -> Option<bool> {
        let Some(header) = self.packed else { unreachable!("others end with their records") };
        let (offset, length) = packed::trailer_range(&header);
        // Between the two is nothing.
        let bytes = bytes.get((self.base + offset - self.at) as usize..)?.get(..length)?;
        Some(packed::decode_trailer(bytes, self.seed, &header).is_some())
    }

    fn trailer_damaged(&mut self, damage: &mut Vec<Damage>) {
        let (start, end) = (self.records_end.next_multiple_of(BLOCK), self.end);
        damage.push(Damage { start, end, what: self.cause(start, end), head: None });
    }

    fn read_again(&mut self) {
        self.again_at = Some(self.at);
        self.window_start = self.at / BLOCK * BLOCK;
        self.next_read = self.window_start;
        self.unreadable.clear();
        self.failed_in_a_row = 0;
    }

    fn header_damaged(&mut self, line: &str, damage: &mut Vec<Damage>) {
        let (start, end) = (self.base, self.base + SEGMENT_HEADER_BYTES);
        let what = match self.unreadable_in(start, end) {
            Some(_) => self.cause(start, end),
            None => format!("are no whole header: {line}"),
        };
        damage.push(Damage { start, end, what, head: None });
    }

    fn whole(&mut self, bytes: &[u8], position: u64, head: Head, damage: &mut Vec<Damage>) {
        let start = self.at;
        if head.kind == Kind::Batch {
            self.batch_end = start + head.bytes();
            self.at += BATCH_HEAD_BYTES as u64;
            return;
        }
        self.at += head.bytes();
        self.records += u64::from(!matches!(head.kind, Kind::Padding | Kind::Seal));
        let is_stray = head.flags & FLAG_MEMBER != 0 && start >= self.batch_end;
        if is_stray && self.may_be_torn {
            return;
        }
        if let Some((_, what)) = walk::wrong_form(position, &Verified::with_head(head, bytes)) {
            let head = Some(head);
            damage.push(Damage { start, end: self.at, what: what.into(), head });
        }
    }

    fn damaged(&mut self, bytes: &[u8], head: Head, damage: &mut Vec<Damage>) {
        let start = self.at;
        self.at += match head.kind {
            Kind::Batch if !self.may_be_torn => BATCH_HEAD_BYTES as u64,
            _ => head.bytes(),
        };
        let end = start + head.bytes();
        let is_unreadable = self.unreadable_in(start, end).is_some();
        if self.may_be_torn && !is_unreadable && walk::is_half_written(bytes, start, &head) {
            return;
        }
        damage.push(Damage { start, end, what: self.cause(start, end), head: Some(head) });
    }

    fn close_gap(&mut self, damage: &mut Vec<Damage>) {
        if let Some(start) = self.gap.take() {
            let end = self.at.min(self.records_end);
            damage.push(Damage { start, end, what: self.cause(start, end), head: None });
        }
        let at = self.at;
        self.unreadable.retain(|one| one.end > at);
    }

    fn unreadable_in(&self, start: u64, end: u64) -> Option<&str> {
        let found = self.unreadable.iter().find(|one| one.start < end && start < one.end);
        found.map(|one| one.error.as_str())
    }

    fn cause(&self, start: u64, end: u64) -> String {
        match self.unreadable_in(start, end) {
            Some(error) => format!("cannot be read ({error})"),
            None => "are damaged".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many blocks of records.
    const BLOCKS: u64 = 5000;

    fn reader() -> Reader {
        let capacity = (BLOCKS + 1) * BLOCK;
        let segment = Segment::new(0, capacity, capacity, FileId(0));
        Reader { records_end: capacity, end: capacity, ..Reader::new(7, &segment, false) }
    }

    fn failed() -> io::Result<&'static [u8]> {
        Err(io::Error::from_raw_os_error(5))
    }

    #[test]
    fn a_disk_that_is_gone_is_not_asked_for_every_block() {
        let (mut reader, mut damage, mut reads) = (reader(), Vec::new(), 0);
        while let Some((_, length)) = reader.wanted() {
            reader.take(failed(), length, &mut damage);
            assert!(reader.unreadable.len() <= 1);
            reads += 1;
        }
        assert!(reads < 2 * SCRUB_FAILED_BLOCKS_MAX + 300, "{reads} reads");
        let spans: Vec<_> = damage.iter().map(|one| (one.start, one.end)).collect();
        assert_eq!(spans, [(0, SEGMENT_HEADER_BYTES), (SEGMENT_HEADER_BYTES, reader.end)]);
        assert!(damage.iter().all(|one| one.what.starts_with("cannot be read (")));
    }

    #[test]
    fn blocks_that_fail_in_turn_are_all_asked_for() {
        let (mut reader, mut damage) = (reader(), Vec::new());
        let zeroes = vec![0; BLOCK as usize];
        let mut last = 0;
        while let Some((start, length)) = reader.wanted() {
            let is_good = length == BLOCK && start / BLOCK % 2 == 1;
            let read = if is_good { Ok(&zeroes[..]) } else { failed() };
            reader.take(read, length, &mut damage);
            last = start;
        }
        assert_eq!(last, BLOCKS * BLOCK);
        assert_eq!(damage.last().map(|one| one.end), Some(reader.end));
    }
}
