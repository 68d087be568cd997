//! SUBSCRIBE, PSUBSCRIBE and their ends, PUBLISH and PUBSUB: messages between clients, which are never kept.
//!
//! A message goes to who is subscribed when it is published. Channels belong to no namespace.

use super::channels::Kind;
use super::order::Order;
use super::{Context, Outcome, help};
use crate::limits::{
    CHANNEL_BYTES_MAX, CHANNEL_PATTERN_BYTES_MAX, CHANNELS_MAX, CHANNELS_TOTAL_MAX, PATTERNS_MAX,
    PATTERNS_TOTAL_MAX,
};
use crate::output::Output;
use crate::resp::Request;
use bytes::Bytes;
use std::collections::BTreeSet;

pub fn subscribe(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    add(context, request, Kind::Channel, out)
}

pub fn pattern_subscribe(
    context: &mut Context<'_>,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    add(context, request, Kind::Pattern, out)
}

pub fn unsubscribe(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    remove(context, request, Kind::Channel, out)
}

pub fn pattern_unsubscribe(
    context: &mut Context<'_>,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    remove(context, request, Kind::Pattern, out)
}

/// All of its names or none, and a reply for each.
fn add(context: &mut Context<'_>, request: Request<'_>, kind: Kind, out: &mut Output) -> Outcome {
    if let Some(text) = refuse_names(context, request, kind) {
        return context.error(out, &text);
    }
    let word = match kind {
        Kind::Channel => "subscribe",
        Kind::Pattern => "psubscribe",
    };
    for name in request.iter().skip(1) {
        let subscriptions = &mut context.session.subscriptions;
        context.server.channels.add(kind, name, context.client.connection, subscriptions);
        tell(context, word, Some(name), out);
    }
    Outcome::Done
}

/// Why a connection may not subscribe to these names.
fn refuse_names(context: &Context<'_>, request: Request<'_>, kind: Kind) -> Option<String> {
    let (what, bytes_max, count_max, total_max) = match kind {
        Kind::Channel => ("channels", CHANNEL_BYTES_MAX, CHANNELS_MAX, CHANNELS_TOTAL_MAX),
        Kind::Pattern => ("patterns", CHANNEL_PATTERN_BYTES_MAX, PATTERNS_MAX, PATTERNS_TOTAL_MAX),
    };
    if request.iter().skip(1).any(|name| name.len() > bytes_max) {
        return Some(format!("Names of {what} have {bytes_max} bytes at most"));
    }
    let subscriptions = &context.session.subscriptions;
    let names: BTreeSet<&[u8]> = request.iter().skip(1).collect();
    let own = names.iter().filter(|name| !subscriptions.has(kind, name)).count();
    if subscriptions.count(kind) + own > count_max {
        return Some(format!("Too many {what} on one connection (at most {count_max})"));
    }
    let channels = &context.server.channels;
    let new = names.iter().filter(|name| !channels.has(kind, name)).count();
    (channels.count(kind) + new > total_max)
        .then(|| format!("Too many {what} on all connections together (at most {total_max})"))
}

/// These names or, without any, all; and a reply for each, or one that there was none.
fn remove(
    context: &mut Context<'_>,
    request: Request<'_>,
    kind: Kind,
    out: &mut Output,
) -> Outcome {
    let word = match kind {
        Kind::Channel => "unsubscribe",
        Kind::Pattern => "punsubscribe",
    };
    let names: Vec<Bytes> = match request.len() {
        1 => context.session.subscriptions.names(kind),
        _ => request.iter().skip(1).map(Bytes::copy_from_slice).collect(),
    };
    if names.is_empty() {
        tell(context, word, None, out);
    }
    for name in names {
        let subscriptions = &mut context.session.subscriptions;
        context.server.channels.remove(kind, &name, context.client.connection, subscriptions);
        tell(context, word, Some(&name), out);
    }
    Outcome::Done
}

/// One change, and how many subscriptions the connection has now.
fn tell(context: &Context<'_>, word: &str, name: Option<&[u8]>, out: &mut Output) {
    let total = context.session.subscriptions.total();
    let mut writer = context.writer(out);
    writer.push(3);
    writer.bulk(word.as_bytes());
    match name {
        Some(name) => writer.bulk(name),
        None => writer.nil(),
    }
    writer.integer(total as i64);
}

pub fn publish(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    // An empty message is one, so that the table does not ask for exactly these.
    if request.len() != 3 {
        return context.error(out, "Unexpected arguments");
    }
    let channel = request.get(1);
    if channel.len() > CHANNEL_BYTES_MAX {
        let text = format!("Names of channels have {CHANNEL_BYTES_MAX} bytes at most");
        return context.error(out, &text);
    }
    Outcome::Order(Box::new(Order::Publish {
        channel: Bytes::copy_from_slice(channel),
        message: Bytes::copy_from_slice(request.get(2)),
    }))
}

pub fn pubsub(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"CHANNELS", 2 | 3) => return list(context, request, out),
        (b"NUMSUB", _) => {
            let mut writer = context.writer(out);
            writer.array(2 * (request.len() - 2));
            for name in request.iter().skip(2) {
                writer.bulk(name);
                writer.integer(context.server.channels.subscribers(name) as i64);
            }
        }
        (b"NUMPAT", 2) => {
            let count = context.server.channels.count(Kind::Pattern);
            context.writer(out).integer(count as i64);
        }
        (b"HELP", 2) => return context.help(out, help::PUBSUB),
        (b"CHANNELS" | b"NUMPAT" | b"HELP", _) => {
            return context.error(out, "Unexpected arguments");
        }
        _ => return context.unknown_subcommand(out, request),
    }
    Outcome::Done
}

fn list(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let pattern = if request.len() == 3 { request.get(2) } else { b"*" };
    if pattern.len() > CHANNEL_PATTERN_BYTES_MAX {
        let text = format!("Names of patterns have {CHANNEL_PATTERN_BYTES_MAX} bytes at most");
        return context.error(out, &text);
    }
    let names: Vec<&Bytes> = context.server.channels.names(pattern).collect();
    let mut writer = context.writer(out);
    writer.array(names.len());
    names.into_iter().for_each(|name| writer.bulk(name));
    Outcome::Done
}
