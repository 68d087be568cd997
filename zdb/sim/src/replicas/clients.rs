//! The clients: each has keys of its own, numbers what it does to them, and does one thing after the other. So what is
//! there in the end must be from the last thing that was acknowledged, or from a later one that may have been done.
//! Every other one has a namespace of its own, too, private so that it can be flushed.

use super::{CLIENTS, KEYS, NODES, Run, peer};
use crate::reply;
use crate::words;
use std::collections::BTreeMap;
use zdb::command::replication::Gate;

/// Most bytes that a value is made longer by.
const PADDING_BYTES_MAX: u64 = 1500;
/// Of the clients' own namespaces.
pub const PASSWORD: &str = "secret";

/// What a client did to a key.
#[derive(Clone, Copy, Debug)]
struct Deed {
    number: u64,
    is_delete: bool,
}

#[derive(Default)]
struct Key {
    deeds: Vec<Deed>,
    /// Numbers of the deeds that were acknowledged, and how many of all clients were before.
    acknowledged: Vec<(u64, u64)>,
}

pub struct Client {
    pub node: usize,
    pub key: Option<u64>,
    pub inbox: Vec<u8>,
    /// Keys of the write that is under way, and its number.
    pub waiting: Option<(Vec<u64>, u64)>,
    /// The number of one of which the acknowledgement may be on its way, and is worth nothing any more.
    doubtful: u64,
    namespace: Option<String>,
    /// Replies that come before those of writes: of NSNEW, NSSET and SELECT.
    greeting: usize,
    is_welcome: bool,
    keys: BTreeMap<u64, Key>,
    next: u64,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            node: 0,
            key: None,
            inbox: Vec::new(),
            waiting: None,
            doubtful: 0,
            namespace: (number % 2 == 1).then(|| format!("space-{number}")),
            greeting: 0,
            is_welcome: false,
            keys: BTreeMap::new(),
            next: 1,
        }
    }

    /// The connection is gone.
    pub fn part(&mut self) {
        self.key = None;
        self.waiting = None;
        self.greeting = 0;
        self.inbox.clear();
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What was acknowledged when so many were before need not be kept.
    pub fn doubt(&mut self, since: u64) {
        self.doubtful = self.waiting.as_ref().map_or(0, |(_, number)| *number);
        for key in self.keys.values_mut() {
            key.acknowledged.retain(|(_, before)| *before < since);
        }
    }

    /// Whether a key ever had the value with this number.
    pub fn has_written(&self, key: u64, number: u64) -> bool {
        let deeds = self.keys.get(&key).map_or(&[][..], |key| &key.deeds);
        deeds.iter().any(|deed| deed.number == number && !deed.is_delete)
    }

    /// Whether a key may have this value in the end, none for no value, and why not. `all_kept`: what was acknowledged is
    /// there.
    pub fn judge(&self, key: u64, found: Option<u64>, all_kept: bool) -> Result<(), String> {
        let Some(Key { deeds, acknowledged }) = self.keys.get(&key) else {
            return found.map_or(Ok(()), |number| Err(format!("{number} was never written")));
        };
        let acknowledged = acknowledged.last().map(|(number, _)| *number);
        let kept = acknowledged.filter(|_| all_kept);
        let may_be = |deed: &&Deed| kept.is_none_or(|kept| deed.number >= kept);
        let is_it = |deed: &Deed| match found {
            Some(number) => !deed.is_delete && deed.number == number,
            None => deed.is_delete,
        };
        let is_untouched = found.is_none() && kept.is_none();
        match is_untouched || deeds.iter().filter(may_be).any(is_it) {
            true => Ok(()),
            false => Err(format!(
                "{found:?} is there, {acknowledged:?} was acknowledged; the last of {} deeds: {:?}",
                deeds.len(),
                &deeds[deeds.len().saturating_sub(3)..]
            )),
        }
    }
}

pub fn name_of(client: usize, key: u64) -> Vec<u8> {
    format!("client-{client}-{key}").into_bytes()
}

/// The number at the beginning of a value.
pub fn number_of(value: &[u8]) -> u64 {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = String::from_utf8_lossy(&value[..digits]);
    text.parse().unwrap_or_else(|_| panic!("{} is no value that was sent", value.escape_ascii()))
}

impl Run {
    pub(super) fn write(&mut self, client: usize) {
        let at = match self.clients[client].key {
            Some(_) => self.clients[client].node,
            None => self.random.below(NODES as u64) as usize,
        };
        let is_master = self.nodes[at].hub.server.replication.gate == Gate::Open;
        let one = &mut self.clients[client];
        if one.waiting.is_some() || one.greeting > 0 {
            return;
        }
        if !is_master {
            return self.leave(client);
        }
        if one.key.is_none() {
            one.node = at;
            one.inbox.clear();
            let key = self.nodes[at].hub.connected(peer());
            one.key = Some(key);
            one.is_welcome = one.namespace.is_none();
        }
        let connection = one.key.expect("just made");
        if let Some(name) = one.namespace.clone().filter(|_| !one.is_welcome) {
            let lines = [
                format!("NSNEW {name}\r\n"),
                format!("NSSET {name} password {PASSWORD}\r\n"),
                format!("NSSET {name} public 0\r\n"),
                format!("SELECT {name} {PASSWORD}\r\n"),
            ];
            one.greeting = lines.len();
            return self.nodes[at].hub.received(connection, lines.concat().as_bytes());
        }
        let number = one.next;
        let may_flush = one.namespace.is_some();
        one.next += 1;
        let key = self.random.below(KEYS);
        let (keys, request) = match self.random.below(20) {
            0..4 => (vec![key], vec![b"DEL".to_vec(), name_of(client, key)]),
            4 if may_flush => ((0..KEYS).collect(), vec![b"FLUSH".to_vec()]),
            5..9 => {
                let other = (key + 1) % KEYS;
                let mut words = vec![b"MSET".to_vec()];
                for key in [key, other] {
                    words.extend([name_of(client, key), self.value(number)]);
                }
                (vec![key, other], words)
            }
            _ => (vec![key], vec![b"SET".to_vec(), name_of(client, key), self.value(number)]),
        };
        let is_delete = request[0] == b"DEL" || request[0] == b"FLUSH";
        let one = &mut self.clients[client];
        for key in &keys {
            one.keys.entry(*key).or_default().deeds.push(Deed { number, is_delete });
        }
        one.waiting = Some((keys, number));
        self.nodes[at].hub.received(connection, &words::encode(&request));
    }

    fn value(&mut self, number: u64) -> Vec<u8> {
        let mut text = number.to_string().into_bytes();
        text.resize(text.len() + self.random.below(PADDING_BYTES_MAX) as usize, b'.');
        text
    }

    /// A client goes, to look for the master.
    fn leave(&mut self, client: usize) {
        let one = &mut self.clients[client];
        if let Some(key) = one.key.take() {
            let at = one.node;
            one.part();
            self.nodes[at].hub.failed(key);
            self.nodes[at].hub.remove(key);
        }
    }

    pub(super) fn hear(&mut self, client: usize) {
        let one = &mut self.clients[client];
        while let Ok(Some((reply, length))) = reply::parse(&one.inbox, false) {
            one.inbox.drain(..length);
            if one.greeting > 0 {
                one.greeting -= 1;
                one.is_welcome = one.greeting == 0 && !reply.is_error();
                if one.greeting == 0 && !one.is_welcome {
                    return self.leave(client);
                }
                continue;
            }
            let Some((keys, number)) = one.waiting.take() else { return };
            if reply.is_error() {
                continue;
            }
            for key in keys.iter().filter(|_| one.doubtful != number) {
                let key = one.keys.entry(*key).or_default();
                key.acknowledged.push((number, self.acknowledged));
            }
            self.acknowledged += 1;
            if self.traced {
                eprintln!(
                    "{}: {keys:?} of client {client}: {number} acknowledged by {}",
                    self.now_ms, one.node
                );
            }
        }
    }

    /// Whether a client waits for something.
    pub(super) fn is_waiting(&self, client: usize) -> bool {
        debug_assert!(client < CLIENTS);
        self.clients[client].waiting.is_some() || self.clients[client].greeting > 0
    }
}
