//! The door to the disk. The engine is behind it: it asks for operations and is told how they ended,
//! and never touches a file itself while it serves.
//!
//! Two ways through: `Files`, blocking calls, used while starting and by the housekeeping thread; and
//! `Operation`/`Completion`, data that the loop carries to its ring (log and record I/O) or to the
//! housekeeper (files made, closed, removed). A simulator implements both.

pub mod aligned;
pub mod housekeeper;
pub mod system;

use aligned::AlignedBuffer;
use std::io;

/// An open file, or the place of one that was moved away. In the real implementation the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub i32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `--data`: the log. May be a spinning disk.
    Data,
    /// `--index`: everything that can be made anew from the log.
    Index,
}

/// What became of an operation of the engine belongs to this token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

#[derive(Debug)]
pub enum Operation {
    /// Writes `length` bytes of the write buffer from log position `position` on.
    Write {
        file: FileId,
        offset: u64,
        position: u64,
        length: u64,
        durable: bool,
    },
    /// Writes zeroes.
    Zero {
        file: FileId,
        offset: u64,
        length: u64,
    },
    /// Waits until everything written to the file is on stable storage.
    Sync {
        file: FileId,
    },
    /// Reads; offset and length are multiples of the block size.
    Read {
        file: FileId,
        offset: u64,
        length: u64,
    },
    /// Makes a segment file of `capacity` bytes, or fewer but at least `capacity_min` where the disk is
    /// nearly full, with this first block, all of it durable. So many bytes stay free on the disk.
    CreateSegment {
        name: String,
        capacity: u64,
        capacity_min: u64,
        keep_free: u64,
        header: Vec<u8>,
    },
    /// Gives back the part of a closed segment behind `length`.
    Truncate {
        file: FileId,
        length: u64,
    },
    /// Closes a file that nobody uses.
    Close {
        file: FileId,
    },
    /// Appends to a sidecar, or makes it with `offset` 0.
    WriteSidecar {
        name: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    ReadSidecar {
        name: String,
        offset: u64,
        length: usize,
    },
    /// Reads whole blocks one by one, in which `LOST_BYTE` stands for those that cannot be read.
    ReadAround {
        file: FileId,
        offset: u64,
        length: u64,
    },
    /// Replaces a small file as a whole; durable when it is done.
    WriteSmall {
        root: Root,
        name: String,
        bytes: Vec<u8>,
    },
    /// Makes a file of so many allocated bytes in the data directory, which does not count until it is
    /// published.
    MakeFile {
        name: String,
        bytes: u64,
    },
    /// Writes blocks to such a file.
    WriteBlocks {
        file: FileId,
        offset: u64,
        blocks: AlignedBuffer,
    },
    /// Gives such a file, of so many bytes, the name under which it counts; durable when it is done.
    Publish {
        file: FileId,
        bytes: u64,
        from: String,
        to: String,
    },
    /// Removes files, of which some may be gone.
    Remove {
        names: Vec<(Root, String)>,
    },
    /// Which of these open files in the data directory do not have their names any more, and what became of them.
    FindMoved {
        files: Vec<(FileId, String)>,
    },
    /// Closes such a file, and keeps its place: what reads it from now on finds nothing.
    LetGo {
        file: FileId,
    },
    /// Opens the file of a name in the place of one that was let go.
    OpenAgain {
        file: FileId,
        name: String,
    },
    /// Free bytes of both file systems.
    FreeSpace,
}

/// What stands for bytes that are lost: no record is made of it, and no power cut leaves it.
pub const LOST_BYTE: u8 = 0xda;

#[derive(Debug)]
pub enum Done {
    /// Bytes that were really written or, with `Read`, are in the buffer.
    Count(u64),
    Bytes(AlignedBuffer),
    Vector(Vec<u8>),
    File(FileId, u64),
    Moved(Vec<(FileId, Whereabouts)>),
    /// Nothing was there to read: the file may have been moved away.
    Empty(Read),
    Free {
        data: u64,
        index: u64,
    },
    Nothing,
}

/// What became of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its name leads to it.
    Here,
    /// No file has its name: it was copied elsewhere and removed here, or renamed, or the open file is the only copy.
    Gone,
    /// Another file has its name.
    Replaced,
}

/// What a read was to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub file: FileId,
    pub offset: u64,
    pub length: u64,
}

impl Done {
    /// What a read brought.
    pub fn of_read(read: Read, bytes: AlignedBuffer) -> Self {
        if bytes.is_empty() { Self::Empty(read) } else { Self::Bytes(bytes) }
    }
}

#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub result: io::Result<Done>,
}

/// Blocking access to the two directories.
pub trait Files: Send + Sync {
    fn list(&self, root: Root) -> io::Result<Vec<String>>;
    /// Opens a log file for direct reads and writes.
    fn open(&self, root: Root, name: &str) -> io::Result<FileId>;
    /// Makes (or makes anew) a log file of `capacity` allocated bytes. The size that it got is
    /// returned: on a nearly full file system it can be smaller, but is at least `capacity_min`.
    fn create(
        &self,
        root: Root,
        name: &str,
        capacity: u64,
        capacity_min: u64,
    ) -> io::Result<(FileId, u64)>;
    fn close(&self, file: FileId);
    /// A file without a name, of so many bytes: zeroes but for these parts.
    fn stand_in(&self, bytes: u64, parts: &[(u64, Vec<u8>)]) -> io::Result<FileId>;
    /// Puts the second file in the place of the first, which is closed. What reads the first meanwhile gets what
    /// is in the one or in the other.
    fn replace(&self, file: FileId, with: FileId) -> io::Result<()>;
    /// What became of the open file that had a name.
    fn whereabouts(&self, file: FileId, root: Root, name: &str) -> io::Result<Whereabouts>;
    fn size(&self, file: FileId) -> io::Result<u64>;
    /// Fills the buffer from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, file: FileId, offset: u64, buffer: &mut AlignedBuffer) -> io::Result<usize>;
    /// Writes whole blocks.
    fn write_at(&self, file: FileId, offset: u64, bytes: &AlignedBuffer) -> io::Result<()>;
    /// The next offset at or after `offset` that was ever written; `None` when only holes follow.
    fn next_written(&self, file: FileId, offset: u64) -> io::Result<Option<u64>>;
    fn sync(&self, file: FileId) -> io::Result<()>;
    fn truncate(&self, file: FileId, length: u64) -> io::Result<()>;
    /// Makes a log file so many bytes long again, all of them allocated.
    fn extend(&self, file: FileId, length: u64) -> io::Result<()>;
    /// Makes a directory in one of the two, if it is not there.
    fn make_directory(&self, root: Root, name: &str) -> io::Result<()>;
    fn sync_directory(&self, root: Root) -> io::Result<()>;
    fn remove(&self, root: Root, name: &str) -> io::Result<()>;
    /// Gives a file another name, under which there may be one already.
    fn rename(&self, root: Root, from: &str, to: &str) -> io::Result<()>;
    /// A whole small file, or a part of it.
    fn read_small(&self, root: Root, name: &str) -> io::Result<Vec<u8>>;
    fn read_part(&self, root: Root, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Replaces a small file as a whole; durable when it returns.
    fn write_small(&self, root: Root, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes at an offset and cuts the file behind it; not durable.
    fn write_part(&self, root: Root, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn free_bytes(&self, root: Root) -> io::Result<u64>;
}
