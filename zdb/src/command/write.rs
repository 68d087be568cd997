//! SET, DEL and UNLINK.

use super::number::{atoll, is_number};
use super::{AWAY, Context, Outcome};
use crate::engine::index::{Entry, Place};
use crate::engine::log::Refusal;
use crate::engine::log::format::{self, FLAG_UNVERIFIED, Kind, Verified};
use crate::engine::namespace::Keys;
use crate::engine::{Fetched, Predecessor, ReadFailure, Waiter, sequential_id};
use crate::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::output::Output;
use crate::resp::Request;

pub const NO_SPACE: &str = "No space left on this namespace";
pub const WORM: &str = "Namespace is protected by worm mode";
const CANNOT_DELETE: &str = "Cannot delete key (data)";
const WORM_DELETE: &str = "Cannot delete a key when namespace is in worm mode";

pub fn set(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    match request.len() {
        3 => set_at(context, request, None, out),
        0..3 => context.error(out, "Unexpected arguments"),
        _ => super::condition::set(context, request, out),
    }
}

/// SET without options, at the time given or now.
pub fn set_at(
    context: &mut Context<'_>,
    request: Request<'_>,
    timestamp: Option<u32>,
    out: &mut Output,
) -> Outcome {
    let (key, payload) = (request.get(1), request.get(2));
    if key.len() > KEY_BYTES_MAX {
        return context.error(out, "Key too large");
    }
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    let timestamp = timestamp.unwrap_or(context.engine.now.unix_s() as u32);
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
    let payload_check = format::payload_check(context.engine.log.seed, payload);
    let value = Value { payload, payload_check, timestamp };
    match &context.namespace().keys {
        Keys::User(_) => set_user(context, key, value, out),
        Keys::Sequential(_) => set_sequential(context, key, value, out),
    }
}

struct Value<'a> {
    payload: &'a [u8],
    payload_check: u64,
    timestamp: u32,
}

/// What memory or a read says about the newest record of a hash or an id.
enum Newest {
    /// It is ours: its payload's identity with the new one, and whether all below is ours too.
    Ours { same: bool, verified: bool, length: u32, live: bool },
    /// It belongs to another key with the same hash.
    Foreign,
    /// It cannot be read; the write goes ahead without it.
    Lost,
}

fn judge(record: &Verified<'_>, key: &[u8], value: Option<&Value<'_>>) -> Newest {
    if record.key() != key {
        return Newest::Foreign;
    }
    let same = value.is_some_and(|value| {
        record.head.payload_check == value.payload_check && record.payload() == value.payload
    });
    Newest::Ours {
        same,
        verified: record.head.flags & FLAG_UNVERIFIED == 0,
        length: record.head.payload_length,
        live: record.head.kind == Kind::Set,
    }
}

/// Looks at the record at `place` in memory or as it was just read. `None`: it has to be read.
fn look(
    context: &Context<'_>,
    place: Place,
    key: &[u8],
    value: Option<&Value<'_>>,
) -> Option<Newest> {
    if let Some(record) = context.engine.peek(place) {
        return Some(judge(&record, key, value));
    }
    let Fetched { record, .. } = context.fetched.iter().find(|fetched| fetched.place == place)?;
    Some(match record {
        Ok(bytes) => judge(&Verified::trusted(bytes), key, value),
        Err(_) => Newest::Lost,
    })
}

/// Whether a record was asked for that is in a segment which is away.
pub fn is_away(context: &Context<'_>, place: Place) -> bool {
    let fetched = context.fetched.iter().find(|fetched| fetched.place == place);
    fetched.is_some_and(|fetched| matches!(fetched.record, Err(ReadFailure::Away)))
}

/// Asks for a record; the request is run again with it.
pub fn read_first(context: &mut Context<'_>, place: Place, bytes: u64) -> Outcome {
    let namespace = context.session.namespace;
    let waiter = Waiter::Connection(context.client.connection);
    context.engine.fetch(waiter, Some(namespace), place, bytes, true);
    Outcome::NeedsRecord
}

fn set_user(context: &mut Context<'_>, key: &[u8], value: Value<'_>, out: &mut Output) -> Outcome {
    if key.is_empty() {
        let fits = fits(context, value.payload.len(), None);
        return context.error(out, if fits { "Invalid argument, key needed" } else { NO_SPACE });
    }
    let hash = context.key_hash(key);
    let Some(entry) = context.engine.find(context.namespace(), hash) else {
        return append(context, key, value, None, out);
    };
    let worm = context.namespace().settings.worm;
    let newest = match look(context, entry.place, key, Some(&value)) {
        Some(newest) => newest,
        None if worm || entry.is_dead() || could_be_same(&entry, &value) => {
            let payload = if entry.is_dead() { 0 } else { entry.length as usize };
            return read_first(context, entry.place, format::record_bytes(key.len(), payload));
        }
        // In nearly all cases a different value: no read. The key is taken for ours by its hash, and
        // the record says so; see `keys::resolve` for what happens where it is not.
        None => Newest::Lost,
    };
    let predecessor = match newest {
        Newest::Ours { live: true, .. } if worm => return context.error(out, WORM),
        Newest::Ours { same, verified, length, live } => {
            let replaced = live.then_some(length);
            if !fits(context, value.payload.len(), replaced) {
                return context.error(out, NO_SPACE);
            }
            if same && live {
                context.writer(out).nil();
                return context.done_at(entry.place.get() + 1);
            }
            // A tombstone ends the history of its key.
            Predecessor { place: entry.place, verified: verified && live, replaced }
        }
        Newest::Foreign => Predecessor { place: entry.place, verified: false, replaced: None },
        Newest::Lost => {
            let replaced = (!entry.is_dead()).then_some(entry.length);
            if worm && replaced.is_some() {
                return context.error(out, WORM);
            }
            Predecessor { place: entry.place, verified: false, replaced }
        }
    };
    append(context, key, value, Some(predecessor), out)
}

/// Whether index and new value leave it open that the value is the one already there.
fn could_be_same(entry: &Entry, value: &Value<'_>) -> bool {
    entry.length as usize == value.payload.len()
        && entry.fingerprint == format::fingerprint(value.payload_check)
}

fn set_sequential(
    context: &mut Context<'_>,
    key: &[u8],
    value: Value<'_>,
    out: &mut Output,
) -> Outcome {
    let Keys::Sequential(table) = &context.namespace().keys else {
        unreachable!("called for sequential namespaces")
    };
    if key.is_empty() {
        let id = table.next_id().to_le_bytes();
        return append(context, &id, value, None, out);
    }
    let Some(place) = sequential_id(key).and_then(|id| table.get(id)) else {
        let fits = fits(context, value.payload.len(), None);
        let text = if fits { "Invalid key, only update authorized" } else { NO_SPACE };
        return context.error(out, text);
    };
    if context.namespace().settings.worm {
        return context.error(out, WORM);
    }
    let Some(newest) = look(context, place, key, Some(&value)) else {
        let bytes = format::record_bytes(key.len(), context.namespace().typical_payload_bytes());
        return read_first(context, place, bytes);
    };
    if is_away(context, place) {
        // Only the record tells how long its value is.
        return context.error(out, AWAY);
    }
    let replaced = match newest {
        Newest::Ours { length, .. } => length,
        Newest::Foreign | Newest::Lost => 0,
    };
    if !fits(context, value.payload.len(), Some(replaced)) {
        return context.error(out, NO_SPACE);
    }
    if matches!(newest, Newest::Ours { same: true, .. }) {
        context.writer(out).nil();
        return context.done_at(place.get() + 1);
    }
    let predecessor = Predecessor { place, verified: true, replaced: Some(replaced) };
    append(context, key, value, Some(predecessor), out)
}

/// Whether the namespace's limit of payload bytes lets a value in.
pub fn fits(context: &Context<'_>, payload: usize, replaced: Option<u32>) -> bool {
    let namespace = context.namespace();
    let limit = context.engine.max_bytes(namespace);
    limit == 0
        || payload == 0
        || namespace.live_bytes + payload as u64
            <= limit.saturating_add(u64::from(replaced.unwrap_or(0)))
}

fn append(
    context: &mut Context<'_>,
    key: &[u8],
    value: Value<'_>,
    predecessor: Option<Predecessor>,
    out: &mut Output,
) -> Outcome {
    let replaced = predecessor.and_then(|before| before.replaced);
    if !fits(context, value.payload.len(), replaced) {
        return context.error(out, NO_SPACE);
    }
    let slot = context.session.slot;
    let Value { payload, payload_check, timestamp } = value;
    let value = (payload, payload_check);
    match context.engine.set(slot, (key, context.hash), value, timestamp, predecessor) {
        Ok(end) => {
            context.writer(out).bulk(key);
            context.done_at(end)
        }
        Err(Refusal::Wait) => Outcome::NeedsLog,
        Err(Refusal::Failed) => context.error(out, "Cannot write data right now"),
    }
}

pub fn delete(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let timestamp = match request.len() {
        2 if request.get(1).is_empty() => return context.error(out, "Invalid argument"),
        2 => context.engine.now.unix_s() as u32,
        3 if !is_number(request.get(2)) => {
            return context.error(out, "Invalid timestamp (DEL takes one key; UNLINK takes many)");
        }
        3 if context.session.admin => atoll(request.get(2)) as u32,
        3 => {
            context.server.stats.commands_unauthorized += 1;
            return context.error(out, "Permission denied");
        }
        _ => return context.error(out, "Unexpected arguments"),
    };
    let key = request.get(1);
    if key.len() > KEY_BYTES_MAX {
        return context.error(out, "Invalid key");
    }
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    match end_key(context, key, timestamp) {
        Ok(Some(end)) => {
            context.ok(out);
            context.done_at(end)
        }
        Ok(None) => {
            context.error(out, "Key not found");
            context.done_at(context.namespace().deleted_until)
        }
        Err(Unfinished::Wait(outcome)) => outcome,
        Err(Unfinished::Refused(text)) => context.error(out, text),
    }
}

/// Why a key was not ended.
enum Unfinished {
    Wait(Outcome),
    Refused(&'static str),
}

/// Ends a key; tells where its tombstone ends, or that there was none to end.
fn end_key(
    context: &mut Context<'_>,
    key: &[u8],
    timestamp: u32,
) -> Result<Option<u64>, Unfinished> {
    let predecessor = match find_for_delete(context, key) {
        Ok(Some(predecessor)) => predecessor,
        Ok(None) => return Ok(None),
        Err(unfinished) => return Err(unfinished),
    };
    if context.namespace().settings.worm {
        return Err(Unfinished::Refused(WORM_DELETE));
    }
    match context.engine.delete(context.session.slot, key, timestamp, predecessor) {
        Ok(end) => Ok(Some(end)),
        Err(Refusal::Wait) => Err(Unfinished::Wait(Outcome::NeedsLog)),
        Err(Refusal::Failed) => Err(Unfinished::Refused(CANNOT_DELETE)),
    }
}

pub fn unlink(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.iter().skip(1).any(|key| key.len() > KEY_BYTES_MAX) {
        return context.error(out, "Invalid key");
    }
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    context.session.unlinked = Unlinked::default();
    Outcome::Parts(request.len() - 1)
}

/// How far an UNLINK has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlinked {
    count: i64,
    /// The reply rests on the log up to here.
    rests_on: u64,
}

/// One key of UNLINK. The keys end one after the other, as a pipeline of DELs would end them; a refusal
/// in the middle is the reply to all.
pub fn unlink_part(
    context: &mut Context<'_>,
    key: &[u8],
    is_last: bool,
    out: &mut Output,
) -> Outcome {
    if !context.attach() {
        context.error(out, super::DETACHED);
        return Outcome::Failed;
    }
    if let Some(_refused) = context.refuse_write(out) {
        return Outcome::Failed;
    }
    let timestamp = context.engine.now.unix_s() as u32;
    match end_key(context, key, timestamp) {
        Ok(found) => {
            let missing = context.namespace().deleted_until;
            let unlinked = &mut context.session.unlinked;
            unlinked.count += i64::from(found.is_some());
            unlinked.rests_on = unlinked.rests_on.max(found.unwrap_or(missing));
        }
        Err(Unfinished::Wait(outcome)) => return outcome,
        Err(Unfinished::Refused(text)) => {
            context.error(out, text);
            return Outcome::Failed;
        }
    }
    if !is_last {
        return Outcome::Done;
    }
    let Unlinked { count, rests_on } = context.session.unlinked;
    context.writer(out).integer(count);
    context.done_at(rests_on)
}

/// The live version that a delete ends, if there is one.
fn find_for_delete(
    context: &mut Context<'_>,
    key: &[u8],
) -> Result<Option<Predecessor>, Unfinished> {
    let (place, bytes, length) = match &context.namespace().keys {
        Keys::User(_) => {
            let hash = context.key_hash(key);
            let Some(entry) = context.engine.find(context.namespace(), hash) else {
                return Ok(None);
            };
            let length = (!entry.is_dead()).then_some(entry.length);
            let bytes = format::record_bytes(key.len(), length.unwrap_or(0) as usize);
            (entry.place, bytes, length)
        }
        Keys::Sequential(table) => {
            let Some(place) = sequential_id(key).and_then(|id| table.get(id)) else {
                return Ok(None);
            };
            (place, format::record_bytes(8, context.namespace().typical_payload_bytes()), Some(0))
        }
    };
    let Some(newest) = look(context, place, key, None) else {
        return Err(Unfinished::Wait(read_first(context, place, bytes)));
    };
    let is_sequential = matches!(context.namespace().keys, Keys::Sequential(_));
    if is_sequential && is_away(context, place) {
        return Err(Unfinished::Refused(AWAY));
    }
    Ok(match newest {
        Newest::Ours { live: true, verified, length, .. } => {
            Some(Predecessor { place, verified, replaced: Some(length) })
        }
        Newest::Ours { live: false, .. } => None,
        // A damaged record can be deleted too: its hash or id says that it is this key's. A tombstone may be
        // that of another key with it, and ours below.
        Newest::Lost if length.is_none() => return Err(Unfinished::Refused(CANNOT_DELETE)),
        Newest::Lost => Some(Predecessor { place, verified: false, replaced: length }),
        Newest::Foreign => match below(context, place, key) {
            Below::Live(length) => {
                Some(Predecessor { place, verified: false, replaced: Some(length) })
            }
            Below::Nothing => None,
            Below::Lost => return Err(Unfinished::Refused(CANNOT_DELETE)),
            Below::Read(next) => {
                return Err(Unfinished::Wait(read_first(context, next, bytes)));
            }
        },
    })
}

/// What lies under a record of another key with the same hash.
enum Below {
    Live(u32),
    Nothing,
    /// What is there cannot be read: nobody knows whose it is.
    Lost,
    Read(Place),
}

/// Walks down to the newest record of `key`. Two keys with the same 54 bits of hash are so rare that
/// the walk may be slow (the request is run again for each record on the way), but it must not be wrong.
fn below(context: &Context<'_>, head: Place, key: &[u8]) -> Below {
    let mut place = head;
    loop {
        let fetched = context.fetched.iter().find(|fetched| fetched.place == place);
        let record = match (context.engine.peek(place), fetched) {
            (Some(record), _) => record,
            (None, Some(Fetched { record: Ok(bytes), .. })) => Verified::trusted(bytes),
            (None, Some(Fetched { record: Err(ReadFailure::Gone), .. })) => return Below::Nothing,
            (None, Some(Fetched { record: Err(_), .. })) => return Below::Lost,
            (None, None) => return Below::Read(place),
        };
        if record.key() == key {
            return match record.head.kind {
                Kind::Set => Below::Live(record.head.payload_length),
                _ => Below::Nothing,
            };
        }
        if record.head.flags & FLAG_UNVERIFIED == 0 || record.head.previous.is_none() {
            return Below::Nothing;
        }
        place = record.head.previous;
    }
}
