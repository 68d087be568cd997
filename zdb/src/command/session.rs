//! What a connection is to the commands: its namespace, its rights, its protocol.

use super::channels::Subscriptions;
use super::throttle::Source;
use super::transaction::Transaction;
use super::write::Unlinked;
use crate::resp::Protocol;

pub struct Session {
    /// Of the connection, never reused.
    pub id: u64,
    /// Slot and id of the namespace; the id it was found by tells a reused slot apart.
    pub slot: usize,
    pub namespace: u32,
    pub origin: u32,
    pub admin: bool,
    /// Whether the admin right came from a password.
    pub authenticated: bool,
    pub writable: bool,
    /// The rights of a new connection.
    pub admin_at_first: bool,
    pub writable_at_first: bool,
    /// Over loopback or a unix socket.
    pub local: bool,
    /// Whom its wrong passwords are counted for.
    pub source: Source,
    pub protocol: Protocol,
    /// Of the UNLINK under way.
    pub unlinked: Unlinked,
    /// The outstanding challenge of AUTH SECURE, in hexadecimal.
    pub challenge: Option<[u8; 16]>,
    pub name: Vec<u8>,
    pub library_name: Vec<u8>,
    pub library_version: Vec<u8>,
    pub peer: String,
    /// Where it is connected to.
    pub local_address: String,
    /// Unix seconds.
    pub connected_s: u64,
    pub last_command: &'static str,
    pub last_command_s: u64,
    pub running: Running,
    pub replies: Replies,
    pub subscriptions: Subscriptions,
    /// Since MULTI.
    pub transaction: Option<Box<Transaction>>,
    /// Shows all requests that others make: MONITOR, MIRROR.
    pub is_monitor: bool,
    pub is_mirror: bool,
    /// Its requests end with their owner: MASTER.
    pub is_master: bool,
    /// It copies this server, or this server copies it.
    pub is_replica: bool,
    pub is_link: bool,
}

/// What became of the request that is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Running {
    /// Place of the command in the table; none: there is no such command, or no namespace.
    pub command: Option<u8>,
    /// The gatekeeper refused it.
    pub is_rejected: bool,
    /// When it began, where it is timed alone, in nanoseconds of the machine's clock.
    pub since_ns: Option<u64>,
}

/// Whether replies are sent: CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    On,
    Off,
    /// That of the next request is not.
    SkipNext,
    /// That of this request is not.
    Skip,
}

impl Session {
    /// As it was when the connection was new, as far as RESET means it.
    pub fn reset(&mut self) {
        self.slot = 0;
        self.namespace = 0;
        self.origin = 0;
        self.admin = self.admin_at_first;
        self.authenticated = false;
        self.writable = self.writable_at_first;
        self.protocol = Protocol::Resp2;
        self.challenge = None;
        self.name.clear();
        self.replies = Replies::On;
        self.is_master = false;
        self.transaction = None;
    }

    /// Whether replies are to be thrown away.
    pub fn is_muted(&self) -> bool {
        matches!(self.replies, Replies::Off | Replies::Skip)
    }

    /// A request between MULTI and EXEC was refused.
    pub fn spoil_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.spoil();
        }
    }

    /// Whether it has subscriptions and a protocol on which its replies could be taken for messages.
    #[inline]
    pub fn hears_messages_only(&self) -> bool {
        self.protocol == Protocol::Resp2 && !self.subscriptions.is_empty()
    }

    /// Whether its requests want a closer look before they run.
    #[inline]
    pub fn is_special(&self) -> bool {
        self.is_master | (self.replies != Replies::On)
    }
}
