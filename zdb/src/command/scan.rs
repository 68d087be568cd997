//! SCAN, SCANX, RSCAN and KSCAN.
//!
//! A scan walks the sidecars (user mode) or the table of ids (sequential mode) for entries that are
//! current, then reads the heads of their records for keys, lengths and times; heads that lie near
//! each other share a read. One call returns a batch, at most what one page of a sidecar holds.

use super::glob::matches;
use super::keys::Cursor;
use super::task::{Step, TaskKind};
use super::{AWAY, Context, Outcome};
use crate::engine::index::Place;
use crate::engine::log::format::{BLOCK, Head, Kind, RECORD_HEAD_BYTES};
use crate::engine::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, namespace_bit};
use crate::engine::namespace::Keys;
use crate::engine::{Answer, Engine, Stretch, Waiter};
use crate::limits::{
    KEY_BYTES_MAX, PATTERN_BYTES_MAX, SCAN_ENTRIES_MAX, SCAN_GAP_BYTES, SCAN_READ_BYTES_MAX,
};
use crate::output::Output;
use crate::resp::{Protocol, Request};
use std::io;

/// Entries that one SCAN in Redis's form looks at unless COUNT says otherwise.
const COUNT_DEFAULT: usize = 10;
/// Most reads of one call that are under way at once.
const READS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// What the reply looks like, and which keys are in it.
enum Form {
    /// 0-db's: a binary cursor, and each key with its length and time.
    Entries,
    /// Redis's: a decimal cursor and keys. The cursor is one more than the last position or id, so that 0
    /// is left for "from the start" and "at the end".
    Keys {
        pattern: Option<Box<[u8]>>,
        /// Entries that are looked at.
        count: usize,
        /// None of these is of the type that was asked for.
        none: bool,
    },
    /// KSCAN's: the same, until there are enough keys with the prefix.
    Prefix { prefix: Box<[u8]>, found: Vec<Vec<u8>>, looked_at: usize, from_start: bool },
}

/// How many keys a KSCAN returns at most, and after how many entries it returns what it has.
const PREFIX_KEYS_MAX: usize = SCAN_ENTRIES_MAX;
const PREFIX_ENTRIES_MAX: usize = 64 * SCAN_ENTRIES_MAX;

pub struct Scan {
    protocol: Protocol,
    form: Form,
    slot: usize,
    namespace: u32,
    direction: Direction,
    /// Entries must lie strictly behind this position or id, seen in the direction of the scan.
    from: Option<u64>,
    /// Segment and page that come next.
    segment: usize,
    page: usize,
    /// Base of the segment whose page is being read, and the page's first position. That of damage can be the end
    /// of the segment.
    page_base: u64,
    page_first: u64,
    candidates: Vec<Candidate>,
    reads: Vec<Option<Stretch>>,
    outstanding: usize,
    /// Some of it was in a segment that is away, and stays there.
    is_away: bool,
    /// The reply rests on the log up to here.
    rests_on: u64,
    /// Not all candidates of a page were taken.
    is_cut: bool,
    /// There is nothing behind the candidates.
    is_at_end: bool,
}

struct Candidate {
    place: Place,
    /// Position or id for the cursor.
    at: u64,
    head: Option<(Head, Vec<u8>)>,
}

/// A cursor of 17 bytes is 0-db's, a number is Redis's: 17 digits do not check as a cursor.
pub fn scan(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let is_own =
        |word| Cursor::decode(word, context.session.namespace, context.engine.log.seed).is_some();
    let from = (request.len() > 1 && !is_own(request.get(1)))
        .then(|| decimal_cursor(request.get(1)))
        .flatten();
    let Some(from) = from else { return entries(context, Direction::Forward, request, out) };
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    match keys_form(request) {
        Ok(form) => begin(context, Direction::Forward, from, form),
        Err(text) => context.error(out, &text),
    }
}

pub fn reverse_scan(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    entries(context, Direction::Backward, request, out)
}

pub fn prefix_scan(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if matches!(context.namespace().keys, Keys::Sequential(_)) {
        return context.error(out, "Index running mode doesn't support this feature");
    }
    let from = match request.len() {
        2 => None,
        3 => match decimal_cursor(request.get(2)) {
            Some(from) => from,
            None => return context.error(out, "Invalid key format"),
        },
        _ => return context.error(out, "Unexpected arguments"),
    };
    if request.get(1).is_empty() {
        return context.error(out, "Invalid argument");
    }
    let form = Form::Prefix {
        prefix: request.get(1).into(),
        found: Vec::new(),
        looked_at: 0,
        from_start: from.is_none(),
    };
    begin(context, Direction::Forward, from, form)
}

/// `Some(None)`: from the start.
fn decimal_cursor(word: &[u8]) -> Option<Option<u64>> {
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let cursor: u64 = std::str::from_utf8(word).ok()?.parse().ok()?;
    Some(cursor.checked_sub(1))
}

fn keys_form(request: Request<'_>) -> Result<Form, String> {
    let (mut pattern, mut count, mut none) = (None, COUNT_DEFAULT, false);
    let mut at = 2;
    while at < request.len() {
        let word = request.get(at);
        let is_option = [b"MATCH".as_slice(), b"COUNT", b"TYPE"]
            .iter()
            .any(|option| option.eq_ignore_ascii_case(word));
        if !is_option {
            let word = super::shown(word);
            return Err(format!("Invalid option: {word} (MATCH, COUNT or TYPE)"));
        }
        let Some(value) = (at + 1 < request.len()).then(|| request.get(at + 1)) else {
            return Err("Unexpected arguments".into());
        };
        if word.eq_ignore_ascii_case(b"MATCH") {
            if value.len() > PATTERN_BYTES_MAX {
                return Err("Argument too long".into());
            }
            pattern = (value != b"*").then(|| value.into());
        } else if word.eq_ignore_ascii_case(b"TYPE") {
            none = !value.eq_ignore_ascii_case(b"string");
        } else {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
            match number {
                Some(number) if number > 0 => count = (number as usize).min(SCAN_ENTRIES_MAX),
                _ => return Err("value is not an integer or out of range".into()),
            }
        }
        at += 2;
    }
    Ok(Form::Keys { pattern, count, none })
}

fn entries(
    context: &mut Context<'_>,
    direction: Direction,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    let from = if request.len() > 1 {
        let (namespace, seed) = (context.session.namespace, context.engine.log.seed);
        let Some(cursor) = Cursor::decode(request.get(1), namespace, seed) else {
            return context.error(out, "Invalid key format");
        };
        Some(cursor.at)
    } else {
        None
    };
    begin(context, direction, from, Form::Entries)
}

fn begin(
    context: &mut Context<'_>,
    direction: Direction,
    from: Option<u64>,
    form: Form,
) -> Outcome {
    let namespace = context.session.namespace;
    let scan = Scan {
        protocol: context.session.protocol,
        form,
        slot: context.session.slot,
        namespace,
        direction,
        from,
        segment: 0,
        page: 0,
        page_base: 0,
        page_first: 0,
        candidates: Vec::new(),
        reads: Vec::new(),
        outstanding: 0,
        is_away: false,
        rests_on: 0,
        is_cut: false,
        is_at_end: false,
    };
    let waiter = context.add_task(TaskKind::Scan(Box::new(scan)));
    context.engine.begin_walk(waiter);
    // Requests behind a scan wait for it: it must not see what they do.
    Outcome::Later { bytes: SCAN_ENTRIES_MAX * 64, alone: true }
}

impl Scan {
    fn place_at_start(&mut self, engine: &Engine) {
        let segments = &engine.log.segments;
        match (self.direction, self.from) {
            (Direction::Forward, None) => {}
            (Direction::Forward, Some(from)) => {
                self.segment = segments.index_at(from);
                if let Some(segment) = segments.list().get(self.segment) {
                    self.page = segment.pages.partition_point(|page| page.header.end <= from);
                }
            }
            (Direction::Backward, from) => {
                let list = segments.list();
                let at = from.map_or(list.len(), |from| segments.index_at(from));
                self.segment = at.min(list.len().saturating_sub(1));
                // One more than the pages: what is in no page yet comes first.
                self.page = list.get(self.segment).map_or(0, |segment| segment.pages.len() + 1);
            }
        }
    }

    fn entries_max(&self) -> usize {
        match &self.form {
            Form::Keys { count, .. } => *count,
            Form::Entries | Form::Prefix { .. } => SCAN_ENTRIES_MAX,
        }
    }

    fn is_behind(&self, position: u64) -> bool {
        match (self.direction, self.from) {
            (_, None) => true,
            (Direction::Forward, Some(from)) => position > from,
            (Direction::Backward, Some(from)) => position < from,
        }
    }

    fn collect(&mut self, engine: &Engine, entries: impl Iterator<Item = LogEntry>) {
        let Some(namespace) = engine.namespaces.get(self.slot) else { return };
        let mut found: Vec<Candidate> = entries
            .filter(|entry| {
                entry.kind == Kind::Set
                    && entry.namespace == self.namespace
                    && self.is_behind(entry.position)
                    && engine.is_current(namespace, entry.key, entry.position)
            })
            .map(|entry| Candidate {
                place: Place::new(entry.position),
                at: entry.position,
                head: None,
            })
            .collect();
        if self.direction == Direction::Backward {
            found.reverse();
        }
        self.is_cut = found.len() > self.entries_max();
        found.truncate(self.entries_max());
        self.candidates = found;
    }

    /// Walks pages until one has something, or has to be read. `None`: to be read.
    fn find_candidates(&mut self, engine: &mut Engine, again: Waiter) -> Option<()> {
        loop {
            let list = engine.log.segments.list();
            let Some(segment) = list.get(self.segment) else { return Some(()) };
            let page = match self.direction {
                Direction::Forward => self.page,
                Direction::Backward if self.page == 0 => {
                    if self.segment == 0 {
                        return Some(());
                    }
                    self.segment -= 1;
                    self.page = list[self.segment].pages.len();
                    continue;
                }
                Direction::Backward => self.page - 1,
            };
            if page >= segment.pages.len() {
                let last = self.segment + 1 == list.len();
                if last {
                    let building = engine.log.segments.building();
                    let (first, body) = (building.first(), building.body());
                    self.collect(engine, sidecar::entries(first, body));
                    self.is_at_end = self.direction == Direction::Forward && !self.is_cut;
                }
                match self.direction {
                    Direction::Forward => {
                        self.segment += 1;
                        self.page = 0;
                    }
                    Direction::Backward => self.page = page,
                }
                if !self.candidates.is_empty() {
                    return Some(());
                }
                continue;
            }
            self.page = match self.direction {
                Direction::Forward => page + 1,
                Direction::Backward => page,
            };
            let one = &segment.pages[page];
            let outside = match (self.direction, self.from) {
                (_, None) => false,
                (Direction::Forward, Some(from)) => one.header.end <= from,
                (Direction::Backward, Some(from)) => one.header.first >= from,
            };
            if outside || one.header.namespaces & namespace_bit(self.namespace) == 0 {
                continue;
            }
            (self.page_base, self.page_first) = (segment.base, one.header.first);
            match one.in_memory() {
                Some(bytes) => {
                    self.collect(
                        engine,
                        sidecar::entries(self.page_first, &bytes[PAGE_HEADER_BYTES..]),
                    );
                    if !self.candidates.is_empty() {
                        return Some(());
                    }
                }
                None => {
                    let (base, offset, length) = (segment.base, one.offset, one.bytes);
                    engine.fetch_page(again, base, offset, length);
                    return None;
                }
            }
        }
    }

    /// In sequential mode the table is the order.
    fn find_ids(&mut self, engine: &Engine) {
        let Some(namespace) = engine.namespaces.get(self.slot) else { return };
        let Keys::Sequential(table) = &namespace.keys else { return };
        let mut from = self.from;
        while self.candidates.len() < self.entries_max() {
            let next = match self.direction {
                Direction::Forward => table.next_live(from),
                Direction::Backward => table.previous_live(from),
            };
            let Some((id, place)) = next else {
                self.is_at_end = true;
                return;
            };
            self.candidates.push(Candidate { place, at: id, head: None });
            from = Some(id);
        }
    }

    /// Takes the heads that are in memory and asks for the others. Returns how many reads that takes.
    fn fetch_heads(&mut self, engine: &mut Engine, again: Waiter) -> usize {
        let Waiter::Task { task, .. } = again else { unreachable!("scans are tasks") };
        let head_bytes = (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut total = 0;
        let mut kept = 0;
        for candidate in &mut self.candidates {
            let position = candidate.place.get();
            if let Some(record) = engine.peek(candidate.place) {
                candidate.head = Some((record.head, record.key().to_vec()));
                kept += 1;
                continue;
            }
            let same_segment = |start: u64| {
                let segments = &engine.log.segments;
                segments.of(start).map(|s| s.base) == segments.of(position).map(|s| s.base)
            };
            let before = ranges.last().copied().filter(|(start, end)| match self.direction {
                Direction::Forward => position >= *start && position < end + SCAN_GAP_BYTES,
                Direction::Backward => {
                    position < *end && position + head_bytes + SCAN_GAP_BYTES > *start
                }
            });
            match before.filter(|(start, _)| same_segment(*start)) {
                Some((start, end)) => {
                    let merged = (start.min(position), end.max(position + head_bytes));
                    total += (merged.1 - merged.0) - (end - start);
                    if total > SCAN_READ_BYTES_MAX {
                        break;
                    }
                    *ranges.last_mut().expect("there is a range to merge with") = merged;
                }
                None => {
                    total += BLOCK;
                    if ranges.len() == READS_MAX || (total > SCAN_READ_BYTES_MAX && kept > 0) {
                        break;
                    }
                    ranges.push((position, position + head_bytes));
                }
            }
            kept += 1;
        }
        self.is_at_end &= kept == self.candidates.len();
        self.candidates.truncate(kept);
        for (part, (start, end)) in ranges.iter().enumerate() {
            engine.fetch_range(Waiter::Task { task, part }, *start, end - head_bytes);
        }
        self.reads = ranges.iter().map(|_| None).collect();
        ranges.len()
    }

    /// Verifies the heads that were read and writes the reply, with the position that it rests on; or
    /// goes on, where there are not enough keys yet.
    fn finish(&mut self, engine: &mut Engine, out: &mut Output) -> Finish {
        self.verify_heads(engine);
        let last = self.candidates.last().map(|last| last.at).filter(|_| !self.is_at_end);
        let deleted_until =
            engine.namespaces.get(self.slot).map_or(0, |namespace| namespace.deleted_until);
        let rests_on = self
            .candidates
            .iter()
            .filter_map(|one| Some(one.place.get() + one.head.as_ref()?.0.bytes()))
            .max()
            .unwrap_or(deleted_until);
        self.rests_on = self.rests_on.max(rests_on);
        if let Form::Prefix { prefix, found, looked_at, .. } = &mut self.form {
            *looked_at += self.candidates.len();
            let keys = self.candidates.drain(..).filter_map(|one| Some(one.head?.1));
            found.extend(keys.filter(|key| key.starts_with(prefix)));
            let enough = found.len() >= PREFIX_KEYS_MAX || *looked_at >= PREFIX_ENTRIES_MAX;
            if last.is_some() && !enough {
                self.from = last;
                self.place_at_start(engine);
                return Finish::GoesOn;
            }
        }
        let seed = engine.log.seed;
        match &self.form {
            Form::Entries => self.write_entries(seed, out),
            Form::Keys { pattern, none, .. } => {
                let keys = self.candidates.iter().filter_map(|one| Some(&one.head.as_ref()?.1));
                let keys: Vec<&Vec<u8>> = keys
                    .filter(|key| {
                        let fits = pattern.as_ref().is_none_or(|pattern| matches(pattern, key));
                        fits && !none
                    })
                    .collect();
                write_keys(self.protocol, last, keys.into_iter(), out);
            }
            Form::Prefix { found, from_start: true, .. } if found.is_empty() => {
                out.writer(self.protocol).error("No keys match");
            }
            Form::Prefix { found, .. } => write_keys(self.protocol, last, found.iter(), out),
        }
        Finish::Done { rests_on: self.rests_on }
    }

    fn verify_heads(&mut self, engine: &mut Engine) {
        let seed = engine.log.seed;
        let mut bad = Vec::new();
        for candidate in &mut self.candidates {
            if candidate.head.is_some() {
                continue;
            }
            let position = candidate.place.get();
            // Ranges may overlap at their ends: the one that holds the whole head is looked for.
            candidate.head = self.reads.iter().flatten().find_map(|stretch| {
                let (head, key) = stretch.head(seed, position)?;
                Some((head, key.to_vec()))
            });
            if candidate.head.is_none() {
                bad.push(position);
            }
        }
        for position in bad {
            engine.report_bad_read(self.namespace, position, "has a damaged head");
        }
    }

    fn write_entries(&self, seed: u64, out: &mut Output) {
        let mut writer = out.writer(self.protocol);
        let Some(last) = self.candidates.last() else { return writer.error("No more data") };
        let cursor = Cursor { namespace: self.namespace, at: last.at };
        let whole = self.candidates.iter().filter(|candidate| candidate.head.is_some()).count();
        if whole == 0 {
            return writer.error("Internal Error");
        }
        writer.array(2);
        writer.bulk(&cursor.encode(seed));
        writer.array(whole);
        for (head, key) in self.candidates.iter().filter_map(|candidate| candidate.head.as_ref()) {
            writer.array(3);
            writer.bulk(key);
            writer.integer(head.payload_length.into());
            writer.integer(head.timestamp.into());
        }
    }
}

enum Finish {
    Done { rests_on: u64 },
    GoesOn,
}

/// The reply in Redis's form; without a last entry the scan is at its end.
fn write_keys<'k>(
    protocol: Protocol,
    last: Option<u64>,
    keys: impl ExactSizeIterator<Item = &'k Vec<u8>>,
    out: &mut Output,
) {
    let mut writer = out.writer(protocol);
    writer.array(2);
    writer.bulk(itoa::Buffer::new().format(last.map_or(0, |at| at + 1)).as_bytes());
    writer.array(keys.len());
    keys.for_each(|key| writer.bulk(key));
}

/// Takes an answer and goes on as far as it leads.
pub fn advance(
    engine: &mut Engine,
    scan: &mut Scan,
    part: usize,
    answer: Answer,
    again: Waiter,
    out: &mut Output,
) -> Step {
    let finished = Step::Finished { rests_on: 0 };
    let present =
        engine.namespaces.get(scan.slot).is_some_and(|namespace| namespace.id == scan.namespace);
    if !present {
        out.writer(scan.protocol).error(super::DETACHED);
        return finished;
    }
    match answer {
        Answer::Range(stretch) => {
            let is_away = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            scan.is_away |= stretch.as_ref().err().is_some_and(is_away);
            scan.reads[part] = stretch.ok();
            scan.outstanding -= 1;
            if scan.outstanding > 0 {
                return Step::Waiting;
            }
            if scan.is_away {
                // Without them the keys would look as if they were not there. The cursor stays good.
                out.writer(scan.protocol).error(AWAY);
                return finished;
            }
            if let Finish::Done { rests_on } = scan.finish(engine, out) {
                return Step::Finished { rests_on };
            }
        }
        // The scan begins; segments may have been replaced since it was asked for.
        Answer::Page(Ok(bytes)) if bytes.is_empty() => scan.place_at_start(engine),
        Answer::Page(Ok(bytes)) => {
            let segments = &engine.log.segments;
            let seed = segments.of(scan.page_base).map(|segment| segments.page_seed(segment));
            if seed.and_then(|seed| sidecar::read_page(&bytes, seed)).is_none() {
                return page_lost(engine, scan, out);
            }
            scan.collect(engine, sidecar::entries(scan.page_first, &bytes[PAGE_HEADER_BYTES..]));
        }
        Answer::Page(Err(_)) => return page_lost(engine, scan, out),
        Answer::Record(_) | Answer::Written(_) | Answer::Work(_) => {
            unreachable!("scans ask for pages and ranges")
        }
    }
    let sequential = engine
        .namespaces
        .get(scan.slot)
        .is_some_and(|namespace| matches!(namespace.keys, Keys::Sequential(_)));
    loop {
        if sequential {
            scan.find_ids(engine);
        } else if scan.candidates.is_empty() && scan.find_candidates(engine, again).is_none() {
            return Step::Waiting;
        }
        scan.outstanding = scan.fetch_heads(engine, again);
        if scan.outstanding > 0 {
            return Step::Waiting;
        }
        if let Finish::Done { rests_on } = scan.finish(engine, out) {
            return Step::Finished { rests_on };
        }
    }
}

fn page_lost(engine: &mut Engine, scan: &Scan, out: &mut Output) -> Step {
    engine.report_lost_page(scan.page_base);
    out.writer(scan.protocol).error("Internal Error");
    Step::Finished { rests_on: 0 }
}
