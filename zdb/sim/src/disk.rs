//! The two directories in memory, with what a power cut takes.
//!
//! What was written and not yet flushed is kept as a list of changes. A power cut keeps some of them, in
//! any order: a block whole, not at all, or torn between two sectors. The same holds for the length of a
//! file, and for names in a directory that was not flushed. What a flush covered stays.
//!
//! Every call that changes something is a step, and steps are counted: at a chosen one the machine stops.
//! Until it is switched on again nothing changes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use zdb::disk::aligned::AlignedBuffer;
use zdb::disk::{FileId, Files, Root, Whereabouts};

const BLOCK: u64 = 4096;
const SECTOR: usize = 512;
const FREE_BYTES: u64 = 1 << 30;
const EIO: i32 = 5;

type Block = Arc<[u8; BLOCK as usize]>;

/// Numbers that follow from a seed.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, count: u64) -> u64 {
        self.number() % count.max(1)
    }
}

#[derive(Clone, Default)]
struct Content {
    bytes: u64,
    blocks: BTreeMap<u64, Block>,
}

#[derive(Clone)]
enum Change {
    Block(u64, Block),
    Length(u64),
}

impl Content {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Block(at, block) => drop(self.blocks.insert(at, block)),
            Change::Length(bytes) => {
                self.blocks.split_off(&bytes.div_ceil(BLOCK));
                let within = (bytes % BLOCK) as usize;
                if bytes < self.bytes
                    && within > 0
                    && let Some(block) = self.blocks.get_mut(&(bytes / BLOCK))
                {
                    Arc::make_mut(block)[within..].fill(0);
                }
                self.bytes = bytes;
            }
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let bytes = (self.bytes.saturating_sub(offset)).min(out.len() as u64) as usize;
        let mut at = 0;
        while at < bytes {
            let position = offset + at as u64;
            let within = (position % BLOCK) as usize;
            let step = (BLOCK as usize - within).min(bytes - at);
            match self.blocks.get(&(position / BLOCK)) {
                Some(block) => {
                    out[at..at + step].copy_from_slice(&block[within..within + step]);
                }
                None => out[at..at + step].fill(0),
            }
            at += step;
        }
        bytes
    }
}

#[derive(Clone, Default)]
struct Inode {
    now: Content,
    durable: Content,
    /// What leads from `durable` to `now`.
    changes: Vec<Change>,
    /// Blocks that cannot be read.
    rotten: BTreeSet<u64>,
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.now.apply(change.clone());
        self.changes.push(change);
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if offset + bytes.len() as u64 > self.now.bytes {
            self.change(Change::Length(offset + bytes.len() as u64));
        }
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let within = (position % BLOCK) as usize;
            let step = (BLOCK as usize - within).min(bytes.len() - at);
            let number = position / BLOCK;
            let mut block = self.now.blocks.get(&number).map_or([0; BLOCK as usize], |old| **old);
            block[within..within + step].copy_from_slice(&bytes[at..at + step]);
            self.change(Change::Block(number, Arc::new(block)));
            at += step;
        }
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            self.durable.apply(change);
        }
    }

    fn cut_power(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.changes) {
            match (random.below(4), change) {
                (0, _) => {}
                (1, Change::Block(at, block)) => {
                    let torn = random.below(BLOCK / SECTOR as u64) as usize * SECTOR;
                    let old = self.durable.blocks.get(&at).map_or([0; BLOCK as usize], |old| **old);
                    let mut mixed = *block;
                    match random.below(2) {
                        0 => mixed[torn..].copy_from_slice(&old[torn..]),
                        _ => mixed[..torn].copy_from_slice(&old[..torn]),
                    }
                    self.durable.apply(Change::Block(at, Arc::new(mixed)));
                }
                (_, change) => self.durable.apply(change),
            }
        }
        // A block behind the end of a file is not there.
        self.durable.blocks.split_off(&self.durable.bytes.div_ceil(BLOCK));
        self.now = self.durable.clone();
    }
}

/// What goes wrong with one of the coming calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The machine stops in the middle of it.
    Stops,
    /// It fails with EIO, and a write was done in part.
    Fails,
    /// There is no room for it.
    Full,
    /// A read brings a bit that was not written.
    Flips,
}

/// The trouble that is to come.
struct Plan {
    /// Calls that still go well, of those that the trouble can happen to.
    calls: u64,
    trouble: Trouble,
    random: Random,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Reads,
    Changes,
    /// Changes, and needs room.
    Grows,
}

/// What a disk with one arm has had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Reads and writes that did not begin where the one before ended, and changes of names and lengths.
    pub seeks: u64,
    /// Reads, writes, flushes and changes of names and lengths.
    pub calls: u64,
    pub bytes: u64,
}

#[derive(Default)]
struct State {
    moves: Moves,
    /// Where the arm is: in which file, at which byte.
    arm: Option<(usize, u64)>,
    inodes: Vec<Inode>,
    names: BTreeMap<(bool, String), usize>,
    durable_names: BTreeMap<(bool, String), usize>,
    /// Open files by id; ids are not used again, so that a stale one is noticed.
    open: BTreeMap<i32, usize>,
    next_id: i32,
    /// Bytes that a new segment can have, where the disk is nearly full.
    room_bytes: Option<u64>,
    plan: Option<Plan>,
    /// The trouble that came last, until somebody asks.
    struck: Option<Trouble>,
    /// Calls that changed something.
    steps: u64,
    /// The step at which the machine stops.
    last_step: u64,
    is_stopped: bool,
}

/// The directories `--data` and `--index`.
#[derive(Default)]
pub struct MemoryFiles {
    state: Mutex<State>,
}

fn error_of(trouble: Trouble) -> io::Error {
    match trouble {
        Trouble::Full => io::ErrorKind::StorageFull.into(),
        Trouble::Stops | Trouble::Fails | Trouble::Flips => io::Error::from_raw_os_error(EIO),
    }
}

/// Changes one bit.
fn flip(bytes: &mut [u8], random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn key(root: Root, name: &str) -> (bool, String) {
    (root == Root::Data, name.to_owned())
}

impl State {
    /// Whether a call goes well: `None`, or what happens to it.
    fn begin(&mut self, call: Call) -> Option<Trouble> {
        if self.is_stopped {
            return Some(Trouble::Fails);
        }
        if call != Call::Reads {
            self.steps += 1;
            if self.steps == self.last_step {
                self.is_stopped = true;
                return Some(Trouble::Stops);
            }
        }
        let plan = self.plan.as_mut()?;
        let fits = match plan.trouble {
            Trouble::Stops => call != Call::Reads,
            Trouble::Fails => true,
            Trouble::Full => call == Call::Grows,
            Trouble::Flips => call == Call::Reads,
        };
        if !fits {
            return None;
        }
        if plan.calls > 0 {
            plan.calls -= 1;
            return None;
        }
        let trouble = plan.trouble;
        self.plan = None;
        self.struck = Some(trouble);
        self.is_stopped = trouble == Trouble::Stops;
        Some(trouble)
    }

    /// The same for a call of which nothing is done where it does not go well.
    fn whole(&mut self, call: Call) -> io::Result<()> {
        self.begin(call).map_or(Ok(()), |trouble| Err(error_of(trouble)))
    }

    /// How many bytes of a write are done, and how it ends.
    fn part(&mut self, bytes: usize) -> (usize, io::Result<()>) {
        if self.is_stopped {
            return (0, Err(error_of(Trouble::Stops)));
        }
        let seed = self.plan.as_ref().map_or(self.steps, |plan| plan.random.0);
        match self.begin(Call::Grows) {
            None => (bytes, Ok(())),
            Some(trouble) => {
                let sectors = Random(seed).below((bytes / SECTOR) as u64 + 1) as usize;
                (sectors * SECTOR, Err(error_of(trouble)))
            }
        }
    }

    fn move_to(&mut self, at: usize, offset: u64, bytes: usize) {
        self.moves.seeks += u64::from(self.arm != Some((at, offset)));
        self.moves.calls += 1;
        self.moves.bytes += bytes as u64;
        self.arm = Some((at, offset + bytes as u64));
    }

    fn move_in(&mut self, file: FileId, offset: u64, bytes: usize) {
        let at = *self.open.get(&file.0).expect("a file is used while it is open");
        self.move_to(at, offset, bytes);
    }

    fn move_named(&mut self, root: Root, name: &str, offset: u64, bytes: usize) {
        if let Some(&at) = self.names.get(&key(root, name)) {
            self.move_to(at, offset, bytes);
        }
    }

    /// The disk notes a name or a length somewhere else than the bytes of a file.
    fn move_away(&mut self) {
        self.moves.seeks += 1;
        self.moves.calls += 1;
        self.arm = None;
    }

    fn inode(&mut self, file: FileId) -> &mut Inode {
        let at = *self.open.get(&file.0).expect("a file is used while it is open");
        &mut self.inodes[at]
    }

    fn named(&mut self, root: Root, name: &str) -> io::Result<&mut Inode> {
        let at = *self.names.get(&key(root, name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[at])
    }

    fn named_or_new(&mut self, root: Root, name: &str) -> &mut Inode {
        let fresh = self.inodes.len();
        let at = *self.names.entry(key(root, name)).or_insert(fresh);
        if at == fresh {
            self.inodes.push(Inode::default());
        }
        &mut self.inodes[at]
    }

    fn open(&mut self, at: usize) -> FileId {
        self.next_id += 1;
        self.open.insert(self.next_id, at);
        FileId(self.next_id)
    }

    fn sync_directory(&mut self, root: Root) {
        let of = |name: &(bool, String)| name.0 == (root == Root::Data);
        self.durable_names.retain(|name, _| !of(name));
        let now = self.names.iter().filter(|(name, _)| of(name));
        self.durable_names.extend(now.map(|(name, at)| (name.clone(), *at)));
    }
}

impl MemoryFiles {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics and goes on")
    }

    /// Puts a file there, durable.
    pub fn put(&self, root: Root, name: &str, bytes: &[u8]) {
        self.write_small(root, name, bytes).expect("memory has room");
    }

    /// Somebody gives a file of the data directory another name, for good, and nothing comes between. False: it is
    /// not there.
    pub fn move_name(&self, from: &str, to: &str) -> bool {
        let state = &mut *self.state();
        let (from, to) = (key(Root::Data, from), key(Root::Data, to));
        let Some(at) = state.names.remove(&from) else { return false };
        state.durable_names.remove(&from);
        state.names.insert(to.clone(), at);
        state.durable_names.insert(to, at);
        true
    }

    /// A while has gone by: what was written to a file is durable.
    pub fn keep(&self, root: Root, name: &str) {
        let state = &mut *self.state();
        if let Some(&at) = state.names.get(&key(root, name)) {
            state.inodes[at].sync();
            state.durable_names.insert(key(root, name), at);
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.state().names.contains_key(&key(Root::Data, name))
    }

    /// Limits the segments that are made from now on.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room_bytes = bytes;
    }

    /// Lets something go wrong with a later call: after `calls` of those that it can happen to.
    pub fn plan(&self, trouble: Trouble, calls: u64, seed: u64) {
        self.state().plan = Some(Plan { calls, trouble, random: Random(seed) });
    }

    /// Nothing more goes wrong on its own. Returns what did.
    pub fn forget_plan(&self) -> Option<Trouble> {
        let mut state = self.state();
        state.plan = None;
        state.last_step = 0;
        state.struck.take()
    }

    pub fn moves(&self) -> Moves {
        self.state().moves
    }

    /// Calls so far that changed something.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Stops the machine at a step, counted from now; 0: at none.
    pub fn stop_at(&self, step: u64) {
        let mut state = self.state();
        state.last_step = if step == 0 { 0 } else { state.steps + step };
    }

    pub fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    pub fn switch_on(&self) {
        self.state().is_stopped = false;
    }

    /// A process has ended: its files are closed.
    pub fn close_all(&self) {
        self.state().open.clear();
    }

    /// A bit of a file changes while nobody looks.
    pub fn flip(&self, root: Root, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let inode = state.named(root, name).expect("a file that is there");
        for content in [&mut inode.now, &mut inode.durable] {
            if let Some(block) = content.blocks.get_mut(&(offset / BLOCK)) {
                Arc::make_mut(block)[(offset % BLOCK) as usize] ^= bit;
            }
        }
    }

    /// A block of a file cannot be read any more.
    pub fn rot(&self, root: Root, name: &str, offset: u64) {
        let mut state = self.state();
        let inode = state.named(root, name).expect("a file that is there");
        inode.rotten.insert(offset / BLOCK);
    }

    /// Takes what was not flushed, or a part of it.
    pub fn cut_power(&self, random: &mut Random) {
        let state = &mut *self.state();
        let mut names: Vec<_> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        names.sort();
        names.dedup();
        for name in names {
            let (now, durable) = (state.names.get(&name), state.durable_names.get(&name));
            let kept = if random.below(2) == 0 { now } else { durable }.copied();
            match kept {
                Some(at) => drop(state.names.insert(name, at)),
                None => drop(state.names.remove(&name)),
            }
        }
        state.durable_names = state.names.clone();
        state.inodes.iter_mut().for_each(|inode| inode.cut_power(random));
    }

    pub fn write(&self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let (done, result) = state.part(bytes.len());
        state.move_in(file, offset, done);
        let inode = state.inode(file);
        assert!(offset + bytes.len() as u64 <= inode.now.bytes, "the log stays in its segment");
        inode.write(offset, &bytes[..done]);
        result
    }

    pub fn read(&self, file: FileId, offset: u64, length: u64) -> io::Result<AlignedBuffer> {
        let mut buffer = AlignedBuffer::new(length as usize);
        let read = self.read_at(file, offset, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Reads, and changes a bit on the way where that is planned.
    fn fill(
        &self,
        find: impl FnOnce(&mut State) -> io::Result<&mut Inode>,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<usize> {
        let mut state = self.state();
        let mut random = state.plan.as_ref().map(|plan| Random(plan.random.0));
        let trouble = state.begin(Call::Reads);
        let inode = find(&mut state)?;
        let end = offset + out.len() as u64;
        if inode.rotten.range(offset / BLOCK..end.div_ceil(BLOCK)).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let read = inode.now.read(offset, out);
        match (trouble, &mut random) {
            (None, _) => {}
            (Some(Trouble::Flips), Some(random)) => flip(&mut out[..read], random),
            (Some(trouble), _) => return Err(error_of(trouble)),
        }
        Ok(read)
    }
}

impl Files for MemoryFiles {
    fn list(&self, root: Root) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.whole(Call::Reads)?;
        let of = state.names.keys().filter(|(data, _)| *data == (root == Root::Data));
        Ok(of.map(|(_, name)| name.clone()).filter(|name| !name.contains('/')).collect())
    }

    fn open(&self, root: Root, name: &str) -> io::Result<FileId> {
        let mut state = self.state();
        state.whole(Call::Reads)?;
        let at = *state.names.get(&key(root, name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.open(at))
    }

    fn create(
        &self,
        root: Root,
        name: &str,
        capacity: u64,
        capacity_min: u64,
    ) -> io::Result<(FileId, u64)> {
        let mut state = self.state();
        state.whole(Call::Grows)?;
        let room = state.room_bytes.unwrap_or(u64::MAX);
        let mut size = capacity;
        while size > room {
            if size / 2 < capacity_min {
                return Err(io::ErrorKind::StorageFull.into());
            }
            size = (size / 2).next_multiple_of(BLOCK);
        }
        state.move_away();
        let inode = state.named_or_new(root, name);
        inode.change(Change::Length(0));
        inode.change(Change::Length(size));
        let at = state.names[&key(root, name)];
        Ok((state.open(at), size))
    }

    fn close(&self, file: FileId) {
        assert!(self.state().open.remove(&file.0).is_some(), "a file is closed once");
    }

    fn stand_in(&self, bytes: u64, parts: &[(u64, Vec<u8>)]) -> io::Result<FileId> {
        let mut state = self.state();
        let mut inode = Inode::default();
        inode.change(Change::Length(bytes));
        parts.iter().for_each(|(offset, part)| inode.write(*offset, part));
        state.inodes.push(inode);
        let at = state.inodes.len() - 1;
        Ok(state.open(at))
    }

    fn replace(&self, file: FileId, with: FileId) -> io::Result<()> {
        let mut state = self.state();
        let at = state.open.remove(&with.0).expect("a file is used while it is open");
        state.open.insert(file.0, at).expect("a file is used while it is open");
        Ok(())
    }

    fn whereabouts(&self, file: FileId, root: Root, name: &str) -> io::Result<Whereabouts> {
        let state = self.state();
        let at = state.open.get(&file.0).expect("a file is used while it is open");
        Ok(match state.names.get(&key(root, name)) {
            Some(named) if named == at => Whereabouts::Here,
            Some(_) => Whereabouts::Replaced,
            None => Whereabouts::Gone,
        })
    }

    fn size(&self, file: FileId) -> io::Result<u64> {
        let mut state = self.state();
        state.whole(Call::Reads)?;
        Ok(state.inode(file).now.bytes)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut AlignedBuffer) -> io::Result<usize> {
        let read = self.fill(|state| Ok(state.inode(file)), offset, buffer)?;
        self.state().move_in(file, offset, read);
        Ok(read)
    }

    fn write_at(&self, file: FileId, offset: u64, bytes: &AlignedBuffer) -> io::Result<()> {
        let mut state = self.state();
        let (done, result) = state.part(bytes.len());
        state.move_in(file, offset, done);
        state.inode(file).write(offset, &bytes[..done]);
        result
    }

    fn next_written(&self, file: FileId, offset: u64) -> io::Result<Option<u64>> {
        let mut state = self.state();
        state.whole(Call::Reads)?;
        let found = state.inode(file).now.blocks.range(offset / BLOCK..).next();
        Ok(found.map(|(at, _)| (at * BLOCK).max(offset)))
    }

    fn sync(&self, file: FileId) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)?;
        state.moves.calls += 1;
        state.inode(file).sync();
        Ok(())
    }

    fn truncate(&self, file: FileId, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)?;
        state.move_away();
        state.inode(file).change(Change::Length(length));
        Ok(())
    }

    fn extend(&self, file: FileId, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Grows)?;
        state.inode(file).change(Change::Length(length));
        Ok(())
    }

    /// Names are all that directories are here.
    fn make_directory(&self, _root: Root, _name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)
    }

    fn sync_directory(&self, root: Root) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)?;
        state.move_away();
        state.sync_directory(root);
        Ok(())
    }

    fn rename(&self, root: Root, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)?;
        state.move_away();
        let at = state.names.remove(&key(root, from)).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(key(root, to), at);
        Ok(())
    }

    fn remove(&self, root: Root, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Changes)?;
        state.move_away();
        state.names.remove(&key(root, name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn read_small(&self, root: Root, name: &str) -> io::Result<Vec<u8>> {
        let length = self.state().named(root, name)?.now.bytes;
        let mut bytes = vec![0; length as usize];
        self.fill(|state| state.named(root, name), 0, &mut bytes)?;
        self.state().move_named(root, name, 0, bytes.len());
        Ok(bytes)
    }

    fn read_part(&self, root: Root, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.fill(|state| state.named(root, name), offset, &mut bytes)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.state().move_named(root, name, offset, length);
        Ok(bytes)
    }

    fn write_small(&self, root: Root, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Grows)?;
        state.move_away();
        let at = state.inodes.len();
        let mut inode = Inode::default();
        inode.write(0, bytes);
        inode.sync();
        state.inodes.push(inode);
        state.names.insert(key(root, name), at);
        state.sync_directory(root);
        Ok(())
    }

    fn write_part(&self, root: Root, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let (done, result) = state.part(bytes.len());
        if done == 0 && result.is_err() {
            return result;
        }
        state.named_or_new(root, name);
        state.move_named(root, name, offset, done);
        let inode = state.named_or_new(root, name);
        inode.write(offset, &bytes[..done]);
        inode.change(Change::Length(offset + done as u64));
        result
    }

    fn free_bytes(&self, _root: Root) -> io::Result<u64> {
        Ok(FREE_BYTES)
    }
}
