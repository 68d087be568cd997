//! Namespaces: storage reservations that share the log. Each has its settings and its own index.

use crate::engine::index::{KeyTable, PagePool, SKIP_IDS_MAX, SequenceTable};
use crate::engine::log::format::{FLAG_ID, Head, Kind};
use crate::limits::PAYLOAD_BYTES_MAX;
use std::collections::HashMap;

pub const DEFAULT_NAME: &[u8] = b"default";
pub const DEFAULT_ID: u32 = 0;
/// Version of the settings' encoding in the log.
const SETTINGS_VERSION: u8 = 1;

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
}

impl Settings {
    pub fn new(mode: Mode) -> Self {
        Self { mode, access: Access::Open, public: true, worm: false, max_bytes: 0, password: None }
    }

    /// The payload of a namespace record.
    pub fn encode(&self) -> Vec<u8> {
        let password = self.password.as_deref().unwrap_or_default();
        let mut out = vec![
            SETTINGS_VERSION,
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
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, mode, access, flags], rest) = bytes.split_first_chunk()?;
        let (max_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (&length, rest) = rest.split_first()?;
        let password = rest.get(..length as usize)?;
        if version != SETTINGS_VERSION {
            return None;
        }
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
    pub keys: Keys,
    pub live_keys: u64,
    /// Payload bytes of the live keys.
    pub live_bytes: u64,
    /// Bytes of the live keys themselves.
    pub key_bytes: u64,
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
    fn new(id: u32, name: &[u8], settings: Settings) -> Self {
        Self {
            id,
            origin: id,
            name: name.into(),
            keys: Keys::new(settings.mode),
            settings,
            live_keys: 0,
            live_bytes: 0,
            key_bytes: 0,
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

    /// What the record for an average value takes in a read, in bytes.
    pub fn typical_payload_bytes(&self) -> usize {
        let average = self.live_bytes.checked_div(self.live_keys).unwrap_or(0);
        ((average + average / 4) as usize).min(PAYLOAD_BYTES_MAX)
    }
}

/// All namespaces, in slots that are reused: the order of NSLIST.
pub struct Namespaces {
    slots: Vec<Option<Namespace>>,
    by_name: HashMap<Box<[u8]>, usize>,
    by_id: HashMap<u32, usize>,
    next_id: u32,
}

impl Namespaces {
    /// With `default` in slot 0, id 0.
    pub fn new(mode: Mode) -> Self {
        let mut all =
            Self { slots: Vec::new(), by_name: HashMap::new(), by_id: HashMap::new(), next_id: 0 };
        all.insert(DEFAULT_ID, DEFAULT_NAME, Settings::new(mode));
        all
    }

    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Puts a namespace into the first free slot.
    pub fn insert(&mut self, id: u32, name: &[u8], settings: Settings) -> usize {
        let namespace = Namespace::new(id, name, settings);
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
        let slot = self.insert(id, &name, settings);
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
            self.change(slot, Settings { mode: Mode::Sequential, ..settings });
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
        let Some(settings) = Settings::decode(payload) else { return Applied::Unreadable };
        let (slot, applied) = match (slot, self.find(name)) {
            (Some(slot), _) => {
                // A later record of a stand-in brings the name back.
                self.rename(slot, name);
                self.change(slot, settings);
                (slot, Applied::Kept)
            }
            // A new id under a name that is taken: the namespace was flushed.
            (None, Some(slot)) => {
                self.replace(slot, head.namespace, settings, pool);
                (slot, Applied::Emptied(slot))
            }
            (None, None) => (self.insert(head.namespace, name, settings), Applied::Kept),
        };
        if let Some(namespace) = self.get_mut(slot) {
            namespace.recorded = true;
        }
        applied
    }

    pub fn remove(&mut self, slot: usize, pool: &mut PagePool) {
        let Some(namespace) = self.slots[slot].take() else { return };
        self.by_name.remove(&namespace.name);
        self.by_id.remove(&namespace.id);
        if let Keys::User(mut table) = namespace.keys {
            table.clear(pool);
        }
    }

    /// Puts an empty namespace with another id and the same name into a slot.
    pub fn replace(&mut self, slot: usize, id: u32, settings: Settings, pool: &mut PagePool) {
        let Some(old) = self.slots[slot].take() else { return };
        self.by_id.remove(&old.id);
        self.by_id.insert(id, slot);
        self.next_id = self.next_id.max(id + 1);
        let origin = old.origin;
        self.slots[slot] = Some(Namespace { origin, ..Namespace::new(id, &old.name, settings) });
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
    pub fn change(&mut self, slot: usize, settings: Settings) {
        let Some(namespace) = &mut self.slots[slot] else { return };
        if settings.mode != namespace.settings.mode && !namespace.used {
            namespace.keys = Keys::new(settings.mode);
        }
        namespace.settings = settings;
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
