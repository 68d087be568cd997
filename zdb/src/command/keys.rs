//! Commands that read one key: GET, MGET, EXISTS, CHECK, LENGTH, KEYTIME, KEYCUR, HISTORY, and Redis's
//! GETRANGE, STRLEN, TYPE, TTL, MEMORY USAGE, OBJECT ENCODING, RANDOMKEY.
//!
//! A record in memory is answered at once. Otherwise a task reads it: the place was taken from the
//! index when the request was run, and the log never changes, so the answer is that of this moment
//! whatever is written meanwhile.

use super::number::is_number;
use super::task::{Task, TaskKind};
use super::{Context, Outcome};
use crate::engine::index::Place;
use crate::engine::log::format::{self, FLAG_UNVERIFIED, Kind, Verified};
use crate::engine::namespace::{Keys, Namespace};
use crate::engine::{Engine, Fetched, ReadFailure, sequential_id};
use crate::limits::{KEY_BYTES_MAX, SHARE_BYTES_MIN, UNKNOWN_REPLY_BYTES};
use crate::output::Output;
use crate::resp::{Protocol, Request};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a key takes in the index.
const INDEX_ENTRY_BYTES: i64 = 16;

/// What a client wants to know of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Exists,
    Check,
    Length,
    KeyTime,
    KeyCursor,
    /// From the first byte to the last, counted from the end where negative.
    Range(i64, i64),
    StringLength,
    Type,
    TimeToLive,
    MemoryUsage,
    Encoding,
    /// The key itself.
    Name,
}

pub fn get(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::Get, request.get(1), out)
}

pub fn exists(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::Exists, request.get(1), out)
}

pub fn check(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::Check, request.get(1), out)
}

pub fn length(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::Length, request.get(1), out)
}

pub fn keytime(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::KeyTime, request.get(1), out)
}

pub fn keycur(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    if request.get(1).len() > KEY_BYTES_MAX {
        return context.error(out, "Key not found");
    }
    read(context, Verb::KeyCursor, request.get(1), out)
}

pub fn string_length(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::StringLength, request.get(1), out)
}

pub fn kind(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::Type, request.get(1), out)
}

pub fn time_to_live(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    read(context, Verb::TimeToLive, request.get(1), out)
}

pub fn range(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let bound = |at: usize| std::str::from_utf8(request.get(at)).ok()?.parse::<i64>().ok();
    let (Some(first), Some(last)) = (bound(2), bound(3)) else {
        return context.error(out, "value is not an integer or out of range");
    };
    read(context, Verb::Range(first, last), request.get(1), out)
}

pub fn memory(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !request.get(1).eq_ignore_ascii_case(b"USAGE") {
        let text = "Command not supported (MEMORY has USAGE; INFO tells about the server's memory)";
        return context.error(out, text);
    }
    // SAMPLES is about nested values, which there are none of.
    let samples = request.len() == 5 && request.get(3).eq_ignore_ascii_case(b"SAMPLES");
    if request.len() != 3 && !(samples && is_number(request.get(4))) {
        return context.error(out, "Unexpected arguments");
    }
    // The hash that the hub has is that of the second word.
    context.hash = None;
    read(context, Verb::MemoryUsage, request.get(2), out)
}

pub fn object(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !request.get(1).eq_ignore_ascii_case(b"ENCODING") {
        let text = "Command not supported (OBJECT has ENCODING: keys are not counted or aged)";
        return context.error(out, text);
    }
    if request.len() != 3 {
        return context.error(out, "Unexpected arguments");
    }
    context.hash = None;
    read(context, Verb::Encoding, request.get(2), out)
}

pub fn random_key(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    let mut draw = [0; 8];
    (context.server.random)(&mut draw);
    let draw = u64::from_le_bytes(draw);
    let Some(place) = context.engine.any_place(context.namespace(), draw) else {
        missing(Verb::Name, context.session.protocol, out);
        return context.done_at(context.namespace().deleted_until);
    };
    if let Some(record) = context.engine.peek(place) {
        let end = place.get() + record.head.bytes();
        context.writer(out).bulk(record.key());
        return context.done_at(end);
    }
    let kind = TaskKind::Read { verb: Verb::Name, key: Box::default(), is_dead: false, head: None };
    fetch_for(context, kind, place, 0, true)
}

pub fn multi_get(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() < 2 {
        return context.error(out, "Invalid arguments");
    }
    if request.iter().skip(1).any(|key| key.len() > KEY_BYTES_MAX) {
        return context.error(out, "Invalid key");
    }
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    let count = request.len() - 1;
    context.writer(out).array(count);
    Outcome::Parts(count)
}

/// One element of MGET's array. The namespace may be gone since the command began.
pub fn multi_get_part(context: &mut Context<'_>, key: &[u8], out: &mut Output) -> Outcome {
    if !context.attach() {
        return context.error(out, super::DETACHED);
    }
    answer(context, Verb::Get, key, out)
}

fn read(context: &mut Context<'_>, verb: Verb, key: &[u8], out: &mut Output) -> Outcome {
    if key.len() > KEY_BYTES_MAX {
        return context.error(out, "Invalid key");
    }
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    answer(context, verb, key, out)
}

/// Where the newest record of a key, or of another with its hash, lies.
struct Located {
    place: Place,
    /// About how long it is.
    bytes: u64,
    /// It is a tombstone.
    is_dead: bool,
}

fn locate(context: &Context<'_>, key: &[u8]) -> Option<Located> {
    let namespace = context.namespace();
    match &namespace.keys {
        Keys::User(_) => {
            let entry = context.engine.find(namespace, context.key_hash(key))?;
            let is_dead = entry.is_dead();
            let payload = if is_dead { 0 } else { entry.length as usize };
            let bytes = format::record_bytes(key.len(), payload);
            Some(Located { place: entry.place, bytes, is_dead })
        }
        Keys::Sequential(table) => {
            let place = table.get(sequential_id(key)?)?;
            let bytes = format::record_bytes(key.len(), namespace.typical_payload_bytes());
            Some(Located { place, bytes, is_dead: false })
        }
    }
}

fn answer(context: &mut Context<'_>, verb: Verb, key: &[u8], out: &mut Output) -> Outcome {
    let Some(Located { place, bytes, is_dead }) = locate(context, key) else {
        missing(verb, context.session.protocol, out);
        return context.done_at(context.namespace().deleted_until);
    };
    // CHECK wants to know about the disk, unless the record is not there yet.
    let buffered = place.get() >= context.engine.log.buffered_from();
    let large = bytes as usize >= SHARE_BYTES_MIN;
    if verb == Verb::Get && buffered && large {
        context.engine.share_buffered(place);
    }
    if (verb != Verb::Check || buffered)
        && let Some(record) = context.engine.peek(place)
        && record.key() == key
    {
        let end = place.get() + record.head.bytes();
        let id = id_of(context.namespace(), key);
        // A shared copy of a buffered record is found by its place as well as one that was read.
        let shared = if buffered && !large { None } else { context.engine.cached(place) };
        let cached = shared.map(|bytes| Verified::trusted(bytes));
        let record = cached.as_ref().unwrap_or(&record);
        let found = Found { place, record, id, seed: context.engine.log.seed };
        found.render(verb, context.session.protocol, context.session.namespace, shared, out);
        return context.done_at(end);
    }
    let kind = TaskKind::Read { verb, key: key.into(), is_dead, head: Some(place) };
    fetch_for(context, kind, place, bytes, verb != Verb::Check)
}

fn fetch_for(
    context: &mut Context<'_>,
    kind: TaskKind,
    place: Place,
    bytes: u64,
    keep: bool,
) -> Outcome {
    let waiter = context.add_task(kind);
    if place.get() >= context.engine.log.buffered_from() {
        // In memory, but of another key with the same hash: the task walks on from it.
        super::task::fetch(context.engine, waiter, Some(context.session.namespace), place, bytes);
    } else {
        context.engine.fetch(waiter, Some(context.session.namespace), place, bytes, keep);
    }
    // In sequential mode the length is a guess.
    let known = matches!(context.namespace().keys, Keys::User(_));
    let bytes = (bytes as usize).max(if known { 0 } else { UNKNOWN_REPLY_BYTES });
    Outcome::Later { bytes, alone: false }
}

fn missing(verb: Verb, protocol: Protocol, out: &mut Output) {
    let mut writer = out.writer(protocol);
    match verb {
        Verb::Exists | Verb::StringLength => writer.integer(0),
        Verb::KeyCursor => writer.error("Key not found"),
        Verb::Range(..) => writer.bulk(b""),
        Verb::Type => writer.simple("none"),
        Verb::TimeToLive => writer.integer(-2),
        Verb::Get
        | Verb::Check
        | Verb::Length
        | Verb::KeyTime
        | Verb::MemoryUsage
        | Verb::Encoding
        | Verb::Name => writer.nil(),
    }
}

struct Found<'a> {
    place: Place,
    record: &'a Verified<'a>,
    /// The id, in sequential mode.
    id: Option<u64>,
    seed: u64,
}

impl Found<'_> {
    fn render(
        &self,
        verb: Verb,
        protocol: Protocol,
        namespace: u32,
        owner: Option<&Bytes>,
        out: &mut Output,
    ) {
        let head = &self.record.head;
        match (verb, head.kind) {
            (_, Kind::Delete) => missing(verb, protocol, out),
            (Verb::Get, _) => out.bulk(protocol, self.record.payload(), owner),
            (Verb::Exists | Verb::Check, _) => out.writer(protocol).integer(1),
            (Verb::Range(first, last), _) => {
                let payload = self.record.payload();
                out.bulk(protocol, &payload[within(first, last, payload.len())], owner);
            }
            (Verb::Type, _) => out.writer(protocol).simple("string"),
            (Verb::TimeToLive, _) => out.writer(protocol).integer(-1),
            (Verb::Encoding, _) => out.writer(protocol).bulk(b"raw"),
            (Verb::Name, _) => out.writer(protocol).bulk(self.record.key()),
            (Verb::MemoryUsage, _) => {
                let bytes = head.bytes() as i64 + INDEX_ENTRY_BYTES;
                out.writer(protocol).integer(bytes);
            }
            (Verb::Length | Verb::StringLength, _) => {
                out.writer(protocol).integer(head.payload_length.into())
            }
            (Verb::KeyTime, _) => out.writer(protocol).integer(head.timestamp.into()),
            (Verb::KeyCursor, _) => {
                // In sequential mode an id keeps its place in a scan, so the cursor holds the id.
                let at = self.id.unwrap_or(self.place.get());
                out.writer(protocol).bulk(&Cursor { namespace, at }.encode(self.seed));
            }
        }
    }
}

/// The bytes that GETRANGE means, as Redis counts: the last one is included.
fn within(first: i64, last: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let from_start = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    if first < 0 && last < 0 && first > last {
        return 0..0;
    }
    let first = from_start(first).max(0);
    let last = from_start(last).max(0).min(length - 1);
    if first > last || length == 0 { 0..0 } else { first as usize..last as usize + 1 }
}

/// The id in a key of a sequential namespace.
fn id_of(namespace: &Namespace, key: &[u8]) -> Option<u64> {
    match namespace.keys {
        Keys::User(_) => None,
        Keys::Sequential(_) => sequential_id(key),
    }
}

/// Where a scan goes on: after a position of the log or, in sequential mode, after an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub namespace: u32,
    pub at: u64,
}

impl Cursor {
    pub const BYTES: usize = 17;
    const VERSION: u8 = 1;

    /// 8 bytes position or id, 8 bytes checksum over it and the namespace, 1 byte version.
    pub fn encode(&self, seed: u64) -> [u8; Self::BYTES] {
        let mut bytes = [Self::VERSION; Self::BYTES];
        bytes[..8].copy_from_slice(&self.at.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.check(seed).to_le_bytes());
        bytes
    }

    /// The cursor that this server once gave out for this namespace.
    pub fn decode(bytes: &[u8], namespace: u32, seed: u64) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (at, rest) = bytes.split_first_chunk::<8>()?;
        let cursor = Self { namespace, at: u64::from_le_bytes(*at) };
        (rest[..8] == cursor.check(seed).to_le_bytes() && rest[8] == Self::VERSION)
            .then_some(cursor)
    }

    fn check(&self, seed: u64) -> u64 {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.at.to_le_bytes());
        bytes[8..].copy_from_slice(&self.namespace.to_le_bytes());
        xxh3_64_with_seed(&bytes, !seed)
    }
}

/// What to do after a record was read for a task.
pub enum Next {
    Finished {
        rests_on: u64,
    },
    /// The record belongs to another key with the same hash; ours may be below.
    Read(Place),
}

/// Answers a reading task with the record that it waited for. `is_dead`: the newest record of the key's hash
/// was a tombstone.
pub fn resume(
    engine: &Engine,
    task: &Task,
    (verb, is_dead): (Verb, bool),
    key: &[u8],
    fetched: &Fetched,
    out: &mut Output,
) -> Next {
    let protocol = task.protocol;
    let seed = engine.log.seed;
    let id = engine.namespaces.get(task.slot).and_then(|namespace| id_of(namespace, key));
    let finished = Next::Finished { rests_on: 0 };
    let (bytes, is_whole) = match &fetched.record {
        Ok(bytes) => (bytes, true),
        // Its head and its key are whole.
        Err(ReadFailure::Damaged(Some(bytes))) => (bytes, false),
        // Below a version that the cleaner dropped there is none of another key.
        Err(ReadFailure::Gone) => {
            missing(verb, protocol, out);
            return finished;
        }
        Err(
            failure @ (ReadFailure::Damaged(None) | ReadFailure::Unreadable | ReadFailure::Away),
        ) => {
            match verb {
                // Going by the hash. A tombstone may be that of another key with it, and ours below.
                Verb::Exists if !is_dead => out.writer(protocol).integer(1),
                _ if matches!(failure, ReadFailure::Away) => {
                    out.writer(protocol).error(super::AWAY)
                }
                Verb::Check => out.writer(protocol).integer(-1),
                _ => out.writer(protocol).error("Internal Error"),
            }
            return finished;
        }
    };
    let record = Verified::trusted(bytes);
    if record.key() != key && verb != Verb::Name {
        if record.head.flags & FLAG_UNVERIFIED != 0 && !record.head.previous.is_none() {
            return Next::Read(record.head.previous);
        }
        missing(verb, protocol, out);
        return finished;
    }
    match verb {
        Verb::Check if !is_whole => out.writer(protocol).integer(0),
        Verb::Get | Verb::Range(..) if !is_whole => out.writer(protocol).error("Internal Error"),
        _ => Found { place: fetched.place, record: &record, id, seed }.render(
            verb,
            protocol,
            task.namespace,
            Some(bytes),
            out,
        ),
    }
    if !is_whole {
        return finished;
    }
    Next::Finished { rests_on: fetched.place.get() + record.head.bytes() }
}

// -------------------------------------------------------------------- HISTORY

pub fn history(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !(2..=3).contains(&request.len()) {
        return context.error(out, "Invalid arguments");
    }
    if let Some(refused) = context.refuse_frozen(out) {
        return refused;
    }
    let key = request.get(1);
    if request.len() == 2 {
        let found = if key.len() <= KEY_BYTES_MAX { locate(context, key) } else { None };
        let Some(Located { place, bytes, .. }) = found else {
            return context.error(out, "Key not found");
        };
        let kind =
            TaskKind::History { key: key.into(), head: Some(place), token: None, version: None };
        return start_history(context, kind, place, bytes, true);
    }
    let Ok(token) = <[u8; 8]>::try_from(request.get(2)) else {
        return context.error(out, "Invalid arguments");
    };
    let position = u64::from_le_bytes(token);
    if position == 0 {
        return context.error(out, "No more history");
    }
    if !Place::is_valid(position) || context.engine.log.segments.of(position).is_none() {
        return context.error(out, "Invalid arguments (index query)");
    }
    let place = Place::new(position);
    let bytes = format::record_bytes(key.len(), context.namespace().typical_payload_bytes());
    let kind = TaskKind::History { key: key.into(), head: None, token: Some(place), version: None };
    start_history(context, kind, place, bytes, false)
}

/// History is rare and needs up to two records, so it always runs as a task, also from memory.
fn start_history(
    context: &mut Context<'_>,
    kind: TaskKind,
    place: Place,
    bytes: u64,
    trusted: bool,
) -> Outcome {
    let blame = trusted.then_some(context.session.namespace);
    let waiter = context.add_task(kind);
    super::task::fetch(context.engine, waiter, blame, place, bytes);
    Outcome::Later { bytes: (bytes as usize).max(UNKNOWN_REPLY_BYTES), alone: false }
}
