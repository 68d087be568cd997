//! Whole files that come from the master: packed segments, which a start takes into the log.

use crate::command::replication::ReceivedFile;
use crate::disk::{Done, FileId, Operation, Root, aligned::AlignedBuffer};
use crate::engine::Waiter;
use crate::engine::index::PLACE_BITS;
use crate::engine::log::format::{self, BLOCK, SEGMENT_HEADER_BYTES};
use crate::hub::Hub;
use crate::limits::SEGMENT_BYTES_MAX;
use std::io;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What became of a word of the master.
pub(super) enum Word {
    Done,
    /// It is taken, and nothing more until something has happened.
    Wait,
    /// The link begins anew, for this reason.
    Drop(String),
}

impl Hub {
    pub(super) fn hear_file(&mut self, base: u64, bytes: u64) -> Word {
        let name = format::unfinished_name(base);
        let link = self.server.replication.link.as_ref().expect("the caller looked");
        if link.file.is_some() {
            return Word::Drop("a file came in the middle of something else".into());
        }
        match self.take_rest() {
            Word::Done => {}
            // What is taken by then is not asked for again.
            Word::Wait => return Word::Drop("the log has no room now for what comes".into()),
            word => return word,
        }
        let link = self.server.replication.link.as_mut().expect("as above");
        let last = self.engine.log.segments.last().map(|last| last.base).max(link.published);
        let is_next = last.is_none_or(|last| base > last) && base >> PLACE_BITS == 0;
        let is_aligned = base.is_multiple_of(BLOCK);
        let is_size = (SEGMENT_HEADER_BYTES..=2 * SEGMENT_BYTES_MAX).contains(&bytes);
        if !is_next || !is_aligned || !is_size {
            return Word::Drop(format!(
                "a file of {bytes} bytes at {base} is none that can follow"
            ));
        }
        link.file = Some(ReceivedFile {
            base,
            bytes,
            received: 0,
            check: 0,
            file: None,
            waiting: Vec::new(),
            written: 0,
            writing: true,
            is_whole: false,
            is_publishing: false,
            is_published: false,
        });
        // At the end it would be removed as one that was made ahead, and the file with it.
        self.engine.log.drop_prepared();
        self.engine.work_for(Waiter::Link, Operation::MakeFile { name, bytes });
        Word::Done
    }

    pub(super) fn hear_bytes(&mut self, bytes: &[u8]) -> Word {
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let Some(file) = &mut link.file else {
            return Word::Drop("bytes of a file came without one".into());
        };
        file.received += bytes.len() as u64;
        file.check = xxh3_64_with_seed(bytes, file.check);
        file.waiting.extend_from_slice(bytes);
        if file.received > file.bytes {
            return Word::Drop("a file is longer than was said".into());
        }
        self.write_file();
        Word::Done
    }

    pub(super) fn hear_file_end(&mut self, check: u64) -> Word {
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let Some(file) = &mut link.file else {
            return Word::Drop("the end of a file came without one".into());
        };
        if file.received != file.bytes || file.check != check {
            return Word::Drop("a file did not come as it was sent".into());
        }
        file.is_whole = true;
        self.write_file();
        Word::Wait
    }

    /// Hands what came of a file to the disk, one piece after the other.
    fn write_file(&mut self) {
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let Some(file) = &mut link.file else { return };
        let Some(open) = file.file.filter(|_| !file.writing) else { return };
        let whole = match file.is_whole {
            true => file.waiting.len(),
            false => file.waiting.len() / BLOCK as usize * BLOCK as usize,
        };
        if whole > 0 {
            let mut blocks = AlignedBuffer::new(whole.next_multiple_of(BLOCK as usize));
            blocks[..whole].copy_from_slice(&file.waiting[..whole]);
            file.waiting.drain(..whole);
            let offset = file.written;
            file.written += whole as u64;
            file.writing = true;
            let operation = Operation::WriteBlocks { file: open, offset, blocks };
            self.engine.work_for(Waiter::Link, operation);
        } else if file.is_whole {
            let (from, to) = (format::unfinished_name(file.base), format::segment_name(file.base));
            let bytes = file.bytes;
            file.writing = true;
            file.is_publishing = true;
            let operation = Operation::Publish { file: open, bytes, from, to };
            self.engine.work_for(Waiter::Link, operation);
        }
    }

    /// The disk has done something for the file that comes in.
    pub(super) fn file_answer(&mut self, result: io::Result<Done>) {
        if self.affairs.leftover.is_some() {
            return self.leftover_answer(result);
        }
        let Some(link) = &mut self.server.replication.link else { return };
        let Some(file) = &mut link.file else { return };
        file.writing = false;
        match result {
            Err(error) => self.break_link(&format!("cannot write a segment: {error}")),
            Ok(Done::File(open, _)) => {
                file.file = Some(open);
                self.write_file();
            }
            Ok(_) if file.is_publishing => {
                let open = file.file;
                link.published = Some(file.base);
                link.file = None;
                self.close_file(open);
            }
            Ok(_) => self.write_file(),
        }
    }

    /// The disk has done something for a file whose link is gone.
    fn leftover_answer(&mut self, result: io::Result<Done>) {
        let Some(file) = &mut self.affairs.leftover else { return };
        match result {
            Ok(Done::File(open, _)) => file.file = Some(open),
            Ok(_) if file.is_publishing => {
                // It counts: a start takes it into the log.
                file.is_published = true;
                self.affairs.restarts |= !self.stopping;
            }
            _ => {}
        }
        self.remove_leftover();
    }

    pub(super) fn remove_leftover(&mut self) {
        let Some(file) = self.affairs.leftover.take() else { return };
        self.close_file(file.file);
        if !file.is_published {
            let names = vec![(Root::Data, format::unfinished_name(file.base))];
            self.engine.work_for_nobody(Operation::Remove { names });
        }
    }

    /// Nobody waits for the answer: it could be taken for that of the next file.
    fn close_file(&mut self, file: Option<FileId>) {
        if let Some(file) = file {
            self.engine.work_for_nobody(Operation::Close { file });
        }
    }
}
