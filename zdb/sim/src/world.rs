//! A server without sockets, files and a clock: the hub and its engine, the disk in memory, clients. It
//! does what the loop of the server does, in the order that its owner chooses.

mod restart;

pub use restart::StartTrouble;

use crate::client::{self, Client};
use crate::disk::{MemoryFiles, Random};
use crate::history::{History, Moment};
use crate::words;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use zdb::command::{
    Channels, HookRuns, Latencies, Machine, ProcessUsage, Rates, ServerState, ServerStats,
    Settings, SlowLog, Source, Table, Throttle,
};
use zdb::disk::housekeeper;
use zdb::disk::{Completion, Done, Files, Operation, Read, Root, Token};
use zdb::engine::log::{Policy, format};
use zdb::engine::{Event, Now};
use zdb::hub::{Hub, Peer};
use zdb::limits::{INPUT_BYTES_TOTAL_MAX, OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use zdb::output::Output;

/// A scrub that takes more turns does not come to its end.
const SCRUB_ROUNDS_MAX: usize = 100_000;
/// Bytes a second that a scrub reads.
const SCRUB_RATE: u64 = 1 << 20;
/// What is due later is not waited for.
const SOON_MS: u64 = 3_600_000;
/// Most bytes that one receive brings.
const PIECE_BYTES_MAX: usize = 16 << 10;
const BLOCK: u64 = format::BLOCK;
/// Rounds in which everything that waits must come to its end.
const QUIET_ROUNDS_MAX: usize = 2000;
/// Rounds after which what the log does on its own is no reason to go on.
const IDLE_ROUNDS_MAX: usize = 100;
/// Rounds in which a prompt disk keeps up with the clock.
const PROMPT_ROUNDS_MAX: usize = 1000;
/// The clock at the start, in microseconds.
const START_US: u64 = 1_800_000_000_000_000;

/// What the server was started with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub policy: Policy,
    /// Whether the write buffer outlives a killed process.
    pub shared_buffer: bool,
    pub segment_bytes: u64,
    pub cache_bytes: u64,
    pub password: bool,
    pub protect: bool,
    /// Many keys share a hash.
    pub few_hashes: bool,
    /// The disk ends what it is asked for before the clock moves: then a power cut takes no more than the
    /// policy allows, by the clock.
    pub prompt: bool,
    /// A scrub begins again whenever one has ended.
    pub scrub: bool,
    /// Sockets are in threads of their own: they take replies also while earlier ones are on their way.
    pub has_threads: bool,
    /// Somebody moves closed segments away, and a hook brings them back.
    pub offload: bool,
}

/// How an operation of the disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// Only a part was done, which is told.
    Short,
    /// An error, and a part was done all the same.
    Failed,
    /// A read brings other bytes than were written.
    Flipped,
    /// The disk is full.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    Draining,
    Closing { begun: bool },
}

pub struct World {
    pub setup: Setup,
    pub clients: Vec<Client>,
    pub history: History,
    pub hub: Hub,
    pub now: Now,
    pub files: Arc<MemoryFiles>,
    /// Operations of the ring, which end in any order.
    pub ring: Vec<(Token, Operation)>,
    /// Operations of the housekeeper, which end in theirs.
    pub orders: VecDeque<(Token, Operation)>,
    /// Bases of segments that the hook is to bring back.
    missing: VecDeque<u64>,
    moment: Moment,
    marks: Vec<Mark>,
    pub bad_reads: bool,
    pub bad_writes: bool,
    /// A crash may have left a later record without an earlier one.
    pub has_gaps: bool,
    /// A start saw other bytes than were written: whatever it made of them may have lost more.
    pub bad_start: bool,
    /// Since the start, whatever was acknowledged was durable.
    always: bool,
    /// Since the start, the policy was that of the setup.
    same_policy: bool,
    stop: Stop,
    /// Follows from all replies: two runs of one seed have the same.
    pub digest: u64,
}

/// How far the log was at a moment, and what the clock said.
struct Mark {
    pub moment: Moment,
    pub appended: u64,
    pub clock_ms: u64,
}

/// Where the write buffers of this process live, in memory.
pub fn buffer_directory() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| {
            let memory = PathBuf::from("/dev/shm");
            let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
            forget_dead(&parent);
            let directory = parent.join(format!("{DIRECTORY_PREFIX}{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("a directory for write buffers");
            directory
        })
        .clone()
}

const DIRECTORY_PREFIX: &str = "zdb-fuzz-";

/// Removes what processes left that found something.
fn forget_dead(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix(DIRECTORY_PREFIX);
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn forget_buffers() {
    for entry in std::fs::read_dir(buffer_directory()).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}

pub(crate) fn state(setup: &Setup) -> ServerState {
    let mut random = Random(1);
    let settings = Settings {
        policy: setup.policy,
        cache_bytes: setup.cache_bytes,
        sync_period_ms: 1000,
        clients_max: 1000,
        ..Settings::default()
    };
    ServerState {
        table: Table::new(),
        admin_password: setup.password.then(|| words::PASSWORD.into()),
        protect: setup.protect && setup.password,
        mode: None,
        data_path: "data".into(),
        index_path: "index".into(),
        settings,
        fixed_settings: vec![("dir", "data".into()), ("port", "9900".into())],
        random: Box::new(move |bytes| {
            bytes.iter_mut().for_each(|byte| *byte = random.number() as u8)
        }),
        machine: Machine { clock_ns, sleep_us: |_| (), usage: ProcessUsage::default },
        instance_id: 1,
        boot_s: START_US / 1_000_000,
        clients_possible: 1000,
        throttle: Throttle::default(),
        hooks: HookRuns::default(),
        stats: ServerStats::default(),
        rates: Rates::default(),
        latencies: Latencies::default(),
        slow_log: SlowLog::default(),
        channels: Channels::default(),
        tls_kernel: false,
        replication: zdb::command::replication::Replication::default(),
    }
}

/// The clock that commands are timed by: each look at it takes a while.
fn clock_ns() -> u64 {
    CLOCK_NS.fetch_add(10_000, Ordering::Relaxed)
}

static CLOCK_NS: AtomicU64 = AtomicU64::new(0);

impl World {
    pub fn new(setup: Setup) -> Self {
        Self::over(MemoryFiles::default(), setup)
    }

    /// A server on a disk that has something on it.
    pub fn over(files: MemoryFiles, setup: Setup) -> Self {
        forget_buffers();
        CLOCK_NS.store(0, Ordering::Relaxed);
        let files = Arc::new(files);
        let engine = restart::start(&files, &setup).expect("an empty disk is no obstacle");
        let mut hub = Hub::new(engine, state(&setup), false);
        let now = Now { unix_us: START_US, monotonic_ms: 1 };
        hub.set_time(now);
        Self {
            always: setup.policy == Policy::Always,
            setup,
            clients: Vec::new(),
            history: History::default(),
            hub,
            now,
            files,
            ring: Vec::new(),
            orders: VecDeque::new(),
            missing: VecDeque::new(),
            moment: 1,
            marks: Vec::new(),
            bad_reads: false,
            bad_writes: false,
            has_gaps: false,
            bad_start: false,
            same_policy: true,
            stop: Stop::No,
            digest: 0,
        }
    }

    fn checks<'a>(history: &'a mut History, now: Moment, bad_reads: bool) -> client::World<'a> {
        client::World { history, now, bad_reads }
    }

    pub fn now_moment(&self) -> Moment {
        self.moment
    }

    pub fn tick(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// Begins a scrub where none runs.
    pub fn scrub(&mut self) {
        if !self.setup.scrub {
            return;
        }
        self.check_scrub();
        let engine = &mut self.hub.engine;
        if engine.scrub.rate() == 0 {
            engine.scrub.set(SCRUB_RATE, 1);
        }
        engine.start_scrub();
    }

    /// What no crash tore and no read changed is whole.
    fn check_scrub(&self) {
        if !(self.bad_reads || self.bad_start || self.has_gaps) {
            let damaged: Vec<u64> = self.hub.engine.scrub.damage().collect();
            assert!(damaged.is_empty(), "a scrub takes what is at {damaged:x?} for damaged");
        }
    }

    /// Lets the pass of a scrub come to its end. A log that takes no more writes is not read either.
    pub fn end_scrub(&mut self) {
        for _ in 0..SCRUB_ROUNDS_MAX {
            let engine = &self.hub.engine;
            let is_over = !engine.scrub.is_running() || engine.log.broken().is_some();
            if is_over || self.files.is_stopped() || self.hub.stopping {
                return self.check_scrub();
            }
            self.turn();
            self.finish_all();
            self.turn();
            self.advance(20);
        }
        panic!("a scrub does not come to its end");
    }

    /// Whether nothing happened that makes counters and contents differ.
    pub fn is_trusted(&self) -> bool {
        let broken = self.hub.engine.log.broken().is_some();
        // An overwrite takes the key that it finds by the hash for its own, and counts it as replaced.
        let doubtful = self.bad_reads || self.bad_writes || self.bad_start || self.has_gaps;
        !(self.setup.few_hashes || doubtful || broken)
    }

    pub fn advance(&mut self, ms: u64) {
        if !self.setup.prompt {
            return self.pass(ms);
        }
        let until_ms = self.now.monotonic_ms + ms;
        for _ in 0..PROMPT_ROUNDS_MAX {
            self.turn();
            if self.files.is_stopped() {
                return;
            }
            if !self.ring.is_empty() || !self.orders.is_empty() {
                self.finish_all();
                continue;
            }
            let left_ms = until_ms.saturating_sub(self.now.monotonic_ms);
            if left_ms == 0 {
                return;
            }
            let due = [self.hub.engine.log.deadline_ms(), self.hub.deadline_ms()];
            let due_ms = due.into_iter().flatten().min().unwrap_or(u64::MAX);
            self.pass(due_ms.saturating_sub(self.now.monotonic_ms).clamp(1, left_ms));
        }
        self.pass(until_ms.saturating_sub(self.now.monotonic_ms));
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_us += ms * 1000;
        self.hub.set_time(self.now);
    }

    /// To when something is due for clients, or a little.
    pub fn advance_to_deadline(&mut self) {
        let due = [self.hub.engine.log.deadline_ms(), self.hub.deadline_ms()];
        // The next pass of a scrub is waited for by nobody.
        let soon_ms = self.now.monotonic_ms + SOON_MS;
        // Hooks are quicker than whoever waits for them gives up.
        let waits_for_hook = self.hub.engine.away.is_waited_for();
        let is_soon = |due_ms: &u64| *due_ms < soon_ms && !waits_for_hook;
        let due = due.into_iter().flatten().min().filter(is_soon).unwrap_or(0);
        self.advance(due.saturating_sub(self.now.monotonic_ms).max(20));
    }

    /// Somebody sets the machine's clock.
    pub fn set_clock_back(&mut self, seconds: u64) {
        self.now.unix_us -= seconds * 1_000_000;
        self.hub.set_time(self.now);
    }

    pub fn set_room(&mut self, bytes: Option<u64>) {
        self.files.set_room(bytes);
    }

    // ---------------------------------------------------------------- clients

    pub fn connect(&mut self, local: bool) -> usize {
        let peer = Peer {
            name: "127.0.0.1:1".into(),
            local_address: "127.0.0.1:9900".into(),
            local,
            encrypted: false,
            verified: false,
            source: if local { Source::Unix } else { Source::V4([10, 0, 0, 1]) },
        };
        let key = self.hub.connected(peer);
        let mut client = Client::new(key);
        if self.hub.get_mut(key).is_some_and(|connection| connection.closing) {
            client.turned_away();
        }
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// Brings up to `count` bytes of a client's requests to the hub, as far as it reads them.
    pub fn deliver(&mut self, at: usize, count: usize) {
        let now = self.tick();
        let client = &mut self.clients[at];
        let count = count.min(client.wire.len()).min(PIECE_BYTES_MAX);
        let Some(connection) = self.hub.get_mut(client.key) else { return };
        if count == 0 || client.ended || !connection.wants_input() {
            return;
        }
        let bytes: Vec<u8> = client.wire.drain(..count).collect();
        if client.closed {
            return;
        }
        client.deliver(
            &bytes,
            &mut Self::checks(
                &mut self.history,
                now,
                self.bad_reads || self.has_gaps || self.bad_start,
            ),
        );
        self.hub.received(client.key, &bytes);
    }

    /// The client reads up to `count` bytes of its replies.
    pub fn read(&mut self, at: usize, count: usize) {
        let now = self.tick();
        let client = &mut self.clients[at];
        if client.sending.is_empty() || count == 0 || self.hub.get_mut(client.key).is_none() {
            return;
        }
        let mut slices = Vec::new();
        client.sending.slices(client.read_bytes, &mut slices);
        let mut bytes = Vec::new();
        for slice in slices {
            bytes.extend_from_slice(&slice[..slice.len().min(count - bytes.len())]);
        }
        self.digest = bytes.iter().fold(self.digest ^ now, |digest, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        client.read_bytes += bytes.len();
        let length = client.sending.len();
        let is_all = client.read_bytes >= length;
        if is_all {
            client.sending.clear();
            client.read_bytes = 0;
        }
        let key = client.key;
        client.read(
            &bytes,
            &mut Self::checks(
                &mut self.history,
                now,
                self.bad_reads || self.has_gaps || self.bad_start,
            ),
        );
        self.hub.sent(key, bytes.len(), if is_all { length } else { 0 });
    }

    /// The client closes its side, or with `abort` is gone altogether.
    pub fn end(&mut self, at: usize, abort: bool) {
        let client = &mut self.clients[at];
        client.ended = true;
        if self.hub.get_mut(client.key).is_none() {
            return;
        }
        if abort {
            client.sending.clear();
            client.read_bytes = 0;
            client.closed = true;
            self.hub.failed(client.key);
        } else {
            self.hub.ended(client.key);
        }
    }

    fn look_after(&mut self, key: u64) {
        let Some(wishes) = self.hub.look(key) else { return };
        // A connection without a client is asked by `recount`, which takes the replies itself.
        let Some(at) = self.clients.iter().position(|client| client.key == key) else { return };
        let client = &mut self.clients[at];
        // A thread of sockets would have closed it behind what it had.
        assert!(
            !(client.is_answered && wishes.has_output),
            "a reply follows when nothing was to follow"
        );
        client.is_answered = wishes.is_answered && !client.streams;
        if client.closed {
            if client.ended {
                self.hub.remove(key);
            }
        } else if wishes.is_let_go {
            self.end(at, true);
        } else if wishes.has_output && (client.sending.is_empty() || self.setup.has_threads) {
            let mut output = Output::default();
            self.hub.take_output(key, &mut output);
            client.sending.append(output);
            // With that it may be finished.
            self.hub.touch_key(key);
        } else if wishes.is_answered && client.sending.is_empty() {
            client.closed = true;
            match client.ended {
                true => self.hub.remove(key),
                false => self.hub.lingers(key),
            }
        }
    }

    // ---------------------------------------------------------------- the turn

    /// Lets the hub settle, and takes what it wants.
    pub fn turn(&mut self) {
        if self.files.is_stopped() {
            return;
        }
        let mut operations = Vec::new();
        let mut touched = Vec::new();
        loop {
            self.step_stop();
            self.hub.settle();
            self.hub.take_operations(&mut operations);
            for (token, operation) in operations.drain(..) {
                match operation {
                    Operation::Write { .. }
                    | Operation::Zero { .. }
                    | Operation::Sync { .. }
                    | Operation::Read { .. } => self.ring.push((token, operation)),
                    slow => self.orders.push_back((token, slow)),
                }
            }
            self.hub.take_touched(&mut touched);
            if touched.is_empty() && !self.hub.is_settled() {
                self.hub.set_time(self.now);
                continue;
            }
            if touched.is_empty() {
                let eager = (0..self.clients.len()).filter(|at| {
                    let client = &self.clients[*at];
                    !client.slow && !client.closed
                });
                let sending: Vec<usize> = eager
                    .filter(|at| {
                        let client = &self.clients[*at];
                        !client.sending.is_empty() && self.hub.get_mut(client.key).is_some()
                    })
                    .collect();
                if sending.is_empty() {
                    break;
                }
                sending.into_iter().for_each(|at| self.read(at, usize::MAX));
            }
            touched.drain(..).for_each(|key| self.look_after(key));
        }
        self.hub.engine.log.notices.clear();
        for event in self.hub.engine.events.drain(..) {
            if let Event::Missing(base) = event {
                self.missing.push_back(base);
            }
        }
        let policy = self.hub.engine.log.policy;
        self.always &= policy == Policy::Always;
        self.same_policy &= policy == self.setup.policy;
        let appended = self.hub.engine.log.appended();
        let mark = Mark { moment: self.moment, appended, clock_ms: self.now.monotonic_ms };
        match self.marks.last_mut() {
            Some(last) if last.appended == appended && last.clock_ms == mark.clock_ms => {
                *last = mark
            }
            _ => self.marks.push(mark),
        }
        self.check_limits();
    }

    fn check_limits(&mut self) {
        let mut stashed = 0;
        for key in self.hub.keys() {
            let Some(connection) = self.hub.get_mut(key) else { continue };
            stashed += connection.stashed();
            // Beside the limit, replies of unknown length that were under way when it was met.
            let bytes = connection.pending_bytes();
            let most = OUTPUT_BYTES_MAX + 40 * (PAYLOAD_BYTES_MAX + 1024);
            assert!(bytes <= most, "{bytes} bytes of replies wait on one connection");
        }
        assert!(stashed <= INPUT_BYTES_TOTAL_MAX, "{stashed} bytes of requests wait");
    }

    /// The steps of a stop, as the loop takes them.
    fn step_stop(&mut self) {
        match self.stop {
            Stop::No if self.hub.stopping => {
                self.stop = Stop::Draining;
                for key in self.hub.keys() {
                    self.hub.close_behind_replies(key);
                }
                self.hub.engine.log.flush();
                self.hub.engine.scrub.end();
                self.hub.engine.end_away();
            }
            Stop::Closing { begun: false } if !self.hub.engine.log.is_switching() => {
                self.hub.engine.log.begin_close();
                self.stop = Stop::Closing { begun: true };
            }
            _ => {}
        }
    }

    // ---------------------------------------------------------------- the disk

    /// Ends an operation of the ring.
    pub fn finish(&mut self, at: usize, fate: Fate, random: &mut Random) {
        if at >= self.ring.len() {
            return;
        }
        let (token, operation) = self.ring.swap_remove(at);
        if client::traced() && fate != Fate::Well {
            eprintln!("{}: {operation:?} ends: {fate:?}", self.moment);
        }
        let result = self.perform(operation, fate, random);
        self.tick();
        if !self.files.is_stopped() {
            self.hub.completed(Completion { token, result });
        }
    }

    fn perform(
        &mut self,
        operation: Operation,
        fate: Fate,
        random: &mut Random,
    ) -> io::Result<Done> {
        let failed = || io::Error::from_raw_os_error(5);
        match operation {
            Operation::Write { file, offset, position, length, durable } => {
                let bytes = self.hub.engine.log.being_written(position, length as usize);
                let bytes = bytes.expect("what is being written is in the buffer");
                let part = random.below(length / 512 + 1) * 512;
                let written = if fate == Fate::Well { length } else { part };
                let put = self.files.write(file, offset, &bytes[..written as usize]);
                self.bad_writes |= put.is_err();
                put?;
                if fate == Fate::Failed || fate == Fate::Full || written == 0 {
                    self.bad_writes = true;
                }
                match fate {
                    Fate::Failed | Fate::Full => return Err(failed()),
                    _ if durable => {
                        let synced = self.files.sync(file);
                        self.bad_writes |= synced.is_err();
                        synced?;
                    }
                    _ => {}
                }
                Ok(Done::Count(written))
            }
            Operation::Zero { file, offset, length } => {
                self.files.write(file, offset, &vec![0; length as usize])?;
                if fate == Fate::Failed { Err(failed()) } else { Ok(Done::Count(length)) }
            }
            Operation::Sync { file } => {
                if fate == Fate::Failed {
                    self.bad_writes = true;
                    return Err(failed());
                }
                let synced = self.files.sync(file);
                self.bad_writes |= synced.is_err();
                synced.map(|()| Done::Count(0))
            }
            Operation::Read { file, offset, length } => {
                assert!(offset % BLOCK == 0 && length % BLOCK == 0);
                let read = self.files.read(file, offset, length);
                self.bad_reads |= fate != Fate::Well || read.is_err();
                let mut buffer = read?;
                match fate {
                    Fate::Well | Fate::Full => {}
                    Fate::Failed => return Err(failed()),
                    Fate::Short => buffer.truncate((random.below(length / 512) * 512) as usize),
                    Fate::Flipped => {
                        let at = random.below(buffer.len() as u64) as usize;
                        if let Some(byte) = buffer.get_mut(at) {
                            *byte ^= 1 << random.below(8);
                        }
                    }
                }
                Ok(Done::of_read(Read { file, offset, length }, buffer))
            }
            slow => {
                if let (Operation::CreateSegment { .. }, Fate::Full) = (&slow, fate) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                if fate == Fate::Failed {
                    self.bad_reads |= matches!(slow, Operation::ReadSidecar { .. });
                    return Err(failed());
                }
                housekeeper::perform(&*self.files, slow)
            }
        }
    }

    /// Ends the next operation of the housekeeper.
    pub fn finish_order(&mut self, fate: Fate, random: &mut Random) {
        if let Some((token, operation)) = self.orders.pop_front() {
            let traced = client::traced() && fate != Fate::Well;
            if traced {
                eprintln!("{}: {operation:?} ends: {fate:?}", self.moment);
            }
            let result = self.perform(operation, fate, random);
            self.tick();
            if !self.files.is_stopped() {
                self.hub.completed(Completion { token, result });
            }
        }
    }

    /// Somebody moves a closed segment away, of which the sidecar is on the disk.
    pub fn move_away(&mut self, draw: u64) {
        let closed = self.hub.engine.log.closed();
        let Some(at) = draw.checked_rem(closed.len() as u64) else { return };
        let segment = &closed[at as usize];
        // What a hook has just brought is not taken away before it was opened.
        let is_away = self.hub.engine.away.has(segment.file);
        if is_away || segment.pages.iter().any(|page| page.in_memory().is_some()) {
            return;
        }
        let name = format::segment_name(segment.base);
        self.files.keep(Root::Index, &format::sidecar_name(segment.base));
        self.files.move_name(&name, &format!("away/{name}"));
    }

    /// The hook ends that is to bring a segment back; with `fails` it does not.
    pub fn finish_hook(&mut self, fails: bool) {
        let Some(base) = self.missing.pop_front() else { return };
        if !fails {
            bring_back(&self.files, base);
        }
        self.bad_reads |= fails;
        self.hub.engine.missing_ended(base, !fails);
    }

    /// Ends all that is under way, well.
    pub fn finish_all(&mut self) {
        while !self.missing.is_empty() {
            self.finish_hook(false);
        }
        let mut random = Random(0);
        for _ in 0..self.ring.len() {
            self.finish(0, Fate::Well, &mut random);
        }
        for _ in 0..self.orders.len() {
            self.finish_order(Fate::Well, &mut random);
        }
    }

    /// Whether requests are still being run, be it of clients that nobody listens for.
    fn runs_on(&mut self) -> bool {
        let keys = self.hub.keys().into_iter();
        let keys: Vec<u64> = keys.filter(|key| !self.hub.waits_for_replicas(*key)).collect();
        keys.into_iter().any(|key| {
            self.hub.get_mut(key).is_some_and(|one| {
                let has_more = one.eof || (one.stashed() > 0 && !one.may_run());
                has_more && !one.is_finished() && one.waiting_bytes() == 0
            })
        })
    }

    /// Everything goes on until nothing is left to do: every request has its reply then.
    pub fn quiet(&mut self) {
        for client in &mut self.clients {
            client.slow = false;
        }
        for round in 0.. {
            if self.files.is_stopped() {
                return;
            }
            for at in 0..self.clients.len() {
                self.deliver(at, usize::MAX);
            }
            self.turn();
            let idle = self.ring.is_empty() && self.orders.is_empty();
            self.finish_all();
            self.turn();
            let runs_on = self.runs_on();
            let waiting = self.clients.iter().filter(|client| !client.closed && !client.ended);
            let waiting: Vec<&Client> = waiting
                .filter(|client| client.unanswered() > 0 || !client.wire.is_empty())
                .filter(|client| !self.hub.waits_for_replicas(client.key))
                .collect();
            let closing = self.hub.stopping;
            // Clients that are gone may have left requests that a pause or the log holds.
            let soon_ms = self.now.monotonic_ms + SOON_MS;
            // On a full disk the cleaner looks for room again and again.
            let is_due = self.hub.deadline_ms().is_some_and(|due_ms| due_ms < soon_ms);
            let held = is_due && round <= IDLE_ROUNDS_MAX || runs_on;
            // A segment that is due and meets a full disk is asked for again and again.
            let idle = idle && self.ring.is_empty() || round > IDLE_ROUNDS_MAX;
            if idle && (waiting.is_empty() && !held || closing) {
                return;
            }
            assert!(
                round < QUIET_ROUNDS_MAX,
                "no end: {} clients wait, the first for {:?}, {} bytes not taken; {} operations; log {:?}",
                waiting.len(),
                waiting.first().map(|client| client.oldest()),
                waiting.first().map_or(0, |client| client.wire.len()),
                self.ring.len() + self.orders.len(),
                self.hub.engine.log.broken(),
            );
            self.advance_to_deadline();
        }
    }
}

/// What the hook does: the file goes back to its place.
fn bring_back(files: &MemoryFiles, base: u64) {
    let name = format::segment_name(base);
    if !files.has(&name) {
        files.move_name(&format!("away/{name}"), &name);
    }
}
