//! The segments of the log with the pages of their sidecars: which file holds a position, and which
//! pages a scan has to read.
//!
//! A page goes to its file only when the records that it describes are durable. A sidecar is thus
//! never ahead of its log, whatever a power cut takes.

use super::format::{LogId, PackedHeader, SEGMENT_HEADER_BYTES};
use super::packed::Packed;
use super::sidecar::{LogEntry, PageBuilder, PageEnd, PageHeader};
use super::{LogStats, format};
use crate::disk::{Done, FileId, Operation, Token};
use std::io;
use xxhash_rust::xxh3::xxh3_64;

/// What is mixed into the checksum of every page of a log.
pub fn sidecar_seed(log: LogId, secret: &[u8; 16]) -> u64 {
    xxh3_64(&[log.0, *secret].concat())
}

/// The same for the pages of one segment: those of the segments that a packed one came of do not count for it.
pub fn page_seed(sidecar_seed: u64, base: u64, packed: Option<&PackedHeader>) -> u64 {
    packed_page_seed(sidecar_seed, base, packed.map_or(0, |packed| packed.judged_until))
}

/// The same by how far the log was when a packed segment was judged.
pub fn packed_page_seed(sidecar_seed: u64, base: u64, judged_until: u64) -> u64 {
    sidecar_seed ^ base.rotate_left(17) ^ judged_until.rotate_left(7)
}

/// A page of a sidecar.
pub struct Page {
    pub header: PageHeader,
    /// Offset of the page in its file.
    pub offset: u64,
    pub bytes: usize,
    state: PageState,
}

enum PageState {
    /// Waits for its records to become durable.
    Pending(Vec<u8>),
    /// On its way to the file.
    Writing(Vec<u8>, Token),
    OnDisk,
    /// The file could not be written: the page stays in memory.
    Kept(Vec<u8>),
}

impl Page {
    pub fn on_disk(header: PageHeader, offset: u64, bytes: usize) -> Self {
        Self { header, offset, bytes, state: PageState::OnDisk }
    }

    /// The page's bytes, where they are in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        match &self.state {
            PageState::Pending(bytes) | PageState::Writing(bytes, _) | PageState::Kept(bytes) => {
                Some(bytes)
            }
            PageState::OnDisk => None,
        }
    }
}

pub struct Segment {
    /// Number of the first segment that it stands for, counted from the start of the log, and how many these are.
    pub number: u64,
    pub count: u32,
    /// Position of the first byte of the file.
    pub base: u64,
    /// Addresses that belong to the segment.
    pub capacity: u64,
    /// Bytes that the file got; of a packed segment all addresses that it stands for.
    pub size: u64,
    pub file: FileId,
    /// Where the records are in the file, if not each at its position.
    pub packed: Option<Box<Packed>>,
    pub pages: Vec<Page>,
    /// So many ids may have been given out in its damaged bytes.
    pub ids_lost_max: u64,
    /// Length of the sidecar with all pages so far.
    pub sidecar_bytes: u64,
    /// Pages before this one are on disk or kept.
    settled: usize,
}

impl Segment {
    pub fn new(base: u64, capacity: u64, size: u64, file: FileId) -> Self {
        Self {
            number: 0,
            count: 1,
            base,
            capacity,
            size,
            file,
            packed: None,
            pages: Vec::new(),
            ids_lost_max: 0,
            sidecar_bytes: 0,
            settled: 0,
        }
    }

    /// One that the cleaner wrote.
    pub fn packed(base: u64, capacity: u64, file: FileId, packed: Packed) -> Self {
        let count = packed.header.count.max(1);
        Self { count, packed: Some(Box::new(packed)), ..Self::new(base, capacity, capacity, file) }
    }

    /// Where the records of a closed segment end, padding and seal included.
    pub fn end(&self) -> u64 {
        self.pages.last().map_or(self.base + SEGMENT_HEADER_BYTES, |page| page.header.end)
    }

    /// Whether a seal ends a closed segment: else the next one's header tells where it ends.
    pub fn is_sealed(&self) -> bool {
        self.pages.last().is_none_or(|page| page.header.ending == PageEnd::Sealed)
    }

    /// Where the records end in the file of a closed segment.
    pub fn records_end(&self) -> u64 {
        match &self.packed {
            Some(packed) => packed.records_end(),
            None => self.end() - self.base,
        }
    }

    /// Bytes of the file, as far as they are used.
    pub fn file_bytes(&self) -> u64 {
        match &self.packed {
            Some(packed) => packed.file_bytes(),
            None => self.end() - self.base,
        }
    }

    /// Adds a page that waits to be written.
    fn add_pending(&mut self, header: PageHeader, bytes: Vec<u8>) {
        let offset = self.sidecar_bytes;
        self.sidecar_bytes += bytes.len() as u64;
        let length = bytes.len();
        self.pages.push(Page { header, offset, bytes: length, state: PageState::Pending(bytes) });
    }

    /// Adds a page that was read from the file.
    pub fn add_loaded(&mut self, header: PageHeader, bytes: usize) {
        self.pages.push(Page::on_disk(header, self.sidecar_bytes, bytes));
        self.sidecar_bytes += bytes as u64;
        self.settled = self.pages.len();
    }

    /// Adds a page whose file cannot be written. Its place stays empty: a page behind it that took it would
    /// hide from the next start that one is missing.
    pub fn add_kept(&mut self, header: PageHeader, bytes: Vec<u8>) {
        let offset = self.sidecar_bytes;
        let length = bytes.len();
        self.sidecar_bytes += length as u64;
        self.pages.push(Page { header, offset, bytes: length, state: PageState::Kept(bytes) });
        self.settled = self.pages.len();
    }
}

pub struct Segments {
    list: Vec<Segment>,
    /// Collects the entries of the last segment.
    builder: PageBuilder,
    /// Mixed into the checksum of every page: log and hash secret.
    pub sidecar_seed: u64,
    /// Where the records of the last segment end when no seal says so; 0 otherwise.
    pub previous_end: u64,
}

impl Segments {
    pub fn new(sidecar_seed: u64) -> Self {
        Self { list: Vec::new(), builder: PageBuilder::new(), sidecar_seed, previous_end: 0 }
    }

    pub fn push(&mut self, mut segment: Segment) {
        debug_assert!(self.list.last().is_none_or(|last| last.base < segment.base));
        segment.number = self.list.last().map_or(0, |last| last.number + u64::from(last.count));
        self.list.push(segment);
    }

    pub fn last(&self) -> Option<&Segment> {
        self.list.last()
    }

    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// All but so many at the end.
    pub fn before_last(&self, count: usize) -> &[Segment] {
        &self.list[..self.list.len().saturating_sub(count)]
    }

    pub fn last_mut(&mut self) -> Option<&mut Segment> {
        self.list.last_mut()
    }

    /// The segment that holds a position.
    pub fn of(&self, position: u64) -> Option<&Segment> {
        let after = self.list.partition_point(|segment| segment.base <= position);
        let segment = &self.list[after.checked_sub(1)?];
        (position < segment.base + segment.size).then_some(segment)
    }

    /// Index of the segment with a number. Of those that one segment stands for, only the first has it.
    pub fn index_of(&self, number: u64) -> Option<usize> {
        self.list.binary_search_by_key(&number, |segment| segment.number).ok()
    }

    /// Index of the segment that holds a position, or of the next one.
    pub fn index_at(&self, position: u64) -> usize {
        self.list.partition_point(|segment| segment.base + segment.capacity <= position)
    }

    pub fn page_seed(&self, segment: &Segment) -> u64 {
        let packed = segment.packed.as_ref().map(|packed| &packed.header);
        page_seed(self.sidecar_seed, segment.base, packed)
    }

    /// The entries of the last segment that are in no page yet.
    pub fn building(&self) -> &PageBuilder {
        &self.builder
    }

    /// Takes what records did that end together: a page never ends between them.
    pub fn note(&mut self, entries: &[LogEntry], end: u64) {
        entries.iter().for_each(|entry| self.builder.push(entry, end));
        if self.builder.is_full() {
            self.close_page(PageEnd::Open, end);
        }
    }

    /// Closes the sidecar of the last segment, whose records end at `end`.
    pub fn seal(&mut self, end: u64) {
        self.close_page(PageEnd::Sealed, end);
    }

    /// The same where no seal says so.
    pub fn end_as_it_is(&mut self, end: u64) {
        self.close_page(PageEnd::Recovered, end);
    }

    /// Ends the page, in a segment that goes on.
    pub fn end_page(&mut self, end: u64) {
        if !self.builder.is_empty() {
            self.close_page(PageEnd::Open, end);
        }
    }

    fn close_page(&mut self, ending: PageEnd, end: u64) {
        let Some(last) = self.list.last() else { return };
        let seed = self.page_seed(last);
        let (header, bytes) = self.builder.finish(seed, ending, end);
        if let Some(segment) = self.list.last_mut() {
            segment.add_pending(header, bytes);
        }
    }

    /// Sends the pages of durable records to their files.
    pub fn write_pages(
        &mut self,
        durable: u64,
        next_token: &mut u64,
        operations: &mut Vec<(Token, Operation)>,
    ) {
        // Only the last two segments can have pages to write: the one before is closed on a switch.
        let from = self.list.len().saturating_sub(2);
        for segment in &mut self.list[from..] {
            for page in &mut segment.pages[segment.settled..] {
                if page.header.end > durable {
                    break;
                }
                let PageState::Pending(bytes) = &mut page.state else { continue };
                *next_token += 1;
                let token = Token(*next_token << 1);
                let bytes = std::mem::take(bytes);
                operations.push((
                    token,
                    Operation::WriteSidecar {
                        name: format::sidecar_name(segment.base),
                        offset: page.offset,
                        bytes: bytes.clone(),
                    },
                ));
                page.state = PageState::Writing(bytes, token);
            }
        }
    }

    /// Takes the end of a page's write. Returns a line for the operator when it failed.
    pub fn page_written(
        &mut self,
        token: Token,
        result: io::Result<Done>,
        stats: &mut LogStats,
    ) -> Option<String> {
        let from = self.list.len().saturating_sub(3);
        for segment in &mut self.list[from..] {
            let mut notice = None;
            for page in &mut segment.pages[segment.settled..] {
                let PageState::Writing(bytes, writing) = &mut page.state else { continue };
                if *writing != token {
                    continue;
                }
                let bytes = std::mem::take(bytes);
                match &result {
                    Ok(_) => {
                        stats.sidecar_bytes += bytes.len() as u64;
                        page.state = PageState::OnDisk;
                    }
                    Err(error) => {
                        notice = Some(format!(
                            "cannot write sidecar {}: {error}; it stays in memory and is made anew at the next \
                             start",
                            format::sidecar_name(segment.base)
                        ));
                        page.state = PageState::Kept(bytes);
                    }
                }
                break;
            }
            while segment
                .pages
                .get(segment.settled)
                .is_some_and(|page| matches!(page.state, PageState::OnDisk | PageState::Kept(_)))
            {
                segment.settled += 1;
            }
            if notice.is_some() {
                return notice;
            }
        }
        None
    }

    /// Puts a packed segment in the place of those that it stands for, and returns these.
    pub fn replace(&mut self, range: std::ops::Range<usize>, mut segment: Segment) -> Vec<Segment> {
        segment.number = self.list[range.start].number;
        debug_assert!(range.end < self.list.len(), "the last segment is being written");
        self.list.splice(range, [segment]).collect()
    }

    /// Memory for what packed segments need to be read.
    pub fn packed_memory_bytes(&self) -> usize {
        self.list.iter().filter_map(|one| one.packed.as_ref()).map(|one| one.memory_bytes()).sum()
    }

    /// The pages of a packed segment are in its sidecar.
    pub fn pages_stored(&mut self, base: u64) {
        let Some(at) = self.list.iter().position(|segment| segment.base == base) else { return };
        for page in &mut self.list[at].pages {
            if matches!(page.state, PageState::Kept(_)) {
                page.state = PageState::OnDisk;
            }
        }
    }

    /// Whether all pages of a closed segment are in its sidecar, or will never be.
    pub fn is_settled(&self, base: u64) -> bool {
        self.of(base).is_none_or(|segment| segment.settled == segment.pages.len())
    }

    /// No page is on its way.
    pub fn pages_settled(&self) -> bool {
        let from = self.list.len().saturating_sub(3);
        self.list[from..]
            .iter()
            .all(|segment| !segment.pages.iter().any(|p| matches!(p.state, PageState::Writing(..))))
    }
}
