//! `zdb check`: every record, every sidecar page and what ties them together. Reads only.

use super::known;
use super::output::{Lines, Object, Progress};
use super::stored::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use super::{EXIT_DAMAGED, EXIT_WHOLE, Places};
use crate::engine::chain::Link;
use crate::engine::forgotten::Forgotten;
use crate::engine::index::{Entry, HashSecret, KeyHash, PagePool};
use crate::engine::log::format::{
    self, FLAG_ID, FLAG_UNVERIFIED, Head, Kind, SEGMENT_HEADER_BYTES,
};
use crate::engine::log::packed::Residue;
use crate::engine::log::sidecar::LogEntry;
use crate::engine::namespace::{Applied, Keys, Mode, Namespaces};
use crate::engine::walk;
use crate::engine::{control_entry, entry_of, sequential_id};
use crate::limits::NAMESPACE_NAME_BYTES_MAX;
use crate::options::parse_size;
use clap::Parser;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Reads the log of a stopped server and says what is damaged in it. Nothing is changed.
#[derive(Parser)]
#[command(
    name = "zdb check",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "Verified are the checksums of every record, the order of segments and records, what each says of the \
                  version before it, its place and its length, and the sidecars against the log. Memory: some 18 bytes for each key.\n\n\
                  Exit codes: 0 all is whole; 1 something is damaged, a line for each; 2 it could not be done.\n\n\
                  Example: zdb check --data /disk1/data --index /disk1/index --rate 50M"
)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Print a JSON object for each damage and for the summary, one a line.
    #[arg(long)]
    json: bool,
    /// Read at most so many bytes a second (k, M, G are understood); 0: as fast as the disk is.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    rate: u64,
}

pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let log = StoredLog::open(Box::new(arguments.places.open_to_read()?))?;
    let mut lines = Lines::new();
    let summary = check(&log, arguments.rate, arguments.json, &mut lines)?;
    lines.line(&if arguments.json { summary.json() } else { summary.text() });
    lines.flush();
    Ok(if summary.damaged == 0 { EXIT_WHOLE } else { EXIT_DAMAGED })
}

/// Looks at all of a log and prints what is damaged.
pub fn check(log: &StoredLog, rate: u64, json: bool, lines: &mut Lines) -> Result<Summary, String> {
    let mut check = Check {
        namespaces: Namespaces::new(Mode::User),
        pool: PagePool::new(),
        secret: HashSecret::new(log.secret.unwrap_or_default()),
        stand_ins: HashSet::new(),
        lost_until: 0,
        id_lengths: IdLengths::default(),
        previous_link: None,
        forgotten: Forgotten::default(),
        packed: Vec::new(),
        are_counters_lost: false,
        bytes: HashMap::new(),
        summary: Summary::default(),
        progress: Progress::new(log.bytes(), rate),
        json,
        lines,
    };
    match log.visit(&|_| true, &mut check) {
        Ok(()) | Err(Stop::Enough) => {}
        Err(Stop::Failed(line)) => return Err(line),
    }
    check.progress.clear();
    Ok(check.finish())
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub segments: u64,
    /// Whole records, without padding and seals.
    pub records: u64,
    pub namespaces: u64,
    pub keys: u64,
    pub versions: u64,
    pub deletes: u64,
    /// Bytes of the newest versions of keys.
    pub live_bytes: u64,
    /// Bytes of versions that a newer one of the same key has replaced.
    pub history_bytes: u64,
    /// Bytes of everything else: deletes and what they ended, removed namespaces, settings.
    pub dead_bytes: u64,
    pub padding_bytes: u64,
    pub damaged: u64,
    /// Records that are known to be lost.
    pub records_lost: u64,
    pub bytes_lost: u64,
    pub seconds: f64,
    pub mib_per_s: f64,
}

impl Summary {
    fn text(&self) -> String {
        let state = match self.damaged {
            0 => "whole".to_owned(),
            1 => "1 damage".to_owned(),
            count => format!("{count} damages"),
        };
        let mut text = format!(
            "{} segments, {} records: {} keys with {} versions in {} namespaces\n\
             bytes: {} live, {} of history, {} dead, {} of padding\n",
            self.segments,
            self.records,
            self.keys,
            self.versions,
            self.namespaces,
            self.live_bytes,
            self.history_bytes,
            self.dead_bytes,
            self.padding_bytes,
        );
        if self.bytes_lost > 0 {
            text.push_str(&format!(
                "lost: {} bytes, in them at least {} records\n",
                self.bytes_lost, self.records_lost
            ));
        }
        text.push_str(&format!("{state}; {:.1} s, {:.1} MiB/s", self.seconds, self.mib_per_s));
        text
    }

    fn json(&self) -> String {
        Object::new("summary")
            .number("segments", self.segments)
            .number("records", self.records)
            .number("namespaces", self.namespaces)
            .number("keys", self.keys)
            .number("versions", self.versions)
            .number("deletes", self.deletes)
            .number("live_bytes", self.live_bytes)
            .number("history_bytes", self.history_bytes)
            .number("dead_bytes", self.dead_bytes)
            .number("padding_bytes", self.padding_bytes)
            .number("damaged", self.damaged)
            .number("records_lost", self.records_lost)
            .number("bytes_lost", self.bytes_lost)
            .number("milliseconds", (self.seconds * 1000.0) as u64)
            .finish()
    }
}

/// Payload bytes of the newest versions of ids: the index of a sequential namespace has their places alone.
#[derive(Default)]
struct IdLengths {
    /// By namespace and number of the chunk.
    chunks: HashMap<(u32, u64), Box<[u32; IDS_PER_CHUNK]>>,
}

const IDS_PER_CHUNK: usize = 1024;

impl IdLengths {
    fn place(entry: &LogEntry) -> ((u32, u64), usize) {
        let count = IDS_PER_CHUNK as u64;
        ((entry.namespace, entry.key / count), (entry.key % count) as usize)
    }

    fn get(&self, entry: &LogEntry) -> u32 {
        let (chunk, at) = Self::place(entry);
        self.chunks.get(&chunk).map_or(0, |lengths| lengths[at])
    }

    fn set(&mut self, entry: &LogEntry) {
        let (chunk, at) = Self::place(entry);
        let lengths = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; IDS_PER_CHUNK]));
        lengths[at] = entry.payload_length;
    }
}

struct Check<'a> {
    namespaces: Namespaces,
    pool: PagePool,
    secret: HashSecret,
    /// Ids of namespaces whose own record is lost.
    stand_ins: HashSet<u32>,
    /// End of the last bytes that are lost.
    lost_until: u64,
    id_lengths: IdLengths,
    /// Base and capacity of the segment before.
    previous_link: Option<(u64, u64)>,
    /// Of the packed segment whose records come.
    forgotten: Forgotten,
    /// Addresses of packed segments: a record there may be gone.
    packed: Vec<Range<u64>>,
    /// Whether residues are lost, so that counters cannot be right.
    are_counters_lost: bool,
    /// Bytes of the newest versions and of those before them, by namespace.
    bytes: HashMap<u32, (u64, u64)>,
    summary: Summary,
    progress: Progress,
    json: bool,
    lines: &'a mut Lines,
}

impl Check<'_> {
    fn damage(&mut self, object: Object, line: &str) {
        self.summary.damaged += 1;
        self.progress.clear();
        let line =
            if self.json { object.text("text", line).finish() } else { format!("damage: {line}") };
        self.lines.line(&line);
        self.lines.flush();
    }

    /// A whole record that says something that cannot be.
    fn wrong(&mut self, seen: &Seen<'_>, what: &str, line: &str) {
        let name = format::segment_name(seen.base);
        let offset = seen.offset;
        let mut object =
            Object::new("damage").text("what", what).text("file", &name).number("offset", offset);
        let mut whose = String::new();
        if matches!(seen.record.head.kind, Kind::Set | Kind::Delete) {
            let (namespace, sequential) = self.named(seen.record.head.namespace);
            object = object.text("namespace", &namespace).bytes("key", seen.record.key());
            let key = crate::import::report::shown_key(seen.record.key(), sequential);
            whose = format!(" ({key} of namespace {namespace:?})");
        }
        self.damage(object, &format!("segment {name} at offset {offset}: {line}{whose}"));
    }

    fn named(&self, id: u32) -> (String, bool) {
        let slot = self.namespaces.slot_of(id);
        match slot.and_then(|slot| self.namespaces.get(slot)) {
            Some(one) => (
                String::from_utf8_lossy(&one.name).into_owned(),
                one.settings.mode == Mode::Sequential,
            ),
            None => (format!("number {id}"), false),
        }
    }

    /// What holds for every record, whatever it is about.
    fn check_form(&mut self, seen: &Seen<'_>) {
        if let Some((what, line)) = walk::wrong_form(seen.position, &seen.record) {
            self.wrong(seen, what, line);
        }
    }

    fn namespace_record(&mut self, seen: &Seen<'_>) {
        let head = seen.record.head;
        self.compare(seen, &control_entry(seen.position, &head, seen.record.key()));
        self.summary.dead_bytes += head.bytes();
        let name = seen.record.key();
        if head.kind == Kind::Namespace
            && (name.is_empty() || name.len() > NAMESPACE_NAME_BYTES_MAX)
        {
            self.wrong(seen, "namespace", "the name of a namespace that no client can have made");
        }
        if head.kind == Kind::NamespaceEnd && self.namespaces.slot_of(head.namespace).is_none() {
            self.wrong(seen, "namespace", "the end of a namespace that is not there");
        }
        self.end_counted(head, name);
        let applied =
            self.namespaces.apply_record(&head, name, seen.record.payload(), &mut self.pool);
        if applied == Applied::Unreadable {
            self.wrong(seen, "namespace", "settings that this zdb cannot read");
        }
        self.stand_ins.remove(&head.namespace);
        self.forgotten.meet(head.namespace, &mut self.namespaces);
    }

    /// What a namespace holds is dead when it is removed or flushed.
    fn end_counted(&mut self, head: Head, name: &[u8]) {
        let known = self.namespaces.slot_of(head.namespace);
        let ended = match head.kind {
            Kind::NamespaceEnd => known,
            _ if known.is_none() => self.namespaces.find(name),
            _ => None,
        };
        let ended = ended.and_then(|slot| self.namespaces.get(slot));
        if let Some((live, history)) = ended.and_then(|one| self.bytes.remove(&one.id)) {
            self.summary.dead_bytes += live + history;
        }
    }

    fn key_record(&mut self, seen: &Seen<'_>) {
        let head = seen.record.head;
        let key = seen.record.key();
        let slot = match self.namespaces.slot_of(head.namespace) {
            Some(slot) => slot,
            None => {
                self.stand_ins.insert(head.namespace);
                self.wrong(seen, "namespace", "a record of a namespace that is not there");
                let slot = self.namespaces.stand_in(head.namespace);
                self.forgotten.meet(head.namespace, &mut self.namespaces);
                slot
            }
        };
        if self.namespaces.settle_mode(slot, head.flags) {
            self.forgotten.meet(head.namespace, &mut self.namespaces);
        }
        let Some(namespace) = self.namespaces.get(slot) else { return };
        let hash = self.secret.hash(key);
        let entry = entry_of(seen.position, &head, key, namespace, || hash);
        let (expected, ended) = match &namespace.keys {
            Keys::User(table) => {
                let found = table.get(&self.pool, hash);
                let live = found.filter(|found| !found.is_dead()).map(|found| found.length);
                (found.map(|found| found.place), live)
            }
            Keys::Sequential(table) => {
                let place = sequential_id(key).and_then(|id| table.get(id));
                (place, place.and(head.replaced))
            }
        };
        let is_user = matches!(namespace.keys, Keys::User(_));
        let replaced = match &namespace.keys {
            Keys::User(table) => {
                let live = table.get(&self.pool, hash).filter(|found| !found.is_dead());
                live.map(|found| found.length)
            }
            Keys::Sequential(_) => expected.map(|_| self.id_lengths.get(&entry)),
        };
        if !is_user && key.len() != size_of::<u64>() {
            self.wrong(seen, "record", "the key is no id, in a namespace of ids");
        }
        if is_user && head.flags & FLAG_ID != 0 {
            self.wrong(seen, "record", "the key is an id, in a namespace of keys");
        }
        let expected = expected.map_or(0, |place| place.get());
        let previous = head.previous.get();
        let least = if previous == 0 { expected } else { previous.min(expected.max(1)) };
        // Lost bytes may have held anything of this key.
        let is_excused = self.lost_until > least;
        if previous < seen.position
            && previous != expected
            && !is_excused
            && !self.is_forgotten(previous, expected)
        {
            let line = format!(
                "the version before it is said to be at position {previous}, but is at {expected}"
            );
            self.wrong(seen, "previous", &line);
        } else if previous == expected && head.replaced != replaced {
            // Below may be a key with the same hash, which is not replaced. Of a version that could not be
            // read when it was replaced the index knows the length, but not that of ids.
            let is_other = head.flags & FLAG_UNVERIFIED != 0 && head.replaced.is_none();
            if !(is_other || !is_user && replaced.is_some() && head.replaced == Some(0)) {
                let shown = |length: Option<u32>| match length {
                    Some(length) => format!("{length} bytes"),
                    None => "nothing".into(),
                };
                let (says, is) = (shown(head.replaced), shown(replaced));
                self.wrong(
                    seen,
                    "replaced",
                    &format!("it says that it replaces {says}, but it is {is}"),
                );
            }
        }
        if !is_user && head.kind == Kind::Set {
            self.id_lengths.set(&entry);
        }
        if !self.stand_ins.contains(&head.namespace) {
            self.compare(seen, &entry);
        }
        self.count(&head, ended);
        let end = seen.position + head.bytes();
        self.forgotten.apply(&mut self.namespaces, &mut self.pool, slot, &entry, end);
    }

    /// Whether the version before a record may be gone: cleaned away, with those before it that are not in
    /// packed segments still there.
    fn is_forgotten(&self, previous: u64, expected: u64) -> bool {
        expected < previous && self.packed.iter().any(|range| range.contains(&previous))
    }

    /// Counts a record and the live version that it ends, of so many payload bytes.
    fn count(&mut self, head: &Head, ended: Option<u32>) {
        let of_length =
            |payload: u32| format::record_bytes(head.key_length.into(), payload as usize);
        let replaced = ended.map(of_length);
        let summary = &mut self.summary;
        let (live, history) = self.bytes.entry(head.namespace).or_default();
        *live = live.saturating_sub(replaced.unwrap_or(0));
        if head.kind == Kind::Set {
            summary.versions += 1;
            *live += head.bytes();
            *history += replaced.unwrap_or(0);
        } else {
            summary.deletes += 1;
            summary.dead_bytes += head.bytes() + replaced.unwrap_or(0);
        }
    }

    /// What the sidecar says of a record must be what the record says.
    fn compare(&mut self, seen: &Seen<'_>, expected: &LogEntry) {
        let line = match &seen.entry {
            Some(entry) if entry == expected => return,
            Some(_) => "its sidecar says something else of it",
            None if seen.is_covered => "its sidecar does not know of it",
            None => return,
        };
        self.wrong(seen, "sidecar", line);
    }

    /// Behind the last record of a packed segment.
    fn end_packed(&mut self) {
        std::mem::take(&mut self.forgotten).end(&mut self.namespaces);
    }

    /// Counters that follow from records and residues must be those of the keys that are there.
    fn check_counters(&mut self) {
        // What is damaged was told, and may have held anything.
        if self.summary.damaged > 0 || self.are_counters_lost {
            return;
        }
        let mut wrong = Vec::new();
        for namespace in self.namespaces.iter() {
            let name = String::from_utf8_lossy(&namespace.name).into_owned();
            let mut keys = 0;
            let mut bytes = 0;
            match &namespace.keys {
                Keys::User(table) => table.for_each(&self.pool, |entry: Entry| {
                    if !entry.is_dead() {
                        keys += 1;
                        bytes += u64::from(entry.length);
                    }
                }),
                Keys::Sequential(table) => {
                    keys = table.live();
                    bytes = namespace.live_bytes;
                }
            }
            if (keys, bytes) != (namespace.live_keys, namespace.live_bytes) {
                wrong.push(format!(
                    "namespace {name:?} has {keys} keys with {bytes} bytes, and its records tell of {} with {}",
                    namespace.live_keys, namespace.live_bytes
                ));
            }
        }
        for line in wrong {
            self.damage(Object::new("damage").text("what", "counters"), &line);
        }
    }

    fn finish(mut self) -> Summary {
        self.end_packed();
        self.check_counters();
        let mut summary = self.summary;
        summary.namespaces = self.namespaces.len() as u64;
        summary.live_bytes = self.bytes.values().map(|(live, _)| live).sum();
        summary.history_bytes = self.bytes.values().map(|(_, history)| history).sum();
        summary.keys = self.namespaces.iter().map(|one| one.live_keys).sum();
        summary.seconds = self.progress.seconds();
        summary.mib_per_s = self.progress.mib_per_s();
        summary
    }
}

impl Visitor for Check<'_> {
    fn segment(&mut self, link: &Link) -> Flow {
        self.end_packed();
        self.summary.segments += 1;
        let header = link.header;
        let name = format::segment_name(header.base);
        let told = header.previous_end;
        let previous = self.previous_link.replace((header.base, header.capacity));
        if let Some((base, capacity)) = previous
            && link.damage.is_none()
            && told != 0
            && !(base + SEGMENT_HEADER_BYTES..=base + capacity).contains(&told)
            && base + capacity == header.base
        {
            let object = Object::new("damage").text("what", "chain").text("file", &name);
            let line = format!(
                "segment {name} at offset 44: the end that it tells of the segment before lies outside"
            );
            self.damage(object.number("offset", 44), &line);
        }
        Ok(())
    }

    fn residues(&mut self, link: &Link, residues: Option<&[Residue]>) -> Flow {
        let header = link.header;
        self.packed.push(header.base..header.base.saturating_add(header.capacity));
        match residues {
            Some(residues) => {
                self.forgotten = Forgotten::begin(residues.to_vec(), &mut self.namespaces);
            }
            None => self.are_counters_lost = true,
        }
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        self.check_form(seen);
        match seen.record.head.kind {
            Kind::Padding | Kind::Seal | Kind::Batch => {
                self.summary.padding_bytes += seen.record.head.bytes();
            }
            Kind::Namespace | Kind::NamespaceEnd => {
                self.summary.records += 1;
                self.namespace_record(seen);
            }
            Kind::Term => {
                self.summary.records += 1;
                let head = seen.record.head;
                self.compare(seen, &control_entry(seen.position, &head, seen.record.key()));
                self.summary.dead_bytes += head.bytes();
            }
            Kind::Set | Kind::Delete => {
                self.summary.records += 1;
                self.key_record(seen);
            }
        }
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        self.lost_until = self.lost_until.max(lost.end);
        self.summary.records_lost += known::count(&lost);
        if lost.is_part {
            return Ok(());
        }
        let (offset, bytes) = (lost.offset, lost.bytes);
        self.summary.bytes_lost += bytes;
        let name = format::segment_name(lost.base);
        let named = |id: u32| self.namespaces.slot_of(id).map(|_| self.named(id));
        let known = known::records(&lost, &named);
        let mut object = Object::new("damage")
            .text("what", "lost")
            .text("file", &name)
            .number("offset", offset)
            .number("bytes", bytes)
            .number("records", known::count(&lost));
        if let Some((head, key)) = &lost.head
            && matches!(head.kind, Kind::Set | Kind::Delete)
        {
            object = object.text("namespace", &self.named(head.namespace).0).bytes("key", key);
        }
        let known = known.map_or(String::new(), |known| format!("; lost: {known}"));
        let line =
            format!("segment {name} at offset {offset}: {bytes} bytes: {}{known}", lost.cause);
        self.damage(object, &line);
        // As a start does it: the key's newest version is known to be lost.
        if let Some((head, key)) = &lost.head
            && matches!(head.kind, Kind::Set | Kind::Delete)
            && let Some(slot) = self.namespaces.slot_of(head.namespace)
            && let Some(namespace) = self.namespaces.get(slot)
        {
            let hash: KeyHash = self.secret.hash(key);
            let entry = entry_of(lost.start, head, key, namespace, || hash);
            if entry.kind == Kind::Set && matches!(namespace.keys, Keys::Sequential(_)) {
                self.id_lengths.set(&entry);
            }
            let end = lost.end;
            self.forgotten.apply(&mut self.namespaces, &mut self.pool, slot, &entry, end);
        }
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        let Trouble { file, offset, what, line } = trouble;
        let object =
            Object::new("damage").text("what", what).text("file", &file).number("offset", offset);
        self.damage(object, &format!("{file} at offset {offset}: {line}"));
        Ok(())
    }

    fn note(&mut self, line: &str) -> Flow {
        self.progress.clear();
        let line = if self.json {
            Object::new("note").text("text", line).finish()
        } else {
            format!("note: {line}")
        };
        self.lines.line(&line);
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes, self.summary.records);
    }
}
