//! The directories of a 0-db v2, made as it would make them, beside what they mean. The bytes follow what
//! was observed of 0-db: see the example in `tests/import.rs`.

use crate::args;
use crate::client::Client;
use crate::reply::Reply;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const DATA_HEADER_BYTES: usize = 28;
const INDEX_HEADER_BYTES: usize = 29;
const DELETED: u8 = 1;
const TRUNCATED: u8 = 2;
/// Where the flags are, in a record and in an index entry alike.
const FLAGS: usize = 13;

/// CRC-32C from zero, without the last inversion.
pub fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub file: u32,
    pub offset: usize,
}

/// A namespace: its files in memory, so that a test can damage them before they are saved.
pub struct OldNamespace {
    pub name: Vec<u8>,
    pub sequential: bool,
    pub password: Vec<u8>,
    pub max_bytes: u64,
    pub public: bool,
    pub worm: bool,
    /// Size at which files are jumped, as `--datasize`.
    pub datasize: usize,
    pub data: BTreeMap<u32, Vec<u8>>,
    pub index: BTreeMap<u32, Vec<u8>>,
    /// What `zdb-namespace` holds; `None`: none is written.
    pub descriptor: Option<Vec<u8>>,
    current: u32,
    previous_record: usize,
    previous_entry: usize,
    /// Of each key: where its newest index entry is and its data is.
    entries: HashMap<Vec<u8>, (Spot, Spot)>,
    /// What a server must show: versions of each live key, the newest last.
    pub live: HashMap<Vec<u8>, Vec<Version>>,
    /// Live keys in the order of SCAN.
    order: BTreeMap<u64, Vec<u8>>,
    rank: HashMap<Vec<u8>, u64>,
    ranks: u64,
    pub next_id: u64,
    /// Every record that was written, and its key.
    pub records: Vec<(Spot, Vec<u8>)>,
}

impl OldNamespace {
    pub fn user(name: &str) -> Self {
        Self::new(name.as_bytes(), false)
    }

    pub fn sequential(name: &str) -> Self {
        Self::new(name.as_bytes(), true)
    }

    pub fn new(name: &[u8], sequential: bool) -> Self {
        let mut namespace = Self {
            name: name.to_vec(),
            sequential,
            password: Vec::new(),
            max_bytes: 0,
            public: true,
            worm: false,
            datasize: 256 << 20,
            data: BTreeMap::new(),
            index: BTreeMap::new(),
            descriptor: None,
            current: 0,
            previous_record: 0,
            previous_entry: 0,
            entries: HashMap::new(),
            live: HashMap::new(),
            order: BTreeMap::new(),
            rank: HashMap::new(),
            ranks: 0,
            next_id: 0,
            records: Vec::new(),
        };
        namespace.begin_file();
        namespace.describe();
        namespace
    }

    /// Makes the descriptor of the settings as they are now.
    pub fn describe(&mut self) {
        let mut out = 1u32.to_le_bytes().to_vec();
        out.extend([self.name.len() as u8, self.password.len() as u8]);
        out.extend(self.max_bytes.to_le_bytes());
        out.push(u8::from(self.public) | u8::from(self.worm) << 1 | 4);
        out.extend(&self.name);
        out.extend(&self.password);
        self.descriptor = Some(out);
    }

    fn begin_file(&mut self) {
        let mut data = b"DAT0\x03\0\0\0".to_vec();
        data.extend([0; 16]);
        data.extend(self.current.to_le_bytes());
        assert_eq!(data.len(), DATA_HEADER_BYTES);
        let mut index = b"IDX0\x04\0\0\0".to_vec();
        index.extend([0; 16]);
        index.extend(self.current.to_le_bytes());
        index.push(self.sequential.into());
        assert_eq!(index.len(), INDEX_HEADER_BYTES);
        self.data.insert(self.current, data);
        self.index.insert(self.current, index);
    }

    /// NSJUMP.
    pub fn jump(&mut self) {
        self.current += 1;
        self.begin_file();
    }

    pub fn file(&mut self, number: u32) -> &mut Vec<u8> {
        self.data.get_mut(&number).expect("the test made this file")
    }

    pub fn index_file(&mut self, number: u32) -> &mut Vec<u8> {
        self.index.get_mut(&number).expect("the test made this file")
    }

    fn append_record(&mut self, key: &[u8], payload: &[u8], flags: u8, timestamp: u32) -> Spot {
        let previous = self.previous_record as u32;
        let file = self.data.get_mut(&self.current).expect("the current file is there");
        let offset = file.len();
        file.push(key.len() as u8);
        file.extend((payload.len() as u32).to_le_bytes());
        file.extend(previous.to_le_bytes());
        file.extend(crc32c(payload).to_le_bytes());
        file.push(flags);
        file.extend(timestamp.to_le_bytes());
        file.extend(key);
        file.extend(payload);
        self.previous_record = offset;
        let spot = Spot { file: self.current, offset };
        self.records.push((spot, key.to_vec()));
        spot
    }

    /// The bytes of an index entry, at a place or at the end.
    #[allow(clippy::too_many_arguments)]
    fn entry(
        &self,
        key: &[u8],
        data: Spot,
        payload: &[u8],
        flags: u8,
        file_shown: u32,
        timestamp: u32,
        parent: Spot,
    ) -> Vec<u8> {
        let mut out = vec![key.len() as u8];
        out.extend((data.offset as u32).to_le_bytes());
        out.extend((payload.len() as u32).to_le_bytes());
        out.extend((self.previous_entry as u32).to_le_bytes());
        out.push(flags);
        out.extend(file_shown.to_le_bytes());
        out.extend(timestamp.to_le_bytes());
        out.extend(crc32c(payload).to_le_bytes());
        out.extend(parent.file.to_le_bytes());
        out.extend((parent.offset as u32).to_le_bytes());
        out.extend(key);
        out
    }

    fn append_entry(&mut self, bytes: Vec<u8>) -> Spot {
        let current = self.current;
        let file = self.index_file(current);
        let offset = file.len();
        file.extend(bytes);
        self.previous_entry = offset;
        Spot { file: current, offset }
    }

    fn flag_entry(&mut self, at: Spot) {
        self.index_file(at.file)[at.offset + FLAGS] |= DELETED;
    }

    /// Inserts or updates; an empty key in sequential mode gets the next id. Returns the key and where its
    /// record is.
    pub fn set(&mut self, key: &[u8], payload: &[u8], timestamp: u32) -> (Vec<u8>, Spot) {
        if self.data[&self.current].len() + payload.len() > self.datasize {
            self.jump();
        }
        let key = match key {
            [] if self.sequential => self.next_id.to_le_bytes().to_vec(),
            key => key.to_vec(),
        };
        let data = self.append_record(&key, payload, 0, timestamp);
        let before = self.entries.get(&key).copied();
        let nowhere = Spot { file: 0, offset: 0 };
        let entry = match before {
            // As 0-db: the number of the data file stays 0 for a first insert in user mode.
            None => {
                let shown = if self.sequential { data.file } else { 0 };
                let bytes = self.entry(&key, data, payload, 0, shown, timestamp, nowhere);
                self.append_entry(bytes)
            }
            Some((entry, _)) if !self.sequential => {
                self.flag_entry(entry);
                let bytes = self.entry(&key, data, payload, 0, data.file, timestamp, entry);
                self.append_entry(bytes)
            }
            Some((entry, _)) => {
                let length = 34 + key.len();
                let mut copy =
                    self.index[&entry.file][entry.offset..entry.offset + length].to_vec();
                copy[FLAGS] |= DELETED;
                copy[14..18].copy_from_slice(&self.current.to_le_bytes());
                let shadow = self.append_entry(copy);
                let bytes = self.entry(&key, data, payload, 0, data.file, timestamp, shadow);
                self.index_file(entry.file)[entry.offset..entry.offset + length]
                    .copy_from_slice(&bytes);
                entry
            }
        };
        self.entries.insert(key.clone(), (entry, data));
        if before.is_none() || self.sequential {
            self.next_id += 1;
        }
        if !self.sequential || before.is_none() {
            self.forget_rank(&key);
            self.order.insert(self.ranks, key.clone());
            self.rank.insert(key.clone(), self.ranks);
            self.ranks += 1;
        }
        let version = Version { timestamp, payload: payload.to_vec() };
        self.live.entry(key.clone()).or_default().push(version);
        (key, data)
    }

    pub fn delete(&mut self, key: &[u8], timestamp: u32) -> Spot {
        let (entry, _) = self.entries.remove(key).expect("the test deletes what is there");
        let spot = self.append_record(key, &[], DELETED, timestamp);
        self.flag_entry(entry);
        self.live.remove(key);
        self.forget_rank(key);
        spot
    }

    fn forget_rank(&mut self, key: &[u8]) {
        if let Some(rank) = self.rank.remove(key) {
            self.order.remove(&rank);
        }
    }

    /// What a compaction leaves of a record, in its place at the end.
    pub fn placeholder(&mut self, timestamp: u32) {
        self.append_record(&[], &[], DELETED | TRUNCATED, timestamp);
    }

    /// Where the newest index entry of a key is.
    pub fn entry_of(&self, key: &[u8]) -> Spot {
        self.entries[key].0
    }

    /// What is expected after a key is lost or its damage brought it back.
    pub fn expect_missing(&mut self, key: &[u8]) {
        self.live.remove(key);
        self.forget_rank(key);
    }

    pub fn save(&self, home: &Path) {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&self.name);
        let (data, index) = (home.join("data").join(name), home.join("index").join(name));
        for directory in [&data, &index] {
            std::fs::create_dir_all(directory).expect("a directory of the old store");
        }
        let write = |path: std::path::PathBuf, bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a file of the old store");
        };
        for root in ["data", "index"] {
            write(home.join(root).join(".lockfile"), b"");
        }
        for (number, bytes) in &self.data {
            write(data.join(format!("d{number}")), bytes);
        }
        for (number, bytes) in &self.index {
            write(index.join(format!("i{number}")), bytes);
        }
        if let Some(bytes) = &self.descriptor {
            write(index.join("zdb-namespace"), bytes);
        }
    }

    /// Compares everything that a server shows of this namespace.
    #[track_caller]
    pub fn check(&self, client: &mut Client) {
        let name = &self.name;
        if self.password.is_empty() {
            client.expect(&[&b"SELECT"[..], name], Reply::ok());
        } else {
            client.expect(&[&b"SELECT"[..], name, &self.password], Reply::ok());
        }
        let count = self.live.len() as i64;
        client.expect(args!["DBSIZE"], Reply::Integer(count));
        for key in self.live.keys() {
            self.check_key(client, key);
        }
        let scanned = scan(client);
        let wanted: Vec<(Vec<u8>, i64, i64)> = self
            .order
            .values()
            .map(|key| {
                let newest = self.live[key].last().expect("a live key has a version");
                (key.clone(), newest.payload.len() as i64, newest.timestamp.into())
            })
            .collect();
        assert_eq!(scanned.len(), wanted.len(), "keys of SCAN");
        for (at, (scanned, wanted)) in scanned.iter().zip(&wanted).enumerate() {
            assert_eq!(scanned, wanted, "entry {at} of SCAN");
        }
        self.check_info(client);
    }

    /// Compares what a server shows of a live key.
    #[track_caller]
    pub fn check_key(&self, client: &mut Client, key: &[u8]) {
        let versions = &self.live[key];
        let newest = versions.last().expect("a live key has a version");
        client.expect(&[&b"GET"[..], key], Reply::bulk(&newest.payload));
        client.expect(&[&b"KEYTIME"[..], key], Reply::Integer(newest.timestamp.into()));
        self.check_history(client, key, versions);
    }

    #[track_caller]
    fn check_history(&self, client: &mut Client, key: &[u8], versions: &[Version]) {
        let mut token: Option<Vec<u8>> = None;
        for (at, version) in versions.iter().enumerate().rev() {
            let reply = match &token {
                None => client.call(&[&b"HISTORY"[..], key]),
                Some(token) => client.call(&[&b"HISTORY"[..], key, token]),
            };
            let Reply::Array(parts) = reply else {
                panic!("HISTORY of {} at version {at}: {reply:?}", key.escape_ascii())
            };
            let [next, time, payload] = <[Reply; 3]>::try_from(parts).expect("three parts");
            assert_eq!(time, Reply::bulk(version.timestamp.to_string()), "time of version {at}");
            assert_eq!(payload, Reply::bulk(&version.payload), "payload of version {at}");
            match next {
                Reply::Nil => assert_eq!(at, 0, "the history of {} ends", key.escape_ascii()),
                other => {
                    assert!(at > 0, "the history of {} goes on", key.escape_ascii());
                    token = Some(other.into_bytes().to_vec());
                }
            }
        }
    }

    #[track_caller]
    fn check_info(&self, client: &mut Client) {
        let info = client.call(&[&b"NSINFO"[..], &self.name]).into_bytes();
        let info = String::from_utf8_lossy(&info).into_owned();
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .unwrap_or_else(|| panic!("no {name} in {info}"))
        };
        let newest =
            || self.live.iter().map(|(key, versions)| (key, &versions[versions.len() - 1]));
        let bytes: usize = newest().map(|(_, version)| version.payload.len()).sum();
        let index_bytes: usize = newest().map(|(key, _)| 64 + key.len()).sum();
        let yes_no = |yes: bool| if yes { "yes" } else { "no" };
        assert_eq!(field("entries"), self.live.len().to_string());
        assert_eq!(field("data_size_bytes"), bytes.to_string());
        assert_eq!(field("index_size_bytes"), index_bytes.to_string());
        assert_eq!(field("data_limits_bytes"), self.max_bytes.to_string());
        assert_eq!(field("public"), yes_no(self.public));
        assert_eq!(field("worm"), yes_no(self.worm));
        assert_eq!(field("password"), yes_no(!self.password.is_empty()));
        assert_eq!(field("mode"), if self.sequential { "sequential" } else { "userkey" });
        let next_id = format!("{:#010x}", self.next_id.swap_bytes());
        assert_eq!(field("next_internal_id"), next_id, "next id {}", self.next_id);
    }
}

/// All entries of SCAN: key, payload bytes, timestamp.
#[track_caller]
pub fn scan(client: &mut Client) -> Vec<(Vec<u8>, i64, i64)> {
    let mut entries = Vec::new();
    let mut cursor: Option<Vec<u8>> = None;
    loop {
        let reply = match &cursor {
            None => client.call(args!["SCAN"]),
            Some(cursor) => client.call(&[&b"SCAN"[..], cursor]),
        };
        if reply == Reply::error("No more data") {
            return entries;
        }
        let mut parts = reply.into_array();
        let batch = parts.remove(1).into_array();
        cursor = Some(parts.remove(0).into_bytes().to_vec());
        for entry in batch {
            let mut entry = entry.into_array().into_iter();
            let mut next = || entry.next().expect("three parts");
            let key = next().into_bytes().to_vec();
            entries.push((key, next().into_integer(), next().into_integer()));
        }
    }
}
