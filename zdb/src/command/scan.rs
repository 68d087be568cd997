//! SCAN, SCANX and RSCAN.
//!
//! A scan walks the sidecars (user mode) or the table of ids (sequential mode) for entries that are
//! current, then reads the heads of their records for keys, lengths and times; heads that lie near
//! each other share a read. One call returns a batch, at most what one page of a sidecar holds.

use super::keys::Cursor;
use super::task::{Step, Task, TaskKind};
use super::{Context, Outcome};
use crate::disk::aligned::AlignedBuffer;
use crate::engine::index::Place;
use crate::engine::log::format::{self, BLOCK, Head, Kind, RECORD_HEAD_BYTES};
use crate::engine::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES, namespace_bit};
use crate::engine::namespace::Keys;
use crate::engine::{Answer, Engine, Waiter};
use crate::limits::{KEY_BYTES_MAX, SCAN_ENTRIES_MAX, SCAN_GAP_BYTES, SCAN_READ_BYTES_MAX};
use crate::output::Output;
use crate::resp::{Protocol, Request};

/// Most reads of one call that are under way at once.
const READS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

pub struct Scan {
    protocol: Protocol,
    slot: usize,
    namespace: u32,
    direction: Direction,
    /// Entries must lie strictly behind this position or id, seen in the direction of the scan.
    from: Option<u64>,
    /// Segment and page that come next.
    segment: usize,
    page: usize,
    /// First position of the page that is being read.
    page_first: u64,
    candidates: Vec<Candidate>,
    reads: Vec<Option<Range>>,
    outstanding: usize,
}

struct Candidate {
    place: Place,
    /// Position or id for the cursor.
    at: u64,
    head: Option<(Head, Vec<u8>)>,
}

struct Range {
    start: u64,
    bytes: AlignedBuffer,
}

pub fn scan(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    begin(context, Direction::Forward, request, out)
}

pub fn reverse_scan(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    begin(context, Direction::Backward, request, out)
}

fn begin(
    context: &mut Context<'_>,
    direction: Direction,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    let namespace = context.session.namespace;
    let from = if request.len() > 1 {
        let Some(cursor) = Cursor::decode(request.get(1), namespace, context.engine.log.seed)
        else {
            return context.error(out, "Invalid key format");
        };
        Some(cursor.at)
    } else {
        None
    };
    let mut scan = Scan {
        protocol: context.session.protocol,
        slot: context.session.slot,
        namespace,
        direction,
        from,
        segment: 0,
        page: 0,
        page_first: 0,
        candidates: Vec::new(),
        reads: Vec::new(),
        outstanding: 0,
    };
    scan.place_at_start(context.engine);
    let task = Task {
        client: context.client,
        protocol: scan.protocol,
        slot: scan.slot,
        namespace,
        kind: TaskKind::Scan(Box::new(scan)),
    };
    let waiter = context.tasks.add(task);
    // The task begins with an answer to a question that was not asked: nothing was read yet.
    context.engine.answers.push((waiter, Answer::Page(Ok(Vec::new()))));
    Outcome::Later { bytes: SCAN_ENTRIES_MAX * 64 }
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
        found.truncate(SCAN_ENTRIES_MAX);
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
            self.page_first = one.header.first;
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
        while self.candidates.len() < SCAN_ENTRIES_MAX {
            let next = match self.direction {
                Direction::Forward => table.next_live(from),
                Direction::Backward => table.previous_live(from),
            };
            let Some((id, place)) = next else { return };
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
        self.candidates.truncate(kept);
        for (part, (start, end)) in ranges.iter().enumerate() {
            engine.fetch_range(Waiter::Task { task, part }, *start, *end);
        }
        self.reads = ranges.iter().map(|_| None).collect();
        ranges.len()
    }

    /// Verifies the heads that were read and writes the reply.
    /// Returns the position that it rests on.
    fn finish(&mut self, engine: &mut Engine, out: &mut Output) -> u64 {
        let seed = engine.log.seed;
        let mut bad = Vec::new();
        for candidate in &mut self.candidates {
            if candidate.head.is_some() {
                continue;
            }
            let position = candidate.place.get();
            // Ranges may overlap at their ends: the one that holds the whole head is looked for.
            candidate.head = self.reads.iter().flatten().find_map(|range| {
                let bytes = range.bytes.get(position.checked_sub(range.start)? as usize..)?;
                let head = format::decode_head(bytes, seed, position)?;
                Some((head, bytes[RECORD_HEAD_BYTES..head.payload_offset()].to_vec()))
            });
            if candidate.head.is_none() {
                bad.push(position);
            }
        }
        for position in bad {
            engine.report_bad_read(self.namespace, position, "has a damaged head");
        }
        let mut writer = out.writer(self.protocol);
        let Some(last) = self.candidates.last() else {
            writer.error("No more data");
            return engine.namespaces.get(self.slot).map_or(0, |namespace| namespace.deleted_until);
        };
        let cursor = Cursor { namespace: self.namespace, at: last.at };
        let whole = self.candidates.iter().filter(|candidate| candidate.head.is_some()).count();
        if whole == 0 {
            writer.error("Internal Error");
            return 0;
        }
        let mut rests_on = 0;
        for candidate in &self.candidates {
            if let Some((head, _)) = &candidate.head {
                rests_on = rests_on.max(candidate.place.get() + head.bytes());
            }
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
        rests_on
    }
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
        Answer::Range { start, bytes } => {
            if let Ok(bytes) = bytes {
                scan.reads[part] = Some(Range { start, bytes });
            }
            scan.outstanding -= 1;
            if scan.outstanding > 0 {
                return Step::Waiting;
            }
            return Step::Finished { rests_on: scan.finish(engine, out) };
        }
        Answer::Page(Ok(bytes)) if bytes.is_empty() => {}
        Answer::Page(Ok(bytes)) => {
            let base = engine.log.segments.of(scan.page_first).map_or(0, |segment| segment.base);
            let seed = engine.log.segments.page_seed(base);
            if sidecar::read_page(&bytes, seed).is_none() {
                return page_lost(engine, scan, base, out);
            }
            scan.collect(engine, sidecar::entries(scan.page_first, &bytes[PAGE_HEADER_BYTES..]));
        }
        Answer::Page(Err(_)) => {
            let base = engine.log.segments.of(scan.page_first).map_or(0, |segment| segment.base);
            return page_lost(engine, scan, base, out);
        }
        Answer::Record(_) | Answer::Written(_) => unreachable!("scans ask for pages and ranges"),
    }
    let sequential = engine
        .namespaces
        .get(scan.slot)
        .is_some_and(|namespace| matches!(namespace.keys, Keys::Sequential(_)));
    if sequential {
        scan.find_ids(engine);
    } else if scan.candidates.is_empty() && scan.find_candidates(engine, again).is_none() {
        return Step::Waiting;
    }
    scan.outstanding = scan.fetch_heads(engine, again);
    if scan.outstanding > 0 {
        return Step::Waiting;
    }
    Step::Finished { rests_on: scan.finish(engine, out) }
}

fn page_lost(engine: &mut Engine, scan: &Scan, base: u64, out: &mut Output) -> Step {
    engine.stats.index_read_errors += 1;
    engine.log.notices.push(format!(
        "sidecar {} cannot be read: delete it and restart zdb, which makes it anew",
        format::sidecar_name(base)
    ));
    out.writer(scan.protocol).error("Internal Error");
    Step::Finished { rests_on: 0 }
}
