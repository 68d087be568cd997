//! Reading a segment record by record, from the disk and where that ends from the write buffer.

use super::log::buffer::WriteBuffer;
use super::log::format::{
    self, ALIGN, BLOCK, Head, Kind, RECORD_BYTES_MAX, RECORD_HEAD_BYTES, SEGMENT_HEADER_BYTES,
};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files};

/// Bytes of the log in memory while it is scanned.
const WINDOW_BYTES: u64 = 16 << 20;

/// What a disk writes as a whole, in bytes.
const SECTOR: u64 = 512;

const _: () = assert!(WINDOW_BYTES >= RECORD_BYTES_MAX + 2 * BLOCK);

/// Reads records of one segment, from the disk and where that ends from the write buffer.
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
        }
    }

    /// The bytes on disk from `position` on: at least `length`, or up to the end of the file.
    pub fn bytes(&mut self, position: u64, length: u64) -> Result<&[u8], String> {
        let wanted = (position + length).min(self.end);
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if position < held.start || wanted > held.end {
            let start = position / BLOCK * BLOCK;
            let bytes = WINDOW_BYTES.min(self.end.next_multiple_of(BLOCK).saturating_sub(start));
            let mut window = AlignedBuffer::new(bytes as usize);
            let read =
                self.files.read_at(self.file, start - self.base, &mut window).map_err(|error| {
                    format!(
                        "cannot read segment {} at offset {}: {error}",
                        format::segment_name(self.base),
                        start - self.base
                    )
                })?;
            window.truncate(read);
            self.window = window;
            self.window_start = start;
        }
        let from = (position - self.window_start) as usize;
        Ok(self.window.get(from..).unwrap_or_default())
    }

    /// The head of the whole record at `position`, and whether it is only in the write buffer.
    pub fn whole_at(&mut self, position: u64) -> Result<Option<(Head, bool)>, String> {
        let seed = self.seed;
        let bytes = self.bytes(position, RECORD_BYTES_MAX)?;
        if let Some(head) = format::decode_head(bytes, seed, position)
            && format::payload_is_whole(bytes, seed, &head)
        {
            return Ok(Some((head, false)));
        }
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
        let bytes = self.bytes(position, (RECORD_HEAD_BYTES + 256) as u64)?;
        Ok(format::decode_head(bytes, seed, position)
            .map(|head| (head, bytes[RECORD_HEAD_BYTES..head.payload_offset()].to_vec())))
    }

    /// The next whole record on disk at or after `position`.
    pub fn next_whole(&mut self, mut position: u64) -> Result<Option<u64>, String> {
        let seed = self.seed;
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
            let bytes = self.bytes(position, RECORD_BYTES_MAX)?;
            if let Some(head) = format::decode_head(bytes, seed, position)
                && format::payload_is_whole(bytes, seed, &head)
            {
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

    /// Whether a damaged record with a whole head was never written as a whole: what a power cut took reads
    /// as zeroes, for a block of a segment is written once, and only zeroes before. Damage does not make a
    /// whole sector zero.
    pub fn is_half_written(&mut self, position: u64, head: &Head) -> Result<bool, String> {
        let start = position + head.payload_offset() as u64;
        let end = start + u64::from(head.payload_length);
        let bytes = self.bytes(position, head.bytes())?;
        let mut at = start;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            let sector = bytes.get((at - position) as usize..(next - position) as usize);
            // Behind the end of the file there is nothing either.
            if sector.is_none_or(|sector| sector.iter().all(|byte| *byte == 0)) {
                return Ok(true);
            }
            at = next;
        }
        Ok(false)
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
