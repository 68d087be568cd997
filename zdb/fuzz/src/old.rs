//! A namespace of a 0-db v2, written as 0-db writes it, beside what it means.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use zdb::crc32c::crc32c;

const DELETED: u8 = 1;
const TRUNCATED: u8 = 2;
/// Where the flags of an index entry are.
const FLAGS: usize = 13;

/// Where something begins: file and offset.
type Spot = (u32, usize);

pub struct Old {
    pub name: Vec<u8>,
    pub sequential: bool,
    pub password: Vec<u8>,
    pub worm: bool,
    pub data: BTreeMap<u32, Vec<u8>>,
    pub index: BTreeMap<u32, Vec<u8>>,
    pub descriptor: Vec<u8>,
    /// Versions of each live key, the newest last: time and payload.
    pub live: BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>>,
    pub next_id: u64,
    current: u32,
    previous_record: usize,
    previous_entry: usize,
    /// The newest index entry of each live key.
    entries: BTreeMap<Vec<u8>, Spot>,
}

impl Old {
    pub fn new(name: &[u8], sequential: bool, password: &[u8], worm: bool) -> Self {
        let mut old = Self {
            name: name.to_vec(),
            sequential,
            password: password.to_vec(),
            worm,
            data: BTreeMap::new(),
            index: BTreeMap::new(),
            descriptor: Vec::new(),
            live: BTreeMap::new(),
            next_id: 0,
            current: 0,
            previous_record: 0,
            previous_entry: 0,
            entries: BTreeMap::new(),
        };
        old.begin_files();
        old.descriptor.extend(1u32.to_le_bytes());
        old.descriptor.extend([name.len() as u8, password.len() as u8]);
        old.descriptor.extend(0u64.to_le_bytes());
        old.descriptor.push(1 | u8::from(worm) << 1 | 4);
        old.descriptor.extend(name);
        old.descriptor.extend(password);
        old
    }

    fn begin_files(&mut self) {
        let header = |magic: &[u8], version: u32, number: u32| {
            [magic, &version.to_le_bytes(), &[0; 16], &number.to_le_bytes()].concat()
        };
        self.data.insert(self.current, header(b"DAT0", 3, self.current));
        let mut index = header(b"IDX0", 4, self.current);
        index.push(self.sequential.into());
        self.index.insert(self.current, index);
    }

    /// NSJUMP.
    pub fn jump(&mut self) {
        self.current += 1;
        self.begin_files();
    }

    fn record(&mut self, key: &[u8], payload: &[u8], flags: u8, time: u32) -> Spot {
        let previous = self.previous_record as u32;
        let file = self.data.entry(self.current).or_default();
        let offset = file.len();
        file.push(key.len() as u8);
        for number in [payload.len() as u32, previous, crc32c(payload)] {
            file.extend(number.to_le_bytes());
        }
        file.push(flags);
        file.extend(time.to_le_bytes());
        file.extend(key);
        file.extend(payload);
        self.previous_record = offset;
        (self.current, offset)
    }

    fn entry(
        &self,
        key: &[u8],
        at: Spot,
        payload: &[u8],
        shown: u32,
        time: u32,
        parent: Spot,
    ) -> Vec<u8> {
        let mut out = vec![key.len() as u8];
        for number in [at.1 as u32, payload.len() as u32, self.previous_entry as u32] {
            out.extend(number.to_le_bytes());
        }
        out.push(0);
        for number in [shown, time, crc32c(payload), parent.0, parent.1 as u32] {
            out.extend(number.to_le_bytes());
        }
        out.extend(key);
        out
    }

    fn append_entry(&mut self, bytes: &[u8]) -> Spot {
        let file = self.index.entry(self.current).or_default();
        let offset = file.len();
        file.extend(bytes);
        self.previous_entry = offset;
        (self.current, offset)
    }

    /// The bytes of an entry that is there, from its start on.
    fn entry_at(&mut self, (file, offset): Spot) -> &mut [u8] {
        &mut self.index.entry(file).or_default()[offset..]
    }

    /// SET; in sequential mode `None` is a new id.
    pub fn set(&mut self, key: Option<&[u8]>, payload: &[u8], time: u32) {
        let key = key.map_or_else(|| self.next_id.to_le_bytes().to_vec(), <[u8]>::to_vec);
        let at = self.record(&key, payload, 0, time);
        let before = self.entries.get(&key).copied();
        let spot = match before {
            // The number of the data file stays 0 for a first insert in user mode.
            None => {
                let shown = if self.sequential { at.0 } else { 0 };
                let bytes = self.entry(&key, at, payload, shown, time, (0, 0));
                self.append_entry(&bytes)
            }
            Some(spot) if !self.sequential => {
                self.entry_at(spot)[FLAGS] |= DELETED;
                let bytes = self.entry(&key, at, payload, at.0, time, spot);
                self.append_entry(&bytes)
            }
            // The id keeps its place; what was there goes to the end.
            Some(spot) => {
                let mut copy = self.entry_at(spot)[..34 + key.len()].to_vec();
                copy[FLAGS] |= DELETED;
                copy[14..18].copy_from_slice(&self.current.to_le_bytes());
                let shadow = self.append_entry(&copy);
                let bytes = self.entry(&key, at, payload, at.0, time, shadow);
                self.entry_at(spot)[..bytes.len()].copy_from_slice(&bytes);
                spot
            }
        };
        self.entries.insert(key.clone(), spot);
        if before.is_none() || self.sequential {
            self.next_id += 1;
        }
        self.live.entry(key).or_default().push((time, payload.to_vec()));
    }

    /// DEL of a live key.
    pub fn delete(&mut self, key: &[u8], time: u32) {
        let Some(spot) = self.entries.remove(key) else { return };
        self.record(key, &[], DELETED, time);
        self.entry_at(spot)[FLAGS] |= DELETED;
        self.live.remove(key);
    }

    /// What a compaction leaves of a record.
    pub fn placeholder(&mut self, time: u32) {
        self.record(&[], &[], DELETED | TRUNCATED, time);
    }

    /// All files, to damage them.
    pub fn files(&mut self) -> Vec<&mut Vec<u8>> {
        let files = self.data.values_mut().chain(self.index.values_mut());
        files.chain([&mut self.descriptor]).collect()
    }

    /// Writes the files below the directories `data` and `index`.
    pub fn save(&self, data: &Path, index: &Path) -> io::Result<()> {
        let name = OsStr::from_bytes(&self.name);
        std::fs::create_dir_all(data.join(name))?;
        std::fs::create_dir_all(index.join(name))?;
        for (number, bytes) in &self.data {
            std::fs::write(data.join(name).join(format!("d{number}")), bytes)?;
        }
        for (number, bytes) in &self.index {
            std::fs::write(index.join(name).join(format!("i{number}")), bytes)?;
        }
        if self.descriptor.is_empty() {
            return Ok(());
        }
        std::fs::write(index.join(name).join("zdb-namespace"), &self.descriptor)
    }

    /// Whether the files are as they were saved.
    pub fn is_unchanged(&self, data: &Path, index: &Path) -> bool {
        let name = OsStr::from_bytes(&self.name);
        let same = |path: std::path::PathBuf, bytes: &Vec<u8>| {
            std::fs::read(path).is_ok_and(|read| read == *bytes)
        };
        let data = |(number, bytes)| same(data.join(name).join(format!("d{number}")), bytes);
        let index = |(number, bytes)| same(index.join(name).join(format!("i{number}")), bytes);
        self.data.iter().all(data) && self.index.iter().all(index)
    }
}
