//! One namespace of a 0-db, written again: its records in their order, then a comparison with what its
//! index says.

use super::format::id_of;
use super::format::{self, ENTRY_HEAD_BYTES, Entry, INDEX_HEADER_BYTES, SEQUENTIAL_ENTRY_BYTES};
use super::report::{Report, shown_key};
use super::settings;
use super::source::{OldNamespace, Window};
use super::walk::{Item, Lost, Walk};
use super::writer::Writer;
use crate::engine::index::SKIP_IDS_MAX;
use crate::limits::{IMPORT_LOST_KEYS_MAX, IMPORT_LOST_RANGES_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 1024;
/// What came of a namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    versions: u64,
    deletes: u64,
    /// Tombstones of keys that were gone already.
    idle_deletes: u64,
    placeholders: u64,
    lost: u64,
    stale: u64,
}

/// Bytes of an old data file that are lost, and where the new log was when that was found.
struct LostRange {
    file: u32,
    start: u64,
    end: u64,
    position: u64,
}

pub struct Replay<'a> {
    old: &'a OldNamespace,
    writer: &'a mut Writer,
    report: &'a mut Report,
    slot: usize,
    sequential: bool,
    totals: Totals,
    /// The id that 0-db would have given out next.
    next_id: u64,
    /// How many ids may have been given out beside, in bytes that are lost.
    ids_lost_max: u64,
    /// Entries of the index: so many ids 0-db knows of.
    entries_listed: u64,
    lost_ranges: Vec<LostRange>,
    lost_keys: BTreeMap<Vec<u8>, (u64, u32)>,
    /// Of each data file: where it ended, and where the new log was then. Missing ones end at 0.
    ends: BTreeMap<u32, (u64, u64)>,
}

/// Copies a namespace.
pub fn replay(old: &OldNamespace, writer: &mut Writer, report: &mut Report) -> Result<(), String> {
    let sequential = settings::find_mode(old, report)?;
    let settings = settings::find_settings(old, sequential, report)?;
    let slot = writer.create(&old.name, &settings)?;
    let mut replay = Replay {
        old,
        writer,
        report,
        slot,
        sequential,
        totals: Totals::default(),
        next_id: 0,
        ids_lost_max: 0,
        entries_listed: 0,
        lost_ranges: Vec::new(),
        lost_keys: BTreeMap::new(),
        ends: BTreeMap::new(),
    };
    replay.data_files()?;
    replay.compare_with_index()?;
    replay.drop_lost_keys()?;
    if sequential {
        replay.use_up_ids()?;
    }
    replay.summarise();
    Ok(())
}

impl Replay<'_> {
    // ---------------------------------------------------------------- the data files

    fn data_files(&mut self) -> Result<(), String> {
        let numbers: BTreeSet<u32> =
            self.old.data_files.keys().chain(self.old.index_files.keys()).copied().collect();
        let mut next = 0;
        for number in numbers {
            if number > next {
                self.report.damage(&format!(
                    "{}: data and index files {next} to {} are missing",
                    self.old.data_directory.display(),
                    number - 1
                ));
                self.ids_lost_max = SKIP_IDS_MAX;
            }
            next = number.saturating_add(1);
            if self.old.data_files.contains_key(&number) {
                self.data_file(number)?;
            } else {
                self.missing_file(number);
            }
        }
        Ok(())
    }

    fn missing_file(&mut self, number: u32) {
        self.ends.insert(number, (0, self.writer.position()));
        let entries = self.old.index_files[&number].saturating_sub(INDEX_HEADER_BYTES);
        if entries > 0 {
            self.allow_ids(entries / SEQUENTIAL_ENTRY_BYTES);
            let path = self.old.data_path(number);
            self.report.damage(&format!("{}: the data file is missing", path.display()));
        }
    }

    fn data_file(&mut self, number: u32) -> Result<(), String> {
        let path = self.old.data_path(number);
        let mut walk = Walk::open(&path, self.old.index_path(number))?;
        if let Err(bad) = walk.check_header(number) {
            self.report.damage(&format!("{} at offset 0: {bad}", path.display()));
        }
        if !self.old.index_files.contains_key(&number) {
            self.report.damage(&format!(
                "{}: the index file is missing; the data file tells all that it does",
                self.old.index_path(number).display()
            ));
        }
        let mut witness = self.witness(number);
        let mut done = 0;
        while let Some(item) = walk.next_item() {
            match item {
                Item::Record { offset, head, healed } => {
                    if healed {
                        self.report.damage(&format!(
                            "{} at offset {offset}: the checksum of a record is damaged; the index has a copy \
                             that agrees with the payload, so the record is taken",
                            path.display()
                        ));
                    }
                    let end = walk.position();
                    let Some((key, payload)) = walk.record(offset, &head) else { continue };
                    if let Some(witness) = &mut witness
                        && let Some(other) = witness.contradicts(offset, key, &head)
                    {
                        let key = shown_key(key, false);
                        self.report.damage(&format!(
                            "{} at offset {offset}: the data file says {key} at {}, the index {other}: the data file \
                             counts",
                            path.display(),
                            head.timestamp
                        ));
                    }
                    if let Err(what) = self.take(key, payload, &head)? {
                        let key = shown_key(key, self.sequential);
                        self.lose(
                            number,
                            &Lost { start: offset, end, what, records: None, key: None },
                        )?;
                        self.report.damage(&format!(
                            "{} at offset {offset}: {what} ({key}); 1 record is lost",
                            path.display()
                        ));
                    }
                }
                Item::Placeholder { .. } => {
                    self.totals.placeholders += 1;
                    self.allow_ids(1);
                }
                Item::Lost(lost) => {
                    self.report_lost(&path.display().to_string(), &lost);
                    self.lose(number, &lost)?;
                }
            }
            self.report.records += 1;
            if self.report.records.is_multiple_of(PROGRESS_RECORDS) {
                self.report.advance(walk.position() - done);
                done = walk.position();
            }
            for (offset, error) in walk.take_unreadable() {
                self.report.damage(&format!(
                    "{} at offset {offset}: cannot be read: {error}",
                    path.display()
                ));
            }
        }
        self.report.advance(walk.length().saturating_sub(done));
        self.ends.insert(number, (walk.length(), self.writer.position()));
        Ok(())
    }

    /// In sequential mode an update moves entries, and the ids themselves count up.
    fn witness(&self, number: u32) -> Option<Witness> {
        let is_listed = !self.sequential && self.old.index_files.contains_key(&number);
        let window =
            is_listed.then(|| Window::open(&self.old.index_path(number)).ok()).flatten()?;
        Some(Witness { window, position: INDEX_HEADER_BYTES })
    }

    /// Writes a record anew; the inner error says why it cannot be one.
    fn take(
        &mut self,
        key: &[u8],
        payload: &[u8],
        head: &format::Record,
    ) -> Result<Result<(), &'static str>, String> {
        if self.sequential {
            let Some(id) = id_of(key) else {
                return Ok(Err("a record of a sequential namespace whose key is no id"));
            };
            if let Err(what) = self.count_id(id, head.is_delete()) {
                return Ok(Err(what));
            }
            if !head.is_delete() {
                self.totals.versions += 1;
                self.writer.set_id(self.slot, id, payload, head.timestamp)?;
                return Ok(Ok(()));
            }
        }
        if !head.is_delete() {
            self.totals.versions += 1;
            self.writer.set_user(self.slot, key, payload, head.timestamp)?;
        } else if self.writer.delete(self.slot, key, head.timestamp)? {
            self.totals.deletes += 1;
        } else {
            self.totals.idle_deletes += 1;
        }
        Ok(Ok(()))
    }

    /// Follows 0-db in giving out ids: a new key gets the next one, and an update uses one up. An id from
    /// further on is only possible where records are lost; it may then be a new one, or an update or
    /// a delete of a lost one.
    fn count_id(&mut self, id: u64, is_delete: bool) -> Result<(), &'static str> {
        let uses_up = u64::from(!is_delete);
        let furthest = self.next_id.saturating_add(self.ids_lost_max);
        let skips = id.saturating_sub(self.writer.namespace(self.slot).next_id());
        if id >= furthest.saturating_add(uses_up) || skips > SKIP_IDS_MAX {
            self.next_id += uses_up;
            return Err("the id of a record was never given out");
        }
        if id < self.next_id {
            self.next_id += uses_up;
        } else {
            self.next_id = id + 1;
            self.ids_lost_max = (furthest + uses_up - self.next_id).min(self.ids_lost_max);
        }
        Ok(())
    }

    fn allow_ids(&mut self, count: u64) {
        self.ids_lost_max = self.ids_lost_max.saturating_add(count).min(SKIP_IDS_MAX);
    }

    fn report_lost(&mut self, path: &str, lost: &Lost) {
        let bytes = lost.end - lost.start;
        let records = match lost.records {
            Some(1) => "1 record is lost".into(),
            Some(count) => format!("{count} records are lost"),
            None => "how many records are lost is not known".to_string(),
        };
        let key = lost
            .key
            .as_ref()
            .map_or(String::new(), |(key, _)| format!(" of {}", shown_key(key, self.sequential)));
        self.report.damage(&format!(
            "{path} at offset {}: {}{key}; {bytes} bytes, {records}",
            lost.start, lost.what
        ));
    }

    fn lose(&mut self, file: u32, lost: &Lost) -> Result<(), String> {
        let position = self.writer.position();
        self.totals.lost += lost.records.unwrap_or(1);
        let is_full = self.lost_ranges.len() >= IMPORT_LOST_RANGES_MAX;
        match self.lost_ranges.last_mut() {
            // What lies between two of them was copied later than the first was lost, which is what counts.
            Some(last) if last.file == file && is_full => last.end = lost.end,
            _ => self.lost_ranges.push(LostRange {
                file,
                start: lost.start,
                end: lost.end,
                position,
            }),
        }
        let id = lost.key.as_ref().and_then(|(key, _)| id_of(key)).filter(|_| self.sequential);
        if id.is_none_or(|id| self.count_id(id, false).is_err()) {
            self.allow_ids((lost.end - lost.start) / format::SEQUENTIAL_RECORD_BYTES_MIN + 1);
        }
        let Some((key, timestamp)) = &lost.key else { return Ok(()) };
        if self.lost_keys.len() < IMPORT_LOST_KEYS_MAX {
            self.lost_keys.insert(key.clone(), (position, *timestamp));
            return Ok(());
        }
        // Too many to wait for a newer version of each: what is older is cut off at once.
        self.drop_stale(key, *timestamp)
    }

    // ---------------------------------------------------------------- the index

    /// Goes through the index: entries whose records are lost, keys that it shows and the data does not,
    /// and the other way round.
    fn compare_with_index(&mut self) -> Result<(), String> {
        self.lost_ranges.sort_by_key(|range| (range.file, range.start));
        let mut is_whole = self.old.index_files.len() >= self.old.data_files.len();
        let (mut shown, mut deleted) = (0u64, 0u64);
        let mut behind: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        for number in self.old.index_files.keys().copied() {
            let path = self.old.index_path(number);
            let mut window = Window::open(&path)?;
            if let Err(bad) =
                format::check_index_header(window.at(0, INDEX_HEADER_BYTES as usize), number)
            {
                self.report.damage(&format!("{} at offset 0: {bad}", path.display()));
            }
            let mut position = INDEX_HEADER_BYTES;
            while position < window.length() {
                let bytes = window.at(position, ENTRY_HEAD_BYTES + 255);
                let Some((entry, key)) = Entry::parse(bytes)
                    .filter(|(_, key)| !self.sequential || key.len() == format::ID_BYTES)
                else {
                    is_whole = false;
                    self.report.damage(&format!(
                        "{} at offset {position}: a damaged entry; the {} bytes of the index from here on are \
                         not used, the data files tell what is in them",
                        path.display(),
                        window.length() - position
                    ));
                    break;
                };
                position += entry.bytes();
                self.entries_listed += 1;
                let file = if self.sequential { entry.data_file } else { number };
                // In sequential mode these are copies that 0-db makes on an update, with a wrong file.
                if entry.is_deleted && self.sequential {
                    continue;
                }
                let lost = self.lost_at(file, entry.offset.into());
                if let Some((_, true)) = lost {
                    let known = self.ends.contains_key(&file).then_some(file);
                    *behind.entry(known).or_default() += 1;
                }
                if entry.is_deleted {
                    continue;
                }
                let live = self.writer.live_place(self.slot, key);
                match (live, lost) {
                    (Some(live), Some((lost, _))) if live < lost => {
                        let Entry { timestamp, check, .. } = entry;
                        if self.writer.holds(self.slot, key, timestamp, check)? {
                            let key = shown_key(key, self.sequential);
                            self.report.damage(&format!(
                                "{} at offset {}: the entry of {key} names a wrong place; its data is whole",
                                path.display(),
                                position - entry.bytes()
                            ));
                            shown += 1;
                        } else {
                            self.drop_stale(key, timestamp)?;
                        }
                    }
                    (Some(_), _) => shown += 1,
                    (None, None) => deleted += 1,
                    (None, Some(_)) => {}
                }
            }
        }
        for (file, count) in behind {
            self.totals.lost += count;
            let place = match file {
                Some(file) => format!("behind the end of {}", self.old.data_path(file).display()),
                None => "in data files that are missing".into(),
            };
            self.report.damage(&format!(
                "{}: the index lists {count} records {place}: they are lost",
                self.old.index_directory.display()
            ));
        }
        self.report_differences(is_whole, shown, deleted);
        Ok(())
    }

    fn report_differences(&mut self, is_whole: bool, shown: u64, deleted: u64) {
        let directory = self.old.index_directory.display();
        if deleted > 0 {
            self.report.damage(&format!(
                "{directory}: the index shows {deleted} keys whose newest record in the data files is a \
                 tombstone, or that have none: they stay deleted"
            ));
        }
        let live = self.writer.namespace(self.slot).live_keys;
        if is_whole && live > shown {
            self.report.damage(&format!(
                "{directory}: the index does not show {} keys that the data files hold and that nobody deleted \
                 there: they are copied",
                live - shown
            ));
        }
    }

    /// Whether a record at this place is lost: where the new log was then, and whether the place is behind
    /// the end of its file.
    fn lost_at(&self, file: u32, offset: u64) -> Option<(u64, bool)> {
        match self.ends.get(&file) {
            // A missing file: the log stood where the file before it ended.
            None => {
                let before = self.ends.range(..file).next_back();
                return Some((before.map_or(0, |(_, (_, position))| *position), true));
            }
            Some((end, position)) if offset >= *end => return Some((*position, true)),
            Some(_) => {}
        }
        let after =
            self.lost_ranges.partition_point(|range| (range.file, range.start) <= (file, offset));
        let range = self.lost_ranges.get(after.checked_sub(1)?)?;
        (range.file == file && offset < range.end).then_some((range.position, false))
    }

    /// Ends a key whose newest version is lost: an older one must not pass for it.
    fn drop_stale(&mut self, key: &[u8], timestamp: u32) -> Result<(), String> {
        if self.writer.delete(self.slot, key, timestamp)? {
            self.totals.stale += 1;
            let (key, name) = (shown_key(key, self.sequential), self.old.shown());
            self.report.damage(&format!(
                "namespace {name}: the newest version of {key} is lost; it is deleted in the copy, so that no \
                 older version passes for it"
            ));
        }
        Ok(())
    }

    /// The same for those that only the data files told.
    fn drop_lost_keys(&mut self) -> Result<(), String> {
        for (key, (position, timestamp)) in std::mem::take(&mut self.lost_keys) {
            if self.writer.live_place(self.slot, &key).is_some_and(|live| live < position) {
                self.drop_stale(&key, timestamp)?;
            }
        }
        Ok(())
    }

    /// Ids whose records are lost stay used up: none is given out again.
    fn use_up_ids(&mut self) -> Result<(), String> {
        let next_id = self.next_id.max(self.entries_listed);
        let given = self.writer.namespace(self.slot).next_id();
        if next_id > given && next_id - given <= SKIP_IDS_MAX {
            let last = next_id - 1;
            self.writer.set_id(self.slot, last, &[], 0)?;
            self.writer.delete(self.slot, &last.to_le_bytes(), 0)?;
            self.report.damage(&format!(
                "namespace {}: the records of the last ids before {next_id} are lost; the ids stay used up",
                self.old.shown()
            ));
        }
        Ok(())
    }

    fn summarise(&mut self) {
        let namespace = self.writer.namespace(self.slot);
        let mode = if self.sequential { "sequential" } else { "user" };
        let Totals { versions, deletes, idle_deletes, placeholders, lost, stale } = self.totals;
        let mut line = format!(
            "namespace {}: {mode} mode, {} keys of {} bytes; {versions} versions and {deletes} deletes copied",
            self.old.shown(),
            namespace.live_keys,
            namespace.live_bytes
        );
        for (count, what) in [
            (idle_deletes, "deletes of missing keys left out"),
            (placeholders, "records compacted away before"),
            (lost, "records lost"),
            (stale, "keys deleted since their newest version is lost"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        self.report.say(&line);
    }
}

/// The index file beside a data file: in user mode its entries are in the order of the records.
struct Witness {
    window: Window,
    position: u64,
}

impl Witness {
    /// What the index says of the record at `offset`, where that is another key or time.
    fn contradicts(&mut self, offset: u64, key: &[u8], head: &format::Record) -> Option<String> {
        if head.is_delete() {
            return None;
        }
        loop {
            let bytes = self.window.at(self.position, ENTRY_HEAD_BYTES + 255);
            let (entry, entry_key) = Entry::parse(bytes)?;
            if u64::from(entry.offset) > offset {
                return None;
            }
            self.position += entry.bytes();
            if u64::from(entry.offset) == offset {
                let agrees = entry_key == key && entry.timestamp == head.timestamp;
                let other = || format!("{} at {}", shown_key(entry_key, false), entry.timestamp);
                return (!agrees).then(other);
            }
        }
    }
}
