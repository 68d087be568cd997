//! The engine: namespaces, index and log as one deterministic state machine with one owner.
//!
//! It is handed requests, completions and the time, and hands back answers and disk operations. It
//! never touches a file or a socket, takes no lock and reads no clock.

pub mod away;
pub mod cache;
pub mod chain;
pub mod cleaner;
mod copied_damage;
mod copying;
pub mod forgotten;
pub mod identity;
pub mod index;
pub mod log;
pub mod namespace;
pub mod node;
pub mod packed_walk;
mod prefetch;
mod reading;
pub mod recovery;
mod reservations;
pub mod scanner;
pub mod scrub;
pub mod sending;
pub mod terms;
pub mod walk;

use crate::disk::{Completion, Done, FileId, Files, Operation, Token};
use crate::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, SHARE_BYTES_MIN};
use away::Away;
use bytes::Bytes;
use cache::RecordCache;
use cleaner::Cleaner;
use copied_damage::CopiedDamage;
pub use copied_damage::damage_check;
use index::{Entry, HashSecret, KeyHash, PagePool, Place, SequenceTable};
use log::format::{self, FLAG_ID, FLAG_UNVERIFIED, Head, Kind, RECORD_HEAD_BYTES, Verified};
use log::sidecar::LogEntry;
use log::{Jump, Log, Member, Refusal};
use namespace::{Keys, Namespace, Namespaces, Retention};
use node::Node;
use reading::Spot;
pub use reading::Stretch;
use scrub::Scrub;
use std::collections::HashMap;
use std::io;
use terms::Terms;

/// The time of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Unix time in microseconds.
    pub unix_us: u64,
    /// A clock that never goes back, in milliseconds.
    pub monotonic_ms: u64,
}

impl Now {
    pub fn unix_s(&self) -> u64 {
        self.unix_us / 1_000_000
    }
}

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A connection whose next request needs a record.
    Connection(u64),
    /// Part of a task.
    Task { task: u64, part: usize },
    /// The cleaner, by the number of its question.
    Cleaner(u64),
    /// What the server keeps about itself, by the number of the change.
    Node(u64),
    /// A replica, by its connection, and where what was read for it begins.
    Replica(u64, u64),
    /// The link to the master.
    Link,
}

/// A record that was asked for.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub place: Place,
    pub record: Result<Bytes, ReadFailure>,
}

#[derive(Clone, Debug)]
pub enum ReadFailure {
    /// The kernel could not read.
    Unreadable,
    /// The segment's file was moved away, and did not come back.
    Away,
    /// The bytes are not those that were written. With the record where its head and key are whole.
    Damaged(Option<Bytes>),
    /// The cleaner dropped it: it was superseded, and so was every older version of its key.
    Gone,
}

#[derive(Debug)]
pub enum Answer {
    Record(Fetched),
    /// Raw bytes of the log.
    Range(io::Result<Stretch>),
    /// A page of a sidecar.
    Page(io::Result<Vec<u8>>),
    /// A small file is written.
    Written(io::Result<()>),
    /// What the cleaner asked for is done.
    Work(io::Result<Done>),
}

enum Pending {
    Record {
        waiter: Waiter,
        place: Place,
        namespace: Option<u32>,
        spot: Spot,
        length: u64,
        keep: bool,
    },
    Range {
        waiter: Waiter,
        spot: Spot,
    },
    Page {
        waiter: Waiter,
    },
    Written {
        waiter: Waiter,
    },
    /// Work on files for the cleaner, or for who has the log, too; `read`: the file that is read.
    Work {
        waiter: Waiter,
        read: Option<FileId>,
    },
    /// The sidecar of the packed segment with this base.
    Sidecar {
        base: u64,
    },
    /// Files that nobody needs.
    Removal,
    FreeSpace,
}

/// The version of a key that a new record follows.
#[derive(Clone, Copy, Debug)]
pub struct Predecessor {
    pub place: Place,
    /// Whether it, and all below it, surely belong to the same key.
    pub verified: bool,
    /// Payload bytes, where it is a live version of the same key.
    pub replaced: Option<u32>,
}

/// What happened that hooks are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Jumped(Jump),
    /// Somebody wants what is in the segment with this base, and its file is not here.
    Missing(u64),
    NamespaceCreated(Box<[u8]>),
    NamespaceUpdated(Box<[u8]>),
    NamespaceReloaded(Box<[u8]>),
    NamespaceDeleted(Box<[u8]>),
}

/// What is to happen to a key.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub key: &'a [u8],
    /// The new value with its `payload_check`; none ends the key.
    pub value: Option<(&'a [u8], u64)>,
    pub timestamp: u32,
    pub predecessor: Option<Predecessor>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    pub read_errors: u64,
    pub read_bytes: u64,
    pub reads: u64,
    pub index_read_errors: u64,
    pub index_read_bytes: u64,
}

pub struct Engine {
    pub log: Log,
    pub namespaces: Namespaces,
    pub cache: RecordCache,
    pub cleaner: Cleaner,
    pub now: Now,
    pub stats: EngineStats,
    /// Free bytes of the data and the index file system when last asked.
    pub free_bytes: (u64, u64),
    pub answers: Vec<(Waiter, Answer)>,
    /// What happened that hooks are told of, in its order. Whoever drives the engine takes them.
    pub events: Vec<Event>,
    pub scrub: Scrub,
    pub away: Away,
    pub damage: CopiedDamage,
    /// Who wrote which part of the log.
    pub terms: Terms,
    /// What this server is to others that have the log, too.
    pub node: Node,
    /// The term that begins with the next record.
    pub term_due: Option<u64>,
    /// Its number is on the disk: a server that forgot it could give it to another term.
    pub is_term_kept: bool,
    /// Limit of live payload bytes of `default` for this run; 0 = none.
    run_limit: u64,
    pool: PagePool,
    secret: HashSecret,
    pending: HashMap<Token, Pending>,
    /// How many of them are reads of records.
    reads_under_way: usize,
    /// Files that were replaced and are still read.
    retired: Vec<FileId>,
    free_asked_ms: u64,
    next_token: u64,
    operations: Vec<(Token, Operation)>,
}

impl Engine {
    pub fn new(
        log: Log,
        namespaces: Namespaces,
        pool: PagePool,
        secret: HashSecret,
        cache_bytes: u64,
    ) -> Self {
        Self {
            log,
            namespaces,
            cache: RecordCache::new(cache_bytes),
            cleaner: Cleaner::default(),
            now: Now::default(),
            stats: EngineStats::default(),
            free_bytes: (0, 0),
            answers: Vec::new(),
            events: Vec::new(),
            scrub: Scrub::default(),
            away: Away::default(),
            damage: CopiedDamage::default(),
            terms: Terms::default(),
            node: Node::default(),
            term_due: None,
            is_term_kept: false,
            run_limit: 0,
            pool,
            secret,
            pending: HashMap::new(),
            reads_under_way: 0,
            retired: Vec::new(),
            free_asked_ms: 0,
            next_token: 0,
            operations: Vec::new(),
        }
    }

    /// The secret of the key hashes: all copies of a log have the same.
    pub fn secret_bytes(&self) -> [u8; 16] {
        self.secret.bytes()
    }

    // ---------------------------------------------------------------- looking up

    pub fn hash(&self, key: &[u8]) -> KeyHash {
        self.secret.hash(key)
    }

    /// The newest record of the keys with this hash.
    pub fn find(&self, namespace: &Namespace, hash: KeyHash) -> Option<Entry> {
        match &namespace.keys {
            Keys::User(table) => table.get(&self.pool, hash),
            Keys::Sequential(_) => None,
        }
    }

    /// Whether somebody waits for a record from the disk.
    pub fn is_reading(&self) -> bool {
        self.reads_under_way > 0
    }

    /// The place of some record that a key has now, by a number drawn at random.
    pub fn any_place(&self, namespace: &Namespace, draw: u64) -> Option<Place> {
        // An index may be full of dead entries.
        if namespace.live_keys == 0 {
            return None;
        }
        match &namespace.keys {
            Keys::User(table) => table.any(&self.pool, draw),
            Keys::Sequential(table) => {
                let from = draw.checked_rem(table.next_id())?;
                let found = table.next_live(from.checked_sub(1)).or_else(|| table.next_live(None));
                found.map(|(_, place)| place)
            }
        }
    }

    /// Asks the processor for the part of the index that `find` will look at.
    pub fn prefetch_index(&self, namespace: &Namespace, hash: KeyHash) {
        if let Keys::User(table) = &namespace.keys {
            table.prefetch(&self.pool, hash);
        }
    }

    /// Asks the processor for the record that a request will look at, where it is in the buffer.
    pub fn prefetch_record(&self, namespace: &Namespace, hash: KeyHash) {
        if let Some(entry) = self.find(namespace, hash) {
            let payload = if entry.is_dead() { 0 } else { entry.length as usize };
            if let Some(record) = self.log.buffered(entry.place.get(), RECORD_HEAD_BYTES + payload)
            {
                prefetch::slice(record);
            }
        }
    }

    /// Whether `place` is what the index holds for the key of a log entry.
    pub fn is_current(&self, namespace: &Namespace, key: u64, place: u64) -> bool {
        match &namespace.keys {
            Keys::User(table) => table
                .get(&self.pool, KeyHash::from_bits(key))
                .is_some_and(|entry| entry.place.get() == place && !entry.is_dead()),
            Keys::Sequential(table) => table.get(key).is_some_and(|found| found.get() == place),
        }
    }

    /// A record that is in memory.
    pub fn peek(&self, place: Place) -> Option<Verified<'_>> {
        if place.get() >= self.log.buffered_from() {
            if self.damage.has(place.get()) {
                return None;
            }
            let head = self.log.buffered(place.get(), RECORD_HEAD_BYTES)?;
            let head = format::decode_fields(head)?;
            let bytes = self.log.buffered(place.get(), head.bytes() as usize)?;
            return Some(Verified::with_head(head, bytes));
        }
        self.cache.find(place.get()).map(|bytes| Verified::trusted(bytes))
    }

    /// A record in the write buffer at a place that a client named: verified like one from the disk.
    pub fn peek_checked(&self, place: Place) -> Option<Verified<'_>> {
        let head = self.log.buffered(place.get(), RECORD_HEAD_BYTES)?;
        let bytes = format::decode_fields(head)?.bytes();
        let bytes = self.log.buffered(place.get(), bytes as usize)?;
        Verified::check(bytes, self.log.seed, place.get())
    }

    /// Puts a large record of the write buffer into the cache, so that all who ask for it are sent the
    /// same bytes.
    pub fn share_buffered(&mut self, place: Place) {
        if place.get() < self.log.buffered_from() || self.cache.get(place.get()).is_some() {
            return;
        }
        let Some(record) = self.peek(place) else { return };
        if record.head.payload_length as usize >= SHARE_BYTES_MIN {
            let bytes = Bytes::copy_from_slice(record.bytes());
            let length = bytes.len() as u64;
            self.cache.insert(place.get(), bytes, length);
        }
    }

    /// The same as bytes that can be sent without a copy; only records from the cache have such.
    pub fn cached(&self, place: Place) -> Option<&Bytes> {
        self.cache.get(place.get())
    }

    /// Limit of live payload bytes of a namespace; 0 = none.
    pub fn max_bytes(&self, namespace: &Namespace) -> u64 {
        if namespace.id == namespace::DEFAULT_ID && self.run_limit > 0 {
            self.run_limit
        } else {
            namespace.settings.max_bytes
        }
    }

    pub fn index_bytes(&self) -> usize {
        let tables: usize = self
            .namespaces
            .iter()
            .map(|namespace| match &namespace.keys {
                Keys::User(table) => table.memory_bytes(),
                Keys::Sequential(table) => table.memory_bytes(),
            })
            .sum();
        // The tables count the pages that they use, the pool has some more.
        tables + self.pool.memory_bytes() - self.pool.pages_in_use() * index::PAGE_BYTES
    }

    // ---------------------------------------------------------------- writing

    /// From now on writes are acknowledged by another policy.
    pub fn set_policy(&mut self, policy: log::Policy) {
        self.log.set_policy(self.now.monotonic_ms, policy);
    }

    /// Appends a version of a key, with the key's hash where it is known. Returns where the record ends, which is when it may be acknowledged.
    pub fn set(
        &mut self,
        slot: usize,
        (key, hash): (&[u8], Option<KeyHash>),
        (payload, payload_check): (&[u8], u64),
        timestamp: u32,
        predecessor: Option<Predecessor>,
    ) -> Result<u64, Refusal> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "the parser lets no larger payload through");
        self.record_namespace(slot)?;
        let head = self.head(slot, Kind::Set, key, timestamp, predecessor);
        let head = Head { payload_length: payload.len() as u32, payload_check, ..head };
        self.append_key(slot, head, key, hash, payload)
    }

    /// Appends the end of a key.
    pub fn delete(
        &mut self,
        slot: usize,
        key: &[u8],
        timestamp: u32,
        predecessor: Predecessor,
    ) -> Result<u64, Refusal> {
        let mut head = self.head(slot, Kind::Delete, key, timestamp, Some(predecessor));
        head.payload_check = format::payload_check(self.log.seed, &[]);
        self.append_key(slot, head, key, None, &[])
    }

    fn head(
        &self,
        slot: usize,
        kind: Kind,
        key: &[u8],
        timestamp: u32,
        predecessor: Option<Predecessor>,
    ) -> Head {
        assert!(key.len() <= KEY_BYTES_MAX, "the command checked the key's length");
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        let of_mode = match &namespace.keys {
            Keys::User(_) => 0,
            Keys::Sequential(_) => FLAG_ID,
        };
        let of_predecessor = match predecessor {
            Some(Predecessor { verified: false, .. }) => FLAG_UNVERIFIED,
            _ => 0,
        };
        Head {
            kind,
            flags: of_mode | of_predecessor,
            key_length: key.len() as u8,
            payload_length: 0,
            payload_check: 0,
            sequence: 0,
            timestamp,
            namespace: namespace.id,
            previous: predecessor.map_or(Place::NONE, |before| before.place),
            replaced: predecessor.and_then(|before| before.replaced),
        }
    }

    fn append_key(
        &mut self,
        slot: usize,
        head: Head,
        key: &[u8],
        hash: Option<KeyHash>,
        payload: &[u8],
    ) -> Result<u64, Refusal> {
        self.begin_term_if_due()?;
        let (position, end) = match self.log.append(self.now.monotonic_ms, head, key, payload) {
            Ok(place) => place,
            Err(refusal) => {
                self.count_refusal(slot, refusal);
                return Err(refusal);
            }
        };
        let namespace = self.namespaces.get(slot).expect("looked up above");
        let hash = || hash.unwrap_or_else(|| self.secret.hash(key));
        let entry = entry_of(position, &head, key, namespace, hash);
        self.log.note(&[entry], end);
        apply(&mut self.namespaces, &mut self.pool, slot, &entry, end);
        Ok(end)
    }

    /// Makes changes to different keys that count together or not at all, whatever happens to the
    /// machine. Their records are at most `format::BATCH_BYTES_MAX` bytes.
    pub fn change_all(&mut self, slot: usize, changes: &[Change<'_>]) -> Result<u64, Refusal> {
        self.begin_term_if_due()?;
        self.record_namespace(slot)?;
        let hashes: Vec<KeyHash> = changes.iter().map(|one| self.secret.hash(one.key)).collect();
        let mut newest = HashMap::with_capacity(changes.len());
        let mut members: Vec<Member<'_>> = changes
            .iter()
            .enumerate()
            .map(|(at, change)| {
                let kind = if change.value.is_some() { Kind::Set } else { Kind::Delete };
                let head = self.head(slot, kind, change.key, change.timestamp, change.predecessor);
                let (payload, payload_check) =
                    change.value.unwrap_or((&[], format::payload_check(self.log.seed, &[])));
                let payload_length = payload.len() as u32;
                Member {
                    head: Head { payload_length, payload_check, ..head },
                    key: change.key,
                    payload,
                    // The index keeps the newest record of a hash: the way to the others is kept too.
                    behind: newest.insert(hashes[at].get(), at),
                }
            })
            .collect();
        let (first, end) = match self.log.append_batch(self.now.monotonic_ms, &mut members) {
            Ok(place) => place,
            Err(refusal) => {
                self.count_refusal(slot, refusal);
                return Err(refusal);
            }
        };
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        let mut position = first;
        let entries: Vec<LogEntry> = members
            .iter()
            .zip(hashes)
            .map(|(Member { head, key, .. }, hash)| {
                let entry = entry_of(position, head, key, namespace, || hash);
                position += head.bytes();
                entry
            })
            .collect();
        self.log.note(&entries, end);
        for entry in &entries {
            apply(&mut self.namespaces, &mut self.pool, slot, entry, end);
        }
        Ok(end)
    }

    // ---------------------------------------------------------------- the turn

    /// Takes the end of an operation.
    pub fn completed(&mut self, completion: Completion) {
        let Completion { token, result } = completion;
        if Log::owns(token) {
            return self.log.completed(self.now.monotonic_ms, token, result);
        }
        let result = match result {
            Ok(Done::Empty(read)) => match self.found_nothing(token, read) {
                Some(result) => result,
                None => return,
            },
            result => result,
        };
        if self.scrub.owns(token) {
            return self.scrub_completed(token, result);
        }
        if self.away.owns(token) {
            return self.away_completed(token, result);
        }
        match self.pending.remove(&token) {
            Some(pending @ Pending::Record { .. }) => self.record_read(pending, result),
            Some(Pending::Range { waiter, spot }) => self.range_read(waiter, spot, result),
            Some(Pending::Page { waiter }) => {
                let bytes = result.and_then(|done| match done {
                    Done::Vector(bytes) => Ok(bytes),
                    _ => Err(io::Error::other("a sidecar gives bytes")),
                });
                match &bytes {
                    Ok(bytes) => self.stats.index_read_bytes += bytes.len() as u64,
                    Err(_) => self.stats.index_read_errors += 1,
                }
                self.answer(waiter, Answer::Page(bytes));
            }
            Some(Pending::Written { waiter }) => {
                self.answer(waiter, Answer::Written(result.map(|_| ())));
            }
            Some(Pending::Work { waiter, read }) => {
                if let Some(file) = read {
                    self.file_read(file);
                }
                self.answer(waiter, Answer::Work(result));
            }
            Some(Pending::Sidecar { base }) => self.sidecar_stored(base, result),
            Some(Pending::Removal) => {
                self.cleaner.removals -= 1;
                if let Err(error) = result {
                    // The next start removes them.
                    self.log.notices.push(format!("cannot remove a cleaned segment: {error}"));
                }
            }
            Some(Pending::FreeSpace) => {
                if let Ok(Done::Free { data, index }) = result {
                    self.free_bytes = (data, index);
                }
            }
            None => debug_assert!(false, "a completion that nobody waits for"),
        }
    }

    /// When there is something to look after, in milliseconds of the loop's clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        let due = [self.cleaner_deadline_ms(), self.scrub_deadline_ms(), self.away_deadline_ms()];
        due.into_iter().flatten().min()
    }

    /// The tidy-up after each turn: what is due becomes operations.
    pub fn pump(&mut self) {
        self.log.now_s = self.now.unix_s();
        self.clean();
        self.log.pump(self.now.monotonic_ms);
        self.step_scrub();
        self.step_away();
        self.events.extend(self.log.jumps.drain(..).map(Event::Jumped));
    }

    /// Whether the disk has nothing to do for it any more: another engine may take its place.
    pub fn is_quiet(&self) -> bool {
        let is_busy = self.scrub.is_busy() || self.away.is_busy();
        self.pending.is_empty() && !is_busy && self.operations.is_empty()
    }

    /// Closes all files of an engine that is not used any more.
    pub fn close_files(&mut self, files: &dyn Files) {
        self.log.segments.list().iter().for_each(|segment| files.close(segment.file));
        self.retired.drain(..).for_each(|file| files.close(file));
    }

    pub fn take_operations(&mut self, out: &mut Vec<(Token, Operation)>) {
        // A file that goes makes room for a segment.
        out.append(&mut self.operations);
        out.append(&mut self.log.operations);
    }
}

/// What a record of a key does to the index.
pub fn entry_of(
    position: u64,
    head: &Head,
    key: &[u8],
    namespace: &Namespace,
    hash: impl FnOnce() -> KeyHash,
) -> LogEntry {
    let key = match &namespace.keys {
        Keys::User(_) => hash().get(),
        Keys::Sequential(_) => sequential_id(key).unwrap_or(u64::MAX),
    };
    LogEntry {
        position,
        kind: head.kind,
        flags: head.flags,
        namespace: head.namespace,
        key,
        key_length: head.key_length,
        payload_length: head.payload_length,
        fingerprint: head.fingerprint(),
        timestamp: head.timestamp,
        replaced: head.replaced,
    }
}

/// The entry of a record about a namespace itself, or of a term.
pub fn control_entry(position: u64, head: &Head, key: &[u8]) -> LogEntry {
    let number = sequential_id(key).filter(|_| head.kind == Kind::Term);
    LogEntry {
        position,
        kind: head.kind,
        flags: head.flags,
        namespace: head.namespace,
        key: number.unwrap_or(0),
        key_length: head.key_length,
        payload_length: head.payload_length,
        fingerprint: head.fingerprint(),
        timestamp: head.timestamp,
        replaced: None,
    }
}

/// The id in a sequential key.
pub fn sequential_id(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_le_bytes)
}

/// Does to index and counters what a record of a key says.
pub fn apply(
    namespaces: &mut Namespaces,
    pool: &mut PagePool,
    slot: usize,
    entry: &LogEntry,
    end: u64,
) {
    let Some(namespace) = namespaces.get_mut(slot) else { return };
    count(namespace, entry, end);
    match &mut namespace.keys {
        Keys::User(table) => {
            match index_change(entry, namespace.settings.retention) {
                (hash, Some(found)) => table.insert(pool, hash, found),
                (hash, None) => table.remove(pool, hash),
            };
        }
        Keys::Sequential(table) => apply_sequential(table, entry),
    }
}

/// What a record of a key does to the index of a namespace in user mode.
fn index_change(entry: &LogEntry, retention: Retention) -> (KeyHash, Option<Entry>) {
    let (place, hash) = (Place::new(entry.position), KeyHash::from_bits(entry.key));
    let found = match entry.kind {
        Kind::Delete if entry.flags & FLAG_UNVERIFIED == 0 && !retention.keeps_deleted() => None,
        // Below may be a key with the same hash, or versions whose time comes: the way there is kept.
        Kind::Delete => Some(Entry { place, length: Entry::DEAD, fingerprint: 0 }),
        _ => Some(Entry { place, length: entry.payload_length, fingerprint: entry.fingerprint }),
    };
    (hash, found)
}

fn apply_sequential(table: &mut SequenceTable, entry: &LogEntry) {
    if entry.kind == Kind::Delete {
        table.remove(entry.key);
        return;
    }
    let next = table.next_id();
    // A damaged log may lack ids; one that lacks more than this is not one of ours.
    if entry.key > next.saturating_add(index::SKIP_IDS_MAX) {
        return;
    }
    table.set(entry.key, Place::new(entry.position));
    if entry.key < next {
        // As in 0-db, an update uses up an id.
        table.reserve(next);
    }
}

/// Keeps the counters of a namespace. The order of the records does not matter here.
fn count(namespace: &mut Namespace, entry: &LogEntry, end: u64) {
    let replaced = u64::from(entry.replaced.unwrap_or(0));
    let key_length = u64::from(entry.key_length);
    namespace.count_bytes(entry);
    namespace.live_bytes = namespace.live_bytes.saturating_sub(replaced);
    if entry.kind == Kind::Set {
        namespace.used = true;
        namespace.live_bytes += u64::from(entry.payload_length);
        if entry.replaced.is_none() {
            namespace.live_keys += 1;
            namespace.inserts += 1;
            namespace.key_bytes += key_length;
        }
    } else {
        namespace.deleted_until = end;
        if entry.replaced.is_some() {
            namespace.live_keys = namespace.live_keys.saturating_sub(1);
            namespace.key_bytes = namespace.key_bytes.saturating_sub(key_length);
        }
    }
}
