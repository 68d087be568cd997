//! Namespaces: storage reservations that share the log. Each has its settings and its own index.

use crate::engine::index::{KeyTable, PagePool, SKIP_IDS_MAX, SequenceTable};
use crate::engine::log::format::{self, FLAG_ID, Head, Kind, RECORD_HEAD_BYTES};
use crate::engine::log::sidecar::LogEntry;
use crate::limits::{HISTORY_DAYS_MAX, HISTORY_VERSIONS_MAX, PAYLOAD_BYTES_MAX};
use std::collections::HashMap;
use std::fmt;

pub const DEFAULT_NAME: &[u8] = b"default";
pub const DEFAULT_ID: u32 = 0;
/// Versions of the settings' encoding in the log. The second one ends with the retention; it is written
/// only where there is one, so that a zdb that knows none reads all other namespaces.
const SETTINGS_VERSION: u8 = 1;
const SETTINGS_VERSION_RETENTION: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Clients choose the keys.
    User,
    /// The server hands out ids.
    Sequential,
}

/// One state with three values: as in 0-db, lifting one of lock and freeze lifts the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Open,
    /// Reads only.
    Locked,
    /// Neither reads nor writes.
    Frozen,
}

/// Which versions that are not live the cleaner keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// All, for ever.
    #[default]
    Forever,
    /// This many before the newest one of a live key; none of a deleted key.
    Versions(u32),
    /// Those replaced or deleted less than this many times 86,400 seconds ago, by the records' times.
    Days(u32),
}

impl Retention {
    const ENCODED_BYTES: usize = 5;

    /// `forever`, `N` or `Nd`, as NSSET takes it.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let number = |digits: &[u8]| {
            let are_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            std::str::from_utf8(digits).ok().filter(|_| are_digits)?.parse::<u32>().ok()
        };
        match word {
            b"forever" => Some(Self::Forever),
            [digits @ .., b'd'] => Self::Days(number(digits)?).checked(),
            digits => Self::Versions(number(digits)?).checked(),
        }
    }

    fn checked(self) -> Option<Self> {
        let is_valid = match self {
            Self::Forever => true,
            Self::Versions(count) => count <= HISTORY_VERSIONS_MAX,
            Self::Days(days) => (1..=HISTORY_DAYS_MAX).contains(&days),
        };
        is_valid.then_some(self)
    }

    fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let (kind, number) = match self {
            Self::Forever => (0, 0),
            Self::Versions(count) => (1, count),
            Self::Days(days) => (2, days),
        };
        let mut bytes = [kind; Self::ENCODED_BYTES];
        bytes[1..].copy_from_slice(&u32::to_le_bytes(number));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let &[kind, a, b, c, d] = bytes.first_chunk::<{ Self::ENCODED_BYTES }>()?;
        let number = u32::from_le_bytes([a, b, c, d]);
        match kind {
            0 => Some(Self::Forever),
            1 => Self::Versions(number).checked(),
            2 => Self::Days(number).checked(),
            _ => None,
        }
    }

    /// Whether the index keeps a deleted key of user mode as a dead entry: the way to its tombstone and to
    /// the versions below, which are dropped one day.
    pub fn keeps_deleted(self) -> bool {
        matches!(self, Self::Days(_))
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => out.write_str("forever"),
            Self::Versions(count) => write!(out, "{count}"),
            Self::Days(days) => write!(out, "{days}d"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    pub access: Access,
    /// Whether clients without the password may read.
    pub public: bool,
    /// Write once, read many: no overwrite, no delete.
    pub worm: bool,
    /// Limit of live payload bytes; 0 = none.
    pub max_bytes: u64,
    pub password: Option<Vec<u8>>,
    pub retention: Retention,
}

impl Settings {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            access: Access::Open,
            public: true,
            worm: false,
            max_bytes: 0,
            password: None,
            retention: Retention::Forever,
        }
    }

    /// The payload of a namespace record.
    pub fn encode(&self) -> Vec<u8> {
        let password = self.password.as_deref().unwrap_or_default();
        let has_retention = self.retention != Retention::Forever;
        let mut out = vec![
            if has_retention { SETTINGS_VERSION_RETENTION } else { SETTINGS_VERSION },
            matches!(self.mode, Mode::Sequential).into(),
            match self.access {
                Access::Open => 0,
                Access::Locked => 1,
                Access::Frozen => 2,
            },
            u8::from(self.public) | u8::from(self.worm) << 1,
        ];
        out.extend_from_slice(&self.max_bytes.to_le_bytes());
        out.push(password.len() as u8);
        out.extend_from_slice(password);
        if has_retention {
            out.extend_from_slice(&self.retention.encode());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, mode, access, flags], rest) = bytes.split_first_chunk()?;
        let (max_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (&length, rest) = rest.split_first()?;
        let (password, rest) = rest.split_at_checked(length.into())?;
        let retention = match version {
            SETTINGS_VERSION => Retention::Forever,
            SETTINGS_VERSION_RETENTION => Retention::decode(rest)?,
            _ => return None,
        };
        Some(Self {
            mode: if mode == 0 { Mode::User } else { Mode::Sequential },
            access: match access {
                0 => Access::Open,
                1 => Access::Locked,
                _ => Access::Frozen,
            },
            public: flags & 1 != 0,
            worm: flags & 2 != 0,
            max_bytes: u64::from_le_bytes(*max_bytes),
            password: (!password.is_empty()).then(|| password.to_vec()),
            retention,
        })
    }
}

/// What a namespace's own record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Kept,
    /// The keys in this slot are gone.
    Emptied(usize),
    /// The settings are not such that this zdb can read them.
    Unreadable,
}

// A box would cost every lookup a miss; a namespace is large anyway.
#[allow(clippy::large_enum_variant)]
pub enum Keys {
    User(KeyTable),
    Sequential(SequenceTable),
}

impl Keys {
    fn new(mode: Mode) -> Self {
        match mode {
            Mode::User => Self::User(KeyTable::new()),
            Mode::Sequential => Self::Sequential(SequenceTable::new()),
        }
    }
}

pub struct Namespace {
    /// Never used again for another namespace of this log.
    pub id: u32,
    /// The id that clients came to it by: FLUSH gives it a new id and keeps them.
    pub origin: u32,
    pub name: Box<[u8]>,
    pub settings: Settings,
    /// Unix seconds of the namespace record that set the present retention; 0 where none did.
    pub retention_since: u32,
    pub keys: Keys,
    pub live_keys: u64,
    /// Payload bytes of the live keys.
    pub live_bytes: u64,
    /// Bytes of the live keys themselves.
    pub key_bytes: u64,
    /// What fills the live keys' records up to a multiple of 8 bytes. May be off, also below 0, where the
    /// records that it was counted from are not all there any more.
    live_padding_bytes: i64,
    /// Bytes of all records of keys that the log holds, with heads and padding.
    pub stored_bytes: u64,
    /// Of `stored_bytes`, what the cleaner found to be wanted by nobody and has not dropped yet. It counts
    /// where the retention alone does not tell.
    pub dead_bytes_known: u64,
    /// Keys ever inserted: 0-db's next internal id in user mode.
    pub inserts: u64,
    /// Whether it ever held a key: its mode is then fixed.
    pub used: bool,
    /// Whether its settings are in the log. Only a fresh `default` is not.
    pub recorded: bool,
    /// End of the newest tombstone: under `always` a "missing" waits for it.
    pub deleted_until: u64,
    pub read_errors: u64,
    /// Unix seconds of the last read error.
    pub read_error_last: u64,
    pub write_errors: u64,
    pub write_error_last: u64,
}

impl Namespace {
    fn new(id: u32, name: &[u8], settings: Settings, since: u32) -> Self {
        Self {
            id,
            origin: id,
            name: name.into(),
            keys: Keys::new(settings.mode),
            settings,
            retention_since: since,
            live_keys: 0,
            live_bytes: 0,
            key_bytes: 0,
            live_padding_bytes: 0,
            stored_bytes: 0,
            dead_bytes_known: 0,
            inserts: 0,
            used: false,
            recorded: false,
            deleted_until: 0,
            read_errors: 0,
            read_error_last: 0,
            write_errors: 0,
            write_error_last: 0,
        }
    }

    /// The id that the next new key gets, or how many keys were inserted in user mode.
    pub fn next_id(&self) -> u64 {
        match &self.keys {
            Keys::User(_) => self.inserts,
            Keys::Sequential(table) => table.next_id(),
        }
    }

    pub fn use_up_ids(&mut self, count: u64) {
        if let Keys::Sequential(table) = &mut self.keys
            && let Some(last) = count.min(SKIP_IDS_MAX).checked_sub(1)
        {
            table.reserve(table.next_id().saturating_add(last));
        }
    }

    /// Counts the bytes of a record of a key, and of what it replaces. The order of the records does not
    /// matter here.
    pub fn count_bytes(&mut self, entry: &LogEntry) {
        let key = usize::from(entry.key_length);
        let bytes = |payload: u32| format::record_bytes(key, payload as usize);
        let padding = |payload: u32| {
            bytes(payload) as i64 - (RECORD_HEAD_BYTES + key + payload as usize) as i64
        };
        self.stored_bytes += bytes(entry.payload_length);
        self.live_padding_bytes -= entry.replaced.map_or(0, padding);
        if entry.kind == Kind::Set {
            self.live_padding_bytes += padding(entry.payload_length);
        }
    }

    /// The cleaner dropped records of keys of so many bytes.
    pub fn forgot(&mut self, bytes: u64) {
        self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
        self.dead_bytes_known = self.dead_bytes_known.saturating_sub(bytes);
    }

    /// What the log holds of this namespace, in bytes of records.
    pub fn space(&self) -> Space {
        let padding = self.live_padding_bytes.max(0) as u64;
        let padding = padding.min(self.live_keys * (format::ALIGN - 1));
        let heads = self.live_keys * RECORD_HEAD_BYTES as u64;
        let live = (heads + self.key_bytes + self.live_bytes + padding).min(self.stored_bytes);
        let old = self.stored_bytes - live;
        let dead = match self.settings.retention {
            Retention::Forever => 0,
            Retention::Versions(0) => old,
            Retention::Versions(_) | Retention::Days(_) => self.dead_bytes_known.min(old),
        };
        Space { live, history: old - dead, dead }
    }

    /// What the record for an average value takes in a read, in bytes.
    pub fn typical_payload_bytes(&self) -> usize {
        let average = self.live_bytes.checked_div(self.live_keys).unwrap_or(0);
        ((average + average / 4) as usize).min(PAYLOAD_BYTES_MAX)
    }
}

/// Bytes of the records of keys, with heads and padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Of the newest versions of live keys.
    pub live: u64,
    /// Of older versions, deleted keys and tombstones, as far as they are kept or not looked at yet.
    pub history: u64,
    /// What the cleaner may drop.
    pub dead: u64,
}

/// All namespaces, in slots that are reused: the order of NSLIST.
pub struct Namespaces {
    /// Bytes of the records of keys of namespaces that were removed or flushed.
    pub ended_bytes: u64,
    slots: Vec<Option<Namespace>>,
    by_name: HashMap<Box<[u8]>, usize>,
    by_id: HashMap<u32, usize>,
    next_id: u32,
}

impl Namespaces {
    /// With `default` in slot 0, id 0.
    pub fn new(mode: Mode) -> Self {
        let mut all = Self {
            ended_bytes: 0,
            slots: Vec::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            next_id: 0,
        };
        all.insert(DEFAULT_ID, DEFAULT_NAME, Settings::new(mode), 0);
        all
    }

    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Puts a namespace into the first free slot. `since`: Unix seconds of its record.
    pub fn insert(&mut self, id: u32, name: &[u8], settings: Settings, since: u32) -> usize {
        let namespace = Namespace::new(id, name, settings, since);
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.by_name.insert(name.into(), slot);
        self.by_id.insert(id, slot);
        self.slots[slot] = Some(namespace);
        self.next_id = self.next_id.max(id + 1);
        slot
    }

    /// A namespace for the records of one whose own record is lost, so that its keys are not: locked, so
    /// that nobody writes before somebody has looked, and named by its id, which does not depend on
    /// what else is left of it. Its mode follows from its first key.
    pub fn stand_in(&mut self, id: u32) -> usize {
        let settings = Settings { access: Access::Locked, ..Settings::new(Mode::User) };
        let mut name = format!("recovered-{id}").into_bytes();
        while self.find(&name).is_some() {
            name.push(b'+');
        }
        let slot = self.insert(id, &name, settings, 0);
        if let Some(namespace) = self.get_mut(slot) {
            namespace.recorded = true;
        }
        slot
    }

    /// Makes a namespace one of ids, of which a record says so, if it has no keys yet. True where it was not.
    pub fn settle_mode(&mut self, slot: usize, flags: u8) -> bool {
        let Some(namespace) = self.get(slot) else { return false };
        let is_new =
            flags & FLAG_ID != 0 && namespace.settings.mode == Mode::User && !namespace.used;
        if is_new {
            let settings = namespace.settings.clone();
            let since = namespace.retention_since;
            self.change(slot, Settings { mode: Mode::Sequential, ..settings }, since);
        }
        is_new
    }

    /// Uses up as many ids of every sequential namespace as records may be lost.
    pub fn use_up_ids(&mut self, count: u64) {
        self.slots.iter_mut().flatten().for_each(|namespace| namespace.use_up_ids(count));
    }

    /// Does what a namespace's own record says.
    pub fn apply_record(
        &mut self,
        head: &Head,
        name: &[u8],
        payload: &[u8],
        pool: &mut PagePool,
    ) -> Applied {
        let slot = self.slot_of(head.namespace);
        if head.kind == Kind::NamespaceEnd {
            let Some(slot) = slot else { return Applied::Kept };
            self.remove(slot, pool);
            return Applied::Emptied(slot);
        }
        let Some(settings) = Settings::decode(payload) else {
            self.keep_history(head.namespace);
            return Applied::Unreadable;
        };
        let since = head.timestamp;
        let (slot, applied) = match (slot, self.find(name)) {
            (Some(slot), _) => {
                // A later record of a stand-in brings the name back.
                self.rename(slot, name);
                self.change(slot, settings, since);
                (slot, Applied::Kept)
            }
            // A new id under a name that is taken: the namespace was flushed.
            (None, Some(slot)) => {
                self.replace(slot, head.namespace, settings, since, pool);
                (slot, Applied::Emptied(slot))
            }
            (None, None) => (self.insert(head.namespace, name, settings, since), Applied::Kept),
        };
        if let Some(namespace) = self.get_mut(slot) {
            namespace.recorded = true;
        }
        applied
    }

    /// Of a namespace whose settings are lost nobody knows what its history is worth: nothing is dropped.
    pub fn keep_history(&mut self, id: u32) {
        let slot = self.slot_of(id);
        if let Some(namespace) = slot.and_then(|slot| self.get_mut(slot)) {
            namespace.settings.retention = Retention::Forever;
        }
    }

    pub fn remove(&mut self, slot: usize, pool: &mut PagePool) {
        let Some(namespace) = self.slots[slot].take() else { return };
        self.by_name.remove(&namespace.name);
        self.by_id.remove(&namespace.id);
        self.ended_bytes += namespace.stored_bytes;
        if let Keys::User(mut table) = namespace.keys {
            table.clear(pool);
        }
    }

    /// Puts an empty namespace with another id and the same name into a slot. `since`: Unix seconds of
    /// its record.
    pub fn replace(
        &mut self,
        slot: usize,
        id: u32,
        settings: Settings,
        since: u32,
        pool: &mut PagePool,
    ) {
        let Some(old) = self.slots[slot].take() else { return };
        self.by_id.remove(&old.id);
        self.by_id.insert(id, slot);
        self.next_id = self.next_id.max(id + 1);
        self.ended_bytes += old.stored_bytes;
        let origin = old.origin;
        let namespace = Namespace::new(id, &old.name, settings, since);
        self.slots[slot] = Some(Namespace { origin, ..namespace });
        if let Keys::User(mut table) = old.keys {
            table.clear(pool);
        }
    }

    /// Gives a namespace another name, unless that is taken.
    pub fn rename(&mut self, slot: usize, name: &[u8]) {
        let Some(namespace) = &mut self.slots[slot] else { return };
        if !self.by_name.contains_key(name) {
            self.by_name.remove(&namespace.name);
            self.by_name.insert(name.into(), slot);
            namespace.name = name.into();
        }
    }

    /// Changes settings; a new mode makes a new, empty index, which only an unused namespace has.
    /// `since`: Unix seconds of the record that says so.
    pub fn change(&mut self, slot: usize, settings: Settings, since: u32) {
        let Some(namespace) = &mut self.slots[slot] else { return };
        if settings.mode != namespace.settings.mode && !namespace.used {
            namespace.keys = Keys::new(settings.mode);
        }
        if settings.retention != namespace.settings.retention {
            namespace.retention_since = since;
            // It was found by other rules.
            namespace.dead_bytes_known = 0;
        }
        namespace.settings = settings;
    }

    /// The cleaner dropped records of so many bytes, of namespaces that were removed or flushed.
    pub fn forgot_ended(&mut self, bytes: u64) {
        self.ended_bytes = self.ended_bytes.saturating_sub(bytes);
    }

    /// What the log holds of all namespaces, with those that ended.
    pub fn space(&self) -> Space {
        let ended = Space { dead: self.ended_bytes, ..Space::default() };
        self.iter().map(Namespace::space).fold(ended, |sum, one| Space {
            live: sum.live + one.live,
            history: sum.history + one.history,
            dead: sum.dead + one.dead,
        })
    }

    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn slot_of(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&self, slot: usize) -> Option<&Namespace> {
        self.slots.get(slot)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Namespace> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.slots.iter().flatten()
    }

    /// All with their slots.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &Namespace)> {
        self.slots.iter().enumerate().filter_map(|(slot, one)| Some((slot, one.as_ref()?)))
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: Kind, namespace: u32, timestamp: u32) -> Head {
        Head {
            kind,
            flags: 0,
            key_length: 0,
            payload_length: 0,
            payload_check: 0,
            sequence: 0,
            timestamp,
            namespace,
            previous: crate::engine::index::Place::NONE,
            replaced: None,
        }
    }

    fn with(retention: Retention) -> Settings {
        let password = Some(b"secret".to_vec());
        Settings { worm: true, max_bytes: 77, password, retention, ..Settings::new(Mode::User) }
    }

    #[test]
    fn words_of_nsset_are_retentions_and_back() {
        use Retention::{Days, Forever, Versions};
        let good = [
            ("forever", Forever),
            ("0", Versions(0)),
            ("12", Versions(12)),
            ("4294967294", Versions(HISTORY_VERSIONS_MAX)),
            ("1d", Days(1)),
            ("36500d", Days(HISTORY_DAYS_MAX)),
        ];
        for (word, retention) in good {
            assert_eq!(Retention::parse(word.as_bytes()), Some(retention), "{word}");
            assert_eq!(retention.to_string(), word);
        }
        let bad = [
            "",
            "d",
            "0d",
            "36501d",
            "4294967295",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1D",
            "d1",
            "1.5",
            "1h",
            "Forever",
            "4294967297d",
            "1dd",
        ];
        for word in bad {
            assert_eq!(Retention::parse(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn settings_are_read_back_and_the_first_version_stays_what_it_was() {
        let plain = with(Retention::Forever).encode();
        assert_eq!(plain, *b"\x01\0\0\x03\x4d\0\0\0\0\0\0\0\x06secret");
        for retention in [
            Retention::Forever,
            Retention::Versions(0),
            Retention::Versions(HISTORY_VERSIONS_MAX),
            Retention::Days(30),
        ] {
            let settings = with(retention);
            assert_eq!(Settings::decode(&settings.encode()), Some(settings));
        }
        let days = with(Retention::Days(30)).encode();
        assert_eq!(days[0], 2);
        assert_eq!(days[1..plain.len()], plain[1..]);
        assert_eq!(days[plain.len()..], [2, 30, 0, 0, 0]);
    }

    #[test]
    fn settings_that_nobody_wrote_are_refused() {
        let days = with(Retention::Days(30)).encode();
        for length in 0..days.len() {
            assert_eq!(Settings::decode(&days[..length]), None, "{length} bytes");
        }
        for (at, byte) in [(0, 0), (0, 3), (days.len() - 5, 3), (days.len() - 1, 1)] {
            let mut other = days.clone();
            other[at] = byte;
            assert_eq!(Settings::decode(&other), None, "byte {at}");
        }
    }

    #[test]
    fn the_time_of_the_retention_is_that_of_the_record_that_set_it() {
        let (mut all, mut pool) = (Namespaces::new(Mode::User), PagePool::new());
        let mut apply = |all: &mut Namespaces, id, at, settings: &Settings| {
            let record = head(Kind::Namespace, id, at);
            all.apply_record(&record, b"ns", &settings.encode(), &mut pool)
        };
        let since = |all: &Namespaces| {
            let namespace = all.get(all.find(b"ns").expect("there")).expect("there");
            (namespace.settings.retention, namespace.retention_since)
        };
        apply(&mut all, 1, 100, &with(Retention::Days(3)));
        assert_eq!(since(&all), (Retention::Days(3), 100));
        apply(&mut all, 1, 200, &Settings { worm: false, ..with(Retention::Days(3)) });
        assert_eq!(since(&all), (Retention::Days(3), 100));
        apply(&mut all, 1, 300, &with(Retention::Versions(3)));
        assert_eq!(since(&all), (Retention::Versions(3), 300));
        // A flush: a new namespace.
        apply(&mut all, 2, 400, &with(Retention::Versions(3)));
        assert_eq!(since(&all), (Retention::Versions(3), 400));
    }

    /// What the cleaner tells: what it found, and what it dropped.
    #[test]
    fn the_cleaner_moves_bytes_from_history_to_dead_and_away() {
        let mut all = Namespaces::new(Mode::User);
        let slot = all.insert(1, b"ns", with(Retention::Versions(1)), 5);
        let namespace = all.get_mut(slot).expect("there");
        let entry = |payload_length, replaced| LogEntry {
            position: 4096,
            kind: Kind::Set,
            flags: 0,
            namespace: 1,
            key: 0,
            key_length: 3,
            payload_length,
            fingerprint: 0,
            timestamp: 0,
            replaced,
        };
        for (payload, replaced) in [(1, None), (2, Some(1)), (10, Some(2))] {
            crate::engine::count(namespace, &entry(payload, replaced), 0);
        }
        let space = |live, history, dead| Space { live, history, dead };
        assert_eq!(namespace.space(), space(64, 48 + 56, 0));
        namespace.dead_bytes_known = 48;
        assert_eq!(namespace.space(), space(64, 56, 48));
        namespace.forgot(48);
        assert_eq!((namespace.stored_bytes, namespace.space()), (120, space(64, 56, 0)));
        namespace.dead_bytes_known = 9;
        all.change(slot, with(Retention::Versions(0)), 6);
        assert_eq!(all.get(slot).expect("there").dead_bytes_known, 0);
        assert_eq!(all.space(), space(64, 0, 56));
        all.remove(slot, &mut PagePool::new());
        assert_eq!((all.ended_bytes, all.space()), (120, space(0, 0, 120)));
        all.forgot_ended(100);
        assert_eq!(all.space(), space(0, 0, 20));
    }

    #[test]
    fn lost_settings_keep_the_history() {
        let (mut all, mut pool) = (Namespaces::new(Mode::User), PagePool::new());
        let slot = all.insert(1, b"ns", with(Retention::Versions(0)), 5);
        let record = head(Kind::Namespace, 1, 9);
        assert_eq!(all.apply_record(&record, b"ns", b"?", &mut pool), Applied::Unreadable);
        let kept = &all.get(slot).expect("there").settings;
        assert_eq!(*kept, with(Retention::Forever));
    }
}
