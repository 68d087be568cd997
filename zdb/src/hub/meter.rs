//! What requests cost in time. A clock costs as much as a tenth of a GET, so that it is read once before
//! and once after the requests that are parsed together, and these share the time; commands that are not
//! flagged as fast are timed alone. A request that waits for the disk is timed until its reply is there.

use super::Hub;
use super::connection::Connection;
use crate::command::{Session, kept_arguments};
use crate::resp::Request;
use std::collections::VecDeque;

/// What was run since `since_ns`.
#[derive(Default)]
pub(super) struct Meter {
    pub since_ns: u64,
    /// Time of those that were timed alone.
    alone_ns: u64,
    /// The fast commands that ran, and which of the requests parsed together each was.
    ran: Vec<(u8, u8)>,
    /// Which of the requests parsed together runs now.
    pub at: u8,
    commits: VecDeque<Commit>,
}

/// Replies of one turn that wait for the log.
struct Commit {
    turn: u64,
    end: u64,
    since_ns: u64,
    count: u64,
}

/// A request whose reply a task will bring.
pub struct Timed {
    pub command: u8,
    since_ns: u64,
    /// Where the slow log may want them.
    arguments: Option<Vec<Vec<u8>>>,
}

impl Hub {
    pub(super) fn clock_ns(&self) -> u64 {
        (self.server.machine.clock_ns)()
    }

    /// The time from which a request is of interest to the slow log or the latency monitor.
    #[inline]
    fn slow_ns(&self) -> u64 {
        let settings = &self.server.settings;
        let slow_ns = match settings.slowlog_slower_than_us {
            ..0 => u64::MAX,
            us => (us as u64).saturating_mul(1000),
        };
        match settings.latency_threshold_ms {
            0 => slow_ns,
            ms => slow_ns.min(ms.saturating_mul(1_000_000)),
        }
    }

    /// Counts a request that has run, and its time where it is timed alone.
    #[inline]
    pub(super) fn ran(&mut self, connection: &Connection, request: Request<'_>) {
        let running = connection.session.running;
        let Some(command) = running.command else { return };
        match running.since_ns {
            _ if running.is_rejected => {}
            None => self.meter.ran.push((command, self.meter.at)),
            Some(since_ns) => self.ran_alone(connection, request, command, since_ns),
        }
    }

    /// Counts a request that was timed alone.
    pub(super) fn ran_alone(
        &mut self,
        connection: &Connection,
        request: Request<'_>,
        command: u8,
        since_ns: u64,
    ) {
        let end_ns = self.clock_ns();
        let took_ns = end_ns.saturating_sub(since_ns);
        self.meter.alone_ns += took_ns.min(end_ns.saturating_sub(self.meter.since_ns));
        self.server.latencies.record(usize::from(command), took_ns, 1);
        if took_ns >= self.slow_ns() {
            self.note_slow(&connection.session, kept_arguments(request), command, took_ns);
        }
    }

    /// Shares the time since the last call among the fast requests that ran.
    #[inline]
    pub(super) fn charge<'a>(
        &mut self,
        connection: &Connection,
        request: impl Fn(usize) -> Request<'a>,
    ) {
        let count = self.meter.ran.len() as u64;
        if count == 0 && self.meter.alone_ns == 0 {
            return;
        }
        let end_ns = self.clock_ns();
        let shared_ns = (end_ns - self.meter.since_ns).saturating_sub(self.meter.alone_ns);
        self.meter.since_ns = end_ns;
        self.meter.alone_ns = 0;
        if count == 0 {
            return;
        }
        let each_ns = shared_ns / count;
        let mut ran = std::mem::take(&mut self.meter.ran);
        for same in ran.chunk_by(|one, next| one.0 == next.0) {
            self.server.latencies.record(usize::from(same[0].0), each_ns, same.len() as u64);
        }
        if each_ns >= self.slow_ns() {
            for (command, at) in &ran {
                let arguments = kept_arguments(request(usize::from(*at)));
                self.note_slow(&connection.session, arguments, *command, each_ns);
            }
        }
        ran.clear();
        self.meter.ran = ran;
    }

    fn note_slow(&mut self, session: &Session, arguments: Vec<Vec<u8>>, command: u8, took_ns: u64) {
        let server = &mut self.server;
        let settings = &server.settings;
        let now_s = self.engine.now.unix_s();
        let (took_us, took_ms) = (took_ns / 1000, took_ns / 1_000_000);
        if u64::try_from(settings.slowlog_slower_than_us).is_ok_and(|slow_us| took_us >= slow_us) {
            let entries_max = settings.slowlog_entries_max;
            server.slow_log.add(session, arguments, (now_s, took_us), entries_max);
        }
        if settings.latency_threshold_ms > 0 && took_ms >= settings.latency_threshold_ms {
            let is_fast = server.table.is_fast(usize::from(command));
            let event = if is_fast { "fast-command" } else { "command" };
            server.latencies.note_event(event, now_s, took_ms);
        }
    }

    /// A request whose reply a task will bring.
    pub(super) fn timed(
        &self,
        connection: &Connection,
        request: Request<'_>,
    ) -> Option<Box<Timed>> {
        let running = connection.session.running;
        let since_ns = running.since_ns.unwrap_or(self.meter.since_ns);
        let arguments = (self.slow_ns() < u64::MAX).then(|| kept_arguments(request));
        Some(Box::new(Timed { command: running.command?, since_ns, arguments }))
    }

    /// The reply of such a request is there.
    pub(super) fn task_ended(&mut self, key: u64, timed: Timed) {
        let took_ns = self.clock_ns().saturating_sub(timed.since_ns);
        self.server.latencies.record(usize::from(timed.command), took_ns, 1);
        if took_ns >= self.slow_ns()
            && let Some(connection) = self.take(key)
        {
            let arguments = timed.arguments.unwrap_or_default();
            self.note_slow(&connection.session, arguments, timed.command, took_ns);
            self.put_back(connection);
        }
    }

    /// A reply waits until the log is acknowledged up to `end`.
    pub(super) fn commit_begins(&mut self, end: u64) {
        let turn = self.turn;
        match self.meter.commits.back_mut() {
            Some(commit) if commit.turn == turn => {
                commit.end = commit.end.max(end);
                commit.count += 1;
            }
            _ => {
                let since_ns = self.meter.since_ns;
                self.meter.commits.push_back(Commit { turn, end, since_ns, count: 1 });
            }
        }
    }

    /// The log has moved.
    pub(super) fn commits_end(&mut self) {
        if self.meter.commits.is_empty() {
            return;
        }
        let acknowledged = self.engine.log.acknowledged();
        let now_ns = self.clock_ns();
        while let Some(commit) = self.meter.commits.front() {
            let is_broken = self.engine.log.broken().is_some();
            if commit.end > acknowledged && !is_broken {
                return;
            }
            let took_ns = now_ns.saturating_sub(commit.since_ns);
            self.server.latencies.commit.record(took_ns, commit.count);
            let threshold_ms = self.server.settings.latency_threshold_ms;
            if threshold_ms > 0 && took_ns / 1_000_000 >= threshold_ms {
                let now_s = self.engine.now.unix_s();
                self.server.latencies.note_event("commit", now_s, took_ns / 1_000_000);
            }
            self.meter.commits.pop_front();
        }
    }
}
