//! The new log: an engine driven by a loop of its own, without sockets and without waiting for anybody.
//! What is appended is written in large pieces, and flushed at segment ends and at the close.

use crate::crc32c::crc32c;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::system::SystemFiles;
use crate::disk::{Completion, Done, FileId, Files, Operation, Read, Root, housekeeper};
use crate::engine::index::{KeyHash, Place};
use crate::engine::log::format::{self, FLAG_UNVERIFIED, Kind, Verified};
use crate::engine::log::{Policy, Refusal};
use crate::engine::namespace::{Keys, Namespace, Settings};
use crate::engine::recovery::{self, StartOptions};
use crate::engine::{Answer, Engine, Now, Predecessor, Waiter};
use crate::limits::{KEY_BYTES_MAX, WRITE_BYTES_MAX};
use crate::server::process;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Turns without an operation after which the log has stopped for good.
const IDLE_TURNS_MAX: usize = 5000;

pub struct Writer {
    engine: Engine,
    files: SystemFiles,
    started: Instant,
    /// Where the log was when it was last written out.
    turned_at: u64,
    /// Stands in the data directory until all is durable.
    mark: &'static str,
    operations: Vec<(crate::disk::Token, Operation)>,
}

/// The newest record of a key or of what shares its hash.
struct Newest {
    is_ours: bool,
    verified: bool,
    length: u32,
    live: bool,
    previous: Place,
}

impl Writer {
    /// Opens a log in directories that hold none, and marks it unfinished. With the secret of an old log
    /// its keys have the same hashes.
    pub fn start(
        files: SystemFiles,
        segment_bytes: u64,
        mark: &'static str,
        secret: Option<[u8; 16]>,
    ) -> Result<Self, String> {
        let mut random = [0; 32];
        process::fill_random(&mut random);
        if let Some(secret) = secret {
            random[16..].copy_from_slice(&secret);
        }
        let options = StartOptions {
            mode: None,
            policy: Policy::No,
            segment_bytes,
            cache_bytes: 0,
            // Memory of this process: an import that is killed begins anew.
            buffer: None,
            random,
        };
        let (mut engine, _) = recovery::start(&files, options)?;
        engine.cleaner.options.is_on = false;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // For the header of the first segment, which is made before the first turn.
        engine.log.now_s = unix.as_secs();
        files
            .write_small(Root::Data, mark, b"")
            .map_err(|error| format!("cannot write to the new data directory: {error}"))?;
        Ok(Self {
            engine,
            files,
            started: Instant::now(),
            turned_at: 0,
            mark,
            operations: Vec::new(),
        })
    }

    pub fn namespace(&self, slot: usize) -> &Namespace {
        self.engine.namespaces.get(slot).expect("nobody names a removed namespace")
    }

    /// Where the next record will be: grows with each.
    pub fn position(&self) -> u64 {
        self.engine.log.appended()
    }

    /// A namespace with these settings; `default` is there already.
    pub fn create(&mut self, name: &[u8], settings: &Settings) -> Result<usize, String> {
        if let Some(slot) = self.engine.namespaces.find(name) {
            if self.namespace(slot).settings != *settings {
                self.again(|engine| engine.change_namespace(slot, settings.clone()))?;
            }
            return Ok(slot);
        }
        self.again(|engine| engine.create_namespace(name, settings.clone()))?;
        Ok(self.engine.namespaces.find(name).expect("just created"))
    }

    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.engine.namespaces.find(name)
    }

    /// Ends everything in a namespace and gives it these settings.
    pub fn flush(&mut self, slot: usize, settings: &Settings) -> Result<(), String> {
        self.again(|engine| engine.flush_namespace(slot))?;
        if self.namespace(slot).settings != *settings {
            self.again(|engine| engine.change_namespace(slot, settings.clone()))?;
        }
        Ok(())
    }

    pub fn change(&mut self, slot: usize, settings: &Settings) -> Result<(), String> {
        self.again(|engine| engine.change_namespace(slot, settings.clone()))?;
        Ok(())
    }

    pub fn remove(&mut self, slot: usize) -> Result<(), String> {
        self.again(|engine| engine.remove_namespace(slot))?;
        Ok(())
    }

    pub fn hash(&self, key: &[u8]) -> KeyHash {
        self.engine.hash(key)
    }

    /// The key whose newest record the index holds for a hash, where that is a live version.
    pub fn live_key(&mut self, slot: usize, hash: KeyHash) -> Result<Option<Vec<u8>>, String> {
        let found = self.engine.find(self.namespace(slot), hash).filter(|entry| !entry.is_dead());
        let Some(entry) = found else { return Ok(None) };
        let bytes = format::record_bytes(KEY_BYTES_MAX, entry.length as usize);
        self.look(entry.place, bytes, |record| Some(record.key().to_vec()))
    }

    /// Appends a version of a key of a namespace in user mode, as SET does it.
    pub fn set_user(
        &mut self,
        slot: usize,
        key: &[u8],
        payload: &[u8],
        timestamp: u32,
    ) -> Result<(), String> {
        let hash = self.engine.hash(key);
        let entry = self.engine.find(self.namespace(slot), hash);
        let predecessor = match entry {
            None => None,
            Some(entry) => {
                let in_memory = self.engine.peek(entry.place).is_some();
                // As the server, which reads only where the index leaves it open what is below.
                let newest = if in_memory || entry.is_dead() {
                    let payload = if entry.is_dead() { 0 } else { entry.length as usize };
                    Some(self.newest(entry.place, key, format::record_bytes(key.len(), payload))?)
                } else {
                    None
                };
                Some(match newest {
                    Some(Newest { is_ours: true, verified, length, live, .. }) => Predecessor {
                        place: entry.place,
                        verified: verified && live,
                        replaced: live.then_some(length),
                    },
                    Some(_) => Predecessor { place: entry.place, verified: false, replaced: None },
                    None => Predecessor {
                        place: entry.place,
                        verified: false,
                        replaced: (!entry.is_dead()).then_some(entry.length),
                    },
                })
            }
        };
        self.set(slot, key, payload, timestamp, predecessor)
    }

    /// Appends a version of an id, as SET does it.
    pub fn set_id(
        &mut self,
        slot: usize,
        id: u64,
        payload: &[u8],
        timestamp: u32,
    ) -> Result<(), String> {
        let key = id.to_le_bytes();
        let predecessor = match self.place(slot, &key) {
            None => None,
            Some(place) => {
                let bytes = self.namespace(slot).typical_payload_bytes();
                let newest = self.newest(place, &key, format::record_bytes(key.len(), bytes))?;
                let replaced = if newest.is_ours { newest.length } else { 0 };
                Some(Predecessor { place, verified: true, replaced: Some(replaced) })
            }
        };
        self.set(slot, &key, payload, timestamp, predecessor)
    }

    fn set(
        &mut self,
        slot: usize,
        key: &[u8],
        payload: &[u8],
        timestamp: u32,
        predecessor: Option<Predecessor>,
    ) -> Result<(), String> {
        let check = format::payload_check(self.engine.log.seed, payload);
        let value = (payload, check);
        self.again(|engine| engine.set(slot, (key, None), value, timestamp, predecessor))?;
        self.turn_if_due()
    }

    /// Appends the end of a key, as DEL does it; false where there is no such key.
    pub fn delete(&mut self, slot: usize, key: &[u8], timestamp: u32) -> Result<bool, String> {
        let Some(mut place) = self.place(slot, key) else { return Ok(false) };
        let head = place;
        let bytes = self.namespace(slot).typical_payload_bytes();
        let bytes = format::record_bytes(key.len(), bytes);
        let mut is_first = true;
        let predecessor = loop {
            let newest = self.newest(place, key, bytes)?;
            if newest.is_ours && !newest.live {
                return Ok(false);
            }
            if newest.is_ours {
                let verified = newest.verified && is_first;
                break Predecessor { place: head, verified, replaced: Some(newest.length) };
            }
            // Another key with the same hash: ours may be below.
            if newest.verified || newest.previous.is_none() {
                return Ok(false);
            }
            place = newest.previous;
            is_first = false;
        };
        self.again(|engine| engine.delete(slot, key, timestamp, predecessor))?;
        self.turn_if_due()?;
        Ok(true)
    }

    /// Where the newest live version of a key is, going by its hash or id alone.
    pub fn live_place(&self, slot: usize, key: &[u8]) -> Option<u64> {
        let namespace = self.namespace(slot);
        match &namespace.keys {
            Keys::User(_) => {
                let entry = self.engine.find(namespace, self.engine.hash(key))?;
                (!entry.is_dead()).then(|| entry.place.get())
            }
            Keys::Sequential(_) => self.place(slot, key).map(Place::get),
        }
    }

    /// Whether the newest version of a key is the one with this time and CRC-32C.
    pub fn holds(
        &mut self,
        slot: usize,
        key: &[u8],
        timestamp: u32,
        check: u32,
    ) -> Result<bool, String> {
        let Some(place) = self.place(slot, key) else { return Ok(false) };
        let bytes = self.namespace(slot).typical_payload_bytes();
        let bytes = format::record_bytes(key.len(), bytes);
        let same = |record: &Verified<'_>| {
            record.key() == key
                && record.head.timestamp == timestamp
                && crc32c(record.payload()) == check
        };
        self.look(place, bytes, same)
    }

    fn place(&self, slot: usize, key: &[u8]) -> Option<Place> {
        let namespace = self.namespace(slot);
        match &namespace.keys {
            Keys::User(_) => {
                self.engine.find(namespace, self.engine.hash(key)).map(|entry| entry.place)
            }
            Keys::Sequential(table) => {
                crate::engine::sequential_id(key).and_then(|id| table.get(id))
            }
        }
    }

    fn newest(&mut self, place: Place, key: &[u8], bytes: u64) -> Result<Newest, String> {
        self.look(place, bytes, |record| Newest {
            is_ours: record.key() == key,
            verified: record.head.flags & FLAG_UNVERIFIED == 0,
            length: record.head.payload_length,
            live: record.head.kind == Kind::Set,
            previous: record.head.previous,
        })
    }

    /// Looks at a record, in memory or on the disk.
    fn look<T>(
        &mut self,
        place: Place,
        bytes: u64,
        judge: impl Fn(&Verified<'_>) -> T,
    ) -> Result<T, String> {
        if let Some(record) = self.engine.peek(place) {
            return Ok(judge(&record));
        }
        self.engine.fetch(Waiter::Connection(0), None, place, bytes, false);
        for _ in 0..IDLE_TURNS_MAX {
            self.turn()?;
            if let Some((_, Answer::Record(fetched))) = self.engine.answers.pop() {
                return match fetched.record {
                    Ok(bytes) => Ok(judge(&Verified::trusted(&bytes))),
                    Err(_) => {
                        Err("a record that was just written cannot be read back: look at the \
                                   disk of the new data directory"
                            .into())
                    }
                };
            }
        }
        Err("the disk of the new data directory does not answer".into())
    }

    /// Tries until the log has room.
    fn again(
        &mut self,
        mut work: impl FnMut(&mut Engine) -> Result<u64, Refusal>,
    ) -> Result<u64, String> {
        let mut idle_turns = 0;
        loop {
            match work(&mut self.engine) {
                Ok(end) => return Ok(end),
                Err(Refusal::Failed) => return Err(self.failure()),
                Err(Refusal::Wait) if idle_turns < IDLE_TURNS_MAX => {
                    idle_turns = if self.turn()? { 0 } else { idle_turns + 1 };
                }
                Err(Refusal::Wait) => return Err("the new log does not go on".into()),
            }
        }
    }

    fn failure(&mut self) -> String {
        let notice = self.engine.log.notices.pop();
        let broken = self.engine.log.broken().map(str::to_owned);
        broken.or(notice).unwrap_or_else(|| "the new log takes no more records".into())
    }

    fn turn_if_due(&mut self) -> Result<(), String> {
        if self.engine.log.appended() >= self.turned_at + WRITE_BYTES_MAX {
            self.turn()?;
        }
        Ok(())
    }

    /// Carries out what the engine asks for, until it asks for nothing. True where it asked at all.
    fn turn(&mut self) -> Result<bool, String> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.engine.now = Now {
            unix_us: unix.as_micros() as u64,
            monotonic_ms: self.started.elapsed().as_millis() as u64 + 1,
        };
        self.turned_at = self.engine.log.appended();
        let mut asked = false;
        loop {
            self.engine.pump();
            let mut operations = std::mem::take(&mut self.operations);
            self.engine.take_operations(&mut operations);
            if operations.is_empty() {
                self.operations = operations;
                break;
            }
            asked = true;
            for (token, operation) in operations.drain(..) {
                let result = self.perform(operation);
                self.engine.completed(Completion { token, result });
            }
            self.operations = operations;
        }
        match self.engine.log.broken() {
            Some(line) => Err(line.to_owned()),
            None => Ok(asked),
        }
    }

    fn perform(&mut self, operation: Operation) -> io::Result<Done> {
        match operation {
            Operation::Write { file, offset, position, length, .. } => {
                let bytes = self
                    .engine
                    .log
                    .buffered(position, length as usize)
                    .ok_or_else(|| io::Error::other("bytes left the write buffer unwritten"))?;
                let mut block = AlignedBuffer::new(bytes.len());
                block.copy_from_slice(bytes);
                self.files.write_at(file, offset, &block)?;
                Ok(Done::Count(length))
            }
            // Makes later writes cheaper for clients that wait; nobody does.
            Operation::Zero { length, .. } => Ok(Done::Count(length)),
            Operation::Sync { file } => self.files.sync(file).map(|()| Done::Count(0)),
            Operation::Read { file, offset, length } => {
                let mut buffer = AlignedBuffer::new(length as usize);
                let count = self.files.read_at(file, offset, &mut buffer)?;
                buffer.truncate(count);
                Ok(Done::of_read(Read { file, offset, length }, buffer))
            }
            slow => housekeeper::perform(&self.files, slow),
        }
    }

    /// Closes the log in order, and takes the mark away.
    pub fn finish(mut self) -> Result<(), String> {
        for _ in 0..IDLE_TURNS_MAX {
            if !self.engine.log.is_switching() {
                break;
            }
            self.turn()?;
        }
        self.engine.log.begin_close();
        let mut idle_turns = 0;
        while !self.engine.log.is_closed() {
            idle_turns = if self.turn()? { 0 } else { idle_turns + 1 };
            if idle_turns > IDLE_TURNS_MAX {
                return Err("the new log does not close".into());
            }
        }
        for notice in self.engine.log.notices.drain(..) {
            process::warn(&notice);
        }
        let summary = self.engine.log.finish_close();
        if let Some((base, file)) = summary.unused {
            self.files.close(file);
            let _ = self.files.remove(Root::Data, &format::segment_name(base));
        }
        if let Some((FileId(file), length)) = summary.cut {
            let _ = self.files.truncate(FileId(file), length);
        }
        let explain = |error: io::Error| format!("cannot finish the new data directory: {error}");
        self.files.sync_directory(Root::Index).map_err(explain)?;
        self.files.sync_directory(Root::Data).map_err(explain)?;
        self.files.remove(Root::Data, self.mark).map_err(explain)?;
        self.files.sync_directory(Root::Data).map_err(explain)
    }
}
