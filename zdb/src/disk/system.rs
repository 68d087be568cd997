//! The real directories, through the kernel.

use super::aligned::AlignedBuffer;
use super::{FileId, Files, Root, Whereabouts};
use crate::engine::log::format::BLOCK;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const LOCK_NAME: &str = ".lockfile";
/// The rights of everybody but the owner.
const OTHERS: u32 = 0o077;
/// What a server's directory holds, beside segments and their sidecars.
const OUR_NAMES: [&str; 5] = [LOCK_NAME, "identity", "buffer-place", "zdb.conf", "lost+found"];

pub struct SystemFiles {
    data: PathBuf,
    index: PathBuf,
    direct: bool,
    /// For a look at directories that must stay as they are: nothing is made, changed or removed.
    read_only: bool,
    /// What was opened and not closed yet; what is left is closed with the rest.
    opened: Mutex<HashMap<RawFd, File>>,
    /// Held for the life of the process: a second server on the same directories is refused.
    _locks: Vec<File>,
}

impl SystemFiles {
    /// Makes the directories where they are missing, locks them and finds out about direct I/O.
    /// Returns also the warnings for the operator.
    pub fn open(data: &Path, index: &Path) -> Result<(Self, Vec<String>), String> {
        for directory in [data, index] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(
                |error| format!("cannot make the directory {}: {error}", directory.display()),
            )?;
        }
        if let (Ok(one), Ok(two)) = (data.canonicalize(), index.canonicalize())
            && one == two
        {
            return Err(format!(
                "--data and --index are the same directory ({}): give each its own",
                one.display()
            ));
        }
        let mut warnings = Vec::new();
        let ours: Vec<&Path> = [data, index].into_iter().filter(|path| is_ours(path)).collect();
        let locks = [lock(data)?, lock(index)?];
        for directory in ours {
            match close_to_others(directory) {
                Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
                    warnings.push(format!(
                        "warning: cannot take the rights of other users from {} ({error}): it holds \
                         passwords; chmod -R go-rwx it",
                        directory.display()
                    ));
                }
                _ => {}
            }
        }
        let direct = match direct_io_works(data) {
            Ok(()) => true,
            Err(error) => {
                warnings.push(format!(
                    "warning: the file system of {} refuses direct I/O ({error}); going on with buffered \
                     I/O, which is slower and uses the page cache: put --data on ext4, xfs or btrfs",
                    data.display()
                ));
                false
            }
        };
        let files = Self {
            data: data.into(),
            index: index.into(),
            direct,
            read_only: false,
            opened: Mutex::default(),
            _locks: locks.into(),
        };
        Ok((files, warnings))
    }

    /// Opens directories to look at them alone, while no server runs on them.
    pub fn open_to_read(data: &Path, index: &Path) -> Result<Self, String> {
        let locks = [share_lock(data)?, share_lock(index)?];
        let direct = direct_reads_work(data);
        Ok(Self {
            data: data.into(),
            index: index.into(),
            direct,
            read_only: true,
            opened: Mutex::default(),
            _locks: locks.into_iter().flatten().collect(),
        })
    }

    /// Refuses what would change something, as a file system that is mounted read-only does.
    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        Ok(())
    }

    fn path(&self, root: Root, name: &str) -> PathBuf {
        match root {
            Root::Data => self.data.join(name),
            Root::Index => self.index.join(name),
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<RawFd, File>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a file open until `close`.
    fn keep(&self, file: File) -> FileId {
        let descriptor = file.as_raw_fd();
        self.opened().insert(descriptor, file);
        FileId(descriptor)
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only).mode(0o600);
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }
}

/// Whether a directory is a server's alone, or empty. Another one may be somebody's home.
fn is_ours(directory: &Path) -> bool {
    let names: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.iter().all(|name| {
        let ending = Path::new(name).extension();
        let is_log =
            ending.is_some_and(|ending| ending == "sidecar" || ending == "log" || ending == "stub");
        is_log || OUR_NAMES.iter().any(|ours| name == ours)
    })
}

/// Takes the rights of other users from a directory and the files in it: namespaces have passwords, and
/// the values are nobody else's business.
fn close_to_others(directory: &Path) -> io::Result<()> {
    let close = |path: &Path, metadata: &fs::Metadata| {
        if metadata.mode() & OTHERS == 0 {
            return Ok(());
        }
        let mode = metadata.mode() & 0o7777 & !OTHERS;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    close(directory, &fs::metadata(directory)?)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Of the entry itself: a link may lead anywhere.
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            close(&entry.path(), &metadata)?;
        }
    }
    Ok(())
}

/// Takes the lock of a directory, or says who may have it.
fn lock(directory: &Path) -> Result<File, String> {
    let path = directory.join(LOCK_NAME);
    let opened =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = match opened {
        // A disk that was mounted read-only after an error still serves reads.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
        other => other,
    }
    .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(format!(
            "another zdb is running on {} (it holds {}): stop it or choose another directory",
            directory.display(),
            path.display()
        )),
        Err(fs::TryLockError::Error(error)) => {
            Err(format!("cannot lock {}: {error}", path.display()))
        }
    }
}

/// Takes part in the lock of a directory, so that no server starts on it. Without a lock file no server
/// was ever there, and none is made where that cannot be.
fn share_lock(directory: &Path) -> Result<Option<File>, String> {
    let path = directory.join(LOCK_NAME);
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let Ok(file) = made else { return Ok(None) };
            Ok(file)
        }
        other => other,
    };
    let file = opened.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(format!(
            "a zdb is running on {} (it holds {}): stop it first",
            directory.display(),
            path.display()
        )),
        Err(fs::TryLockError::Error(error)) => {
            Err(format!("cannot lock {}: {error}", path.display()))
        }
    }
}

/// Whether a segment can be read through a descriptor with O_DIRECT.
fn direct_reads_work(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    let Some(path) = logs.next() else { return false };
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    let mut block = AlignedBuffer::new(BLOCK as usize);
    match opened.and_then(|file| file.read_at(&mut block, 0)) {
        // Any other error is of that file alone.
        Err(error) => error.kind() != io::ErrorKind::InvalidInput,
        Ok(_) => true,
    }
}

/// Writes and reads one block through a descriptor with O_DIRECT.
fn direct_io_works(directory: &Path) -> io::Result<()> {
    let path = directory.join(".direct-io-probe");
    let probe = || -> io::Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT)
            .open(&path)?;
        let mut block = AlignedBuffer::new(BLOCK as usize);
        match file.write_all_at(&block, 0) {
            // A full disk says nothing about direct I/O; the log will meet it and say so.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            other => other?,
        }
        file.read_exact_at(&mut block, 0)
    };
    let result = probe();
    let _ = fs::remove_file(&path);
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Borrows the file behind an id.
fn with_file<T>(id: FileId, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    use std::mem::ManuallyDrop;
    // SAFETY: a FileId is only made from a descriptor that stays open until `close`; ManuallyDrop
    // keeps this borrowed File from closing it.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(id.0) });
    work(&file)
}

impl Files for SystemFiles {
    fn list(&self, root: Root) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(root, ""))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, root: Root, name: &str) -> io::Result<FileId> {
        let path = self.path(root, name);
        let file = match self.options().open(&path) {
            // A data disk that is mounted read-only still serves reads.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                self.options().write(false).open(&path)?
            }
            other => other?,
        };
        Ok(self.keep(file))
    }

    fn create(
        &self,
        root: Root,
        name: &str,
        capacity: u64,
        capacity_min: u64,
    ) -> io::Result<(FileId, u64)> {
        self.check_writable()?;
        let path = self.path(root, name);
        let file = self.options().create(true).truncate(true).open(&path)?;
        let mut size = capacity;
        loop {
            match allocate(&file, size) {
                Ok(()) => return Ok((self.keep(file), size)),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                    ) && size / 2 >= capacity_min =>
                {
                    file.set_len(0)?;
                    size = (size / 2).next_multiple_of(BLOCK);
                }
                Err(error) => {
                    drop(file);
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
            }
        }
    }

    fn close(&self, file: FileId) {
        self.opened().remove(&file.0);
    }

    fn stand_in(&self, bytes: u64, parts: &[(u64, Vec<u8>)]) -> io::Result<FileId> {
        // SAFETY: the name is terminated, and the descriptor is a new one.
        let file = unsafe {
            match libc::memfd_create(c"zdb-stand-in".as_ptr(), libc::MFD_CLOEXEC) {
                -1 => return Err(io::Error::last_os_error()),
                descriptor => File::from_raw_fd(descriptor),
            }
        };
        file.set_len(bytes)?;
        for (offset, part) in parts {
            file.write_all_at(part, *offset)?;
        }
        Ok(self.keep(file))
    }

    fn replace(&self, file: FileId, with: FileId) -> io::Result<()> {
        // SAFETY: both are open descriptors of ours. What the kernel reads of the first, it reads to the end.
        let replaced = unsafe { libc::dup3(with.0, file.0, libc::O_CLOEXEC) };
        let result = if replaced < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        self.close(with);
        result
    }

    fn whereabouts(&self, file: FileId, root: Root, name: &str) -> io::Result<Whereabouts> {
        // What is open is in memory, and its name with it: a disk that sleeps goes on sleeping.
        let open = with_file(file, File::metadata)?;
        match fs::symlink_metadata(self.path(root, name)) {
            // Where a link leads is not looked at.
            Ok(named) if named.is_symlink() => Ok(Whereabouts::Here),
            Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => {
                Ok(Whereabouts::Here)
            }
            Ok(_) => Ok(Whereabouts::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Whereabouts::Gone),
            Err(error) => Err(error),
        }
    }

    fn size(&self, file: FileId) -> io::Result<u64> {
        with_file(file, |file| Ok(file.metadata()?.len()))
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut AlignedBuffer) -> io::Result<usize> {
        with_file(file, |file| {
            let mut read = 0;
            while read < buffer.len() {
                match file.read_at(&mut buffer[read..], offset + read as u64) {
                    Ok(0) => break,
                    Ok(count) => {
                        read += count;
                        // A direct read that ends inside a block has met the end of the file.
                        if !read.is_multiple_of(BLOCK as usize) {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(read)
        })
    }

    fn write_at(&self, file: FileId, offset: u64, bytes: &AlignedBuffer) -> io::Result<()> {
        self.check_writable()?;
        with_file(file, |file| file.write_all_at(bytes, offset))
    }

    fn next_written(&self, file: FileId, offset: u64) -> io::Result<Option<u64>> {
        // SAFETY: lseek on an open descriptor touches no memory.
        let found = unsafe { libc::lseek(file.0, offset as i64, libc::SEEK_DATA) };
        if found >= 0 {
            return Ok(Some(found as u64));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            // A file system that knows no holes: everything may be data.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(offset)),
            error => Err(error),
        }
    }

    fn sync(&self, file: FileId) -> io::Result<()> {
        with_file(file, File::sync_data)
    }

    fn truncate(&self, file: FileId, length: u64) -> io::Result<()> {
        self.check_writable()?;
        with_file(file, |file| file.set_len(length))
    }

    fn extend(&self, file: FileId, length: u64) -> io::Result<()> {
        self.check_writable()?;
        with_file(file, |file| allocate(file, length))
    }

    fn make_directory(&self, root: Root, name: &str) -> io::Result<()> {
        self.check_writable()?;
        match fs::DirBuilder::new().mode(0o700).create(self.path(root, name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_directory(root),
        }
    }

    fn sync_directory(&self, root: Root) -> io::Result<()> {
        File::open(self.path(root, ""))?.sync_all()
    }

    fn rename(&self, root: Root, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.path(root, from), self.path(root, to))
    }

    fn remove(&self, root: Root, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.path(root, name))
    }

    fn read_small(&self, root: Root, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(root, name))
    }

    fn read_part(&self, root: Root, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(self.path(root, name))?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write_small(&self, root: Root, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        let temporary = self.path(root, &format!("{name}.new"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(root, name))?;
        self.sync_directory(root)
    }

    fn write_part(&self, root: Root, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(root, name))?;
        file.write_all_at(bytes, offset)?;
        file.set_len(offset + bytes.len() as u64)
    }

    fn free_bytes(&self, root: Root) -> io::Result<u64> {
        let path = CString::new(self.path(root, "").as_os_str().as_bytes())?;
        // SAFETY: statvfs is plain data, for which zeroes are valid.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a terminated path and a live struct to write to.
        if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // 0-db shows f_bsize * f_bavail, and zos and zstor read it as such.
        Ok(stat.f_bsize as u64 * stat.f_bavail)
    }
}

/// Allocates the blocks of a file, so that no later write meets a full disk.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    let descriptor: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(file);
    // SAFETY: fallocate on an open descriptor touches no memory.
    if unsafe { libc::fallocate(descriptor.as_raw_fd(), 0, 0, size as i64) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(size),
        error => Err(error),
    }
}
