//! Starting: the index is made from the sidecars, and from the log where these end.
//!
//! After a clean stop every segment has a whole sidecar and no record is read. After a kill or a power
//! cut the last segment is scanned from the end of its sidecar; where its bytes end, the write buffer
//! of the killed process goes on, and what is only there is written to the segment. The segment is then
//! closed as it is, and the next append begins a new one: what lies behind the end of a closed segment
//! is never taken for a record again. Damage is reported and stepped over; nothing whole is dropped.

mod absent;
pub mod errand;
mod open_end;
mod packed;

pub use absent::{missing, without_file};

use super::away::Away;
use super::chain::{self, Chain, Link};
use super::forgotten::Forgotten;
use super::identity::{self, Identity};
use super::index::{Bulk, HashSecret, KeyTable, PagePool};
use super::log::buffer::WriteBuffer;
use super::log::format::{self, BLOCK, Head, Kind, LogId, SEGMENT_HEADER_BYTES, Verified};
use super::log::segments::{self, Segment, Segments};
use super::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, PageBuilder, PageEnd, PageHeader};
use super::log::{Log, LogStart, Policy};
use super::namespace::{Applied, Keys, Mode, Namespaces};
use super::node::{Errand, Node};
use super::scanner::{Scanner, Unreadable};
use super::scrub::{self, Scrub};
use super::terms::Terms;
use super::walk::{self, Ending, Item, Walk};
use super::{Engine, control_entry, count, entry_of, index_change};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files, Root};
use crate::limits::scaled;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Stand in the data directory as long as the command that fills it is not finished: what is there is a
/// part of what should be, and is not served.
pub const IMPORT_UNFINISHED_NAME: &str = "import-unfinished";
pub const REPAIR_UNFINISHED_NAME: &str = "repair-unfinished";
pub const RESTORE_UNFINISHED_NAME: &str = "restore-unfinished";
/// In a set of a backup it says how far that is.
pub const BACKUP_NAME: &str = "backup";
/// Where the write buffer of the last start was; empty for none.
const BUFFER_PLACE_NAME: &str = "buffer-place";
/// What follows of blocks that cannot be read.
const LOST_TO_THE_DISK: &str = "the records in them are lost, all others are served. Move the data to another \
     disk: zdb check lists what is lost, zdb repair --to-data saves the rest";
/// Changes to tables that are collected before they are sorted and merged: 64 MiB of memory.
const CHANGES_MIN: usize = scaled(4 << 20, 32) as usize;

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
    /// What was set aside, for the operator.
    pub aside: Option<String>,
}

/// What to do about a directory whose making was not finished.
pub fn unfinished(names: &[String]) -> Option<String> {
    let has = |mark: &str| names.iter().any(|name| name == mark);
    let (what, mark, command) = if has(IMPORT_UNFINISHED_NAME) {
        ("an import", IMPORT_UNFINISHED_NAME, "zdb import")
    } else if has(REPAIR_UNFINISHED_NAME) {
        ("a repair", REPAIR_UNFINISHED_NAME, "zdb repair")
    } else if has(RESTORE_UNFINISHED_NAME) {
        ("a restore", RESTORE_UNFINISHED_NAME, "zdb restore")
    } else {
        return None;
    };
    Some(format!(
        "{what} into this data directory did not end ({mark} is in it): remove the data and the index \
         directory, then run {command} again"
    ))
}

/// The write buffer that the last server left, if it was killed: the directory that it lies in.
pub fn left_buffer(
    files: &dyn Files,
    names: &[String],
    id: LogId,
    copy: Option<u32>,
) -> Option<PathBuf> {
    if !names.iter().any(|name| name == BUFFER_PLACE_NAME) {
        return None;
    }
    let bytes = files.read_small(Root::Data, BUFFER_PLACE_NAME).ok()?;
    let last = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    WriteBuffer::is_left(&last, id, copy).then_some(last)
}

/// Opens the log in the two directories, or makes a new one.
pub fn start(files: &dyn Files, options: StartOptions) -> Result<(Engine, StartReport), String> {
    let names = files
        .list(Root::Data)
        .map_err(|error| format!("cannot list the data directory: {error}"))?;
    if let Some(line) = unfinished(&names) {
        return Err(line);
    }
    if names.iter().any(|name| name == BACKUP_NAME) {
        return Err("--data is a set of a backup: zdb restore makes a data directory of it".into());
    }
    let mut node = errand::read_node(files, &names)?;
    let mut aside = None;
    if node.errand != Errand::None {
        (node, aside) = errand::run(files, node, &options)?;
    }
    let (engine, mut report) = open_log(files, &options, node)?;
    report.aside = aside;
    Ok((engine, report))
}

fn open_log(
    files: &dyn Files,
    options: &StartOptions,
    node: Node,
) -> Result<(Engine, StartReport), String> {
    let names = files
        .list(Root::Data)
        .map_err(|error| format!("cannot list the data directory: {error}"))?;
    let mut bases = format::segment_bases(&names);
    let (id, secret_bytes) = identify(files, &names, &bases, &options.random)?;
    check_last_buffer(files, &names, (id, node.buffer_suffix()), options)?;
    let buffer = match &options.buffer {
        Some(directory) => WriteBuffer::shared(directory, id, node.buffer_suffix())?,
        None => WriteBuffer::private()?,
    };
    let sidecar_seed = segments::sidecar_seed(id, &secret_bytes);
    let mut recovery = Recovery {
        files,
        seed: id.seed(),
        buffer: &buffer,
        segments: Segments::new(sidecar_seed),
        namespaces: Namespaces::new(options.mode.unwrap_or(Mode::User)),
        pool: PagePool::new(),
        secret: HashSecret::new(secret_bytes),
        report: StartReport::default(),
        last_slot: None,
        changes: Vec::new(),
        changes_count: 0,
        merging: None,
        keys_merged: 0,
        ids_lost_max: 0,
        ids_of_lost: HashMap::new(),
        forgotten: Forgotten::default(),
        terms: Terms::default(),
        goes_on: node.is_named(),
    };
    let (mut previous_end, mut end_of_log, mut open_end) = (0, 0, None);
    recovery.remove_unfinished(&names);
    let stand_ins = absent::stand_in(files, (id, sidecar_seed), &mut bases)?;
    let chain = recovery.open_segments(id, &bases, &stand_ins)?;
    let oldest_s = chain.links.iter().map(|link| link.header.created).min().unwrap_or(0);
    for (at, link) in chain.links.iter().enumerate() {
        let Link { header, file, size, is_away, .. } = link;
        let ids_lost_before = recovery.ids_lost_max;
        let ended = if header.packed.is_some() {
            recovery.load_packed(link)?
        } else {
            let segment = Segment::new(header.base, header.capacity, *size, *file);
            let is_last = at + 1 == chain.links.len();
            recovery.load_segment(segment, chain.ending(at), (is_last, *is_away))?
        };
        if let Some(segment) = recovery.segments.last_mut() {
            segment.ids_lost_max = recovery.ids_lost_max - ids_lost_before;
        }
        end_of_log = header.base + header.capacity;
        previous_end = if ended.sealed { 0 } else { ended.end };
        open_end = ended.is_open.then_some(ended.end);
    }
    recovery.hand_changes_over();
    recovery.take_tables_back();
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
    let terms = recovery.terms;
    let start = LogStart { id, segments, next_base: end_of_log, previous_end };
    let mut log = Log::new(start, buffer, options.policy, options.segment_bytes);
    if let Some(end) = open_end {
        open_end::go_on(files, &mut log, end)?;
    }
    let mut engine = Engine::new(log, namespaces, pool, secret, options.cache_bytes);
    engine.node = node;
    engine.terms = terms;
    engine.away = Away::new(absent::let_go(files, &chain, &stand_ins)?);
    let scrub = files.read_small(Root::Index, scrub::FILE_NAME).unwrap_or_default();
    engine.scrub = Scrub::restored(&scrub, oldest_s);
    engine.free_bytes =
        (files.free_bytes(Root::Data).unwrap_or(0), files.free_bytes(Root::Index).unwrap_or(0));
    Ok((engine, report))
}

/// Refuses to start beside a write buffer that the last server left in another place: it may hold
/// acknowledged writes. Notes the place of this one's.
fn check_last_buffer(
    files: &dyn Files,
    names: &[String],
    (id, copy): (LogId, Option<u32>),
    options: &StartOptions,
) -> Result<(), String> {
    if let Some(last) = left_buffer(files, names, id, copy)
        && options.buffer.as_ref() != Some(&last)
    {
        return Err(format!(
            "the last server was killed and left acknowledged writes in its write buffer under {}: start \
             with --buffer {} and stop in order before choosing another place",
            last.display(),
            last.display()
        ));
    }
    let place = options.buffer.as_deref().unwrap_or_else(|| Path::new(""));
    match files.write_small(Root::Data, BUFFER_PLACE_NAME, place.as_os_str().as_bytes()) {
        Err(error) if error.kind() != ErrorKind::ReadOnlyFilesystem => {
            Err(format!("cannot write to the data directory: {error}"))
        }
        _ => Ok(()),
    }
}

/// The log's id and the secret of the key hashes. A lost id is in every segment; a lost secret is chosen
/// anew, and the sidecars, which then no longer verify, are made anew too.
fn identify(
    files: &dyn Files,
    names: &[String],
    bases: &[u64],
    random: &[u8; 32],
) -> Result<(LogId, [u8; 16]), String> {
    let (id, secret) = match identity::read(files, names, bases)? {
        Identity { id: Some(id), secret: Some(secret) } => return Ok((id, secret)),
        Identity { id, secret } => (id, secret),
    };
    let half = |bytes: &[u8]| bytes.try_into().expect("half of the random bytes");
    let id = match id {
        Some(id) => id,
        None if bases.is_empty() => LogId(half(&random[..16])),
        None => {
            return Err(
                "the identity file and every segment header are damaged: restore the file \
                        \"identity\" of the data directory from a backup"
                    .into(),
            );
        }
    };
    let secret = secret.unwrap_or_else(|| half(&random[16..]));
    identity::write(files, id, secret)?;
    Ok((id, secret))
}

/// Where the records of a segment end.
struct Ended {
    end: u64,
    /// By a seal record.
    sealed: bool,
    /// It takes further records.
    is_open: bool,
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
    /// Those before them are merged on another thread while this one reads on; the tables are there meanwhile.
    merging: Option<JoinHandle<(PagePool, Vec<KeyTable>)>>,
    keys_merged: usize,
    /// Records that may have been in damaged bytes so far.
    ids_lost_max: u64,
    /// Next ids of namespaces that are lost, by the residues of packed segments.
    ids_of_lost: HashMap<u32, u64>,
    /// Of the packed segment that is being loaded.
    forgotten: Forgotten,
    terms: Terms,
    /// The last segment takes further records: a copy has to have them at the same places.
    goes_on: bool,
}

/// The part of a sidecar that verifies.
struct LoadedSidecar {
    bytes: Vec<u8>,
    pages: Vec<(PageHeader, usize)>,
}

impl Recovery<'_> {
    /// Opens the segments. Those at the end that were made ahead and hold no record are removed.
    fn open_segments(
        &mut self,
        id: LogId,
        bases: &[u64],
        stand_ins: &HashMap<u64, FileId>,
    ) -> Result<Chain, String> {
        let mut chain = chain::read(self.files, self.buffer, id, bases, stand_ins)?;
        if let Some((_, line)) = chain.refused.pop() {
            return Err(line);
        }
        self.remove_left_over(&chain)?;
        for (base, file) in &chain.unused {
            self.files.close(*file);
            // What cannot be removed, on a read-only disk, is made anew when it is needed.
            let _ = self.files.remove(Root::Data, &format::segment_name(*base));
            self.forget_sidecar(*base)?;
        }
        let damage = chain.links.iter().filter_map(|link| link.damage.clone());
        self.report.damage.extend(damage);
        Ok(chain)
    }

    /// Removes the sidecar of a segment that was dropped, for good: the next segment has its base, and would
    /// be taken to end where the old sidecar ends.
    fn forget_sidecar(&self, base: u64) -> Result<(), String> {
        let name = format::sidecar_name(base);
        // Without its sidecar it counts for nothing, but another one may come.
        let _ = self.files.remove(Root::Index, &format::stub_name(base));
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
        ending: Ending,
        (is_last, is_away): (bool, bool),
    ) -> Result<Ended, String> {
        let (base, file, size) = (segment.base, segment.file, segment.size);
        let goes_on = is_last && self.goes_on && !is_away;
        let (resume, ended) = self.apply_sidecar(&mut segment, goes_on);
        self.segments.push(segment);
        if let Some(ended) = ended {
            return Ok(ended);
        }
        if is_away {
            return Err(absent::refusal(base));
        }
        let ended = self.scan((base, file, size), resume, (ending, goes_on))?;
        if !is_last && !ended.sealed && ending.known_end != Some(ended.end) {
            self.report.damage.push(format!(
                "segment {} at offset {}: its end is missing",
                format::segment_name(base),
                ended.end - base
            ));
        }
        Ok(ended)
    }

    /// Applies what the sidecar of a segment tells. Where it ends, and where the records of the segment do,
    /// if it tells that.
    /// `goes_on`: an end without a seal is none.
    fn apply_sidecar(&mut self, segment: &mut Segment, goes_on: bool) -> (u64, Option<Ended>) {
        let loaded = self.load_sidecar(segment);
        let mut resume = segment.base + SEGMENT_HEADER_BYTES;
        let mut ended = None;
        let mut offset = 0;
        for (header, bytes) in &loaded.pages {
            let goes_on_here = goes_on && header.ending == PageEnd::Recovered;
            if goes_on_here && self.forget_end(segment.base, &loaded.bytes[..offset]) {
                break;
            }
            let body = &loaded.bytes[offset + PAGE_HEADER_BYTES..offset + bytes];
            for entry in sidecar::entries(header.first, body) {
                self.apply_entry(&entry, segment);
            }
            segment.add_loaded(*header, *bytes);
            offset += bytes;
            resume = header.end;
            if header.ending != PageEnd::Open {
                let sealed = header.ending == PageEnd::Sealed;
                ended = Some(Ended { end: header.end, sealed, is_open: false });
            }
        }
        (resume, ended)
    }

    /// Removes an end from a sidecar, for good: records are to follow there, and a power cut could bring the end back when
    /// another segment has followed. False where the disk does not let it: then it stays the end.
    fn forget_end(&self, base: u64, kept: &[u8]) -> bool {
        self.files.write_small(Root::Index, &format::sidecar_name(base), kept).is_ok()
    }

    fn load_sidecar(&self, segment: &Segment) -> LoadedSidecar {
        let name = format::sidecar_name(segment.base);
        let bytes = self.files.read_small(Root::Index, &name).unwrap_or_default();
        let pages = sidecar::read_pages(&bytes, self.segments.page_seed(segment));
        LoadedSidecar { bytes, pages }
    }

    fn apply_entry(&mut self, entry: &LogEntry, segment: &Segment) {
        match entry.kind {
            Kind::Set | Kind::Delete => {
                let slot = match self.last_slot {
                    Some((id, slot)) if id == entry.namespace => slot,
                    _ => self.slot_or_stand_in(entry.namespace, entry.flags),
                };
                self.last_slot = Some((entry.namespace, slot));
                self.apply(slot, entry);
            }
            Kind::Namespace | Kind::NamespaceEnd => {
                let (offset, record) = self.read_entry(entry, segment);
                match Verified::check(&record, self.seed, entry.position) {
                    Some(record) => {
                        self.apply_namespace(&record.head, record.key(), record.payload());
                    }
                    None => {
                        self.namespaces.keep_history(entry.namespace);
                        self.report.damage.push(format!(
                            "segment {} at offset {offset}: the settings of namespace {} are damaged",
                            format::segment_name(segment.base),
                            entry.namespace
                        ));
                    }
                }
            }
            Kind::Term => self.terms.push(entry),
            Kind::Padding => self.use_up_ids(entry.key),
            Kind::Seal | Kind::Batch => {}
        }
    }

    /// Reads the record of an entry: its offset in the file, and bytes that begin with it. What cannot be
    /// read is as good as damaged.
    fn read_entry(&self, entry: &LogEntry, segment: &Segment) -> (u64, Vec<u8>) {
        let bytes = format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
        if let Some(packed) = &segment.packed {
            return self.read_packed_entry(segment.file, packed, entry.position, bytes);
        }
        let offset = entry.position - segment.base;
        (offset, self.read_bytes(segment.file, offset, bytes))
    }

    fn read_bytes(&self, file: FileId, offset: u64, bytes: u64) -> Vec<u8> {
        let within = offset % BLOCK;
        let mut blocks = AlignedBuffer::new((within + bytes).next_multiple_of(BLOCK) as usize);
        let _ = self.files.read_at(file, offset - within, &mut blocks);
        blocks[within as usize..].to_vec()
    }

    /// Ids that may have been given out in damaged bytes are not given out again.
    fn use_up_ids(&mut self, count: u64) {
        self.ids_lost_max = self.ids_lost_max.saturating_add(count);
        self.namespaces.use_up_ids(count);
    }

    /// The slot of a record's namespace, or of its stand-in.
    fn slot_or_stand_in(&mut self, id: u32, flags: u8) -> usize {
        let slot = match self.namespaces.slot_of(id) {
            Some(slot) => slot,
            None => {
                let slot = self.namespaces.stand_in(id);
                let name = self.namespaces.get(slot).map(|one| &one.name[..]).unwrap_or_default();
                self.report.damage.push(format!(
                    "the settings of namespace {:?} are lost: it is there, and locked",
                    String::from_utf8_lossy(name)
                ));
                self.forgotten.meet(id, &mut self.namespaces);
                slot
            }
        };
        if self.namespaces.settle_mode(slot, flags)
            && let Some(namespace) = self.namespaces.get_mut(slot)
        {
            let known = self.ids_of_lost.get(&id).copied().unwrap_or(0);
            namespace.use_up_ids(known.saturating_add(self.ids_lost_max));
            self.forgotten.meet(id, &mut self.namespaces);
        }
        slot
    }

    fn apply_namespace(&mut self, head: &Head, name: &[u8], payload: &[u8]) {
        self.last_slot = None;
        // What is being merged is older than this record, which may empty a table or end a namespace.
        self.take_tables_back();
        match self.namespaces.apply_record(head, name, payload, &mut self.pool) {
            Applied::Emptied(slot) => {
                if let Some(changes) = self.changes.get_mut(slot) {
                    *changes = Bulk::new();
                }
            }
            Applied::Kept => {}
            Applied::Unreadable => {
                let name = String::from_utf8_lossy(name);
                self.report
                    .damage
                    .push(format!("the settings of namespace {name:?} cannot be read"));
            }
        }
        self.forgotten.meet(head.namespace, &mut self.namespaces);
    }

    /// Applies the records of a segment from `from` on, makes the missing part of its sidecar, and
    /// brings over what is only in the write buffer.
    fn scan(
        &mut self,
        (base, file, size): (u64, FileId, u64),
        from: u64,
        (ending, goes_on): (Ending, bool),
    ) -> Result<Ended, String> {
        let scanner = Scanner::new(self.files, self.buffer, self.seed, base, file, size);
        let mut walk = Walk::new(scanner, from, ending)?;
        let mut torn = None;
        let mut builder = PageBuilder::new();
        let mut pages = Vec::new();
        let seed = segments::page_seed(self.segments.sidecar_seed, base, None);
        while let Some(item) = walk.next_item()? {
            match item {
                Item::Record { position, head, from_buffer, end } => {
                    self.report.scanned += 1;
                    self.report.replayed += u64::from(from_buffer);
                    if !matches!(head.kind, Kind::Padding | Kind::Seal) {
                        let record =
                            Verified::with_head(head, walk.record(position, &head, from_buffer));
                        let (key, payload) = (record.key(), record.payload());
                        self.take(&mut builder, (position, end), &head, key, payload);
                    }
                    if builder.is_full() && walk.position() >= end {
                        pages.push(builder.finish(seed, PageEnd::Open, end));
                    }
                }
                Item::Batch { .. } => {}
                Item::Dropped { position, .. } => self.report.damage.push(format!(
                    "segment {} at offset {}: a record of a batch that is not whole was dropped",
                    format::segment_name(base),
                    position - base
                )),
                // What follows a gap that a power cut left was never durable, and a copy has no gaps.
                Item::Damaged { start, is_half_written, .. }
                    if goes_on && (is_half_written || walk.scanner.is_gap(start)?) =>
                {
                    torn = Some(start);
                    break;
                }
                Item::Damaged { start, end, lost, is_half_written } => {
                    // A write that a power cut took in part was never durable: what was there before it
                    // counts.
                    let head = lost.as_ref().map(|(head, _)| head);
                    let ids = walk::ids_lost_max(start, end, head);
                    let lost = lost.filter(|_| !is_half_written);
                    self.report_damaged(base, start - base, end - start);
                    if let Some((head, key)) = lost {
                        self.step_over(&mut builder, start, &head, &key);
                    }
                    self.lose_ids(&mut builder, end, ids);
                }
            }
        }
        let position = torn.unwrap_or(walk.position());
        let ids = if torn.is_some() { 0 } else { walk.ids_lost_behind() };
        self.lose_ids(&mut builder, position, ids);
        let sealed = walk.is_sealed() && torn.is_none();
        let was_durable = walk.was_durable();
        self.judge_unreadable(base, &walk, ending)?;
        let mut scanner = walk.scanner;
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
        let is_open =
            goes_on && !sealed && self.make_room(file, position - base, ending.is_header_lost);
        // A sidecar is never ahead of its log: the pages wait until every record is surely on the disk.
        self.files.sync(file).map_err(|error| {
            format!("cannot flush segment {}: {error}", format::segment_name(base))
        })?;
        // A seal says that all before it was durable. Where a crash left gaps before it, later starts go by
        // the end that was found here, or they would take what was dropped for damage.
        let sealed = sealed && was_durable;
        let how = if sealed { PageEnd::Sealed } else { PageEnd::Recovered };
        if !is_open {
            pages.push(builder.finish(seed, how, position));
        } else if !builder.is_empty() {
            pages.push(builder.finish(seed, PageEnd::Open, position));
        }
        let segment = self.segments.last_mut().expect("the segment was pushed");
        store_pages(self.files, segment, pages);
        Ok(Ended { end: position, sealed, is_open })
    }

    /// The sidecar keeps it for later starts, which do not see the damage.
    fn lose_ids(&mut self, builder: &mut PageBuilder, position: u64, count: u64) {
        if count > 0 {
            builder.push(&LogEntry::damage(position, count), position);
            self.use_up_ids(count);
        }
    }

    fn report_damaged(&mut self, base: u64, offset: u64, bytes: u64) {
        self.report.damage.push(format!(
            "segment {} at offset {offset}: {bytes} bytes are damaged",
            format::segment_name(base)
        ));
    }

    /// Takes a record whose payload is damaged. Its head is whole: the key's newest version is known to be
    /// lost, and is not replaced by an older one.
    fn step_over(&mut self, builder: &mut PageBuilder, position: u64, head: &Head, key: &[u8]) {
        match head.kind {
            Kind::Set | Kind::Delete | Kind::Term => {
                self.take(builder, (position, position + head.bytes()), head, key, &[]);
            }
            Kind::Namespace => {
                self.slot_or_stand_in(head.namespace, 0);
                self.namespaces.keep_history(head.namespace);
            }
            Kind::Padding | Kind::Seal | Kind::NamespaceEnd | Kind::Batch => {}
        }
    }

    /// What of a segment the disk does not give. Between whole records it is damage like any other. At the
    /// end of the log it decides what was acknowledged: nobody may write behind an end that is not known.
    fn judge_unreadable(
        &mut self,
        base: u64,
        walk: &Walk<'_>,
        ending: Ending,
    ) -> Result<(), String> {
        let is_closed = walk.is_sealed() || ending.known_end.is_some() || ending.is_followed;
        let name = format::segment_name(base);
        for Unreadable { start, end, error } in walk.scanner.unreadable() {
            let place = format!(
                "segment {name} at offset {}: {} bytes cannot be read ({error})",
                start - base,
                end - start
            );
            if !is_closed && *end > walk.position() {
                return Err(format!(
                    "{place}, and the log may go on in them: it is the last segment, so the newest acknowledged \
                     writes can be there. Nothing was dropped. Copy the data directory to another disk with a \
                     tool that tries again (ddrescue), or save what can be read with zdb repair --to-data"
                ));
            }
            if *start < walk.position() {
                self.report.damage.push(format!("{place}: {LOST_TO_THE_DISK}"));
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        builder: &mut PageBuilder,
        (position, end): (u64, u64),
        head: &Head,
        key: &[u8],
        payload: &[u8],
    ) {
        match head.kind {
            Kind::Namespace | Kind::NamespaceEnd => {
                builder.push(&control_entry(position, head, key), end);
                return self.apply_namespace(head, key, payload);
            }
            Kind::Term => {
                let entry = control_entry(position, head, key);
                builder.push(&entry, end);
                return self.terms.push(&entry);
            }
            _ => {}
        }
        let slot = self.slot_or_stand_in(head.namespace, head.flags);
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
            return self.forgotten.apply_id(entry.namespace, table, entry);
        }
        if self.changes.len() <= slot {
            self.changes.resize_with(slot + 1, Bulk::new);
        }
        let changes = &mut self.changes[slot];
        match index_change(entry, namespace.settings.retention) {
            (hash, Some(found)) => changes.insert(hash, found),
            (hash, None) => changes.remove(hash),
        }
        self.changes_count += 1;
        // A quarter of what is there already: each key is then laid out a few times at most.
        if self.changes_count >= CHANGES_MIN.max(self.keys_merged / 4) {
            self.hand_changes_over();
        }
    }

    /// Has the batch sorted and merged on another thread, while this one reads on.
    fn hand_changes_over(&mut self) {
        self.take_tables_back();
        let changes = std::mem::take(&mut self.changes);
        self.keys_merged += std::mem::take(&mut self.changes_count);
        let mut pool = std::mem::take(&mut self.pool);
        let mut tables: Vec<KeyTable> = (0..changes.len())
            .map(|slot| self.table_of(slot).map(std::mem::take).unwrap_or_default())
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        self.merging = Some(std::thread::spawn(move || {
            for (table, changes) in tables.iter_mut().zip(changes) {
                if !changes.is_empty() {
                    table.merge(&mut pool, changes.sort(threads - 1));
                }
            }
            (pool, tables)
        }));
    }

    /// Waits for the batch that is being merged: until then the tables are not here.
    fn take_tables_back(&mut self) {
        let Some(merging) = self.merging.take() else { return };
        let (pool, tables) = merging.join().expect("merging does not panic");
        self.pool = pool;
        for (slot, table) in tables.into_iter().enumerate() {
            if let Some(place) = self.table_of(slot) {
                *place = table;
            }
        }
        let keys = self.namespaces.iter().map(|namespace| match &namespace.keys {
            Keys::User(table) => table.len(),
            Keys::Sequential(_) => 0,
        });
        self.keys_merged = keys.sum();
    }

    fn table_of(&mut self, slot: usize) -> Option<&mut KeyTable> {
        match &mut self.namespaces.get_mut(slot)?.keys {
            Keys::User(table) => Some(table),
            Keys::Sequential(_) => None,
        }
    }
}

/// Writes pages of a sidecar behind those that are there.
fn store_pages(files: &dyn Files, segment: &mut Segment, pages: Vec<(PageHeader, Vec<u8>)>) {
    let name = format::sidecar_name(segment.base);
    for (header, bytes) in pages {
        match files.write_part(Root::Index, &name, segment.sidecar_bytes, &bytes) {
            Ok(()) => segment.add_loaded(header, bytes.len()),
            Err(_) => segment.add_kept(header, bytes),
        }
    }
}
