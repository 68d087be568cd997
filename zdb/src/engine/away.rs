//! Closed segments whose files are moved away, and come back when somebody wants what is in them.
//!
//! Whoever has moved a file away wants its space, so a file without its name is let go, when what a start needs of
//! it is kept in a stub. A read that finds nothing there then waits, it alone: the file is opened again, if it
//! has come back, or a hook is asked to bring it. What only looks after the disk, the cleaner and the scrub, has
//! nothing brought: it passes by. Whether another copy exists nobody here knows, so a file is let go only where there
//! is a hook that could bring it back.

use super::log::format::{self, BLOCK, SegmentHeader};
use super::log::segments::Segment;
use super::log::stub::{self, Stub};
use super::{Engine, Event, Pending, Waiter};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Completion, Done, FileId, Operation, Read, Root, Token, Whereabouts};
use crate::limits::{AWAY_LOOK_FILES, AWAY_LOOK_MS, HOOK_WAIT_MS_MAX};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AwayStats {
    /// Files that were let go, and files that came back.
    pub let_go: u64,
    pub brought_back: u64,
    /// Times that a file did not come back for who wanted it.
    pub failures: u64,
}

#[derive(Default)]
pub struct Away {
    pub stats: AwayStats,
    /// Somebody can bring files back.
    pub has_hook: bool,
    /// Files of closed segments that are not here.
    files: HashSet<FileId>,
    wanted: Vec<Wanted>,
    look: Look,
    leaving: Option<Leaving>,
    /// What the operator was told of some, by their bases.
    told: HashMap<u64, String>,
    /// Before a stop: nobody waits for a file any more.
    is_ending: bool,
}

/// The search for files that do not have their names any more.
#[derive(Default)]
struct Look {
    token: Option<Token>,
    due_ms: u64,
    /// The base from which on the next files are looked at.
    next: u64,
    found: VecDeque<(FileId, Whereabouts)>,
}

/// A file that is about to be let go.
struct Leaving {
    file: FileId,
    base: u64,
    page_seed: u64,
    /// What the stub still needs, and has.
    left: VecDeque<(u64, u64)>,
    parts: Vec<(u64, Vec<u8>)>,
    /// What is under way.
    token: Token,
    step: LeaveStep,
}

#[derive(Clone, Copy)]
enum LeaveStep {
    Sidecar,
    /// The sidecar is written again, durable: it is all that tells of the records from now on.
    Durable,
    Part {
        offset: u64,
        length: u64,
    },
    Stub,
    LetGo,
}

/// A file that somebody waits for.
struct Wanted {
    file: FileId,
    base: u64,
    reads: Vec<(Token, Read)>,
    step: WantStep,
    was_brought: bool,
    /// Since when the first of the reads waits, or the hook is asked.
    since_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WantStep {
    Opening(Token),
    /// Its header is read.
    Checking(Token),
    /// The hook runs.
    Asked,
    /// What came under its name is not the segment, and is closed again.
    Refusing(Token),
}

impl Away {
    /// With the files that were not here at the start.
    pub fn new(files: HashSet<FileId>) -> Self {
        Self { files, ..Self::default() }
    }

    pub fn has(&self, file: FileId) -> bool {
        self.files.contains(&file)
    }

    /// Whether a file is away, or about to be.
    pub(super) fn concerns(&self, file: FileId) -> bool {
        self.has(file) || self.leaving.as_ref().is_some_and(|leaving| leaving.file == file)
    }

    /// How many segments are away.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Whether the disk still works for it.
    pub fn is_busy(&self) -> bool {
        let is_open = |one: &Wanted| one.step != WantStep::Asked;
        self.look.token.is_some() || self.leaving.is_some() || self.wanted.iter().any(is_open)
    }

    pub(super) fn owns(&self, token: Token) -> bool {
        self.look.token == Some(token)
            || self.leaving.as_ref().is_some_and(|leaving| leaving.token == token)
            || self.wanted_at(token).is_some()
    }

    fn wanted_at(&self, token: Token) -> Option<usize> {
        let waits = |one: &Wanted| match one.step {
            WantStep::Opening(of) | WantStep::Checking(of) | WantStep::Refusing(of) => of == token,
            WantStep::Asked => false,
        };
        self.wanted.iter().position(waits)
    }

    /// Whether somebody waits for a hook.
    pub fn is_waited_for(&self) -> bool {
        self.wanted.iter().any(|one| one.step == WantStep::Asked && !one.reads.is_empty())
    }

    /// When nobody waits for a hook any more that does not end.
    fn given_up_ms(&self) -> Option<u64> {
        let asked = self.wanted.iter().filter(|one| one.step == WantStep::Asked);
        let waited_for = asked.filter(|one| !one.reads.is_empty());
        waited_for.map(|one| one.since_ms + HOOK_WAIT_MS_MAX).min()
    }

    /// Looks for files that were moved at the next turn.
    pub fn look_now(&mut self) {
        self.look.due_ms = 0;
    }
}

impl Engine {
    /// When there is something to do, in milliseconds of the loop's clock.
    pub(super) fn away_deadline_ms(&self) -> Option<u64> {
        let look_ms = self.may_look().then_some(self.away.look.due_ms);
        [look_ms, self.away.given_up_ms()].into_iter().flatten().min()
    }

    fn may_look(&self) -> bool {
        let away = &self.away;
        let is_free = away.look.token.is_none() && away.leaving.is_none() && !away.is_ending;
        is_free && self.log.broken().is_none() && self.log.closed().len() > away.files.len()
    }

    /// Hands out what is due of the search for files that were moved away.
    pub(super) fn step_away(&mut self) {
        if self.away.given_up_ms().is_some_and(|due_ms| due_ms <= self.now.monotonic_ms) {
            self.give_up();
        }
        while self.away.leaving.is_none()
            && let Some((file, found)) = self.away.look.found.pop_front()
        {
            self.moved(file, found);
        }
        if !self.may_look() || self.now.monotonic_ms < self.away.look.due_ms {
            return;
        }
        let closed = self.log.closed();
        let first = closed.partition_point(|segment| segment.base < self.away.look.next);
        let batch = &closed[first..closed.len().min(first + AWAY_LOOK_FILES)];
        let here = batch.iter().filter(|one| !self.away.has(one.file));
        let files = here.map(|one| (one.file, format::segment_name(one.base))).collect();
        let next = closed.get(first + batch.len()).map_or(0, |segment| segment.base);
        let token = self.ask(Operation::FindMoved { files });
        let due_ms = self.now.monotonic_ms + AWAY_LOOK_MS;
        self.away.look.next = next;
        self.away.look.token = Some(token);
        self.away.look.due_ms = due_ms;
    }

    fn closed_segment(&self, file: FileId) -> Option<&Segment> {
        self.log.closed().iter().find(|segment| segment.file == file)
    }

    // ---------------------------------------------------------------- letting go

    /// A file does not have its name any more.
    fn moved(&mut self, file: FileId, found: Whereabouts) {
        let Some(base) = self.closed_segment(file).map(|segment| segment.base) else { return };
        if self.cleaner.covers(base) {
            // The packed segment may have its name already.
            return;
        }
        let name = format::segment_name(base);
        match found {
            Whereabouts::Here => {}
            Whereabouts::Gone if !self.away.has_hook => self.tell_of(
                base,
                format!(
                    "segment {name} is gone from --data: it is served as long as this server runs, and its space stays in use. \
                     Copy it back from file {} under /proc/PID/fd of this server, or start with a --hook that \
                     brings files back on missing-data",
                    file.0
                ),
            ),
            Whereabouts::Replaced => self.tell_of(
                base,
                format!(
                    "segment {name}: another file has its name now. The one that was there is served as long as \
                     this server runs, and its space stays in use; the next start takes the other one"
                ),
            ),
            Whereabouts::Gone => self.leave(file),
        }
    }

    /// Tells the operator about a segment, once as long as nothing else is to be told.
    fn tell_of(&mut self, base: u64, line: String) {
        if self.away.told.get(&base) != Some(&line) {
            self.log.notices.push(line.clone());
            self.away.told.insert(base, line);
        }
    }

    /// Begins to let go of a file. What is not all on the disk yet is for the next look.
    fn leave(&mut self, file: FileId) {
        let Some(segment) = self.closed_segment(file) else { return };
        let is_stored = segment.pages.iter().all(|page| page.in_memory().is_none());
        if !is_stored {
            return;
        }
        let (base, length) = (segment.base, segment.sidecar_bytes as usize);
        let page_seed = self.log.segments.page_seed(segment);
        let name = format::sidecar_name(base);
        let token = self.ask(Operation::ReadSidecar { name, offset: 0, length });
        self.away.leaving = Some(Leaving {
            file,
            base,
            page_seed,
            left: VecDeque::new(),
            parts: Vec::new(),
            token,
            step: LeaveStep::Sidecar,
        });
    }

    /// Goes on with letting go of a file, after a step of it.
    fn leave_on(&mut self, mut leaving: Leaving, result: io::Result<Done>) {
        match result.and_then(|done| self.leave_step(&mut leaving, done)) {
            Ok(Some(operation)) => {
                leaving.token = self.ask(operation);
                self.away.leaving = Some(leaving);
            }
            Ok(None) => self.away.stats.let_go += 1,
            // It stays open, and the next look finds it again.
            Err(error) => {
                self.away.files.remove(&leaving.file);
                let name = format::segment_name(leaving.base);
                self.tell_of(
                    leaving.base,
                    format!(
                        "segment {name} was moved away, and what a start needs of it cannot be kept ({error}): it \
                         stays open, and its space in use"
                    ),
                );
            }
        }
    }

    /// Takes the end of a step. What is to be done next; `None`: the file is let go.
    fn leave_step(&mut self, leaving: &mut Leaving, done: Done) -> io::Result<Option<Operation>> {
        let Some(segment) = self.closed_segment(leaving.file) else { return Ok(None) };
        let file_bytes = segment.file_bytes();
        match (leaving.step, done) {
            (LeaveStep::Sidecar, Done::Vector(sidecar)) => {
                let wanted = stub::wanted(segment, &sidecar, leaving.page_seed);
                let wanted = wanted.ok_or_else(|| io::Error::other("its sidecar is damaged"))?;
                leaving.left = wanted.into();
                leaving.step = LeaveStep::Durable;
                let (root, name) = (Root::Index, format::sidecar_name(leaving.base));
                return Ok(Some(Operation::WriteSmall { root, name, bytes: sidecar }));
            }
            (LeaveStep::Durable, _) => {}
            (LeaveStep::Part { offset, length }, Done::Bytes(bytes)) => {
                let mut read = bytes.len() as u64;
                if read < length.min(file_bytes - offset) {
                    // A read may bring less than was asked for; the next one begins with a block.
                    read = read / BLOCK * BLOCK;
                    leaving.left.push_front((offset + read, length - read));
                }
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                leaving.parts.push((offset, bytes[..read as usize].to_vec()));
            }
            (LeaveStep::Stub, _) => {
                leaving.step = LeaveStep::LetGo;
                // What finds nothing there from now on waits until the file is back.
                self.away.files.insert(leaving.file);
                return Ok(Some(Operation::LetGo { file: leaving.file }));
            }
            (LeaveStep::LetGo, _) => return Ok(None),
            (LeaveStep::Sidecar | LeaveStep::Part { .. }, _) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if let Some((offset, length)) = leaving.left.pop_front() {
            leaving.step = LeaveStep::Part { offset, length };
            return Ok(Some(Operation::Read { file: leaving.file, offset, length }));
        }
        leaving.step = LeaveStep::Stub;
        let stub = Stub {
            file_bytes: file_bytes.next_multiple_of(BLOCK),
            parts: std::mem::take(&mut leaving.parts),
        };
        Ok(Some(Operation::WriteSmall {
            root: Root::Index,
            name: format::stub_name(leaving.base),
            bytes: stub.encode(self.log.id, leaving.base, leaving.page_seed),
        }))
    }

    // ---------------------------------------------------------------- bringing back

    /// A read found nothing. What it comes to, or nothing yet: it waits until the file is back.
    pub(super) fn found_nothing(&mut self, token: Token, read: Read) -> Option<io::Result<Done>> {
        let nothing = || Some(Ok(Done::Bytes(AlignedBuffer::new(0))));
        if !self.away.has(read.file) {
            return nothing();
        }
        let is_for_care = match self.pending.get(&token) {
            Some(Pending::Record { waiter, .. } | Pending::Range { waiter, .. })
            | Some(Pending::Work { waiter, .. }) => matches!(waiter, Waiter::Cleaner(_)),
            _ => true,
        };
        if is_for_care || self.away.is_ending {
            return Some(Err(io::ErrorKind::NotFound.into()));
        }
        let since_ms = self.now.monotonic_ms;
        if let Some(wanted) = self.away.wanted.iter_mut().find(|one| one.file == read.file) {
            if wanted.reads.is_empty() {
                wanted.since_ms = since_ms;
            }
            wanted.reads.push((token, read));
            return None;
        }
        let Some(base) = self.closed_segment(read.file).map(|segment| segment.base) else {
            return nothing();
        };
        let step = WantStep::Opening(self.open_again(read.file, base));
        let (file, reads, was_brought) = (read.file, vec![(token, read)], false);
        self.away.wanted.push(Wanted { file, base, reads, step, was_brought, since_ms });
        None
    }

    fn open_again(&mut self, file: FileId, base: u64) -> Token {
        self.ask(Operation::OpenAgain { file, name: format::segment_name(base) })
    }

    /// Takes the end of an operation of this module.
    pub(super) fn away_completed(&mut self, token: Token, result: io::Result<Done>) {
        if self.away.look.token == Some(token) {
            self.away.look.token = None;
            if let Ok(Done::Moved(found)) = result {
                self.away.look.found = found.into();
            }
            return;
        }
        if let Some(leaving) = self.away.leaving.take_if(|leaving| leaving.token == token) {
            return self.leave_on(leaving, result);
        }
        let Some(at) = self.away.wanted_at(token) else { return };
        let (file, base) = (self.away.wanted[at].file, self.away.wanted[at].base);
        match (self.away.wanted[at].step, result) {
            (WantStep::Opening(_), Ok(_)) => {
                let token = self.ask(Operation::Read { file, offset: 0, length: BLOCK });
                self.away.wanted[at].step = WantStep::Checking(token);
            }
            (WantStep::Opening(_), Err(error)) => {
                let now_ms = self.now.monotonic_ms;
                let wanted = &mut self.away.wanted[at];
                let is_gone = error.kind() == io::ErrorKind::NotFound;
                if is_gone && !wanted.was_brought && !wanted.reads.is_empty() {
                    (wanted.step, wanted.since_ms) = (WantStep::Asked, now_ms);
                    self.events.push(Event::Missing(base));
                } else {
                    self.stays_away(at, &error.to_string());
                }
            }
            (WantStep::Checking(_), result) => {
                let is_it = match &result {
                    Ok(Done::Bytes(block)) => self.is_header_of(base, block),
                    _ => false,
                };
                if is_it {
                    return self.is_back(at);
                }
                let token = self.ask(Operation::LetGo { file });
                self.away.wanted[at].step = WantStep::Refusing(token);
            }
            (WantStep::Refusing(_), _) => {
                self.stays_away(at, "the file that has its name now is another one, or damaged");
            }
            (WantStep::Asked, _) => unreachable!("it has no token"),
        }
    }

    fn is_header_of(&self, base: u64, block: &[u8]) -> bool {
        let segments = &self.log.segments;
        let packed = segments.of(base).and_then(|one| one.packed.as_ref()).map(|one| one.header);
        SegmentHeader::decode(block).is_ok_and(|header| {
            header.log == self.log.id && header.base == base && header.packed == packed
        })
    }

    fn is_back(&mut self, at: usize) {
        let wanted = self.away.wanted.swap_remove(at);
        self.away.files.remove(&wanted.file);
        self.away.told.remove(&wanted.base);
        self.away.stats.brought_back += 1;
        for (token, Read { file, offset, length }) in wanted.reads {
            self.operations.push((token, Operation::Read { file, offset, length }));
        }
    }

    /// Nobody waits for a file any more that does not come.
    fn stays_away(&mut self, at: usize, why: &str) {
        let wanted = self.away.wanted.swap_remove(at);
        self.away.stats.failures += 1;
        if !self.away.is_ending {
            self.tell_wanted(wanted.base, why);
        }
        self.end_reads(wanted.reads);
    }

    fn tell_wanted(&mut self, base: u64, why: &str) {
        let name = format::segment_name(base);
        self.tell_of(
            base,
            format!("segment {name} is away, and somebody wants what is in it: {why}"),
        );
    }

    fn end_reads(&mut self, reads: Vec<(Token, Read)>) {
        for (token, _) in reads {
            let result = Err(io::ErrorKind::NotFound.into());
            self.completed(Completion { token, result });
        }
    }

    /// Who waits for a hook for too long waits no more. No other one is run before it has ended.
    fn give_up(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let mut over = Vec::new();
        for one in &mut self.away.wanted {
            if one.step == WantStep::Asked && one.since_ms + HOOK_WAIT_MS_MAX <= now_ms {
                over.push((one.base, std::mem::take(&mut one.reads)));
            }
        }
        for (base, reads) in over.into_iter().filter(|(_, reads)| !reads.is_empty()) {
            self.away.stats.failures += 1;
            self.tell_wanted(base, "the hook missing-data runs, and does not end");
            self.end_reads(reads);
        }
    }

    /// The hook that was to bring a segment back has ended.
    pub fn missing_ended(&mut self, base: u64, went_well: bool) {
        let waits = |one: &Wanted| one.base == base && one.step == WantStep::Asked;
        let Some(at) = self.away.wanted.iter().position(waits) else { return };
        if !went_well {
            return self.stays_away(at, "no hook missing-data has brought it back");
        }
        let file = self.away.wanted[at].file;
        let token = self.open_again(file, base);
        let wanted = &mut self.away.wanted[at];
        (wanted.step, wanted.was_brought) = (WantStep::Opening(token), true);
    }

    /// Lets nobody wait for a file any more: the server stops.
    pub fn end_away(&mut self) {
        self.away.is_ending = true;
        self.away.look.found.clear();
        while let Some(at) = self.away.wanted.iter().position(|one| one.step == WantStep::Asked) {
            self.stays_away(at, "the server stops");
        }
        let reads: Vec<_> =
            self.away.wanted.iter_mut().flat_map(|one| one.reads.drain(..)).collect();
        self.end_reads(reads);
    }
}
