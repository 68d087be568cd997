//! DATA RAW: the record at a place in a segment, as whoever copies the log asks for it.
//!
//! The sidecar's entries tell where a record of the namespace begins, at the offset or behind padding and
//! records of others, and where the one before it is; then the record itself is read and verified. What a
//! client names is never taken for a place in the log before it was found in a page. A follower thus
//! never stops: it asks for the position that NSINFO told, or for offset and size of the record before.

use super::number::atoll;
use super::task::{self, Step, TaskKind};
use super::{AWAY, Context, Outcome, files};
use crate::crc32c::crc32c;
use crate::engine::index::Place;
use crate::engine::log::format::{self, Kind, Verified};
use crate::engine::log::segments::Segment;
use crate::engine::log::sidecar::{self, Entries, LogEntry, PAGE_HEADER_BYTES, namespace_bit};
use crate::engine::{Answer, Engine, Fetched, ReadFailure, Waiter};
use crate::limits::UNKNOWN_REPLY_BYTES;
use crate::output::Output;
use crate::resp::{Protocol, Request};

const END_OF_FILE: &str = "EOF";
const NO_SEGMENT: &str = "Invalid Request";
const NO_RECORD: &str = "Unexpected Internal Error";
/// 0-db's flag of a deleted key; its flag 2, truncated by a compaction, is never set.
const FLAG_DELETED: i64 = 1;

pub struct Raw {
    protocol: Protocol,
    namespace: u32,
    /// Index of the segment in the list.
    segment: usize,
    position: u64,
    /// The page that is looked at; one behind the last is what is in no page yet.
    page: usize,
    /// The record at the position, once its entry was found.
    record: Option<LogEntry>,
    /// Position of the record before it; 0 for none.
    previous: u64,
}

pub fn data(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if let Some(text) = files::refuse_words(request) {
        return context.error(out, text);
    }
    if !request.get(1).eq_ignore_ascii_case(b"RAW") {
        return context.error(out, "Unknown DATA subcommand");
    }
    if request.len() < 4 {
        return context.error(out, "Missing arguments");
    }
    let position = match find_segment(context.engine, atoll(request.get(2)), atoll(request.get(3)))
    {
        Ok(found) => found,
        Err(text) => return context.error(out, text),
    };
    let raw = Raw {
        protocol: context.session.protocol,
        namespace: context.session.namespace,
        segment: 0,
        position,
        page: 0,
        record: None,
        previous: 0,
    };
    let waiter = context.add_task(TaskKind::Raw(Box::new(raw)));
    context.engine.begin_walk(waiter);
    Outcome::Later { bytes: UNKNOWN_REPLY_BYTES, alone: false }
}

/// The position at an offset in the segment with a number.
fn find_segment(engine: &Engine, number: u64, offset: u64) -> Result<u64, &'static str> {
    let current = engine.log.current();
    let Some(index) = engine.log.segments.index_of(number) else {
        // The first segment is made with the first record; others are a part of one that the cleaner wrote,
        // which has all that is left of them.
        return Err(if number <= current.number { END_OF_FILE } else { NO_SEGMENT });
    };
    let segment = &engine.log.segments.list()[index];
    let is_current = number == current.number;
    let end = if is_current { current.offset } else { segment.end() - segment.base };
    if offset >= end {
        return Err(END_OF_FILE);
    }
    Ok(segment.base + offset)
}

/// Takes an answer and goes on as far as it leads.
pub fn advance(
    engine: &mut Engine,
    raw: &mut Raw,
    answer: Answer,
    again: Waiter,
    out: &mut Output,
) -> Step {
    match answer {
        Answer::Record(fetched) => return show(engine, raw, &fetched, out),
        // It begins; segments may have been replaced since it was asked for.
        Answer::Page(Ok(bytes)) if bytes.is_empty() => raw.place_at_start(engine),
        Answer::Page(page) => {
            let segment = &engine.log.segments.list()[raw.segment];
            let (base, first) = (segment.base, segment.pages[raw.page].header.first);
            let seed = engine.log.segments.page_seed(segment);
            match page {
                Ok(bytes) if sidecar::read_page(&bytes, seed).is_some() => {
                    let entries = sidecar::entries(first, &bytes[PAGE_HEADER_BYTES..]);
                    if let Err(text) = raw.look(engine, entries) {
                        return finish(raw, text, out);
                    }
                }
                _ => {
                    engine.report_lost_page(base);
                    return finish(raw, "Internal Error", out);
                }
            }
        }
        Answer::Range(_) | Answer::Written(_) | Answer::Work(_) => {
            unreachable!("raw reads ask for pages and records")
        }
    }
    loop {
        if let Some(record) = raw.record
            && (raw.previous != 0 || !raw.step_back(engine))
        {
            let bytes =
                format::record_bytes(record.key_length.into(), record.payload_length as usize);
            let place = Place::new(raw.position);
            task::fetch(engine, again, Some(raw.namespace), place, bytes);
            return Step::Waiting;
        }
        let segment = &engine.log.segments.list()[raw.segment];
        if raw.page > segment.pages.len() {
            return finish(raw, END_OF_FILE, out);
        }
        let looked = match segment.pages.get(raw.page) {
            None => {
                let building = engine.log.segments.building();
                raw.look(engine, sidecar::entries(building.first(), building.body()))
            }
            Some(page) => match page.in_memory() {
                Some(bytes) => {
                    let bytes = &bytes[PAGE_HEADER_BYTES..];
                    raw.look(engine, sidecar::entries(page.header.first, bytes))
                }
                None => {
                    let (base, offset, length) = (segment.base, page.offset, page.bytes);
                    engine.fetch_page(again, base, offset, length);
                    return Step::Waiting;
                }
            },
        };
        if let Err(text) = looked {
            return finish(raw, text, out);
        }
    }
}

impl Raw {
    fn place_at_start(&mut self, engine: &Engine) {
        let segments = &engine.log.segments;
        self.segment = segments.index_at(self.position);
        let pages = &segments.list()[self.segment].pages;
        self.page = pages.partition_point(|page| page.header.end <= self.position);
    }

    /// Looks through the entries of a page: for the record first, then for the one before it. Goes to
    /// the next page where the record is not in this one.
    fn look(&mut self, engine: &Engine, entries: Entries<'_>) -> Result<(), &'static str> {
        let mut previous = 0;
        for entry in entries {
            let ours =
                entry.namespace == self.namespace && matches!(entry.kind, Kind::Set | Kind::Delete);
            let end = entry.position
                + format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
            if self.record.is_none() && entry.position >= self.position && ours {
                self.record = Some(entry);
                self.position = entry.position;
                break;
            }
            if self.record.is_none() && entry.position < self.position && end > self.position {
                return Err(NO_RECORD);
            }
            if ours {
                previous = entry.position;
            }
        }
        if self.record.is_some() {
            self.previous = previous;
            return Ok(());
        }
        // What is in no page yet belongs to the last segment.
        let segment = &engine.log.segments.list()[self.segment];
        let is_behind = self.page + 1 >= segment.pages.len() && !self.has_unpaged(engine);
        self.page = if is_behind { segment.pages.len() + 1 } else { self.page + 1 };
        Ok(())
    }

    /// Whether the segment has records that are in no page yet.
    fn has_unpaged(&self, engine: &Engine) -> bool {
        self.segment + 1 == engine.log.segments.list().len()
            && !engine.log.segments.building().is_empty()
    }

    /// Goes to the page before that may hold a record of the namespace. False: there is none.
    fn step_back(&mut self, engine: &Engine) -> bool {
        let segment: &Segment = &engine.log.segments.list()[self.segment];
        let bit = namespace_bit(self.namespace);
        let before = &segment.pages[..self.page];
        let found = before.iter().rposition(|page| page.header.namespaces & bit != 0);
        self.page = found.unwrap_or(self.page);
        found.is_some()
    }
}

fn finish(raw: &Raw, text: &str, out: &mut Output) -> Step {
    out.writer(raw.protocol).error(text);
    Step::Finished { rests_on: 0 }
}

fn show(engine: &Engine, raw: &Raw, fetched: &Fetched, out: &mut Output) -> Step {
    let bytes = match &fetched.record {
        Ok(bytes) => bytes,
        Err(ReadFailure::Away) => return finish(raw, AWAY, out),
        Err(_) => return finish(raw, NO_RECORD, out),
    };
    let record = Verified::trusted(bytes);
    let base = engine.log.segments.list()[raw.segment].base;
    let deleted = record.head.kind == Kind::Delete;
    let mut writer = out.writer(raw.protocol);
    writer.array(6);
    writer.bulk(record.key());
    writer.integer(raw.previous.saturating_sub(base) as i64);
    writer.bulk(format!("0x{:08x}", crc32c(record.payload())).as_bytes());
    writer.integer(if deleted { FLAG_DELETED } else { 0 });
    writer.integer(record.head.timestamp.into());
    if deleted {
        writer.nil();
    } else {
        out.bulk(raw.protocol, record.payload(), Some(bytes));
    }
    Step::Finished { rests_on: raw.position + record.head.bytes() }
}
