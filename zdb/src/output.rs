//! The replies of a connection on their way out: bytes, with large payloads in between that are sent
//! from where they lie.

use crate::limits::SHARE_BYTES_MIN;
use crate::resp::{CRLF, Protocol, ReplyWriter};
use bytes::Bytes;

/// Memory that an empty output keeps: a connection has two, and there may be many idle connections.
const IDLE_BYTES_MAX: usize = 8 << 10;

#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Payloads, each with the number of `bytes` that go before it.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Output {
    pub fn writer(&mut self, protocol: Protocol) -> ReplyWriter<'_> {
        ReplyWriter::new(&mut self.bytes, protocol)
    }

    /// A bulk string whose payload may be shared.
    pub fn bulk(&mut self, protocol: Protocol, payload: &[u8], owner: Option<&Bytes>) {
        match owner {
            Some(owner) if payload.len() >= SHARE_BYTES_MIN => {
                self.writer(protocol).bulk_header(payload.len());
                self.shared.push((self.bytes.len(), owner.slice_ref(payload)));
                self.shared_bytes += payload.len();
                self.bytes.extend_from_slice(CRLF);
            }
            _ => self.writer(protocol).bulk(payload),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written since `mark`, which is an earlier `mark()`, as an output of its own.
    pub fn split_off(&mut self, mark: Mark) -> Output {
        let bytes = self.bytes.split_off(mark.bytes);
        let mut shared = self.shared.split_off(mark.shared);
        for (before, _) in &mut shared {
            *before -= mark.bytes;
        }
        let shared_bytes = shared.iter().map(|(_, payload)| payload.len()).sum();
        self.shared_bytes -= shared_bytes;
        Output { bytes, shared, shared_bytes }
    }

    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), shared: self.shared.len() }
    }

    /// The first two bytes of what was written since `mark`, as far as there are so many.
    #[inline]
    pub fn head_since(&self, mark: Mark) -> [u8; 2] {
        match self.bytes.get(mark.bytes..) {
            Some([first, second, ..]) => [*first, *second],
            _ => [0, 0],
        }
    }

    /// Takes back what was written since `mark`.
    pub fn undo(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.shared.truncate(mark.shared);
        self.shared_bytes = self.shared.iter().map(|(_, payload)| payload.len()).sum();
    }

    /// Puts another output behind this one.
    pub fn append(&mut self, mut other: Output) {
        let before = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.shared.extend(other.shared.into_iter().map(|(at, payload)| (at + before, payload)));
        self.shared_bytes += other.shared_bytes;
    }

    /// Puts bytes behind it.
    pub fn append_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Empties it, and gives back memory that an unusually large reply took.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_BYTES_MAX);
        self.shared.clear();
        self.shared_bytes = 0;
    }

    /// The slices to send, from byte `skip` on.
    pub fn slices<'a>(&'a self, skip: usize, out: &mut Vec<&'a [u8]>) {
        let mut skip = skip;
        let mut push = |slice: &'a [u8]| {
            let cut = skip.min(slice.len());
            skip -= cut;
            if cut < slice.len() {
                out.push(&slice[cut..]);
            }
        };
        let mut at = 0;
        for (before, payload) in &self.shared {
            push(&self.bytes[at..*before]);
            push(payload);
            at = *before;
        }
        push(&self.bytes[at..]);
    }

    /// The only slice, where nothing is shared.
    pub fn plain(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&self.bytes)
    }
}

#[derive(Clone, Copy)]
pub struct Mark {
    bytes: usize,
    shared: usize,
}
