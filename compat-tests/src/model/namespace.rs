//! A namespace: its settings, every version of every key, and the order a scan takes.

use super::files::Records;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    User,
    Sequential,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Normal,
    Locked,
    Frozen,
}

/// One version of a key.
#[derive(Clone, Debug)]
pub struct Version {
    pub key: Bytes,
    pub value: Bytes,
    pub timestamp: u32,
    /// The version that this one replaced, unless that one was deleted before.
    pub previous: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Namespace {
    pub(super) id: u64,
    pub(super) name: Bytes,
    pub(super) mode: Mode,
    pub(super) password: Option<Bytes>,
    pub(super) public: bool,
    pub(super) worm: bool,
    pub(super) state: State,
    pub(super) maxsize: u64,
    /// As NSSET was given it; the model drops nothing.
    pub(super) history: String,
    pub(super) id_next: u64,
    versions: Vec<Version>,
    /// How many of the versions were flushed away.
    flushed: usize,
    pub(super) flush_count: u64,
    /// The current version of each live key.
    live: HashMap<Bytes, usize>,
    /// Live keys by their place in a scan.
    order: BTreeMap<u64, usize>,
    /// What was written, in its order and by file.
    pub(super) records: Records,
    pub(super) value_bytes: u64,
    pub(super) index_bytes: u64,
    /// Bytes of the records of the live versions, and of all records.
    pub(super) live_record_bytes: u64,
    pub(super) record_bytes: u64,
}

/// What a record takes in the log, as FORMAT.md of the server has it.
fn record_bytes(key: &[u8], value: &[u8]) -> u64 {
    (44 + key.len() as u64 + value.len() as u64).next_multiple_of(8)
}

impl Namespace {
    pub(super) fn new(id: u64, name: Bytes, mode: Mode) -> Namespace {
        Namespace {
            id,
            name,
            mode,
            password: None,
            public: true,
            worm: false,
            state: State::Normal,
            maxsize: 0,
            history: "forever".into(),
            id_next: 0,
            versions: Vec::new(),
            flushed: 0,
            flush_count: 0,
            live: HashMap::new(),
            order: BTreeMap::new(),
            records: Records::new(),
            value_bytes: 0,
            index_bytes: 0,
            live_record_bytes: 0,
            record_bytes: 0,
        }
    }

    /// Tells namespaces apart, over all of a model's life.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The id that the next new key gets in sequential mode.
    pub fn next_id(&self) -> u64 {
        self.id_next
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// The live versions in the order of SCAN.
    pub fn scan(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.order.values().map(|&index| &self.versions[index])
    }

    /// The versions of a live key, the newest first.
    pub fn chain(&self, key: &[u8]) -> impl Iterator<Item = &Version> {
        let newest = self.live.get(key).map(|&index| &self.versions[index]);
        std::iter::successors(newest, |version| version.previous.map(|index| &self.versions[index]))
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.versions.len() == self.flushed
    }

    /// One version by its number, and whether it was flushed away.
    pub(super) fn version(&self, index: usize) -> Option<(&Version, bool)> {
        self.versions.get(index).map(|version| (version, index < self.flushed))
    }

    pub(super) fn current(&self, key: &[u8]) -> Option<&Version> {
        self.live.get(key).map(|&index| &self.versions[index])
    }

    /// Writes a version and returns its key: in sequential mode an empty key draws the next id, and an
    /// update uses one up as well. In user mode ids count the keys that were new.
    pub(super) fn write(&mut self, key: &[u8], value: &[u8], timestamp: u32) -> Bytes {
        let key = if key.is_empty() {
            Bytes::copy_from_slice(&self.id_next.to_le_bytes())
        } else {
            Bytes::copy_from_slice(key)
        };
        let previous = self.take(&key);
        let index = self.versions.len();
        let value = Bytes::copy_from_slice(value);
        self.records.wrote(key.clone(), value.clone(), timestamp);
        self.value_bytes += value.len() as u64;
        self.live_record_bytes += record_bytes(&key, &value);
        self.record_bytes += record_bytes(&key, &value);
        self.index_bytes += 64 + key.len() as u64;
        self.id_next += u64::from(self.mode == Mode::Sequential || previous.is_none());
        self.order.insert(self.place(&key, index), index);
        self.versions.push(Version { key: key.clone(), value, timestamp, previous });
        self.live.insert(key.clone(), index);
        key
    }

    /// Ends a key and returns its last version.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<usize> {
        let index = self.take(key)?;
        self.records.ended(Bytes::copy_from_slice(key));
        self.record_bytes += record_bytes(key, b"");
        Some(index)
    }

    /// Takes a key out of the live ones.
    fn take(&mut self, key: &[u8]) -> Option<usize> {
        let index = self.live.remove(key)?;
        self.order.remove(&self.place(key, index));
        let value = &self.versions[index].value;
        self.value_bytes -= value.len() as u64;
        self.live_record_bytes -= record_bytes(key, value);
        self.index_bytes -= 64 + key.len() as u64;
        Some(index)
    }

    /// Ends every key, and their history with them; settings stay.
    pub(super) fn flush(&mut self) {
        self.live.clear();
        self.order.clear();
        self.flushed = self.versions.len();
        self.flush_count += 1;
        self.value_bytes = 0;
        self.index_bytes = 0;
        self.live_record_bytes = 0;
        self.record_bytes = 0;
        self.id_next = 0;
    }

    /// Bytes of live records, of those of the history, and of those that nobody wants.
    pub(super) fn space(&self) -> [u64; 3] {
        let old = self.record_bytes - self.live_record_bytes;
        let dead = if self.history == "0" { old } else { 0 };
        [self.live_record_bytes, old - dead, dead]
    }

    /// Where a scan finds a key's version: by its age, or by its id.
    fn place(&self, key: &[u8], index: usize) -> u64 {
        match self.mode {
            Mode::User => index as u64,
            Mode::Sequential => u64::from_le_bytes(key.try_into().expect("an id has 8 bytes")),
        }
    }

    pub(super) fn place_of(&self, key: &[u8]) -> Option<u64> {
        self.live.get(key).map(|&index| self.place(key, index))
    }

    /// The live versions strictly after a place, or before it, with their places.
    pub(super) fn scan_from(&self, after: Option<u64>, reverse: bool) -> Vec<(u64, &Version)> {
        let entry = |(&place, &index): (&u64, &usize)| (place, &self.versions[index]);
        match (reverse, after) {
            (false, None) => self.order.iter().map(entry).collect(),
            (false, Some(place)) => self.order.range(place + 1..).map(entry).collect(),
            (true, None) => self.order.iter().rev().map(entry).collect(),
            (true, Some(place)) => self.order.range(..place).rev().map(entry).collect(),
        }
    }
}
