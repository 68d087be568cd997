//! A log written again into a new one, record after record as SET and DEL would, without what is lost.
//!
//! | lost | what counts |
//! |---|---|
//! | a version of a known key | if no newer one follows, the key is deleted: an old value must not pass for the new one |
//! | a delete that the sidecar tells of | it is done again |
//! | records of which nothing is known | the versions before them stay: their keys cannot be found |
//! | ids | as many stay used up as may have been given out in the lost bytes |
//! | settings of a namespace | it is frozen until an administrator has looked |
//! | the making of a namespace | its name and mode are taken from later settings, or it is `recovered-<id>` |
//!
//! The new log has an id of its own, so that no file of the one is taken for one of the other, and the
//! secret of the old one, so that the hashes in the old sidecars find keys in it.

use super::known;
use super::output::{Lines, Progress};
use super::stored::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use crate::engine::chain::Link;
use crate::engine::index::{KeyHash, SKIP_IDS_MAX};
use crate::engine::log::format::{
    self, FLAG_ID, Head, ID_RECORD_BYTES_MIN, Kind, SEGMENT_HEADER_BYTES,
};
use crate::engine::log::packed::Residue;
use crate::engine::log::sidecar::LogEntry;
use crate::engine::namespace::{Access, DEFAULT_ID, DEFAULT_NAME, Mode, Retention, Settings};
use crate::engine::sequential_id;
use crate::import::report::shown_key;
use crate::import::writer::Writer;
use crate::limits::{NAMESPACE_NAME_BYTES_MAX, REPAIR_LOST_KEYS_MAX};
use std::collections::{BTreeMap, HashMap};

/// What came of a repair.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub namespaces: u64,
    pub keys: u64,
    pub versions: u64,
    pub deletes: u64,
    /// Stretches of the old log, or parts of it, that are lost.
    pub losses: u64,
    pub bytes_lost: u64,
    /// Lost records that are known of.
    pub records_lost: u64,
    pub keys_deleted: u64,
    pub deletes_redone: u64,
    seconds: f64,
    mib_per_s: f64,
}

impl Outcome {
    pub fn is_all_saved(&self) -> bool {
        self.losses == 0
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "saved {} keys in {} namespaces, {} versions and {} deletes; {:.1} s, {:.1} MiB/s\n",
            self.keys, self.namespaces, self.versions, self.deletes, self.seconds, self.mib_per_s
        );
        if self.keys_deleted > 0 {
            text.push_str(&format!(
                "{} keys were deleted, since their newest version is lost\n",
                self.keys_deleted
            ));
        }
        if self.is_all_saved() {
            text.push_str("all is saved");
        } else {
            text.push_str(&format!(
                "not all is saved: {} losses, {} bytes with at least {} records; see the lines above",
                self.losses, self.bytes_lost, self.records_lost
            ));
        }
        text
    }
}

/// A version that is lost, of a key that is known by its hash or id.
struct LostVersion {
    timestamp: u32,
}

pub struct Replay<'a> {
    log: &'a StoredLog,
    writer: Writer,
    lines: &'a mut Lines,
    progress: Progress,
    /// Where the namespaces of the old log are in the new one.
    slots: HashMap<u32, usize>,
    /// Lost newest versions, by slot and by hash or id.
    lost: BTreeMap<(usize, u64), LostVersion>,
    /// Of each sequential namespace, by slot: ids that may have been given out in lost bytes. A whole record
    /// behind these says nothing of them, as it may be a newer version of an id that was among them.
    ids_lost_max: HashMap<usize, u64>,
    /// The same for a namespace of which nothing was known before.
    ids_lost_max_anywhere: u64,
    /// One past the highest id that is known to have been given out.
    ids_given: HashMap<usize, u64>,
    /// The same behind the packed segment whose records come, of namespaces that are made in it, by their id.
    ids_given_to_come: HashMap<u32, u64>,
    /// So many ids may have been given out by records of that segment that are gone.
    ids_forgotten_max: u64,
    outcome: Outcome,
}

impl<'a> Replay<'a> {
    pub fn new(log: &'a StoredLog, writer: Writer, lines: &'a mut Lines) -> Self {
        let default = writer.find(DEFAULT_NAME);
        Self {
            log,
            lines,
            progress: Progress::new(log.bytes(), 0),
            slots: default.into_iter().map(|slot| (DEFAULT_ID, slot)).collect(),
            writer,
            lost: BTreeMap::new(),
            ids_lost_max: HashMap::new(),
            ids_lost_max_anywhere: 0,
            ids_given: HashMap::new(),
            ids_given_to_come: HashMap::new(),
            ids_forgotten_max: 0,
            outcome: Outcome::default(),
        }
    }

    fn say(&mut self, line: &str) {
        self.progress.clear();
        self.lines.line(line);
        self.lines.flush();
    }

    fn loss(&mut self, line: &str) {
        self.outcome.losses += 1;
        self.say(&format!("lost: {line}"));
    }

    fn is_sequential(&self, slot: usize) -> bool {
        self.writer.namespace(slot).settings.mode == Mode::Sequential
    }

    fn shown_name(&self, slot: usize) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.writer.namespace(slot).name))
    }

    // ---------------------------------------------------------------- namespaces

    fn namespace_record(&mut self, head: &Head, name: &[u8], payload: &[u8]) -> Flow {
        if head.kind == Kind::NamespaceEnd {
            return self.end_namespace(head.namespace);
        }
        let Some(settings) = Settings::decode(payload) else {
            let shown = String::from_utf8_lossy(name).into_owned();
            self.loss(&format!("the settings of namespace {shown:?} cannot be read"));
            return self.lose_settings(head.namespace, name);
        };
        if name.is_empty() || name.len() > NAMESPACE_NAME_BYTES_MAX {
            let shown = String::from_utf8_lossy(name).into_owned();
            self.loss(&format!("namespace {shown:?} has a name that no client can select"));
        }
        let slot = match (self.slots.get(&head.namespace).copied(), self.writer.find(name)) {
            (Some(slot), _) => {
                self.writer.change(slot, &settings)?;
                slot
            }
            // A new id under a name that is taken: the namespace was flushed.
            (None, Some(slot)) => {
                self.flush(slot, &settings)?;
                slot
            }
            (None, None) => self.writer.create(name, &settings)?,
        };
        self.enter(head.namespace, slot);
        Ok(())
    }

    /// Notes where a namespace is.
    fn enter(&mut self, id: u32, slot: usize) {
        self.slots.insert(id, slot);
        if let Some(given) = self.ids_given_to_come.remove(&id) {
            self.ids_given.insert(slot, given);
        }
    }

    /// Behind the last record of a packed segment.
    fn end_packed(&mut self) {
        self.ids_given_to_come.clear();
        let count = std::mem::take(&mut self.ids_forgotten_max);
        if count > 0 {
            let slots = self.slots.values().copied();
            let sequential: Vec<usize> = slots.filter(|slot| self.is_sequential(*slot)).collect();
            for slot in sequential {
                self.lose_ids(slot, count);
            }
        }
    }

    fn lose_ids(&mut self, slot: usize, count: u64) {
        let sum = self.ids_lost_max.entry(slot).or_default();
        *sum = sum.saturating_add(count).min(SKIP_IDS_MAX);
    }

    fn flush(&mut self, slot: usize, settings: &Settings) -> Result<(), String> {
        self.writer.flush(slot, settings)?;
        self.slots.retain(|_, other| *other != slot);
        self.forget(slot);
        Ok(())
    }

    fn end_namespace(&mut self, id: u32) -> Flow {
        if let Some(slot) = self.slots.remove(&id)
            && &self.writer.namespace(slot).name[..] != DEFAULT_NAME
        {
            self.forget(slot);
            self.writer.remove(slot)?;
        }
        Ok(())
    }

    /// What was known of the keys of a namespace that is gone.
    fn forget(&mut self, slot: usize) {
        self.lost.retain(|(of, _), _| *of != slot);
        self.ids_lost_max.remove(&slot);
        self.ids_given.remove(&slot);
    }

    /// Some settings of a namespace are lost, perhaps a password: nobody comes in before an administrator
    /// has looked.
    fn lose_settings(&mut self, id: u32, name: &[u8]) -> Flow {
        let slot = match (self.slots.get(&id).copied(), self.writer.find(name)) {
            (Some(slot), _) => slot,
            // A flush, whose record has the settings that were there before.
            (None, Some(slot)) if !name.is_empty() => {
                let settings = self.writer.namespace(slot).settings.clone();
                self.flush(slot, &settings)?;
                self.enter(id, slot);
                slot
            }
            _ if name.is_empty() => return Ok(()),
            _ => return self.make(id, Some(name), None).map(|_| ()),
        };
        self.freeze(slot)
    }

    fn freeze(&mut self, slot: usize) -> Flow {
        let namespace = self.writer.namespace(slot);
        let public = namespace.settings.public && &namespace.name[..] == DEFAULT_NAME;
        let (access, retention) = (Access::Frozen, Retention::Forever);
        let settings = Settings { access, public, retention, ..namespace.settings.clone() };
        self.writer.change(slot, &settings)?;
        let name = self.shown_name(slot);
        self.say(&format!(
            "namespace {name} is frozen, since some of its settings are lost: set them with NSSET, then freeze 0"
        ));
        Ok(())
    }

    /// The namespace of a record, or what stands for it where its own record is lost.
    fn slot(&mut self, seen: &Seen<'_>) -> Result<usize, Stop> {
        let id = seen.record.head.namespace;
        match self.slots.get(&id) {
            Some(slot) => Ok(*slot),
            None => self.make(id, None, Some(seen)),
        }
    }

    fn make(
        &mut self,
        id: u32,
        name: Option<&[u8]>,
        first: Option<&Seen<'_>>,
    ) -> Result<usize, Stop> {
        let later = self.later_settings(id)?;
        let settings = match &later {
            Some((_, settings)) => settings.clone(),
            None => Settings::new(first.map_or(Mode::User, |seen| self.mode_of(seen))),
        };
        let settings = Settings { access: Access::Frozen, public: false, ..settings };
        let known = later.map(|(name, _)| name).or(name.map(<[u8]>::to_vec));
        let mut name = known
            .filter(|name| self.writer.find(name).is_none())
            .unwrap_or_else(|| format!("recovered-{id}").into_bytes());
        while self.writer.find(&name).is_some() {
            name.push(b'+');
        }
        let slot = self.writer.create(&name, &settings)?;
        self.enter(id, slot);
        if self.is_sequential(slot) && self.ids_lost_max_anywhere > 0 {
            self.lose_ids(slot, self.ids_lost_max_anywhere);
        }
        let name = self.shown_name(slot);
        let mode = if self.is_sequential(slot) { "sequential" } else { "user" };
        self.loss(&format!(
            "the settings of namespace {name}: it is in {mode} mode and frozen; set them with NSSET, then freeze 0"
        ));
        Ok(slot)
    }

    /// Name and settings from a later record of the namespace: another walk, which only this loss costs.
    fn later_settings(&self, id: u32) -> Result<Option<(Vec<u8>, Settings)>, Stop> {
        let mut search = Search { id, found: None };
        match self.log.visit(&|_| true, &mut search) {
            Err(Stop::Failed(line)) => Err(Stop::Failed(line)),
            Ok(()) | Err(Stop::Enough) => Ok(search.found),
        }
    }

    /// Its flag tells, but not in the oldest logs. The sidecar has ids as they are, and keys as hashes.
    fn mode_of(&self, seen: &Seen<'_>) -> Mode {
        let key = seen.record.key();
        if seen.record.head.flags & FLAG_ID != 0 {
            return Mode::Sequential;
        }
        match (sequential_id(key), seen.entry) {
            (Some(id), Some(entry)) if entry.key == id && self.writer.hash(key).get() != id => {
                Mode::Sequential
            }
            _ => Mode::User,
        }
    }

    // ---------------------------------------------------------------- keys

    fn key_record(&mut self, seen: &Seen<'_>) -> Flow {
        let (head, key) = (seen.record.head, seen.record.key());
        let slot = self.slot(seen)?;
        let sequential = self.is_sequential(slot);
        let id = sequential_id(key).filter(|_| sequential);
        if sequential && id.is_none() {
            let name = self.shown_name(slot);
            self.loss(&format!("{} of namespace {name}, which has ids", shown_key(key, false)));
            return Ok(());
        }
        if !self.lost.is_empty() {
            self.lost.remove(&(slot, self.number(slot, key)));
        }
        if head.kind == Kind::Delete {
            self.outcome.deletes += u64::from(self.writer.delete(slot, key, head.timestamp)?);
            return Ok(());
        }
        self.outcome.versions += 1;
        match id {
            Some(id) => self.set_id(slot, id, seen),
            None => Ok(self.writer.set_user(slot, key, seen.record.payload(), head.timestamp)?),
        }
    }

    fn set_id(&mut self, slot: usize, id: u64, seen: &Seen<'_>) -> Flow {
        let next = self.writer.namespace(slot).next_id();
        if id > next.saturating_add(SKIP_IDS_MAX) {
            let name = self.shown_name(slot);
            self.loss(&format!("id {id} of namespace {name}, which is far from all others"));
            return Ok(());
        }
        Ok(self.writer.set_id(slot, id, seen.record.payload(), seen.record.head.timestamp)?)
    }

    /// What a sidecar calls a key.
    fn number(&self, slot: usize, key: &[u8]) -> u64 {
        match sequential_id(key) {
            Some(id) if self.is_sequential(slot) => id,
            _ => self.writer.hash(key).get(),
        }
    }

    // ---------------------------------------------------------------- losses

    /// A version or a delete of a key that is known by its number.
    fn lose_record(&mut self, kind: Kind, slot: usize, number: u64, timestamp: u32) -> Flow {
        if kind == Kind::Delete {
            self.lost.remove(&(slot, number));
            if self.delete_numbered(slot, number, timestamp)?.is_some() {
                self.outcome.deletes_redone += 1;
            }
            return Ok(());
        }
        if self.is_sequential(slot) {
            let given = self.ids_given.entry(slot).or_default();
            *given = (*given).max(number.saturating_add(1));
        }
        if self.lost.len() >= REPAIR_LOST_KEYS_MAX {
            // Rather a history that ends here than an old value.
            self.delete_numbered(slot, number, timestamp)?;
            return Ok(());
        }
        self.lost.insert((slot, number), LostVersion { timestamp });
        Ok(())
    }

    /// Deletes a key by its hash or id, and tells which it was, if it was there.
    fn delete_numbered(
        &mut self,
        slot: usize,
        number: u64,
        timestamp: u32,
    ) -> Result<Option<Vec<u8>>, Stop> {
        let key = if self.is_sequential(slot) {
            Some(number.to_le_bytes().to_vec())
        } else {
            self.writer.live_key(slot, KeyHash::from_bits(number))?
        };
        let Some(key) = key else { return Ok(None) };
        Ok(self.writer.delete(slot, &key, timestamp)?.then_some(key))
    }

    fn lose_entry(&mut self, entry: &LogEntry) -> Flow {
        let slot = self.slots.get(&entry.namespace).copied();
        match (entry.kind, slot) {
            (Kind::Set | Kind::Delete, Some(slot)) => {
                self.lose_record(entry.kind, slot, entry.key, entry.timestamp)
            }
            (Kind::Namespace, Some(slot)) => self.freeze(slot),
            (Kind::NamespaceEnd, Some(_)) => self.end_namespace(entry.namespace),
            // Its namespace is not there; if records of it follow, something stands in for it.
            _ => Ok(()),
        }
    }

    /// Ids that may have been given out in lost bytes.
    fn count_ids(&mut self, lost: &Lost) {
        let sequential: Vec<(u32, usize)> = self
            .slots
            .iter()
            .map(|(id, slot)| (*id, *slot))
            .filter(|(_, slot)| self.is_sequential(*slot))
            .collect();
        let is_one = lost.head.as_ref().is_some_and(|(head, _)| head.kind != Kind::Batch);
        if !is_one && !lost.is_covered {
            let count = lost.bytes / ID_RECORD_BYTES_MIN;
            let sum = self.ids_lost_max_anywhere.saturating_add(count);
            self.ids_lost_max_anywhere = sum.min(SKIP_IDS_MAX);
        }
        for (id, slot) in sequential {
            let count = match &lost.head {
                Some((head, _)) if is_one => u64::from(head.namespace == id),
                _ if lost.is_covered => {
                    let sets = lost.entries.iter().filter(|entry| entry.kind == Kind::Set);
                    sets.filter(|entry| entry.namespace == id).count() as u64
                }
                _ => lost.bytes / ID_RECORD_BYTES_MIN,
            };
            if count > 0 {
                self.lose_ids(slot, count);
            }
        }
    }

    /// Whether records may have been in lost bytes.
    fn is_loss(lost: &Lost) -> bool {
        match &lost.head {
            Some((head, _)) if matches!(head.kind, Kind::Padding | Kind::Seal) => false,
            Some((head, _)) if head.kind != Kind::Batch => true,
            _ => lost.is_file || !lost.is_covered || !lost.entries.is_empty(),
        }
    }

    fn report(&mut self, lost: &Lost) {
        let bytes = lost.bytes;
        let named = |id: u32| {
            let slot = *self.slots.get(&id)?;
            let name = String::from_utf8_lossy(&self.writer.namespace(slot).name).into_owned();
            Some((name, self.is_sequential(slot)))
        };
        let known =
            known::records(lost, &named).map_or(String::new(), |known| format!(": {known}"));
        let line = format!(
            "segment {} at offset {}: {bytes} bytes, {}{known}",
            format::segment_name(lost.base),
            lost.offset,
            lost.cause
        );
        if Self::is_loss(lost) {
            self.outcome.bytes_lost += bytes;
            self.loss(&line);
        } else {
            self.say(&format!("note: {line}; no record was there"));
        }
    }

    // ---------------------------------------------------------------- the end

    /// Deletes keys whose newest version is lost.
    fn drop_stale(&mut self) -> Result<(), Stop> {
        for ((slot, number), version) in std::mem::take(&mut self.lost) {
            if let Some(key) = self.delete_numbered(slot, number, version.timestamp)? {
                self.outcome.keys_deleted += 1;
                let (key, name) =
                    (shown_key(&key, self.is_sequential(slot)), self.shown_name(slot));
                self.say(&format!(
                    "{key} of namespace {name} is deleted: its newest version is lost"
                ));
            }
        }
        Ok(())
    }

    /// Ids that may have been given out stay used up: none comes to mean another value.
    fn use_up_ids(&mut self) -> Result<(), Stop> {
        let mut slots: Vec<usize> = self.slots.values().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            if !self.is_sequential(slot) {
                continue;
            }
            let next = self.writer.namespace(slot).next_id();
            let lost = self.ids_lost_max.get(&slot).copied().unwrap_or(0);
            let given = self.ids_given.get(&slot).copied().unwrap_or(0);
            let wanted =
                next.saturating_add(lost).max(given).min(next.saturating_add(SKIP_IDS_MAX));
            if wanted <= next {
                continue;
            }
            let last = wanted - 1;
            self.writer.set_id(slot, last, &[], 0)?;
            self.writer.delete(slot, &last.to_le_bytes(), 0)?;
            let name = self.shown_name(slot);
            self.say(&format!(
                "namespace {name}: the ids from {next} to {last} stay used up, as they may have been given out"
            ));
        }
        Ok(())
    }

    /// Closes the new log, which is whole from then on.
    pub fn finish(mut self) -> Result<Outcome, String> {
        self.end_packed();
        let ended = self.drop_stale().and_then(|()| self.use_up_ids());
        if let Err(Stop::Failed(line)) = ended {
            return Err(line);
        }
        for slot in self.slots.values() {
            self.outcome.namespaces += 1;
            self.outcome.keys += self.writer.namespace(*slot).live_keys;
        }
        self.writer.finish()?;
        self.progress.clear();
        self.outcome.seconds = self.progress.seconds();
        self.outcome.mib_per_s = self.progress.mib_per_s();
        Ok(self.outcome)
    }
}

impl Visitor for Replay<'_> {
    fn segment(&mut self, _: &Link) -> Flow {
        self.end_packed();
        Ok(())
    }

    /// Counters are made anew by what is written, but no id that was given out comes again.
    fn residues(&mut self, link: &Link, residues: Option<&[Residue]>) -> Flow {
        let Some(residues) = residues else {
            let records = link.header.packed.map_or(0, |packed| packed.record_bytes);
            let gone = link.header.capacity.saturating_sub(SEGMENT_HEADER_BYTES + records);
            self.ids_forgotten_max = gone / ID_RECORD_BYTES_MIN;
            return Ok(());
        };
        for residue in residues {
            let behind = |next: u64| next.saturating_add(residue.ids).max(residue.ids_floor);
            let id = residue.namespace;
            let Some(slot) = self.slots.get(&id).copied() else {
                self.ids_given_to_come.insert(id, behind(0));
                continue;
            };
            let given = self.ids_given.get(&slot).copied().unwrap_or(0);
            let next = self.writer.namespace(slot).next_id().max(given);
            self.ids_given.insert(slot, behind(next));
        }
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let record = seen.record;
        match record.head.kind {
            // The new log has a history of its own.
            Kind::Padding | Kind::Seal | Kind::Batch | Kind::Term => Ok(()),
            Kind::Namespace | Kind::NamespaceEnd => {
                self.namespace_record(&record.head, record.key(), record.payload())
            }
            Kind::Set | Kind::Delete => self.key_record(seen),
        }
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        self.outcome.records_lost += known::count(&lost);
        if !lost.is_part {
            self.report(&lost);
        }
        self.count_ids(&lost);
        if let Some((head, key)) = &lost.head {
            match (head.kind, self.slots.get(&head.namespace).copied()) {
                (Kind::Set | Kind::Delete, Some(slot)) => {
                    self.lose_record(head.kind, slot, self.number(slot, key), head.timestamp)?;
                }
                (Kind::Namespace, _) => self.lose_settings(head.namespace, key)?,
                (Kind::NamespaceEnd, Some(_)) => self.end_namespace(head.namespace)?,
                _ => {}
            }
        }
        let is_head = |entry: &LogEntry| lost.head.is_some() && entry.position == lost.start;
        for entry in lost.entries.iter().filter(|entry| !is_head(entry)) {
            self.lose_entry(entry)?;
        }
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        let Trouble { file, offset, what, line } = trouble;
        let line = format!("{file} at offset {offset}: {line}");
        if what == "foreign" {
            self.loss(&line);
        } else {
            self.say(&format!("note: {line}; nothing is lost by it"));
        }
        Ok(())
    }

    fn note(&mut self, line: &str) -> Flow {
        self.say(&format!("note: {line}"));
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes, self.outcome.versions);
    }
}

/// Looks for settings of a namespace.
struct Search {
    id: u32,
    found: Option<(Vec<u8>, Settings)>,
}

impl Visitor for Search {
    fn segment(&mut self, _: &Link) -> Flow {
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let record = seen.record;
        if record.head.kind == Kind::Namespace
            && record.head.namespace == self.id
            && let Some(settings) = Settings::decode(record.payload())
        {
            self.found = Some((record.key().to_vec(), settings));
            return Err(Stop::Enough);
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
