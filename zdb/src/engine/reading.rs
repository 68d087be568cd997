//! Reading the log: where a position is in which file, what comes back, and whether it is what was asked for.

use super::index::Place;
use super::log::format::{self, BLOCK, Head, RECORD_HEAD_BYTES};
use super::log::packed::{self, Found};
use super::log::segments::Segment;
use super::{Answer, Engine, Fetched, Pending, ReadFailure, Waiter};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Done, FileId, Operation, Root, Token};
use crate::limits::KEY_BYTES_MAX;
use bytes::Bytes;
use std::io;

/// Bytes in which the head and the key of every record fit.
const HEAD_AND_KEY_BYTES_MAX: u64 = (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;

/// Where bytes of the log are, or have to be looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    file: FileId,
    /// In the file; a multiple of the block size.
    offset: u64,
    /// Bytes from there to the record, or to one before it from where it is looked for.
    within: u64,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Every position has its place. With the position at the start of the bytes.
    Plain { start: u64 },
    /// Records stand one behind the other. With how many bytes of them the file has from `within` on.
    Packed { remaining: u64 },
}

/// Bytes of the log, with all records that begin between two positions.
#[derive(Debug)]
pub struct Stretch {
    bytes: AlignedBuffer,
    spot: Spot,
}

impl Stretch {
    /// Head and key of the record at a position, where they are whole and in these bytes.
    pub fn head(&self, seed: u64, position: u64) -> Option<(Head, &[u8])> {
        let bytes = match self.spot.shape {
            Shape::Plain { start } => self.bytes.get(position.checked_sub(start)? as usize..)?,
            Shape::Packed { remaining } => {
                let end = self.bytes.len().min((self.spot.within + remaining) as usize);
                let mut rest = self.bytes.get(self.spot.within as usize..end)?;
                loop {
                    match packed::head_at(rest, seed) {
                        Ok((here, _)) if here >= position => break rest,
                        Ok((_, head)) => rest = rest.get(head.bytes() as usize..)?,
                        Err(_) => rest = rest.get(format::ALIGN as usize..)?,
                    }
                }
            }
        };
        let head = format::decode_head(bytes, seed, position)?;
        Some((head, &bytes[RECORD_HEAD_BYTES..head.payload_offset()]))
    }
}

/// Where a record is, and how many bytes from there it takes to read one of `bytes` bytes. `None`: the
/// segment has no record at or before it.
fn spot_of(segment: &Segment, position: u64, bytes: u64) -> Option<(Spot, u64)> {
    let file = segment.file;
    let (offset, shape, bytes) = match &segment.packed {
        None => {
            let start = position / BLOCK * BLOCK;
            (position - segment.base, Shape::Plain { start }, bytes)
        }
        Some(packed) => {
            let (offset, is_exact) = packed.offset_before(position)?;
            let remaining = packed.records_end() - offset;
            // It begins in the same block.
            let before = if is_exact { 0 } else { BLOCK - offset % BLOCK };
            (offset, Shape::Packed { remaining }, (before + bytes).min(remaining))
        }
    };
    let within = offset % BLOCK;
    let length = (within + bytes).next_multiple_of(BLOCK);
    Some((Spot { file, offset: offset - within, within, shape }, length))
}

impl Engine {
    /// Asks for the record at a place, of about `bytes` bytes. With `keep` it enters the cache. A failure
    /// is counted against the namespace; without one it is silent, for places that a client named.
    pub fn fetch(
        &mut self,
        waiter: Waiter,
        namespace: Option<u32>,
        place: Place,
        bytes: u64,
        keep: bool,
    ) {
        let segment = self.log.segments.of(place.get());
        let found = segment.map(|one| spot_of(one, place.get(), bytes.max(HEAD_AND_KEY_BYTES_MAX)));
        match found {
            None => self.answer_record(waiter, place, Err(ReadFailure::Unreadable)),
            Some(None) => self.answer_record(waiter, place, Err(ReadFailure::Gone)),
            Some(Some((spot, length))) => {
                self.read_record(waiter, (place, namespace), spot, length, keep);
            }
        }
    }

    fn answer_record(&mut self, waiter: Waiter, place: Place, record: Result<Bytes, ReadFailure>) {
        self.answer(waiter, Answer::Record(Fetched { place, record }));
    }

    fn read_record(
        &mut self,
        waiter: Waiter,
        (place, namespace): (Place, Option<u32>),
        spot: Spot,
        length: u64,
        keep: bool,
    ) {
        let token = self.ask(Operation::Read { file: spot.file, offset: spot.offset, length });
        self.reads_under_way += 1;
        let pending = Pending::Record { waiter, place, namespace, spot, length, keep };
        self.pending.insert(token, pending);
    }

    /// Asks for the bytes that hold the heads and keys of all records from `first` to `last`, which are in one
    /// segment.
    pub fn fetch_range(&mut self, waiter: Waiter, first: u64, last: u64) {
        let found = self.log.segments.of(first).and_then(|segment| {
            let bytes = match &segment.packed {
                None => last + HEAD_AND_KEY_BYTES_MAX - first,
                Some(packed) => {
                    let (offset, _) = packed.offset_before(first)?;
                    packed.offset_behind(last + 1).saturating_sub(offset) + HEAD_AND_KEY_BYTES_MAX
                }
            };
            spot_of(segment, first, bytes)
        });
        let Some((spot, length)) = found else {
            let error = io::Error::other("no such segment");
            return self.answer(waiter, Answer::Range(Err(error)));
        };
        let token = self.ask(Operation::Read { file: spot.file, offset: spot.offset, length });
        self.pending.insert(token, Pending::Range { waiter, spot });
    }

    /// Asks for a page of a sidecar that is not in memory.
    pub fn fetch_page(&mut self, waiter: Waiter, base: u64, offset: u64, length: usize) {
        let name = format::sidecar_name(base);
        let token = self.ask(Operation::ReadSidecar { name, offset, length });
        self.pending.insert(token, Pending::Page { waiter });
    }

    /// Replaces a small file beside the log.
    pub fn write_file(&mut self, waiter: Waiter, name: &str, bytes: Vec<u8>) {
        let token =
            self.ask(Operation::WriteSmall { root: Root::Data, name: name.to_owned(), bytes });
        self.pending.insert(token, Pending::Written { waiter });
    }

    /// Asks for the free space again, at most once a second.
    pub fn refresh_free_space(&mut self) {
        if self.now.monotonic_ms >= self.free_asked_ms + 1000 || self.free_asked_ms == 0 {
            self.free_asked_ms = self.now.monotonic_ms.max(1);
            let token = self.ask(Operation::FreeSpace);
            self.pending.insert(token, Pending::FreeSpace);
        }
    }

    pub(super) fn ask(&mut self, operation: Operation) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token << 1 | 1);
        self.operations.push((token, operation));
        token
    }

    pub(super) fn record_read(&mut self, pending: Pending, result: io::Result<Done>) {
        let Pending::Record { waiter, place, namespace, spot, length, keep } = pending else {
            unreachable!("only called for records")
        };
        self.reads_under_way -= 1;
        let record = match result {
            Ok(Done::Bytes(buffer)) => {
                self.stats.reads += 1;
                self.stats.read_bytes += buffer.len() as u64;
                match self.record_in(Bytes::from_owner(buffer), place, spot) {
                    Ok(bytes) if keep => Ok(self.cache.insert(place.get(), bytes, length)),
                    Ok(bytes) => Ok(bytes),
                    Err(Missing::More(bytes)) => {
                        let needed = bytes.next_multiple_of(BLOCK);
                        if needed > length {
                            self.read_record(waiter, (place, namespace), spot, needed, keep);
                            return self.read_ended(spot);
                        }
                        Err(ReadFailure::Damaged(None))
                    }
                    Err(Missing::For(failure)) => Err(failure),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadFailure::Away),
            _ => Err(ReadFailure::Unreadable),
        };
        self.read_ended(spot);
        let what = match &record {
            Ok(_) | Err(ReadFailure::Gone | ReadFailure::Away) => None,
            Err(ReadFailure::Unreadable) => Some("cannot be read"),
            Err(ReadFailure::Damaged(_)) => Some("is damaged"),
        };
        if let (Some(what), Some(namespace)) = (what, namespace) {
            self.report_bad_read(namespace, place.get(), what);
        }
        self.answer_record(waiter, place, record);
    }

    /// Finds the record of a place in what was read, and verifies it.
    fn record_in(&self, bytes: Bytes, place: Place, spot: Spot) -> Result<Bytes, Missing> {
        let seed = self.log.seed;
        let damaged = |what| Missing::For(ReadFailure::Damaged(what));
        let mut within = spot.within as usize;
        if within > bytes.len() {
            return Err(damaged(None));
        }
        if let Shape::Packed { remaining } = spot.shape {
            match packed::find(&bytes[within..], remaining, seed, place.get()) {
                Found::At(at) => within += at,
                Found::Short(needed) => return Err(Missing::More((within + needed) as u64)),
                Found::Gone => return Err(Missing::For(ReadFailure::Gone)),
                Found::Damaged => return Err(damaged(None)),
            }
        }
        let record = bytes.slice(within..);
        let head = format::decode_head(&record, seed, place.get()).ok_or_else(|| damaged(None))?;
        if head.bytes() > record.len() as u64 {
            return Err(Missing::More(within as u64 + head.bytes()));
        }
        let record = record.slice(..head.bytes() as usize);
        match format::payload_is_whole(&record, seed, &head) {
            true => Ok(record),
            false => Err(damaged(Some(record))),
        }
    }

    pub(super) fn range_read(&mut self, waiter: Waiter, spot: Spot, result: io::Result<Done>) {
        let stretch = result.and_then(|done| match done {
            Done::Bytes(bytes) => Ok(Stretch { bytes, spot }),
            _ => Err(io::Error::other("a read gives bytes")),
        });
        if let Ok(Stretch { bytes, .. }) = &stretch {
            self.stats.reads += 1;
            self.stats.read_bytes += bytes.len() as u64;
        }
        self.read_ended(spot);
        self.answer(waiter, Answer::Range(stretch));
    }

    /// Closes a file that no segment has any more, once nobody reads it.
    pub(super) fn retire(&mut self, file: FileId) {
        self.scrub.forget(file);
        self.retired.push(file);
        self.close_if_unread(file);
    }

    /// A read has ended; another one of the same file may have begun in its stead.
    fn read_ended(&mut self, spot: Spot) {
        self.file_read(spot.file);
    }

    pub(super) fn file_read(&mut self, file: FileId) {
        if !self.retired.is_empty() {
            self.close_if_unread(file);
        }
    }

    fn close_if_unread(&mut self, file: FileId) {
        let is_read = self.pending.values().any(|one| one.reads(file)) || self.scrub.reads(file);
        if let Some(at) = self.retired.iter().position(|one| *one == file).filter(|_| !is_read) {
            self.retired.swap_remove(at);
            self.operations.push((Token(0), Operation::Close { file }));
            self.log.try_again();
        }
    }

    /// Gives an answer to whoever waits for it.
    pub(super) fn answer(&mut self, waiter: Waiter, answer: Answer) {
        match waiter {
            Waiter::Cleaner(question) => self.cleaner.answers.push((question, answer)),
            _ => self.answers.push((waiter, answer)),
        }
    }

    /// Forgets the records of a namespace that are kept in memory beside the log, with those of all
    /// others: the cache does not know whose they are.
    pub fn reload_namespace(&mut self, slot: usize) {
        self.cache.clear();
        if let Some(namespace) = self.namespaces.get(slot) {
            self.events.push(super::Event::NamespaceReloaded(namespace.name.clone()));
        }
    }

    /// Counts a page that is lost and tells the operator what to do about it.
    pub fn report_lost_page(&mut self, base: u64) {
        self.stats.index_read_errors += 1;
        self.log.notices.push(format!(
            "sidecar {} cannot be read: delete it and restart zdb, which makes it anew",
            format::sidecar_name(base)
        ));
    }

    /// Counts a bad read and tells the operator where it was.
    pub fn report_bad_read(&mut self, namespace: u32, position: u64, what: &str) {
        self.stats.read_errors += 1;
        let now_s = self.now.unix_s();
        let base = self.log.segments.of(position).map_or(0, |segment| segment.base);
        self.log.notices.push(format!(
            "the record in segment {} at offset {} {what}",
            format::segment_name(base),
            position - base
        ));
        if let Some(slot) = self.namespaces.slot_of(namespace)
            && let Some(namespace) = self.namespaces.get_mut(slot)
        {
            namespace.read_errors += 1;
            namespace.read_error_last = now_s;
        }
    }
}

/// Why there is no record in bytes.
enum Missing {
    /// It takes this many.
    More(u64),
    For(ReadFailure),
}

impl Pending {
    fn reads(&self, of: FileId) -> bool {
        match self {
            Self::Record { spot, .. } | Self::Range { spot, .. } => spot.file == of,
            Self::Work { read, .. } => *read == Some(of),
            Self::Page { .. }
            | Self::Written { .. }
            | Self::Sidecar { .. }
            | Self::Removal
            | Self::FreeSpace => false,
        }
    }
}
