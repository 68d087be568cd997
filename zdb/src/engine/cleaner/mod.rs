//! The cleaner: gives back the space of what no namespace wants any more. It looks at samples of the segments,
//! chooses those of which enough is dead, and writes what is wanted of them into a packed segment that takes
//! their place. Nothing moves in the address space: see `log/packed.rs`.
//!
//! A small step at a time, as a part of the engine's turn: it asks for reads and file work like any other
//! request, and waits for their ends. It never holds anybody up but scans, and those for the moment in which a
//! packed segment takes its place. What it was at is lost with the process; what it finished is not.

mod pass;
mod survey;
mod verdict;

use super::index::KeyHash;
use super::log::format;
use super::log::segments::Segment;
use super::namespace::{Keys, Namespace, Retention};
use super::{Answer, Engine, Fetched, Pending, Waiter};
use crate::disk::{Done, Operation, Root};
use crate::limits::*;
use pass::{Ended, Pass, Step};
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use survey::Sample;

/// What an operator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub is_on: bool,
    /// Bytes of segments that it works through in a second at most; 0: no limit.
    pub rate_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { is_on: true, rate_bytes: CLEANER_RATE_BYTES }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CleanerStats {
    /// Segments that were replaced, and packed ones that took their places.
    pub segments_cleaned: u64,
    pub segments_written: u64,
    /// Of the files that were replaced, and of those that took their places.
    pub cleaned_bytes: u64,
    pub written_bytes: u64,
    pub records_kept: u64,
    pub records_dropped: u64,
    /// Records that were read to tell whether others are wanted.
    pub questions: u64,
    /// Passes that were given up.
    pub failures: u64,
}

#[derive(Default)]
enum Stage {
    #[default]
    Resting,
    Surveying(Survey),
    Packing(Box<Pass>),
}

/// A look at all segments.
struct Survey {
    at: usize,
    /// Of the one that is being looked at, and what was asked of it.
    sample: Sample,
    questions: Vec<u64>,
    clean_until: u64,
}

/// What is remembered of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    sample: Sample,
    /// It is left alone until the log is this far: it is damaged, or there was less to drop than it seemed.
    rests_until: u64,
}

#[derive(Default)]
pub struct Cleaner {
    pub options: Options,
    pub stats: CleanerStats,
    pub(super) answers: Vec<(u64, Answer)>,
    stage: Stage,
    /// When the next step may be taken.
    due_ms: u64,
    /// How far the log was at the last survey, and when the next one may be.
    surveyed: u64,
    survey_ms: u64,
    /// When versions may have become too old, where there is such a limit.
    expiry_ms: Option<u64>,
    rounds: u64,
    known: HashMap<u64, Known>,
    next_question: u64,
    /// Scans that are under way, and those that wait until a segment was replaced.
    walks: usize,
    /// Packed segments of which the sidecar is on its way.
    storing: HashSet<u64>,
    /// Removals of files that were replaced: their space comes back when these end.
    pub(super) removals: usize,
    held_walks: Vec<Waiter>,
    is_replacing: bool,
    /// Somebody asked for a look at everything now, and for what follows from it.
    is_asked: bool,
    is_wanted: bool,
    /// Addresses of a packed segment that may have its name on the disk without having its place here. Whoever reads
    /// there needs the files that are open.
    in_doubt: Option<Range<u64>>,
    /// Segments from here on are left alone: a replica has them still to get.
    pub floor: Option<u64>,
}

impl Cleaner {
    /// Whether it is at work on segments.
    pub fn is_packing(&self) -> bool {
        matches!(self.stage, Stage::Packing(_))
    }

    /// Whether it is at work on the segment with this base, or does not know what became of that.
    pub(super) fn covers(&self, base: u64) -> bool {
        matches!(&self.stage, Stage::Packing(pass) if pass.covers(base))
            || self.storing.contains(&base)
            || self.in_doubt.as_ref().is_some_and(|range| range.contains(&base))
    }

    pub fn state(&self) -> &'static str {
        match self.stage {
            Stage::Resting if self.removals > 0 => "removing",
            Stage::Resting if !self.options.is_on => "off",
            Stage::Resting => "resting",
            Stage::Surveying(_) => "surveying",
            Stage::Packing(_) => "packing",
        }
    }

    /// Whether it has nothing to do and nothing on its way.
    pub fn is_resting(&self) -> bool {
        matches!(self.stage, Stage::Resting) && !self.is_asked
    }

    /// Looks at all segments as soon as it can, whatever it knows of them.
    pub fn ask(&mut self) {
        self.is_asked = true;
        self.is_wanted = true;
        self.known.clear();
    }

    /// When there is something to do without an answer.
    fn deadline_ms(&self, appended: u64, is_full: bool) -> Option<u64> {
        match &self.stage {
            Stage::Resting if self.is_asked => Some(0),
            Stage::Resting if !self.options.is_on => None,
            Stage::Resting if appended != self.surveyed || is_full => Some(self.survey_ms),
            Stage::Resting => self.expiry_ms,
            Stage::Surveying(survey) => survey.questions.is_empty().then_some(self.due_ms),
            Stage::Packing(pass) => (!pass.is_waiting()).then_some(self.due_ms),
        }
    }
}

impl Engine {
    /// When the cleaner has something to do again, in milliseconds of the loop's clock.
    pub(super) fn cleaner_deadline_ms(&self) -> Option<u64> {
        if self.log.is_closing() || self.log.broken().is_some() {
            return None;
        }
        self.cleaner.deadline_ms(self.log.appended(), self.log.is_full())
    }

    /// A scan begins: it is answered once the segments stay as they are.
    pub fn begin_walk(&mut self, waiter: Waiter) {
        if self.cleaner.is_replacing {
            return self.cleaner.held_walks.push(waiter);
        }
        self.cleaner.walks += 1;
        // An answer to a question that was not asked: nothing was read yet.
        self.answers.push((waiter, Answer::Page(Ok(Vec::new()))));
    }

    pub fn end_walk(&mut self) {
        self.cleaner.walks -= 1;
    }

    /// Does what is due of the cleaner's work.
    pub(super) fn clean(&mut self) {
        if self.log.is_closing() || self.log.broken().is_some() {
            return self.stop_cleaning();
        }
        // What it writes needs room before it gives some back.
        let has_work = self.cleaner.options.is_on && self.log.segments.list().len() > 1;
        self.log.reserve_bytes = if has_work { self.log.segment_bytes() } else { 0 };
        if !self.options_allow() {
            return;
        }
        loop {
            let now_ms = self.now.monotonic_ms;
            let is_due = now_ms >= self.cleaner.due_ms;
            match std::mem::take(&mut self.cleaner.stage) {
                Stage::Resting => {
                    if !self.is_survey_due() {
                        return;
                    }
                    self.cleaner.is_asked = false;
                    self.cleaner.surveyed = self.log.appended();
                    let list = self.log.segments.list();
                    let is_there =
                        |base: &u64| list.binary_search_by_key(base, |one| one.base).is_ok();
                    self.cleaner.known.retain(|base, _| is_there(base));
                    self.cleaner.rounds += 1;
                    let clean_until = u64::MAX;
                    let survey = Survey {
                        at: 0,
                        sample: Sample::default(),
                        questions: Vec::new(),
                        clean_until,
                    };
                    self.cleaner.stage = Stage::Surveying(survey);
                }
                Stage::Surveying(mut survey) => {
                    self.take_pages(&mut survey);
                    if !survey.questions.is_empty() || !is_due {
                        self.cleaner.stage = Stage::Surveying(survey);
                        return;
                    }
                    if !self.survey_next(&mut survey) {
                        self.cleaner.stage = Stage::Surveying(survey);
                        continue;
                    }
                    self.begin_pass();
                    if matches!(self.cleaner.stage, Stage::Resting) {
                        return;
                    }
                }
                Stage::Packing(mut pass) => {
                    let mut looked_up_bytes = 0;
                    for (question, answer) in std::mem::take(&mut self.cleaner.answers) {
                        if let Answer::Record(Fetched { record, .. }) = &answer {
                            let bytes = record.as_ref().map_or(0, |record| record.len() as u64);
                            looked_up_bytes += bytes.max(format::BLOCK);
                        }
                        pass.answered(question, answer);
                    }
                    self.pay(looked_up_bytes);
                    let is_due = self.now.monotonic_ms >= self.cleaner.due_ms;
                    if !is_due || pass.is_asking() {
                        self.cleaner.stage = Stage::Packing(pass);
                        return;
                    }
                    match pass.step(self) {
                        Step::Go => self.cleaner.stage = Stage::Packing(pass),
                        Step::Wait => {
                            self.cleaner.stage = Stage::Packing(pass);
                            // What was in memory is answered at once.
                            if self.cleaner.answers.is_empty() {
                                return;
                            }
                        }
                        Step::End(ended) => self.end_pass(&pass, ended),
                    }
                }
            }
        }
    }

    fn options_allow(&self) -> bool {
        self.cleaner.options.is_on || !self.cleaner.is_resting()
    }

    fn is_survey_due(&self) -> bool {
        let cleaner = &self.cleaner;
        let now_ms = self.now.monotonic_ms;
        // On a full disk somebody else may have made room.
        let is_changed = self.log.appended() != cleaner.surveyed || self.log.is_full();
        let is_time = is_changed && now_ms >= cleaner.survey_ms;
        let is_expired = cleaner.expiry_ms.is_some_and(|due| now_ms >= due);
        cleaner.is_asked || cleaner.options.is_on && (is_time || is_expired)
    }

    /// Asks, with the number of a question.
    fn ask_for(&mut self, operation: Operation) -> u64 {
        let question = self.new_question();
        let token = self.ask(operation);
        self.pending.insert(token, Pending::Work { waiter: Waiter::Cleaner(question), read: None });
        question
    }

    fn new_question(&mut self) -> u64 {
        self.cleaner.next_question += 1;
        self.cleaner.next_question
    }

    /// Pays for work in time. A disk that is full is worth any haste.
    fn pay(&mut self, bytes: u64) {
        let rate = self.cleaner.options.rate_bytes;
        if rate > 0 && !self.log.is_full() {
            let now_ms = self.now.monotonic_ms.max(self.cleaner.due_ms);
            self.cleaner.due_ms = now_ms + (bytes * 1000).div_ceil(rate);
        }
    }

    // ---------------------------------------------------------------- the survey

    /// Looks at the next segment. True: there is none.
    fn survey_next(&mut self, survey: &mut Survey) -> bool {
        let list = self.log.segments.list();
        // The last one takes records or did so last.
        if survey.at + 1 >= list.len() {
            return true;
        }
        let segment = &list[survey.at];
        if survey.at > 0 {
            survey.clean_until = survey.clean_until.min(clean_until(&list[survey.at - 1]));
        }
        survey.at += 1;
        survey.sample = Sample::default();
        let base = segment.base;
        let mut to_read = Vec::new();
        for page in survey::pages(segment.pages.len(), self.cleaner.rounds) {
            let page = &segment.pages[page];
            match page.in_memory() {
                Some(bytes) => {
                    let sample = survey::look(self, page.header.first, bytes, survey.clean_until);
                    survey.sample.add(sample);
                }
                None => to_read.push((page.offset, page.bytes)),
            }
        }
        self.cleaner.known.entry(base).or_default().sample = survey.sample;
        for (offset, bytes) in to_read {
            let question = self.new_question();
            survey.questions.push(question);
            self.fetch_page(Waiter::Cleaner(question), base, offset, bytes);
        }
        self.cleaner.due_ms = self.now.monotonic_ms + CLEANER_SURVEY_STEP_MS;
        false
    }

    fn take_pages(&mut self, survey: &mut Survey) {
        for (question, answer) in std::mem::take(&mut self.cleaner.answers) {
            survey.questions.retain(|one| *one != question);
            let Answer::Page(Ok(bytes)) = answer else { continue };
            let Some(segment) = self.log.segments.list().get(survey.at - 1) else { continue };
            let (base, seed) = (segment.base, self.log.segments.page_seed(segment));
            let Some(header) = super::log::sidecar::read_page(&bytes, seed) else { continue };
            survey.sample.add(survey::look(self, header.first, &bytes, survey.clean_until));
            self.cleaner.known.entry(base).or_default().sample = survey.sample;
        }
    }

    // ---------------------------------------------------------------- passes

    /// Begins with the segments of which most is to be had, or rests.
    fn begin_pass(&mut self) {
        let segments = self.log.segments.list().len() as u64;
        let pause_ms = CLEANER_SURVEY_MS.max(segments * 20 * CLEANER_SURVEY_STEP_MS);
        self.cleaner.survey_ms = self.now.monotonic_ms + pause_ms;
        self.cleaner.due_ms = self.cleaner.due_ms.max(self.now.monotonic_ms);
        let keeps_days = |one: &Namespace| matches!(one.settings.retention, Retention::Days(_));
        self.cleaner.expiry_ms = (self.namespaces.iter().any(keeps_days))
            .then(|| self.now.monotonic_ms + CLEANER_EXPIRY_MS);
        let may_begin = self.cleaner.options.is_on || self.cleaner.is_wanted;
        let chosen =
            if may_begin && self.cleaner.in_doubt.is_none() { self.choose() } else { None };
        self.cleaner.is_wanted &= chosen.is_some();
        if let Some((range, expected_bytes)) = chosen {
            let pass = Pass::new(self, range, expected_bytes);
            self.cleaner.stage = Stage::Packing(Box::new(pass));
        }
    }

    /// The segments to clean next: neighbours of which enough is dead, around the one with most; or neighbours
    /// that became small.
    /// With how many bytes will be left of them.
    fn choose(&self) -> Option<(Range<usize>, u64)> {
        let list = self.log.segments.list();
        let closed = list.len().saturating_sub(1);
        let least =
            if self.log.is_full() { CLEANER_DEAD_PERCENT_FULL } else { CLEANER_DEAD_PERCENT };
        let dead_percent = |at: usize| -> Option<u64> {
            let known = self.cleaner.known.get(&list[at].base)?;
            (self.may_clean(at) && known.rests_until <= self.log.appended())
                .then(|| known.sample.dead_percent())
        };
        let best = (0..closed)
            .filter_map(|at| Some((dead_percent(at)?, at)))
            .filter(|(percent, _)| *percent >= least)
            .max_by_key(|(percent, at)| (*percent, std::cmp::Reverse(*at)));
        let wanted = |at: usize| -> Option<u64> {
            let percent = dead_percent(at)?;
            Some(list[at].file_bytes() * (100 - percent) / 100)
        };
        if let Some((_, best)) = best {
            let is_worth = |at: usize| dead_percent(at).is_some_and(|percent| percent >= least);
            return Some(self.widen(best, &|at| wanted(at).filter(|_| is_worth(at))));
        }
        // Small ones cost an open file each.
        let limit = self.log.segment_bytes() / CLEANER_MERGE_MIN as u64;
        let small = |at: usize| wanted(at).filter(|bytes| *bytes <= limit);
        let is_packed = |at: usize| list[at].packed.is_some();
        (0..closed).find_map(|at| {
            small(at)?;
            let (range, bytes) = self.widen(at, &small);
            let is_many = list.len() > CLEANER_SEGMENTS_MANY;
            let is_due =
                range.len() >= CLEANER_MERGE_MIN && (is_many || range.clone().all(is_packed));
            is_due.then_some((range, bytes))
        })
    }

    /// As many neighbours as fit one file, where each is worth it and stays with so many bytes.
    fn widen(&self, around: usize, worth: &dyn Fn(usize) -> Option<u64>) -> (Range<usize>, u64) {
        let list = self.log.segments.list();
        let closed = list.len() - 1;
        // On a full disk what is left of them needs room before they give theirs back.
        let room = match self.log.is_full() {
            true => self.log.segment_bytes() / CLEANER_MERGE_MIN as u64,
            false => self.log.segment_bytes(),
        };
        let mut range = around..around + 1;
        let mut bytes = worth(around).unwrap_or(0);
        loop {
            let before = range.start.checked_sub(1).and_then(|at| Some((at, worth(at)?)));
            let behind = Some(range.end).filter(|at| *at < closed);
            let behind = behind.and_then(|at| Some((at, worth(at)?)));
            let Some((at, more)) = before.or(behind).filter(|(_, more)| bytes + more <= room)
            else {
                return (range, bytes);
            };
            let wider = range.start.min(at)..range.end.max(at + 1);
            let span =
                list[wider.end - 1].base + list[wider.end - 1].capacity - list[wider.start].base;
            if wider.len() > CLEANER_RUN_MAX || span > super::log::packed::PACKED_SPAN_MAX {
                return (range, bytes);
            }
            range = wider;
            bytes += more;
        }
    }

    /// Whether a segment is closed for good: all of it, and its sidecar, is on the disk.
    fn may_clean(&self, at: usize) -> bool {
        let segment = &self.log.segments.list()[at];
        let is_written = segment.base + segment.capacity <= self.log.durable();
        // Two packed segments of a base are told apart by how far the log was.
        let judged_until = segment.packed.as_ref().map_or(0, |one| one.header.judged_until);
        let is_older = judged_until < self.log.appended();
        let is_stored = !self.cleaner.storing.contains(&segment.base);
        if self.away.concerns(segment.file) {
            return false;
        }
        if self.cleaner.floor.is_some_and(|floor| segment.base + segment.capacity > floor) {
            return false;
        }
        is_written && is_older && is_stored && self.log.segments.is_settled(segment.base)
    }

    fn end_pass(&mut self, pass: &Pass, ended: Ended) {
        self.cleaner.is_replacing = false;
        self.cleaner.due_ms = self.now.monotonic_ms;
        match ended {
            Ended::Replaced => {
                self.cleaner.known.retain(|base, _| !pass.covers(*base));
                self.cleaner.stats.segments_cleaned += pass.segments as u64;
                self.cleaner.stats.segments_written += 1;
            }
            Ended::NotWorth => self.rest(pass, self.log.appended() + self.log.segment_bytes()),
            Ended::Failed(line) => {
                self.cleaner.stats.failures += 1;
                self.log.notices.push(line);
                self.resume_walks();
                // It may go better after a while.
                self.cleaner.surveyed = 0;
                self.cleaner.survey_ms = self.now.monotonic_ms + CLEANER_SURVEY_MS;
                return;
            }
            Ended::Unreadable(line) => {
                self.cleaner.stats.failures += 1;
                self.log.notices.push(line);
                // Not again and again on a disk that would sleep.
                self.rest(pass, self.log.appended() + self.log.segment_bytes());
            }
            Ended::Damaged { base, line } => {
                self.cleaner.stats.failures += 1;
                self.log.notices.push(line);
                self.cleaner.known.entry(base).or_default().rests_until = u64::MAX;
            }
        }
        self.resume_walks();
        // There may be more to do, by what is known already.
        self.begin_pass();
    }

    fn resume_walks(&mut self) {
        for waiter in std::mem::take(&mut self.cleaner.held_walks) {
            self.begin_walk(waiter);
        }
    }

    /// Leaves segments alone until the log is so far.
    fn rest(&mut self, pass: &Pass, until: u64) {
        for segment in self.log.segments.list() {
            if pass.covers(segment.base) {
                self.cleaner.known.entry(segment.base).or_default().rests_until = until;
            }
        }
    }

    /// The log takes no more writes: nothing may be replaced any more.
    fn stop_cleaning(&mut self) {
        self.cleaner.answers.clear();
        self.cleaner.is_replacing = false;
        self.resume_walks();
    }

    /// The packed segment is on the disk under its name: it takes the place of those that it came of.
    fn replace_segments(&mut self, segment: Segment, sidecar: Vec<u8>) {
        let base = segment.base;
        let list = self.log.segments.list();
        let first = list.partition_point(|one| one.base < base);
        let last = list.partition_point(|one| one.base < base + segment.capacity);
        self.cleaner.stats.cleaned_bytes +=
            list[first..last].iter().map(Segment::file_bytes).sum::<u64>();
        self.cleaner.stats.written_bytes += segment.file_bytes();
        let old = self.log.segments.replace(first..last, segment);
        let names = old[1..].iter().flat_map(|one| {
            let (log, sidecar) = (format::segment_name(one.base), format::sidecar_name(one.base));
            [(Root::Data, log), (Root::Index, sidecar)]
        });
        // Those were away once.
        let stubs = old.iter().map(|one| (Root::Index, format::stub_name(one.base)));
        // First: without its sidecar one would refuse the next start.
        let names: Vec<_> = stubs.chain(names).collect();
        let name = format::sidecar_name(base);
        let token = self.ask(Operation::WriteSidecar { name, offset: 0, bytes: sidecar });
        self.cleaner.storing.insert(base);
        self.pending.insert(token, Pending::Sidecar { base });
        if !names.is_empty() {
            let token = self.ask(Operation::Remove { names });
            self.pending.insert(token, Pending::Removal);
            self.cleaner.removals += 1;
        }
        for segment in old {
            self.retire(segment.file);
        }
    }

    /// The sidecar of a packed segment was written, or could not be.
    pub(super) fn sidecar_stored(&mut self, base: u64, result: io::Result<Done>) {
        self.cleaner.storing.remove(&base);
        match result {
            Ok(_) => self.log.segments.pages_stored(base),
            Err(error) => self.log.notices.push(format!(
                "cannot write sidecar {}: {error}; it stays in memory and is made anew at the next start",
                format::sidecar_name(base)
            )),
        }
    }

    /// A delete was dropped: the index lets go of it, if it still leads there.
    fn forget_delete(&mut self, (namespace, hash, position): (u32, u64, u64)) {
        let Some(slot) = self.namespaces.slot_of(namespace) else { return };
        let Some(namespace) = self.namespaces.get_mut(slot) else { return };
        if let Keys::User(table) = &mut namespace.keys {
            let hash = KeyHash::from_bits(hash);
            let found = table.get(&self.pool, hash);
            if found.is_some_and(|entry| entry.is_dead() && entry.place.get() == position) {
                table.remove(&mut self.pool, hash);
            }
        }
    }
}

/// Below which position nothing is left in a segment of what was superseded or ended.
pub(super) fn clean_until(segment: &Segment) -> u64 {
    match &segment.packed {
        Some(packed) if !packed.header.is_undecided => packed.header.judged_until,
        _ => 0,
    }
}
