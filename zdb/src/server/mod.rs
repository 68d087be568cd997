//! The server: the loop of the hub's thread. It moves bytes between sockets and the hub and carries the
//! hub's disk operations out. It knows nothing of commands or records.
//!
//! A turn: wait for completions, hand them to the hub, let the hub settle, hand in what came of it.

pub mod background;
mod bell;
mod busy;
mod clients;
pub mod crash;
mod crew;
mod dialer;
mod encrypted;
pub mod hooks;
mod kernel_tls;
mod listener;
pub mod metrics;
mod parcel;
pub mod process;
pub mod program;
mod ring;
mod socket_thread;
mod sockets;
mod stop;
mod tls;

pub use listener::{Listener, Wire};
pub use tls::{MasterTls, MasterTlsFiles, Tls, TlsFiles};

use crate::command::Settings;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::housekeeper::Housekeeper;
use crate::disk::{Completion, Done, Files, Operation, Read, Token};
use crate::engine::{self, Engine, Now};
use crate::hub::Hub;
use background::HangUp;
use bell::Bell;
use busy::Busy;
use clients::Clients;
use crew::Crew;
use dialer::Dialer;
use hooks::{Hook, HookThread, Report};
use metrics::{MetricsListener, MetricsThread};
use ring::BATCH_WAIT_US;
use ring::{Event, Kind};
use sockets::Sockets;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
pub use stop::Ended;
use stop::Stop;

/// How many connections' requests one turn waits for at most.
const BATCH_MAX: usize = 16;
/// How long after a failed accept the next is tried, in milliseconds.
const ACCEPT_RETRY_MS: u64 = 100;
/// How often silent clients are looked for where there is a limit, in milliseconds.
const SILENCE_CHECK_MS: u64 = 1000;
/// How late that may be, in milliseconds: after a longer turn the hub first hears what was said meanwhile.
const SILENCE_LATE_MS_MAX: u64 = 100;

pub struct Server {
    sockets: Sockets,
    hub: Hub,
    /// Further threads with sockets; with one thread there are none.
    crew: Option<Crew>,
    files: Arc<dyn Files>,
    housekeeper: Housekeeper,
    listeners: Vec<Listener>,
    reads: HashMap<Token, (Read, AlignedBuffer)>,
    started: Instant,
    hooks: Option<HookThread>,
    metrics: Option<MetricsThread>,
    signals: OwnedFd,
    signal_info: Box<[u8; process::SIGNAL_INFO_BYTES]>,
    hang_up: HangUp,
    wake: Bell,
    wake_count: Box<[u8; 8]>,
    /// Listeners whose accept failed, and when to try again.
    accept_retry: Vec<(u64, u64)>,
    /// When to look for clients that have been silent for too long, where there is a limit.
    silence_ms: u64,
    batch: usize,
    /// When the timer comes.
    timer_ms: Option<u64>,
    stop: Stop,
    ended: Ended,
    dialer: Dialer,
    /// Where the way to the master is encrypted.
    master_tls: Option<MasterTls>,
    reopen: Reopen,
}

/// Opens the log anew, with what is set then.
pub type Reopen = Box<dyn Fn(&dyn Files, &Settings) -> Result<Engine, String>>;

impl Server {
    pub fn new(
        mut hub: Hub,
        (files, reopen): (Arc<dyn Files>, Reopen),
        listeners: Vec<Listener>,
        (hook, metrics): (Option<Hook>, Option<MetricsListener>),
        (tls, master_tls): (Option<Tls>, Option<MasterTls>),
        (signals, hang_up): (OwnedFd, HangUp),
        (threads, busy_percent): (u16, u8),
    ) -> Result<Self, String> {
        let wake = Bell::new()?;
        let dialer = Dialer::new(wake.clone());
        let bell = wake.clone();
        let housekeeper = Housekeeper::start(files.clone(), move || bell.ring())
            .map_err(|error| format!("cannot start the thread for files: {error}"))?;
        let hooks = hook
            .map(|hook| HookThread::start(hook, &mut hub.server.hooks, wake.clone()))
            .transpose()?;
        let metrics = metrics.map(|one| MetricsThread::start(one, wake.clone())).transpose()?;
        let batch_wait_us = crew::batch_wait_us(threads);
        let crew = match threads {
            0 | 1 => None,
            more => {
                let busy = Busy::new(busy_percent);
                Some(Crew::start(more - 1, busy, tls.as_ref(), &wake, batch_wait_us)?)
            }
        };
        Ok(Self {
            sockets: Sockets::new(tls, BATCH_WAIT_US)?,
            hub,
            crew,
            files,
            housekeeper,
            listeners,
            reads: HashMap::new(),
            started: Instant::now(),
            hooks,
            metrics,
            signals,
            signal_info: Box::new([0; process::SIGNAL_INFO_BYTES]),
            hang_up,
            wake,
            wake_count: Box::new([0; 8]),
            accept_retry: Vec::new(),
            silence_ms: 0,
            batch: 1,
            timer_ms: None,
            stop: Stop::No,
            ended: Ended::Command,
            dialer,
            master_tls,
            reopen,
        })
    }

    /// Serves until a client or a signal stops it, and closes the log.
    pub fn run(mut self) -> Result<Ended, String> {
        self.read_signal();
        self.read_wake();
        for at in 0..self.listeners.len() {
            self.sockets.ring.accept(self.listeners[at].descriptor(), at as u64);
        }
        self.hub.set_time(self.now());
        self.hub.begin_replication();
        let mut events = Vec::new();
        let mut operations = Vec::new();
        let mut touched = Vec::new();
        loop {
            self.arm_timer();
            let is_idle = self.hub.is_settled()
                && self.sockets.is_idle(&self.hub)
                && self.crew.as_mut().is_none_or(Crew::may_sleep);
            // Who waits for the disk is not to wait for others as well.
            let batch_max = if self.hub.engine.is_reading() { 1 } else { self.batch };
            let batch = if is_idle { batch_max } else { 0 };
            let waited = self.sockets.ring.wait(batch);
            if let Some(crew) = &self.crew {
                crew.wake_up();
            }
            waited.map_err(|error| format!("io_uring failed: {error}"))?;
            let now = self.now();
            self.hub.set_time(now);
            self.sockets.now_ms = now.monotonic_ms;
            self.sockets.ring.take_events(&mut events);
            let mut requests = 0;
            for event in events.drain(..) {
                requests += usize::from(event.kind == Kind::Receive);
                self.handle(event);
            }
            self.sockets.sends_at_once = requests <= 1;
            if let Some(crew) = &mut self.crew {
                let parcels = crew.take_news(&mut self.hub)?;
                if parcels > 0 {
                    // A turn with news alone says little about the requests to come.
                    requests = (requests + parcels).max(self.batch / 2);
                }
            }
            self.batch = requests.clamp(1, BATCH_MAX);
            self.run_timers(now.monotonic_ms);
            self.sockets.feed_starved(&mut self.hub);
            // Looking after a connection can make room for its next requests.
            loop {
                self.step_stop(now.monotonic_ms);
                self.hub.settle();
                if let Some(to) = self.hub.take_dial() {
                    self.dialer.dial(to);
                }
                self.hub.take_operations(&mut operations);
                for (token, operation) in operations.drain(..) {
                    self.perform(token, operation);
                }
                self.hub.take_touched(&mut touched);
                let begins_to_stop = self.hub.stopping && self.stop == Stop::No;
                if touched.is_empty() && !begins_to_stop {
                    break;
                }
                for key in touched.drain(..) {
                    self.look_after(key);
                }
            }
            self.share_connections(now.monotonic_ms);
            if let Some(crew) = &mut self.crew {
                crew.post();
            }
            for notice in self.hub.engine.log.notices.drain(..) {
                process::warn(&notice);
            }
            self.tell_hooks();
            if self.is_closed() {
                if !self.hub.restarts() {
                    return self.finish();
                }
                if self.is_quiet() {
                    self.begin_again()?;
                }
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
        let due = [
            self.hub.engine.log.deadline_ms(),
            self.hub.deadline_ms(),
            self.sockets.deadline_ms(),
            self.accept_retry.iter().map(|(at, _)| *at).min(),
            (self.hub.server.settings.timeout_s > 0).then_some(self.silence_ms),
            self.stop.deadline_ms(),
        ]
        .into_iter()
        .flatten()
        .min();
        let Some(due) = due else { return };
        if self.timer_ms.is_none_or(|armed| due < armed) {
            self.sockets.ring.timer(due.saturating_sub(self.now_ms()));
            self.timer_ms = Some(due);
        }
    }

    // ---------------------------------------------------------------- events

    fn handle(&mut self, event: Event) {
        match event.kind {
            Kind::Receive | Kind::Send => self.sockets.handle(&mut self.hub, event),
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
                self.hear_of_masters();
            }
        }
    }

    /// Takes connections that were made.
    fn hear_of_masters(&mut self) {
        while let Ok(dialed) = self.dialer.dialed.try_recv() {
            let made = dialed.result.and_then(|(descriptor, peer)| {
                let host = &dialed.to.host;
                let tls = self.master_tls.as_ref().map(|tls| tls.session(host)).transpose()?;
                Ok((descriptor, tls, peer))
            });
            let (socket, peer) = match made {
                Ok((descriptor, tls, peer)) => {
                    let name = format!("master {}", peer.name).into_boxed_str();
                    (Some((descriptor, tls.map(|tls| (tls, name)))), Ok(peer))
                }
                Err(text) => (None, Err(text)),
            };
            let Some(key) = self.hub.dialed(&dialed.to, peer) else { continue };
            let (descriptor, tls) = socket.expect("there is a connection");
            self.sockets.open_outward(&mut self.hub, key, descriptor, tls);
        }
    }

    fn answer_scrapers(&mut self) {
        let Some(metrics) = &self.metrics else { return };
        while let Ok(ask) = metrics.asks.try_recv() {
            // Who asked may be gone.
            let _ = ask.send(self.hub.metrics());
        }
    }

    fn tell_hooks(&mut self) {
        for event in std::mem::take(&mut self.hub.engine.events) {
            match (&self.hooks, event) {
                (Some(hooks), event) => hooks.tell(event),
                (None, engine::Event::Missing(base)) => self.hub.engine.missing_ended(base, false),
                (None, _) => {}
            }
        }
    }

    fn hear_of_hooks(&mut self) {
        let Some(hooks) = &self.hooks else { return };
        let Hub { engine, server, .. } = &mut self.hub;
        while let Ok(report) = hooks.reports.try_recv() {
            match report {
                Report::Begun(run) => server.hooks.begun(run),
                Report::Ended { number, finished_s, status } => {
                    server.hooks.ended(number, finished_s, status);
                    // It may just have moved a file away.
                    engine.away.look_now();
                }
                Report::MissingEnded { base, status } => engine.missing_ended(base, status == 0),
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
                    self.sockets.ring.accept(self.listeners[at].descriptor(), event.key);
                } else if !event.more && self.hub.restarts() {
                    self.accept_retry.push((self.now_ms() + ACCEPT_RETRY_MS, event.key));
                }
            }
            Err(_) if self.stop != Stop::No && !self.hub.restarts() => {}
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
        let encrypted = peer.encrypted.then(|| peer.name.clone().into_boxed_str());
        let name = self.hub.server.settings.verbose.then(|| peer.name.clone());
        let key = self.hub.connected(peer);
        if let Some(name) = name {
            process::say(&format!("client {key:x} connected from {name}"));
        }
        if let Some(crew) = &mut self.crew {
            let is_encrypted = encrypted.is_some();
            let thread = crew.choose(self.sockets.count(), is_encrypted);
            if !crew.place(key, thread) {
                return crew.open(key, descriptor, encrypted);
            }
        }
        if !self.sockets.open(&mut self.hub, key, descriptor, encrypted) {
            Clients::closed(&mut self.hub, key);
        }
    }

    /// Lets other threads take a part of the connections that are here, where this one has too much to do.
    fn share_connections(&mut self, now_ms: u64) {
        let Some(crew) = &mut self.crew else { return };
        if crew.busy.look(now_ms, process::thread_time_us, process::idle_time_us) {
            self.sockets.part_with(crew.excess(self.sockets.count()));
        }
        while let Some(key) = self.sockets.ready_to_leave.pop() {
            let Some(descriptor) = self.sockets.give_away(key) else { continue };
            let thread = crew.least();
            crew.place(key, Some(thread));
            crew.open(key, descriptor, None);
            crew.look_after(&mut self.hub, key);
            self.hub.server.stats.connections_moved += 1;
        }
    }

    /// Looks after a connection here, or tells the thread that has it to.
    fn look_after(&mut self, key: u64) {
        match &mut self.crew {
            Some(crew) if crew.has(key) => crew.look_after(&mut self.hub, key),
            _ => self.sockets.look_after(&mut self.hub, key),
        }
    }

    // ---------------------------------------------------------------- the disk

    fn perform(&mut self, token: Token, operation: Operation) {
        match operation {
            Operation::Write { file, offset, position, length, durable } => {
                // The write buffer lives as long as the hub, and these bytes of it are not reused before
                // the completion.
                let bytes = self.hub.engine.log.buffer_pointer(position);
                self.sockets.ring.write(file.0, token.0, offset, bytes, length as u32, durable);
            }
            Operation::Zero { file, offset, length } => {
                self.sockets.ring.write_zeroes(file.0, token.0, offset, length as u32);
            }
            Operation::Sync { file } => self.sockets.ring.sync(file.0, token.0),
            Operation::Read { file, offset, length } => {
                let mut buffer = AlignedBuffer::for_read(length as usize);
                let pointer = buffer.as_mut_pointer();
                // The buffer's memory does not move with the buffer, which stays here until it is read.
                self.reads.insert(token, (Read { file, offset, length }, buffer));
                self.sockets.ring.read(file.0, token.0, offset, pointer, length as u32);
            }
            slow => self.housekeeper.submit(token, slow),
        }
    }

    fn disk_done(&mut self, event: Event) {
        let token = Token(event.key);
        let result = match self.reads.remove(&token) {
            Some((read, mut buffer)) => event.outcome().map(|count| {
                buffer.truncate(count as usize);
                Done::of_read(read, buffer)
            }),
            None => event.outcome().map(Done::Count),
        };
        self.hub.completed(Completion { token, result });
    }

    // ---------------------------------------------------------------- signals, timers, the end

    fn read_signal(&mut self) {
        let (pointer, length) = (self.signal_info.as_mut_ptr(), self.signal_info.len());
        self.sockets.ring.read_event(
            self.signals.as_raw_fd(),
            Kind::Signal,
            pointer,
            length as u32,
        );
    }

    fn read_wake(&mut self) {
        let (pointer, length) = (self.wake_count.as_mut_ptr(), self.wake_count.len());
        self.sockets.ring.read_event(self.wake.descriptor(), Kind::Wake, pointer, length as u32);
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
            self.hub.stop();
        }
        self.read_signal();
    }

    /// On SIGHUP: what was read from files at the start is read anew here. True: the server ends.
    fn hung_up(&mut self) -> bool {
        self.renew_certificates();
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
        self.sockets.run_timers(&mut self.hub);
        let due: Vec<u64> =
            self.accept_retry.extract_if(.., |(at, _)| *at <= now_ms).map(|(_, key)| key).collect();
        let is_due = self.hub.server.settings.timeout_s > 0 && self.silence_ms <= now_ms;
        // What a client said may still be on its way here.
        if is_due && self.crew.as_mut().is_none_or(Crew::has_heard_all) {
            self.part_with_silent(now_ms);
        }
        for key in due {
            self.sockets.ring.accept(self.listeners[key as usize].descriptor(), key);
        }
    }

    fn part_with_silent(&mut self, now_ms: u64) {
        let is_late = now_ms > self.silence_ms + SILENCE_LATE_MS_MAX;
        self.silence_ms = now_ms + SILENCE_CHECK_MS;
        if is_late {
            return;
        }
        for key in self.hub.silent() {
            match &mut self.crew {
                Some(crew) if crew.has(key) => crew.part_with_silent(key),
                _ => self.sockets.part_with_silent(&mut self.hub, key),
            }
        }
    }

    /// Reads the certificates again, for connections from now on.
    fn renew_certificates(&mut self) {
        match self.sockets.encryption.reload() {
            None => {}
            Some(Ok(tls)) => {
                if let Some(crew) = &mut self.crew {
                    crew.renew_certificates(tls);
                }
                process::say("certificates read again");
            }
            Some(Err(line)) => {
                process::warn(&format!("the certificates stay as they were: {line}"));
            }
        }
    }
}
