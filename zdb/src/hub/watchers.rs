//! Connections that are told what others do, or wait for it: MONITOR, MIRROR, WAIT, CLIENT PAUSE. While
//! there are none of them, all this costs a request one branch.

use super::Hub;
use super::connection::{Blocked, Connection};
use crate::command::{Audience, COMMANDS, Replies, Running, quoted, redacted};
use crate::engine::index::KeyHash;
use crate::limits::{
    MONITOR_WORD_BYTES_MAX, OUTPUT_BYTES_LAST_MAX, OUTPUT_BYTES_SHARE, OWNER_BYTES_MAX,
};
use crate::output::Output;
use crate::resp::{Protocol, Request};
use std::fmt::Write;

/// Commands that a pause lets through: they end it.
const UNPAUSED: &[&str] = &["auth", "client", "hello", "ping", "quit", "reset", "shutdown", "stop"];

/// Commands that a peer is not sent: they are about the connection they come on, and would turn the peer's into one
/// that takes no other requests. What is between MULTI and EXEC it is sent when that is run.
const UNMIRRORED: &[&str] =
    &["discard", "exec", "multi", "psubscribe", "punsubscribe", "subscribe", "unsubscribe"];

#[derive(Default)]
pub(super) struct Watchers {
    monitors: Vec<u64>,
    mirrors: Vec<u64>,
    waits: Vec<Wait>,
    pause: Option<Pause>,
    /// Connections whose next request waits for the end of the pause.
    held: Vec<u64>,
    /// Who owns the request that runs, where its connection is a MASTER.
    pub owner: Option<u64>,
    /// Whether there is any of them.
    pub is_needed: bool,
}

struct Wait {
    connection: u64,
    /// By its place in the table; none: any.
    command: Option<usize>,
    until_ms: u64,
}

struct Pause {
    until_ms: u64,
    all: bool,
}

impl Watchers {
    pub fn monitor(&mut self, key: u64) {
        if !self.monitors.contains(&key) {
            self.monitors.push(key);
        }
    }

    pub fn mirror(&mut self, key: u64) {
        if !self.mirrors.contains(&key) {
            self.mirrors.push(key);
        }
    }

    /// A later one takes the place of an earlier one.
    pub fn wait(&mut self, connection: u64, command: Option<usize>, until_ms: u64) {
        self.waits.retain(|wait| wait.connection != connection);
        self.waits.push(Wait { connection, command, until_ms });
    }

    pub fn pause(&mut self, until_ms: u64, all: bool) {
        self.pause = Some(Pause { until_ms, all });
    }

    pub fn unpause(&mut self) {
        self.pause = None;
    }

    /// This connection watches nothing any more.
    pub fn forget(&mut self, key: u64) {
        self.monitors.retain(|one| *one != key);
        self.mirrors.retain(|one| *one != key);
        self.waits.retain(|wait| wait.connection != key);
        self.held.retain(|one| *one != key);
    }

    pub fn is_waiting(&self, key: u64) -> bool {
        self.waits.iter().any(|wait| wait.connection == key)
    }
}

impl Hub {
    /// The lists have changed.
    pub(super) fn watchers_changed(&mut self) {
        let watchers = &mut self.watchers;
        watchers.is_needed = !watchers.monitors.is_empty()
            || !watchers.mirrors.is_empty()
            || !watchers.waits.is_empty()
            || !watchers.held.is_empty()
            || watchers.pause.is_some();
        self.server.stats.clients_blocked = (watchers.waits.len() + watchers.held.len()) as u64;
    }

    /// When `settle` has something to do without anything else happening.
    pub fn deadline_ms(&self) -> Option<u64> {
        let engine_ms = self.engine.deadline_ms();
        let engine_ms = engine_ms.into_iter().chain(self.replication_deadline_ms()).min();
        if !self.watchers.is_needed {
            return engine_ms;
        }
        let waits = self.watchers.waits.iter().map(|wait| wait.until_ms);
        waits.chain(self.watchers.pause.as_ref().map(|pause| pause.until_ms)).chain(engine_ms).min()
    }

    /// Ends what has waited for long enough, and lets those go on that a pause held.
    pub(super) fn run_deadlines(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        while let Some(at) = self.watchers.waits.iter().position(|wait| wait.until_ms <= now_ms) {
            let wait = self.watchers.waits.remove(at);
            self.end_wait(wait.connection, |output, protocol| {
                output.writer(protocol).error("Timeout")
            });
        }
        if self.watchers.pause.as_ref().is_some_and(|pause| pause.until_ms <= now_ms) {
            self.watchers.pause = None;
        }
        if self.watchers.pause.is_none() {
            for key in std::mem::take(&mut self.watchers.held) {
                if let Some(connection) = self.get_mut(key) {
                    connection.blocked = Blocked::No;
                    self.resume(key);
                }
            }
        }
        self.watchers_changed();
    }

    fn end_wait(&mut self, key: u64, write: impl FnOnce(&mut Output, Protocol)) {
        let Some(connection) = self.get_mut(key) else { return };
        connection.is_watching = connection.session.is_monitor || connection.session.is_mirror;
        let mut output = Output::default();
        write(&mut output, connection.session.protocol);
        self.push(key, output);
    }

    /// Sends a client what it did not just ask for, as it asked before. Whoever does not take it in time
    /// is let go, as there is no request to hold back.
    pub fn push(&mut self, key: u64, output: Output) {
        let Some(mut connection) = self.take(key) else { return };
        self.push_to(&mut connection, output);
        self.touch(&mut connection);
        self.put_back(connection);
    }

    pub(super) fn push_to(&mut self, connection: &mut Connection, output: Output) {
        if connection.closing || connection.lingering || connection.session.is_muted() {
            return;
        }
        // Beyond that, not even a client that is within its own limit gets more until it has taken what it has.
        let is_crowded = self.output_bytes > OUTPUT_BYTES_LAST_MAX
            && connection.pending_bytes() > OUTPUT_BYTES_SHARE;
        if !is_crowded && connection.push(output) {
            connection.release(self.engine.log.acknowledged(), false);
        } else if !connection.is_overrun {
            connection.is_overrun = true;
            connection.closing = true;
            self.server.stats.output_limit_disconnections += 1;
        }
    }

    /// Runs a request where somebody watches, or of a client that is not like others.
    pub(super) fn execute_watched(
        &mut self,
        connection: &mut Connection,
        request: Request<'_>,
        hash: Option<KeyHash>,
    ) -> bool {
        if self.is_paused_for(connection, request) {
            connection.blocked = Blocked::OnPause;
            self.watchers.held.push(connection.key);
            self.watchers_changed();
            return false;
        }
        if connection.session.replies == Replies::SkipNext {
            connection.session.replies = Replies::Skip;
        }
        let (request, owner) = match Self::split_owner(connection, request) {
            Ok(split) => split,
            Err(text) => {
                connection.session.running = Running::default();
                self.step(connection, None, |context, out| context.error(out, text));
                self.end_skip(connection);
                return true;
            }
        };
        self.watchers.owner = owner;
        let is_done = self.execute_plain(connection, request, hash);
        if is_done {
            self.end_skip(connection);
            if self.watchers.is_needed {
                self.show(connection, request, owner);
            }
        }
        is_done
    }

    fn end_skip(&self, connection: &mut Connection) {
        if connection.session.replies == Replies::Skip {
            connection.session.replies = Replies::On;
        }
    }

    fn is_paused_for(&self, connection: &Connection, request: Request<'_>) -> bool {
        let Some(pause) = &self.watchers.pause else { return false };
        let Some(command) = self.server.table.find(request.get(0)) else { return false };
        let is_meant = pause.all || command.flags.contains(&"write");
        is_meant && connection.parts == 0 && !UNPAUSED.contains(&command.name)
    }

    /// The request of a MASTER without its owner, and that.
    fn split_owner<'a>(
        connection: &Connection,
        request: Request<'a>,
    ) -> Result<(Request<'a>, Option<u64>), &'static str> {
        if !connection.session.is_master {
            return Ok((request, None));
        }
        match request.split_last() {
            Some((rest, _)) if rest.is_empty() => Err("Missing arguments"),
            Some((_, owner)) if owner.len() > OWNER_BYTES_MAX => Err("Argument too long"),
            Some((rest, owner)) => {
                let owner = std::str::from_utf8(owner).ok().and_then(|text| text.parse().ok());
                Ok((rest, Some(owner.unwrap_or(0))))
            }
            None => Err("Missing arguments"),
        }
    }

    /// Tells the others of a request that was run, or refused.
    pub(super) fn show(
        &mut self,
        connection: &mut Connection,
        request: Request<'_>,
        owner: Option<u64>,
    ) {
        let Some(command) = connection.session.running.command else { return };
        let command = usize::from(command);
        let name = COMMANDS[command].name;
        if !self.watchers.monitors.is_empty() && name != "monitor" {
            let line = self.monitor_line(connection, request);
            for key in self.watchers.monitors.clone() {
                let mut output = Output::default();
                output.writer(Protocol::Resp2).simple(&line);
                match key == connection.key {
                    true => self.push_to(connection, output),
                    false => self.push(key, output),
                }
            }
        }
        let owner = owner.unwrap_or(u64::from(self.server.instance_id));
        if owner != 0 && !UNMIRRORED.contains(&name) {
            for key in self.watchers.mirrors.clone() {
                if key != connection.key {
                    self.push(key, self.mirrored(connection, request, owner));
                }
            }
        }
        let mut at = 0;
        while let Some(wait) = self.watchers.waits.get(at) {
            let key = wait.connection;
            let is_meant = key != connection.key && wait.command.is_none_or(|one| one == command);
            let namespace = connection.session.origin;
            if is_meant && self.get_mut(key).is_some_and(|one| one.session.origin == namespace) {
                self.watchers.waits.remove(at);
                let name = name.to_ascii_uppercase();
                self.end_wait(key, |output, protocol| output.writer(protocol).simple(&name));
            } else {
                at += 1;
            }
        }
        self.watchers_changed();
    }

    /// As Redis shows a request: time, place and address of the client, words in quotes.
    fn monitor_line(&self, connection: &Connection, request: Request<'_>) -> String {
        let now_us = self.engine.now.unix_us;
        let session = &connection.session;
        let mut line = String::new();
        write!(
            line,
            "{}.{:06} [{} {}]",
            now_us / 1_000_000,
            now_us % 1_000_000,
            session.slot,
            session.peer
        )
        .expect("writing to a string does not fail");
        for word in redacted(request, Audience::Operator) {
            line.push(' ');
            let shown = &word[..word.len().min(MONITOR_WORD_BYTES_MAX)];
            quoted(shown, &mut line);
            if shown.len() < word.len() {
                write!(line, "... ({} more bytes)", word.len() - shown.len())
                    .expect("writing to a string does not fail");
            }
        }
        line
    }

    /// A request for a peer: time, namespace, owner, words.
    fn mirrored(&self, connection: &Connection, request: Request<'_>, owner: u64) -> Output {
        let namespace = self.engine.namespaces.get(connection.session.slot);
        let mut output = Output::default();
        let mut writer = output.writer(Protocol::Resp2);
        writer.array(request.len() + 3);
        writer.integer(self.engine.now.unix_s() as i64);
        writer.bulk(namespace.map_or(b"", |namespace| &namespace.name));
        writer.integer(owner as i64);
        redacted(request, Audience::Peer).for_each(|word| writer.bulk(word));
        output
    }
}
