//! The three commands over directories whose bytes are damaged at random, and over disks that cannot read.

use super::check::{self, Summary};
use super::dump::{Selection, dump};
use super::replay::Outcome;
use super::stored::{Flow, Lost, Seen, StoredLog, Trouble, Visitor};
use super::{Lines, repair};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::system::SystemFiles;
use crate::disk::{FileId, Files, Root, Whereabouts};
use crate::engine::chain::Link;
use crate::engine::log::Policy;
use crate::engine::log::format::{
    BLOCK, Head, Kind, RECORD_HEAD_BYTES, Verified, encode, segment_base, segment_name,
};
use crate::engine::namespace::{Access, Mode, Retention, Settings};
use crate::engine::recovery::{self, IMPORT_UNFINISHED_NAME, StartOptions};
use crate::import::writer::Writer;
use crate::limits::SEGMENT_BYTES_MIN;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Rounds of damage unless `ZDB_DAMAGE_ROUNDS` asks for others.
const ROUNDS: u64 = 60;

/// Numbers that follow from a seed (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % count.max(1)
    }
}

/// A directory that goes with the value.
pub(super) struct Home(pub(super) PathBuf);

impl Home {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("zdb-offline-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    pub(super) fn writable(&self) -> SystemFiles {
        SystemFiles::open(&self.data(), &self.index()).expect("the directories can be opened").0
    }

    pub(super) fn read_only(&self) -> Box<SystemFiles> {
        let opened = SystemFiles::open_to_read(&self.data(), &self.index());
        Box::new(opened.expect("the directories can be opened"))
    }

    pub(super) fn copy(&self) -> Self {
        let copy = Self::new();
        for root in ["data", "index"] {
            std::fs::create_dir_all(copy.0.join(root)).expect("a directory");
            for entry in std::fs::read_dir(self.0.join(root)).expect("a directory") {
                let entry = entry.expect("an entry");
                std::fs::copy(entry.path(), copy.0.join(root).join(entry.file_name()))
                    .expect("a copy");
            }
        }
        copy
    }

    /// Every file with its bytes.
    pub(super) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for root in ["data", "index"] {
            for entry in std::fs::read_dir(self.0.join(root)).expect("a directory") {
                let path = entry.expect("an entry").path();
                found.insert(path.clone(), std::fs::read(&path).expect("a file"));
            }
        }
        found
    }

    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let names = self.contents().into_keys();
        let is_log = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log");
        names.filter(is_log).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A log of some segments with what namespaces can be and keys can go through.
pub(super) fn sample() -> Home {
    let home = Home::new();
    let mut writer =
        Writer::start(home.writable(), SEGMENT_BYTES_MIN, IMPORT_UNFINISHED_NAME, None)
            .expect("a new log");
    let mut random = Random(7);
    let settings = Settings::new(Mode::User);
    let password = Some(b"secret".to_vec());
    let retention = Retention::Days(9);
    let closed =
        Settings { password, public: false, max_bytes: 9999, retention, ..settings.clone() };
    let ids = Settings { worm: true, ..Settings::new(Mode::Sequential) };
    let user = writer.create(b"default", &settings).expect("default");
    let closed_slot = writer.create(b"closed", &closed).expect("a namespace");
    let ids_slot = writer.create(b"ids", &ids).expect("a namespace");
    let gone = writer.create(b"gone", &settings).expect("a namespace");
    let mut next_id = 0;
    for step in 1..=900u32 {
        let payload: Vec<u8> =
            (0..random.below(4000)).map(|at| (at as u8).wrapping_mul(step as u8)).collect();
        let key = format!("key {}", random.below(120)).into_bytes();
        let slot = [user, closed_slot, gone][random.below(3) as usize];
        match random.below(8) {
            0 => drop(writer.delete(user, &key, step).expect("a delete")),
            1 | 2 => {
                writer.set_id(ids_slot, next_id, &payload, step).expect("an id");
                next_id += 1;
            }
            _ if step < 500 || slot != gone => {
                writer.set_user(slot, &key, &payload, step).expect("a version");
            }
            _ => {}
        }
        if step == 300 {
            writer.flush(closed_slot, &closed).expect("a flush");
        }
        if step == 500 {
            writer.remove(gone).expect("a removal");
        }
    }
    let locked = Settings { access: Access::Locked, ..closed };
    writer.change(closed_slot, &locked).expect("a change");
    writer.finish().expect("the end");
    home
}

/// A version or a delete: namespace, key, time, value.
pub(super) type Version = (String, Vec<u8>, u32, Option<Vec<u8>>);

/// Everything that a log says, without places.
#[derive(Default)]
pub(super) struct Story {
    names: HashMap<u32, String>,
    pub(super) versions: Vec<Version>,
    pub(super) settings: BTreeMap<String, Settings>,
    pub(super) losses: Vec<(u64, u64)>,
}

impl Visitor for Story {
    fn segment(&mut self, _: &Link) -> Flow {
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let record = seen.record;
        let id = record.head.namespace;
        match record.head.kind {
            Kind::Namespace => {
                let name = String::from_utf8_lossy(record.key()).into_owned();
                let settings = Settings::decode(record.payload()).expect("settings");
                self.settings.insert(name.clone(), settings);
                self.names.insert(id, name);
            }
            Kind::NamespaceEnd => {
                let name = self.names.get(&id).cloned().unwrap_or_default();
                self.settings.remove(&name);
            }
            Kind::Set | Kind::Delete => {
                let name = self.names.get(&id).cloned().unwrap_or_default();
                let value = (record.head.kind == Kind::Set).then(|| record.payload().to_vec());
                let key = record.key().to_vec();
                self.versions.push((name, key, record.head.timestamp, value));
            }
            _ => {}
        }
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        self.losses.push((lost.start, lost.end));
        Ok(())
    }

    fn trouble(&mut self, _: Trouble) -> Flow {
        Ok(())
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, _: u64) {}
}

pub(super) fn story(log: &StoredLog) -> Story {
    let mut story = Story::default();
    assert!(log.visit(&|_| true, &mut story).is_ok(), "a walk that nobody stops");
    story
}

pub(super) fn silent() -> Lines {
    Lines::to(Box::new(io::sink()))
}

pub(super) fn check(files: Box<dyn Files>) -> Result<Summary, String> {
    check::check(&StoredLog::open(files)?, 0, true, &mut silent())
}

pub(super) fn salvage(files: Box<dyn Files>, to: &Home) -> Result<Outcome, String> {
    repair::copy(&StoredLog::open(files)?, to.writable(), &mut silent())
}

#[test]
fn a_whole_log_is_whole_and_its_repair_tells_the_same_story() {
    let home = sample();
    let before = home.contents();
    let summary = check(home.read_only()).expect("a check");
    assert_eq!(summary.damaged, 0, "{summary:?}");
    assert!(summary.segments > 2 && summary.records > 700, "{summary:?}");
    let to = Home::new();
    let outcome = salvage(home.read_only(), &to).expect("a repair");
    assert!(outcome.is_all_saved(), "{outcome:?}");
    assert_eq!(before.len() + 2, home.contents().len() + 2, "no file more");
    assert!(home.contents() == before, "the old directories were changed");
    let old = story(&StoredLog::open(home.read_only()).expect("the old log"));
    let new = story(&StoredLog::open(to.read_only()).expect("the new log"));
    assert!(old.versions == new.versions, "another history");
    assert_eq!(old.settings, new.settings);
    let again = check(to.read_only()).expect("a check of the new log");
    assert_eq!((again.damaged, again.keys, again.versions), (0, summary.keys, summary.versions));
    assert_eq!(again.live_bytes, summary.live_bytes);
}

/// The first record that replaces something in a namespace.
struct FindReplacing {
    namespace: u32,
    found: Option<(u64, u64, Vec<u8>)>,
}

impl Visitor for FindReplacing {
    fn segment(&mut self, _: &Link) -> Flow {
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let head = seen.record.head;
        if head.namespace == self.namespace && head.replaced.is_some() && self.found.is_none() {
            self.found = Some((seen.base, seen.position, seen.record.bytes().to_vec()));
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Flow {
        Ok(())
    }

    fn trouble(&mut self, _: Trouble) -> Flow {
        Ok(())
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, _: u64) {}
}

/// Lines that are kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole record that counts wrong what it replaces, in a namespace of keys and in one of ids.
#[test]
fn a_wrong_length_of_the_version_before_is_found() {
    for name in ["user", "ids"] {
        let home = Home::new();
        let mut writer =
            Writer::start(home.writable(), SEGMENT_BYTES_MIN, IMPORT_UNFINISHED_NAME, None)
                .expect("a new log");
        let mode = if name == "ids" { Mode::Sequential } else { Mode::User };
        let slot = writer.create(name.as_bytes(), &Settings::new(mode)).expect("a namespace");
        for payload in [&b"four"[..], b"eleven byte"] {
            match mode {
                Mode::User => writer.set_user(slot, b"key", payload, 1).expect("a version"),
                Mode::Sequential => writer.set_id(slot, 3, payload, 1).expect("a version"),
            }
        }
        let namespace = writer.namespace(slot).id;
        writer.finish().expect("the end");
        assert_eq!(check(home.read_only()).expect("a check").damaged, 0);
        let log = StoredLog::open(home.read_only()).expect("the log");
        let seed = log.id.seed();
        let mut find = FindReplacing { namespace, found: None };
        assert!(log.visit(&|_| true, &mut find).is_ok(), "a walk that nobody stops");
        let (base, position, mut bytes) = find.found.expect("a record that replaces one");
        let record = Verified::check(&bytes.clone(), seed, position).expect("it is whole").head;
        assert_eq!(record.replaced, Some(4));
        let (key, payload) = bytes[RECORD_HEAD_BYTES..]
            [..record.payload_offset() - RECORD_HEAD_BYTES + record.payload_length as usize]
            .split_at(record.key_length.into());
        let (key, payload) = (key.to_vec(), payload.to_vec());
        let head = Head { replaced: Some(5), ..record };
        encode(&mut bytes, seed, position, &head, &key, &payload);
        drop(log);
        let path = home.data().join(segment_name(base));
        let mut segment = std::fs::read(&path).expect("the segment");
        segment[(position - base) as usize..][..bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&path, segment).expect("the segment");
        let kept = Kept::default();
        let log = StoredLog::open(home.read_only()).expect("the log");
        let mut lines = Lines::to(Box::new(kept.clone()));
        check::check(&log, 0, false, &mut lines).expect("a check");
        lines.flush();
        let text = String::from_utf8(kept.0.lock().expect("no panic").clone()).expect("text");
        let told = text.contains("it says that it replaces 5 bytes, but it is 4 bytes");
        assert!(told, "{text}");
    }
}

/// Damages one file at random, and says how.
pub(super) fn damage(home: &Home, random: &mut Random) -> String {
    let contents = home.contents();
    let paths: Vec<&PathBuf> = contents.keys().filter(|path| path.extension().is_some()).collect();
    let path = paths[random.below(paths.len() as u64) as usize];
    let mut bytes = contents[path].clone();
    let at = random.below(bytes.len() as u64) as usize;
    let what = match random.below(10) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let end = (at + BLOCK as usize).min(bytes.len());
            bytes[at..end].fill(0);
            format!("zeroes from {at}")
        }
        2 => {
            let end = (at + random.below(70_000) as usize).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.below(256) as u8);
            format!("noise from {at} to {end}")
        }
        3 if random.below(3) == 0 => {
            std::fs::remove_file(path).expect("a file");
            return format!("{} removed", path.display());
        }
        _ => {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8));
            format!("a bit at {at}")
        }
    };
    std::fs::write(path, bytes).expect("a file");
    format!("{}: {what}", path.display())
}

/// Whatever bytes are damaged, nothing panics, and what is saved was once written.
#[test]
fn no_damage_brings_what_was_never_written() {
    let home = sample();
    let whole = story(&StoredLog::open(home.read_only()).expect("the log"));
    damage_rounds(&home, &whole, ROUNDS);
}

/// The same for any log, of which a whole repair would tell this story.
pub(super) fn damage_rounds(home: &Home, whole: &Story, rounds: u64) {
    let asked = std::env::var("ZDB_DAMAGE_ROUNDS").ok().and_then(|text| text.parse().ok());
    let written: BTreeSet<&Version> = whole.versions.iter().collect();
    for seed in 0..asked.unwrap_or(rounds) {
        let mut random = Random(seed);
        let copy = home.copy();
        let how: Vec<String> = (0..=random.below(4)).map(|_| damage(&copy, &mut random)).collect();
        let when = format!("seed {seed}: {how:?}");
        let before = copy.contents();
        let Ok(summary) = check(copy.read_only()) else { continue };
        let log = StoredLog::open(copy.read_only()).expect("it was opened before");
        for json in [false, true] {
            let selection = Selection { json, payload: true, ..Selection::default() };
            dump(&log, &selection, &mut silent()).expect(&when);
        }
        let to = Home::new();
        let outcome = salvage(copy.read_only(), &to).expect(&when);
        assert!(copy.contents() == before, "{when}: the damaged directory was changed");
        assert!(summary.damaged > 0 || outcome.is_all_saved(), "{when}: {outcome:?}");
        let again = check(to.read_only()).expect(&when);
        assert_eq!(again.damaged, 0, "{when}: the repaired log is not whole");
        let saved = story(&StoredLog::open(to.read_only()).expect(&when));
        for version in &saved.versions {
            let (name, key, time, value) = version;
            let renamed = name.starts_with("recovered-");
            let is_marker = is_marker(version);
            let known = written.contains(version)
                || renamed
                    && whole.versions.iter().any(|(_, k, t, v)| (k, t, v) == (key, time, value))
                || value.is_none()
                || is_marker;
            assert!(known, "{when}: {name} {key:?} at {time} was never written");
        }
        // The end of the log, where its sidecar is damaged too, can look like one that a crash tore.
        if outcome.is_all_saved() {
            let saved: Vec<&Version> =
                saved.versions.iter().filter(|one| !is_marker(one)).collect();
            let is_same = whole.versions.iter().zip(&saved).all(|(one, other)| one == *other)
                && saved.len() <= whole.versions.len();
            assert!(is_same, "{when}: another history, and no word of it");
        }
    }
}

/// What a repair writes to use ids up, at a time at which nobody else does.
pub(super) fn is_marker(version: &Version) -> bool {
    let (_, key, time, value) = version;
    key.len() == 8 && *time == 0 && value.as_ref().is_none_or(Vec::is_empty)
}

/// A disk that cannot read some blocks of one file.
pub(super) struct Failing {
    files: Box<SystemFiles>,
    name: String,
    blocks: Range<u64>,
    opened: Mutex<HashMap<FileId, String>>,
}

impl Failing {
    pub(super) fn new(files: Box<SystemFiles>, path: &Path, blocks: Range<u64>) -> Self {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        Self { files, name, blocks, opened: Mutex::default() }
    }
}

impl Files for Failing {
    fn list(&self, root: Root) -> io::Result<Vec<String>> {
        self.files.list(root)
    }
    fn open(&self, root: Root, name: &str) -> io::Result<FileId> {
        let file = self.files.open(root, name)?;
        self.opened.lock().expect("no panic").insert(file, name.to_owned());
        Ok(file)
    }
    fn create(&self, root: Root, name: &str, most: u64, least: u64) -> io::Result<(FileId, u64)> {
        self.files.create(root, name, most, least)
    }
    fn close(&self, file: FileId) {
        self.files.close(file);
    }
    fn stand_in(&self, bytes: u64, parts: &[(u64, Vec<u8>)]) -> io::Result<FileId> {
        self.files.stand_in(bytes, parts)
    }
    fn replace(&self, file: FileId, with: FileId) -> io::Result<()> {
        self.files.replace(file, with)
    }
    fn whereabouts(&self, file: FileId, root: Root, name: &str) -> io::Result<Whereabouts> {
        self.files.whereabouts(file, root, name)
    }
    fn size(&self, file: FileId) -> io::Result<u64> {
        self.files.size(file)
    }
    fn read_at(&self, file: FileId, offset: u64, buffer: &mut AlignedBuffer) -> io::Result<usize> {
        let end = offset + buffer.len() as u64;
        let is_bad = self.opened.lock().expect("no panic").get(&file) == Some(&self.name);
        if is_bad && offset < self.blocks.end * BLOCK && self.blocks.start * BLOCK < end {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.files.read_at(file, offset, buffer)
    }
    fn write_at(&self, file: FileId, offset: u64, bytes: &AlignedBuffer) -> io::Result<()> {
        self.files.write_at(file, offset, bytes)
    }
    fn next_written(&self, file: FileId, offset: u64) -> io::Result<Option<u64>> {
        self.files.next_written(file, offset)
    }
    fn sync(&self, file: FileId) -> io::Result<()> {
        self.files.sync(file)
    }
    fn truncate(&self, file: FileId, length: u64) -> io::Result<()> {
        self.files.truncate(file, length)
    }
    fn extend(&self, file: FileId, length: u64) -> io::Result<()> {
        self.files.extend(file, length)
    }
    fn make_directory(&self, root: Root, name: &str) -> io::Result<()> {
        self.files.make_directory(root, name)
    }
    fn sync_directory(&self, root: Root) -> io::Result<()> {
        self.files.sync_directory(root)
    }
    fn rename(&self, root: Root, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(root, from, to)
    }
    fn remove(&self, root: Root, name: &str) -> io::Result<()> {
        self.files.remove(root, name)
    }
    fn read_small(&self, root: Root, name: &str) -> io::Result<Vec<u8>> {
        self.files.read_small(root, name)
    }
    fn read_part(&self, root: Root, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.files.read_part(root, name, offset, length)
    }
    fn write_small(&self, root: Root, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.write_small(root, name, bytes)
    }
    fn write_part(&self, root: Root, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.files.write_part(root, name, offset, bytes)
    }
    fn free_bytes(&self, root: Root) -> io::Result<u64> {
        self.files.free_bytes(root)
    }
}

/// One block that cannot be read costs the records in it, and no others.
#[test]
fn an_unreadable_block_costs_its_own_records() {
    let home = sample();
    let whole = story(&StoredLog::open(home.read_only()).expect("the log"));
    let segment = home.segments().remove(1);
    let files = || Box::new(Failing::new(home.read_only(), &segment, 20..21));
    let summary = check(files()).expect("a check");
    assert!(summary.damaged > 0, "{summary:?}");
    let log = StoredLog::open(files()).expect("the log");
    let damaged = story(&log);
    let base =
        segment_base(&segment.file_name().expect("a name").to_string_lossy()).expect("a base");
    let bad = base + 20 * BLOCK..base + 21 * BLOCK;
    // Records around the block are up to 4 KiB long.
    assert!(
        damaged.losses.iter().all(|(start, end)| start + 8192 > bad.start && *end < bad.end + 8192)
    );
    assert!(damaged.versions.len() < whole.versions.len());
    assert!(whole.versions.len() - damaged.versions.len() < 40, "a block holds no more");
    let to = Home::new();
    let outcome = salvage(files(), &to).expect("a repair");
    assert!(!outcome.is_all_saved(), "{outcome:?}");
    let saved = story(&StoredLog::open(to.read_only()).expect("the new log"));
    let is_saved = |version: &&Version| saved.versions.contains(version);
    let kept = damaged.versions.iter().filter(is_saved).count();
    let idle = damaged.versions.len() - kept;
    // A delete whose version was lost has nothing to end.
    assert!(idle <= 3, "{idle} whole records were not saved");
    assert_eq!(check(to.read_only()).expect("a check").damaged, 0);
}

fn start(files: &dyn Files) -> Result<Vec<String>, String> {
    let options = StartOptions {
        mode: None,
        policy: Policy::No,
        segment_bytes: SEGMENT_BYTES_MIN,
        cache_bytes: 0,
        buffer: None,
        random: [3; 32],
    };
    recovery::start(files, options).map(|(_, report)| report.damage)
}

/// A server starts over a bad block in the middle, and not over one where its log may go on.
#[test]
fn a_server_starts_over_an_unreadable_block() {
    let home = sample();
    for path in home.contents().into_keys() {
        if path.extension().is_some_and(|ending| ending == "sidecar") {
            std::fs::remove_file(path).expect("a sidecar");
        }
    }
    let segments = home.segments();
    let copy = home.copy();
    let files = Failing::new(Box::new(copy.writable()), &segments[1], 20..21);
    let damage = start(&files).expect("a start");
    let told =
        damage.iter().any(|line| line.contains("at offset 81920: 4096 bytes cannot be read"));
    assert!(told, "{damage:?}");
    let last = segments.last().expect("a segment");
    let blocks = std::fs::metadata(last).expect("the last segment").len() / BLOCK;
    let copy = home.copy();
    let before = copy.contents();
    let files = Failing::new(Box::new(copy.writable()), last, blocks - 1..blocks);
    let refusal = start(&files).expect_err("the end of the log is not known");
    assert!(refusal.contains("it is the last segment"), "{refusal}");
    drop(files);
    let name = copy.data().join(last.file_name().expect("a name"));
    assert!(before[&name] == std::fs::read(&name).expect("the segment"), "it was changed");
}
