//! The scrub: closed segments are read again while the server serves, at a bounded rate, and what the disk no
//! longer gives as it was written is told.
//!
//! A pass goes through all of them from the first to the last, and then nothing is read until the next
//! pass is due, so that a disk may spin down. It reads only while neither a client nor the cleaner waits for the
//! disk. A segment that the cleaner replaces meanwhile is begun anew, as what took its place. Where it is and what
//! it found stands in a small file beside the sidecars, so that a restart goes on with it.

mod reader;

use super::Engine;
use super::log::format;
use super::log::segments::Segment;
use super::log::sidecar::PageEnd;
use crate::disk::{Done, FileId, Operation, Root, Token};
use crate::limits::SCRUB_DAMAGE_MAX;
use reader::{Damage, Reader};
use std::collections::BTreeSet;
use std::io;
use xxhash_rust::xxh3::xxh3_64;

/// The file in `--index` that keeps where the scrub is.
pub const FILE_NAME: &str = "scrub";

/// What its last line begins with.
const CHECK: &str = "check ";
const DAY_S: u64 = 86_400;
/// How often the clock is looked at for a pass that is due, in milliseconds.
const LOOK_MS: u64 = 3_600_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    pub read_bytes: u64,
    /// Whole records.
    pub records: u64,
    /// Passes that came to their end.
    pub passes: u64,
}

#[derive(Default)]
pub struct Scrub {
    pub stats: ScrubStats,
    /// Bytes a second that are read; 0: the scrub is off.
    rate: u64,
    /// Days from the beginning of one pass to that of the next; 0: none begins by itself.
    days: u64,
    /// Unix seconds of the beginning of the newest pass, and of the end of the newest whole one; 0: none yet.
    began_s: u64,
    ended_s: u64,
    /// Since when there have been records that no pass has seen, where none has begun yet.
    oldest_s: u64,
    /// Whether the file says so: the segment may be gone when the next server starts.
    is_oldest_kept: bool,
    pass: Option<Pass>,
    /// Where damage begins that was told.
    damaged: BTreeSet<u64>,
    reading: Option<Reading>,
    saving: Option<Token>,
    is_changed: bool,
    /// When the next read may begin, in microseconds of the loop's clock.
    read_due_us: u64,
    /// Before a stop: nothing more is read.
    is_ending: bool,
}

/// A read on its way.
#[derive(Clone, Copy)]
struct Reading {
    token: Token,
    file: FileId,
    length: u64,
}

struct Pass {
    /// The segment that is read, or below which all are.
    base: u64,
    /// Segments from here on came when the pass had begun.
    until: u64,
    segments_done: u64,
    reader: Option<Reader>,
    /// Damage in the segment that is read.
    found: BTreeSet<u64>,
}

impl Pass {
    fn new(base: u64, until: u64) -> Self {
        Self { base, until, segments_done: 0, reader: None, found: BTreeSet::new() }
    }
}

impl Scrub {
    /// As the server before left it in its file; `oldest_s` is when the first segment was made.
    pub fn restored(text: &[u8], oldest_s: u64) -> Self {
        let fresh = || Self { oldest_s, ..Self::default() };
        let Some(text) = checked(text) else { return fresh() };
        let mut scrub = fresh();
        let mut span = (None, None);
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else { return fresh() };
            let position = u64::from_str_radix(value, 16);
            match (name, value.parse(), position) {
                ("began", Ok(seconds), _) => scrub.began_s = seconds,
                ("ended", Ok(seconds), _) => scrub.ended_s = seconds,
                ("next", _, Ok(position)) => span.0 = Some(position),
                ("since", Ok(seconds), _) => {
                    (scrub.oldest_s, scrub.is_oldest_kept) = (seconds, true);
                }
                ("until", _, Ok(position)) => span.1 = Some(position),
                ("damaged", _, Ok(position)) => drop(scrub.damaged.insert(position)),
                _ => return fresh(),
            }
        }
        if let (Some(base), Some(until)) = span {
            scrub.pass = Some(Pass::new(base, until));
        }
        scrub
    }

    fn to_text(&self) -> String {
        let mut text =
            format!("since {}\nbegan {}\nended {}\n", self.oldest_s, self.began_s, self.ended_s);
        if let Some(pass) = &self.pass {
            text.push_str(&format!("next {:016x}\nuntil {:016x}\n", pass.base, pass.until));
        }
        for position in &self.damaged {
            text.push_str(&format!("damaged {position:016x}\n"));
        }
        text.push_str(&format!("{CHECK}{:016x}\n", xxh3_64(text.as_bytes())));
        text
    }

    /// Changes how many bytes a second are read, and how many days lie between passes.
    pub fn set(&mut self, rate: u64, days: u64) {
        (self.rate, self.days) = (rate, days);
        self.read_due_us = 0;
    }

    pub fn rate(&self) -> u64 {
        self.rate
    }

    pub fn is_running(&self) -> bool {
        self.pass.is_some()
    }

    /// The position up to which the running pass has come; 0: none runs.
    pub fn position(&self) -> u64 {
        let Some(pass) = &self.pass else { return 0 };
        pass.reader.as_ref().map_or(pass.base, Reader::position)
    }

    pub fn segments_done(&self) -> u64 {
        self.pass.as_ref().map_or(0, |pass| pass.segments_done)
    }

    /// Damaged places that are known, of all passes.
    pub fn damaged(&self) -> u64 {
        self.damaged.len() as u64
    }

    /// Where it begins.
    pub fn damage(&self) -> impl Iterator<Item = u64> {
        self.damaged.iter().copied()
    }

    pub fn began_s(&self) -> u64 {
        self.began_s
    }

    pub fn ended_s(&self) -> u64 {
        self.ended_s
    }

    /// When the next pass begins by itself, in Unix seconds; none where none does.
    pub fn due_s(&self, now_s: u64) -> Option<u64> {
        let last_s = if self.began_s > 0 { self.began_s } else { self.oldest_s };
        let is_on = self.rate > 0 && self.days > 0 && self.pass.is_none() && last_s > 0;
        // Not later than the days from now: the clock may have been wrong once.
        is_on.then(|| last_s.min(now_s) + self.days * DAY_S)
    }

    /// Reads nothing more, for the server stops.
    pub fn end(&mut self) {
        self.is_ending = true;
    }

    /// Whether the disk still works for it.
    pub fn is_busy(&self) -> bool {
        self.reading.is_some() || self.saving.is_some() || self.is_changed
    }

    pub(super) fn owns(&self, token: Token) -> bool {
        self.reading.is_some_and(|reading| reading.token == token) || self.saving == Some(token)
    }

    /// Whether a read of the file is on its way.
    pub(super) fn reads(&self, file: FileId) -> bool {
        self.reading.is_some_and(|reading| reading.file == file)
    }

    /// The file is no segment any more: what was read of it says nothing.
    pub(super) fn forget(&mut self, file: FileId) {
        if let Some(pass) = &mut self.pass
            && pass.reader.as_ref().is_some_and(|reader| reader.file == file)
        {
            pass.reader = None;
            pass.found.clear();
        }
    }

    /// When it has something to do, in milliseconds of the loop's clock.
    fn deadline_ms(&self, now_s: u64, now_ms: u64) -> Option<u64> {
        if self.is_ending || self.rate == 0 || self.reading.is_some() {
            return None;
        }
        match self.due_s(now_s) {
            Some(due_s) => {
                let wait_ms = due_s.saturating_sub(now_s).saturating_mul(1000);
                Some(now_ms + wait_ms.min(LOOK_MS))
            }
            None => self.pass.is_some().then_some(self.read_due_us / 1000),
        }
    }

    /// Closes the segment that was read: what of it was damaged before and is not any more is forgotten.
    fn segment_ends(&mut self, next: u64) {
        let Some(pass) = &mut self.pass else { return };
        let found = std::mem::take(&mut pass.found);
        let base = pass.base;
        self.damaged.retain(|position| !(base..next).contains(position));
        let room = SCRUB_DAMAGE_MAX.saturating_sub(self.damaged.len());
        self.damaged.extend(found.into_iter().take(room));
        pass.reader = None;
        pass.base = next;
        pass.segments_done += 1;
        self.is_changed = true;
    }
}

impl Engine {
    /// When the scrub has something to do again, in milliseconds of the loop's clock.
    pub(super) fn scrub_deadline_ms(&self) -> Option<u64> {
        // What is on its way for others brings a turn of its own when it ends.
        let may_read = self.pending.is_empty() && self.log.broken().is_none();
        let due_ms = self.scrub.deadline_ms(self.now.unix_s(), self.now.monotonic_ms);
        due_ms.filter(|_| may_read)
    }

    /// Begins a pass now, unless one runs.
    pub fn start_scrub(&mut self) {
        if self.scrub.pass.is_none() {
            let until = self.log.closed().last().map_or(0, |last| last.base + 1);
            self.scrub.pass = Some(Pass::new(0, until));
            self.scrub.began_s = self.now.unix_s();
            self.scrub.is_changed = true;
        }
    }

    /// Ends the pass that runs; the next one is due as if it had come to its end.
    pub fn stop_scrub(&mut self) {
        self.scrub.is_changed |= self.scrub.pass.take().is_some();
    }

    /// Hands out the next read, if it is time for it and nobody else reads.
    pub(super) fn step_scrub(&mut self) {
        let (now_s, now_ms) = (self.now.unix_s(), self.now.monotonic_ms);
        let may_read = !self.scrub.is_ending && self.log.broken().is_none();
        if self.scrub.rate > 0 && may_read {
            let is_awaited = self.scrub.days > 0 && !self.log.closed().is_empty();
            if is_awaited && !self.scrub.is_oldest_kept {
                if self.scrub.oldest_s == 0 {
                    self.scrub.oldest_s = now_s;
                }
                (self.scrub.is_oldest_kept, self.scrub.is_changed) = (true, true);
            }
            if self.scrub.due_s(now_s).is_some_and(|due_s| due_s <= now_s) {
                self.start_scrub();
            }
            // Several reads may be due in one millisecond.
            let is_due = self.scrub.read_due_us / 1000 <= now_ms;
            if is_due && self.scrub.reading.is_none() && self.pending.is_empty() {
                self.read_on();
            }
        }
        if self.scrub.is_changed && self.scrub.saving.is_none() {
            self.scrub.is_changed = false;
            let bytes = self.scrub.to_text().into_bytes();
            let name = FILE_NAME.to_owned();
            self.scrub.saving =
                Some(self.ask(Operation::WriteSmall { root: Root::Index, name, bytes }));
        }
    }

    fn read_on(&mut self) {
        while let Some(pass) = &mut self.scrub.pass {
            let Some(reader) = &pass.reader else {
                let closed = self.log.closed();
                // One that the cleaner made may begin before: what it stands for was read in part.
                let next =
                    closed.partition_point(|segment| segment.base + segment.capacity <= pass.base);
                match closed.get(next).filter(|segment| segment.base < pass.until) {
                    Some(segment) if self.away.has(segment.file) => {
                        let next = segment.base + segment.capacity;
                        self.pass_by(next);
                    }
                    Some(segment) => {
                        pass.base = segment.base;
                        pass.reader = Some(reader_of(self.log.seed, segment));
                    }
                    None => self.end_scrub_pass(),
                }
                continue;
            };
            let Some((start, length)) = reader.wanted() else {
                let next = reader.base + reader.capacity;
                self.scrub.segment_ends(next);
                continue;
            };
            let (file, offset) = (reader.file, start - reader.base);
            let token = self.ask(Operation::Read { file, offset, length });
            self.scrub.reading = Some(Reading { token, file, length });
            let from_us = self.scrub.read_due_us.max(self.now.monotonic_ms * 1000);
            self.scrub.read_due_us = from_us + (length * 1_000_000).div_ceil(self.scrub.rate);
            return;
        }
    }

    /// Goes on behind a segment whose file is not here.
    fn pass_by(&mut self, next: u64) {
        if let Some(pass) = &mut self.scrub.pass {
            (pass.reader, pass.base) = (None, next);
            pass.found.clear();
            self.scrub.is_changed = true;
        }
    }

    fn end_scrub_pass(&mut self) {
        self.scrub.pass = None;
        self.scrub.ended_s = self.now.unix_s();
        self.scrub.stats.passes += 1;
        self.scrub.is_changed = true;
    }

    /// Takes the end of an operation of the scrub.
    pub(super) fn scrub_completed(&mut self, token: Token, result: io::Result<Done>) {
        if self.scrub.saving == Some(token) {
            // Where it cannot be kept, a restart begins the pass anew.
            self.scrub.saving = None;
            return;
        }
        let Some(Reading { file, length, .. }) = self.scrub.reading.take() else { return };
        self.file_read(file);
        let reader = self.scrub.pass.as_mut().and_then(|pass| pass.reader.as_mut());
        // The pass may have ended meanwhile, or the segment been replaced.
        let Some(reader) = reader.filter(|reader| reader.file == file) else { return };
        // One that was moved away meanwhile is not damaged, and what was known of it stays known.
        if self.away.has(file) {
            let next = reader.base + reader.capacity;
            return self.pass_by(next);
        }
        let mut damage = Vec::new();
        let records = reader.records;
        match &result {
            Ok(Done::Bytes(bytes)) => {
                self.scrub.stats.read_bytes += bytes.len() as u64;
                reader.take(Ok(bytes), length, &mut damage);
            }
            Ok(_) => reader.take(Err(io::Error::other("a read gives bytes")), length, &mut damage),
            Err(error) => {
                let error = io::Error::new(error.kind(), error.to_string());
                reader.take(Err(error), length, &mut damage);
            }
        }
        self.scrub.stats.records += reader.records - records;
        let base = reader.base;
        damage.into_iter().for_each(|one| self.tell_damage(base, one));
    }

    fn tell_damage(&mut self, base: u64, damage: Damage) {
        let Some(pass) = &mut self.scrub.pass else { return };
        pass.found.insert(damage.start);
        let known = &mut self.scrub.damaged;
        if known.contains(&damage.start) || known.len() >= SCRUB_DAMAGE_MAX {
            return;
        }
        known.insert(damage.start);
        self.scrub.is_changed = true;
        let whose = damage.head.and_then(|head| {
            let slot = self.namespaces.slot_of(head.namespace)?;
            let name = String::from_utf8_lossy(&self.namespaces.get(slot)?.name).into_owned();
            let is_of_key = matches!(head.kind, format::Kind::Set | format::Kind::Delete);
            is_of_key.then(|| format!(", a record of namespace {name:?}"))
        });
        self.log.notices.push(format!(
            "scrub: segment {} at offset {}: {} bytes {}{}",
            format::segment_name(base),
            damage.start - base,
            damage.end - damage.start,
            damage.what,
            whose.unwrap_or_default()
        ));
        if self.scrub.damaged.len() == SCRUB_DAMAGE_MAX {
            self.log.notices.push(format!(
                "scrub: {SCRUB_DAMAGE_MAX} damaged places are known: further ones are not told. Move the data to \
                 another disk; zdb check lists them all"
            ));
        }
    }
}

/// The lines of the file before the last, which is their checksum.
fn checked(text: &[u8]) -> Option<&str> {
    let (lines, check) = std::str::from_utf8(text).ok()?.rsplit_once(CHECK)?;
    let check = u64::from_str_radix(check.strip_suffix('\n')?, 16).ok()?;
    (check == xxh3_64(lines.as_bytes())).then_some(lines)
}

fn reader_of(seed: u64, segment: &Segment) -> Reader {
    let ending = segment.pages.last().map(|page| page.header.ending);
    Reader::new(seed, segment, ending != Some(PageEnd::Sealed))
}
