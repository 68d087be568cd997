//! Starts and the three commands over packed segments, as a cleaner leaves them and as crashes and disks do.

use super::Lines;
use super::check::Summary;
use super::dump::{Selection, dump};
use super::stored::{Flow, Lost, Seen, StoredLog, Trouble, Visitor};
use super::tests::{Home, Random, check, damage, damage_rounds, is_marker, salvage, story};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::system::SystemFiles;
use crate::disk::{FileId, Files, Root, Whereabouts};
use crate::engine::Engine;
use crate::engine::chain::Link;
use crate::engine::log::Policy;
use crate::engine::log::format::{self, BLOCK, Head, Kind, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::log::packed::{self, Builder, Cover, Residue};
use crate::engine::namespace::{Access, Keys, Mode, Settings};
use crate::engine::recovery::{self, IMPORT_UNFINISHED_NAME, StartOptions, StartReport};
use crate::engine::sequential_id;
use crate::import::writer::Writer;
use crate::limits::SEGMENT_BYTES_MIN;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// A log of some segments: keys and ids that are written, written again, deleted; namespaces that are made,
/// flushed, removed and changed at all times.
fn sample(seed: u64) -> Home {
    let home = Home::new();
    let mut writer =
        Writer::start(home.writable(), SEGMENT_BYTES_MIN, IMPORT_UNFINISHED_NAME, None)
            .expect("a new log");
    let mut random = Random(seed);
    let (user, ids) = (Settings::new(Mode::User), Settings::new(Mode::Sequential));
    let mut slots = vec![(writer.create(b"default", &user).expect("default"), false)];
    let mut next_name = 0;
    for step in 1..=4000u32 {
        let (slot, sequential) = slots[random.below(slots.len() as u64) as usize];
        let at = slots.iter().position(|one| one.0 == slot).expect("it is there");
        match random.below(250) {
            0..=3 if slots.len() < 8 => {
                // A new one is in user mode; another mode follows.
                let sequential = random.below(2) == 0;
                let name = format!("namespace {next_name}").into_bytes();
                next_name += 1;
                let slot = writer.create(&name, &user).expect("a namespace");
                if sequential {
                    writer.change(slot, &ids).expect("a mode");
                }
                slots.push((slot, sequential));
            }
            4 => {
                let settings = writer.namespace(slot).settings.clone();
                writer.flush(slot, &settings).expect("a flush");
            }
            5 if at > 0 => {
                writer.remove(slot).expect("a removal");
                slots.remove(at);
            }
            6 => {
                let settings = writer.namespace(slot).settings.clone();
                let settings = Settings { access: Access::Locked, max_bytes: 1 << 40, ..settings };
                writer.change(slot, &settings).expect("a change");
            }
            draw => {
                let length = if draw == 7 { 20_000 } else { random.below(3000) };
                let payload: Vec<u8> = (0..length).map(|at| at as u8 ^ step as u8).collect();
                let next = writer.namespace(slot).next_id();
                let is_delete = random.below(4) == 0;
                if sequential {
                    let id = if draw % 2 == 0 { next } else { random.below(next.max(1)) };
                    match is_delete {
                        true => drop(writer.delete(slot, &id.to_le_bytes(), step)),
                        false => writer.set_id(slot, id, &payload, step).expect("an id"),
                    }
                    continue;
                }
                let key = format!("key {}", random.below(40)).into_bytes();
                match is_delete {
                    true => drop(writer.delete(slot, &key, step).expect("a delete")),
                    false => writer.set_user(slot, &key, &payload, step).expect("a version"),
                }
            }
        }
    }
    writer.finish().expect("the end");
    home
}

/// Every record of a log.
#[derive(Default)]
struct All {
    records: Vec<One>,
    names: BTreeMap<u32, Vec<u8>>,
    /// Of namespaces that were flushed or removed.
    ended: BTreeSet<u32>,
    sequential: BTreeSet<u32>,
}

struct One {
    base: u64,
    position: u64,
    head: Head,
    key: Vec<u8>,
    bytes: Vec<u8>,
}

impl Visitor for All {
    fn segment(&mut self, _: &Link) -> Flow {
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let (head, id) = (seen.record.head, seen.record.head.namespace);
        match head.kind {
            Kind::Namespace => {
                let name = seen.record.key().to_vec();
                let settings = Settings::decode(seen.record.payload()).expect("settings");
                let flushed =
                    self.names.iter().find(|(other, known)| **known == name && **other != id);
                if let Some(flushed) = flushed.map(|(other, _)| *other) {
                    self.names.remove(&flushed);
                    self.ended.insert(flushed);
                }
                self.names.insert(id, name);
                if settings.mode == Mode::Sequential {
                    self.sequential.insert(id);
                }
            }
            Kind::NamespaceEnd => {
                self.names.remove(&id);
                self.ended.insert(id);
            }
            _ => {}
        }
        self.records.push(One {
            base: seen.base,
            position: seen.position,
            head,
            key: seen.record.key().to_vec(),
            bytes: seen.record.bytes().to_vec(),
        });
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        panic!("the sample is whole: {}", lost.cause)
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        panic!("the sample is whole: {}", trouble.line)
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, _: u64) {}
}

fn all(home: &Home) -> All {
    let mut all = All::default();
    let log = StoredLog::open(home.read_only()).expect("the log");
    assert!(log.visit(&|_| true, &mut all).is_ok(), "a walk that nobody stops");
    all
}

/// Positions of records that a cleaner may drop from these segments: of each key a first part of its versions,
/// without the newest unless that is a delete, and everything of namespaces that have ended.
fn droppable(all: &All, bases: &BTreeSet<u64>, random: &mut Random) -> BTreeSet<u64> {
    let mut keys: BTreeMap<(u32, &[u8]), Vec<&One>> = BTreeMap::new();
    for one in all.records.iter().filter(|one| matches!(one.head.kind, Kind::Set | Kind::Delete)) {
        keys.entry((one.head.namespace, &one.key)).or_default().push(one);
    }
    let mut dropped = BTreeSet::new();
    for ((namespace, _), versions) in keys {
        let is_ended = all.ended.contains(&namespace);
        let newest = versions.last().expect("a version").head.kind;
        let most = versions.len() - usize::from(newest == Kind::Set && !is_ended);
        let count = match random.below(4) {
            0 => random.below(most as u64 + 1) as usize,
            _ => most,
        };
        let in_range = versions.iter().take_while(|one| bases.contains(&one.base)).count();
        dropped.extend(versions[..count.min(in_range)].iter().map(|one| one.position));
    }
    dropped
}

/// Replaces the segments of each range, by their numbers, with a packed one, and returns their bases. The
/// sidecars stay as they are.
fn pack(home: &Home, ranges: &[Range<usize>], random: &mut Random) -> Vec<u64> {
    let all = all(home);
    let bases: Vec<u64> =
        all.records.iter().map(|one| one.base).collect::<BTreeSet<_>>().into_iter().collect();
    assert!(ranges.iter().all(|range| range.end < bases.len()), "the last one is never cleaned");
    let in_ranges = ranges.iter().flat_map(|range| &bases[range.clone()]).copied().collect();
    let dropped = droppable(&all, &in_ranges, random);
    assert!(dropped.len() > 20, "the cleaner has work");
    let log = StoredLog::open(home.read_only()).expect("the log");
    for range in ranges {
        let headers: Vec<SegmentHeader> =
            log.chain.links[range.clone()].iter().map(|link| link.header).collect();
        let base = headers[0].base;
        let mut builder = Builder::new(base);
        let mut residues: BTreeMap<u32, Residue> = BTreeMap::new();
        let mut end = 0;
        let mut forgotten = BTreeSet::new();
        for header in &headers {
            let mut here: BTreeMap<u32, Residue> = BTreeMap::new();
            for one in all.records.iter().filter(|one| one.base == header.base) {
                end = one.position + one.head.bytes();
                let id = one.head.namespace;
                let residue = here.entry(id).or_insert_with(|| Residue::new(id));
                match one.head.kind {
                    Kind::Padding | Kind::Seal => continue,
                    Kind::Set if all.sequential.contains(&id) => {
                        residue.use_id(sequential_id(&one.key).expect("an id"));
                    }
                    _ => {}
                }
                if dropped.contains(&one.position) {
                    residue.forget(&one.head);
                    forgotten.insert(id);
                } else {
                    builder.push(one.position, &one.bytes);
                }
            }
            for (id, later) in here {
                residues.entry(id).or_insert_with(|| Residue::new(id)).follow(&later);
            }
        }
        let last = headers[headers.len() - 1];
        let cover = Cover {
            log: log.id,
            seed: log.id.seed(),
            capacity: last.base + last.capacity - base,
            previous_end: headers[0].previous_end,
            created: 7,
            count: headers.len() as u32,
            end,
            judged_until: end + 4096,
            rests_on: end + 4096,
            is_undecided: false,
        };
        let residues: Vec<Residue> =
            residues.into_values().filter(|one| forgotten.contains(&one.namespace)).collect();
        let finished = builder.finish(cover, &residues);
        let mut file = finished.header.to_vec();
        file.resize(finished.rest.0 as usize, 0);
        file.extend_from_slice(&finished.rest.1);
        assert_eq!(file.len() as u64, finished.file_bytes);
        for header in &headers[1..] {
            std::fs::remove_file(segment(home, header.base)).expect("a segment");
            std::fs::remove_file(sidecar(home, header.base)).expect("a sidecar");
        }
        std::fs::write(segment(home, base), file).expect("a packed segment");
    }
    drop(log);
    ranges.iter().map(|range| bases[range.start]).collect()
}

fn segment(home: &Home, base: u64) -> PathBuf {
    home.data().join(format::segment_name(base))
}

fn sidecar(home: &Home, base: u64) -> PathBuf {
    home.index().join(format::sidecar_name(base))
}

/// Starts and stops at once.
fn start(files: &dyn Files) -> (Engine, StartReport) {
    try_start(files).expect("a start")
}

fn try_start(files: &dyn Files) -> Result<(Engine, StartReport), String> {
    let options = StartOptions {
        mode: None,
        policy: Policy::No,
        segment_bytes: SEGMENT_BYTES_MIN,
        cache_bytes: 0,
        buffer: None,
        random: [3; 32],
    };
    recovery::start(files, options)
}

/// What clients see of a namespace: settings, counters, next id, and where the keys are.
type State = (Settings, [u64; 5], bool, BTreeMap<Vec<u8>, u64>);

fn state(engine: &Engine, all: &All) -> BTreeMap<Vec<u8>, State> {
    let mut state = BTreeMap::new();
    for namespace in engine.namespaces.iter() {
        let mut places = BTreeMap::new();
        for one in all.records.iter().filter(|one| one.head.namespace == namespace.id) {
            let place = match &namespace.keys {
                Keys::User(_) => {
                    let found = engine.find(namespace, engine.hash(&one.key));
                    // A delete of a key that was found by its hash alone stays in the index.
                    found.filter(|found| !found.is_dead()).map(|found| found.place)
                }
                Keys::Sequential(table) => sequential_id(&one.key).and_then(|id| table.get(id)),
            };
            if let Some(place) = place {
                places.insert(one.key.clone(), place.get());
            }
        }
        let counters = [
            namespace.live_keys,
            namespace.live_bytes,
            namespace.key_bytes,
            namespace.inserts,
            namespace.next_id(),
        ];
        let found = (namespace.settings.clone(), counters, namespace.used, places);
        state.insert(namespace.name.to_vec(), found);
    }
    state
}

/// Segments of the sample that get packed.
fn ranges(random: &mut Random, count: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut from = random.below(2) as usize;
    while from + 1 < count {
        let end = (from + 1 + random.below(3) as usize).min(count - 1);
        ranges.push(from..end);
        from = end + random.below(2) as usize;
    }
    ranges
}

#[test]
fn a_start_over_packed_segments_knows_what_it_knew() {
    for seed in 0..6 {
        let home = sample(seed);
        let all = all(&home);
        let mut random = Random(seed);
        let files = home.copy();
        let (engine, report) = start(&files.writable());
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let before = state(&engine, &all);
        let ranges = ranges(&mut random, home.segments().len());
        // The sidecars of the former segments are still there, and do not count.
        let packed = pack(&home, &ranges, &mut random);
        let (engine, report) = start(&home.writable());
        assert!(report.damage.is_empty(), "seed {seed}: {:?}", report.damage);
        assert!(report.scanned > 20, "nothing was read: {report:?}");
        assert!(state(&engine, &all) == before, "seed {seed}: another state");
        drop(engine);
        let (engine, report) = start(&home.writable());
        assert_eq!(report.scanned, 0, "seed {seed}: the sidecars were made");
        assert!(state(&engine, &all) == before, "seed {seed}: another state from the sidecars");
        drop(engine);
        for base in packed {
            let bytes = std::fs::read(sidecar(&home, base)).expect("a sidecar");
            let cut = random.below(bytes.len() as u64) as usize;
            std::fs::write(sidecar(&home, base), &bytes[..cut]).expect("a sidecar");
        }
        let (engine, report) = start(&home.writable());
        assert!(report.damage.is_empty(), "seed {seed}: {:?}", report.damage);
        assert!(state(&engine, &all) == before, "seed {seed}: another state from cut sidecars");
    }
}

/// A sample that was cleaned, with the sidecars that a start makes; what its records are; and what is known of
/// them. The packed segments stand for its first two, its third, and its fourth to sixth.
fn cleaned(seed: u64) -> (Home, All, BTreeMap<Vec<u8>, State>, Vec<u64>) {
    let home = sample(seed);
    let all = all(&home);
    let packed = pack(&home, &[0..2, 2..3, 3..6], &mut Random(seed));
    let (engine, report) = start(&home.writable());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let state = state(&engine, &all);
    (home, all, state, packed)
}

fn text_of_dump(home: &Home, selection: &Selection) -> String {
    #[derive(Clone, Default)]
    struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let mut lines = Lines::to(Box::new(sink.clone()));
    let log = StoredLog::open(home.read_only()).expect("the log");
    dump(&log, selection, &mut lines).expect("a dump");
    lines.flush();
    let bytes = sink.0.lock().expect("no panic").clone();
    String::from_utf8(bytes).expect("text")
}

fn checked(home: &Home) -> Summary {
    check(home.read_only()).expect("a check")
}

#[test]
fn the_commands_know_packed_segments() {
    for seed in 0..3 {
        let (home, all, before, packed) = cleaned(seed);
        let summary = checked(&home);
        assert_eq!(summary.damaged, 0, "seed {seed}: {summary:?}");
        let keys: u64 = before.values().map(|(_, counters, ..)| counters[0]).sum();
        assert_eq!(summary.keys, keys, "seed {seed}");
        let all_lines = text_of_dump(&home, &Selection::default());
        assert_eq!(all_lines.matches("; cleaned: ").count(), 3);
        assert!(all_lines.contains("\ncleaned away: namespace "));
        for json in [false, true] {
            let segment = Some(packed[1]);
            let one = text_of_dump(&home, &Selection { json, segment, ..Selection::default() });
            assert!(one.lines().count() > 10 && !one.contains("namespace number "), "{one}");
        }
        let to = Home::new();
        let outcome = salvage(home.read_only(), &to).expect("a repair");
        assert!(outcome.is_all_saved(), "seed {seed}: {outcome:?}");
        let (engine, report) = start(&to.writable());
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        for (name, (settings, counters, _, places)) in &before {
            let slot = engine.namespaces.find(name).expect("a namespace");
            let namespace = engine.namespaces.get(slot).expect("a namespace");
            assert_eq!(namespace.settings, *settings);
            assert_eq!(namespace.live_keys, counters[0]);
            assert_eq!(namespace.live_bytes, counters[1]);
            assert_eq!(namespace.live_keys, places.len() as u64);
            if settings.mode == Mode::Sequential {
                assert_eq!(
                    namespace.next_id(),
                    counters[4],
                    "seed {seed}: ids that were given out"
                );
            }
        }
        assert!(all.records.len() as u64 > summary.records + 100, "much was cleaned away");
    }
}

#[test]
fn no_damage_of_packed_segments_brings_what_was_never_written() {
    let (home, ..) = cleaned(1);
    let to = Home::new();
    salvage(home.read_only(), &to).expect("a repair");
    let mut whole = story(&StoredLog::open(to.read_only()).expect("the new log"));
    whole.versions.retain(|version| !is_marker(version));
    damage_rounds(&home, &whole, 15);
}

/// Whatever is damaged, a start that succeeds serves what was written, and the next one serves the same.
#[test]
fn no_start_over_damaged_packed_segments_invents_records() {
    let (home, all, before, _) = cleaned(2);
    let written: BTreeSet<u64> = all.records.iter().map(|one| one.position).collect();
    let mut starts = 0;
    for seed in 0..20 {
        let mut random = Random(seed);
        let copy = home.copy();
        let how: Vec<String> = (0..=random.below(3)).map(|_| damage(&copy, &mut random)).collect();
        let Ok((engine, _)) = try_start(&copy.writable()) else { continue };
        starts += 1;
        let after = state(&engine, &all);
        assert!(places(&after).is_subset(&written), "seed {seed}: {how:?}");
        drop(engine);
        let (engine, _) = try_start(&copy.writable())
            .unwrap_or_else(|line| panic!("seed {seed}: {how:?}: {line}"));
        assert!(places(&state(&engine, &all)) == places(&after), "seed {seed}: {how:?}");
        let kept = places(&before).intersection(&places(&after)).count();
        assert!(
            kept > 10 || how.iter().any(|line| line.contains("removed")),
            "seed {seed}: {how:?}"
        );
    }
    assert!(starts > 10, "most damage does not hinder a start");
}

#[test]
fn what_a_cleaner_leaves_beside_its_segments_goes() {
    let home = sample(2);
    let all = all(&home);
    let raw = home.copy();
    let packed = pack(&home, &[1..4, 5..6], &mut Random(2));
    let names: Vec<PathBuf> =
        raw.segments().iter().map(|path| path.file_name().expect("a name").into()).collect();
    let copy = home.copy();
    let (engine, _) = start(&copy.writable());
    let before = state(&engine, &all);
    drop(engine);
    // One file with its sidecar, one sidecar alone.
    let bases: Vec<u64> = names
        .iter()
        .map(|name| format::segment_base(&name.to_string_lossy()).expect("a base"))
        .collect();
    std::fs::copy(segment(&raw, bases[2]), segment(&home, bases[2])).expect("a left-over");
    std::fs::copy(sidecar(&raw, bases[2]), sidecar(&home, bases[2])).expect("a left-over");
    std::fs::copy(sidecar(&raw, bases[3]), sidecar(&home, bases[3])).expect("a left-over");
    let unfinished = home.data().join(format::unfinished_name(packed[0]));
    std::fs::write(&unfinished, b"half of it").expect("an unfinished one");
    assert_eq!(recovery::missing(&home.writable()), Ok(Vec::new()), "no file is missing");
    let log = StoredLog::open(home.read_only()).expect("the log");
    assert_eq!(log.chain.left_over, [bases[2]]);
    drop(log);
    let contents = home.contents();
    // The sidecar of the packed one is that of the segment before.
    assert_eq!(checked(&home).records_lost, 0);
    let copy = home.copy();
    let on_read_only = ReadOnly(copy.writable());
    let (engine, report) = start(&on_read_only);
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(state(&engine, &all) == before, "another state on a disk that cannot be written");
    assert!(home.contents() == contents, "the tools have changed something");
    let (engine, report) = start(&home.writable());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(state(&engine, &all) == before, "another state");
    assert!(!unfinished.exists() && !segment(&home, bases[2]).exists());
    assert!(!sidecar(&home, bases[2]).exists() && !sidecar(&home, bases[3]).exists());
    drop(engine);
    assert_eq!(checked(&home).damaged, 0);
}

/// A disk that takes no writes any more.
struct ReadOnly(SystemFiles);

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

impl Files for ReadOnly {
    fn list(&self, root: Root) -> io::Result<Vec<String>> {
        self.0.list(root)
    }
    fn open(&self, root: Root, name: &str) -> io::Result<FileId> {
        self.0.open(root, name)
    }
    fn create(&self, _: Root, _: &str, _: u64, _: u64) -> io::Result<(FileId, u64)> {
        refused()
    }
    fn close(&self, file: FileId) {
        self.0.close(file);
    }
    fn stand_in(&self, bytes: u64, parts: &[(u64, Vec<u8>)]) -> io::Result<FileId> {
        self.0.stand_in(bytes, parts)
    }
    fn replace(&self, file: FileId, with: FileId) -> io::Result<()> {
        self.0.replace(file, with)
    }
    fn whereabouts(&self, file: FileId, root: Root, name: &str) -> io::Result<Whereabouts> {
        self.0.whereabouts(file, root, name)
    }
    fn size(&self, file: FileId) -> io::Result<u64> {
        self.0.size(file)
    }
    fn read_at(&self, file: FileId, offset: u64, buffer: &mut AlignedBuffer) -> io::Result<usize> {
        self.0.read_at(file, offset, buffer)
    }
    fn write_at(&self, _: FileId, _: u64, _: &AlignedBuffer) -> io::Result<()> {
        refused()
    }
    fn next_written(&self, file: FileId, offset: u64) -> io::Result<Option<u64>> {
        self.0.next_written(file, offset)
    }
    fn sync(&self, _: FileId) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _: FileId, _: u64) -> io::Result<()> {
        refused()
    }
    fn extend(&self, _: FileId, _: u64) -> io::Result<()> {
        refused()
    }
    fn make_directory(&self, _: Root, _: &str) -> io::Result<()> {
        refused()
    }
    fn sync_directory(&self, _: Root) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, _: Root, _: &str, _: &str) -> io::Result<()> {
        refused()
    }
    fn remove(&self, _: Root, _: &str) -> io::Result<()> {
        refused()
    }
    fn read_small(&self, root: Root, name: &str) -> io::Result<Vec<u8>> {
        self.0.read_small(root, name)
    }
    fn read_part(&self, root: Root, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.0.read_part(root, name, offset, length)
    }
    fn write_small(&self, _: Root, _: &str, _: &[u8]) -> io::Result<()> {
        refused()
    }
    fn write_part(&self, _: Root, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }
    fn free_bytes(&self, root: Root) -> io::Result<u64> {
        self.0.free_bytes(root)
    }
}

/// Changes bytes of a packed segment, with its sidecar and without it, and shows the start over each to a judge.
fn damaged(
    seed: u64,
    which: usize,
    change: impl Fn(&mut Vec<u8>, &[One]),
    judge: impl Fn(&BTreeMap<Vec<u8>, State>, &BTreeMap<Vec<u8>, State>, &[String], bool),
) {
    let (home, all_before, before, packed) = cleaned(seed);
    let base = packed[which];
    let kept: Vec<One> = all(&home).records.into_iter().filter(|one| one.base == base).collect();
    let mut bytes = std::fs::read(segment(&home, base)).expect("a segment");
    change(&mut bytes, &kept);
    std::fs::write(segment(&home, base), bytes).expect("a segment");
    for has_sidecar in [true, false] {
        let copy = home.copy();
        if !has_sidecar {
            std::fs::remove_file(sidecar(&copy, base)).expect("a sidecar");
        }
        assert!(checked(&copy).damaged > 0, "the check says nothing");
        let to = Home::new();
        salvage(copy.read_only(), &to).expect("a repair");
        assert_eq!(checked(&to).damaged, 0, "the repaired log is not whole");
        let (engine, report) = start(&copy.writable());
        let after = state(&engine, &all_before);
        judge(&before, &after, &report.damage, has_sidecar);
        drop(engine);
        // Another start finds the same.
        let (engine, _) = start(&copy.writable());
        assert!(state(&engine, &all_before) == after, "the second start differs from the first");
    }
}

fn are_keys_there(before: &BTreeMap<Vec<u8>, State>, after: &BTreeMap<Vec<u8>, State>) {
    for (name, (settings, counters, _, places)) in before {
        let (_, other_counters, _, other_places) = &after[name];
        assert_eq!(places, other_places);
        assert!(settings.mode == Mode::User || counters[4] <= other_counters[4], "ids come again");
    }
}

#[test]
fn a_lost_trailer_costs_counters_alone() {
    let last_byte = |bytes: &mut Vec<u8>, _: &[One]| {
        let header = SegmentHeader::decode(bytes).expect("a header").packed.expect("packed");
        bytes[packed::trailer_range(&header).0 as usize] ^= 1;
    };
    for which in 0..3 {
        damaged(0, which, last_byte, |before, after, damage, _| {
            assert!(damage.len() == 1 && damage[0].contains("the trailer"), "{damage:?}");
            are_keys_there(before, after);
        });
    }
}

#[test]
fn a_lost_header_costs_counters_alone() {
    for at in [0, 8, 30, 61, 70, 127] {
        damaged(
            1,
            at % 3,
            |bytes, _| bytes[at] ^= 0x40,
            |before, after, damage, _| {
                let told = damage.iter().any(|line| line.contains("the header of a cleaned"));
                assert!(told, "{damage:?}");
                are_keys_there(before, after);
            },
        );
    }
}

/// Where the records of a packed segment are in its file.
fn offsets(kept: &[One]) -> Vec<usize> {
    let starts = kept.iter().scan(SEGMENT_HEADER_BYTES as usize, |at, one| {
        let start = *at;
        *at += one.bytes.len();
        Some(start)
    });
    starts.collect()
}

/// Where all keys are.
fn places(state: &BTreeMap<Vec<u8>, State>) -> BTreeSet<u64> {
    state.values().flat_map(|(.., places)| places.values().copied()).collect()
}

#[test]
fn a_damaged_record_costs_itself_alone() {
    // In the head, in the key, in the payload.
    for (at, within) in [(0, 5), (3, 45), (7, 16), (9, 60), (12, 43), (15, 44)] {
        damaged(
            0,
            2,
            |bytes, kept| {
                let sets = |number: &usize| {
                    kept[*number].head.kind == Kind::Set && kept[*number].head.payload_length > 100
                };
                let number = (0..kept.len()).filter(sets).nth(at).expect("a version");
                bytes[offsets(kept)[number] + within] ^= 0x10;
            },
            |before, after, damage, has_sidecar| {
                assert_eq!(damage.len(), usize::from(!has_sidecar), "{damage:?}");
                let (before, after) = (places(before), places(after));
                let gone = before.difference(&after).count();
                assert!(gone <= 1 && after.is_subset(&before), "{gone} keys are gone");
                assert!(!has_sidecar || gone == 0);
            },
        );
    }
}

/// A block that cannot be read, and one that holds something else.
#[test]
fn a_lost_block_costs_its_own_records_alone() {
    for fill in [0, 0xa5] {
        damaged(
            2,
            2,
            |bytes, _| bytes[4 * BLOCK as usize..5 * BLOCK as usize].fill(fill),
            |before, after, damage, has_sidecar| {
                let read = damage.iter().filter(|line| !line.contains("the settings of namespace"));
                assert_eq!(read.count() == 0, has_sidecar, "{damage:?}");
                let gone = places(before).difference(&places(after)).count();
                assert!(gone < 20, "{gone} keys are gone");
            },
        );
    }
}

/// A packed segment at the end of the log is not taken for one that was made ahead, whatever it lost.
#[test]
fn a_packed_segment_at_the_end_stays() {
    let (home, ..) = cleaned(0);
    let mut paths = home.segments();
    let last_packed = paths[2].clone();
    for path in paths.drain(3..) {
        std::fs::remove_file(&path).expect("a segment");
        let name = path.with_extension("sidecar");
        std::fs::remove_file(home.index().join(name.file_name().expect("a name")))
            .expect("a sidecar");
    }
    let header =
        SegmentHeader::decode(&std::fs::read(&last_packed).expect("it")).expect("a header");
    let (engine, report) = start(&home.writable());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let behind = engine.log.segments.last().expect("a segment");
    assert_eq!((behind.base, behind.capacity), (header.base, header.capacity));
    let keys = keys_in(&engine);
    drop(engine);
    let mut bytes = std::fs::read(&last_packed).expect("it");
    bytes[70] ^= 1;
    std::fs::write(&last_packed, bytes).expect("it");
    let (engine, report) = start(&home.writable());
    assert!(last_packed.exists(), "it was removed");
    let behind = engine.log.segments.last().expect("a segment");
    assert!(behind.base == header.base && behind.capacity >= header.capacity);
    assert_eq!(keys_in(&engine), keys, "{:?}", report.damage);
}

fn keys_in(engine: &Engine) -> u64 {
    let keys = engine.namespaces.iter().map(|one| match &one.keys {
        Keys::User(table) => table.len() as u64,
        Keys::Sequential(table) => table.live(),
    });
    keys.sum()
}
