//! The directories of a 0-db: what is in them, and bounded windows on their files. Everything is opened
//! for reading only; no file is made, locked for long or changed.

use super::format;
use crate::engine::log::format::segment_base;
use crate::limits::IMPORT_WINDOW_BYTES;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const DESCRIPTOR_NAME: &str = "zdb-namespace";
const LOCK_NAME: &str = ".lockfile";
/// What of a file that cannot be read is given up at once, in bytes.
const UNREADABLE_UNIT_BYTES: usize = 4096;

/// A namespace of the old directories.
pub struct OldNamespace {
    pub name: Vec<u8>,
    pub data_directory: PathBuf,
    pub index_directory: PathBuf,
    /// Numbers and sizes in bytes.
    pub data_files: BTreeMap<u32, u64>,
    pub index_files: BTreeMap<u32, u64>,
    /// Files with the names of 0-db v1.
    pub version_one_files: usize,
}

impl OldNamespace {
    pub fn data_path(&self, number: u32) -> PathBuf {
        self.data_directory.join(format!("d{number}"))
    }

    pub fn index_path(&self, number: u32) -> PathBuf {
        self.index_directory.join(format!("i{number}"))
    }

    /// The name for people.
    pub fn shown(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.name))
    }

    /// The settings; the outer error is one of reading, the inner says what is wrong with the bytes.
    pub fn descriptor(&self) -> Result<Result<format::Descriptor, &'static str>, String> {
        let path = self.descriptor_path();
        let mut bytes = [0; format::Descriptor::BYTES_MAX as usize];
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err("it is missing"));
            }
            Err(error) => return Err(format!("cannot open {}: {error}", path.display())),
        };
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Err("it cannot be read")),
            }
        }
        Ok(format::Descriptor::parse(&bytes[..length]))
    }

    pub fn descriptor_path(&self) -> PathBuf {
        self.index_directory.join(DESCRIPTOR_NAME)
    }
}

/// Refuses directories that a running 0-db holds.
pub fn check_not_running(directory: &Path) -> Result<(), String> {
    let path = directory.join(LOCK_NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot open {}: {error}", path.display())),
    };
    // Given back with the file, at once: a lock changes nothing on the disk.
    match file.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => Err(format!(
            "a 0-db is running on {} (it holds {}): stop it first, or what it writes meanwhile is missed",
            directory.display(),
            path.display()
        )),
        // Where locks do not work, 0-db could not have taken one.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(()),
    }
}

/// The namespaces in the two directories, `default` first, then by name.
pub fn namespaces(data: &Path, index: &Path) -> Result<Vec<OldNamespace>, String> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for directory in [data, index] {
        for (name, path) in list(directory)? {
            let is_directory = fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let is_segment = std::str::from_utf8(&name).is_ok_and(|n| segment_base(n).is_some());
            if !is_directory && (name == b"identity" || is_segment) {
                return Err(format!(
                    "{} is a directory of this zdb, not of a 0-db ({} is in it)",
                    directory.display(),
                    String::from_utf8_lossy(&name)
                ));
            }
            // An ext file system's own directory, which nobody but root may list.
            if is_directory && name != b"lost+found" {
                names.push(name);
            }
        }
    }
    names.sort_by_key(|name| (name != b"default", name.clone()));
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let of = |root: &Path| root.join(OsStr::from_bytes(&name));
        let mut namespace = OldNamespace {
            data_directory: of(data),
            index_directory: of(index),
            name,
            data_files: BTreeMap::new(),
            index_files: BTreeMap::new(),
            version_one_files: 0,
        };
        let is_described = namespace.index_directory.join(DESCRIPTOR_NAME).exists();
        for (prefix, directory) in
            [(b'd', namespace.data_directory.clone()), (b'i', namespace.index_directory.clone())]
        {
            for (file, path) in if_present(&directory)? {
                namespace.version_one_files += usize::from(format::is_version_one(&file));
                let Some(number) = format::file_number(&file, prefix) else { continue };
                let size = fs::metadata(&path)
                    .map_err(|error| format!("cannot look at {}: {error}", path.display()))?
                    .size();
                let files = if prefix == b'd' {
                    &mut namespace.data_files
                } else {
                    &mut namespace.index_files
                };
                files.insert(number, size);
            }
        }
        let is_namespace = is_described
            || !namespace.data_files.is_empty()
            || !namespace.index_files.is_empty()
            || namespace.version_one_files > 0;
        if is_namespace {
            found.push(namespace);
        }
    }
    Ok(found)
}

fn list(directory: &Path) -> Result<Vec<(Vec<u8>, PathBuf)>, String> {
    let explain = |error: io::Error| format!("cannot list {}: {error}", directory.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(explain)? {
        let entry = entry.map_err(explain)?;
        entries.push((entry.file_name().into_vec(), entry.path()));
    }
    entries.sort();
    Ok(entries)
}

fn if_present(directory: &Path) -> Result<Vec<(Vec<u8>, PathBuf)>, String> {
    if directory.exists() { list(directory) } else { Ok(Vec::new()) }
}

/// The sizes and times of all files that an import reads: they must be the same at its end.
pub fn fingerprint(namespaces: &[OldNamespace]) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut seen = Vec::new();
    for namespace in namespaces {
        let data = namespace.data_files.keys().map(|number| namespace.data_path(*number));
        let index = namespace.index_files.keys().map(|number| namespace.index_path(*number));
        for path in data.chain(index).chain([namespace.descriptor_path()]) {
            if let Ok(metadata) = fs::metadata(&path) {
                seen.push((path, metadata.size(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
    }
    seen
}

/// Where the bytes of a window come from.
enum Source {
    File(File),
    /// For a file that was never on a disk.
    Memory(Vec<u8>),
}

impl Source {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Source::File(file) => file.read_at(out, offset),
            Source::Memory(bytes) => {
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                let count = rest.len().min(out.len());
                out[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }
}

/// A part of an old file in memory, which moves with what is asked for.
pub struct Window {
    source: Source,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Stretches that the disk does not give; they read as zeroes.
    pub unreadable: Vec<(u64, String)>,
}

impl Window {
    pub fn open(path: &Path) -> Result<Self, String> {
        let explain = |error: io::Error| format!("cannot open {}: {error}", path.display());
        let file = File::open(path).map_err(explain)?;
        let length = file.metadata().map_err(explain)?.size();
        Ok(Self::new(Source::File(file), length))
    }

    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self::new(Source::Memory(bytes), length)
    }

    fn new(source: Source, length: u64) -> Self {
        Self { source, length, start: 0, bytes: Vec::new(), unreadable: Vec::new() }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes from `offset` on: `wanted` of them, at most the largest record, or all up to the end.
    pub fn at(&mut self, offset: u64, wanted: usize) -> &[u8] {
        let wanted = wanted.min(format::RECORD_BYTES_MAX);
        let wanted = (self.length.saturating_sub(offset)).min(wanted as u64) as usize;
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + wanted as u64 > end {
            self.load(offset, wanted.max(IMPORT_WINDOW_BYTES));
        }
        // The file may have become shorter since it was opened.
        let rest = self.bytes.get((offset - self.start) as usize..).unwrap_or_default();
        &rest[..wanted.min(rest.len())]
    }

    fn load(&mut self, offset: u64, wanted: usize) {
        let wanted = (self.length.saturating_sub(offset)).min(wanted as u64) as usize;
        self.start = offset;
        self.bytes.resize(wanted, 0);
        let mut read = 0;
        while read < wanted {
            match self.source.read_at(&mut self.bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    read += self.step_over(offset + read as u64, read, &error);
                }
            }
        }
        self.bytes.truncate(read);
    }

    /// Reads block by block where a large read failed, and zeroes the block that is the reason.
    fn step_over(&mut self, offset: u64, at: usize, error: &io::Error) -> usize {
        let unit = UNREADABLE_UNIT_BYTES as u64;
        let to_border = (unit - offset % unit) as usize;
        let end = self.bytes.len().min(at + to_border);
        if let Ok(count @ 1..) = self.source.read_at(&mut self.bytes[at..end], offset) {
            return count;
        }
        self.bytes[at..end].fill(0);
        if self.unreadable.last().is_none_or(|(last, _)| *last < offset) {
            self.unreadable.push((offset, error.to_string()));
        }
        end - at
    }
}
