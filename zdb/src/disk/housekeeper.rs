//! The thread that does what may take milliseconds and that nobody waits for: making, cutting and
//! sidecar files. Over `Files`, so a simulator runs the same steps without the thread.

use super::aligned::AlignedBuffer;
use super::{Completion, Done, Files, LOST_BYTE, Operation, Read, Root, Token, Whereabouts};
use crate::engine::log::format::BLOCK;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Carries out one operation of the slow kind.
pub fn perform(files: &dyn Files, operation: Operation) -> io::Result<Done> {
    match operation {
        Operation::CreateSegment { name, capacity, capacity_min, keep_free, header } => {
            let capacity = room_for(files, capacity, capacity_min, keep_free)?;
            create_segment(files, &name, capacity, capacity_min, &header)
        }
        Operation::Truncate { file, length } => {
            files.truncate(file, length.next_multiple_of(BLOCK))?;
            Ok(Done::Nothing)
        }
        Operation::Close { file } => {
            files.close(file);
            Ok(Done::Nothing)
        }
        Operation::WriteSidecar { name, offset, bytes } => {
            files.write_part(Root::Index, &name, offset, &bytes)?;
            Ok(Done::Nothing)
        }
        Operation::ReadSidecar { name, offset, length } => {
            Ok(Done::Vector(files.read_part(Root::Index, &name, offset, length)?))
        }
        Operation::ReadAround { file, offset, length } => {
            let mut all = AlignedBuffer::new(length as usize);
            let mut block = AlignedBuffer::new(BLOCK as usize);
            for at in (0..all.len()).step_by(block.len()) {
                let read = files.read_at(file, offset + at as u64, &mut block);
                match read {
                    Ok(count) => {
                        all[at..at + count].copy_from_slice(&block[..count]);
                        if count < block.len() {
                            all.truncate(at + count);
                            break;
                        }
                    }
                    Err(_) => all[at..at + block.len()].fill(LOST_BYTE),
                }
            }
            Ok(Done::of_read(Read { file, offset, length }, all))
        }
        Operation::WriteSmall { root, name, bytes } => {
            files.write_small(root, &name, &bytes)?;
            Ok(Done::Nothing)
        }
        Operation::MakeFile { name, bytes } => {
            let (file, bytes) = files.create(Root::Data, &name, bytes, bytes)?;
            Ok(Done::File(file, bytes))
        }
        Operation::WriteBlocks { file, offset, blocks } => {
            files.write_at(file, offset, &blocks)?;
            Ok(Done::Nothing)
        }
        Operation::Publish { file, bytes, from, to } => {
            files.truncate(file, bytes)?;
            files.sync(file)?;
            files.rename(Root::Data, &from, &to)?;
            files.sync_directory(Root::Data)?;
            Ok(Done::Nothing)
        }
        Operation::Remove { names } => {
            for (root, name) in names {
                match files.remove(root, &name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(Done::Nothing)
        }
        Operation::FindMoved { files: open } => {
            // What cannot be told stays open.
            let moved = open.into_iter().filter_map(|(file, name)| {
                let found = files.whereabouts(file, Root::Data, &name).ok()?;
                (found != Whereabouts::Here).then_some((file, found))
            });
            Ok(Done::Moved(moved.collect()))
        }
        Operation::LetGo { file } => {
            files.replace(file, files.stand_in(0, &[])?)?;
            Ok(Done::Nothing)
        }
        Operation::OpenAgain { file, name } => {
            files.replace(file, files.open(Root::Data, &name)?)?;
            Ok(Done::Nothing)
        }
        Operation::FreeSpace => Ok(Done::Free {
            data: files.free_bytes(Root::Data)?,
            index: files.free_bytes(Root::Index)?,
        }),
        Operation::Write { .. }
        | Operation::Zero { .. }
        | Operation::Sync { .. }
        | Operation::Read { .. } => unreachable!("the ring does log I/O"),
    }
}

/// How large a file can be that leaves so many bytes free.
fn room_for(
    files: &dyn Files,
    capacity: u64,
    capacity_min: u64,
    keep_free: u64,
) -> io::Result<u64> {
    if keep_free == 0 {
        return Ok(capacity);
    }
    // Where nobody knows (a ramfs says 0), the disk itself tells when it is full.
    let free = files.free_bytes(Root::Data).ok().filter(|free| *free > 0).unwrap_or(u64::MAX);
    let room = free.saturating_sub(keep_free) / BLOCK * BLOCK;
    if room < capacity_min {
        let text = "No space left on the device but what is kept for the cleaner and for deletes";
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    Ok(capacity.min(room))
}

/// Makes a segment whose header is durable before anybody hears of it.
pub fn create_segment(
    files: &dyn Files,
    name: &str,
    capacity: u64,
    capacity_min: u64,
    header: &[u8],
) -> io::Result<Done> {
    let (file, size) = files.create(Root::Data, name, capacity, capacity_min)?;
    let mut block = super::aligned::AlignedBuffer::new(header.len());
    block.copy_from_slice(header);
    let durable = files
        .write_at(file, 0, &block)
        .and_then(|()| files.sync(file))
        .and_then(|()| files.sync_directory(Root::Data));
    match durable {
        Ok(()) => Ok(Done::File(file, size)),
        Err(error) => {
            files.close(file);
            let _ = files.remove(Root::Data, name);
            Err(error)
        }
    }
}

/// The running thread. `wake` is called after each completion was queued.
pub struct Housekeeper {
    work: Option<Sender<(Token, Operation)>>,
    pub done: Receiver<Completion>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Housekeeper {
    pub fn start(files: Arc<dyn Files>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (work, orders) = channel::<(Token, Operation)>();
        let (report, done) = channel();
        let thread = std::thread::Builder::new().name("zdb-files".into()).spawn(move || {
            for (token, operation) in orders {
                let result = perform(&*files, operation);
                if report.send(Completion { token, result }).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { work: Some(work), done, thread: Some(thread) })
    }

    pub fn submit(&self, token: Token, operation: Operation) {
        if let Some(work) = &self.work {
            work.send((token, operation)).expect("the housekeeper lives as long as its owner");
        }
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
