//! SETNX and SET with options: writes that depend on the value that is there.
//!
//! Unlike a plain SET, which may take an overwritten key for its own by the hash alone, these look at the
//! stored record first. The look and the write are one turn of one owner, so they are atomic.

use super::number::{atoll, is_number};
use super::write::{NO_SPACE, WORM, fits, is_away, read_first};
use super::{AWAY, Context, Outcome};
use crate::engine::index::Place;
use crate::engine::log::Refusal;
use crate::engine::log::format::{self, FLAG_UNVERIFIED, Kind, Verified};
use crate::engine::namespace::Keys;
use crate::engine::{Fetched, Predecessor, sequential_id};
use crate::limits::KEY_BYTES_MAX;
use crate::output::Output;
use crate::resp::Request;

pub const NEEDS_USER_MODE: &str = "This needs a namespace in user mode";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition<'a> {
    Always,
    Missing,
    Present,
    Equals(&'a [u8]),
}

/// What follows key and value of a SET.
struct SetOptions<'a> {
    timestamp: Option<u32>,
    condition: Condition<'a>,
    answer: Answer,
}

/// What the reply to a conditional write tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// +OK, or nil where nothing was done.
    Done,
    /// 1 or 0, as SETNX.
    Count,
    /// The value before, or nil.
    Old,
}

/// A SET of four words and more.
pub fn set(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let options = match parse(request) {
        Ok(options) => options,
        Err(text) => return context.error(out, &text),
    };
    if options.timestamp.is_some() && !context.session.admin {
        context.server.stats.commands_unauthorized += 1;
        return context.error(out, "Permission denied");
    }
    if options.condition == Condition::Always && options.answer == Answer::Done {
        let timestamp = options.timestamp;
        return super::write::set_at(context, request, timestamp, out);
    }
    if request.get(1).len() > KEY_BYTES_MAX {
        return context.error(out, "Key too large");
    }
    set_if(context, (request.get(1), request.get(2)), &options, out)
}

fn parse(request: Request<'_>) -> Result<SetOptions<'_>, String> {
    let (timestamp, answer) = (None, Answer::Done);
    let mut options = SetOptions { timestamp, condition: Condition::Always, answer };
    let mut at = 3;
    while at < request.len() {
        let word = request.get(at);
        let condition = match word.to_ascii_uppercase().as_slice() {
            b"NX" => Condition::Missing,
            b"XX" => Condition::Present,
            b"IFEQ" if at + 1 == request.len() => return Err("Unexpected arguments".into()),
            b"IFEQ" => {
                at += 1;
                Condition::Equals(request.get(at))
            }
            b"GET" => {
                options.answer = Answer::Old;
                Condition::Always
            }
            _ if is_number(word) => {
                if at > 3 {
                    return Err("Unexpected arguments".into());
                }
                options.timestamp = Some(atoll(word) as u32);
                Condition::Always
            }
            _ => {
                return Err(format!(
                    "Invalid option: {} (a timestamp, NX, XX, GET or IFEQ value)",
                    super::shown(word)
                ));
            }
        };
        if condition != Condition::Always {
            if options.condition != Condition::Always {
                return Err("NX, XX and IFEQ exclude each other".into());
            }
            options.condition = condition;
        }
        at += 1;
    }
    Ok(options)
}

pub fn set_if_missing(
    context: &mut Context<'_>,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    if request.len() != 3 {
        return context.error(out, "Unexpected arguments");
    }
    if request.get(1).len() > KEY_BYTES_MAX {
        return context.error(out, "Key too large");
    }
    let (timestamp, answer) = (None, Answer::Count);
    let options = SetOptions { timestamp, condition: Condition::Missing, answer };
    set_if(context, (request.get(1), request.get(2)), &options, out)
}

fn set_if(
    context: &mut Context<'_>,
    (key, payload): (&[u8], &[u8]),
    options: &SetOptions<'_>,
    out: &mut Output,
) -> Outcome {
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    let is_sequential = matches!(context.namespace().keys, Keys::Sequential(_));
    if is_sequential && options.condition == Condition::Missing {
        return context.error(out, NEEDS_USER_MODE);
    }
    if key.is_empty() {
        return context.error(out, "Invalid argument, key needed");
    }
    let wants_value =
        options.answer == Answer::Old || matches!(options.condition, Condition::Equals(_));
    let newest = match newest(context, key, wants_value) {
        Ok(newest) => newest,
        Err(wait) => return wait,
    };
    let live = matches!(newest, Newest::Live { .. } | Newest::Lost(_));
    if is_sequential && !live && options.condition == Condition::Always {
        return context.error(out, "Invalid key, only update authorized");
    }
    // What the decision rests on: the version that was seen, or that there is none.
    let seen = match &newest {
        Newest::Live { end, .. } => *end,
        Newest::Missing(_) | Newest::Lost(_) => context.namespace().deleted_until,
    };
    if let Newest::Lost(before) = &newest {
        if (wants_value || is_sequential) && is_away(context, before.place) {
            return context.error(out, AWAY);
        }
        if wants_value {
            return context.error(out, "Internal Error");
        }
    }
    let holds = match (options.condition, &newest) {
        (Condition::Always, _) => true,
        (Condition::Missing, _) => !live,
        (Condition::Present, _) => live,
        (Condition::Equals(expected), Newest::Live { value, .. }) => expected == value.as_slice(),
        (Condition::Equals(_), _) => false,
    };
    let old = match &newest {
        Newest::Live { value, .. } => Some(value.as_slice()),
        _ => None,
    };
    if !holds {
        reply(context, options, false, old, out);
        return context.done_at(seen);
    }
    if live && context.namespace().settings.worm {
        return context.error(out, WORM);
    }
    let payload_check = format::payload_check(context.engine.log.seed, payload);
    let (predecessor, same) = match &newest {
        Newest::Live { predecessor, check, length, .. } => {
            (Some(*predecessor), (*check, *length) == (payload_check, payload.len() as u32))
        }
        Newest::Missing(predecessor) => (*predecessor, false),
        Newest::Lost(predecessor) => (Some(*predecessor), false),
    };
    if !fits(context, payload.len(), predecessor.and_then(|before| before.replaced)) {
        return context.error(out, NO_SPACE);
    }
    // As with a plain SET, the value that is there is not written again.
    if same && is_value(context, &newest, payload) {
        reply(context, options, true, old, out);
        return context.done_at(seen);
    }
    let timestamp = options.timestamp.unwrap_or(context.engine.now.unix_s() as u32);
    let (slot, hash) = (context.session.slot, context.hash);
    let value = (payload, payload_check);
    match context.engine.set(slot, (key, hash), value, timestamp, predecessor) {
        Ok(end) => {
            reply(context, options, true, old, out);
            context.done_at(end)
        }
        Err(Refusal::Wait) => Outcome::NeedsLog,
        Err(Refusal::Failed) => context.error(out, "Cannot write data right now"),
    }
}

/// Checksum and length agree: whether the bytes do.
fn is_value(context: &Context<'_>, newest: &Newest, payload: &[u8]) -> bool {
    let Newest::Live { place, .. } = newest else { return false };
    let fetched = context.fetched.iter().find(|fetched| fetched.place == *place);
    match (context.engine.peek(*place), fetched) {
        (Some(record), _) => record.payload() == payload,
        (None, Some(Fetched { record: Ok(bytes), .. })) => {
            Verified::trusted(bytes).payload() == payload
        }
        _ => false,
    }
}

fn reply(
    context: &Context<'_>,
    options: &SetOptions<'_>,
    done: bool,
    old: Option<&[u8]>,
    out: &mut Output,
) {
    let mut writer = context.writer(out);
    match (options.answer, old) {
        (Answer::Old, Some(value)) => writer.bulk(value),
        (Answer::Count, _) => writer.integer(done.into()),
        (Answer::Done, _) if done => writer.simple("OK"),
        (Answer::Old | Answer::Done, _) => writer.nil(),
    }
}

/// The newest version of a key, by its record and not by its hash.
pub enum Newest {
    /// There is none now. With what a new version follows.
    Missing(Option<Predecessor>),
    Live {
        place: Place,
        /// Where the record ends.
        end: u64,
        predecessor: Predecessor,
        check: u64,
        length: u32,
        /// Empty unless it was asked for.
        value: Vec<u8>,
    },
    /// It is there by its hash or id, but cannot be read.
    Lost(Predecessor),
}

/// Finds it; an error is a record that has to be read first.
pub fn newest(context: &mut Context<'_>, key: &[u8], wants_value: bool) -> Result<Newest, Outcome> {
    let (head, bytes, length) = match &context.namespace().keys {
        Keys::User(_) => {
            let hash = context.key_hash(key);
            let Some(entry) = context.engine.find(context.namespace(), hash) else {
                return Ok(Newest::Missing(None));
            };
            let length = (!entry.is_dead()).then_some(entry.length);
            let bytes = format::record_bytes(key.len(), length.unwrap_or(0) as usize);
            (entry.place, bytes, length)
        }
        Keys::Sequential(table) => {
            let Some(place) = sequential_id(key).and_then(|id| table.get(id)) else {
                return Ok(Newest::Missing(None));
            };
            let typical = context.namespace().typical_payload_bytes();
            (place, format::record_bytes(key.len(), typical), Some(0))
        }
    };
    let mut place = head;
    loop {
        let fetched = context.fetched.iter().find(|fetched| fetched.place == place);
        let record = match (context.engine.peek(place), fetched) {
            (Some(record), _) => record,
            (None, Some(Fetched { record: Ok(bytes), .. })) => Verified::trusted(bytes),
            (None, Some(Fetched { record: Err(_), .. })) if place == head => {
                return Ok(match length {
                    Some(_) => {
                        Newest::Lost(Predecessor { place: head, verified: false, replaced: length })
                    }
                    None => Newest::Missing(Some(Predecessor {
                        place: head,
                        verified: false,
                        replaced: None,
                    })),
                });
            }
            (None, Some(_)) => {
                let before = Predecessor { place: head, verified: false, replaced: None };
                return Ok(Newest::Missing(Some(before)));
            }
            (None, None) => return Err(read_first(context, place, bytes)),
        };
        let unverified = record.head.flags & FLAG_UNVERIFIED != 0;
        if record.key() == key {
            let before =
                Predecessor { place: head, verified: place == head && !unverified, replaced: None };
            if record.head.kind != Kind::Set {
                // A tombstone ends the history of its key.
                return Ok(Newest::Missing(Some(Predecessor { verified: false, ..before })));
            }
            let length = record.head.payload_length;
            return Ok(Newest::Live {
                place,
                end: place.get() + record.head.bytes(),
                predecessor: Predecessor { replaced: Some(length), ..before },
                check: record.head.payload_check,
                length,
                value: if wants_value { record.payload().to_vec() } else { Vec::new() },
            });
        }
        if !unverified || record.head.previous.is_none() {
            let before = Predecessor { place: head, verified: false, replaced: None };
            return Ok(Newest::Missing(Some(before)));
        }
        place = record.head.previous;
    }
}
