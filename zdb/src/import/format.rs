//! The bytes of a 0-db v2 directory, read from slices: nothing here trusts them, panics on them or
//! allocates by them. All integers are little-endian and packed.

use crate::limits::PAYLOAD_BYTES_MAX;

/// First bytes of a data file: magic, version, two times that stay 0, number of the file.
pub const DATA_HEADER_BYTES: u64 = 28;
/// The same of an index file, and the mode.
pub const INDEX_HEADER_BYTES: u64 = 29;
/// A record without key and payload.
pub const RECORD_HEAD_BYTES: usize = 18;
/// An index entry without its key.
pub const ENTRY_HEAD_BYTES: usize = 34;
/// Bytes of a sequential key, which is its id.
pub const ID_BYTES: usize = 8;
/// An index entry of a namespace in sequential mode: its place in the file tells the id.
pub const SEQUENTIAL_ENTRY_BYTES: u64 = (ENTRY_HEAD_BYTES + ID_BYTES) as u64;
/// The smallest record of a namespace in sequential mode.
pub const SEQUENTIAL_RECORD_BYTES_MIN: u64 = (RECORD_HEAD_BYTES + ID_BYTES) as u64;
/// The largest record: what a walk must be able to see at once.
pub const RECORD_BYTES_MAX: usize = RECORD_HEAD_BYTES + 255 + PAYLOAD_BYTES_MAX;

const DATA_MAGIC: &[u8; 4] = b"DAT0";
const INDEX_MAGIC: &[u8; 4] = b"IDX0";
const DATA_VERSION: u32 = 3;
const INDEX_VERSION: u32 = 4;
const DESCRIPTOR_VERSION: u32 = 1;

const FLAG_DELETED: u8 = 1;
/// Payload, and with the compaction tool the key too, were taken away.
const FLAG_TRUNCATED: u8 = 2;
const FLAGS_KNOWN: u8 = FLAG_DELETED | FLAG_TRUNCATED;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

/// What is wrong with the first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    Short,
    Magic,
    /// A version that this reader does not know.
    Version(u32),
    /// The header says that it is of another file.
    Number(u32),
}

impl std::fmt::Display for BadHeader {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadHeader::Short => write!(out, "the file header is cut off"),
            BadHeader::Magic => write!(out, "the file header is damaged"),
            BadHeader::Version(version) => write!(out, "the file header says version {version}"),
            BadHeader::Number(number) => write!(out, "the file header says file {number}"),
        }
    }
}

fn check_header(bytes: &[u8], magic: &[u8; 4], version: u32, number: u32) -> Result<(), BadHeader> {
    let found = u32_at(bytes, 4).ok_or(BadHeader::Short)?;
    if !bytes.starts_with(magic) {
        return Err(BadHeader::Magic);
    }
    if found != version {
        return Err(BadHeader::Version(found));
    }
    match u32_at(bytes, 24).ok_or(BadHeader::Short)? {
        same if same == number => Ok(()),
        other => Err(BadHeader::Number(other)),
    }
}

/// Checks the first bytes of data file `number`.
pub fn check_data_header(bytes: &[u8], number: u32) -> Result<(), BadHeader> {
    check_header(bytes, DATA_MAGIC, DATA_VERSION, number)
}

/// Checks the first bytes of index file `number`; true for a namespace in sequential mode.
pub fn check_index_header(bytes: &[u8], number: u32) -> Result<bool, BadHeader> {
    check_header(bytes, INDEX_MAGIC, INDEX_VERSION, number)?;
    match bytes.get(INDEX_HEADER_BYTES as usize - 1) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(_) => Err(BadHeader::Magic),
        None => Err(BadHeader::Short),
    }
}

/// The head of a record of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub key_length: u8,
    pub payload_length: u32,
    /// Where the record before it begins, often but not always in the same file.
    pub previous: u32,
    /// CRC-32C of the payload; nothing covers head and key.
    pub check: u32,
    flags: u8,
    pub timestamp: u32,
}

impl Record {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEAD_BYTES)?;
        Some(Self {
            key_length: bytes[0],
            payload_length: u32_at(bytes, 1)?,
            previous: u32_at(bytes, 5)?,
            check: u32_at(bytes, 9)?,
            flags: bytes[13],
            timestamp: u32_at(bytes, 14)?,
        })
    }

    /// Whether 0-db can have written this.
    pub fn is_plausible(&self) -> bool {
        if self.flags & !FLAGS_KNOWN != 0 || self.payload_length as usize > PAYLOAD_BYTES_MAX {
            return false;
        }
        if self.is_placeholder() {
            return self.payload_length == 0 && self.check == 0;
        }
        let is_empty = self.payload_length == 0;
        self.key_length > 0 && (!is_empty || self.check == 0) && (!self.is_delete() || is_empty)
    }

    /// What a compaction left of a record.
    pub fn is_placeholder(&self) -> bool {
        self.flags & FLAG_TRUNCATED != 0
    }

    pub fn is_delete(&self) -> bool {
        self.flags & FLAG_DELETED != 0
    }

    /// Bytes of the record, key and payload included.
    pub fn bytes(&self) -> u64 {
        RECORD_HEAD_BYTES as u64 + u64::from(self.key_length) + u64::from(self.payload_length)
    }

    /// Where the payload begins, from the start of the record.
    pub fn payload_offset(&self) -> usize {
        RECORD_HEAD_BYTES + usize::from(self.key_length)
    }
}

/// The head of an index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key_length: u8,
    /// Of the record in its data file.
    pub offset: u32,
    pub payload_length: u32,
    /// Deleted, superseded or, in sequential mode, never valid.
    pub is_deleted: bool,
    /// Number of the data file. Right in sequential mode; in user mode 0-db leaves it 0 for a first
    /// insert, and the data file is the one with the index file's number.
    pub data_file: u32,
    pub timestamp: u32,
    pub check: u32,
}

impl Entry {
    /// Reads an entry. `None` where there are too few bytes or 0-db cannot have written them.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
        let entry = Self {
            key_length: head[0],
            offset: u32_at(head, 1)?,
            payload_length: u32_at(head, 5)?,
            is_deleted: head[13] & FLAG_DELETED != 0,
            data_file: u32_at(head, 14)?,
            timestamp: u32_at(head, 18)?,
            check: u32_at(head, 22)?,
        };
        let is_plausible = entry.key_length > 0
            && head[13] & !FLAGS_KNOWN == 0
            && u64::from(entry.offset) >= DATA_HEADER_BYTES
            && entry.payload_length as usize <= PAYLOAD_BYTES_MAX;
        let key = rest.get(..usize::from(entry.key_length))?;
        is_plausible.then_some((entry, key))
    }

    pub fn bytes(&self) -> u64 {
        ENTRY_HEAD_BYTES as u64 + u64::from(self.key_length)
    }
}

/// The id in a key of a namespace in sequential mode.
pub fn id_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_le_bytes)
}

/// The settings of a namespace, from its file `zdb-namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub name: Vec<u8>,
    pub password: Vec<u8>,
    pub max_bytes: u64,
    pub public: bool,
    pub worm: bool,
}

impl Descriptor {
    /// Largest file that can be one: two lengths of one byte each.
    pub const BYTES_MAX: u64 = 19 + 255 + 255;

    /// What is behind the password is left of a longer one before it, and not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is cut off";
        let version = u32_at(bytes, 0).ok_or(SHORT)?;
        if version != DESCRIPTOR_VERSION {
            return Err("it is of another version");
        }
        let (lengths, rest) = bytes[4..].split_first_chunk::<2>().ok_or(SHORT)?;
        let (max_bytes, rest) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
        let (&flags, rest) = rest.split_first().ok_or(SHORT)?;
        let (name, rest) = rest.split_at_checked(lengths[0].into()).ok_or(SHORT)?;
        let password = rest.get(..usize::from(lengths[1])).ok_or(SHORT)?;
        if flags & !7 != 0 || name.is_empty() {
            return Err("it is damaged");
        }
        Ok(Self {
            name: name.to_vec(),
            password: password.to_vec(),
            max_bytes: u64::from_le_bytes(*max_bytes),
            public: flags & 1 != 0,
            worm: flags & 2 != 0,
        })
    }
}

/// The number in the name of a data file (`d`) or an index file (`i`).
pub fn file_number(name: &[u8], prefix: u8) -> Option<u32> {
    let (first, digits) = name.split_first()?;
    let leading_zero = digits.len() > 1 && digits[0] == b'0';
    if *first != prefix || leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether a file has a name of 0-db v1.
pub fn is_version_one(name: &[u8]) -> bool {
    name.starts_with(b"zdb-data-") || name.starts_with(b"zdb-index-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let number = |name: &str| file_number(name.as_bytes(), b'd');
        assert_eq!(number("d0"), Some(0));
        assert_eq!(number("d4294967295"), Some(u32::MAX));
        for other in ["d", "i0", "d00", "d01", "d4294967296", "d-1", "d1.bak", "zdb-data-00000"] {
            assert_eq!(number(other), None, "{other}");
        }
        assert!(is_version_one(b"zdb-index-00000") && !is_version_one(b"zdb-namespace"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 88_172_645_463_325_252u64;
        let mut bytes = vec![0u8; 600];
        for round in 0..20_000 {
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = (state >> 32) as u8;
            }
            if round % 2 == 0 {
                bytes[..4].copy_from_slice(&1u32.to_le_bytes());
            }
            let cut = &bytes[..(state % 600) as usize];
            let _ = Descriptor::parse(cut);
            let _ = check_data_header(cut, 0);
            let _ = check_index_header(cut, 0);
            if let Some((entry, key)) = Entry::parse(cut) {
                assert_eq!(key.len(), usize::from(entry.key_length));
            }
            if let Some(record) = Record::parse(cut) {
                let _ = (record.is_plausible(), record.bytes(), record.payload_offset());
            }
        }
    }
}
