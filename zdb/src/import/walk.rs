//! A walk over the records of one data file of a 0-db, in order, past whatever is damaged.
//!
//! A record begins where the one before it ends; nothing else marks it, and its checksum covers the
//! payload alone. So a walk that meets a record that does not check has to find out what is wrong:
//!
//! * The next record, the end of the file or the index says that it ends where its head says: the head
//!   is right, the payload is damaged. The index repeats the checksum: if the payload meets that one,
//!   it was the copy in the data file that was damaged, and the record is taken.
//! * Otherwise the head is damaged. The walk goes on at the next place where the index says that a record
//!   begins; from there it goes back along each record's note of where the one before it began, since
//!   the index does not know tombstones. Without an index it looks at every byte for a record
//!   that checks and whose neighbours agree.
//!
//! A record without payload has a checksum of nothing, so its neighbours have to agree as well.

use super::format::{self, DATA_HEADER_BYTES, ENTRY_HEAD_BYTES, INDEX_HEADER_BYTES, Record};
use super::source::Window;
use crate::limits::{IMPORT_HINTS_MAX, scaled};
use std::path::{Path, PathBuf};

/// Bytes whose checksum a search for the next record may compute: so many for each byte of the file,
const SEARCH_BYTES_FACTOR: u64 = 32;
/// and so many in any case.
const SEARCH_BYTES_MIN: u64 = scaled(256 << 20, 1 << 20);

/// What the walk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole record; [`Walk::record`] has its bytes.
    Record { offset: u64, head: Record, healed: bool },
    /// What a compaction left of a record.
    Placeholder { head: Record },
    /// Bytes that are lost.
    Lost(Lost),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub start: u64,
    pub end: u64,
    pub what: &'static str,
    /// How many records began there, where the index tells; at least one otherwise.
    pub records: Option<u64>,
    /// Key and time of the record, where its head is right.
    pub key: Option<(Vec<u8>, u32)>,
}

/// What the index knows of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    offset: u32,
    payload_length: u32,
    check: u32,
    key_length: u8,
}

/// The index file of the same number: read only where damage was met.
enum Index {
    Unread(PathBuf),
    Read(Vec<Hint>),
}

pub struct Walk {
    window: Window,
    position: u64,
    /// Where the last whole record began.
    last: Option<u64>,
    index: Index,
    search_bytes_left: u64,
}

impl Walk {
    pub fn open(path: &Path, index_path: PathBuf) -> Result<Self, String> {
        Ok(Self::new(Window::open(path)?, Index::Unread(index_path)))
    }

    /// A walk over files that are in memory.
    pub fn of_bytes(data: Vec<u8>, index: Vec<u8>) -> Self {
        let hints = read_hints(Window::of_bytes(index));
        Self::new(Window::of_bytes(data), Index::Read(hints))
    }

    fn new(window: Window, index: Index) -> Self {
        let search_bytes = window.length().saturating_mul(SEARCH_BYTES_FACTOR);
        Self {
            window,
            position: DATA_HEADER_BYTES,
            last: None,
            index,
            search_bytes_left: SEARCH_BYTES_MIN.saturating_add(search_bytes),
        }
    }

    pub fn check_header(&mut self, number: u32) -> Result<(), format::BadHeader> {
        format::check_data_header(self.window.at(0, DATA_HEADER_BYTES as usize), number)
    }

    pub fn length(&self) -> u64 {
        self.window.length()
    }

    /// How far the walk is, in bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Stretches that could not be read since this was asked last.
    pub fn take_unreadable(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.window.unreadable)
    }

    /// Key and payload of a record that `next_item` gave.
    pub fn record(&mut self, offset: u64, head: &Record) -> Option<(&[u8], &[u8])> {
        let bytes = self.window.at(offset, head.bytes() as usize);
        let key = bytes.get(format::RECORD_HEAD_BYTES..head.payload_offset())?;
        let payload = bytes.get(head.payload_offset()..head.bytes() as usize)?;
        Some((key, payload))
    }

    pub fn next_item(&mut self) -> Option<Item> {
        let start = self.position;
        let length = self.window.length();
        if start >= length {
            return None;
        }
        let head = self.head_at(start);
        if head.is_none() && self.is_zero_from(start) {
            self.position = length;
            return Some(self.lost(start, length, "nothing but zeroes up to the end", None));
        }
        let Some(head) = head else { return Some(self.resynchronise(start, None)) };
        let end = start + head.bytes();
        if end > length {
            return Some(self.resynchronise(start, Some(head)));
        }
        if head.is_placeholder() {
            if !self.neighbours_agree(start, &head) {
                return Some(self.resynchronise(start, None));
            }
            self.step(start, end);
            return Some(Item::Placeholder { head });
        }
        let check = self.check_of(start, &head);
        if check == Some(head.check)
            && (head.payload_length > 0 || self.neighbours_agree(start, &head))
        {
            self.step(start, end);
            return Some(Item::Record { offset: start, head, healed: false });
        }
        let hint = self.hint_at(start).filter(|hint| {
            hint.payload_length == head.payload_length && hint.key_length == head.key_length
        });
        if let Some(hint) = hint
            && check == Some(hint.check)
        {
            self.step(start, end);
            return Some(Item::Record { offset: start, head, healed: true });
        }
        if hint.is_some() || self.begins_after(end, start) {
            self.step(start, end);
            let key = self.key_of(start, &head);
            return Some(self.lost(start, end, "the payload is damaged", key));
        }
        Some(self.resynchronise(start, None))
    }

    fn step(&mut self, start: u64, end: u64) {
        self.last = Some(start);
        self.position = end;
    }

    fn head_at(&mut self, offset: u64) -> Option<Record> {
        Record::parse(self.window.at(offset, format::RECORD_HEAD_BYTES))
            .filter(Record::is_plausible)
    }

    fn check_of(&mut self, offset: u64, head: &Record) -> Option<u32> {
        self.record(offset, head).map(|(_, payload)| crate::crc32c::crc32c(payload))
    }

    fn key_of(&mut self, offset: u64, head: &Record) -> Option<(Vec<u8>, u32)> {
        let bytes = self.window.at(offset, head.payload_offset());
        let key = bytes.get(format::RECORD_HEAD_BYTES..head.payload_offset())?;
        Some((key.to_vec(), head.timestamp))
    }

    /// Whether a record begins at `offset` that says that the one before it began at `before`, or the file
    /// ends there.
    fn begins_after(&mut self, offset: u64, before: u64) -> bool {
        offset == self.window.length()
            || self.head_at(offset).is_some_and(|next| u64::from(next.previous) == before)
    }

    /// Whether the record before or behind one without payload speaks for it, and none speaks against it:
    /// one that says that it follows this one, but begins elsewhere, shows a damaged length of the key.
    fn neighbours_agree(&mut self, start: u64, head: &Record) -> bool {
        let end = start + head.bytes();
        if self.begins_after(end, start) || self.hint_at(start).is_some() {
            return true;
        }
        let shortest = start + format::RECORD_HEAD_BYTES as u64 + 1;
        let longest = (shortest + u64::from(u8::MAX)).min(self.window.length());
        if (shortest..longest).any(|end| self.begins_after(end, start)) {
            return false;
        }
        let follows_last = self.last.is_some_and(|last| last == u64::from(head.previous));
        follows_last || self.head_at(end).is_some()
    }

    fn is_zero_from(&mut self, mut offset: u64) -> bool {
        const STEP: usize = 64 << 10;
        while offset < self.window.length() {
            let bytes = self.window.at(offset, STEP);
            if bytes.is_empty() {
                return true;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return false;
            }
            offset += bytes.len() as u64;
        }
        true
    }

    // ---------------------------------------------------------------- damage

    fn lost(
        &mut self,
        start: u64,
        end: u64,
        what: &'static str,
        key: Option<(Vec<u8>, u32)>,
    ) -> Item {
        let hints = self.hints();
        let before = |end: u64| hints.partition_point(|hint| u64::from(hint.offset) < end);
        let inside = before(end) - before(start);
        let records = match (inside as u64, &key) {
            (0, None) => None,
            (0, Some(_)) => Some(1),
            (count, _) => Some(count),
        };
        Item::Lost(Lost { start, end, what, records, key })
    }

    /// Finds the next record behind a damaged head, or behind one that is cut off.
    fn resynchronise(&mut self, start: u64, cut_off: Option<Record>) -> Item {
        let from_index = self.next_hinted(start);
        let found = match from_index {
            Some(found) => Some(found),
            None => self.search(start),
        };
        let length = self.window.length();
        let Some(found) = found else {
            self.position = length;
            let key = cut_off.and_then(|head| self.key_of(start, &head));
            let what = match (&key, length - start < format::RECORD_HEAD_BYTES as u64) {
                (Some(_), _) | (None, true) => "the last record is cut off",
                (None, false) => "no record can be found any more",
            };
            return self.lost(start, length, what, key);
        };
        let end = self.back_from(start, found);
        self.position = end;
        self.last = None;
        self.lost(start, end, "the head of a record is damaged", None)
    }

    /// The next record that the index knows and that is whole.
    fn next_hinted(&mut self, start: u64) -> Option<u64> {
        let first = self.hints().partition_point(|hint| u64::from(hint.offset) <= start);
        for at in first..self.hints().len() {
            // An index that fits nowhere must not be read again for each record.
            self.search_bytes_left = self.search_bytes_left.checked_sub(ENTRY_HEAD_BYTES as u64)?;
            let hint = self.hints()[at];
            let offset = u64::from(hint.offset);
            let same = self.head_at(offset).filter(|head| {
                head.payload_length == hint.payload_length
                    && head.key_length == hint.key_length
                    && offset + head.bytes() <= self.window.length()
            });
            if same.is_some() {
                return Some(offset);
            }
        }
        None
    }

    /// Goes back from a record along the notes of where the one before began, as far as these are whole
    /// records that end where the next begins.
    fn back_from(&mut self, start: u64, mut found: u64) -> u64 {
        while let Some(head) = self.head_at(found) {
            let before = u64::from(head.previous);
            if before <= start || before >= found {
                break;
            }
            let Some(previous) = self.head_at(before) else { break };
            if before + previous.bytes() != found
                || self.check_of(before, &previous) != Some(previous.check)
            {
                break;
            }
            found = before;
        }
        found
    }

    /// Looks at every byte behind `start` for a record: first for one that says that it follows the damaged
    /// one, then for any that checks and has a neighbour.
    fn search(&mut self, start: u64) -> Option<u64> {
        let near = (start + format::RECORD_BYTES_MAX as u64 + 1).min(self.window.length());
        self.search_until(start, near, true)
            .or_else(|| self.search_until(start, self.window.length(), false))
    }

    fn search_until(&mut self, start: u64, until: u64, follower: bool) -> Option<u64> {
        for offset in start + 1..until {
            // Most bytes are ruled out by their key length or the upper byte of a payload's length.
            let quick = self.window.at(offset, format::RECORD_HEAD_BYTES);
            if quick.len() < format::RECORD_HEAD_BYTES || quick[0] == 0 || quick[4] != 0 {
                continue;
            }
            let Some(head) = self.head_at(offset) else { continue };
            let previous = u64::from(head.previous);
            let end = offset + head.bytes();
            if end > self.window.length() || previous >= offset || head.is_placeholder() {
                continue;
            }
            if follower && previous != start {
                continue;
            }
            if head.payload_length == 0 && !follower {
                continue;
            }
            let cost = u64::from(head.payload_length);
            if cost > self.search_bytes_left {
                return None;
            }
            self.search_bytes_left -= cost;
            if self.check_of(offset, &head) == Some(head.check)
                && (follower || self.begins_after(end, offset))
            {
                return Some(offset);
            }
        }
        None
    }

    // ---------------------------------------------------------------- the index

    fn hint_at(&mut self, offset: u64) -> Option<Hint> {
        let hints = self.hints();
        let at = hints.partition_point(|hint| u64::from(hint.offset) < offset);
        hints.get(at).copied().filter(|hint| u64::from(hint.offset) == offset)
    }

    /// What the index knows, in the order of the data file.
    fn hints(&mut self) -> &[Hint] {
        if let Index::Unread(path) = &self.index {
            let hints = Window::open(path).map_or_else(|_| Vec::new(), read_hints);
            self.index = Index::Read(hints);
        }
        match &self.index {
            Index::Read(hints) => hints,
            Index::Unread(_) => &[],
        }
    }
}

fn read_hints(mut window: Window) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut position = INDEX_HEADER_BYTES;
    while hints.len() < IMPORT_HINTS_MAX {
        let bytes = window.at(position, ENTRY_HEAD_BYTES + 255);
        let Some((entry, _)) = format::Entry::parse(bytes) else { break };
        position += entry.bytes();
        hints.push(Hint {
            offset: entry.offset,
            payload_length: entry.payload_length,
            check: entry.check,
            key_length: entry.key_length,
        });
    }
    hints.sort_unstable();
    hints.dedup();
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(out: &mut Vec<u8>, previous: usize, key: &[u8], payload: &[u8], flags: u8) -> usize {
        let start = out.len();
        out.push(key.len() as u8);
        out.extend((payload.len() as u32).to_le_bytes());
        out.extend((previous as u32).to_le_bytes());
        out.extend(crate::crc32c::crc32c(payload).to_le_bytes());
        out.push(flags);
        out.extend([0; 4]);
        out.extend(key);
        out.extend(payload);
        start
    }

    /// Walks to the end: whatever the bytes are, items follow each other without a gap and end with the file.
    fn walk(data: &[u8], index: &[u8]) -> Vec<Item> {
        let mut walk = Walk::of_bytes(data.to_vec(), index.to_vec());
        let mut items = Vec::new();
        let mut position = DATA_HEADER_BYTES;
        while let Some(item) = walk.next_item() {
            let (start, end) = match &item {
                Item::Record { offset, head, .. } => {
                    assert!(walk.record(*offset, head).is_some());
                    (*offset, offset + head.bytes())
                }
                Item::Placeholder { head } => (position, position + head.bytes()),
                Item::Lost(lost) => (lost.start, lost.end),
            };
            assert_eq!(start, position);
            assert!(end > start);
            assert_eq!(end, walk.position());
            position = end;
            items.push(item);
        }
        assert!(position >= data.len() as u64);
        items
    }

    #[test]
    fn no_bytes_stop_a_walk() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below.max(1)
        };
        for _ in 0..2000 {
            let mut data = vec![0; DATA_HEADER_BYTES as usize];
            let mut previous = 0;
            for _ in 0..random(8) {
                let payload = vec![random(256) as u8; random(40)];
                let flags = u8::from(payload.is_empty() && random(2) == 0);
                previous = record(&mut data, previous, b"key", &payload, flags);
            }
            for _ in 0..random(6) {
                let at = random(data.len());
                data[at] = random(256) as u8;
            }
            data.truncate(data.len() - random(20).min(data.len()));
            let index: Vec<u8> = (0..random(200)).map(|_| random(256) as u8).collect();
            walk(&data, &index);
        }
    }

    /// A tombstone has no payload whose checksum could tell that the length of its key is damaged.
    #[test]
    fn a_tombstone_with_a_damaged_key_length_takes_nothing_along() {
        let mut data = vec![0; DATA_HEADER_BYTES as usize];
        let first = record(&mut data, 0, b"first", b"1", 0);
        let tombstone = record(&mut data, first, b"key", b"", 1);
        let behind = record(&mut data, tombstone, b"behind", b"2", 0);
        record(&mut data, behind, b"last", b"3", 0);
        for damage in [1, 4, 16, 32] {
            let mut data = data.clone();
            data[tombstone] ^= damage;
            let items = walk(&data, &[]);
            let Item::Lost(lost) = &items[1] else { panic!("{damage}: {items:?}") };
            assert_eq!((lost.start, lost.end), (tombstone as u64, behind as u64), "{items:?}");
            assert_eq!(items.len(), 4, "{damage}: {items:?}");
        }
    }

    /// A value that is itself a data file does not lead a walk astray, where the head around it is whole or
    /// the record behind says where it began.
    #[test]
    fn records_in_a_payload_are_none() {
        let mut inner = Vec::new();
        let mut previous = 0;
        for _ in 0..5 {
            previous = record(&mut inner, previous, b"inner", b"payload of the inner one", 0);
        }
        let mut data = vec![0; DATA_HEADER_BYTES as usize];
        let first = record(&mut data, 0, b"first", b"1", 0);
        let outer = record(&mut data, first, b"outer", &inner, 0);
        let last = record(&mut data, outer, b"last", b"2", 0);
        assert_eq!(walk(&data, &[]).len(), 3);
        data[outer + 4] = 0x55;
        let items = walk(&data, &[]);
        let Item::Lost(lost) = &items[1] else { panic!("{items:?}") };
        assert_eq!((lost.start, lost.end), (outer as u64, last as u64), "{items:?}");
    }
}
