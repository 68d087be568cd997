//! What a connection is to the commands: its namespace, its rights, its protocol.

use super::throttle::Source;
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
    /// Unix seconds.
    pub connected_s: u64,
    pub last_command: &'static str,
    pub last_command_s: u64,
}
