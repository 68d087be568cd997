//! What clients asked for and were told, and whether a read can be explained by it.
//!
//! A key is a register: each write took effect at some moment between its request and its reply. A value
//! that was read must be that of a write which may have been the last one at some moment of the read.
//! Writes of which nobody knows whether they took effect never hide an older value.
//!
//! After a restart somebody looks at everything once. What is found then is all there is, until somebody
//! writes again: a value that was not there cannot come back after the next crash.

use std::collections::{BTreeSet, HashMap};

/// Moments, counted by the world.
pub type Moment = u64;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Missing,
    Bytes(Vec<u8>),
    /// The command does something that the model does not follow.
    Any,
}

/// What a read tells.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    Missing,
    Bytes(&'a [u8]),
    Present,
    Length(usize),
    /// These bytes are somewhere in the value.
    Part(&'a [u8]),
}

impl Value {
    fn explains(&self, seen: &Seen<'_>) -> bool {
        match (self, seen) {
            (Self::Any, _) | (Self::Missing, Seen::Missing) => true,
            (Self::Bytes(value), Seen::Bytes(bytes)) => value == bytes,
            (Self::Bytes(_), Seen::Present) => true,
            (Self::Bytes(value), Seen::Length(length)) => value.len() == *length,
            (Self::Bytes(value), Seen::Part(bytes)) => {
                value.windows(bytes.len().max(1)).any(|part| part == *bytes)
            }
            _ => false,
        }
    }

    /// For people.
    fn short(&self) -> String {
        match self {
            Self::Bytes(bytes) => shown(&Seen::Bytes(bytes)),
            other => format!("{other:?}"),
        }
    }
}

/// For people.
fn shown(seen: &Seen<'_>) -> String {
    match seen {
        Seen::Bytes(bytes) => {
            format!("{} bytes {}", bytes.len(), bytes[..bytes.len().min(20)].escape_ascii())
        }
        other => format!("{other:?}"),
    }
}

#[derive(Clone, Debug)]
struct Write {
    id: u64,
    /// `None`: the connection may be in any namespace when it runs.
    namespace: Option<Vec<u8>>,
    value: Value,
    begun: Moment,
    /// `Moment::MAX`: it may still happen.
    ended: Moment,
    /// It took effect, and what it left survives.
    certain: bool,
}

#[derive(Default)]
pub struct History {
    keys: HashMap<Vec<u8>, Vec<Write>>,
    /// Writes to every key of a namespace: its end, or a flush.
    all_keys: Vec<Write>,
    /// Until when the writes to a namespace are told by what was found in it.
    settled: HashMap<Vec<u8>, Moment>,
    /// How many versions before the newest one are surely kept, of namespaces that do not keep all.
    kept_versions: HashMap<Vec<u8>, u64>,
    next: u64,
}

/// Which writes the versions of a key may be.
struct Order<'a> {
    ours: &'a [&'a Write],
    /// The writes of the versions so far, the newest first.
    taken: Vec<&'a Write>,
    tries_left: usize,
    /// Why the first try came to nothing.
    told: Option<String>,
}

/// Tries to tell equal values apart; then they are believed.
const ORDER_TRIES_MAX: usize = 10_000;

impl<'a> Order<'a> {
    /// Finds a write for each of the versions, in their order.
    fn fits(&mut self, versions: &[Vec<u8>]) -> bool {
        let Some((version, older)) = versions.split_first() else { return true };
        let seen = Seen::Bytes(version);
        let newer = self.taken.last().copied();
        let mut fitting: Vec<&'a Write> = self.ours.to_vec();
        fitting.retain(|write| {
            write.value.explains(&seen)
                && newer.is_none_or(|newer| write.begun <= newer.ended)
                && self.taken.iter().all(|other| other.id != write.id)
        });
        fitting.sort_by_key(|write| std::cmp::Reverse((write.ended, write.begun)));
        if fitting.is_empty() {
            self.told
                .get_or_insert_with(|| format!("a version {} that was not written", shown(&seen)));
        }
        for write in fitting {
            if self.tries_left == 0 {
                return true;
            }
            self.tries_left -= 1;
            let end = newer.and_then(|newer| {
                self.ours.iter().find(|end| {
                    end.certain
                        && end.value == Value::Missing
                        && end.begun > write.ended
                        && end.ended < newer.begun
                })
            });
            if let Some(end) = end {
                let (shown, begun, ended) = (shown(&seen), end.begun, end.ended);
                self.told.get_or_insert_with(|| {
                    format!("a version {shown} from before the end of the key in {begun}..{ended}")
                });
                continue;
            }
            self.taken.push(write);
            if self.fits(older) {
                return true;
            }
            self.taken.pop();
        }
        false
    }
}

/// A write that is under way. `key` is `None` for all keys.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: Option<Vec<u8>>,
    id: u64,
}

impl History {
    fn list(&mut self, key: Option<&[u8]>) -> &mut Vec<Write> {
        match key {
            Some(key) => self.keys.entry(key.to_vec()).or_default(),
            None => &mut self.all_keys,
        }
    }

    /// The writes of a key. A value without a key gets an id, which is known with its reply.
    fn of(&self, key: &[u8]) -> impl Iterator<Item = &Write> {
        let new_ids = if key.len() == 8 { self.keys.get([].as_slice()) } else { None };
        let new_ids = new_ids.into_iter().flatten().filter(|write| write.value != Value::Missing);
        self.keys.get(key).into_iter().flatten().chain(new_ids)
    }

    /// A write was asked for.
    pub fn begin(
        &mut self,
        namespace: Option<&[u8]>,
        key: Option<&[u8]>,
        value: Value,
        begun: Moment,
    ) -> Ticket {
        self.next += 1;
        let id = self.next;
        let namespace = namespace.map(<[u8]>::to_vec);
        let write = Write { id, namespace, value, begun, ended: Moment::MAX, certain: false };
        self.list(key).push(write);
        Ticket { key: key.map(<[u8]>::to_vec), id }
    }

    fn find(&mut self, ticket: &Ticket) -> Option<&mut Write> {
        self.list(ticket.key.as_deref()).iter_mut().find(|write| write.id == ticket.id)
    }

    /// It took effect in that namespace.
    pub fn succeeded(&mut self, ticket: &Ticket, namespace: &[u8], now: Moment) {
        if let Some(write) = self.find(ticket) {
            write.namespace.get_or_insert_with(|| namespace.to_vec());
            write.ended = now;
            write.certain = write.value != Value::Any;
        }
    }

    /// It is over, and nobody knows whether it took effect.
    pub fn ended(&mut self, ticket: &Ticket, now: Moment) {
        if let Some(write) = self.find(ticket) {
            write.ended = now;
        }
    }

    /// It surely did nothing.
    pub fn refused(&mut self, ticket: &Ticket) {
        let id = ticket.id;
        self.list(ticket.key.as_deref()).retain(|write| write.id != id);
    }

    /// The server is gone: what was under way did happen, or never will. Of what was acknowledged after
    /// `kept_until`, nobody knows whether it is still there.
    pub fn restarted(&mut self, kept_until: Moment, now: Moment) {
        for write in self.keys.values_mut().flatten().chain(&mut self.all_keys) {
            if write.ended == Moment::MAX {
                write.ended = now;
            }
            write.certain &= write.ended <= kept_until;
        }
    }

    /// A start saw wrong bytes: anything that was ever written may be there.
    pub fn forget_order(&mut self) {
        self.settled.clear();
        for write in self.keys.values_mut().flatten().chain(&mut self.all_keys) {
            write.certain = false;
        }
    }

    /// All writes to a namespace until now are told by what is found in it.
    pub fn settle(&mut self, namespace: &[u8], now: Moment) {
        self.settled.insert(namespace.to_vec(), now);
    }

    /// A key was found to have this value since `now`.
    pub fn found(&mut self, namespace: &[u8], key: &[u8], value: Value, now: Moment) {
        let write = self.begin(Some(namespace), Some(key), value, now);
        self.succeeded(&write, namespace, now);
    }

    /// All keys that somebody ever wrote to, in their order.
    pub fn keys(&self) -> BTreeSet<Vec<u8>> {
        self.keys.keys().filter(|key| !key.is_empty()).cloned().collect()
    }

    /// The writes of a key that count in a namespace.
    fn ours(&self, namespace: &[u8], key: &[u8]) -> Vec<&Write> {
        let settled = self.settled.get(namespace).copied().unwrap_or(0);
        let all = self.of(key).chain(&self.all_keys);
        all.filter(|write| {
            write.begun > settled && write.namespace.as_deref().is_none_or(|name| name == namespace)
        })
        .collect()
    }

    /// When a key may have got its present value: the first and the last possible moment.
    pub fn written_between(
        &self,
        namespace: &[u8],
        key: &[u8],
        seen: &Seen<'_>,
    ) -> (Moment, Moment) {
        let ours = self.ours(namespace, key);
        let fitting = ours.iter().filter(|write| write.value.explains(seen));
        let (mut first, mut last) = (Moment::MAX, 0);
        for write in fitting {
            first = first.min(write.begun);
            last = last.max(write.ended);
        }
        (first, last)
    }

    /// Whether the versions of a key, from the newest on, can be these: each was written, in this order,
    /// nothing that ended the key lies between, and none that surely was there is missing. `is_whole`:
    /// the oldest of them says that there is none before it.
    pub fn check_versions(
        &self,
        namespace: &[u8],
        key: &[u8],
        versions: &[Vec<u8>],
        is_whole: bool,
    ) -> Result<(), String> {
        let ours = self.ours(namespace, key);
        let mut order =
            Order { ours: &ours, taken: Vec::new(), tries_left: ORDER_TRIES_MAX, told: None };
        if !order.fits(versions) {
            return Err(order.told.unwrap_or_default());
        }
        let taken = order.taken;
        let lost = ours.iter().find(|write| {
            let hidden = ours.iter().any(|end| {
                matches!(end.value, Value::Missing | Value::Any) && end.ended >= write.begun
            });
            let is_version = matches!(write.value, Value::Bytes(_)) && write.certain;
            // A value that is there already makes no version.
            is_version && !hidden && taken.iter().all(|other| other.value != write.value)
        });
        match lost {
            Some(write) if is_whole && versions.len() as u64 <= self.kept_versions(namespace) => {
                Err(format!(
                    "without the version of {}..{}: {:?}",
                    write.begun,
                    write.ended,
                    write.value.short()
                ))
            }
            _ => Ok(()),
        }
    }

    /// From now on the cleaner may drop versions of a namespace, but for so many of each key.
    pub fn may_drop(&mut self, namespace: &[u8], kept: u64) {
        let least = self.kept_versions.entry(namespace.to_vec()).or_insert(kept);
        *least = kept.min(*least);
    }

    /// How many versions before the newest one a namespace has in any case.
    pub fn kept_versions(&self, namespace: &[u8]) -> u64 {
        self.kept_versions.get(namespace).copied().unwrap_or(u64::MAX)
    }

    /// Whether a read between two moments can have seen this.
    pub fn check(
        &self,
        namespace: &[u8],
        key: &[u8],
        seen: &Seen<'_>,
        begun: Moment,
        now: Moment,
    ) -> Result<(), String> {
        let ours = self.ours(namespace, key);
        let last_certain = ours
            .iter()
            .filter(|write| write.certain && write.namespace.is_some() && write.ended < begun)
            .map(|write| write.begun)
            .max()
            .unwrap_or(0);
        let explained = ours.iter().any(|write| {
            write.begun <= now && write.ended >= last_certain && write.value.explains(seen)
        }) || (last_certain == 0 && matches!(seen, Seen::Missing));
        if explained {
            return Ok(());
        }
        let near: Vec<String> = ours
            .iter()
            .rev()
            .take(8)
            .map(|write| {
                let (value, certain) = (write.value.short(), write.certain);
                format!("  {value} in {}..{} certain {certain}", write.begun, write.ended)
            })
            .collect();
        let seen = shown(seen);
        Err(format!(
            "key {} of {} read between {begun} and {now} as {seen}, but was written:\n{}",
            key.escape_ascii(),
            namespace.escape_ascii(),
            near.join("\n")
        ))
    }

    /// Whether a key was ever asked to be written, with a value of that length.
    pub fn was_written(&self, key: &[u8], length: Option<usize>) -> bool {
        self.of(key).any(|write| match (&write.value, length) {
            (Value::Bytes(value), Some(length)) => value.len() == length,
            (Value::Missing, _) => false,
            _ => true,
        })
    }

    /// Whether these bytes were ever written to this key.
    pub fn was_value(&self, key: &[u8], bytes: &[u8]) -> bool {
        let seen = Seen::Bytes(bytes);
        self.of(key).any(|write| write.value.explains(&seen))
    }
}
