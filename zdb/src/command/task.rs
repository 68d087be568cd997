//! Requests that wait for the disk. A task belongs to a place in the reply queue of a connection and
//! ends by filling it.

use super::keys::{self, Next, Verb};
use super::raw::{self, Raw};
use super::scan::{self, Scan};
use crate::engine::index::Place;
use crate::engine::log::format::{self, FLAG_UNVERIFIED, Kind, Verified};
use crate::engine::{Answer, Engine, Fetched, ReadFailure, Waiter};
use crate::output::Output;
use crate::resp::Protocol;
use bytes::Bytes;
use std::collections::HashMap;

/// A place in the reply queue of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRef {
    pub connection: u64,
    /// Number of the reply, counted over the life of the connection.
    pub reply: u64,
}

pub struct Task {
    pub client: ClientRef,
    pub protocol: Protocol,
    pub slot: usize,
    pub namespace: u32,
    pub kind: TaskKind,
}

pub enum TaskKind {
    Read {
        verb: Verb,
        key: Box<[u8]>,
        is_dead: bool,
        /// The newest record of the key's hash when the walk down from it began.
        head: Option<Place>,
    },
    History {
        key: Box<[u8]>,
        head: Option<Place>,
        /// The version that the client asked for by token.
        token: Option<Place>,
        /// The version to show, once it was read; then the one before it is looked at.
        version: Option<Bytes>,
    },
    Scan(Box<Scan>),
    /// CONFIG REWRITE.
    WriteFile,
    Raw(Box<Raw>),
}

#[derive(Default)]
pub struct Tasks {
    tasks: HashMap<u64, Task>,
    next: u64,
}

/// A reply that is ready, and the position of the log that it rests on.
pub struct Finished {
    pub client: ClientRef,
    pub output: Output,
    pub rests_on: u64,
}

impl Tasks {
    pub fn add(&mut self, task: Task) -> Waiter {
        self.next += 1;
        self.tasks.insert(self.next, task);
        Waiter::Task { task: self.next, part: 0 }
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Hands an answer to its task. Returns the reply if that was the last one it needed.
    pub fn resume(
        &mut self,
        engine: &mut Engine,
        id: u64,
        part: usize,
        answer: Answer,
    ) -> Option<Finished> {
        let mut task = self.tasks.remove(&id)?;
        let mut output = Output::default();
        let again = Waiter::Task { task: id, part: 0 };
        let rests_on = match advance(engine, &mut task, part, answer, again, &mut output) {
            Step::Finished { rests_on } => {
                if matches!(task.kind, TaskKind::Scan(_) | TaskKind::Raw(_)) {
                    engine.end_walk();
                }
                rests_on
            }
            Step::Waiting => {
                self.tasks.insert(id, task);
                return None;
            }
        };
        Some(Finished { client: task.client, output, rests_on })
    }
}

pub enum Step {
    Waiting,
    Finished { rests_on: u64 },
}

fn advance(
    engine: &mut Engine,
    task: &mut Task,
    part: usize,
    answer: Answer,
    again: Waiter,
    out: &mut Output,
) -> Step {
    if let TaskKind::Scan(scan) = &mut task.kind {
        return scan::advance(engine, scan, part, answer, again, out);
    }
    if let TaskKind::Raw(raw) = &mut task.kind {
        return raw::advance(engine, raw, answer, again, out);
    }
    if let Answer::Written(result) = &answer {
        let mut writer = out.writer(task.protocol);
        match result {
            Ok(()) => writer.simple("OK"),
            Err(error) => writer.error(&format!("Rewriting config file: {error}")),
        }
        return Step::Finished { rests_on: 0 };
    }
    let Answer::Record(fetched) = answer else { unreachable!("the others ask for records") };
    if let Some(place) = newer_head(engine, task, &fetched) {
        fetch(engine, again, Some(task.namespace), place, 0);
        return Step::Waiting;
    }
    match &task.kind {
        TaskKind::Read { verb, key, is_dead, .. } => {
            match keys::resume(engine, task, (*verb, *is_dead), key, &fetched, out) {
                Next::Finished { rests_on } => Step::Finished { rests_on },
                Next::Read(place) => {
                    // It may not be on the disk yet.
                    fetch(engine, again, Some(task.namespace), place, 0);
                    Step::Waiting
                }
            }
        }
        TaskKind::History { .. } => history(engine, task, fetched, again, out),
        TaskKind::Scan(_) | TaskKind::Raw(_) | TaskKind::WriteFile => {
            unreachable!("handled above")
        }
    }
}

/// Where a walk begins anew that came to a version which the cleaner dropped: while it read the records of
/// another key with the same hash its own key got a newer version. `None`: there is none.
fn newer_head(engine: &Engine, task: &mut Task, fetched: &Fetched) -> Option<Place> {
    if !matches!(fetched.record, Err(ReadFailure::Gone)) {
        return None;
    }
    let namespace = engine.namespaces.get(task.slot).filter(|one| one.id == task.namespace)?;
    let (key, head, mut is_dead) = match &mut task.kind {
        TaskKind::Read { key, head: Some(head), is_dead, .. } => (key, head, Some(is_dead)),
        TaskKind::History { key, head: Some(head), version: None, .. } => (key, head, None),
        _ => return None,
    };
    let newest = engine.find(namespace, engine.hash(key))?;
    if newest.place == *head {
        return None;
    }
    *head = newest.place;
    if let Some(is_dead) = &mut is_dead {
        **is_dead = newest.is_dead();
    }
    Some(newest.place)
}

/// Gets a record from memory or asks the disk for it; either way it arrives as an answer.
pub fn fetch(engine: &mut Engine, waiter: Waiter, blame: Option<u32>, place: Place, bytes: u64) {
    let buffered = engine.log.buffered_from() <= place.get();
    if !buffered {
        return engine.fetch(waiter, blame, place, bytes, false);
    }
    let record = match engine.peek_checked(place) {
        Some(record) => Ok(Bytes::copy_from_slice(record.bytes())),
        None => Err(ReadFailure::Damaged(None)),
    };
    engine.answers.push((waiter, Answer::Record(Fetched { place, record })));
}

fn history(
    engine: &mut Engine,
    task: &mut Task,
    fetched: Fetched,
    again: Waiter,
    out: &mut Output,
) -> Step {
    let TaskKind::History { key, token, version, .. } = &mut task.kind else {
        unreachable!("called for histories")
    };
    let finished = Step::Finished { rests_on: 0 };
    let mut writer = out.writer(task.protocol);
    let Ok(bytes) = &fetched.record else {
        let is_gone = matches!(fetched.record, Err(ReadFailure::Gone));
        let is_away = matches!(fetched.record, Err(ReadFailure::Away));
        match (&version, &token) {
            (Some(shown), _) if is_gone => return show(shown, None, task.protocol, out),
            // The version before is lost, but there is one: its token says so when asked.
            (Some(shown), _) => return show(shown, Some(fetched.place), task.protocol, out),
            (None, Some(_)) if is_gone => writer.error("No more history"),
            (None, _) if is_away => writer.error(super::AWAY),
            (None, Some(_)) => writer.error("Invalid arguments (index query)"),
            (None, None) => writer.error("Internal Error"),
        }
        return finished;
    };
    let record = Verified::trusted(bytes);
    let ours = record.key() == &**key && record.head.namespace == task.namespace;
    let below = (record.head.flags & FLAG_UNVERIFIED != 0 && !record.head.previous.is_none())
        .then_some(record.head.previous);
    if let Some(shown) = version {
        // This is the record below the one to show.
        return match (ours, record.head.kind, below) {
            (true, Kind::Set, _) => show(shown, Some(fetched.place), task.protocol, out),
            (false, _, Some(place)) => {
                fetch(engine, again, Some(task.namespace), place, 0);
                Step::Waiting
            }
            _ => show(shown, None, task.protocol, out),
        };
    }
    if token.is_some() && (!ours || record.head.kind != Kind::Set) {
        writer.error("Invalid arguments (invalid key)");
        return finished;
    }
    if !ours {
        return match below {
            Some(place) => {
                fetch(engine, again, Some(task.namespace), place, 0);
                Step::Waiting
            }
            None => {
                writer.error("Key not found");
                finished
            }
        };
    }
    if record.head.kind != Kind::Set {
        writer.error("Key not found");
        return finished;
    }
    match below {
        // Only the hash says that the record below is of this key: look.
        Some(place) => {
            *version = Some(bytes.clone());
            fetch(engine, again, Some(task.namespace), place, 0);
            Step::Waiting
        }
        None => {
            let previous = record.head.previous;
            show(bytes, (!previous.is_none()).then_some(previous), task.protocol, out)
        }
    }
}

/// Writes a version of a key with the token of the one before.
fn show(shown: &Bytes, previous: Option<Place>, protocol: Protocol, out: &mut Output) -> Step {
    let record = Verified::trusted(shown);
    let mut writer = out.writer(protocol);
    writer.array(3);
    match previous {
        Some(place) => writer.bulk(&place.get().to_le_bytes()),
        None => writer.nil(),
    }
    writer.bulk(record.head.timestamp.to_string().as_bytes());
    out.bulk(protocol, record.payload(), Some(shown));
    let position = record.head.sequence * format::ALIGN;
    Step::Finished { rests_on: position + record.head.bytes() }
}
