//! Who answers the clients of some sockets: the hub, in the same thread, or the way to the hub's thread.

use super::process;
use crate::hub::{Hub, Wishes};
use crate::output::Output;

/// What happened to a connection that only the counters are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Handshake,
    HandshakeFailed,
    /// The kernel has taken the connection over.
    HandshakeKernel,
    /// Its client was silent for too long.
    TimedOut,
}

/// What `Sockets` wants of them. The keys are the hub's.
pub trait Clients {
    /// What to do for a connection that was touched.
    fn look(&mut self, key: u64) -> Option<Wishes>;
    /// The connection is to be looked at, in this turn.
    fn touch(&mut self, key: u64);
    /// Takes what is to be sent, in exchange for an empty output.
    fn take_output(&mut self, key: u64, into: &mut Output);
    fn received(&mut self, key: u64, bytes: &[u8]);
    /// The client will send no more.
    fn ended(&mut self, key: u64);
    /// `count` bytes went into the socket, and `released` bytes of output are done with.
    fn sent(&mut self, key: u64, count: usize, released: usize);
    /// The client cannot be reached any more.
    fn failed(&mut self, key: u64);
    /// Nothing more is sent, and what still comes is thrown away.
    fn lingers(&mut self, key: u64);
    /// The socket is closed.
    fn closed(&mut self, key: u64);
    fn note(&mut self, what: Note);
    /// Whether they can take more of what is received.
    fn has_room(&self) -> bool;
}

impl Clients for Hub {
    #[inline]
    fn look(&mut self, key: u64) -> Option<Wishes> {
        Hub::look(self, key)
    }

    #[inline]
    fn touch(&mut self, key: u64) {
        self.touch_key(key);
    }

    #[inline]
    fn take_output(&mut self, key: u64, into: &mut Output) {
        Hub::take_output(self, key, into);
    }

    #[inline]
    fn received(&mut self, key: u64, bytes: &[u8]) {
        Hub::received(self, key, bytes);
    }

    fn ended(&mut self, key: u64) {
        Hub::ended(self, key);
    }

    #[inline]
    fn sent(&mut self, key: u64, count: usize, released: usize) {
        Hub::sent(self, key, count, released);
    }

    fn failed(&mut self, key: u64) {
        Hub::failed(self, key);
    }

    fn lingers(&mut self, key: u64) {
        Hub::lingers(self, key);
    }

    fn closed(&mut self, key: u64) {
        self.remove(key);
        if self.server.settings.verbose {
            process::say(&format!("client {key:x} gone"));
        }
    }

    fn note(&mut self, what: Note) {
        let stats = &mut self.server.stats;
        match what {
            Note::Handshake => stats.tls_handshakes += 1,
            Note::HandshakeFailed => stats.tls_handshakes_failed += 1,
            Note::HandshakeKernel => stats.tls_handshakes_kernel += 1,
            Note::TimedOut => stats.timed_out_connections += 1,
        }
    }

    fn has_room(&self) -> bool {
        true
    }
}
