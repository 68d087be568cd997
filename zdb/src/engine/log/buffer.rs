//! The write buffer: the last bytes of the log, in memory that outlives a killed process.
//!
//! A record is acknowledged under `everysec` and `no` when it is here; a restart replays from here
//! what had not reached the disk. The memory is a file under /dev/shm, mapped twice in a row, so that
//! every record is one slice although positions wrap around. The buffer has no header and needs
//! none: a record's place in it follows from its position, and its checksum from log and position.

use super::format::LogId;
use crate::limits::WRITE_BUFFER_BYTES;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

pub struct WriteBuffer {
    start: NonNull<u8>,
    /// The file to remove after a clean stop; `None` for memory of this process alone.
    path: Option<PathBuf>,
    /// Locked as long as this buffer is in use: a copy of a data directory has the same log id.
    _file: File,
}

// SAFETY: the mapping belongs to this value alone; the kernel only reads it, for writes.
unsafe impl Send for WriteBuffer {}

impl WriteBuffer {
    /// Opens the buffer that a killed process may have left, or makes a new one.
    pub fn shared(directory: &Path, log: LogId, copy: Option<u32>) -> Result<Self, String> {
        let path = place(directory, log, copy);
        let explain = |what: &str, error: &dyn std::fmt::Display| {
            format!(
                "cannot {what} the write buffer {}: {error}. It may hold acknowledged writes that are \
                 not yet on the disk; make it accessible, or choose another place with --buffer \
                 (--buffer none waits for the disk on each write)",
                path.display()
            )
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| explain("open", &error))?;
        if file.try_lock().is_err() {
            return Err(explain(
                "lock",
                &"another zdb uses it, perhaps on a copy of this directory",
            ));
        }
        let metadata = file.metadata().map_err(|error| explain("look at", &error))?;
        // SAFETY: geteuid has no arguments and cannot fail.
        let ourselves = unsafe { libc::geteuid() };
        if metadata.uid() != ourselves || metadata.mode() & 0o077 != 0 {
            return Err(explain("trust", &"it belongs to another user or others may write it"));
        }
        let new = metadata.len() == 0;
        if !new && metadata.len() != WRITE_BUFFER_BYTES as u64 {
            return Err(explain("use", &format!("its size is {} bytes", metadata.len())));
        }
        if let Err(error) = allocate(&file) {
            if new {
                let _ = std::fs::remove_file(&path);
            }
            return Err(explain("allocate 32 MiB for", &error));
        }
        let start = map_twice(&file, READ_WRITE).map_err(|error| explain("map", &error))?;
        Ok(Self { start, path: Some(path), _file: file })
    }

    /// The buffer that a killed process left in a directory, to be read alone; `None` where there is none.
    pub fn left(directory: &Path, log: LogId, copy: Option<u32>) -> Result<Option<Self>, String> {
        let path = place(directory, log, copy);
        let explain = |what: &str, error: &dyn std::fmt::Display| {
            format!(
                "cannot {what} the write buffer {}: {error}. The last server was killed, and acknowledged writes \
                 that are not yet in the data directory are there",
                path.display()
            )
        };
        let mut options = OpenOptions::new();
        let file = match options.read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| explain("open", &error))?,
        };
        if file.try_lock_shared().is_err() {
            return Err(explain("lock", &"a zdb uses it, perhaps on a copy of this directory"));
        }
        let bytes = file.metadata().map_err(|error| explain("look at", &error))?.len();
        if bytes != WRITE_BUFFER_BYTES as u64 {
            return Err(explain("use", &format!("its size is {bytes} bytes")));
        }
        let start = map_twice(&file, libc::PROT_READ).map_err(|error| explain("map", &error))?;
        Ok(Some(Self { start, path: None, _file: file }))
    }

    /// Memory that dies with the process: each write then waits for the disk.
    pub fn private() -> Result<Self, String> {
        let explain = |error: io::Error| format!("cannot allocate the write buffer: {error}");
        // SAFETY: a terminated name; the descriptor is checked and owned by the File.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"zdb-write-buffer".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(explain(io::Error::last_os_error()));
            }
            File::from_raw_fd(descriptor)
        };
        file.set_len(WRITE_BUFFER_BYTES as u64).map_err(explain)?;
        Ok(Self { start: map_twice(&file, READ_WRITE).map_err(explain)?, path: None, _file: file })
    }

    /// Whether a process that was killed left a buffer of this log in a directory.
    pub fn is_left(directory: &Path, log: LogId, copy: Option<u32>) -> bool {
        place(directory, log, copy).exists()
    }

    /// Whether what is here outlives a `kill -9`.
    pub fn survives_kill(&self) -> bool {
        self.path.is_some()
    }

    pub fn slice(&self, position: u64, length: usize) -> &[u8] {
        assert!(length <= WRITE_BUFFER_BYTES);
        // SAFETY: an offset below the buffer's size plus at most the buffer's size lies within the
        // two mappings.
        unsafe { std::slice::from_raw_parts(self.pointer(position), length) }
    }

    pub fn slice_mut(&mut self, position: u64, length: usize) -> &mut [u8] {
        assert!(length <= WRITE_BUFFER_BYTES);
        // SAFETY: as in `slice`, and `self` is borrowed alone. The kernel may be reading other parts.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(position).cast_mut(), length) }
    }

    pub fn pointer(&self, position: u64) -> *const u8 {
        let offset = position as usize % WRITE_BUFFER_BYTES;
        // SAFETY: the offset lies within the first mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// After a clean stop nothing is left to replay.
    pub fn remove(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        // SAFETY: mapped in `map_twice` with this length, and no slice outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), 2 * WRITE_BUFFER_BYTES) };
    }
}

/// `copy`: what tells a copy of a log from others on the same machine.
fn place(directory: &Path, log: LogId, copy: Option<u32>) -> PathBuf {
    let log = log.to_hex();
    directory.join(match copy {
        Some(copy) => format!("zdb-{log}-{copy:08x}"),
        None => format!("zdb-{log}"),
    })
}

/// All of it now: a page that cannot be had later would kill the process with SIGBUS. A fuzz target starts
/// a server a thousand times a second, and touches a few pages of each.
fn allocate(file: &File) -> io::Result<()> {
    if cfg!(fuzzing) {
        return file.set_len(WRITE_BUFFER_BYTES as u64);
    }
    // SAFETY: fallocate on an open descriptor touches no memory.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, WRITE_BUFFER_BYTES as i64) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn map_twice(file: &File, protection: i32) -> io::Result<NonNull<u8>> {
    let populate = if cfg!(fuzzing) { 0 } else { libc::MAP_POPULATE };
    // SAFETY: the first call reserves address space that nobody else has; the two fixed mappings
    // replace exactly that space.
    unsafe {
        let reserved = libc::mmap(
            std::ptr::null_mut(),
            2 * WRITE_BUFFER_BYTES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        for half in 0..2 {
            let mapped = libc::mmap(
                reserved.byte_add(half * WRITE_BUFFER_BYTES),
                WRITE_BUFFER_BYTES,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED | populate,
                file.as_raw_fd(),
                0,
            );
            if mapped == libc::MAP_FAILED {
                let error = io::Error::last_os_error();
                libc::munmap(reserved, 2 * WRITE_BUFFER_BYTES);
                return Err(error);
            }
        }
        NonNull::new(reserved.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))
    }
}
