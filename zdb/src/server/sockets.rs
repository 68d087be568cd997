//! The sockets of one thread and the ring that they live on: what the kernel is asked to receive and send,
//! and when it is asked to close. It knows nothing of requests.

use super::clients::{Clients, Note};
use super::encrypted::Encryption;
use super::kernel_tls;
use super::ring::{self, Event, Kind, Ring, Until};
use super::tls::{Receive, Tls, TlsSession};
use crate::output::Output;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// How long a closed connection is read from, so that its last reply is not lost to a reset.
const LINGER_MS: u64 = 1000;
/// Most slices of one message, far below the kernel's 1024.
const SLICES_MAX: usize = 64;

/// Who encrypts what a connection sends, and decrypts what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypter {
    Nobody,
    /// The session that the socket has.
    Session,
    Kernel,
}

/// A socket and what the kernel does with it.
pub struct Socket {
    key: u64,
    pub descriptor: OwnedFd,
    slices: Vec<libc::iovec>,
    message: libc::msghdr,
    /// What is being sent; not touched while the kernel is at it.
    pub sending: Output,
    /// Bytes of it that are out.
    pub sent: usize,
    pub is_sending: bool,
    /// Whether a receive is armed.
    pub is_receiving: bool,
    /// Whether its end was asked for.
    is_cancelling: bool,
    /// There was no buffer for its bytes: it is received from when its turn comes.
    is_starved: bool,
    /// Whether its bytes are wanted.
    wants_input: bool,
    /// It goes to another thread as soon as the kernel is not at it.
    is_leaving: bool,
    /// Nothing more comes in.
    pub is_ended: bool,
    /// All is sent and our side is closed; what still comes in is thrown away.
    pub is_lingering: bool,
    pub encrypter: Encrypter,
    /// Boxed apart, as most connections have none.
    pub tls: Option<Box<TlsSession>>,
    /// Of an encrypted connection: who is complained about.
    pub name: Option<Box<str>>,
    /// The kernel's last record to the client, which it is sending or has sent.
    pub goodbye: Option<Box<kernel_tls::Alert>>,
}

pub struct Sockets {
    pub ring: Ring,
    slots: Vec<Option<Box<Socket>>>,
    count: usize,
    /// Connections to close at a time, in its order.
    lingering: VecDeque<(u64, u64)>,
    /// Connections for whose bytes there was no buffer, in the order in which they are received from again.
    starved: VecDeque<u64>,
    /// Buffers that the kernel gets back when there is room for more of what it would receive.
    held: Vec<u16>,
    /// Sockets that may go to other threads now.
    pub ready_to_leave: Vec<u64>,
    pub encryption: Encryption,
    /// The time of this turn, in milliseconds of the monotonic clock.
    pub now_ms: u64,
    /// There is one reply in this turn: it waits for nobody, and is sent without the ring.
    pub sends_at_once: bool,
}

impl Sockets {
    /// `batch_wait_us`: how long a turn waits for its batch to fill.
    pub fn new(tls: Option<Tls>, batch_wait_us: u32) -> Result<Self, String> {
        Ok(Self {
            ring: Ring::new(batch_wait_us)?,
            slots: Vec::new(),
            count: 0,
            lingering: VecDeque::new(),
            starved: VecDeque::new(),
            held: Vec::new(),
            ready_to_leave: Vec::new(),
            encryption: Encryption::new(tls),
            now_ms: 1,
            sends_at_once: true,
        })
    }

    /// When something is due without anything else happening.
    pub fn deadline_ms(&self) -> Option<u64> {
        let lingering = self.lingering.front().map(|(at, _)| *at);
        lingering.into_iter().chain(self.encryption.deadline_ms()).min()
    }

    /// Whether there is nothing to do before the kernel has news.
    pub fn is_idle(&self, clients: &impl Clients) -> bool {
        let has_buffers = self.held.is_empty() || clients.has_room();
        let feeds = has_buffers && !self.starved.is_empty();
        !feeds && (self.held.is_empty() || !clients.has_room())
    }

    /// Takes the socket of a new connection; the name of an encrypted one is for complaints. False: there
    /// is no TLS for it.
    pub fn open(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        descriptor: OwnedFd,
        encrypted: Option<Box<str>>,
    ) -> bool {
        let mut tls = None;
        if encrypted.is_some() {
            let Some(session) = self.encryption.begin(descriptor.as_raw_fd()) else {
                return false;
            };
            tls = Some(session);
        }
        let name = encrypted.map(|name| format!("client {name}").into_boxed_str());
        self.insert(clients, key, descriptor, (tls, name));
        true
    }

    /// Takes the socket of a connection that this server made, with its TLS and a name for complaints, if any.
    pub fn open_outward(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        descriptor: OwnedFd,
        tls: Option<(TlsSession, Box<str>)>,
    ) {
        let (tls, name) = tls.map(|(session, name)| (Box::new(session), name)).unzip();
        self.insert(clients, key, descriptor, (tls, name));
    }

    fn insert(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        descriptor: OwnedFd,
        (tls, name): (Option<Box<TlsSession>>, Option<Box<str>>),
    ) {
        let encrypter = match &tls {
            Some(_) => Encrypter::Session,
            None => Encrypter::Nobody,
        };
        if tls.is_some() {
            self.encryption.expect_handshake(key, self.now_ms);
        }
        // SAFETY: msghdr is plain data, for which zeroes are valid.
        let message = unsafe { std::mem::zeroed() };
        let socket = Box::new(Socket {
            key,
            descriptor,
            slices: Vec::new(),
            message,
            sending: Output::default(),
            sent: 0,
            is_sending: false,
            is_receiving: false,
            is_cancelling: false,
            is_starved: false,
            wants_input: false,
            is_leaving: false,
            is_ended: false,
            is_lingering: false,
            encrypter,
            tls,
            name,
            goodbye: None,
        });
        let index = index(key);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(socket);
        self.count += 1;
        clients.touch(key);
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut Socket> {
        self.slots.get_mut(index(key))?.as_deref_mut().filter(|socket| socket.key == key)
    }

    // ---------------------------------------------------------------- to another thread

    /// Gets sockets ready to leave until they are so many, none of them encrypted, and none whose client may
    /// not take what is being sent to it.
    pub fn part_with(&mut self, count: usize) {
        let may_leave = |socket: &&mut Box<Socket>| {
            let is_plain = socket.encrypter == Encrypter::Nobody;
            let is_open = !socket.is_ended && !socket.is_lingering;
            is_plain && is_open && !socket.is_leaving && !socket.is_sending
        };
        let leaving = self.slots.iter().flatten().filter(|socket| socket.is_leaving).count();
        let count = count.saturating_sub(leaving);
        let sockets = self.slots.iter_mut().flatten().filter(may_leave).take(count);
        let keys: Vec<u64> = sockets
            .map(|socket| {
                socket.is_leaving = true;
                socket.key
            })
            .collect();
        for key in keys {
            self.adjust_receive(key);
            self.leave_if_quiet(key);
        }
    }

    fn leave_if_quiet(&mut self, key: u64) {
        if self.get_mut(key).is_some_and(|socket| socket.is_leaving && socket.is_quiet()) {
            self.ready_to_leave.push(key);
        }
    }

    /// Gives a socket away that was ready to leave. None: it has something to do again.
    pub fn give_away(&mut self, key: u64) -> Option<OwnedFd> {
        let socket = self.slots.get_mut(index(key))?;
        let left =
            socket.take_if(|socket| socket.key == key && socket.is_leaving && socket.is_quiet())?;
        self.count -= 1;
        Some(left.descriptor)
    }

    /// Nobody is to wait for a server that answers no more.
    pub fn shut_down(&self) {
        for socket in self.slots.iter().flatten() {
            socket.shut_down(libc::SHUT_RDWR);
        }
    }

    // ---------------------------------------------------------------- events

    pub fn handle(&mut self, clients: &mut impl Clients, event: Event) {
        match event.kind {
            Kind::Receive => self.received(clients, event),
            Kind::Send => self.sent(clients, event),
            _ => {}
        }
    }

    fn received(&mut self, clients: &mut impl Clients, event: Event) {
        let key = event.key;
        let mut encrypter = Encrypter::Nobody;
        if let Some(socket) = self.get_mut(key) {
            encrypter = socket.encrypter;
            if !event.more {
                socket.is_receiving = false;
                socket.is_cancelling = false;
                clients.touch(key);
            }
        }
        match event.outcome() {
            Ok(0) => self.end(clients, key),
            Ok(length) => {
                let is_for_session = encrypter == Encrypter::Session;
                if let Some(buffer) = event.buffer.filter(|_| is_for_session) {
                    self.received_encrypted(clients, key, (buffer, length as usize));
                } else if let Some(buffer) = event.buffer {
                    clients.received(key, self.ring.received(buffer, length as usize));
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => self.starve(key),
                // Cancelled to slow the client down: it is armed again when wanted.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ if encrypter == Encrypter::Kernel => self.received_no_data(clients, key, &error),
                _ => self.abandon(clients, key),
            },
        }
        if let Some(buffer) = event.buffer {
            match clients.has_room() {
                true => self.ring.recycle(buffer),
                false => self.held.push(buffer),
            }
        }
    }

    /// The client will send no more.
    pub fn end(&mut self, clients: &mut impl Clients, key: u64) {
        if let Some(socket) = self.get_mut(key) {
            socket.is_ended = true;
            clients.ended(key);
        }
    }

    /// More clients sent something than there are buffers: this one comes later.
    fn starve(&mut self, key: u64) {
        if let Some(socket) = self.get_mut(key) {
            socket.is_starved = true;
            self.starved.push_back(key);
        }
    }

    /// Receives again from those for whom there was no buffer, from as many as there are buffers: all at
    /// once, every turn would ask the kernel for each of them in vain.
    pub fn feed_starved(&mut self, clients: &mut impl Clients) {
        if !self.held.is_empty() {
            if !clients.has_room() {
                return;
            }
            for buffer in self.held.drain(..) {
                self.ring.recycle(buffer);
            }
        }
        let count = self.starved.len().min(ring::BUFFERS.into());
        for key in self.starved.drain(..count).collect::<Vec<_>>() {
            if let Some(socket) = self.get_mut(key) {
                socket.is_starved = false;
                self.look_after(clients, key);
            }
        }
    }

    fn sent(&mut self, clients: &mut impl Clients, event: Event) {
        let key = event.key;
        let Some(socket) = self.get_mut(key) else { return };
        if socket.encrypter == Encrypter::Session {
            return self.sent_encrypted(clients, event);
        }
        match event.outcome() {
            Ok(count) => {
                socket.sent += count as usize;
                let length = socket.sending.len();
                let is_all = socket.sent >= length;
                if is_all {
                    socket.sending.clear();
                    socket.sent = 0;
                    socket.is_sending = false;
                } else {
                    self.send(clients, key);
                }
                clients.sent(key, count as usize, if is_all { length } else { 0 });
            }
            Err(_) => {
                socket.is_sending = false;
                self.abandon(clients, key);
            }
        }
    }

    /// A client that cannot be reached any more.
    pub fn abandon(&mut self, clients: &mut impl Clients, key: u64) {
        let Some(socket) = self.get_mut(key) else { return };
        socket.is_ended = true;
        socket.is_lingering = true;
        socket.shut_down(libc::SHUT_RDWR);
        clients.failed(key);
    }

    /// Lets a client go that has been silent for too long, unless its words wait for a buffer.
    pub fn part_with_silent(&mut self, clients: &mut impl Clients, key: u64) {
        if self.get_mut(key).is_some_and(|socket| !socket.is_starved && !socket.is_lingering) {
            clients.note(Note::TimedOut);
            self.abandon(clients, key);
        }
    }

    // ---------------------------------------------------------------- connections after a turn

    /// Sends what is to be sent, reads or stops reading, closes what is finished.
    pub fn look_after(&mut self, clients: &mut impl Clients, key: u64) {
        let Some(wishes) = clients.look(key) else { return };
        let Some(socket) = self.get_mut(key) else { return };
        socket.wants_input = wishes.wants_input;
        if wishes.is_let_go && !socket.is_lingering {
            return self.abandon(clients, key);
        }
        if socket.is_lingering {
            if socket.is_ended {
                return self.close(clients, key);
            }
            return self.adjust_receive(key);
        }
        if socket.encrypter == Encrypter::Session {
            return self.look_after_encrypted(clients, key, wishes);
        }
        if !socket.is_sending && wishes.has_output && socket.goodbye.is_none() {
            clients.take_output(key, &mut socket.sending);
            socket.is_sending = true;
            socket.sent = 0;
            self.send(clients, key);
            return self.adjust_receive(key);
        }
        if (wishes.is_answered || socket.goodbye.is_some()) && !socket.is_sending {
            if socket.encrypter == Encrypter::Kernel && self.say_goodbye(key) {
                return self.adjust_receive(key);
            }
            return self.linger(clients, key);
        }
        self.adjust_receive(key);
        self.leave_if_quiet(key);
    }

    fn send(&mut self, clients: &mut impl Clients, key: u64) {
        let sends_at_once = self.sends_at_once;
        let Some(socket) = self.slots.get_mut(index(key)).and_then(Option::as_deref_mut) else {
            return;
        };
        let descriptor = socket.descriptor.as_raw_fd();
        // Kernel TLS does not know MSG_WAITALL.
        let is_plain = socket.encrypter == Encrypter::Nobody;
        let until = if is_plain { Until::All } else { Until::Some };
        // `sending` is not touched until the completion and the socket not removed before it, so the memory
        // stays.
        if let Some(bytes) = socket.sending.plain() {
            let mut rest = &bytes[socket.sent..];
            // A lone client waits for nobody: its reply goes out at once, and the wait that follows is
            // for its next request alone, without the timer of a batch.
            if sends_at_once {
                let count = send_now(descriptor, rest);
                if count == rest.len() {
                    return self.sent(clients, Event::of_send(key, count));
                }
                socket.sent += count;
                rest = &bytes[socket.sent..];
            }
            return self.ring.send(descriptor, key, (rest.as_ptr(), rest.len()), until);
        }
        let mut slices = Vec::new();
        socket.sending.slices(socket.sent, &mut slices);
        socket.slices.clear();
        socket.slices.extend(slices.iter().take(SLICES_MAX).map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        socket.message.msg_iov = socket.slices.as_mut_ptr();
        socket.message.msg_iovlen = socket.slices.len() as _;
        self.ring.send_message(descriptor, key, &raw const socket.message, until);
    }

    /// Arms a receive or ends it, as it is wanted.
    pub fn adjust_receive(&mut self, key: u64) {
        let Some(socket) = self.slots.get_mut(index(key)).and_then(Option::as_deref_mut) else {
            return;
        };
        if socket.key != key {
            return;
        }
        // A client may take what is sent only when all that it says was read.
        let may_leave = socket.is_leaving && !socket.is_sending;
        let is_wanted = socket.wants_input && !may_leave;
        if !socket.is_ended && (socket.is_lingering || is_wanted) {
            if !socket.is_receiving && !socket.is_starved {
                let descriptor = socket.descriptor.as_raw_fd();
                match socket.tls.as_ref().filter(|_| !socket.is_lingering).map(|one| one.receive())
                {
                    None | Some(Receive::Freely) => self.ring.receive(descriptor, key),
                    Some(Receive::AtMost(length)) => {
                        self.ring.receive_at_most(descriptor, key, length);
                    }
                    Some(Receive::Nothing) => return,
                }
                socket.is_receiving = true;
            }
        } else if socket.is_receiving && !socket.is_cancelling && !socket.is_ended {
            socket.is_cancelling = true;
            self.ring.cancel_receive(key);
        }
    }

    /// All is said: tells the client, and reads on for a while. Closing a socket with unread input would
    /// reset it, and take the last reply away from the client.
    pub fn linger(&mut self, clients: &mut impl Clients, key: u64) {
        let now_ms = self.now_ms;
        let Some(socket) = self.get_mut(key) else { return };
        socket.is_lingering = true;
        if socket.is_ended {
            return self.close(clients, key);
        }
        socket.shut_down(libc::SHUT_WR);
        clients.lingers(key);
        self.lingering.push_back((now_ms + LINGER_MS, key));
        self.adjust_receive(key);
    }

    /// Closes a socket that the kernel does not use any more; otherwise its last completion comes here
    /// again.
    fn close(&mut self, clients: &mut impl Clients, key: u64) {
        let Some(socket) = self.get_mut(key) else { return };
        if socket.is_receiving {
            return socket.shut_down(libc::SHUT_RDWR);
        }
        if !socket.is_sending {
            self.slots[index(key)] = None;
            self.count -= 1;
            clients.closed(key);
        }
    }

    /// Does what is due.
    pub fn run_timers(&mut self, clients: &mut impl Clients) {
        let now_ms = self.now_ms;
        while let Some((_, key)) = self.lingering.front().copied().filter(|(at, _)| *at <= now_ms) {
            self.lingering.pop_front();
            self.abandon(clients, key);
        }
        self.end_handshakes(clients);
    }
}

impl Socket {
    /// Whether the kernel is not at it, nor anybody about to end it.
    fn is_quiet(&self) -> bool {
        let is_used = self.is_receiving || self.is_sending || self.is_starved;
        !is_used && !self.is_ended && !self.is_lingering && self.goodbye.is_none()
    }

    fn shut_down(&self, how: libc::c_int) {
        // SAFETY: shutdown on an open socket touches no memory.
        unsafe { libc::shutdown(self.descriptor.as_raw_fd(), how) };
    }
}

/// Where the socket of a connection stands: keys of the hub count the uses of a place in their upper bits.
pub fn index(key: u64) -> usize {
    (key & 0xff_ffff) as usize
}

/// Sends as much as the socket takes at once; an error is left to the ring's send of the rest.
pub fn send_now(socket: RawFd, bytes: &[u8]) -> usize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: a live slice, and a socket that is open.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    sent.max(0) as usize
}
