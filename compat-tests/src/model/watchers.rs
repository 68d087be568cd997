//! MONITOR, MIRROR, MASTER and WAIT: who is told what others do.

use super::watch::Replies;
use super::{Answer, Command, Model, Session, admin, open};
use crate::reply::Reply;
use bytes::Bytes;

pub(super) const COMMANDS: &[Command] = &[
    admin("MONITOR", Model::monitor),
    admin("MIRROR", Model::mirror),
    admin("MASTER", Model::master),
    open("WAIT", Model::wait),
    open("RESET", Model::reset),
];

const WAIT_MS: std::ops::RangeInclusive<u64> = 100..=1_800_000;
const OWNER_BYTES_MAX: usize = 32;
/// The model's instance id.
const INSTANCE: i64 = 1;
/// What mirrors are not sent.
const UNMIRRORED: &[&str] =
    &["DISCARD", "EXEC", "MULTI", "PSUBSCRIBE", "PUNSUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE"];
const REDACTED: &[u8] = b"(redacted)";

/// A connection that waits for a command; none: for any.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    connection: u64,
    command: Option<&'static str>,
}

impl Model {
    /// The request of a MASTER without its owner.
    pub(super) fn split_owner<'a, 'b>(
        &mut self,
        session: &Session,
        arguments: &'a [&'b [u8]],
    ) -> Result<&'a [&'b [u8]], &'static str> {
        self.watch.owner = INSTANCE;
        if !session.watcher.is_master {
            return Ok(arguments);
        }
        let (owner, rest) = arguments.split_last().expect("a request has words");
        if rest.is_empty() {
            return Err("Missing arguments");
        }
        if owner.len() > OWNER_BYTES_MAX {
            return Err("Argument too long");
        }
        let owner = std::str::from_utf8(owner).ok().and_then(|text| text.parse().ok());
        self.watch.owner = owner.unwrap_or(0);
        Ok(rest)
    }

    /// Called after each known command, however it was answered: what others see of it goes into
    /// `Watch::pushed`.
    pub(super) fn show_watchers(
        &mut self,
        session: &Session,
        command: &'static str,
        arguments: &[&[u8]],
    ) {
        self.watch.places.insert(session.id, session.namespace);
        if command != "MONITOR" && !self.watch.monitors.is_empty() {
            let mut line =
                format!("{}.{:06} [0 model:1]", self.now.as_secs(), self.now.subsec_micros());
            for word in redacted(arguments, true) {
                line.push_str(&format!(" \"{}\"", String::from_utf8_lossy(word)));
            }
            for connection in self.watch.monitors.clone() {
                self.watch.pushed.push((connection, Reply::Simple(line.clone())));
            }
        }
        if self.watch.owner != 0 && !UNMIRRORED.contains(&command) {
            let namespace = self.namespaces.iter().find(|one| one.id == session.namespace);
            let mut reply = vec![
                Reply::Integer(self.now.as_secs() as i64),
                Reply::Bulk(namespace.map_or(Bytes::new(), |one| one.name.clone())),
                Reply::Integer(self.watch.owner),
            ];
            reply.extend(redacted(arguments, false).into_iter().map(Reply::bulk));
            for connection in self.watch.mirrors.clone() {
                if connection != session.id {
                    self.watch.pushed.push((connection, Reply::Array(reply.clone())));
                }
            }
        }
        let places = &self.watch.places;
        let (fired, waiting) = self.watch.waits.drain(..).partition(|wait: &Wait| {
            wait.connection != session.id
                && wait.command.is_none_or(|wanted| wanted == command)
                && places.get(&wait.connection) == Some(&session.namespace)
        });
        self.watch.waits = waiting;
        let fired: Vec<Wait> = fired;
        for wait in fired {
            self.watch.pushed.push((wait.connection, Reply::Simple(command.into())));
        }
    }

    /// Time passes until everybody has waited long enough.
    pub fn end_waits(&mut self) {
        for wait in std::mem::take(&mut self.watch.waits) {
            self.watch.pushed.push((wait.connection, Reply::error("Timeout")));
        }
    }

    fn monitor(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if arguments.len() != 1 {
            return Err("Unexpected arguments");
        }
        self.watch.monitors.push(session.id);
        Ok(Reply::ok())
    }

    fn mirror(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        self.watch.mirrors.push(session.id);
        Ok(Reply::Simple("Starting mirroring".into()))
    }

    fn master(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        session.watcher.is_master = true;
        Ok(Reply::Simple("Hello, master".into()))
    }

    fn wait(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if let [_, count, timeout] = arguments
            && count.first().is_some_and(u8::is_ascii_digit)
        {
            let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
            let is_valid =
                number(count).is_some() && number(timeout).is_some_and(|ms| ms <= 1_800_000);
            return if is_valid { Ok(Reply::Integer(0)) } else { Err("Invalid timeout") };
        }
        let (name, timeout) = match arguments {
            [_, name] => (*name, &b"5000"[..]),
            [_, name, timeout] => (*name, *timeout),
            _ => return Err("Invalid arguments"),
        };
        let command = match name {
            b"" | b"*" => None,
            name => Some(
                Model::command_names()
                    .find(|known| known.as_bytes().eq_ignore_ascii_case(name))
                    .ok_or("Unknown command to watch")?,
            ),
        };
        let timeout = std::str::from_utf8(timeout).ok().and_then(|text| text.parse().ok());
        timeout.filter(|ms| WAIT_MS.contains(ms)).ok_or("Invalid timeout")?;
        self.watch.waits.retain(|wait| wait.connection != session.id);
        self.watch.waits.push(Wait { connection: session.id, command });
        session.silent = true;
        Ok(Reply::Nil)
    }

    fn reset(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if arguments.len() != 1 {
            return Err("Unexpected arguments");
        }
        self.watch.monitors.retain(|id| *id != session.id);
        self.watch.mirrors.retain(|id| *id != session.id);
        self.watch.waits.retain(|wait| wait.connection != session.id);
        self.subscribers.remove(&session.id);
        session.transaction = None;
        session.namespace = 0;
        session.admin = self.options.admin.is_none();
        session.authenticated = false;
        session.writable = !self.options.protect;
        session.challenge = None;
        session.protocol = 2;
        session.watcher.name = Bytes::new();
        session.watcher.is_master = false;
        session.watcher.replies = Replies::On;
        Ok(Reply::Simple("RESET".into()))
    }
}

/// The words of a request without its passwords.
fn redacted<'a>(arguments: &[&'a [u8]], hides_nsset: bool) -> Vec<&'a [u8]> {
    let mut words = arguments.to_vec();
    let is = |at: usize, word: &str| {
        arguments.get(at).is_some_and(|given| given.eq_ignore_ascii_case(word.as_bytes()))
    };
    let first = if is(0, "AUTH") {
        if !is(1, "SECURE") {
            1
        } else if is(2, "CHALLENGE") {
            words.len()
        } else {
            2
        }
    } else if is(0, "SELECT") {
        if is(2, "SECURE") { 3 } else { 2 }
    } else if is(0, "NSSET") && is(2, "password") && hides_nsset {
        3
    } else {
        words.len()
    };
    words.iter_mut().skip(first).for_each(|word| *word = REDACTED);
    if is(0, "HELLO") {
        for at in (2..words.len()).filter(|at| is(*at, "AUTH")) {
            words.iter_mut().skip(at + 1).take(2).for_each(|word| *word = REDACTED);
        }
    }
    words
}
