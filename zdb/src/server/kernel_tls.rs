//! Kernel TLS: whether this kernel has it, the keys of one connection, and the records that are no data.
//!
//! It takes ChaCha20-Poly1305 alone. That cipher has no limit of records, so its keys last as long as a
//! connection does. AES-GCM's have to be changed after 2^24.5 records, which a busy client reaches within
//! minutes, and only Linux 6.14 and later can change keys.

use libc::{c_int, c_void, iovec, msghdr, socklen_t};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};
use std::io;
use std::mem::{offset_of, size_of, size_of_val, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

/// Bytes before each record: its type, a version, and the length of what follows.
const HEADER_BYTES: usize = 5;

const RECORD_ALERT: u8 = 21;
const RECORD_HANDSHAKE: u8 = 22;
const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Descriptions of the alerts that are sent for what is wrong.
pub const UNEXPECTED_MESSAGE: u8 = 10;
pub const BAD_RECORD_MAC: u8 = 20;

/// Tries what connections will need; an error says what is missing.
pub fn probe() -> Result<(), String> {
    let explain = |what: &str, error: &io::Error| format!("{what}: {error}");
    let (_client, server) = pair().map_err(|error| explain("no loopback", &error))?;
    let socket = server.as_raw_fd();
    prepare(socket).map_err(|error| explain("no module tls", &error))?;
    for direction in [libc::TLS_TX, libc::TLS_RX] {
        set_keys(socket, direction, 0, &[0; 32], &[0; 12])
            .map_err(|error| explain("no ChaCha20-Poly1305 for TLS 1.3", &error))?;
    }
    Ok(())
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((client, listener.accept()?.0))
}

/// Makes a connection one that can get keys. Until it has them nothing changes.
pub fn prepare(socket: RawFd) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")
}

/// Gives the kernel the keys that a handshake brought, with which it goes on where rustls has stopped.
pub fn hand_over(socket: RawFd, secrets: &ExtractedSecrets) -> io::Result<()> {
    for (direction, (sequence, secrets)) in
        [(libc::TLS_TX, &secrets.tx), (libc::TLS_RX, &secrets.rx)]
    {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        set_keys(socket, direction, *sequence, key.as_ref(), iv.as_ref())?;
    }
    Ok(())
}

fn set_keys(
    socket: RawFd,
    direction: c_int,
    sequence: u64,
    key: &[u8],
    iv: &[u8],
) -> io::Result<()> {
    // SAFETY: the structure is plain data, for which zeroes are valid.
    let mut keys: libc::tls12_crypto_info_chacha20_poly1305 = unsafe { zeroed() };
    keys.info.version = libc::TLS_1_3_VERSION;
    keys.info.cipher_type = libc::TLS_CIPHER_CHACHA20_POLY1305;
    keys.key.copy_from_slice(key);
    keys.iv.copy_from_slice(iv);
    keys.rec_seq = sequence.to_be_bytes();
    let length = size_of_val(&keys);
    let pointer = (&raw mut keys).cast::<c_void>();
    // SAFETY: a live structure of that length, of bytes alone; it is overwritten after its last use.
    unsafe {
        let bytes = std::slice::from_raw_parts(pointer.cast::<u8>(), length);
        let outcome = set_option(socket, libc::SOL_TLS, direction, bytes);
        libc::explicit_bzero(pointer, length);
        outcome
    }
}

fn set_option(socket: RawFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: a live slice of the length that is named.
    let code = unsafe {
        libc::setsockopt(socket, level, name, value.as_ptr().cast(), value.len() as socklen_t)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where the socket of a handshake is read to. The kernel takes over at the border of a record, so not a
/// byte behind it may be taken out of the socket before.
#[derive(Default)]
pub struct Border {
    header: [u8; HEADER_BYTES],
    header_count: usize,
    body_left: usize,
}

impl Border {
    /// How many bytes may be read next: the rest of a header, or of the record behind it.
    pub fn wanted(&self) -> usize {
        if self.body_left > 0 { self.body_left } else { HEADER_BYTES - self.header_count }
    }

    /// So many bytes or fewer were read.
    pub fn took(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.wanted(), "the kernel receives as much as it was asked to");
        if self.body_left > 0 {
            self.body_left -= bytes.len();
            return;
        }
        self.header[self.header_count..][..bytes.len()].copy_from_slice(bytes);
        self.header_count += bytes.len();
        if self.header_count == HEADER_BYTES {
            self.header_count = 0;
            self.body_left = u16::from_be_bytes([self.header[3], self.header[4]]).into();
        }
    }

    pub fn is_reached(&self) -> bool {
        self.body_left == 0 && self.header_count == 0
    }
}

/// The type of a record, as it goes beside a message: a header and one byte.
#[repr(C)]
struct RecordType {
    header: libc::cmsghdr,
    kind: u8,
}

/// What the kernel counts of it: all but the padding.
const RECORD_TYPE_BYTES: usize = offset_of!(RecordType, kind) + 1;

impl RecordType {
    fn alert() -> Self {
        let header = libc::cmsghdr {
            cmsg_len: RECORD_TYPE_BYTES as _,
            cmsg_level: libc::SOL_TLS,
            cmsg_type: libc::TLS_SET_RECORD_TYPE,
        };
        Self { header, kind: RECORD_ALERT }
    }
}

/// A message that is an alert: in a box, since it points into itself.
pub struct Alert {
    record: RecordType,
    text: [u8; 2],
    slice: iovec,
    message: msghdr,
}

impl Alert {
    pub fn goodbye() -> Box<Self> {
        Self::new([LEVEL_WARNING, CLOSE_NOTIFY])
    }

    fn new(text: [u8; 2]) -> Box<Self> {
        let slice = iovec { iov_base: std::ptr::null_mut(), iov_len: text.len() };
        // SAFETY: msghdr is plain data, for which zeroes are valid.
        let message = unsafe { zeroed() };
        let mut alert = Box::new(Self { record: RecordType::alert(), text, slice, message });
        alert.slice.iov_base = (&raw mut alert.text).cast();
        alert.message.msg_iov = &raw mut alert.slice;
        alert.message.msg_iovlen = 1;
        alert.message.msg_control = (&raw mut alert.record).cast();
        alert.message.msg_controllen = size_of::<RecordType>() as _;
        alert
    }

    /// Stays as long as the alert.
    pub fn message(&self) -> *const msghdr {
        &raw const self.message
    }
}

/// Tells the client what it did wrong, where that can be sent at once.
pub fn send_alert(socket: RawFd, description: u8) {
    let alert = Alert::new([LEVEL_FATAL, description]);
    // SAFETY: a message that lives until the call is over, and a socket that is open.
    unsafe { libc::sendmsg(socket, alert.message(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
}

/// A record that is no data.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// The client will say no more.
    Goodbye,
    /// It means nothing in TLS 1.3.
    Ignored,
    /// The client's last word, by its number.
    Alert(u8),
    /// Of the handshake, which is over: a new key, as clients have nothing else to say then.
    Handshake,
    Other(u8),
}

/// Takes the record at which a receive has ended with EIO.
pub fn take_record(socket: RawFd) -> io::Result<Record> {
    let mut text = [0; 2];
    let mut slice = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // SAFETY: both are plain data, for which zeroes are valid.
    let (mut record, mut message): (RecordType, msghdr) = unsafe { zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut record).cast();
    message.msg_controllen = size_of::<RecordType>() as _;
    // SAFETY: a message whose parts are alive and as long as it says, and a socket that is open.
    let count = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    let has_type = message.msg_controllen >= RECORD_TYPE_BYTES
        && record.header.cmsg_level == libc::SOL_TLS
        && record.header.cmsg_type == libc::TLS_GET_RECORD_TYPE;
    let kind = if has_type { record.kind } else { 0 };
    Ok(read_record(kind, &text[..(count as usize).min(text.len())]))
}

fn read_record(kind: u8, text: &[u8]) -> Record {
    match (kind, text) {
        (RECORD_ALERT, [_, CLOSE_NOTIFY]) => Record::Goodbye,
        (RECORD_ALERT, [_, USER_CANCELED]) => Record::Ignored,
        (RECORD_ALERT, [_, description]) => Record::Alert(*description),
        (RECORD_HANDSHAKE, _) => Record::Handshake,
        (kind, _) => Record::Other(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_their_border() {
        let mut border = Border::default();
        assert_eq!((border.wanted(), border.is_reached()), (5, true));
        border.took(&[22, 3]);
        assert_eq!((border.wanted(), border.is_reached()), (3, false));
        border.took(&[3, 1, 2]);
        assert_eq!((border.wanted(), border.is_reached()), (258, false));
        border.took(&[0; 200]);
        assert_eq!((border.wanted(), border.is_reached()), (58, false));
        border.took(&[0; 58]);
        assert_eq!((border.wanted(), border.is_reached()), (5, true));
        // A record of nothing.
        border.took(&[23, 3, 3, 0, 0]);
        assert_eq!((border.wanted(), border.is_reached()), (5, true));
    }

    #[test]
    #[should_panic(expected = "as much as it was asked to")]
    fn nothing_is_read_behind_a_border() {
        Border::default().took(&[0; 6]);
    }

    #[test]
    fn records_that_are_no_data() {
        for (kind, text, expected) in [
            (RECORD_ALERT, &[1, 0][..], Record::Goodbye),
            (RECORD_ALERT, &[2, 0], Record::Goodbye),
            (RECORD_ALERT, &[1, 90], Record::Ignored),
            (RECORD_ALERT, &[2, 20], Record::Alert(20)),
            (RECORD_ALERT, &[2], Record::Other(RECORD_ALERT)),
            (RECORD_ALERT, &[], Record::Other(RECORD_ALERT)),
            (RECORD_HANDSHAKE, &[24, 0], Record::Handshake),
            (23, b"PI", Record::Other(23)),
            (0, &[], Record::Other(0)),
        ] {
            assert_eq!(read_record(kind, text), expected, "{kind} {text:?}");
        }
    }

    /// What the kernel's header says of a control message of one byte.
    #[test]
    fn the_type_of_a_record_is_laid_out_as_the_kernel_wants_it() {
        // SAFETY: both compute, and touch no memory.
        let (length, space) = unsafe { (libc::CMSG_LEN(1), libc::CMSG_SPACE(1)) };
        assert_eq!(RECORD_TYPE_BYTES, length as usize);
        assert_eq!(size_of::<RecordType>(), space as usize);
    }
}
