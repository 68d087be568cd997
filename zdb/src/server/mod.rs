//! The server: one ring, one loop. It moves bytes between sockets and the hub and carries the hub's
//! disk operations out. It knows nothing of commands or records.
//!
//! A turn: wait for completions, hand them to the hub, let the hub settle, hand in what came of it.

pub mod background;
mod bell;
pub mod crash;
mod encrypted;
pub mod hooks;
mod kernel_tls;
mod listener;
pub mod metrics;
pub mod process;
pub mod program;
mod ring;
mod tls;

pub use listener::{Listener, Wire};
pub use tls::{Tls, TlsFiles};

use crate::disk::aligned::AlignedBuffer;
use crate::disk::housekeeper::Housekeeper;
use crate::disk::{Completion, Done, FileId, Files, Operation, Root, Token};
use crate::engine::Now;
use crate::engine::log::format;
use crate::hub::{Encrypter, Hub};
use background::HangUp;
use bell::Bell;
use encrypted::Encryption;
use hooks::{Hook, HookThread, Report};
use metrics::{MetricsListener, MetricsThread};
use ring::{Event, Kind, Ring, Until};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tls::{Receive, TlsSession};

/// How many connections' requests one turn waits for at most.
const BATCH_MAX: usize = 16;
/// How long a closed connection is read from, so that its last reply is not lost to a reset.
const LINGER_MS: u64 = 1000;
/// How long a stop waits for clients to take their last replies.
const DRAIN_MS: u64 = 1000;
/// How long after a failed accept the next is tried, in milliseconds.
const ACCEPT_RETRY_MS: u64 = 100;
/// How often silent clients are looked for where there is a limit, in milliseconds.
const SILENCE_CHECK_MS: u64 = 1000;
/// Most slices of one message, far below the kernel's 1024.
const SLICES_MAX: usize = 64;

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Command,
    Signal(i32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// Replies still go out.
    Draining {
        until_ms: u64,
    },
    /// The log is being closed.
    Closing {
        begun: bool,
    },
}

/// A socket and the message that the kernel is sending from it.
struct Socket {
    descriptor: OwnedFd,
    slices: Vec<libc::iovec>,
    message: libc::msghdr,
    /// Boxed apart, as most connections have none.
    tls: Option<Box<TlsSession>>,
    /// The kernel's last record to the client, which it is sending or has sent.
    goodbye: Option<Box<kernel_tls::Alert>>,
}

pub struct Server {
    ring: Ring,
    hub: Hub,
    files: Arc<dyn Files>,
    housekeeper: Housekeeper,
    listeners: Vec<Listener>,
    sockets: HashMap<u64, Box<Socket>>,
    reads: HashMap<Token, AlignedBuffer>,
    started: Instant,
    hooks: Option<HookThread>,
    metrics: Option<MetricsThread>,
    signals: OwnedFd,
    signal_info: Box<[u8; process::SIGNAL_INFO_BYTES]>,
    hang_up: HangUp,
    wake: Bell,
    wake_count: Box<[u8; 8]>,
    /// Connections to close at a time, in its order.
    lingering: VecDeque<(u64, u64)>,
    /// Connections for whose bytes there was no buffer, in the order in which they are received from again.
    starved: VecDeque<u64>,
    /// Listeners whose accept failed, and when to try again.
    accept_retry: Vec<(u64, u64)>,
    /// When to look for clients that have been silent for too long, where there is a limit.
    silence_ms: u64,
    batch: usize,
    /// When the timer comes.
    timer_ms: Option<u64>,
    stop: Stop,
    ended: Ended,
    encryption: Encryption,
}

impl Server {
    pub fn new(
        mut hub: Hub,
        files: Arc<dyn Files>,
        listeners: Vec<Listener>,
        (hook, metrics, tls): (Option<Hook>, Option<MetricsListener>, Option<Tls>),
        (signals, hang_up): (OwnedFd, HangUp),
    ) -> Result<Self, String> {
        let wake = Bell::new()?;
        let bell = wake.clone();
        let housekeeper = Housekeeper::start(files.clone(), move || bell.ring())
            .map_err(|error| format!("cannot start the thread for files: {error}"))?;
        let hooks = hook
            .map(|hook| HookThread::start(hook, &mut hub.server.hooks, wake.clone()))
            .transpose()?;
        let metrics = metrics.map(|one| MetricsThread::start(one, wake.clone())).transpose()?;
        Ok(Self {
            ring: Ring::new()?,
            hub,
            files,
            housekeeper,
            listeners,
            sockets: HashMap::new(),
            reads: HashMap::new(),
            started: Instant::now(),
            hooks,
            metrics,
            signals,
            signal_info: Box::new([0; process::SIGNAL_INFO_BYTES]),
            hang_up,
            wake,
            wake_count: Box::new([0; 8]),
            lingering: VecDeque::new(),
            starved: VecDeque::new(),
            accept_retry: Vec::new(),
            silence_ms: 0,
            batch: 1,
            timer_ms: None,
            stop: Stop::No,
            ended: Ended::Command,
            encryption: Encryption::new(tls),
        })
    }

    /// Serves until a client or a signal stops it, and closes the log.
    pub fn run(mut self) -> Result<Ended, String> {
        self.read_signal();
        self.read_wake();
        for at in 0..self.listeners.len() {
            self.ring.accept(self.listeners[at].descriptor(), at as u64);
        }
        let mut events = Vec::new();
        let mut operations = Vec::new();
        let mut touched = Vec::new();
        loop {
            self.arm_timer();
            let is_idle = self.hub.is_settled() && self.starved.is_empty();
            // Who waits for the disk is not to wait for others as well.
            let batch_max = if self.hub.engine.is_reading() { 1 } else { self.batch };
            let batch = if is_idle { batch_max } else { 0 };
            self.ring.wait(batch).map_err(|error| format!("io_uring failed: {error}"))?;
            let now = self.now();
            self.hub.set_time(now);
            self.ring.take_events(&mut events);
            let mut requests = 0;
            for event in events.drain(..) {
                requests += usize::from(event.kind == Kind::Receive);
                self.handle(event);
            }
            self.batch = requests.clamp(1, BATCH_MAX);
            self.run_timers(now.monotonic_ms);
            self.feed_starved();
            // Looking after a connection can make room for its next requests.
            loop {
                self.step_stop(now.monotonic_ms);
                self.hub.settle();
                self.hub.take_operations(&mut operations);
                for (token, operation) in operations.drain(..) {
                    self.perform(token, operation);
                }
                self.hub.take_touched(&mut touched);
                if touched.is_empty() {
                    break;
                }
                for key in touched.drain(..) {
                    self.look_after(key);
                }
            }
            for notice in self.hub.engine.log.notices.drain(..) {
                process::warn(&notice);
            }
            for event in self.hub.engine.events.drain(..) {
                if let Some(hooks) = &self.hooks {
                    hooks.tell(event);
                }
            }
            if self.is_closed() {
                return self.finish();
            }
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { unix_us: unix.as_micros() as u64, monotonic_ms: self.now_ms() }
    }

    /// Of the clock that never goes back; zero is before the start.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Sees to it that a turn comes when something is due. A timer that comes too early costs a turn and
    /// is armed again; it is not cancelled.
    fn arm_timer(&mut self) {
        let stop = match self.stop {
            Stop::No | Stop::Closing { .. } => None,
            Stop::Draining { until_ms } => Some(until_ms),
        };
        let due = [
            self.hub.engine.log.deadline_ms(),
            self.hub.deadline_ms(),
            self.lingering.front().map(|(at, _)| *at),
            self.accept_retry.iter().map(|(at, _)| *at).min(),
            self.encryption.deadline_ms(),
            (self.hub.server.settings.timeout_s > 0).then_some(self.silence_ms),
            stop,
        ]
        .into_iter()
        .flatten()
        .min();
        let Some(due) = due else { return };
        if self.timer_ms.is_none_or(|armed| due < armed) {
            self.ring.timer(due.saturating_sub(self.now_ms()));
            self.timer_ms = Some(due);
        }
    }

    // ---------------------------------------------------------------- events

    fn handle(&mut self, event: Event) {
        match event.kind {
            Kind::Receive => self.received(event),
            Kind::Send => self.sent(event),
            Kind::Accept => self.accepted(event),
            Kind::Disk => self.disk_done(event),
            Kind::Cancel => {}
            Kind::Timer => self.timer_ms = None,
            Kind::Signal => self.signalled(event),
            Kind::Wake => {
                self.read_wake();
                while let Ok(completion) = self.housekeeper.done.try_recv() {
                    self.hub.completed(completion);
                }
                self.hear_of_hooks();
                self.answer_scrapers();
            }
        }
    }

    fn answer_scrapers(&mut self) {
        let Some(metrics) = &self.metrics else { return };
        while let Ok(ask) = metrics.asks.try_recv() {
            // Who asked may be gone.
            let _ = ask.send(self.hub.metrics());
        }
    }

    fn hear_of_hooks(&mut self) {
        let Some(hooks) = &self.hooks else { return };
        let runs = &mut self.hub.server.hooks;
        while let Ok(report) = hooks.reports.try_recv() {
            match report {
                Report::Begun(run) => runs.begun(run),
                Report::Ended { number, finished_s, status } => {
                    runs.ended(number, finished_s, status);
                }
            }
        }
    }

    fn accepted(&mut self, event: Event) {
        let at = event.key as usize;
        match event.outcome() {
            Ok(descriptor) => {
                // SAFETY: the kernel just made this descriptor for us.
                let socket = unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) };
                if self.stop == Stop::No {
                    self.welcome(at, socket);
                }
                if !event.more && self.stop == Stop::No {
                    self.ring.accept(self.listeners[at].descriptor(), event.key);
                }
            }
            Err(_) if self.stop != Stop::No => {}
            Err(error) => {
                let remedy = match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        ": raise the limit of open files (ulimit -n)"
                    }
                    _ => "",
                };
                process::warn(&format!("cannot accept a client: {error}{remedy}"));
                if !event.more {
                    let now_ms = self.now_ms();
                    self.accept_retry.push((now_ms + ACCEPT_RETRY_MS, event.key));
                }
            }
        }
    }

    fn welcome(&mut self, listener: usize, socket: OwnedFd) {
        let (descriptor, peer) = self.listeners[listener].welcome(socket);
        if self.hub.turns_away(&peer) {
            return;
        }
        let tls = match peer.encrypted {
            true => self.encryption.begin(descriptor.as_raw_fd()),
            false => None,
        };
        if peer.encrypted && tls.is_none() {
            return;
        }
        let name = self.hub.server.settings.verbose.then(|| peer.name.clone());
        let key = self.hub.connected(peer);
        if tls.is_some() {
            self.encryption.expect_handshake(key, self.now_ms());
        }
        if let Some(name) = name {
            process::say(&format!("client {key:x} connected from {name}"));
        }
        // SAFETY: msghdr is plain data, for which zeroes are valid.
        let message = unsafe { std::mem::zeroed() };
        let socket = Socket { descriptor, slices: Vec::new(), message, tls, goodbye: None };
        self.sockets.insert(key, Box::new(socket));
        self.adjust_receive(key);
    }

    fn received(&mut self, event: Event) {
        let key = event.key;
        let mut encrypter = Encrypter::Nobody;
        if let Some(connection) = self.hub.get_mut(key) {
            encrypter = connection.encrypter;
            if !event.more {
                connection.is_receiving = false;
                connection.is_cancelling = false;
            }
        }
        match event.outcome() {
            Ok(0) => self.hub.ended(key),
            Ok(length) => {
                let is_for_session = encrypter == Encrypter::Session;
                if let Some(buffer) = event.buffer.filter(|_| is_for_session) {
                    self.received_encrypted(key, buffer, length as usize);
                } else if let Some(buffer) = event.buffer {
                    self.hub.received(key, self.ring.received(buffer, length as usize));
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => self.starve(key),
                // Cancelled to slow the client down: it is armed again when wanted.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                    self.hub.resume(key);
                }
                _ if encrypter == Encrypter::Kernel => self.received_no_data(key, &error),
                _ => self.abandon(key),
            },
        }
        if let Some(buffer) = event.buffer {
            self.ring.recycle(buffer);
        }
    }

    /// More clients sent something than there are buffers: this one comes later.
    fn starve(&mut self, key: u64) {
        if let Some(connection) = self.hub.get_mut(key) {
            connection.is_starved = true;
            self.starved.push_back(key);
        }
    }

    /// Receives again from those for whom there was no buffer, from as many as there are buffers: all at
    /// once, every turn would ask the kernel for each of them in vain.
    fn feed_starved(&mut self) {
        let count = self.starved.len().min(ring::BUFFERS.into());
        for key in self.starved.drain(..count).collect::<Vec<_>>() {
            if let Some(connection) = self.hub.get_mut(key) {
                connection.is_starved = false;
                self.look_after(key);
            }
        }
    }

    fn sent(&mut self, event: Event) {
        let now_ms = self.hub.engine.now.monotonic_ms;
        let Some(connection) = self.hub.get_mut(event.key) else { return };
        if connection.encrypter == Encrypter::Session {
            return self.sent_encrypted(event);
        }
        match event.outcome() {
            Ok(count) => {
                connection.sent += count as usize;
                connection.active_ms = now_ms;
                let sent_all = connection.sent >= connection.sending.len();
                if sent_all {
                    connection.sending.clear();
                    connection.sent = 0;
                    connection.is_sending = false;
                } else {
                    self.send(event.key);
                }
                self.hub.server.stats.sent_bytes += count;
                // Only now there may be room for the replies of requests that wait.
                self.hub.resume(event.key);
            }
            Err(_) => {
                connection.is_sending = false;
                self.abandon(event.key);
            }
        }
    }

    /// A client that cannot be reached any more.
    fn abandon(&mut self, key: u64) {
        let Some(connection) = self.hub.get_mut(key) else { return };
        connection.closing = true;
        connection.eof = true;
        connection.lingering = true;
        if !connection.is_sending {
            connection.output.clear();
        }
        if let Some(socket) = self.sockets.get(&key) {
            // SAFETY: shutdown on an open socket touches no memory.
            unsafe { libc::shutdown(socket.descriptor.as_raw_fd(), libc::SHUT_RDWR) };
        }
        self.hub.resume(key);
    }

    // ---------------------------------------------------------------- connections after a turn

    /// Sends what is to be sent, reads or stops reading, closes what is finished.
    fn look_after(&mut self, key: u64) {
        let Some(connection) = self.hub.get_mut(key) else { return };
        connection.untouch();
        if (connection.is_overrun || connection.is_killed) && !connection.lingering {
            return self.abandon(key);
        }
        if connection.lingering {
            if connection.eof {
                return self.close(key);
            }
            return self.adjust_receive(key);
        }
        if connection.encrypter == Encrypter::Session {
            return self.look_after_encrypted(key);
        }
        if !connection.is_sending && !connection.output.is_empty() {
            std::mem::swap(&mut connection.output, &mut connection.sending);
            connection.is_sending = true;
            connection.sent = 0;
            return self.send_and_receive(key);
        }
        if connection.is_finished() {
            if connection.encrypter == Encrypter::Kernel && self.say_goodbye(key) {
                return self.adjust_receive(key);
            }
            return self.linger(key);
        }
        self.adjust_receive(key);
    }

    fn send_and_receive(&mut self, key: u64) {
        self.send(key);
        self.adjust_receive(key);
    }

    fn send(&mut self, key: u64) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        let Some(connection) = self.hub.get_mut(key) else { return };
        let descriptor = socket.descriptor.as_raw_fd();
        // Kernel TLS does not know MSG_WAITALL.
        let is_plain = connection.encrypter == Encrypter::Nobody;
        let until = if is_plain { Until::All } else { Until::Some };
        // The connection is boxed, `sending` is not touched until the completion and the connection not
        // removed before it, so the memory stays.
        if let Some(bytes) = connection.sending.plain() {
            let mut rest = &bytes[connection.sent..];
            // A lone client waits for nobody: its reply goes out at once, and the wait that follows is
            // for its next request alone, without the timer of a batch.
            if self.batch == 1 {
                let count = send_now(descriptor, rest);
                if count == rest.len() {
                    return self.sent(Event::of_send(key, count));
                }
                connection.sent += count;
                rest = &bytes[connection.sent..];
            }
            return self.ring.send(descriptor, key, (rest.as_ptr(), rest.len()), until);
        }
        let mut slices = Vec::new();
        connection.sending.slices(connection.sent, &mut slices);
        socket.slices.clear();
        socket.slices.extend(slices.iter().take(SLICES_MAX).map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        socket.message.msg_iov = socket.slices.as_mut_ptr();
        socket.message.msg_iovlen = socket.slices.len() as _;
        self.ring.send_message(descriptor, key, &raw const socket.message, until);
    }

    fn adjust_receive(&mut self, key: u64) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let Some(connection) = self.hub.get_mut(key) else { return };
        if connection.wants_input() {
            if !connection.is_receiving && !connection.is_starved {
                let descriptor = socket.descriptor.as_raw_fd();
                match socket.tls.as_ref().filter(|_| !connection.lingering).map(|one| one.receive())
                {
                    None | Some(Receive::Freely) => self.ring.receive(descriptor, key),
                    Some(Receive::AtMost(length)) => {
                        self.ring.receive_at_most(descriptor, key, length);
                    }
                    Some(Receive::Nothing) => return,
                }
                connection.is_receiving = true;
            }
        } else if connection.is_receiving && !connection.is_cancelling && !connection.eof {
            connection.is_cancelling = true;
            self.ring.cancel_receive(key);
        }
    }

    /// All is said: tells the client, and reads on for a while. Closing a socket with unread input would
    /// reset it, and take the last reply away from the client.
    fn linger(&mut self, key: u64) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let Some(connection) = self.hub.get_mut(key) else { return };
        connection.lingering = true;
        connection.closing = true;
        if connection.eof {
            return self.close(key);
        }
        // SAFETY: shutdown on an open socket touches no memory.
        unsafe { libc::shutdown(socket.descriptor.as_raw_fd(), libc::SHUT_WR) };
        let now_ms = self.now_ms();
        self.lingering.push_back((now_ms + LINGER_MS, key));
        self.adjust_receive(key);
    }

    /// Closes a socket that the kernel does not use any more; otherwise its last completion comes here
    /// again.
    fn close(&mut self, key: u64) {
        let Some(connection) = self.hub.get_mut(key) else { return };
        if connection.is_receiving {
            if let Some(socket) = self.sockets.get(&key) {
                // SAFETY: shutdown on an open socket touches no memory.
                unsafe { libc::shutdown(socket.descriptor.as_raw_fd(), libc::SHUT_RDWR) };
            }
            return;
        }
        if connection.is_sending {
            return;
        }
        self.sockets.remove(&key);
        self.hub.remove(key);
        if self.hub.server.settings.verbose {
            process::say(&format!("client {key:x} gone"));
        }
    }

    // ---------------------------------------------------------------- the disk

    fn perform(&mut self, token: Token, operation: Operation) {
        match operation {
            Operation::Write { file, offset, position, length, durable } => {
                // The write buffer lives as long as the hub, and these bytes of it are not reused before
                // the completion.
                let bytes = self.hub.engine.log.buffer_pointer(position);
                self.ring.write(file.0, token.0, offset, bytes, length as u32, durable);
            }
            Operation::Zero { file, offset, length } => {
                self.ring.write_zeroes(file.0, token.0, offset, length as u32);
            }
            Operation::Sync { file } => self.ring.sync(file.0, token.0),
            Operation::Read { file, offset, length } => {
                let mut buffer = AlignedBuffer::for_read(length as usize);
                let pointer = buffer.as_mut_pointer();
                // The buffer's memory does not move with the buffer, which stays here until it is read.
                self.reads.insert(token, buffer);
                self.ring.read(file.0, token.0, offset, pointer, length as u32);
            }
            slow => self.housekeeper.submit(token, slow),
        }
    }

    fn disk_done(&mut self, event: Event) {
        let token = Token(event.key);
        let result = match self.reads.remove(&token) {
            Some(mut buffer) => event.outcome().map(|count| {
                buffer.truncate(count as usize);
                Done::Bytes(buffer)
            }),
            None => event.outcome().map(Done::Count),
        };
        self.hub.completed(Completion { token, result });
    }

    // ---------------------------------------------------------------- signals, timers, the end

    fn read_signal(&mut self) {
        let (pointer, length) = (self.signal_info.as_mut_ptr(), self.signal_info.len());
        self.ring.read_event(self.signals.as_raw_fd(), Kind::Signal, pointer, length as u32);
    }

    fn read_wake(&mut self) {
        let (pointer, length) = (self.wake_count.as_mut_ptr(), self.wake_count.len());
        self.ring.read_event(self.wake.descriptor(), Kind::Wake, pointer, length as u32);
    }

    fn signalled(&mut self, event: Event) {
        if event.outcome().is_err() {
            return self.read_signal();
        }
        let number = process::signal_number(&self.signal_info);
        if number != libc::SIGHUP || self.hung_up() {
            if self.stop == Stop::No {
                self.ended = Ended::Signal(number);
            }
            self.hub.stopping = true;
        }
        self.read_signal();
    }

    /// On SIGHUP: what was read from files at the start is read anew here. True: the server ends.
    fn hung_up(&mut self) -> bool {
        self.reload_certificates();
        match &self.hang_up {
            HangUp::Reopen(log) => {
                // Where that is not possible, the old file still takes the lines.
                log.reopen().unwrap_or_else(|line| process::warn(&line));
                false
            }
            HangUp::Ignore => false,
            HangUp::Stop => true,
        }
    }

    fn run_timers(&mut self, now_ms: u64) {
        while let Some((_, key)) = self.lingering.front().copied().filter(|(at, _)| *at <= now_ms) {
            self.lingering.pop_front();
            self.abandon(key);
        }
        self.end_handshakes(now_ms);
        let due: Vec<u64> =
            self.accept_retry.extract_if(.., |(at, _)| *at <= now_ms).map(|(_, key)| key).collect();
        if self.hub.server.settings.timeout_s > 0 && self.silence_ms <= now_ms {
            self.part_with_silent(now_ms);
        }
        for key in due {
            self.ring.accept(self.listeners[key as usize].descriptor(), key);
        }
    }

    fn part_with_silent(&mut self, now_ms: u64) {
        self.silence_ms = now_ms + SILENCE_CHECK_MS;
        let silent = self.hub.silent();
        self.hub.server.stats.timed_out_connections += silent.len() as u64;
        for key in silent {
            self.abandon(key);
        }
    }

    fn step_stop(&mut self, now_ms: u64) {
        match self.stop {
            Stop::No if self.hub.stopping => {
                self.stop = Stop::Draining { until_ms: now_ms + DRAIN_MS };
                for key in self.hub.keys() {
                    if let Some(connection) = self.hub.get_mut(key) {
                        connection.closing = true;
                    }
                    self.hub.resume(key);
                }
                // Those that wait for a flush get it now.
                self.hub.engine.log.flush();
                self.hub.engine.scrub.end();
                self.step_stop(now_ms);
            }
            Stop::Draining { until_ms } => {
                let busy = self.hub.keys().into_iter().any(|key| {
                    self.hub.get_mut(key).is_some_and(|one| !one.lingering && !one.is_finished())
                });
                if !busy || now_ms >= until_ms {
                    self.stop = Stop::Closing { begun: false };
                    self.step_stop(now_ms);
                }
            }
            Stop::Closing { begun: false } if !self.hub.engine.log.is_switching() => {
                self.hub.engine.log.begin_close();
                self.stop = Stop::Closing { begun: true };
            }
            Stop::No | Stop::Closing { .. } => {}
        }
    }

    fn is_closed(&self) -> bool {
        let engine = &self.hub.engine;
        let is_closed = engine.log.is_closed() && !engine.scrub.is_busy();
        self.stop == Stop::Closing { begun: true } && is_closed
    }

    fn finish(mut self) -> Result<Ended, String> {
        let summary = self.hub.engine.log.finish_close();
        if let Some((base, file)) = summary.unused {
            self.files.close(file);
            // Left behind it costs space until the next start, which removes it.
            let _ = self.files.remove(Root::Data, &format::segment_name(base));
        }
        if let Some((FileId(file), length)) = summary.cut {
            let _ = self.files.truncate(FileId(file), length);
        }
        // Nobody is to wait for a server that answers no more.
        let doors = self.listeners.iter().map(Listener::descriptor);
        let rooms = self.sockets.values().map(|socket| socket.descriptor.as_raw_fd());
        for descriptor in doors.chain(rooms) {
            // SAFETY: shutdown on an open socket touches no memory.
            unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) };
        }
        self.close_hooks();
        match self.hub.engine.log.broken() {
            Some(line) => Err(format!("stopped, but the log is not closed: {line}")),
            None => Ok(self.ended),
        }
    }

    /// The last hooks, which find every file as it stays.
    fn close_hooks(&mut self) {
        let Some(hook) = self.hooks.take().and_then(HookThread::finish) else { return };
        process::hear_hang_up(&self.signals, false);
        let engine = &self.hub.engine;
        let names: Vec<&[u8]> = engine.namespaces.iter().map(|one| &*one.name).collect();
        hook.close(names.into_iter(), engine.log.current().base, self.signals.as_raw_fd());
    }
}

/// Sends as much as the socket takes at once; an error is left to the ring's send of the rest.
fn send_now(socket: RawFd, bytes: &[u8]) -> usize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: a live slice, and a socket that is open.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    sent.max(0) as usize
}
