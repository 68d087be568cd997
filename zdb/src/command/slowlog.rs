//! SLOWLOG: the requests that took longest, with what they asked for.

use super::redact::{Audience, redacted};
use super::{Context, Outcome, Session, help};
use crate::limits::{SLOWLOG_ARGUMENT_BYTES_MAX, SLOWLOG_ARGUMENTS_MAX};
use crate::output::Output;
use crate::resp::Request;
use std::collections::VecDeque;

/// How many entries SLOWLOG GET shows unless asked for more.
const SHOWN_DEFAULT: usize = 10;

pub struct SlowEntry {
    pub id: u64,
    pub unix_s: u64,
    pub took_us: u64,
    pub arguments: Vec<Vec<u8>>,
    pub peer: String,
    pub name: Vec<u8>,
}

#[derive(Default)]
pub struct SlowLog {
    /// Newest first.
    entries: VecDeque<SlowEntry>,
    next_id: u64,
}

impl SlowLog {
    pub fn add(
        &mut self,
        session: &Session,
        arguments: Vec<Vec<u8>>,
        (unix_s, took_us): (u64, u64),
        entries_max: usize,
    ) {
        self.entries.push_front(SlowEntry {
            id: self.next_id,
            unix_s,
            took_us,
            arguments,
            peer: session.peer.clone(),
            name: session.name.clone(),
        });
        self.next_id += 1;
        self.shorten(entries_max);
    }

    pub fn shorten(&mut self, entries_max: usize) {
        self.entries.truncate(entries_max);
    }
}

/// The words of a request as the slow log keeps them: the first ones, the first bytes of each, and
/// no passwords.
pub fn kept_arguments(request: Request<'_>) -> Vec<Vec<u8>> {
    let count = request.len();
    let kept = if count > SLOWLOG_ARGUMENTS_MAX { SLOWLOG_ARGUMENTS_MAX - 1 } else { count };
    let mut arguments: Vec<Vec<u8>> = redacted(request, Audience::Operator)
        .take(kept)
        .map(|argument| {
            let more = argument.len().saturating_sub(SLOWLOG_ARGUMENT_BYTES_MAX);
            let mut bytes = argument[..argument.len() - more].to_vec();
            if more > 0 {
                bytes.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
            }
            bytes
        })
        .collect();
    if kept < count {
        arguments.push(format!("... ({} more arguments)", count - kept).into_bytes());
    }
    arguments
}

pub fn slowlog(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"LEN", 2) => {
            context.writer(out).integer(context.server.slow_log.entries.len() as i64);
            Outcome::Done
        }
        (b"RESET", 2) => {
            context.server.slow_log.entries.clear();
            context.ok(out)
        }
        (b"GET", 2) => get(context, SHOWN_DEFAULT, out),
        (b"GET", 3) => {
            let text = std::str::from_utf8(request.get(2)).unwrap_or_default();
            match text.parse::<i64>() {
                Ok(-1) => get(context, usize::MAX, out),
                Ok(count @ 0..) => get(context, count as usize, out),
                _ => context.error(out, "count should be greater than or equal to -1"),
            }
        }
        (b"HELP", 2) => context.help(out, help::SLOWLOG),
        (b"LEN" | b"RESET" | b"GET" | b"HELP", _) => context.error(out, "Unexpected arguments"),
        _ => context.unknown_subcommand(out, request),
    }
}

fn get(context: &mut Context<'_>, count: usize, out: &mut Output) -> Outcome {
    let entries = &context.server.slow_log.entries;
    let count = count.min(entries.len());
    let mut writer = context.writer(out);
    writer.array(count);
    for entry in entries.iter().take(count) {
        writer.array(6);
        writer.integer(entry.id as i64);
        writer.integer(entry.unix_s as i64);
        writer.integer(entry.took_us as i64);
        writer.array(entry.arguments.len());
        entry.arguments.iter().for_each(|argument| writer.bulk(argument));
        writer.bulk(entry.peer.as_bytes());
        writer.bulk(&entry.name);
    }
    Outcome::Done
}
