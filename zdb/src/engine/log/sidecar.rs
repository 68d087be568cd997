//! Sidecars: for each segment, what its records do to the index, in log order and without their
//! payloads. A start reads them instead of the log, and scans walk them. They can be deleted: a start
//! makes them anew.
//!
//! A sidecar is a chain of pages of some 16 KiB, each with its own checksum. An entry is packed into
//! about 15 bytes (LEB128 varints, differences to the entry before), a tenth of the smallest records,
//! because sidecars count as written bytes too.

use super::format::Kind;
use crate::limits::SIDECAR_PAGE_BYTES;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: u32 = u32::from_le_bytes(*b"zpg1");
pub const PAGE_HEADER_BYTES: usize = 48;
/// The bits of an entry that its kind has.
const KIND_MASK: u8 = 7;

/// Whether a page is the last of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PageEnd {
    Open = 0,
    /// The segment ends with a seal record.
    Sealed = 1,
    /// The segment ends where a recovery found the last whole record.
    Recovered = 2,
}

/// What one record does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub position: u64,
    pub kind: Kind,
    pub flags: u8,
    pub namespace: u32,
    /// Hash of the key in user mode, the id in sequential mode.
    pub key: u64,
    pub key_length: u8,
    pub payload_length: u32,
    pub fingerprint: u8,
    pub timestamp: u32,
    pub replaced: Option<u32>,
}

/// The part of a page's header that stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    pub body_bytes: usize,
    pub count: u32,
    pub ending: PageEnd,
    /// Position of the first record.
    pub first: u64,
    /// End of the last record: where a replay of the log goes on.
    pub end: u64,
    /// One bit for each namespace id modulo 64: pages without the namespace of a scan are skipped.
    pub namespaces: u64,
}

impl LogEntry {
    /// A place in the log where as many records may have been that are damaged: so many ids may have been
    /// given out there.
    pub fn damage(position: u64, records_max: u64) -> Self {
        Self {
            position,
            kind: Kind::Padding,
            flags: 0,
            namespace: 0,
            key: records_max,
            key_length: 0,
            payload_length: 0,
            fingerprint: 0,
            timestamp: 0,
            replaced: None,
        }
    }
}

pub fn namespace_bit(namespace: u32) -> u64 {
    1 << (namespace % 64)
}

/// Collects entries into a page.
pub struct PageBuilder {
    body: Vec<u8>,
    count: u32,
    first: u64,
    end: u64,
    namespaces: u64,
    previous: (u64, u32),
}

impl PageBuilder {
    pub fn new() -> Self {
        Self { body: Vec::new(), count: 0, first: 0, end: 0, namespaces: 0, previous: (0, 0) }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_full(&self) -> bool {
        self.body.len() >= SIDECAR_PAGE_BYTES
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn push(&mut self, entry: &LogEntry, end: u64) {
        if self.count == 0 {
            self.first = entry.position;
            self.previous = (entry.position, 0);
        }
        let (position, timestamp) = self.previous;
        put_varint(&mut self.body, (entry.position - position) / 8);
        let replaced = u8::from(entry.replaced.is_some());
        self.body.push(entry.kind as u8 & KIND_MASK | entry.flags << 3 | replaced << 7);
        put_varint(&mut self.body, u64::from(entry.namespace));
        self.body.extend_from_slice(&entry.key.to_le_bytes());
        self.body.push(entry.key_length);
        put_varint(&mut self.body, u64::from(entry.payload_length));
        self.body.push(entry.fingerprint);
        put_varint(&mut self.body, u64::from(entry.timestamp ^ timestamp));
        if let Some(length) = entry.replaced {
            put_varint(&mut self.body, u64::from(length));
        }
        self.previous = (entry.position, entry.timestamp);
        self.namespaces |= namespace_bit(entry.namespace);
        self.count += 1;
        self.end = end;
    }

    /// Closes the page and starts the next. A last page may be empty; its end is that of the segment.
    pub fn finish(&mut self, seed: u64, ending: PageEnd, end: u64) -> (PageHeader, Vec<u8>) {
        let page = std::mem::take(self);
        let header = PageHeader {
            body_bytes: page.body.len(),
            count: page.count,
            ending,
            first: if page.count == 0 { end } else { page.first },
            end: if ending == PageEnd::Open { page.end } else { end },
            namespaces: page.namespaces,
        };
        let mut bytes = Vec::with_capacity(PAGE_HEADER_BYTES + page.body.len());
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&(header.body_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&header.count.to_le_bytes());
        bytes.extend_from_slice(&(ending as u32).to_le_bytes());
        bytes.extend_from_slice(&header.first.to_le_bytes());
        bytes.extend_from_slice(&header.end.to_le_bytes());
        bytes.extend_from_slice(&header.namespaces.to_le_bytes());
        bytes.extend_from_slice(&page.body);
        let check = page_check(seed, &bytes);
        bytes[8..16].copy_from_slice(&check.to_le_bytes());
        (header, bytes)
    }
}

impl Default for PageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything of a page but the checksum itself.
fn page_check(seed: u64, page: &[u8]) -> u64 {
    let length = u64::from(u32::from_le_bytes([page[4], page[5], page[6], page[7]]));
    xxh3_64_with_seed(&page[16..], seed ^ length.rotate_left(48))
}

/// Verifies the page at the start of `bytes`.
pub fn read_page(bytes: &[u8], seed: u64) -> Option<PageHeader> {
    let header = bytes.get(..PAGE_HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let body_bytes = word(4) as usize;
    let page = bytes.get(..PAGE_HEADER_BYTES.checked_add(body_bytes)?)?;
    if word(0) != MAGIC || page_check(seed, page) != long(8) {
        return None;
    }
    Some(PageHeader {
        body_bytes,
        count: word(16),
        ending: match word(20) {
            0 => PageEnd::Open,
            1 => PageEnd::Sealed,
            2 => PageEnd::Recovered,
            _ => return None,
        },
        first: long(24),
        end: long(32),
        namespaces: long(40),
    })
}

/// The pages of a sidecar from its start on, as long as they verify, with their lengths.
pub fn read_pages(bytes: &[u8], seed: u64) -> Vec<(PageHeader, usize)> {
    let mut pages = Vec::new();
    let mut offset = 0;
    while let Some(header) = read_page(&bytes[offset..], seed) {
        let length = PAGE_HEADER_BYTES + header.body_bytes;
        pages.push((header, length));
        offset += length;
        if header.ending != PageEnd::Open {
            break;
        }
    }
    pages
}

/// Where the next page begins that verifies, behind bytes that do not.
pub fn next_page(bytes: &[u8], from: usize, seed: u64) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    let rest = bytes.get(from..)?;
    let mut places = rest.windows(magic.len()).enumerate();
    places.find_map(|(at, word)| {
        (word == magic && read_page(&rest[at..], seed).is_some()).then_some(from + at)
    })
}

/// Walks the entries of a page's body. Ends early where the bytes are no entry, which a verified
/// page does not have.
pub struct Entries<'a> {
    body: &'a [u8],
    position: u64,
    timestamp: u32,
}

pub fn entries(first: u64, body: &[u8]) -> Entries<'_> {
    Entries { body, position: first, timestamp: 0 }
}

impl Entries<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.body.split_first()?;
        self.body = rest;
        Some(*byte)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Entries<'_> {
    type Item = LogEntry;

    #[inline]
    fn next(&mut self) -> Option<LogEntry> {
        self.position += self.varint()? * 8;
        let packed = self.byte()?;
        let kind = match packed & KIND_MASK {
            // There are three bits for it.
            0 => Kind::Term,
            kind => Kind::from_byte(kind)?,
        };
        let namespace = self.varint()? as u32;
        let (key, rest) = self.body.split_first_chunk::<8>()?;
        self.body = rest;
        let key_length = self.byte()?;
        let payload_length = self.varint()? as u32;
        let fingerprint = self.byte()?;
        self.timestamp ^= self.varint()? as u32;
        let replaced = if packed & 0x80 != 0 { Some(self.varint()? as u32) } else { None };
        Some(LogEntry {
            position: self.position,
            kind,
            flags: (packed >> 3) & 0xf,
            namespace,
            key: u64::from_le_bytes(*key),
            key_length,
            payload_length,
            fingerprint,
            timestamp: self.timestamp,
            replaced,
        })
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, payload_length: u32) -> LogEntry {
        LogEntry {
            position,
            kind: Kind::Set,
            flags: 1,
            namespace: 300,
            key: position.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            key_length: 16,
            payload_length,
            fingerprint: 7,
            timestamp: 1_700_000_000 + payload_length,
            replaced: payload_length.is_multiple_of(2).then_some(payload_length),
        }
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        let mut builder = PageBuilder::new();
        let written: Vec<_> = (0..500).map(|n| entry(4096 + n * n * 8, n as u32 * 37)).collect();
        for one in &written {
            builder.push(one, one.position + 160);
        }
        let (header, bytes) = builder.finish(5, PageEnd::Open, 0);
        assert_eq!(read_page(&bytes, 5), Some(header));
        assert_eq!(header.end, written[499].position + 160);
        let read: Vec<_> = entries(header.first, &bytes[PAGE_HEADER_BYTES..]).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let mut builder = PageBuilder::new();
        builder.push(&entry(4096, 100), 4256);
        let (_, bytes) = builder.finish(5, PageEnd::Sealed, 8192);
        assert!(read_page(&bytes, 6).is_none(), "another log's page");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read_page(&damaged, 5).is_none(), "byte {at}");
        }
    }
}
