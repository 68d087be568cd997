//! Starting: the index is made from the sidecars, and from the log where these end.
//!
//! After a clean stop every segment has a whole sidecar and no record is read. After a kill or a power
//! cut the last segment is scanned from the end of its sidecar; where its bytes end, the write buffer
//! of the killed process goes on, and what is only there is written to the segment. The segment is then
//! closed as it is, and the next append begins a new one: what lies behind the end of a closed segment
//! is never taken for a record again. Damage is reported and stepped over; nothing whole is dropped.

use super::index::{Bulk, HashSecret, PagePool};
use super::log::buffer::WriteBuffer;
use super::log::format::{
    self, ALIGN, BATCH_HEAD_BYTES, BLOCK, FLAG_MEMBER, Head, Kind, LogId, RECORD_HEAD_BYTES,
    SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::log::segments::{Segment, Segments};
use super::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, PageBuilder, PageEnd, PageHeader};
use super::log::{Log, LogStart, Policy};
use super::namespace::{Access, Keys, Mode, Namespaces, Settings};
use super::scanner::Scanner;
use super::{Engine, apply_sequential, control_entry, count, entry_of, index_change};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files, Root};
use crate::planted::{self, Bug};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const IDENTITY_NAME: &str = "identity";
/// Stands in the data directory as long as an import into it is not finished: what is there is a part of
/// what should be, and is not served.
pub const UNFINISHED_NAME: &str = "import-unfinished";
/// Where the write buffer of the last start was; empty for none.
const BUFFER_PLACE_NAME: &str = "buffer-place";
/// Changes to tables that are collected before they are merged: 64 MiB of memory.
const CHANGES_MIN: usize = 4 << 20;

pub struct StartOptions {
    /// `--mode`: the only mode that namespaces may have.
    pub mode: Option<Mode>,
    pub policy: Policy,
    pub segment_bytes: u64,
    pub cache_bytes: u64,
    /// Where the write buffer lives; `None`: in this process alone.
    pub buffer: Option<PathBuf>,
    /// Fresh random bytes, for the identity of a new log.
    pub random: [u8; 32],
}

#[derive(Debug, Default)]
pub struct StartReport {
    pub segments: usize,
    pub keys: u64,
    pub namespaces: usize,
    /// Records read from the log itself, because no sidecar covered them.
    pub scanned: u64,
    /// Records that were only in the write buffer.
    pub replayed: u64,
    /// One line for each damaged stretch.
    pub damage: Vec<String>,
}

/// Segments that have a sidecar but no file: their records are out of reach.
pub fn missing(files: &dyn Files) -> Result<Vec<u64>, String> {
    let list = |root, what| {
        files.list(root).map_err(|error| format!("cannot list the {what} directory: {error}"))
    };
    let (data, index) = (list(Root::Data, "data")?, list(Root::Index, "index")?);
    let files: HashSet<u64> = data.iter().filter_map(|name| format::segment_base(name)).collect();
    let has_file = |base: &u64| files.contains(base);
    let bases = index.iter().filter_map(|name| format::sidecar_base(name));
    Ok(bases.filter(|base| !has_file(base)).collect())
}

/// Opens the log in the two directories, or makes a new one.
pub fn start(files: &dyn Files, options: StartOptions) -> Result<(Engine, StartReport), String> {
    let names = files
        .list(Root::Data)
        .map_err(|error| format!("cannot list the data directory: {error}"))?;
    if names.iter().any(|name| name == UNFINISHED_NAME) {
        return Err(format!(
            "an import into this data directory did not end ({UNFINISHED_NAME} is in it): remove the data \
             and the index directory, then run zdb import again"
        ));
    }
    let mut bases: Vec<u64> = names.iter().filter_map(|name| format::segment_base(name)).collect();
    bases.sort_unstable();
    let (id, secret_bytes) = identity(files, &names, &bases, &options)?;
    check_last_buffer(files, &names, id, &options)?;
    let mut seed_bytes = id.0.to_vec();
    seed_bytes.extend_from_slice(&secret_bytes);
    let buffer = match &options.buffer {
        Some(directory) => WriteBuffer::shared(directory, id)?,
        None => WriteBuffer::private()?,
    };
    let mut recovery = Recovery {
        files,
        seed: id.seed(),
        buffer: &buffer,
        segments: Segments::new(xxh3_64(&seed_bytes)),
        namespaces: Namespaces::new(options.mode.unwrap_or(Mode::User)),
        pool: PagePool::new(),
        secret: HashSecret::new(secret_bytes),
        report: StartReport::default(),
        last_slot: None,
        changes: Vec::new(),
        changes_count: 0,
        keys_merged: 0,
    };
    let mut previous_end = 0;
    let mut end_of_log = 0;
    let headers = recovery.read_headers(id, &bases)?;
    for (at, (header, file, size)) in headers.iter().enumerate() {
        let next = headers.get(at + 1).map(|(next, ..)| *next);
        let segment = Segment::new(header.base, header.capacity, *size, *file);
        let ended = recovery.load_segment(segment, next)?;
        end_of_log = header.base + header.capacity;
        previous_end = if ended.sealed { 0 } else { ended.end };
    }
    recovery.merge_changes();
    if let Some(mode) = options.mode
        && let Some(other) = recovery.namespaces.iter().find(|one| one.settings.mode != mode)
    {
        return Err(format!(
            "namespace {:?} has another mode than --mode: start without --mode, or with the other",
            String::from_utf8_lossy(&other.name)
        ));
    }
    let mut report = recovery.report;
    report.segments = recovery.segments.list().len();
    report.namespaces = recovery.namespaces.len();
    report.keys = recovery.namespaces.iter().map(|namespace| namespace.live_keys).sum();
    let (segments, namespaces, pool, secret) =
        (recovery.segments, recovery.namespaces, recovery.pool, recovery.secret);
    let start = LogStart { id, segments, next_base: end_of_log, previous_end };
    let log = Log::new(start, buffer, options.policy, options.segment_bytes);
    let mut engine = Engine::new(log, namespaces, pool, secret, options.cache_bytes);
    engine.free_bytes =
        (files.free_bytes(Root::Data).unwrap_or(0), files.free_bytes(Root::Index).unwrap_or(0));
    Ok((engine, report))
}

/// Refuses to start beside a write buffer that the last server left in another place: it may hold
/// acknowledged writes. Notes the place of this one's.
fn check_last_buffer(
    files: &dyn Files,
    names: &[String],
    id: LogId,
    options: &StartOptions,
) -> Result<(), String> {
    if names.iter().any(|name| name == BUFFER_PLACE_NAME)
        && let Ok(bytes) = files.read_small(Root::Data, BUFFER_PLACE_NAME)
    {
        let last = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        if options.buffer.as_ref() != Some(&last) && WriteBuffer::is_left(&last, id) {
            return Err(format!(
                "the last server was killed and left acknowledged writes in its write buffer under {}: \
                 start with --buffer {} and stop in order before choosing another place",
                last.display(),
                last.display()
            ));
        }
    }
    let place = options.buffer.as_deref().unwrap_or_else(|| Path::new(""));
    match files.write_small(Root::Data, BUFFER_PLACE_NAME, place.as_os_str().as_bytes()) {
        Err(error) if error.kind() != ErrorKind::ReadOnlyFilesystem => {
            Err(format!("cannot write to the data directory: {error}"))
        }
        _ => Ok(()),
    }
}

/// Reads the log's id and the secret of the key hashes from their file. A lost id is in every segment; a
/// lost secret is chosen anew, and the sidecars, which then no longer verify, are made anew too.
fn identity(
    files: &dyn Files,
    names: &[String],
    bases: &[u64],
    options: &StartOptions,
) -> Result<(LogId, [u8; 16]), String> {
    if names.iter().any(|name| name == IDENTITY_NAME) {
        let text = files
            .read_small(Root::Data, IDENTITY_NAME)
            .map_err(|error| format!("cannot read the log's identity file: {error}"))?;
        if let Some(identity) = parse_identity(&text) {
            return Ok(identity);
        }
    }
    let mut found = None;
    for base in bases {
        let name = format::segment_name(*base);
        let Ok(file) = files.open(Root::Data, &name) else { continue };
        let mut block = AlignedBuffer::new(BLOCK as usize);
        let read = files.read_at(file, 0, &mut block);
        files.close(file);
        if let (Ok(_), Ok(header)) = (read, SegmentHeader::decode(&block)) {
            found = Some(header.log);
            break;
        }
    }
    let id = match found {
        Some(id) => id,
        None if bases.is_empty() => {
            LogId(options.random[..16].try_into().expect("half of the random bytes"))
        }
        None => {
            return Err(
                "the identity file and every segment header are damaged: restore the file \
                        \"identity\" of the data directory from a backup"
                    .into(),
            );
        }
    };
    let secret = LogId(options.random[16..].try_into().expect("half of the random bytes"));
    let text = format!("zdb log {}\nsecret {}\n", id.to_hex(), secret.to_hex());
    files
        .write_small(Root::Data, IDENTITY_NAME, text.as_bytes())
        .map_err(|error| format!("cannot write to the data directory: {error}"))?;
    Ok((id, secret.0))
}

fn parse_identity(text: &[u8]) -> Option<(LogId, [u8; 16])> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let id = LogId::from_hex(lines.next()?.strip_prefix("zdb log ")?)?;
    let secret = LogId::from_hex(lines.next()?.strip_prefix("secret ")?)?;
    Some((id, secret.0))
}

/// Where the records of a segment end.
struct Ended {
    end: u64,
    /// By a seal record.
    sealed: bool,
}

struct Recovery<'a> {
    files: &'a dyn Files,
    seed: u64,
    buffer: &'a WriteBuffer,
    segments: Segments,
    namespaces: Namespaces,
    pool: PagePool,
    secret: HashSecret,
    report: StartReport,
    /// The namespace of the entry before: id and slot.
    last_slot: Option<(u32, usize)>,
    /// Changes to the tables of user mode that were not made yet, by slot.
    changes: Vec<Bulk>,
    changes_count: usize,
    keys_merged: usize,
}

/// The part of a sidecar that verifies.
struct LoadedSidecar {
    bytes: Vec<u8>,
    pages: Vec<(PageHeader, usize)>,
}

/// Whether a file has none of the sizes that it can be made with: it was cut behind its last record, which
/// happens when all of it is durable.
fn was_cut(size: u64, capacity: u64) -> bool {
    let mut made = capacity;
    while made > size && made > BLOCK {
        made = (made / 2).next_multiple_of(BLOCK);
    }
    made != size
}

impl Recovery<'_> {
    /// Opens the segments. One that was being made when the process died, at the end, is removed.
    fn read_headers(
        &mut self,
        id: LogId,
        bases: &[u64],
    ) -> Result<Vec<(SegmentHeader, FileId, u64)>, String> {
        let mut headers: Vec<(SegmentHeader, FileId, u64)> = Vec::new();
        for (at, &base) in bases.iter().enumerate() {
            let name = format::segment_name(base);
            let explain = |error: std::io::Error| format!("cannot read segment {name}: {error}");
            let file = self.files.open(Root::Data, &name).map_err(explain)?;
            let size = self.files.size(file).map_err(explain)?;
            let mut block = AlignedBuffer::new(BLOCK as usize);
            let read = self.files.read_at(file, 0, &mut block).map_err(explain)?;
            block.truncate(read);
            let header = match SegmentHeader::decode(&block) {
                Ok(header) if header.log != id => {
                    return Err(format!(
                        "segment {name} belongs to another log ({}): move it out of the data directory",
                        header.log.to_hex()
                    ));
                }
                Ok(header) if header.base != base => {
                    return Err(format!(
                        "segment {name} was renamed: its header says {}",
                        format::segment_name(header.base)
                    ));
                }
                Ok(header) => header,
                Err(_) if at + 1 == bases.len() && block.iter().all(|byte| *byte == 0) => {
                    self.files.close(file);
                    self.files.remove(Root::Data, &name).map_err(explain)?;
                    continue;
                }
                Err(what) if what.contains("version") => return Err(format!("{name}: {what}")),
                Err(what) => {
                    self.report.damage.push(format!("segment {name} at offset 0: {what}"));
                    let next = bases.get(at + 1).copied().unwrap_or(base + size);
                    SegmentHeader {
                        log: id,
                        base,
                        capacity: next - base,
                        previous_end: 0,
                        created: 0,
                    }
                }
            };
            headers.push((header, file, size));
        }
        self.drop_unused(&mut headers)?;
        Ok(headers)
    }

    /// Removes segments at the end that were made ahead and hold no record, neither on disk nor in the
    /// write buffer.
    fn drop_unused(
        &mut self,
        headers: &mut Vec<(SegmentHeader, FileId, u64)>,
    ) -> Result<(), String> {
        while let Some((header, file, size)) = headers.last() {
            let mut scanner =
                Scanner::new(self.files, self.buffer, self.seed, header.base, *file, *size);
            let start = header.base + SEGMENT_HEADER_BYTES;
            if scanner.whole_at(start)?.is_some() || scanner.next_whole(start)?.is_some() {
                return Ok(());
            }
            let base = header.base;
            self.files.close(*file);
            // What cannot be removed, on a read-only disk, is made anew when it is needed.
            let _ = self.files.remove(Root::Data, &format::segment_name(base));
            self.forget_sidecar(base)?;
            headers.pop();
        }
        Ok(())
    }

    /// Removes the sidecar of a segment that was dropped, for good: the next segment has its base, and would
    /// be taken to end where the old sidecar ends.
    fn forget_sidecar(&self, base: u64) -> Result<(), String> {
        let name = format::sidecar_name(base);
        let removed = match self.files.remove(Root::Index, &name) {
            // An earlier start may have removed it, but not for good.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        match removed.and_then(|()| self.files.sync_directory(Root::Index)) {
            Err(error) if error.kind() != ErrorKind::ReadOnlyFilesystem => {
                Err(format!("cannot remove sidecar {name}, which is of no segment: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Applies a segment from its sidecar and, behind that, from its records.
    fn load_segment(
        &mut self,
        mut segment: Segment,
        next: Option<SegmentHeader>,
    ) -> Result<Ended, String> {
        let base = segment.base;
        let file = segment.file;
        let loaded = self.load_sidecar(base);
        let mut resume = base + SEGMENT_HEADER_BYTES;
        let mut ended = None;
        let mut offset = 0;
        for (header, bytes) in &loaded.pages {
            let body = &loaded.bytes[offset + PAGE_HEADER_BYTES..offset + bytes];
            for entry in sidecar::entries(header.first, body) {
                self.apply_entry(&entry, file, base)?;
            }
            segment.add_loaded(*header, *bytes);
            offset += bytes;
            resume = header.end;
            if header.ending != PageEnd::Open {
                ended = Some(Ended { end: header.end, sealed: header.ending == PageEnd::Sealed });
            }
        }
        drop(loaded);
        let (size, capacity) = (segment.size, segment.capacity);
        self.segments.push(segment);
        if let Some(ended) = ended {
            return Ok(ended);
        }
        let known_end = next.map(|next| next.previous_end).filter(|end| *end != 0);
        // A segment that a seal ends was durable as a whole; one that a recovery ended was the last.
        let is_sealed = next.is_some_and(|next| next.previous_end == 0);
        let ended = self.scan((base, file, size, capacity), resume, known_end, !is_sealed)?;
        if next.is_some() && !ended.sealed && known_end != Some(ended.end) {
            self.report.damage.push(format!(
                "segment {} at offset {}: its end is missing",
                format::segment_name(base),
                ended.end - base
            ));
        }
        Ok(ended)
    }

    fn load_sidecar(&self, base: u64) -> LoadedSidecar {
        let name = format::sidecar_name(base);
        let bytes = self.files.read_small(Root::Index, &name).unwrap_or_default();
        let seed = self.segments.page_seed(base);
        let mut pages = Vec::new();
        let mut offset = 0;
        while let Some(header) = sidecar::read_page(&bytes[offset..], seed) {
            let length = PAGE_HEADER_BYTES + header.body_bytes;
            pages.push((header, length));
            offset += length;
            if header.ending != PageEnd::Open {
                break;
            }
        }
        LoadedSidecar { bytes, pages }
    }

    fn apply_entry(&mut self, entry: &LogEntry, file: FileId, base: u64) -> Result<(), String> {
        match entry.kind {
            Kind::Set | Kind::Delete => {
                let slot = match self.last_slot {
                    Some((id, slot)) if id == entry.namespace => slot,
                    _ => self.slot_or_stand_in(entry.namespace),
                };
                self.last_slot = Some((entry.namespace, slot));
                self.apply(slot, entry);
                Ok(())
            }
            Kind::Namespace | Kind::NamespaceEnd => {
                let bytes =
                    format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
                let start = entry.position / BLOCK * BLOCK;
                let length = (entry.position - start + bytes).next_multiple_of(BLOCK);
                let mut block = AlignedBuffer::new(length as usize);
                self.files.read_at(file, start - base, &mut block).map_err(|error| {
                    format!("cannot read segment {}: {error}", format::segment_name(base))
                })?;
                let record = &block[(entry.position - start) as usize..];
                match format::Verified::check(record, self.seed, entry.position) {
                    Some(record) => {
                        self.apply_namespace(&record.head, record.key(), record.payload());
                    }
                    None => self.report.damage.push(format!(
                        "segment {} at offset {}: the settings of namespace {} are damaged",
                        format::segment_name(base),
                        entry.position - base,
                        entry.namespace
                    )),
                }
                Ok(())
            }
            Kind::Padding | Kind::Seal | Kind::Batch => Ok(()),
        }
    }

    /// The slot of a namespace. One whose own record is lost gets a stand-in, so that its keys are not:
    /// locked, so that nobody writes before somebody has looked, and named by its id, which does not
    /// depend on what else is left of it.
    fn slot_or_stand_in(&mut self, id: u32) -> usize {
        if let Some(slot) = self.namespaces.slot_of(id) {
            return slot;
        }
        let mut name = format!("recovered-{id}").into_bytes();
        while self.namespaces.find(&name).is_some() {
            name.push(b'+');
        }
        self.report.damage.push(format!(
            "the settings of namespace {:?} are lost: it is there, in user mode and locked",
            String::from_utf8_lossy(&name)
        ));
        let settings = Settings { access: Access::Locked, ..Settings::new(Mode::User) };
        let slot = self.namespaces.insert(id, &name, settings);
        if let Some(namespace) = self.namespaces.get_mut(slot) {
            namespace.recorded = true;
        }
        slot
    }

    fn apply_namespace(&mut self, head: &Head, name: &[u8], payload: &[u8]) {
        self.last_slot = None;
        let slot = self.namespaces.slot_of(head.namespace);
        if head.kind == Kind::NamespaceEnd {
            if let Some(slot) = slot {
                self.namespaces.remove(slot, &mut self.pool);
                if let Some(changes) = self.changes.get_mut(slot) {
                    *changes = Bulk::new();
                }
            }
            return;
        }
        let Some(settings) = Settings::decode(payload) else {
            let name = String::from_utf8_lossy(name);
            self.report.damage.push(format!("the settings of namespace {name:?} cannot be read"));
            return;
        };
        let slot = match (slot, self.namespaces.find(name)) {
            (Some(slot), _) => {
                // A later record of a stand-in brings the name back.
                self.namespaces.rename(slot, name);
                self.namespaces.change(slot, settings);
                slot
            }
            // A new id under a name that is taken: the namespace was flushed.
            (None, Some(slot)) => {
                self.namespaces.replace(slot, head.namespace, settings, &mut self.pool);
                if let Some(changes) = self.changes.get_mut(slot) {
                    *changes = Bulk::new();
                }
                slot
            }
            (None, None) => self.namespaces.insert(head.namespace, name, settings),
        };
        if let Some(namespace) = self.namespaces.get_mut(slot) {
            namespace.recorded = true;
        }
    }

    /// Applies the records of a segment from `from` on, makes the missing part of its sidecar, and
    /// brings over what is only in the write buffer.
    ///
    /// A batch that is not whole does not count in a segment that is or was the last at a crash: it may
    /// never have been durable. In another one it was, so its damage is that of the disk, and what is
    /// whole of it stays.
    fn scan(
        &mut self,
        (base, file, size, capacity): (u64, FileId, u64, u64),
        from: u64,
        known_end: Option<u64>,
        may_be_torn: bool,
    ) -> Result<Ended, String> {
        let mut scanner = Scanner::new(self.files, self.buffer, self.seed, base, file, size);
        // A seal in a file that was not cut behind it may have come through a crash that took what was on
        // its way with it.
        let was_durable = was_cut(size, capacity) && scanner.ends_with_seal()?;
        let may_be_torn = may_be_torn && !was_durable && !planted::is(Bug::HalfBatch);
        let mut builder = PageBuilder::new();
        let mut pages = Vec::new();
        let seed = self.segments.page_seed(base);
        let mut position = from;
        let mut sealed = false;
        let mut has_gaps = false;
        // End of the whole batch that the position is in.
        let mut batch_end = from;
        while known_end.is_none_or(|end| position < end) {
            let Some((head, from_buffer)) = scanner.whole_at(position)? else {
                let lost = scanner.damaged_at(position)?;
                let behind = lost.as_ref().map_or(ALIGN, |(head, _)| match head.kind {
                    Kind::Batch if !may_be_torn => BATCH_HEAD_BYTES as u64,
                    _ => head.bytes(),
                });
                let Some(next) = scanner.next_whole(position + behind)? else { break };
                has_gaps = true;
                // A whole head tells where the next record is, damaged or not.
                let next = if lost.is_some() { position + behind } else { next };
                self.report.damage.push(format!(
                    "segment {} at offset {}: {} bytes are damaged",
                    format::segment_name(base),
                    position - base,
                    next - position
                ));
                let is_half_written = match &lost {
                    Some((head, _)) if may_be_torn => scanner.is_half_written(position, head)?,
                    _ => false,
                };
                // A write that a power cut took in part was never durable: what was there before it counts.
                if let Some((head, key)) = lost.filter(|_| !is_half_written) {
                    // The head is whole: the key's newest version is known to be lost, and is not
                    // replaced by an older one.
                    match head.kind {
                        Kind::Set | Kind::Delete => {
                            let end = position + head.bytes();
                            self.take(&mut builder, (position, end), &head, &key, &[]);
                        }
                        Kind::Namespace => {
                            self.slot_or_stand_in(head.namespace);
                        }
                        Kind::Padding | Kind::Seal | Kind::NamespaceEnd | Kind::Batch => {}
                    }
                }
                position = next;
                continue;
            };
            if head.kind == Kind::Batch {
                batch_end = position + head.bytes();
                position += BATCH_HEAD_BYTES as u64;
                continue;
            }
            if may_be_torn && head.flags & FLAG_MEMBER != 0 && position >= batch_end {
                self.report.damage.push(format!(
                    "segment {} at offset {}: a record of a batch that is not whole was dropped",
                    format::segment_name(base),
                    position - base
                ));
                has_gaps = true;
                position += head.bytes();
                continue;
            }
            self.report.scanned += 1;
            self.report.replayed += u64::from(from_buffer);
            let record = scanner.record(position, &head, from_buffer);
            let end = position + head.bytes();
            match head.kind {
                Kind::Padding => {}
                Kind::Seal => sealed = true,
                _ => {
                    let key = &record[RECORD_HEAD_BYTES..head.payload_offset()];
                    let payload = &record[head.payload_offset()..][..head.payload_length as usize];
                    self.take(&mut builder, (position, end.max(batch_end)), &head, key, payload);
                }
            }
            if builder.is_full() && end >= batch_end {
                pages.push(builder.finish(seed, PageEnd::Open, end));
            }
            position = end;
            if sealed {
                break;
            }
        }
        scanner.bring_over()?;
        if !sealed && position < base + size {
            if scanner.is_torn(position)? {
                self.report.damage.push(format!(
                    "segment {} at offset {}: a torn write at the end of the log was dropped",
                    format::segment_name(base),
                    position - base
                ));
            }
            // On a read-only disk the old tail stays; the next header tells where it ends.
            let _ = self.files.truncate(file, (position - base).next_multiple_of(BLOCK));
        }
        // A sidecar is never ahead of its log: the pages wait until every record is surely on the disk.
        self.files.sync(file).map_err(|error| {
            format!("cannot flush segment {}: {error}", format::segment_name(base))
        })?;
        // A seal says that all before it was durable. Where a crash left gaps before it, later starts go by
        // the end that was found here, or they would take what was dropped for damage.
        let sealed = sealed && !(may_be_torn && has_gaps);
        let how = if sealed { PageEnd::Sealed } else { PageEnd::Recovered };
        pages.push(builder.finish(seed, how, position));
        for (header, bytes) in pages {
            self.write_page(base, header, bytes);
        }
        Ok(Ended { end: position, sealed })
    }

    fn take(
        &mut self,
        builder: &mut PageBuilder,
        (position, end): (u64, u64),
        head: &Head,
        key: &[u8],
        payload: &[u8],
    ) {
        if matches!(head.kind, Kind::Namespace | Kind::NamespaceEnd) {
            builder.push(&control_entry(position, head), end);
            return self.apply_namespace(head, key, payload);
        }
        let slot = self.slot_or_stand_in(head.namespace);
        let namespace = self.namespaces.get(slot).expect("slots by id are in use");
        let entry = entry_of(position, head, key, namespace, || self.secret.hash(key));
        builder.push(&entry, end);
        self.apply(slot, &entry);
    }

    /// Does to counters and index what a record says; the changes of a table are collected.
    fn apply(&mut self, slot: usize, entry: &LogEntry) {
        let Some(namespace) = self.namespaces.get_mut(slot) else { return };
        count(namespace, entry, 0);
        if let Keys::Sequential(table) = &mut namespace.keys {
            return apply_sequential(table, entry);
        }
        if self.changes.len() <= slot {
            self.changes.resize_with(slot + 1, Bulk::new);
        }
        let changes = &mut self.changes[slot];
        match index_change(entry) {
            (hash, Some(found)) => changes.insert(hash, found),
            (hash, None) => changes.remove(hash),
        }
        self.changes_count += 1;
        // A quarter of what is there already: each key is then laid out a few times at most.
        if self.changes_count >= CHANGES_MIN.max(self.keys_merged / 4) {
            self.merge_changes();
        }
    }

    fn merge_changes(&mut self) {
        let mut merged = 0;
        for (slot, changes) in self.changes.iter_mut().enumerate() {
            let namespace = self.namespaces.get_mut(slot);
            if let Some(Keys::User(table)) = namespace.map(|namespace| &mut namespace.keys) {
                table.merge(&mut self.pool, changes);
                merged += table.len();
            }
        }
        self.changes_count = 0;
        self.keys_merged = merged;
    }

    fn write_page(&mut self, base: u64, header: PageHeader, bytes: Vec<u8>) {
        let segment = self.segments.last_mut().expect("the segment was pushed");
        let offset = segment.sidecar_bytes;
        let name = format::sidecar_name(base);
        match self.files.write_part(Root::Index, &name, offset, &bytes) {
            Ok(()) => segment.add_loaded(header, bytes.len()),
            Err(_) => segment.add_kept(header, bytes),
        }
    }
}
