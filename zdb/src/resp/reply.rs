//! Replies, written straight into the connection's output buffer, in RESP2 or RESP3.

/// Line end of the protocol, and what must follow the payload of a `bulk_header`.
pub const CRLF: &[u8] = b"\r\n";
/// Type byte, 20 characters of the longest 64-bit number, CR LF: room to reserve for a header.
const HEADER_BYTES: usize = 1 + 20 + 2;

/// The dialect a connection speaks: RESP2 until it asks for RESP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// Appends replies to a buffer. Every call writes one whole frame or the header of an aggregate;
/// that as many frames follow as an aggregate announced is the caller's part.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> ReplyWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `+text`. CR and LF in the text become spaces: they would end the frame early.
    #[inline]
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// `-text`, without the `ERR` of Redis: clients of 0-db compare the whole text.
    #[inline]
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    #[inline]
    pub fn integer(&mut self, number: i64) {
        match u64::try_from(number) {
            Ok(number) => self.header(b':', number),
            Err(_) => self.long_header(b':', itoa::Buffer::new().format(number)),
        }
    }

    #[inline]
    pub fn bulk(&mut self, payload: &[u8]) {
        self.out.reserve(HEADER_BYTES + payload.len() + CRLF.len());
        self.bulk_header(payload.len());
        self.out.extend_from_slice(payload);
        self.out.extend_from_slice(CRLF);
    }

    /// Text for people: a verbatim string in RESP3, a bulk string in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                const KIND: &[u8] = b"txt:";
                self.header(b'=', (KIND.len() + text.len()) as u64);
                self.out.extend_from_slice(KIND);
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(CRLF);
            }
        }
    }

    /// The header of a bulk of `payload_bytes` which the caller sends from elsewhere, followed by
    /// `CRLF`.
    #[inline]
    pub fn bulk_header(&mut self, payload_bytes: usize) {
        self.header(b'$', payload_bytes as u64);
    }

    /// "Nothing": `$-1` in RESP2, `_` in RESP3.
    #[inline]
    pub fn nil(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Header of an array; `count` frames must follow.
    #[inline]
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count as u64);
    }

    /// Header of what comes without being asked for; `count` frames must follow. RESP2 has no such type: there
    /// it is an array.
    pub fn push(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(count),
            Protocol::Resp3 => self.header(b'>', count as u64),
        }
    }

    /// Header of a map; `pair_count` pairs of frames must follow. RESP2 has no maps: there it is the
    /// array of keys and values in turn.
    #[inline]
    pub fn map(&mut self, pair_count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(2 * pair_count),
            Protocol::Resp3 => self.header(b'%', pair_count as u64),
        }
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.out.reserve(HEADER_BYTES + text.len());
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(CRLF);
    }

    #[inline]
    fn header(&mut self, kind: u8, number: u64) {
        match number {
            0..10 => self.out.extend_from_slice(&[kind, b'0' + number as u8, b'\r', b'\n']),
            10..100 => {
                let (tens, ones) = (number as u8 / 10, number as u8 % 10);
                self.out.extend_from_slice(&[kind, b'0' + tens, b'0' + ones, b'\r', b'\n']);
            }
            _ => self.long_header(kind, itoa::Buffer::new().format(number)),
        }
    }

    fn long_header(&mut self, kind: u8, digits: &str) {
        let mut bytes = [0; HEADER_BYTES];
        let end = 1 + digits.len();
        bytes[0] = kind;
        bytes[1..end].copy_from_slice(digits.as_bytes());
        bytes[end..end + 2].copy_from_slice(CRLF);
        self.out.extend_from_slice(&bytes[..end + 2]);
    }
}
