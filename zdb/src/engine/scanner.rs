//! Reading a segment record by record, from the disk and where that ends from the write buffer.

use super::log::buffer::WriteBuffer;
use super::log::format::{
    self, ALIGN, BLOCK, Head, Kind, RECORD_BYTES_MAX, RECORD_HEAD_BYTES, SEGMENT_HEADER_BYTES,
};
use super::walk;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files};
use crate::limits::KEY_BYTES_MAX;
use std::io;

/// Bytes of the log in memory while it is scanned.
const WINDOW_BYTES: u64 = 16 << 20;

const _: () = assert!(WINDOW_BYTES >= RECORD_BYTES_MAX + 2 * BLOCK);

/// Bytes that hold the head and the key of any record.
pub const HEAD_AND_KEY_BYTES_MAX: u64 = (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;

/// A stretch of the log that the disk does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub start: u64,
    pub end: u64,
    /// What the kernel said.
    pub error: String,
}

/// Reads records of one segment, from the disk and where that ends from the write buffer. Blocks that
/// cannot be read are zeroes here, which no record of that place survives.
pub struct Scanner<'a> {
    files: &'a dyn Files,
    buffer: &'a WriteBuffer,
    seed: u64,
    base: u64,
    file: FileId,
    end: u64,
    window: AlignedBuffer,
    window_start: u64,
    /// Stretches that were found in the write buffer only.
    buffered: Vec<(u64, u64)>,
    unreadable: Vec<Unreadable>,
}

impl<'a> Scanner<'a> {
    pub fn new(
        files: &'a dyn Files,
        buffer: &'a WriteBuffer,
        seed: u64,
        base: u64,
        file: FileId,
        size: u64,
    ) -> Self {
        Self {
            files,
            buffer,
            seed,
            base,
            file,
            end: base + size,
            window: AlignedBuffer::new(0),
            window_start: base,
            buffered: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// What could not be read so far.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Where the file ends, as a position.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The bytes on disk from `position` on: at least `length`, or up to the end of the file.
    pub fn bytes(&mut self, position: u64, length: u64) -> Result<&[u8], String> {
        let wanted = (position + length).min(self.end);
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if position < held.start || wanted > held.end {
            self.load(position / BLOCK * BLOCK)?;
        }
        let from = (position - self.window_start) as usize;
        Ok(self.window.get(from..).unwrap_or_default())
    }

    fn load(&mut self, start: u64) -> Result<(), String> {
        let bytes = WINDOW_BYTES.min(self.end.next_multiple_of(BLOCK).saturating_sub(start));
        // Fresh memory would cost a page fault for every 4 KiB that are read.
        let mut window = std::mem::replace(&mut self.window, AlignedBuffer::new(0));
        if !window.reuse(bytes as usize) {
            window = AlignedBuffer::new(bytes as usize);
        }
        let read = match self.files.read_at(self.file, start - self.base, &mut window) {
            Ok(read) => read,
            Err(error) => self.load_blocks(start, &mut window, &error)?,
        };
        window.truncate(read);
        self.window = window;
        self.window_start = start;
        Ok(())
    }

    /// Reads block by block around those that cannot be read. An error where not even the header of the
    /// segment can be read: then it is the whole disk that is gone.
    fn load_blocks(
        &mut self,
        start: u64,
        window: &mut AlignedBuffer,
        error: &io::Error,
    ) -> Result<usize, String> {
        let mut block = AlignedBuffer::new(BLOCK as usize);
        let (mut read, mut is_any_readable) = (0, false);
        for at in (0..window.len()).step_by(BLOCK as usize) {
            let position = start + at as u64;
            match self.files.read_at(self.file, position - self.base, &mut block) {
                Ok(count) => {
                    window[at..at + count].copy_from_slice(&block[..count]);
                    is_any_readable = true;
                    read = at + count;
                    if count < BLOCK as usize {
                        break;
                    }
                }
                Err(error) => {
                    window[at..at + BLOCK as usize].fill(0);
                    self.note_unreadable(position, &error);
                    read = at + BLOCK as usize;
                }
            }
        }
        if !is_any_readable && self.files.read_at(self.file, 0, &mut block).is_err() {
            return Err(format!(
                "cannot read segment {} at offset {}: {error}",
                format::segment_name(self.base),
                start - self.base
            ));
        }
        Ok(read)
    }

    fn note_unreadable(&mut self, start: u64, error: &io::Error) {
        let end = start + BLOCK;
        if self.unreadable.iter().any(|known| known.start <= start && end <= known.end) {
            return;
        }
        match self.unreadable.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.unreadable.push(Unreadable { start, end, error: error.to_string() }),
        }
    }

    /// The head of the record on disk at `position`, if all of it is whole.
    fn whole_on_disk(&mut self, position: u64) -> Result<Option<Head>, String> {
        let seed = self.seed;
        let bytes = self.bytes(position, HEAD_AND_KEY_BYTES_MAX)?;
        let Some(head) = format::decode_head(bytes, seed, position) else { return Ok(None) };
        let bytes = self.bytes(position, head.bytes())?;
        let is_whole = bytes.len() as u64 >= head.bytes();
        Ok((is_whole && format::payload_is_whole(bytes, seed, &head)).then_some(head))
    }

    /// The head of the whole record at `position`, and whether it is only in the write buffer.
    pub fn whole_at(&mut self, position: u64) -> Result<Option<(Head, bool)>, String> {
        if let Some(head) = self.whole_on_disk(position)? {
            return Ok(Some((head, false)));
        }
        let seed = self.seed;
        if position >= self.end {
            return Ok(None);
        }
        let bytes = self.buffer.slice(position, RECORD_BYTES_MAX as usize);
        let Some(head) = format::decode_head(bytes, seed, position) else { return Ok(None) };
        if !format::payload_is_whole(bytes, seed, &head) || position + head.bytes() > self.end {
            return Ok(None);
        }
        let end = position + head.bytes();
        match self.buffered.last_mut() {
            Some((_, last)) if *last == position => *last = end,
            _ => self.buffered.push((position, end)),
        }
        Ok(Some((head, true)))
    }

    /// The bytes of a record that `whole_at` found.
    pub fn record(&mut self, position: u64, head: &Head, from_buffer: bool) -> &[u8] {
        if from_buffer {
            return self.buffer.slice(position, head.bytes() as usize);
        }
        &self.window[(position - self.window_start) as usize..][..head.bytes() as usize]
    }

    /// Head and key of a record whose payload is damaged.
    pub fn damaged_at(&mut self, position: u64) -> Result<Option<(Head, Vec<u8>)>, String> {
        let seed = self.seed;
        let bytes = self.bytes(position, HEAD_AND_KEY_BYTES_MAX)?;
        Ok(format::decode_head(bytes, seed, position)
            .map(|head| (head, bytes[RECORD_HEAD_BYTES..head.payload_offset()].to_vec())))
    }

    /// The next whole record on disk at or after `position`.
    pub fn next_whole(&mut self, mut position: u64) -> Result<Option<u64>, String> {
        let mut hole_checked = 0;
        while position + (RECORD_HEAD_BYTES as u64) <= self.end {
            if position >= hole_checked {
                let offset = position - self.base;
                let found = self.files.next_written(self.file, offset).map_err(|error| {
                    format!("cannot look for data in {}: {error}", format::segment_name(self.base))
                })?;
                match found {
                    None => return Ok(None),
                    Some(written) if written > offset => {
                        position = self.base + written.next_multiple_of(ALIGN);
                    }
                    Some(_) => {}
                }
                hole_checked = position + (1 << 20);
            }
            if self.whole_on_disk(position)?.is_some() {
                return Ok(Some(position));
            }
            position += ALIGN;
        }
        Ok(None)
    }

    /// Whether the file ends with a seal, as after a stop in order.
    pub fn ends_with_seal(&mut self) -> Result<bool, String> {
        let first = self.end.saturating_sub(2 * BLOCK).max(self.base + SEGMENT_HEADER_BYTES);
        let (seed, end) = (self.seed, self.end);
        let bytes = self.bytes(first, 2 * BLOCK)?;
        Ok((first..end).step_by(ALIGN as usize).any(|position| {
            let record = bytes.get((position - first) as usize..).unwrap_or_default();
            format::Verified::check(record, seed, position).is_some_and(|record| {
                record.head.kind == Kind::Seal && position + record.head.bytes() == end
            })
        }))
    }

    /// Whether a damaged record with a whole head was never written as a whole. A block that cannot be read,
    /// which is zeroes here, is no sign of it.
    pub fn is_half_written(&mut self, position: u64, head: &Head) -> Result<bool, String> {
        let end = position + head.bytes();
        self.bytes(position, head.bytes())?;
        if self.unreadable.iter().any(|one| one.start < end && position < one.end) {
            return Ok(false);
        }
        Ok(walk::is_half_written(self.bytes(position, head.bytes())?, position, head))
    }

    /// Whether what a record was in looks as a power cut leaves it. A block that cannot be read, which is zeroes here, is
    /// no sign of it.
    pub fn is_gap(&mut self, position: u64) -> Result<bool, String> {
        let end = position + 2 * walk::SECTOR;
        self.bytes(position, end - position)?;
        if self.unreadable.iter().any(|one| one.start < end && position < one.end) {
            return Ok(false);
        }
        Ok(walk::is_gap(self.bytes(position, end - position)?, position))
    }

    /// Whether bytes that are not zero follow.
    pub fn is_torn(&mut self, position: u64) -> Result<bool, String> {
        let bytes = self.bytes(position, BLOCK)?;
        Ok(bytes.iter().take(BLOCK as usize).any(|byte| *byte != 0))
    }

    /// Writes what was only in the buffer to the segment, and waits until all of it is on the disk.
    pub fn bring_over(&mut self) -> Result<(), String> {
        let stretches = std::mem::take(&mut self.buffered);
        if stretches.is_empty() {
            return Ok(());
        }
        let name = format::segment_name(self.base);
        let explain = |error: std::io::Error| {
            format!(
                "cannot write acknowledged records from the write buffer to segment {name}: {error}. They \
                 stay in the buffer; make the disk writable and start again"
            )
        };
        for (start, end) in stretches {
            let first_block = start / BLOCK * BLOCK;
            let length = end.next_multiple_of(BLOCK) - first_block;
            // Around the stretch the blocks stay as they are on the disk, byte for byte.
            let mut blocks = AlignedBuffer::new(length as usize);
            self.files.read_at(self.file, first_block - self.base, &mut blocks).map_err(explain)?;
            let mut at = start;
            while at < end {
                let step = (end - at).min(1 << 20) as usize;
                let to = (at - first_block) as usize;
                blocks[to..to + step].copy_from_slice(self.buffer.slice(at, step));
                at += step as u64;
            }
            self.files.write_at(self.file, first_block - self.base, &blocks).map_err(explain)?;
        }
        self.files.sync(self.file).map_err(explain)
    }
}
