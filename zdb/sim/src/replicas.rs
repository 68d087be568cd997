//! Three servers that have one log, on one thread from a seed: their disks, the ways between them, and an
//! operator who makes masters and replicas of them as he likes. Clients write and delete, alone and in batches, flush
//! namespaces of their own, and read anywhere; cleaners clean. What goes wrong: processes are killed, machines lose power,
//! alone or all at once, and while they start, too; disks are full for a while, or fail; servers pause; links break, are
//! cut, and flip bits. In the end all is healed, one is the master, and what was acknowledged must be there, everywhere
//! the same.

mod clients;
mod end;
mod faults;
mod readers;

use crate::disk::{MemoryFiles, Random};
use crate::words;
use crate::world::{self, Setup, buffer_directory};
use clients::Client;
use readers::Reader;
use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use zdb::command::Source;
use zdb::command::replication::Address;
use zdb::disk::{Completion, Done, Files, Operation, Read, Root, Token, housekeeper};
use zdb::engine::Now;
use zdb::engine::log::{Policy, format};
use zdb::engine::recovery::{self, StartOptions};
use zdb::hub::{Hub, Peer};
use zdb::output::Output;

const NODES: usize = 3;
const CLIENTS: usize = 4;
const READERS: usize = 2;
/// Keys that each client has.
const KEYS: u64 = 3;
const STEPS: u64 = 1500;
/// Rounds in which much is written.
const RUSH_ROUNDS: usize = 20;
/// Rounds after which everything is in sync, or never.
const HEAL_ROUNDS_MAX: usize = 6000;
const HEAL_ROUND_MS: u64 = 50;
/// How long what a reply rests on may stay without a flush.
const PERIOD_MS: u64 = 1000;
const START_US: u64 = 1_800_000_000_000_000;
const PORT: u16 = 1000;
const BLOCK: u64 = format::BLOCK;

struct Node {
    files: Arc<MemoryFiles>,
    hub: Hub,
    buffer: PathBuf,
    ring: Vec<(Token, Operation)>,
    orders: VecDeque<(Token, Operation)>,
    /// Its clock beside that of the others, in seconds.
    offset_s: u64,
    /// Nobody lets it run until then.
    paused_until_ms: u64,
    /// There is no room for new files until then.
    full_until_ms: u64,
    /// How far its log was when so many writes had been acknowledged, by whomever.
    marks: Vec<Mark>,
    replica_of: String,
}

#[derive(Clone, Copy)]
struct Mark {
    acknowledged: u64,
    end: u64,
}

/// A connection between two servers: who made it has its first end.
struct Way {
    ends: [(usize, u64); 2],
    /// Bytes on their way to each end.
    to: [VecDeque<u8>; 2],
    /// Each end hears that the other is gone once it has all.
    closing: [bool; 2],
}

pub struct Run {
    seed: u64,
    random: Random,
    nodes: Vec<Node>,
    ways: Vec<Way>,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    /// From whom to whom nothing gets through.
    cut: HashSet<(usize, usize)>,
    now_ms: u64,
    policy: Policy,
    min_replicas: usize,
    pub traced: bool,
    pub restarts: u64,
    pub acknowledged: u64,
    /// Values and versions that were read meanwhile.
    pub read: u64,
    /// Segments that cleaners replaced.
    pub cleaned: u64,
    /// Cleaners may have dropped versions, here and there others.
    cleans: bool,
    /// Some server may have left ids out.
    skips_ids: bool,
}

fn setup(policy: Policy) -> Setup {
    Setup {
        policy,
        shared_buffer: true,
        segment_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        password: false,
        protect: false,
        few_hashes: false,
        prompt: false,
        scrub: false,
        has_threads: false,
        offload: false,
    }
}

fn peer() -> Peer {
    Peer {
        name: "10.0.0.1:1".into(),
        local_address: "10.0.0.2:2".into(),
        local: true,
        encrypted: false,
        verified: false,
        source: Source::Unix,
    }
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let policy = match random.below(2) {
            0 => Policy::Always,
            _ => Policy::Every { period_ms: PERIOD_MS },
        };
        let min_replicas = random.below(3).min(1) as usize;
        let directory = buffer_directory();
        let mut run = Self {
            seed,
            nodes: Vec::new(),
            ways: Vec::new(),
            clients: Vec::new(),
            readers: Vec::new(),
            cut: HashSet::new(),
            now_ms: 1,
            policy,
            min_replicas,
            random,
            traced: false,
            restarts: 0,
            acknowledged: 0,
            read: 0,
            cleaned: 0,
            cleans: false,
            skips_ids: false,
        };
        for at in 0..NODES {
            let buffer = directory.join(format!("node-{at}"));
            let _ = std::fs::remove_dir_all(&buffer);
            std::fs::create_dir_all(&buffer).expect("a directory for a write buffer");
            let files = Arc::new(MemoryFiles::default());
            let replica_of = if at == 0 { String::new() } else { address(0) };
            let hub = run.start(at, &files, &buffer, &replica_of);
            let offset_s = run.random.below(3) * 1800;
            run.nodes.push(Node {
                files,
                hub,
                buffer,
                ring: Vec::new(),
                orders: VecDeque::new(),
                offset_s,
                paused_until_ms: 0,
                full_until_ms: 0,
                marks: Vec::new(),
                replica_of,
            });
        }
        run.clients.extend((0..CLIENTS).map(Client::new));
        run.readers.resize_with(READERS, Reader::default);
        run
    }

    fn options(&self, at: usize, buffer: &std::path::Path) -> StartOptions {
        let mut random = [at as u8 + 1; 32];
        random[..8].copy_from_slice(&self.seed.to_le_bytes());
        let setup = setup(self.policy);
        StartOptions {
            mode: None,
            policy: self.policy,
            segment_bytes: setup.segment_bytes,
            cache_bytes: setup.cache_bytes,
            buffer: Some(buffer.into()),
            random,
        }
    }

    fn start(&self, at: usize, files: &MemoryFiles, buffer: &std::path::Path, master: &str) -> Hub {
        let (engine, report) = recovery::start(files, self.options(at, buffer))
            .unwrap_or_else(|line| panic!("server {at} does not start: {line}"));
        if self.traced {
            report.aside.iter().for_each(|line| eprintln!("{at}: {line}"));
            eprintln!(
                "{at} starts: log ends at {}, terms {:?}, {} scanned, {:?}",
                engine.log.end(),
                engine.terms.list(),
                report.scanned,
                report.damage
            );
        }
        let mut state = world::state(&setup(self.policy));
        state.settings.replica_of = master.to_owned();
        state.settings.min_replicas = self.min_replicas;
        state.settings.nodes = NODES;
        state.replication.port = PORT + at as u16;
        let mut names = Random(self.seed ^ (at as u64 + 1) * 0x9e37);
        state.random = Box::new(move |bytes| {
            bytes.iter_mut().for_each(|byte| *byte = names.number() as u8);
        });
        let mut hub = Hub::new(engine, state, false);
        hub.set_time(self.clock(0));
        hub.begin_replication();
        hub
    }

    fn clock(&self, offset_s: u64) -> Now {
        let unix_us = START_US + self.now_ms * 1000 + offset_s * 1_000_000;
        Now { unix_us, monotonic_ms: self.now_ms }
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{}: {}", self.now_ms, text());
        }
    }

    // ---------------------------------------------------------------- one server

    /// A turn of a server's loop.
    fn turn(&mut self, at: usize) {
        let now = self.clock(self.nodes[at].offset_s);
        self.nodes[at].hub.set_time(now);
        for _ in 0..200 {
            self.nodes[at].hub.settle();
            self.mark(at);
            let node = &mut self.nodes[at];
            let mut operations = Vec::new();
            node.hub.take_operations(&mut operations);
            for (token, operation) in operations {
                match operation {
                    Operation::Write { .. }
                    | Operation::Zero { .. }
                    | Operation::Sync { .. }
                    | Operation::Read { .. } => node.ring.push((token, operation)),
                    slow => node.orders.push_back((token, slow)),
                }
            }
            let notices: Vec<String> = node.hub.engine.log.notices.drain(..).collect();
            for line in notices {
                self.trace(|| format!("{at} says: {line}"));
            }
            let mut touched = Vec::new();
            self.nodes[at].hub.take_touched(&mut touched);
            if touched.is_empty() && self.nodes[at].hub.is_settled() {
                break;
            }
            touched.into_iter().for_each(|key| self.look_after(at, key));
        }
        if let Some(to) = self.nodes[at].hub.take_dial() {
            self.dial(at, &to);
        }
        if self.nodes[at].hub.stopping {
            self.restart(at);
        }
    }

    fn look_after(&mut self, at: usize, key: u64) {
        let hub = &mut self.nodes[at].hub;
        let Some(wishes) = hub.look(key) else { return };
        if wishes.is_let_go {
            return self.hang_up(at, key);
        }
        if wishes.has_output {
            let mut output = Output::default();
            hub.take_output(key, &mut output);
            let mut slices = Vec::new();
            output.slices(0, &mut slices);
            let bytes: Vec<u8> = slices.concat();
            hub.sent(key, bytes.len(), bytes.len());
            if let Some((way, end)) = self.way_of(at, key) {
                self.ways[way].to[1 - end].extend(bytes);
            } else if let Some(client) = self.client_of(at, key) {
                self.clients[client].inbox.extend(bytes);
                self.hear(client);
            } else if let Some(reader) = self.reader_of(at, key) {
                self.take_in(reader, &bytes);
            }
        } else if wishes.is_answered {
            self.hang_up(at, key);
        }
    }

    fn way_of(&self, at: usize, key: u64) -> Option<(usize, usize)> {
        self.ways.iter().enumerate().find_map(|(way, one)| {
            one.ends.iter().position(|end| *end == (at, key)).map(|end| (way, end))
        })
    }

    fn client_of(&self, at: usize, key: u64) -> Option<usize> {
        self.clients.iter().position(|client| client.node == at && client.key == Some(key))
    }

    fn reader_of(&self, at: usize, key: u64) -> Option<usize> {
        self.readers.iter().position(|reader| reader.node == at && reader.key == Some(key))
    }

    /// A server closes a connection.
    fn hang_up(&mut self, at: usize, key: u64) {
        if let Some((way, end)) = self.way_of(at, key) {
            self.ways[way].closing[1 - end] = true;
            self.ways[way].ends[end] = (usize::MAX, 0);
        } else if let Some(client) = self.client_of(at, key) {
            self.clients[client].part();
        } else if let Some(reader) = self.reader_of(at, key) {
            self.readers[reader] = Reader::default();
        }
        self.nodes[at].hub.failed(key);
        self.nodes[at].hub.remove(key);
    }

    fn dial(&mut self, at: usize, to: &Address) {
        let other = to.port.wrapping_sub(PORT) as usize;
        let is_cut = self.cut.contains(&(at, other)) || self.cut.contains(&(other, at));
        if other >= NODES || other == at || is_cut || self.nodes[other].hub.stopping {
            self.nodes[at].hub.dialed(to, Err("nobody answers".into()));
            return;
        }
        let Some(key) = self.nodes[at].hub.dialed(to, Ok(peer())) else { return };
        let theirs =
            self.nodes[other].hub.connected(Peer { name: format!("10.0.0.{at}:1"), ..peer() });
        self.ways.push(Way {
            ends: [(at, key), (other, theirs)],
            to: Default::default(),
            closing: [false; 2],
        });
    }

    /// Brings some bytes to one end of a connection.
    fn carry(&mut self, way: usize, end: usize, count: usize) {
        let one = &mut self.ways[way];
        let (at, key) = one.ends[end];
        let from = one.ends[1 - end].0;
        if at == usize::MAX || self.cut.contains(&(from, at)) {
            return;
        }
        if self.nodes[at].paused_until_ms > self.now_ms {
            return;
        }
        let wants = self.nodes[at].hub.get_mut(key).is_none_or(|one| one.wants_input());
        if !one.to[end].is_empty() && wants {
            let count = count.min(one.to[end].len());
            let mut bytes: Vec<u8> = one.to[end].drain(..count).collect();
            if self.random.below(3000) == 0 {
                let at = self.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
            }
            self.nodes[at].hub.received(key, &bytes);
        } else if one.closing[end] && one.to[end].is_empty() {
            self.ways[way].ends[end] = (usize::MAX, 0);
            self.nodes[at].hub.failed(key);
            self.nodes[at].hub.remove(key);
        }
    }

    fn perform(
        &mut self,
        at: usize,
        operation: Operation,
        part: Option<u64>,
    ) -> std::io::Result<Done> {
        if let Some(error) = self.refuse(at, &operation) {
            return Err(error);
        }
        let node = &mut self.nodes[at];
        match operation {
            Operation::Write { file, offset, position, length, durable } => {
                let bytes = node.hub.engine.log.being_written(position, length as usize);
                let bytes = bytes.expect("what is being written is in the buffer");
                let count = part.unwrap_or(length).min(length);
                node.files.write(file, offset, &bytes[..count as usize])?;
                if durable && part.is_none() {
                    node.files.sync(file)?;
                }
                Ok(Done::Count(length))
            }
            Operation::Zero { file, offset, length } => {
                node.files.write(file, offset, &vec![0; length as usize])?;
                Ok(Done::Count(length))
            }
            Operation::Sync { file } => node.files.sync(file).map(|()| Done::Count(0)),
            Operation::Read { file, offset, length } => {
                let read = Read { file, offset, length };
                node.files.read(file, offset, length).map(|bytes| Done::of_read(read, bytes))
            }
            slow => housekeeper::perform(&*node.files, slow),
        }
    }

    /// Ends one operation of a server.
    fn finish(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let count = node.ring.len() as u64;
        let is_order = !node.orders.is_empty() && (count == 0 || self.random.below(2) == 0);
        let (token, operation) = if is_order {
            node.orders.pop_front().expect("there is one")
        } else if count > 0 {
            node.ring.remove(self.random.below(count) as usize)
        } else {
            return;
        };
        let result = self.perform(at, operation, None);
        if token != Token(0) {
            self.nodes[at].hub.completed(Completion { token, result });
        }
    }

    fn finish_all(&mut self, at: usize) {
        while !(self.nodes[at].ring.is_empty() && self.nodes[at].orders.is_empty()) {
            self.finish(at);
        }
    }

    /// All connections of a server are gone.
    fn lose_connections(&mut self, at: usize) {
        for way in &mut self.ways {
            for end in 0..2 {
                if way.ends[end].0 == at {
                    way.ends[end] = (usize::MAX, 0);
                    way.closing[1 - end] = true;
                    way.to[end].clear();
                }
            }
        }
        self.ways.retain(|way| way.ends.iter().any(|end| end.0 != usize::MAX));
        for client in self.clients.iter_mut().filter(|client| client.node == at) {
            client.part();
        }
        for reader in self.readers.iter_mut().filter(|reader| reader.node == at) {
            *reader = Reader::default();
        }
    }

    /// What a stop in order does, and a new start in the same process. It may be killed meanwhile.
    fn restart(&mut self, at: usize) {
        self.restarts += 1;
        self.trace(|| format!("{at} restarts"));
        self.lose_connections(at);
        let killed_after = match self.random.below(4) {
            0 => self.random.below(6),
            _ => u64::MAX,
        };
        let mut has_begun = false;
        for round in 0..2000 {
            if round == killed_after {
                return self.crash(at, false);
            }
            for key in self.nodes[at].hub.keys() {
                self.nodes[at].hub.remove(key);
            }
            let hub = &mut self.nodes[at].hub;
            if !has_begun && !hub.engine.log.is_switching() {
                hub.engine.log.begin_close();
                has_begun = true;
            }
            hub.settle();
            let mut operations = Vec::new();
            hub.take_operations(&mut operations);
            let mut touched = Vec::new();
            hub.take_touched(&mut touched);
            for (token, operation) in operations {
                match operation {
                    Operation::Write { .. }
                    | Operation::Zero { .. }
                    | Operation::Sync { .. }
                    | Operation::Read { .. } => self.nodes[at].ring.push((token, operation)),
                    slow => self.nodes[at].orders.push_back((token, slow)),
                }
            }
            let hub = &self.nodes[at].hub;
            let is_idle = self.nodes[at].ring.is_empty() && self.nodes[at].orders.is_empty();
            if has_begun && is_idle && hub.engine.log.is_closed() && hub.engine.is_quiet() {
                break;
            }
            assert!(round < 1999, "the log of {at} does not close");
            self.finish_all(at);
        }
        let node = &mut self.nodes[at];
        let summary = node.hub.engine.log.finish_close();
        if let Some((base, file)) = summary.unused {
            node.files.close(file);
            let _ = node.files.remove(Root::Data, &format::segment_name(base));
        }
        if let Some((file, length)) = summary.cut {
            let _ = node.files.truncate(file, length.next_multiple_of(BLOCK));
        }
        self.start_again(at);
    }

    fn note_cleaned(&mut self, at: usize) {
        self.cleaned += self.nodes[at].hub.engine.cleaner.stats.segments_cleaned;
    }

    fn start_again(&mut self, at: usize) {
        self.note_cleaned(at);
        let node = &mut self.nodes[at];
        node.ring.clear();
        node.orders.clear();
        node.files.close_all();
        // The old one lets go of its buffer before the new one takes it.
        let spare = world::World::placeholder();
        drop(std::mem::replace(&mut node.hub, spare));
        node.files.forget_plan();
        node.full_until_ms = 0;
        let (files, buffer) = (node.files.clone(), node.buffer.clone());
        let master = node.replica_of.clone();
        if self.random.below(4) == 0 {
            self.start_with_trouble(at);
        }
        let hub = self.start(at, &files, &buffer, &master);
        self.nodes[at].hub = hub;
        self.unmark(at);
    }

    /// The process is killed or, with `power`, the machine is.
    fn crash(&mut self, at: usize, power: bool) {
        self.trace(|| format!("{at} is killed{}", if power { " by a power cut" } else { "" }));
        self.lose_connections(at);
        for (_, operation) in std::mem::take(&mut self.nodes[at].ring) {
            let part = match self.random.below(3) {
                0 => continue,
                1 => None,
                _ => Some(self.random.below(16) * 512),
            };
            let is_change = !matches!(operation, Operation::Read { .. } | Operation::Sync { .. });
            if is_change {
                let _ = self.perform(at, operation, part);
            }
        }
        for _ in 0..self.random.below(self.nodes[at].orders.len() as u64 + 1) {
            if let Some((_, operation)) = self.nodes[at].orders.pop_front() {
                let _ = self.perform(at, operation, None);
            }
        }
        if power {
            self.doubt(at);
            self.cut_power(at);
        }
        self.start_again(at);
    }

    // ---------------------------------------------------------------- clients and the operator

    /// Tells a server whom to follow.
    fn command(&mut self, at: usize, master: Option<usize>) {
        let words = match master {
            Some(master) => vec![
                b"REPLICAOF".to_vec(),
                format!("n{master}").into_bytes(),
                (PORT + master as u16).to_string().into_bytes(),
            ],
            None => vec![b"REPLICAOF".to_vec(), b"NO".to_vec(), b"ONE".to_vec()],
        };
        self.trace(|| format!("{at} is told to follow {master:?}"));
        self.nodes[at].replica_of = master.map_or_else(|| "no one".into(), address);
        let key = self.nodes[at].hub.connected(peer());
        self.nodes[at].hub.received(key, &words::encode(&words));
        self.turn(at);
        self.nodes[at].hub.failed(key);
        self.nodes[at].hub.remove(key);
    }

    fn step(&mut self) {
        let at = self.random.below(NODES as u64) as usize;
        let is_paused = self.nodes[at].paused_until_ms > self.now_ms;
        match self.random.below(1000) {
            0..250 if !is_paused => self.turn(at),
            250..450 if !is_paused => self.finish(at),
            450..700 => {
                if !self.ways.is_empty() {
                    let way = self.random.below(self.ways.len() as u64) as usize;
                    let count = 1 + self.random.below(20_000) as usize;
                    let end = self.random.below(2) as usize;
                    self.carry(way, end, count);
                }
            }
            700..860 => {
                let client = self.random.below(CLIENTS as u64) as usize;
                self.write(client);
            }
            860..922 => self.now_ms += 1 + self.random.below(400),
            922..930 => self.spoil_disk(at),
            930..950 => {
                let reader = self.random.below(READERS as u64) as usize;
                self.read(reader);
            }
            950..960 => self.rush(),
            960..966 => {
                let other = self.random.below(NODES as u64) as usize;
                self.cut.insert((at, other));
                if self.random.below(2) == 0 {
                    self.cut.insert((other, at));
                }
            }
            966..976 => self.cut.clear(),
            976..980 => {
                if !self.ways.is_empty() {
                    let way = self.random.below(self.ways.len() as u64) as usize;
                    for (node, key) in self.ways[way].ends {
                        if node != usize::MAX {
                            self.hang_up(node, key);
                        }
                    }
                }
            }
            980..984 => {
                let power = self.random.below(2) == 0;
                let is_everywhere = power && self.random.below(8) == 0;
                let is_hit = |one: &usize| *one == at || is_everywhere;
                (0..NODES).filter(is_hit).for_each(|at| self.crash(at, power));
            }
            984..986 => self.nodes[at].paused_until_ms = self.now_ms + self.random.below(30_000),
            986..993 => {
                let master = self.random.below(NODES as u64) as usize;
                match master == at {
                    true => self.command(at, None),
                    false => self.command(at, Some(master)),
                }
            }
            993..996 => self.make_master(at),
            996 => self.tell(at, &["DEBUG CLEAN"]),
            997 => self.write_ids(at),
            998..1000 => {
                self.cleans = true;
                let name = self.random.below(CLIENTS as u64) as usize;
                let name = self.clients[name].namespace().unwrap_or("default");
                self.tell(at, &[&format!("NSSET {name} history {}", at % 2), "DEBUG CLEAN"]);
            }
            _ => {}
        }
    }

    /// For a while nothing goes wrong that has not before: much is written.
    fn rush(&mut self) {
        for _ in 0..RUSH_ROUNDS {
            (0..CLIENTS).for_each(|client| self.write(client));
            self.round();
            self.now_ms += 5;
        }
    }

    /// Everybody does what there is to do.
    fn round(&mut self) {
        for at in (0..NODES)
            .filter(|at| self.nodes[*at].paused_until_ms <= self.now_ms)
            .collect::<Vec<_>>()
        {
            self.turn(at);
            self.finish_all(at);
        }
        for way in (0..self.ways.len()).rev() {
            for end in 0..2 {
                if way < self.ways.len() {
                    self.carry(way, end, usize::MAX);
                }
            }
        }
        self.ways.retain(|way| way.ends.iter().any(|end| end.0 != usize::MAX));
    }

    /// Writes to a namespace that counts its keys, and deletes one.
    fn write_ids(&mut self, at: usize) {
        let id = self.random.below(8).to_le_bytes().to_vec();
        let delete = format!("DEL {}", String::from_utf8(id).expect("small bytes are ASCII"));
        let lines = ["NSNEW ids", "NSSET ids mode seq", "SELECT ids", "SET  one", "SET  two"];
        self.tell(at, &[&lines[..], &[&delete]].concat());
    }

    /// Tells a server things that it may refuse.
    fn tell(&mut self, at: usize, lines: &[&str]) {
        let key = self.nodes[at].hub.connected(peer());
        for line in lines {
            let words: Vec<Vec<u8>> =
                line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            self.nodes[at].hub.received(key, &words::encode(&words));
        }
        self.turn(at);
        self.nodes[at].hub.failed(key);
        self.nodes[at].hub.remove(key);
    }

    /// As Sentinel does it: one is the master, the others follow it.
    fn make_master(&mut self, master: usize) {
        self.command(master, None);
        for other in (0..NODES).filter(|other| *other != master) {
            if self.random.below(8) > 0 {
                self.command(other, Some(master));
            }
        }
    }

    /// One run; what it was about, for two of one seed to be compared.
    pub fn run(&mut self) -> u64 {
        for _ in 0..STEPS {
            self.step();
        }
        self.heal();
        self.check_flushed();
        self.check();
        (0..NODES).for_each(|at| self.note_cleaned(at));
        self.nodes[0].hub.engine.log.end() ^ self.acknowledged << 32
    }
}

fn address(of: usize) -> String {
    format!("n{of} {}", PORT + of as u16)
}

/// What runs were about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub digest: u64,
    pub acknowledged: u64,
    pub read: u64,
    pub restarts: u64,
    pub cleaned: u64,
}

/// Runs a seed.
pub fn run(seed: u64, traced: bool) -> Seen {
    let mut run = Run::new(seed);
    run.traced = traced;
    let digest = run.run();
    let Run { acknowledged, read, restarts, cleaned, .. } = run;
    Seen { digest, acknowledged, read, restarts, cleaned }
}
