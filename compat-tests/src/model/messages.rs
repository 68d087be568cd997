//! SUBSCRIBE, PSUBSCRIBE and their ends, PUBLISH and PUBSUB.

use super::watch::{subcommand, unknown};
use super::{Answer, Command, Model, Session, open};
use crate::reply::Reply;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const COMMANDS: &[Command] = &[
    open("SUBSCRIBE", |model, session, arguments| {
        model.subscribe(session, Kind::Channel, arguments)
    }),
    open("PSUBSCRIBE", |model, session, arguments| {
        model.subscribe(session, Kind::Pattern, arguments)
    }),
    open("UNSUBSCRIBE", |model, session, arguments| {
        model.unsubscribe(session, Kind::Channel, arguments)
    }),
    open("PUNSUBSCRIBE", |model, session, arguments| {
        model.unsubscribe(session, Kind::Pattern, arguments)
    }),
    open("PUBLISH", Model::publish),
    open("PUBSUB", Model::pubsub),
];

const CHANNEL_BYTES_MAX: usize = 255;
const PATTERN_BYTES_MAX: usize = 128;
/// What a connection on RESP2 may do while it has subscriptions.
const SUBSCRIBED: &[&str] =
    &["PING", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET", "SUBSCRIBE", "UNSUBSCRIBE"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Channel,
    Pattern,
}

/// The subscriptions of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriber {
    channels: BTreeSet<Vec<u8>>,
    patterns: BTreeSet<Vec<u8>>,
    protocol: u8,
}

impl Subscriber {
    fn of(&mut self, kind: Kind) -> &mut BTreeSet<Vec<u8>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    pub fn counts(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }
}

/// By the ids of their connections.
pub(super) type Subscribers = BTreeMap<u64, Subscriber>;

impl Model {
    /// The subscriptions of a connection, which speaks this protocol now.
    pub(super) fn subscriber(&mut self, session: &Session) -> &mut Subscriber {
        let subscriber = self.subscribers.entry(session.id).or_default();
        subscriber.protocol = session.protocol;
        subscriber
    }

    pub(super) fn is_subscribed(&self, session: &Session) -> bool {
        self.subscribers.get(&session.id).is_some_and(|one| one.counts() != (0, 0))
    }

    /// Whether a connection's replies could be taken for messages.
    pub(super) fn hears_messages_only(&self, session: &Session) -> bool {
        session.protocol == 2 && self.is_subscribed(session)
    }

    pub(super) fn refuse_subscribed(
        &self,
        session: &Session,
        name: &str,
    ) -> Result<(), &'static str> {
        if !self.hears_messages_only(session) || SUBSCRIBED.contains(&name) {
            return Ok(());
        }
        Err(format!(
            "Can't execute '{}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context",
            name.to_ascii_lowercase()
        )
        .leak())
    }

    /// The first of several replies answers the request, the others follow by themselves.
    fn told(
        &mut self,
        session: &Session,
        word: &str,
        changes: Vec<(Option<Vec<u8>>, usize)>,
    ) -> Answer {
        let mut replies = changes.into_iter().map(|(name, total)| {
            let name = name.map_or(Reply::Nil, Reply::bulk);
            Reply::Push(vec![Reply::bulk(word), name, Reply::Integer(total as i64)])
        });
        let first = replies.next().expect("there is a reply");
        for reply in replies {
            let reply = if session.protocol == 3 { reply } else { reply.flattened() };
            self.watch.pushed.push((session.id, reply));
        }
        Ok(first)
    }

    fn subscribe(&mut self, session: &mut Session, kind: Kind, arguments: &[&[u8]]) -> Answer {
        let (word, what, bytes_max) = match kind {
            Kind::Channel => ("subscribe", "channels", CHANNEL_BYTES_MAX),
            Kind::Pattern => ("psubscribe", "patterns", PATTERN_BYTES_MAX),
        };
        let names = &arguments[1..];
        if names.is_empty() {
            return Err("Missing arguments");
        }
        if names.iter().any(|name| name.len() > bytes_max) {
            return Err(format!("Names of {what} have {bytes_max} bytes at most").leak());
        }
        let subscriber = self.subscriber(session);
        let mut changes = Vec::new();
        for name in names {
            subscriber.of(kind).insert(name.to_vec());
            let (channels, patterns) = subscriber.counts();
            changes.push((Some(name.to_vec()), channels + patterns));
        }
        self.told(session, word, changes)
    }

    fn unsubscribe(&mut self, session: &mut Session, kind: Kind, arguments: &[&[u8]]) -> Answer {
        let word = match kind {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
        };
        let subscriber = self.subscriber(session);
        let mut names: Vec<Option<Vec<u8>>> = match arguments {
            [_] => subscriber.of(kind).iter().cloned().map(Some).collect(),
            _ => arguments[1..].iter().map(|name| Some(name.to_vec())).collect(),
        };
        if names.is_empty() {
            names.push(None);
        }
        let mut changes = Vec::new();
        for name in names {
            if let Some(name) = &name {
                subscriber.of(kind).remove(name);
            }
            let (channels, patterns) = subscriber.counts();
            changes.push((name, channels + patterns));
        }
        self.told(session, word, changes)
    }

    fn publish(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let (channel, message) = match arguments {
            [_, channel, message] => (*channel, *message),
            [_] | [_, _] => return Err("Missing arguments"),
            _ => return Err("Unexpected arguments"),
        };
        if channel.len() > CHANNEL_BYTES_MAX {
            return Err(format!("Names of channels have {CHANNEL_BYTES_MAX} bytes at most").leak());
        }
        // Its protocol may have changed since.
        if self.subscribers.contains_key(&session.id) {
            self.subscriber(session);
        }
        let mut sent = Vec::new();
        for (id, one) in &self.subscribers {
            if one.channels.contains(channel) {
                let parts = [&b"message"[..], channel, message];
                sent.push((*id, one.protocol, parts.map(Reply::bulk).to_vec()));
            }
        }
        for (id, one) in &self.subscribers {
            for pattern in one.patterns.iter().filter(|pattern| matches(pattern, channel)) {
                let parts = [&b"pmessage"[..], pattern, channel, message];
                sent.push((*id, one.protocol, parts.map(Reply::bulk).to_vec()));
            }
        }
        let count = sent.len() as i64;
        for (id, protocol, parts) in sent {
            let reply = if protocol == 3 { Reply::Push(parts) } else { Reply::Array(parts) };
            self.watch.pushed.push((id, reply));
        }
        Ok(Reply::Integer(count))
    }

    fn pubsub(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let channels: BTreeSet<&Vec<u8>> =
            self.subscribers.values().flat_map(|one| &one.channels).collect();
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"CHANNELS", []) => Ok(Reply::Array(channels.iter().map(Reply::bulk).collect())),
            (b"CHANNELS", [pattern]) if pattern.len() > PATTERN_BYTES_MAX => {
                Err(format!("Names of patterns have {PATTERN_BYTES_MAX} bytes at most").leak())
            }
            (b"CHANNELS", [pattern]) => Ok(Reply::Array(
                channels.iter().filter(|name| matches(pattern, name)).map(Reply::bulk).collect(),
            )),
            (b"NUMSUB", names) => {
                let count = |name: &[u8]| {
                    self.subscribers.values().filter(|one| one.channels.contains(name)).count()
                };
                let pairs = names
                    .iter()
                    .flat_map(|name| [Reply::bulk(name), Reply::Integer(count(name) as i64)]);
                Ok(Reply::Array(pairs.collect()))
            }
            (b"NUMPAT", []) => {
                let patterns: BTreeSet<&Vec<u8>> =
                    self.subscribers.values().flat_map(|one| &one.patterns).collect();
                Ok(Reply::Integer(patterns.len() as i64))
            }
            (b"HELP", []) => super::watch::help("PUBSUB"),
            (b"CHANNELS" | b"NUMPAT" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }
}

/// Stars, question marks and themselves: what the transcripts have in patterns.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| matches(rest, &text[taken..])),
        ([b'?', rest @ ..], [_, behind @ ..]) => matches(rest, behind),
        ([one, rest @ ..], [other, behind @ ..]) => one == other && matches(rest, behind),
        _ => false,
    }
}
