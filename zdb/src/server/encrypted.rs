//! Encrypted connections among the sockets: the same steps as for plain ones, with TLS between socket and hub.
//! Those that the kernel has taken over are plain ones, but for records that are no data.

use super::clients::{Clients, Note};
use super::kernel_tls::{self, Alert, Record};
use super::process;
use super::ring::{Event, Until};
use super::sockets::{Encrypter, Socket, Sockets, send_now};
use super::tls::{Tls, TlsSession};
use crate::hub::Wishes;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// How long a client may take from the connection to the end of the handshake, in milliseconds.
const HANDSHAKE_MS: u64 = 10_000;
/// Each thread writes at most one line about failed handshakes in this time, in milliseconds.
const COMPLAINT_MS: u64 = 1000;

/// What a thread's sockets share for TLS.
#[derive(Default)]
pub struct Encryption {
    /// None: there is no listener for it.
    tls: Option<Tls>,
    /// Connections in the order in which their handshakes must be over, with the time.
    handshakes: std::collections::VecDeque<(u64, u64)>,
    /// Bytes just decrypted; memory that is used again and again.
    plaintext: Vec<u8>,
    /// When the next line about a failure may be written, and how many there were without.
    complaint_ms: u64,
    complaints: u64,
}

impl Encryption {
    pub fn new(tls: Option<Tls>) -> Self {
        Self { tls, ..Self::default() }
    }

    /// New certificates, for connections from now on.
    pub fn renew(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    /// Reads the certificates again, for connections from now on, where there are any. On an error the old
    /// ones stay in use.
    pub fn reload(&mut self) -> Option<Result<&Tls, String>> {
        let tls = self.tls.as_mut()?;
        Some(tls.reload().map(|()| &*tls))
    }

    /// When the next handshake must be over.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.handshakes.front().map(|(at, _)| *at)
    }

    /// A session for a connection that was just accepted.
    pub fn begin(&mut self, socket: RawFd) -> Option<Box<TlsSession>> {
        let tls = self.tls.as_ref()?;
        // Prepared now, and not when the handshake is over: where that fails, rustls can still go on. It
        // does for a client that has closed its side, which one may do right behind its requests.
        let with_kernel = tls.kernel().is_ok() && kernel_tls::prepare(socket).is_ok();
        // Only a broken configuration fails here, and that was tried at the start.
        tls.session(with_kernel).ok().map(Box::new)
    }

    pub fn expect_handshake(&mut self, key: u64, now_ms: u64) {
        self.handshakes.push_back((now_ms + HANDSHAKE_MS, key));
    }

    /// A line for the operator, unless there was one just now.
    fn complain(&mut self, now_ms: u64, what: &str) {
        if now_ms < self.complaint_ms {
            self.complaints += 1;
            return;
        }
        self.complaint_ms = now_ms + COMPLAINT_MS;
        let others = match std::mem::take(&mut self.complaints) {
            0 => String::new(),
            count => format!(" (and {count} more before)"),
        };
        process::warn(&format!("TLS: {what}{others}"));
    }
}

impl Sockets {
    pub(super) fn received_encrypted(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        (buffer, length): (u16, usize),
    ) {
        let Some(socket) = self.get_mut(key).filter(|socket| !socket.is_lingering) else { return };
        let Some(mut session) = socket.tls.take() else { return };
        let mut plaintext = std::mem::take(&mut self.encryption.plaintext);
        plaintext.clear();
        let was_handshaking = session.is_handshaking();
        let outcome = session.received(self.ring.received(buffer, length), &mut plaintext);
        if was_handshaking && !session.is_handshaking() {
            clients.note(Note::Handshake);
        }
        if let Some(socket) = self.get_mut(key) {
            socket.tls = Some(session);
        }
        if !plaintext.is_empty() {
            clients.received(key, &plaintext);
        }
        // Also where nothing came for the hub: TLS may have something to say.
        clients.touch(key);
        self.encryption.plaintext = plaintext;
        match outcome {
            Ok(false) => {}
            Ok(true) => self.end(clients, key),
            Err(error) => self.fail_encrypted(clients, key, &error.to_string()),
        }
    }

    /// Nothing that comes from this client can be believed any more: says so and closes.
    fn fail_encrypted(&mut self, clients: &mut impl Clients, key: u64, what: &str) {
        let now_ms = self.now_ms;
        let Some(socket) = self.get_mut(key) else { return };
        let is_handshaking = socket.tls.as_ref().is_some_and(|session| session.is_handshaking());
        if is_handshaking {
            clients.note(Note::HandshakeFailed);
        }
        let complaint = socket.complaint(what);
        self.encryption.complain(now_ms, &complaint);
        let Some(socket) = self.get_mut(key) else { return };
        if socket.is_sending {
            return self.abandon(clients, key);
        }
        socket.sending.clear();
        socket.sent = 0;
        if let Some(session) = &mut socket.tls {
            session.fill(&mut socket.sending, &mut socket.sent);
            // Where the alert does not fit, it is not sent.
            send_now(socket.descriptor.as_raw_fd(), session.rest());
        }
        self.linger(clients, key);
    }

    /// Gives a connection whose handshake is over to the kernel, where that is to be. False: it is not.
    fn hand_over(&mut self, clients: &mut impl Clients, key: u64) -> bool {
        let now_ms = self.now_ms;
        let Some(socket) = self.get_mut(key) else { return false };
        if socket.is_receiving || socket.is_sending {
            return false;
        }
        let Some(session) = socket.tls.take_if(|session| session.is_for_kernel()) else {
            return false;
        };
        socket.encrypter = Encrypter::Kernel;
        let outcome = session.into_secrets().map_err(|error| error.to_string()).and_then(|keys| {
            kernel_tls::hand_over(socket.descriptor.as_raw_fd(), &keys)
                .map_err(|error| error.to_string())
        });
        match outcome {
            Ok(()) => clients.note(Note::HandshakeKernel),
            // The session is gone with its keys, so nobody can go on.
            Err(error) => {
                let what = format!("the kernel does not take its keys: {error}");
                let complaint = socket.complaint(&what);
                clients.note(Note::HandshakeFailed);
                self.encryption.complain(now_ms, &complaint);
                self.abandon(clients, key);
            }
        }
        true
    }

    /// A receive of a connection that the kernel decrypts has met something else than data.
    pub(super) fn received_no_data(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        error: &io::Error,
    ) {
        let Some(socket) = self.get_mut(key) else { return };
        let record = match error.raw_os_error() {
            Some(libc::EIO) => kernel_tls::take_record(socket.descriptor.as_raw_fd()),
            _ => Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        let (what, alert) = match record {
            Ok(Record::Goodbye) => return self.end(clients, key),
            Ok(Record::Ignored) => return clients.touch(key),
            Ok(Record::Alert(number)) => (format!("received fatal alert: {number}"), None),
            Ok(Record::Handshake) => (
                "a new key, which only rustls takes (--tls-kernel never)".to_owned(),
                Some(kernel_tls::UNEXPECTED_MESSAGE),
            ),
            Ok(Record::Other(kind)) => (
                format!("a record of type {kind} instead of data"),
                Some(kernel_tls::UNEXPECTED_MESSAGE),
            ),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL) => (
                    format!("a record that cannot be decrypted ({error})"),
                    Some(kernel_tls::BAD_RECORD_MAC),
                ),
                _ => return self.abandon(clients, key),
            },
        };
        self.fail_in_kernel(clients, key, &what, alert);
    }

    /// Nothing that comes from this client can be believed any more: says so and closes.
    fn fail_in_kernel(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        what: &str,
        alert: Option<u8>,
    ) {
        let now_ms = self.now_ms;
        let Some(socket) = self.get_mut(key) else { return };
        if !socket.is_lingering {
            let complaint = socket.complaint(what);
            if let Some(alert) = alert.filter(|_| !socket.is_sending) {
                kernel_tls::send_alert(socket.descriptor.as_raw_fd(), alert);
            }
            self.encryption.complain(now_ms, &complaint);
        }
        self.abandon(clients, key);
    }

    /// Hands in the kernel's last record to the client, once. False: that was done before.
    ///
    /// It waits until the socket has room, at least a third of its buffer. What the kernel has encrypted
    /// and not yet passed on to TCP goes before it, and a shutdown would throw it away.
    pub(super) fn say_goodbye(&mut self, key: u64) -> bool {
        let Some(socket) = self.get_mut(key) else { return false };
        if socket.goodbye.is_some() {
            return false;
        }
        socket.is_sending = true;
        // It stays in the socket, which is not removed before the completion.
        let message = socket.goodbye.insert(Alert::goodbye()).message();
        let descriptor = socket.descriptor.as_raw_fd();
        self.ring.send_last(descriptor, key, message);
        true
    }

    pub(super) fn look_after_encrypted(
        &mut self,
        clients: &mut impl Clients,
        key: u64,
        wishes: Wishes,
    ) {
        if self.hand_over(clients, key) {
            return self.look_after(clients, key);
        }
        let Some(socket) = self.get_mut(key) else { return };
        let Some(session) = socket.tls.as_mut() else { return };
        if session.is_handshaking() && socket.is_ended {
            return self.abandon(clients, key);
        }
        if socket.is_sending {
            return self.adjust_receive(key);
        }
        if !session.is_handshaking() && socket.sending.is_empty() && wishes.has_output {
            clients.take_output(key, &mut socket.sending);
            socket.sent = 0;
        }
        if socket.sending.is_empty() && wishes.is_answered {
            session.say_goodbye();
        }
        if self.send_encrypted(clients, key) {
            return self.adjust_receive(key);
        }
        if wishes.is_answered {
            return self.linger(clients, key);
        }
        self.adjust_receive(key);
    }

    /// Encrypts and sends what there is. False: there was nothing.
    fn send_encrypted(&mut self, clients: &mut impl Clients, key: u64) -> bool {
        let sends_at_once = self.sends_at_once;
        let mut has_sent = false;
        loop {
            let Some(socket) = self.get_mut(key) else { return false };
            let Some(session) = socket.tls.as_mut() else { return false };
            let released = session.fill(&mut socket.sending, &mut socket.sent);
            let descriptor = socket.descriptor.as_raw_fd();
            let rest = session.rest();
            if rest.is_empty() {
                return has_sent;
            }
            // As for plain connections: a lone client waits for nobody.
            let mut count = 0;
            let mut is_all = false;
            if sends_at_once {
                count = send_now(descriptor, rest);
                is_all = count == rest.len();
                session.sent(count);
            }
            socket.is_sending = !is_all;
            // The session is boxed, and its bytes are not touched until the completion.
            let rest = session.rest();
            let rest = (rest.as_ptr(), rest.len());
            if count > 0 || released > 0 {
                clients.sent(key, count, released);
            }
            if !is_all {
                self.ring.send(descriptor, key, rest, Until::All);
                return true;
            }
            has_sent = true;
        }
    }

    pub(super) fn sent_encrypted(&mut self, clients: &mut impl Clients, event: Event) {
        let key = event.key;
        let Some(socket) = self.get_mut(key) else { return };
        let Some(session) = socket.tls.as_mut() else { return };
        let Ok(count) = event.outcome() else {
            socket.is_sending = false;
            return self.abandon(clients, key);
        };
        session.sent(count as usize);
        let rest = session.rest();
        if rest.is_empty() {
            socket.is_sending = false;
        } else {
            let (descriptor, rest) = (socket.descriptor.as_raw_fd(), (rest.as_ptr(), rest.len()));
            self.ring.send(descriptor, key, rest, Until::All);
        }
        // The next part is encrypted when the connection is looked after.
        clients.sent(key, count as usize, 0);
    }

    /// Parts with clients that do not get on with the handshake.
    pub(super) fn end_handshakes(&mut self, clients: &mut impl Clients) {
        let now_ms = self.now_ms;
        while self.encryption.deadline_ms().is_some_and(|at| at <= now_ms) {
            let Some((_, key)) = self.encryption.handshakes.pop_front() else { return };
            let Some(socket) = self.get_mut(key).filter(|socket| !socket.is_lingering) else {
                continue;
            };
            if socket.tls.as_ref().is_some_and(|session| session.is_handshaking()) {
                let complaint = socket.complaint("no handshake");
                clients.note(Note::HandshakeFailed);
                self.encryption.complain(now_ms, &complaint);
                self.abandon(clients, key);
            }
        }
    }
}

impl Socket {
    fn complaint(&self, what: &str) -> String {
        format!("{}: {what}", self.name.as_deref().unwrap_or_default())
    }
}
