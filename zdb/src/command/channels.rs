//! Who is subscribed to what: the channels and patterns of all connections.
//!
//! In ordered maps, so that the same requests lead to the same messages in the same order, and no names of a
//! client can make looking one up slow.

use super::glob::matches;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A channel by its name, or all channels that a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Channel,
    Pattern,
}

/// Of each name, the keys of the connections that want it.
type Subscribers = BTreeMap<Bytes, BTreeSet<u64>>;

#[derive(Default)]
pub struct Channels {
    channels: Subscribers,
    patterns: Subscribers,
}

/// What one connection is subscribed to.
#[derive(Default)]
pub struct Subscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

/// Somebody who gets a message, and by which pattern; none: by the channel.
pub struct Receiver {
    pub connection: u64,
    pub pattern: Option<Bytes>,
}

impl Channels {
    /// Adds a subscription of a connection; nothing changes where it has it.
    pub fn add(&mut self, kind: Kind, name: &[u8], key: u64, of: &mut Subscriptions) {
        let all = self.of_mut(kind);
        let name = match all.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => Bytes::copy_from_slice(name),
        };
        of.of_mut(kind).insert(name.clone());
        all.entry(name).or_default().insert(key);
    }

    /// Ends a subscription of a connection, where it has it.
    pub fn remove(&mut self, kind: Kind, name: &[u8], key: u64, of: &mut Subscriptions) {
        if !of.of_mut(kind).remove(name) {
            return;
        }
        let all = self.of_mut(kind);
        if let Some(keys) = all.get_mut(name) {
            keys.remove(&key);
            if keys.is_empty() {
                all.remove(name);
            }
        }
    }

    /// Ends all subscriptions of a connection.
    pub fn forget(&mut self, key: u64, of: &mut Subscriptions) {
        for kind in [Kind::Channel, Kind::Pattern] {
            for name in of.names(kind) {
                self.remove(kind, &name, key, of);
            }
        }
    }

    /// How many different names there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.of(kind).len()
    }

    pub fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.of(kind).contains_key(name)
    }

    /// How many connections are subscribed to a channel by its name.
    pub fn subscribers(&self, channel: &[u8]) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// The channels that somebody is subscribed to, by their names.
    pub fn names<'a>(&'a self, pattern: &'a [u8]) -> impl Iterator<Item = &'a Bytes> {
        self.channels.keys().filter(move |name| matches(pattern, name))
    }

    /// Who gets a message: first those of the channel, then those of each pattern.
    pub fn receivers(&self, channel: &[u8]) -> Vec<Receiver> {
        let direct = self.channels.get(channel).into_iter().flatten();
        let direct = direct.map(|key| Receiver { connection: *key, pattern: None });
        let matching = self.patterns.iter().filter(|(pattern, _)| matches(pattern, channel));
        let matching = matching.flat_map(|(pattern, keys)| {
            keys.iter().map(|key| Receiver { connection: *key, pattern: Some(pattern.clone()) })
        });
        direct.chain(matching).collect()
    }

    fn of(&self, kind: Kind) -> &Subscribers {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Subscribers {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }
}

impl Subscriptions {
    pub fn count(&self, kind: Kind) -> usize {
        self.of(kind).len()
    }

    /// Of both kinds together: what Redis tells with each change.
    pub fn total(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    pub fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.of(kind).contains(name)
    }

    pub fn names(&self, kind: Kind) -> Vec<Bytes> {
        self.of(kind).iter().cloned().collect()
    }

    fn of(&self, kind: Kind) -> &BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }
}
