//! The last segment of a log that goes on in it: others have the log, too, and a copy has each record at the
//! same place.

use super::{Recovery, errand};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files};
use crate::engine::log::Log;
use crate::engine::log::format::{self, BLOCK};

/// Lets the log go on in its last segment, which ends at `end`.
pub(super) fn go_on(files: &dyn Files, log: &mut Log, end: u64) -> Result<(), String> {
    let last = log.segments.last().expect("a segment was read to its end");
    let within = (end - last.base) % BLOCK;
    let mut begun = AlignedBuffer::new(BLOCK as usize);
    if within > 0 {
        let offset = end - last.base - within;
        files.read_at(last.file, offset, &mut begun).map_err(|error| {
            format!("cannot read segment {}: {error}", format::segment_name(last.base))
        })?;
    }
    log.go_on(end, &begun[..within as usize]);
    Ok(())
}

impl Recovery<'_> {
    /// Makes the last segment ready for records behind its first `length` bytes: nothing of what a crash tore is
    /// behind them, and all blocks are there again. False where the disk does not let it.
    pub(super) fn make_room(&mut self, file: FileId, length: u64, is_header_lost: bool) -> bool {
        let segment = self.segments.last_mut().expect("the segment was pushed");
        if errand::cut_behind(self.files, file, length).is_err() {
            return false;
        }
        // Where the header is lost nobody knows how large it was made.
        let size = if is_header_lost { segment.size } else { segment.capacity };
        // A disk that is full takes no further records.
        segment.size = match self.files.extend(file, size) {
            Ok(()) => size,
            Err(_) => length.next_multiple_of(BLOCK),
        };
        self.files.sync(file).is_ok()
    }
}
