//! The sidecar of a segment as a witness of what the segment held: its entries in the order of the log,
//! also those behind a damaged page.

use crate::disk::{Files, Root};
use crate::engine::index::Place;
use crate::engine::log::format::{self, Kind, SEGMENT_HEADER_BYTES};
use crate::engine::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, PageEnd, PageHeader};
use std::io;

/// A sidecar that could be read.
pub struct Witness {
    bytes: Vec<u8>,
    /// Pages that verify, with their offsets, in the order of the log.
    pages: Vec<(PageHeader, usize)>,
    next_page: usize,
    entries: std::iter::Peekable<std::vec::IntoIter<LogEntry>>,
    /// Stretches of the log that pages without a gap tell of.
    runs: Vec<(u64, u64)>,
    /// What is wrong with the file: offset and words.
    pub troubles: Vec<(u64, String)>,
    pub is_missing: bool,
}

impl Witness {
    /// The sidecar of the segment at `base`. Without the secret of the log none can be believed.
    pub fn read(files: &dyn Files, base: u64, seed: Option<u64>) -> Self {
        let mut witness = Self {
            bytes: Vec::new(),
            pages: Vec::new(),
            next_page: 0,
            entries: Vec::new().into_iter().peekable(),
            runs: Vec::new(),
            troubles: Vec::new(),
            is_missing: false,
        };
        match files.read_small(Root::Index, &format::sidecar_name(base)) {
            Ok(bytes) => witness.bytes = bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => witness.is_missing = true,
            Err(error) => witness.troubles.push((0, format!("it cannot be read: {error}"))),
        }
        if let Some(seed) = seed {
            witness.find_pages(base, seed);
        }
        witness
    }

    fn find_pages(&mut self, base: u64, seed: u64) {
        let mut offset = 0;
        let mut is_gap = false;
        let mut end = base + SEGMENT_HEADER_BYTES;
        self.runs.push((end, end));
        while offset < self.bytes.len() {
            let Some(header) = sidecar::read_page(&self.bytes[offset..], seed) else {
                let next = sidecar::next_page(&self.bytes, offset + 1, seed);
                let behind = next.unwrap_or(self.bytes.len());
                let line = format!("a page of {} bytes is damaged", behind - offset);
                self.troubles.push((offset as u64, line));
                offset = behind;
                is_gap = true;
                continue;
            };
            let length = PAGE_HEADER_BYTES + header.body_bytes;
            if header.first < end || header.end < header.first || !Place::is_valid(header.end) {
                self.troubles.push((offset as u64, "a page tells of another place".into()));
                is_gap = true;
            } else {
                if is_gap {
                    self.runs.push((header.first, header.first));
                    is_gap = false;
                }
                end = header.end;
                if let Some(run) = self.runs.last_mut() {
                    run.1 = end;
                }
                self.pages.push((header, offset));
            }
            offset += length;
            if header.ending != PageEnd::Open && offset < self.bytes.len() {
                self.troubles.push((offset as u64, "bytes behind the last page".into()));
                break;
            }
        }
    }

    /// How the segment ends, if the last page is there.
    pub fn ending(&self) -> Option<(PageEnd, u64)> {
        let (last, _) = self.pages.last()?;
        (last.ending != PageEnd::Open).then_some((last.ending, last.end))
    }

    /// Up to where the pages tell of the log.
    pub fn end(&self) -> Option<u64> {
        self.pages.last().map(|(page, _)| page.end)
    }

    /// Whether every record of a stretch would have an entry.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        self.runs.iter().any(|(from, to)| *from <= start && end <= *to)
    }

    /// Where in the sidecar the page of a position is.
    pub fn page_of(&self, position: u64) -> u64 {
        let after = self.pages.partition_point(|(page, _)| page.first <= position);
        after.checked_sub(1).map_or(0, |at| self.pages[at].1 as u64)
    }

    fn peek(&mut self) -> Option<&LogEntry> {
        while self.entries.peek().is_none() {
            let (header, offset) = *self.pages.get(self.next_page)?;
            self.next_page += 1;
            let body = &self.bytes[offset + PAGE_HEADER_BYTES..][..header.body_bytes];
            let mut entries: Vec<LogEntry> = sidecar::entries(header.first, body).collect();
            if entries.len() != header.count as usize {
                let line = "a page has another number of entries than it says".into();
                self.troubles.push((offset as u64, line));
            }
            // Of no record, but of damage that a start met.
            entries.retain(|entry| entry.kind != Kind::Padding);
            self.entries = entries.into_iter().peekable();
        }
        self.entries.peek()
    }

    /// The next entry, if it is of a place before `position`.
    pub fn before(&mut self, position: u64) -> Option<LogEntry> {
        if self.peek()?.position >= position {
            return None;
        }
        self.entries.next()
    }

    /// The entry of a place, once those before it are taken.
    pub fn at(&mut self, position: u64) -> Option<LogEntry> {
        if self.peek()?.position != position {
            return None;
        }
        self.entries.next()
    }
}
