//! One pass: some neighbouring segments are read from the first record to the last, and what is wanted of them
//! is written to a new file, which in the end takes their place.

mod judging;

use super::super::log::format::{self, BATCH_HEAD_BYTES, BLOCK, FLAG_MEMBER, Head, Kind};
use super::super::log::format::{PackedHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Verified};
use super::super::log::packed::{self, Builder, Cover, Residue, Trailer};
use super::super::log::segments::{self, Segment};
use super::super::log::sidecar::{PageBuilder, PageEnd, PageHeader};
use super::super::{Answer, Engine, ReadFailure};
use super::verdict::{Fact, Verdict};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Done, FileId, Operation, Root, Token};
use crate::limits::*;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;

/// Records that are remembered from window to window.
const FACTS_MAX: usize = 1 << 16;

/// How a pass ended.
pub enum Ended {
    Replaced,
    /// There was less to drop than it seemed.
    NotWorth,
    /// It may go better another time.
    Failed(String),
    /// The disk does not give what was there.
    Unreadable(String),
    /// What is damaged is better left as it is.
    Damaged {
        base: u64,
        line: String,
    },
}

pub enum Step {
    Go,
    /// For an answer, or for the log or the scans to get further.
    Wait,
    End(Ended),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The new file is to be made.
    Make,
    /// The header of the first source.
    Header,
    /// The trailer of a source that is packed.
    Trailer,
    Read,
    Judge,
    /// Records go to the new file.
    Write,
    /// The last records and the trailer.
    Finish,
    /// The header, which goes last.
    Head,
    /// What the verdicts rest on becomes durable.
    Settle,
    Publish,
    /// The scans that are under way come to their end.
    Replace,
    /// The new file is removed again.
    Undo,
}

/// A segment that is read.
struct Source {
    base: u64,
    file: FileId,
    /// Where its records end in the file.
    records_end: u64,
    packed: Option<PackedHeader>,
    /// So many ids may have been given out in bytes that a start found damaged.
    ids_lost_max: u64,
}

/// A record in the window.
struct Item {
    /// In the bytes that were read.
    bytes: Range<usize>,
    position: u64,
    head: Head,
    verdict: Option<Verdict>,
}

/// What became of a namespace's records.
#[derive(Default)]
struct Tally {
    residue: Residue,
    /// A record of it was forgotten, now or by an earlier pass.
    is_needed: bool,
    /// An earlier pass has counted the ids of this source.
    has_ids: bool,
}

pub struct Pass {
    base: u64,
    capacity: u64,
    end: u64,
    /// How many files are replaced, and how many segments they stand for.
    pub segments: usize,
    count: u32,
    before_bytes: u64,
    expected_bytes: u64,
    /// What the new file may have before it is given up.
    bytes_max: u64,
    sources: VecDeque<Source>,
    phase: Phase,
    /// What was asked for in this phase, and came back.
    questions: HashSet<u64>,
    result: Option<io::Result<Done>>,
    failure: Option<Ended>,
    file: Option<FileId>,
    builder: Builder,
    finished: Option<packed::Finished>,
    previous_end: u64,
    /// Bytes of the source that were read and not dealt with, and where in its file they begin.
    bytes: Vec<u8>,
    offset: u64,
    /// Of these bytes the items of the window take so many.
    window: usize,
    /// Where the batch ends in the file that the next record is in.
    batch_end: u64,
    items: Vec<Item>,
    facts: HashMap<u64, Fact>,
    /// Positions without a record: whether the cleaner dropped it, or it cannot be read.
    missing: HashMap<u64, bool>,
    /// How far the log was when the pass began: what was superseded below is dropped if it is not wanted.
    judged_until: u64,
    older_clean_until: u64,
    /// How far the log has to be durable before anything may be dropped.
    rests_on: u64,
    is_undecided: bool,
    tallies: BTreeMap<u32, Tally>,
    /// Those of the source that is being read.
    local: BTreeMap<u32, Tally>,
    page: PageBuilder,
    page_seed: u64,
    pages: Vec<(PageHeader, Vec<u8>)>,
    /// Deletes that were dropped and to which the index leads: namespace, hash, position.
    buried: Vec<(u32, u64, u64)>,
    /// Bytes of dropped records by namespace.
    forgotten: BTreeMap<u32, u64>,
    kept_records: u64,
    dropped_records: u64,
}

impl Pass {
    /// `expected_bytes`: what will be left, by the samples.
    pub fn new(engine: &Engine, range: Range<usize>, expected_bytes: u64) -> Self {
        let list = engine.log.segments.list();
        let (first, last) = (&list[range.start], &list[range.end - 1]);
        let sources = list[range.clone()].iter().map(|segment| Source {
            base: segment.base,
            file: segment.file,
            records_end: segment.records_end(),
            packed: segment.packed.as_ref().map(|packed| packed.header),
            ids_lost_max: segment.ids_lost_max,
        });
        let before_bytes: u64 = list[range.clone()].iter().map(Segment::file_bytes).sum();
        let older = list[..range.start].iter().map(super::clean_until).min();
        let judged_until = engine.log.appended();
        let sidecar_seed = engine.log.segments.sidecar_seed;
        Self {
            base: first.base,
            capacity: last.base + last.capacity - first.base,
            end: last.end(),
            segments: range.len(),
            count: list[range].iter().map(|segment| segment.count).sum(),
            before_bytes,
            expected_bytes: expected_bytes.min(before_bytes).next_multiple_of(BLOCK) + 4 * BLOCK,
            bytes_max: (2 * engine.log.segment_bytes()).min(packed::PACKED_BYTES_MAX / 2),
            sources: sources.collect(),
            phase: Phase::Make,
            questions: HashSet::new(),
            result: None,
            failure: None,
            file: None,
            builder: Builder::new(first.base),
            finished: None,
            previous_end: 0,
            bytes: Vec::new(),
            offset: SEGMENT_HEADER_BYTES,
            window: 0,
            batch_end: 0,
            items: Vec::new(),
            facts: HashMap::new(),
            missing: HashMap::new(),
            judged_until,
            older_clean_until: older.unwrap_or(u64::MAX),
            rests_on: 0,
            is_undecided: false,
            tallies: BTreeMap::new(),
            local: BTreeMap::new(),
            page: PageBuilder::new(),
            page_seed: segments::packed_page_seed(sidecar_seed, first.base, judged_until),
            pages: Vec::new(),
            buried: Vec::new(),
            forgotten: BTreeMap::new(),
            kept_records: 0,
            dropped_records: 0,
        }
    }

    pub fn covers(&self, base: u64) -> bool {
        (self.base..self.base + self.capacity).contains(&base)
    }

    /// Whether answers are on their way.
    pub fn is_asking(&self) -> bool {
        !self.questions.is_empty()
    }

    /// Whether a step now could get further, as far as the pass knows.
    pub fn is_waiting(&self) -> bool {
        self.is_asking() || matches!(self.phase, Phase::Settle | Phase::Replace)
    }

    pub fn answered(&mut self, question: u64, answer: Answer) {
        if !self.questions.remove(&question) {
            return;
        }
        match answer {
            Answer::Work(result) => self.result = Some(result),
            Answer::Record(fetched) => match fetched.record {
                Ok(bytes) => self.note_fact(fetched.place.get(), &Verified::trusted(&bytes)),
                Err(failure) => {
                    let is_gone = matches!(failure, ReadFailure::Gone);
                    self.missing.insert(fetched.place.get(), is_gone);
                }
            },
            Answer::Range(_) | Answer::Page(_) | Answer::Written(_) => {
                unreachable!("a pass asks for records and file work")
            }
        }
    }

    fn note_fact(&mut self, position: u64, record: &Verified<'_>) {
        let fact = Fact {
            key: record.key().into(),
            namespace: record.head.namespace,
            kind: record.head.kind,
            flags: record.head.flags,
            previous: record.head.previous.get(),
            timestamp: record.head.timestamp,
        };
        self.facts.insert(position, fact);
    }

    fn ask(&mut self, engine: &mut Engine, operation: Operation) -> Step {
        self.result = None;
        self.questions.insert(engine.ask_for(operation));
        Step::Wait
    }

    /// Gives up; what was made is removed first.
    fn fail(&mut self, ended: Ended) -> Step {
        self.failure = Some(ended);
        self.result = None;
        self.phase = Phase::Undo;
        Step::Go
    }

    fn fail_at(&mut self, what: &str, error: &io::Error) -> Step {
        let name = format::segment_name(self.base);
        self.fail(Ended::Failed(format!("cannot clean segment {name}: {what}: {error}")))
    }

    fn fail_read(&mut self, what: &str, error: &io::Error) -> Step {
        let name = format::segment_name(self.source().base);
        let line = format!("segment {name} is not cleaned for now: {what}: {error}");
        self.fail(Ended::Unreadable(line))
    }

    fn fail_damaged(&mut self) -> Step {
        let (base, offset) = (self.source().base, self.offset + self.window as u64);
        let name = format::segment_name(base);
        let line = format!(
            "segment {name} is not cleaned: it is damaged at offset {offset}; see zdb check"
        );
        self.fail(Ended::Damaged { base, line })
    }

    fn source(&self) -> &Source {
        self.sources.front().expect("a pass ends with its last source")
    }

    /// Takes the next step. Only called when nothing is on its way.
    pub fn step(&mut self, engine: &mut Engine) -> Step {
        match self.phase {
            Phase::Make => self.make(engine),
            Phase::Header => self.read_header(engine),
            Phase::Trailer => self.read_trailer(engine),
            Phase::Read => self.read(engine),
            Phase::Judge => self.judge(engine),
            Phase::Write => self.write(engine),
            Phase::Finish => self.finish(engine),
            Phase::Head => self.write_head(engine),
            Phase::Settle if engine.log.durable() < self.rests_on => Step::Wait,
            Phase::Settle => {
                self.phase = Phase::Publish;
                Step::Go
            }
            Phase::Publish => self.publish(engine),
            Phase::Replace => self.replace(engine),
            Phase::Undo => self.undo(engine),
        }
    }

    // ---------------------------------------------------------------- reading

    fn make(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            None => {
                let name = format::unfinished_name(self.base);
                self.ask(engine, Operation::MakeFile { name, bytes: self.expected_bytes })
            }
            Some(Ok(Done::File(file, _))) => {
                self.file = Some(file);
                self.phase = Phase::Header;
                Step::Go
            }
            Some(Ok(_)) => unreachable!("making a file gives a file"),
            Some(Err(error)) => self.fail_at("cannot make the new file", &error),
        }
    }

    fn read_header(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            None => {
                let file = self.source().file;
                self.ask(engine, Operation::Read { file, offset: 0, length: BLOCK })
            }
            Some(Ok(Done::Bytes(bytes))) => {
                let Ok(header) = SegmentHeader::decode(&bytes) else {
                    self.offset = 0;
                    return self.fail_damaged();
                };
                self.previous_end = header.previous_end;
                self.phase = Phase::Trailer;
                Step::Go
            }
            Some(Ok(_)) => unreachable!("a read gives bytes"),
            Some(Err(error)) => self.fail_read("cannot read its header", &error),
        }
    }

    fn read_trailer(&mut self, engine: &mut Engine) -> Step {
        let Some(header) = self.source().packed else {
            self.phase = Phase::Read;
            return Step::Go;
        };
        let (offset, length) = packed::trailer_range(&header);
        match self.result.take() {
            None => {
                let file = self.source().file;
                let length = (length as u64).next_multiple_of(BLOCK);
                if length == 0 {
                    self.phase = Phase::Read;
                    return Step::Go;
                }
                self.ask(engine, Operation::Read { file, offset, length })
            }
            Some(Ok(Done::Bytes(bytes))) => {
                let trailer = bytes
                    .get(..length)
                    .and_then(|bytes| packed::decode_trailer(bytes, engine.log.seed, &header));
                let Some(Trailer { residues, .. }) = trailer else {
                    self.offset = offset;
                    return self.fail_damaged();
                };
                for residue in residues {
                    let tally = Tally { residue, is_needed: true, has_ids: true };
                    self.local.insert(residue.namespace, tally);
                }
                self.phase = Phase::Read;
                Step::Go
            }
            Some(Ok(_)) => unreachable!("a read gives bytes"),
            Some(Err(error)) => self.fail_read("cannot read its trailer", &error),
        }
    }

    fn read(&mut self, engine: &mut Engine) -> Step {
        let source = self.source();
        let (file, end) = (source.file, source.records_end);
        let until = self.offset + self.bytes.len() as u64;
        match self.result.take() {
            Some(Ok(Done::Bytes(bytes))) => {
                // A read may bring less than was asked for; the next one begins with a block.
                let whole = bytes.len() as u64 / BLOCK * BLOCK;
                let wanted = if whole < end - until { whole } else { end - until } as usize;
                if wanted == 0 {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return self.fail_read("cannot read it", &error);
                }
                self.bytes.extend_from_slice(&bytes[..wanted]);
                engine.pay(wanted as u64);
                if self.facts.len() > FACTS_MAX {
                    self.facts.clear();
                    self.missing.clear();
                }
                if self.parse(engine.log.seed).is_err() {
                    return self.fail_damaged();
                }
                if self.window > 0 {
                    self.phase = Phase::Judge;
                }
                Step::Go
            }
            None if until >= end => match self.bytes.is_empty() {
                true => self.end_source(engine),
                false => self.fail_damaged(),
            },
            None => {
                let left = (end - until).next_multiple_of(BLOCK);
                let length = CLEANER_WINDOW_BYTES.min(left);
                self.ask(engine, Operation::Read { file, offset: until, length })
            }
            Some(Ok(_)) => unreachable!("a read gives bytes"),
            Some(Err(error)) => self.fail_read("cannot read it", &error),
        }
    }

    /// Finds the whole records at the start of what was read. An error: what is there is none.
    fn parse(&mut self, seed: u64) -> Result<(), ()> {
        let source = self.sources.front().expect("a source is read");
        let mut at = 0;
        loop {
            let offset = self.offset + at as u64;
            if offset >= source.records_end {
                break;
            }
            let rest = &self.bytes[at..];
            let room = source.records_end - offset;
            let is_more = |needed: u64| needed > rest.len() as u64 && needed <= room;
            let (position, head) = match packed::head_at(rest, seed) {
                Ok(found) => found,
                Err(needed) if is_more(needed as u64) => break,
                Err(_) => return Err(()),
            };
            let bytes = head.bytes();
            if is_more(bytes) {
                break;
            }
            let is_plain = source.packed.is_none();
            let is_whole = bytes <= room && format::payload_is_whole(rest, seed, &head);
            if !is_whole || is_plain && position != source.base + offset {
                return Err(());
            }
            match head.kind {
                Kind::Batch => {
                    self.batch_end = offset + bytes;
                    at += BATCH_HEAD_BYTES;
                    continue;
                }
                Kind::Padding | Kind::Seal => {}
                // A part of a batch that did not count: a start knows more about it.
                _ if is_plain && head.flags & FLAG_MEMBER != 0 && offset >= self.batch_end => {
                    return Err(());
                }
                _ => {
                    let bytes = at..at + bytes as usize;
                    self.items.push(Item { bytes, position, head, verdict: None });
                }
            }
            at += bytes as usize;
        }
        self.window = at;
        Ok(())
    }

    fn end_source(&mut self, engine: &Engine) -> Step {
        self.lose_ids(engine);
        for (namespace, local) in std::mem::take(&mut self.local) {
            let tally = self
                .tallies
                .entry(namespace)
                .or_insert_with(|| Tally { residue: Residue::new(namespace), ..Tally::default() });
            tally.residue.follow(&local.residue);
            tally.is_needed |= local.is_needed;
        }
        self.sources.pop_front();
        self.offset = SEGMENT_HEADER_BYTES;
        self.batch_end = 0;
        self.phase = if self.sources.is_empty() { Phase::Finish } else { Phase::Trailer };
        Step::Go
    }

    // ---------------------------------------------------------------- writing

    fn write(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            // The samples were wrong by far.
            None if self.builder.file_bytes() > self.bytes_max => self.fail(Ended::NotWorth),
            None if self.builder.pending_bytes() < CLEANER_WRITE_BYTES => {
                self.phase = Phase::Read;
                Step::Go
            }
            None => {
                let (offset, blocks) = self.builder.take();
                self.write_blocks(engine, offset, blocks)
            }
            Some(Ok(_)) => Step::Go,
            Some(Err(error)) => self.fail_at("cannot write the new file", &error),
        }
    }

    fn write_blocks(&mut self, engine: &mut Engine, offset: u64, blocks: AlignedBuffer) -> Step {
        let file = self.file.expect("the file was made first");
        engine.pay(blocks.len() as u64);
        self.ask(engine, Operation::WriteBlocks { file, offset, blocks })
    }

    fn finish(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            None => {
                // Namespaces may have ended since the last record was judged.
                self.rests_on = engine.log.appended();
                // To write nearly as much as is there gives nothing back.
                let saved = self.before_bytes.saturating_sub(self.builder.file_bytes());
                if self.segments < CLEANER_MERGE_MIN
                    && saved < self.before_bytes / CLEANER_SAVES_MIN
                {
                    return self.fail(Ended::NotWorth);
                }
                let tallies = std::mem::take(&mut self.tallies);
                let residues: Vec<Residue> = tallies
                    .into_values()
                    .filter(|tally| tally.is_needed)
                    .filter(|tally| engine.namespaces.slot_of(tally.residue.namespace).is_some())
                    .map(|tally| tally.residue)
                    .collect();
                let cover = Cover {
                    log: engine.log.id,
                    seed: engine.log.seed,
                    capacity: self.capacity,
                    previous_end: self.previous_end,
                    created: engine.now.unix_s(),
                    count: self.count,
                    end: self.end,
                    judged_until: self.judged_until,
                    rests_on: engine.log.records_end(self.rests_on),
                    is_undecided: self.is_undecided,
                };
                let builder = std::mem::replace(&mut self.builder, Builder::new(self.base));
                let mut finished = builder.finish(cover, &residues);
                self.pages.push(self.page.finish(self.page_seed, PageEnd::Sealed, self.end));
                let blocks = std::mem::replace(&mut finished.rest.1, AlignedBuffer::new(0));
                let offset = finished.rest.0;
                self.finished = Some(finished);
                if blocks.is_empty() {
                    self.phase = Phase::Head;
                    return Step::Go;
                }
                self.write_blocks(engine, offset, blocks)
            }
            Some(Ok(_)) => {
                self.phase = Phase::Head;
                Step::Go
            }
            Some(Err(error)) => self.fail_at("cannot write the new file", &error),
        }
    }

    fn write_head(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            None => {
                let finished = self.finished.as_mut().expect("finished before");
                let blocks = std::mem::replace(&mut finished.header, AlignedBuffer::new(0));
                self.write_blocks(engine, 0, blocks)
            }
            Some(Ok(_)) => {
                engine.log.flush();
                self.phase = Phase::Settle;
                Step::Go
            }
            Some(Err(error)) => self.fail_at("cannot write the new file", &error),
        }
    }

    fn publish(&mut self, engine: &mut Engine) -> Step {
        match self.result.take() {
            None => {
                let file = self.file.expect("the file was made first");
                let bytes = self.finished.as_ref().expect("finished before").file_bytes;
                let from = format::unfinished_name(self.base);
                let to = format::segment_name(self.base);
                self.ask(engine, Operation::Publish { file, bytes, from, to })
            }
            Some(Ok(_)) => {
                self.phase = Phase::Replace;
                engine.cleaner.is_replacing = true;
                Step::Go
            }
            Some(Err(error)) => {
                // It may have its name already. A start finds out; until then nothing more may be replaced.
                engine.cleaner.in_doubt = Some(self.base..self.base + self.capacity);
                self.fail_at(
                    "cannot publish the new file; no more is cleaned until a restart",
                    &error,
                )
            }
        }
    }

    fn replace(&mut self, engine: &mut Engine) -> Step {
        if engine.cleaner.walks > 0 {
            // One that waits for a hook is waited for, but others need not wait for it, too.
            engine.cleaner.is_replacing = !engine.away.is_waited_for();
            if !engine.cleaner.is_replacing {
                engine.resume_walks();
            }
            return Step::Wait;
        }
        let finished = self.finished.take().expect("finished before");
        let file = self.file.take().expect("the file was made first");
        let mut segment = Segment::packed(self.base, self.capacity, file, finished.packed);
        let mut sidecar = Vec::new();
        for (header, bytes) in std::mem::take(&mut self.pages) {
            sidecar.extend_from_slice(&bytes);
            segment.add_kept(header, bytes);
        }
        engine.cleaner.stats.records_kept += self.kept_records;
        engine.cleaner.stats.records_dropped += self.dropped_records;
        engine.replace_segments(segment, sidecar);
        for buried in std::mem::take(&mut self.buried) {
            engine.forget_delete(buried);
        }
        for (namespace, bytes) in std::mem::take(&mut self.forgotten) {
            let slot = engine.namespaces.slot_of(namespace);
            match slot.and_then(|slot| engine.namespaces.get_mut(slot)) {
                Some(namespace) => namespace.forgot(bytes),
                None => engine.namespaces.forgot_ended(bytes),
            }
        }
        Step::End(Ended::Replaced)
    }

    fn undo(&mut self, engine: &mut Engine) -> Step {
        if self.result.take().is_some() {
            let failure = self.failure.take().expect("a pass is undone after a failure");
            return Step::End(failure);
        }
        if let Some(file) = self.file.take() {
            engine.operations.push((Token(0), Operation::Close { file }));
        }
        let names = vec![(Root::Data, format::unfinished_name(self.base))];
        self.ask(engine, Operation::Remove { names })
    }
}
