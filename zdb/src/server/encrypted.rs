//! Encrypted connections in the loop: the same steps as for plain ones, with TLS between socket and hub.
//! Those that the kernel has taken over are plain ones, but for records that are no data.

use super::kernel_tls::{self, Alert, Record};
use super::ring::Until;
use super::tls::{Tls, TlsSession};
use super::{Event, Server, process};
use crate::hub::Encrypter;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// How long a client may take from the connection to the end of the handshake, in milliseconds.
const HANDSHAKE_MS: u64 = 10_000;
/// At most one line about failed handshakes in this time, in milliseconds.
const COMPLAINT_MS: u64 = 1000;

/// What the loop knows about TLS besides its connections.
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

impl Server {
    /// Reads the certificates again, for connections from now on.
    pub fn reload_certificates(&mut self) {
        match self.encryption.tls.as_mut().map(Tls::reload) {
            None => {}
            Some(Ok(())) => process::say("certificates read again"),
            Some(Err(line)) => {
                process::warn(&format!("the certificates stay as they were: {line}"))
            }
        }
    }

    pub(super) fn received_encrypted(&mut self, key: u64, buffer: u16, length: usize) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        let (Some(session), Some(connection)) = (socket.tls.as_mut(), self.hub.get_mut(key)) else {
            return;
        };
        if connection.lingering {
            return self.hub.resume(key);
        }
        let was_handshaking = session.is_handshaking();
        let mut plaintext = std::mem::take(&mut self.encryption.plaintext);
        plaintext.clear();
        let outcome = session.received(self.ring.received(buffer, length), &mut plaintext);
        if was_handshaking && !session.is_handshaking() {
            self.hub.server.stats.tls_handshakes += 1;
        }
        // Also where nothing came for the hub: TLS may have something to say.
        self.hub.received(key, &plaintext);
        self.encryption.plaintext = plaintext;
        match outcome {
            Ok(false) => {}
            Ok(true) => self.hub.ended(key),
            Err(error) => self.fail_encrypted(key, &error.to_string()),
        }
    }

    /// Nothing that comes from this client can be believed any more: says so and closes.
    fn fail_encrypted(&mut self, key: u64, what: &str) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        let (Some(session), Some(connection)) = (socket.tls.as_mut(), self.hub.get_mut(key)) else {
            return;
        };
        let client = format!("client {}: {what}", connection.session.peer);
        let is_handshaking = session.is_handshaking();
        self.hub.server.stats.tls_handshakes_failed += u64::from(is_handshaking);
        self.encryption.complain(self.hub.engine.now.monotonic_ms, &client);
        let Some(connection) = self.hub.get_mut(key) else { return };
        if connection.is_sending {
            return self.abandon(key);
        }
        connection.output.clear();
        connection.sending.clear();
        connection.sent = 0;
        session.fill(&mut connection.sending, &mut connection.sent);
        let alert = session.rest();
        // SAFETY: a live slice, and a socket that is open. Where the alert does not fit, it is not sent.
        unsafe {
            libc::send(
                socket.descriptor.as_raw_fd(),
                alert.as_ptr().cast(),
                alert.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        self.linger(key);
        self.hub.resume(key);
    }

    /// Gives a connection whose handshake is over to the kernel, where that is to be. False: it is not.
    fn hand_over(&mut self, key: u64) -> bool {
        let Some(socket) = self.sockets.get_mut(&key) else { return false };
        let Some(connection) = self.hub.get_mut(key) else { return false };
        if connection.is_receiving || connection.is_sending {
            return false;
        }
        let Some(session) = socket.tls.take_if(|session| session.is_for_kernel()) else {
            return false;
        };
        connection.encrypter = Encrypter::Kernel;
        let outcome = session.into_secrets().map_err(|error| error.to_string()).and_then(|keys| {
            kernel_tls::hand_over(socket.descriptor.as_raw_fd(), &keys)
                .map_err(|error| error.to_string())
        });
        match outcome {
            Ok(()) => self.hub.server.stats.tls_handshakes_kernel += 1,
            // The session is gone with its keys, so nobody can go on.
            Err(error) => {
                let client = format!(
                    "client {}: the kernel does not take its keys: {error}",
                    connection.session.peer
                );
                self.hub.server.stats.tls_handshakes_failed += 1;
                self.encryption.complain(self.hub.engine.now.monotonic_ms, &client);
                self.abandon(key);
            }
        }
        true
    }

    /// A receive of a connection that the kernel decrypts has met something else than data.
    pub(super) fn received_no_data(&mut self, key: u64, error: &io::Error) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let record = match error.raw_os_error() {
            Some(libc::EIO) => kernel_tls::take_record(socket.descriptor.as_raw_fd()),
            _ => Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        let (what, alert) = match record {
            Ok(Record::Goodbye) => return self.hub.ended(key),
            Ok(Record::Ignored) => return self.hub.resume(key),
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
                _ => return self.abandon(key),
            },
        };
        self.fail_in_kernel(key, &what, alert);
    }

    /// Nothing that comes from this client can be believed any more: says so and closes.
    fn fail_in_kernel(&mut self, key: u64, what: &str, alert: Option<u8>) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let Some(connection) = self.hub.get_mut(key) else { return };
        if !connection.lingering {
            let client = format!("client {}: {what}", connection.session.peer);
            let is_sending = connection.is_sending;
            self.encryption.complain(self.hub.engine.now.monotonic_ms, &client);
            if let Some(alert) = alert.filter(|_| !is_sending) {
                kernel_tls::send_alert(socket.descriptor.as_raw_fd(), alert);
            }
        }
        self.abandon(key);
    }

    /// Hands in the kernel's last record to the client, once. False: that was done before.
    ///
    /// It waits until the socket has room, at least a third of its buffer. What the kernel has encrypted
    /// and not yet passed on to TCP goes before it, and a shutdown would throw it away.
    pub(super) fn say_goodbye(&mut self, key: u64) -> bool {
        let Some(socket) = self.sockets.get_mut(&key) else { return false };
        let Some(connection) = self.hub.get_mut(key) else { return false };
        if socket.goodbye.is_some() {
            return false;
        }
        connection.is_sending = true;
        // Nothing is pushed behind it.
        connection.closing = true;
        // It stays in the socket, which is not removed before the completion.
        let goodbye = socket.goodbye.insert(Alert::goodbye());
        self.ring.send_last(socket.descriptor.as_raw_fd(), key, goodbye.message());
        true
    }

    pub(super) fn look_after_encrypted(&mut self, key: u64) {
        if self.hand_over(key) {
            return self.look_after(key);
        }
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        let (Some(session), Some(connection)) = (socket.tls.as_mut(), self.hub.get_mut(key)) else {
            return;
        };
        if session.is_handshaking() && connection.eof {
            return self.abandon(key);
        }
        if connection.is_sending {
            return self.adjust_receive(key);
        }
        if !session.is_handshaking() && connection.sending.is_empty() {
            std::mem::swap(&mut connection.output, &mut connection.sending);
            connection.sent = 0;
        }
        if connection.sending.is_empty() && connection.is_finished() {
            session.say_goodbye();
        }
        if self.send_encrypted(key) {
            return self.adjust_receive(key);
        }
        let Some(connection) = self.hub.get_mut(key) else { return };
        if connection.is_finished() {
            return self.linger(key);
        }
        self.adjust_receive(key);
    }

    /// Encrypts and sends what there is. False: there was nothing.
    fn send_encrypted(&mut self, key: u64) -> bool {
        let now_ms = self.hub.engine.now.monotonic_ms;
        let mut has_sent = false;
        loop {
            let Some(socket) = self.sockets.get_mut(&key) else { return false };
            let (Some(session), Some(connection)) = (socket.tls.as_mut(), self.hub.get_mut(key))
            else {
                return false;
            };
            session.fill(&mut connection.sending, &mut connection.sent);
            let descriptor = socket.descriptor.as_raw_fd();
            let rest = session.rest();
            if rest.is_empty() {
                if has_sent {
                    // There may be room for the replies of requests that wait.
                    self.hub.resume(key);
                }
                return has_sent;
            }
            // As for plain connections: a lone client waits for nobody.
            if self.batch == 1 {
                let count = super::send_now(descriptor, rest);
                let is_all = count == rest.len();
                session.sent(count);
                connection.active_ms = now_ms;
                connection.is_sending = !is_all;
                self.hub.server.stats.sent_bytes += count as u64;
                if is_all {
                    has_sent = true;
                    continue;
                }
            } else {
                connection.is_sending = true;
            }
            // The session is boxed, and its bytes are not touched until the completion.
            let rest = session.rest();
            self.ring.send(descriptor, key, (rest.as_ptr(), rest.len()), Until::All);
            return true;
        }
    }

    pub(super) fn sent_encrypted(&mut self, event: Event) {
        let key = event.key;
        let now_ms = self.hub.engine.now.monotonic_ms;
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        let (Some(session), Some(connection)) = (socket.tls.as_mut(), self.hub.get_mut(key)) else {
            return;
        };
        let Ok(count) = event.outcome() else {
            connection.is_sending = false;
            return self.abandon(key);
        };
        session.sent(count as usize);
        connection.active_ms = now_ms;
        let rest = session.rest();
        if rest.is_empty() {
            connection.is_sending = false;
        } else {
            let descriptor = socket.descriptor.as_raw_fd();
            self.ring.send(descriptor, key, (rest.as_ptr(), rest.len()), Until::All);
        }
        self.hub.server.stats.sent_bytes += count;
        // The next part is encrypted when the connection is looked after.
        self.hub.resume(key);
    }

    /// Parts with clients that do not get on with the handshake.
    pub(super) fn end_handshakes(&mut self, now_ms: u64) {
        while self.encryption.deadline_ms().is_some_and(|at| at <= now_ms) {
            let Some((_, key)) = self.encryption.handshakes.pop_front() else { return };
            let session = self.sockets.get(&key).and_then(|socket| socket.tls.as_ref());
            let is_late = session.is_some_and(|session| session.is_handshaking());
            if let Some(connection) = self.hub.get_mut(key).filter(|one| is_late && !one.lingering)
            {
                let client = format!("client {}: no handshake", connection.session.peer);
                self.hub.server.stats.tls_handshakes_failed += 1;
                self.encryption.complain(now_ms, &client);
                self.abandon(key);
            }
        }
    }
}
