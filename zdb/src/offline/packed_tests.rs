//! Starts and the three commands over packed segments, as a cleaner leaves them and as crashes and disks do.

use super::stored::{Flow, Lost, Seen, StoredLog, Trouble, Visitor};
use super::tests::{Home, Random};
use crate::disk::{Files, Root};
use crate::engine::Engine;
use crate::engine::chain::Link;
use crate::engine::log::Policy;
use crate::engine::log::format::{self, Head, Kind, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::log::packed::{Builder, Cover, Residue};
use crate::engine::namespace::{Access, Keys, Mode, Settings};
use crate::engine::recovery::{self, IMPORT_UNFINISHED_NAME, StartOptions, StartReport};
use crate::engine::sequential_id;
use crate::import::writer::Writer;
use crate::limits::SEGMENT_BYTES_MIN;
use std::collections::{BTreeMap, BTreeSet};
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
    for step in 0..2500u32 {
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
    let options = StartOptions {
        mode: None,
        policy: Policy::No,
        segment_bytes: SEGMENT_BYTES_MIN,
        cache_bytes: 0,
        buffer: None,
        random: [3; 32],
    };
    recovery::start(files, options).expect("a start")
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
