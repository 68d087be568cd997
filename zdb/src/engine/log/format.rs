//! The bytes of a segment: its header and its records. `zdb/FORMAT.md` is the same in prose.
//!
//! All integers are little-endian. A position is a byte address in the log of the whole disk: segment
//! base plus offset in the file. Checksums are XXH3-64 (<https://github.com/Cyan4973/xxHash>), seeded
//! with the log's id and, for a head, with its position, so that a record is only valid in the log
//! and at the place for which it was written: bytes of an earlier life of the disk are never taken
//! for records.

use crate::engine::index::Place;
use crate::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::planted::{self, Bug};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub const VERSION: u32 = 1;
/// Of a segment that the cleaner wrote.
pub const VERSION_PACKED: u32 = 2;
/// Every direct read and write is a multiple of this many bytes, and starts at such a multiple. It is
/// the larger of the two block sizes in use, so a data directory can move between disks.
pub const BLOCK: u64 = 4096;
/// Positions are multiples of this.
pub const ALIGN: u64 = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"zdb-seg\n";
/// The segment header has a block of its own.
pub const SEGMENT_HEADER_BYTES: u64 = BLOCK;

const HEAD_CHECK: usize = 0; // u32, low half of XXH3 over bytes [4, 44) and the key
const LENGTHS: usize = 4; // u32: payload length 24 bits, key length 8 bits
const PAYLOAD_CHECK: usize = 8; // u64, XXH3 over the payload
const SEQUENCE: usize = 16; // u48
const KIND: usize = 22; // u8
const FLAGS: usize = 23; // u8
const TIMESTAMP: usize = 24; // u32, Unix seconds
const NAMESPACE: usize = 28; // u32
const PREVIOUS: usize = 32; // u64, position of the version before this one, 0 = none
const REPLACED: usize = 40; // u32, payload bytes of that version, NOT_REPLACED = none
pub const RECORD_HEAD_BYTES: usize = 44;

const NOT_REPLACED: u32 = u32::MAX;

/// Set when the key of `previous` was taken for ours by its hash alone: below this record there may
/// be one of another key with the same hash.
pub const FLAG_UNVERIFIED: u8 = 1;
/// Set on a record in a batch: alone it counts only where its batch was surely durable once.
pub const FLAG_MEMBER: u8 = 2;
/// Set where the key is the id of a sequential namespace: the mode is then known where the namespace's own
/// record is lost.
pub const FLAG_ID: u8 = 4;
pub const FLAGS_KNOWN: u8 = FLAG_UNVERIFIED | FLAG_MEMBER | FLAG_ID;

/// Bytes of the smallest record that gives an id out.
pub const ID_RECORD_BYTES_MIN: u64 = record_bytes(size_of::<u64>(), 0);

/// Bytes before the first record of a batch: its head and a key of zeroes that aligns what follows.
pub const BATCH_HEAD_BYTES: usize =
    (RECORD_HEAD_BYTES + BATCH_KEY.len()).next_multiple_of(ALIGN as usize);
const BATCH_KEY: [u8; 4] = [0; 4];
/// Most bytes of all records in a batch.
pub const BATCH_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

const _: () = {
    assert!(LENGTHS == HEAD_CHECK + 4 && PAYLOAD_CHECK == LENGTHS + 4);
    assert!(SEQUENCE == PAYLOAD_CHECK + 8 && KIND == SEQUENCE + 6 && FLAGS == KIND + 1);
    assert!(TIMESTAMP == FLAGS + 1 && NAMESPACE == TIMESTAMP + 4 && PREVIOUS == NAMESPACE + 4);
    assert!(REPLACED == PREVIOUS + 8 && RECORD_HEAD_BYTES == REPLACED + 4);
    assert!(PAYLOAD_BYTES_MAX < 1 << 24 && KEY_BYTES_MAX < 1 << 8);
    assert!(BATCH_HEAD_BYTES == RECORD_HEAD_BYTES + BATCH_KEY.len());
};

/// Bytes of the largest record.
pub const RECORD_BYTES_MAX: u64 = record_bytes(KEY_BYTES_MAX, PAYLOAD_BYTES_MAX);
/// Bytes of the smallest record, which is what an empty padding needs.
pub const RECORD_BYTES_MIN: u64 = record_bytes(0, 0);

/// Bytes that a record takes in the log.
pub const fn record_bytes(key: usize, payload: usize) -> u64 {
    ((RECORD_HEAD_BYTES + key + payload) as u64).next_multiple_of(ALIGN)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A version of a key.
    Set = 1,
    /// The end of a key.
    Delete = 2,
    /// Fills the rest of a block.
    Padding = 3,
    /// The last record of a segment that was closed in order.
    Seal = 4,
    /// A namespace with its settings; the first of an id creates it, a later one changes it.
    Namespace = 5,
    /// The end of a namespace and of everything in it.
    NamespaceEnd = 6,
    /// Its payload is whole records of their own, which count together or not at all.
    Batch = 7,
    /// A server begins to write: its number is in the place of the namespace, that of the term is the key.
    Term = 8,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Set,
            2 => Self::Delete,
            3 => Self::Padding,
            4 => Self::Seal,
            5 => Self::Namespace,
            6 => Self::NamespaceEnd,
            7 => Self::Batch,
            8 => Self::Term,
            _ => return None,
        })
    }
}

/// Which log a segment or a sidecar belongs to. Chosen at random when the log is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// The seed of all checksums in this log.
    pub fn seed(&self) -> u64 {
        xxh3_64(&self.0)
    }

    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let mut id = [0; 16];
        if text.len() != 32 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// Everything about a record but its key and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub flags: u8,
    pub key_length: u8,
    pub payload_length: u32,
    pub payload_check: u64,
    /// Order of writing: the position of the record when it was new, in units of `ALIGN`. A record that
    /// is moved keeps it.
    pub sequence: u64,
    pub timestamp: u32,
    pub namespace: u32,
    pub previous: Place,
    /// Payload bytes of the live version that this record replaces or ends.
    pub replaced: Option<u32>,
}

impl Head {
    /// Bytes of the whole record.
    pub fn bytes(&self) -> u64 {
        record_bytes(self.key_length as usize, self.payload_length as usize)
    }

    pub fn payload_offset(&self) -> usize {
        RECORD_HEAD_BYTES + self.key_length as usize
    }

    /// Eight bits of the payload's checksum, kept in the index to tell different values apart without
    /// a read.
    pub fn fingerprint(&self) -> u8 {
        fingerprint(self.payload_check)
    }
}

pub fn fingerprint(payload_check: u64) -> u8 {
    payload_check as u8
}

/// The checksum of a payload. It does not depend on the position, so equal values have equal checks.
pub fn payload_check(seed: u64, payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, seed)
}

fn head_check(seed: u64, position: u64, head_and_key: &[u8]) -> u32 {
    xxh3_64_with_seed(&head_and_key[LENGTHS..], seed ^ position.rotate_left(32)) as u32
}

/// Writes a record to the first `head.bytes()` bytes of `out`.
pub fn encode(out: &mut [u8], seed: u64, position: u64, head: &Head, key: &[u8], payload: &[u8]) {
    assert!(payload.len() == head.payload_length as usize);
    debug_assert!(head.payload_check == payload_check(seed, payload));
    let out = &mut out[..head.bytes() as usize];
    let body = RECORD_HEAD_BYTES + key.len();
    out[body..body + payload.len()].copy_from_slice(payload);
    out[body + payload.len()..].fill(0);
    encode_head(out, seed, position, head, key);
}

/// Writes the head of a batch before the records that already follow it in `out`, which is all of it.
pub fn encode_batch(out: &mut [u8], seed: u64, position: u64) {
    let members = &out[BATCH_HEAD_BYTES..];
    let head = Head {
        kind: Kind::Batch,
        flags: 0,
        key_length: BATCH_KEY.len() as u8,
        payload_length: members.len() as u32,
        payload_check: payload_check(seed, members),
        sequence: position / ALIGN,
        timestamp: 0,
        namespace: 0,
        previous: Place::NONE,
        replaced: None,
    };
    encode_head(out, seed, position, &head, &BATCH_KEY);
}

fn encode_head(out: &mut [u8], seed: u64, position: u64, head: &Head, key: &[u8]) {
    assert!(key.len() == head.key_length as usize);
    let body = RECORD_HEAD_BYTES + key.len();
    out[LENGTHS..PAYLOAD_CHECK]
        .copy_from_slice(&(head.payload_length | u32::from(head.key_length) << 24).to_le_bytes());
    out[PAYLOAD_CHECK..SEQUENCE].copy_from_slice(&head.payload_check.to_le_bytes());
    let word = head.sequence | (head.kind as u64) << 48 | u64::from(head.flags) << 56;
    out[SEQUENCE..TIMESTAMP].copy_from_slice(&word.to_le_bytes());
    out[TIMESTAMP..NAMESPACE].copy_from_slice(&head.timestamp.to_le_bytes());
    out[NAMESPACE..PREVIOUS].copy_from_slice(&head.namespace.to_le_bytes());
    out[PREVIOUS..REPLACED].copy_from_slice(&head.previous.get().to_le_bytes());
    out[REPLACED..RECORD_HEAD_BYTES]
        .copy_from_slice(&head.replaced.unwrap_or(NOT_REPLACED).to_le_bytes());
    out[RECORD_HEAD_BYTES..body].copy_from_slice(key);
    let check = head_check(seed, position, &out[..body]);
    out[HEAD_CHECK..LENGTHS].copy_from_slice(&check.to_le_bytes());
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the fields of a head without looking at its checksum. `None` when they cannot be a record.
#[inline]
pub fn decode_fields(bytes: &[u8]) -> Option<Head> {
    // An array of known length: every access below is without a check.
    let bytes = bytes.first_chunk::<RECORD_HEAD_BYTES>()?;
    let kind = Kind::from_byte(bytes[KIND])?;
    let lengths = u32_at(bytes, LENGTHS);
    let previous = u64_at(bytes, PREVIOUS);
    if (lengths & 0xff_ffff) as usize > PAYLOAD_BYTES_MAX || !Place::is_valid(previous) {
        return None;
    }
    Some(Head {
        kind,
        flags: bytes[FLAGS],
        key_length: (lengths >> 24) as u8,
        payload_length: lengths & 0xff_ffff,
        payload_check: u64_at(bytes, PAYLOAD_CHECK),
        sequence: u64_at(bytes, SEQUENCE) & 0xffff_ffff_ffff,
        timestamp: u32_at(bytes, TIMESTAMP),
        namespace: u32_at(bytes, NAMESPACE),
        previous: Place::new(previous),
        replaced: match u32_at(bytes, REPLACED) {
            NOT_REPLACED => None,
            length => Some(length),
        },
    })
}

/// Reads and verifies the head and the key of a record at `position`; the payload may be missing from
/// `bytes` and is not looked at.
pub fn decode_head(bytes: &[u8], seed: u64, position: u64) -> Option<Head> {
    let head = decode_fields(bytes)?;
    let with_key = bytes.get(..head.payload_offset())?;
    (head_check(seed, position, with_key) == u32_at(bytes, HEAD_CHECK)).then_some(head)
}

/// Whether the payload behind a verified head is whole.
pub fn payload_is_whole(bytes: &[u8], seed: u64, head: &Head) -> bool {
    let start = head.payload_offset();
    bytes.get(start..start + head.payload_length as usize).is_some_and(|payload| {
        payload_check(seed, payload) == head.payload_check || planted::is(Bug::NoChecksum)
    })
}

/// A record whose bytes were verified, or were written by this process and never left its memory.
#[derive(Clone, Copy)]
pub struct Verified<'a> {
    pub head: Head,
    bytes: &'a [u8],
}

impl<'a> Verified<'a> {
    /// Verifies head, key and payload. `bytes` starts at the record.
    pub fn check(bytes: &'a [u8], seed: u64, position: u64) -> Option<Self> {
        let head = decode_head(bytes, seed, position)?;
        payload_is_whole(bytes, seed, &head).then_some(Self { head, bytes })
    }

    /// For bytes from the write buffer or the cache, which were verified on their way in.
    #[inline]
    pub fn trusted(bytes: &'a [u8]) -> Self {
        let head = decode_fields(bytes).expect("a record of our own memory is whole");
        Self::with_head(head, bytes)
    }

    /// The same where the head was already read.
    #[inline]
    pub fn with_head(head: Head, bytes: &'a [u8]) -> Self {
        debug_assert!(head.bytes() <= bytes.len() as u64);
        Self { head, bytes }
    }

    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[..self.head.bytes() as usize]
    }

    pub fn key(&self) -> &'a [u8] {
        &self.bytes[RECORD_HEAD_BYTES..self.head.payload_offset()]
    }

    pub fn payload(&self) -> &'a [u8] {
        let start = self.head.payload_offset();
        &self.bytes[start..start + self.head.payload_length as usize]
    }
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub log: LogId,
    /// Position of this header.
    pub base: u64,
    /// Addresses that the segment may use; the next segment's base is at least base + capacity.
    pub capacity: u64,
    /// Where the records of the segment before end, when that was found by a recovery; 0 when a seal
    /// record tells it.
    pub previous_end: u64,
    /// Unix seconds.
    pub created: u64,
    /// What more is to be known of a segment that the cleaner wrote.
    pub packed: Option<PackedHeader>,
}

/// The header of a packed segment beyond that of any other: see `packed.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedHeader {
    /// How many segments it stands for.
    pub count: u32,
    /// Where the records of the addresses that it stands for ended.
    pub end: u64,
    /// How far the log was when its first record was judged: no two packed segments of a base have the same. What
    /// records below it superseded is no longer here, unless `is_undecided`.
    pub judged_until: u64,
    /// How far the log was when it was finished: what is no longer here was superseded or ended by records below it.
    /// 0: it does not say, as those of before there were replicas.
    pub rests_on: u64,
    /// Bytes of records in the file, behind the header.
    pub record_bytes: u64,
    pub stops: u32,
    pub residues: u32,
    /// The cleaner could not tell of some record whether it is wanted, and kept it.
    pub is_undecided: bool,
    /// XXH3-64 of stops and residues.
    pub trailer_check: u64,
}

impl PackedHeader {
    /// How far the log was at least when it was finished.
    pub fn rests_on_min(&self) -> u64 {
        if self.rests_on == 0 { self.judged_until } else { self.rests_on }
    }
}

impl SegmentHeader {
    const BYTES: usize = 64;
    const PACKED_BYTES: usize = 128;

    pub fn encode(&self) -> [u8; BLOCK as usize] {
        let mut out = [0; BLOCK as usize];
        let version = if self.packed.is_some() { VERSION_PACKED } else { VERSION };
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&version.to_le_bytes());
        out[12..28].copy_from_slice(&self.log.0);
        out[28..36].copy_from_slice(&self.base.to_le_bytes());
        out[36..44].copy_from_slice(&self.capacity.to_le_bytes());
        out[44..52].copy_from_slice(&self.previous_end.to_le_bytes());
        out[52..60].copy_from_slice(&self.created.to_le_bytes());
        let mut end = Self::BYTES;
        if let Some(packed) = &self.packed {
            out[60..68].copy_from_slice(&packed.end.to_le_bytes());
            out[68..76].copy_from_slice(&packed.judged_until.to_le_bytes());
            out[76..84].copy_from_slice(&packed.record_bytes.to_le_bytes());
            out[84..88].copy_from_slice(&packed.stops.to_le_bytes());
            out[88..92].copy_from_slice(&packed.residues.to_le_bytes());
            out[92..96].copy_from_slice(&u32::from(packed.is_undecided).to_le_bytes());
            out[96..104].copy_from_slice(&packed.trailer_check.to_le_bytes());
            out[104..108].copy_from_slice(&packed.count.to_le_bytes());
            out[108..116].copy_from_slice(&packed.rests_on.to_le_bytes());
            end = Self::PACKED_BYTES;
        }
        let check = xxh3_64(&out[..end - 4]) as u32;
        out[end - 4..end].copy_from_slice(&check.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < Self::PACKED_BYTES || &bytes[..8] != SEGMENT_MAGIC {
            return Err("no segment header");
        }
        // The version tells where the checksum is: where that holds, so does the version.
        let is_packed = u32_at(bytes, 8) == VERSION_PACKED;
        let end = if is_packed { Self::PACKED_BYTES } else { Self::BYTES };
        if xxh3_64(&bytes[..end - 4]) as u32 != u32_at(bytes, end - 4) {
            return Err("damaged segment header");
        }
        if !is_packed && u32_at(bytes, 8) != VERSION {
            return Err("segment of a version that this zdb does not know");
        }
        let mut log = [0; 16];
        log.copy_from_slice(&bytes[12..28]);
        Ok(Self {
            log: LogId(log),
            base: u64_at(bytes, 28),
            capacity: u64_at(bytes, 36),
            previous_end: u64_at(bytes, 44),
            created: u64_at(bytes, 52),
            packed: is_packed.then(|| PackedHeader {
                count: u32_at(bytes, 104),
                end: u64_at(bytes, 60),
                judged_until: u64_at(bytes, 68),
                rests_on: u64_at(bytes, 108),
                record_bytes: u64_at(bytes, 76),
                stops: u32_at(bytes, 84),
                residues: u32_at(bytes, 88),
                is_undecided: u32_at(bytes, 92) & 1 != 0,
                trailer_check: u64_at(bytes, 96),
            }),
        })
    }
}

/// Name of a packed segment while it is written; a start removes what is left of it.
pub fn unfinished_name(base: u64) -> String {
    format!("{base:016x}.log.new")
}

/// The base in the name of an unfinished packed segment.
pub fn unfinished_base(name: &str) -> Option<u64> {
    base_of(name.strip_suffix(".log.new")?)
}

/// Name of the file of a segment, and of its sidecar without the ending.
pub fn segment_name(base: u64) -> String {
    format!("{base:016x}.log")
}

pub fn sidecar_name(base: u64) -> String {
    format!("{base:016x}.sidecar")
}

/// What is kept of a segment that was moved away: see `stub.rs`.
pub fn stub_name(base: u64) -> String {
    format!("{base:016x}.stub")
}

/// The base in a stub's file name.
pub fn stub_base(name: &str) -> Option<u64> {
    base_of(name.strip_suffix(".stub")?)
}

/// The base in a segment's file name.
pub fn segment_base(name: &str) -> Option<u64> {
    base_of(name.strip_suffix(".log")?)
}

/// The bases of the segments among file names, which grow.
pub fn segment_bases(names: &[String]) -> Vec<u64> {
    let mut bases: Vec<u64> = names.iter().filter_map(|name| segment_base(name)).collect();
    bases.sort_unstable();
    bases
}

/// The base in a sidecar's file name.
pub fn sidecar_base(name: &str) -> Option<u64> {
    base_of(name.strip_suffix(".sidecar")?)
}

fn base_of(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
