//! The io_uring with what this server needs of it: operations by meaning, and receive buffers that the
//! kernel fills.

use crate::disk::aligned::AlignedBuffer;
use io_uring::types::{BufRingEntry, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 16384;
/// Receive buffers: a power of two, 8 MiB in all. The kernel takes them in turn, so more of them would
/// leave the processor's cache: SET of 64 KiB costs 33 us with these, 39 us with 256 of them.
pub const BUFFERS: u16 = 64;
const BUFFER_BYTES: usize = 128 << 10;
const BUFFER_GROUP: u16 = 0;
/// `RWF_DSYNC`: the write is on stable storage when it completes.
const RWF_DSYNC: i32 = 2;
/// `IORING_RECVSEND_POLL_FIRST`.
const RECVSEND_POLL_FIRST: u16 = 1;
/// How long a turn waits for its batch to fill, in microseconds.
pub const BATCH_WAIT_US: u32 = 30;

/// What a completion is about. The kind is the upper byte of the user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Disk = 4,
    Cancel = 5,
    Signal = 6,
    Wake = 7,
    Timer = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Accept,
            2 => Self::Receive,
            3 => Self::Send,
            4 => Self::Disk,
            5 => Self::Cancel,
            6 => Self::Signal,
            7 => Self::Wake,
            8 => Self::Timer,
            _ => unreachable!("the kernel gives back what was handed in"),
        }
    }
}

/// When a send is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Some of it is out, and the rest is sent anew.
    Some,
    All,
}

impl Until {
    fn flags(self) -> i32 {
        match self {
            Self::Some => libc::MSG_NOSIGNAL,
            Self::All => libc::MSG_NOSIGNAL | libc::MSG_WAITALL,
        }
    }
}

const KEY_BITS: u32 = 56;

fn user_data(kind: Kind, key: u64) -> u64 {
    debug_assert!(key >> KEY_BITS == 0);
    (kind as u64) << KEY_BITS | key
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub kind: Kind,
    pub key: u64,
    /// Zero or more on success, a negative errno otherwise.
    pub result: i32,
    /// The operation goes on and will complete again.
    pub more: bool,
    /// The receive buffer that was filled.
    pub buffer: Option<u16>,
}

impl Event {
    /// What a send tells that was not handed to the ring.
    pub fn of_send(key: u64, count: usize) -> Self {
        Self { kind: Kind::Send, key, result: count as i32, more: false, buffer: None }
    }

    pub fn outcome(&self) -> io::Result<u64> {
        if self.result < 0 {
            Err(io::Error::from_raw_os_error(-self.result))
        } else {
            Ok(self.result as u64)
        }
    }
}

pub struct Ring {
    ring: IoUring,
    buffers: ReceiveBuffers,
    zeroes: AlignedBuffer,
    has_min_wait: bool,
    batch_wait_us: u32,
    /// Sends handed in since the last wait: they mostly complete at once and are no news.
    sends: usize,
    timespec: Box<Timespec>,
}

impl Ring {
    /// Sets the ring up, or says in one line what to do about it.
    pub fn new(batch_wait_us: u32) -> Result<Self, String> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)
            .map_err(|error| explain_setup(&error))?;
        let buffers = ReceiveBuffers::new(&ring).map_err(|error| {
            format!("io_uring refuses receive buffers ({error}): zdb needs Linux 6.1")
        })?;
        let has_min_wait = ring.params().is_feature_min_timeout();
        let zeroes = AlignedBuffer::new(crate::limits::ZERO_UNIT_BYTES as usize);
        Ok(Self {
            ring,
            buffers,
            zeroes,
            has_min_wait,
            batch_wait_us,
            sends: 0,
            timespec: Box::default(),
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every caller below hands in memory that lives until the completion, as its own
            // comment says.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(error) = self.ring.submit() {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN)),
                    "io_uring takes no submissions: {error}"
                );
            }
        }
    }

    pub fn accept(&mut self, listener: RawFd, key: u64) {
        let entry = opcode::AcceptMulti::new(Fd(listener))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(user_data(Kind::Accept, key));
        self.push(&entry);
    }

    /// Receives into buffers of the ring until it is cancelled or ends.
    pub fn receive(&mut self, socket: RawFd, key: u64) {
        let entry = opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP)
            .build()
            .user_data(user_data(Kind::Receive, key));
        self.push(&entry);
    }

    /// Receives once, and no more than so many bytes.
    pub fn receive_at_most(&mut self, socket: RawFd, key: u64, length: usize) {
        let length = length.min(BUFFER_BYTES) as u32;
        let entry = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), length)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(user_data(Kind::Receive, key));
        self.push(&entry);
    }

    pub fn cancel_receive(&mut self, key: u64) {
        let entry = opcode::AsyncCancel::new(user_data(Kind::Receive, key))
            .build()
            .user_data(user_data(Kind::Cancel, key));
        self.push(&entry);
    }

    /// Sends bytes that must stay where they are until the completion.
    pub fn send(
        &mut self,
        socket: RawFd,
        key: u64,
        (bytes, length): (*const u8, usize),
        until: Until,
    ) {
        let length = length.min(i32::MAX as usize) as u32;
        let entry = opcode::Send::new(Fd(socket), bytes, length)
            .flags(until.flags())
            .build()
            .user_data(user_data(Kind::Send, key));
        self.sends += 1;
        self.push(&entry);
    }

    /// Sends the slices of a message; message, slices and bytes must stay until the completion.
    pub fn send_message(
        &mut self,
        socket: RawFd,
        key: u64,
        message: *const libc::msghdr,
        until: Until,
    ) {
        let entry = opcode::SendMsg::new(Fd(socket), message)
            .flags(until.flags() as u32)
            .build()
            .user_data(user_data(Kind::Send, key));
        self.sends += 1;
        self.push(&entry);
    }

    /// The same, but not before the socket says that it has room.
    pub fn send_last(&mut self, socket: RawFd, key: u64, message: *const libc::msghdr) {
        let entry = opcode::SendMsg::new(Fd(socket), message)
            .ioprio(RECVSEND_POLL_FIRST)
            .flags(Until::Some.flags() as u32)
            .build()
            .user_data(user_data(Kind::Send, key));
        self.push(&entry);
    }

    /// Writes bytes that must stay as they are until the completion.
    pub fn write(
        &mut self,
        file: RawFd,
        token: u64,
        offset: u64,
        bytes: *const u8,
        length: u32,
        durable: bool,
    ) {
        let entry = opcode::Write::new(Fd(file), bytes, length)
            .offset(offset)
            .rw_flags(if durable { RWF_DSYNC } else { 0 })
            .build()
            .user_data(user_data(Kind::Disk, token));
        self.push(&entry);
    }

    pub fn write_zeroes(&mut self, file: RawFd, token: u64, offset: u64, length: u32) {
        assert!(length as usize <= self.zeroes.len());
        let bytes = self.zeroes.as_ptr();
        self.write(file, token, offset, bytes, length, false);
    }

    /// Reads into memory that must stay until the completion.
    pub fn read(&mut self, file: RawFd, token: u64, offset: u64, bytes: *mut u8, length: u32) {
        let entry = opcode::Read::new(Fd(file), bytes, length)
            .offset(offset)
            .build()
            .user_data(user_data(Kind::Disk, token));
        self.push(&entry);
    }

    pub fn sync(&mut self, file: RawFd, token: u64) {
        let entry = opcode::Fsync::new(Fd(file))
            .flags(FsyncFlags::DATASYNC)
            .build()
            .user_data(user_data(Kind::Disk, token));
        self.push(&entry);
    }

    /// Reads from a descriptor that signals something; the memory must stay until the completion.
    pub fn read_event(&mut self, file: RawFd, kind: Kind, bytes: *mut u8, length: u32) {
        let entry = opcode::Read::new(Fd(file), bytes, length)
            .offset(u64::MAX)
            .build()
            .user_data(user_data(kind, 0));
        self.push(&entry);
    }

    /// Completes after a time, once. A timer of its own instead of a timeout of each wait: setting one
    /// up costs the kernel more than half a microsecond.
    pub fn timer(&mut self, after_ms: u64) {
        *self.timespec =
            Timespec::new().sec(after_ms / 1000).nsec((after_ms % 1000) as u32 * 1_000_000);
        let entry = opcode::Timeout::new(&raw const *self.timespec)
            .build()
            .user_data(user_data(Kind::Timer, 0));
        self.push(&entry);
        // The kernel reads the time when the entry is handed in, so the memory can be used again.
        let _ = self.ring.submit();
    }

    /// Hands everything in and waits for `batch` completions, but not much longer than for one. Sends
    /// that were just handed in are not counted. With a batch of zero it does not wait at all.
    pub fn wait(&mut self, batch: usize) -> io::Result<()> {
        let sends = std::mem::take(&mut self.sends);
        let want = if batch == 0 { 0 } else { batch + sends };
        let mut args = SubmitArgs::new();
        if self.has_min_wait && want > 1 {
            args = args.min_wait_usec(self.batch_wait_us);
        }
        let want = if self.has_min_wait { want } else { batch.min(1) };
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    pub fn take_events(&mut self, out: &mut Vec<Event>) {
        for entry in self.ring.completion() {
            let (data, flags) = (entry.user_data(), entry.flags());
            out.push(Event {
                kind: Kind::from_byte((data >> KEY_BITS) as u8),
                key: data & ((1 << KEY_BITS) - 1),
                result: entry.result(),
                more: cqueue::more(flags),
                buffer: cqueue::buffer_select(flags),
            });
        }
    }

    /// The bytes that a receive put into a buffer.
    pub fn received(&self, buffer: u16, length: usize) -> &[u8] {
        self.buffers.bytes(buffer, length)
    }

    /// Gives a buffer back to the kernel.
    pub fn recycle(&mut self, buffer: u16) {
        self.buffers.give(buffer);
    }
}

fn explain_setup(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "allow it with `sysctl kernel.io_uring_disabled=0`, or in the container's seccomp profile"
        }
        Some(libc::ENOSYS) => "the kernel was built without it, or seccomp hides it",
        Some(libc::EINVAL) => "zdb needs Linux 6.1 or newer",
        Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l)",
        _ => "zdb needs Linux 6.1 or newer with io_uring",
    };
    format!("the kernel refuses io_uring ({error}): {remedy}")
}

/// A ring of buffers from which the kernel takes one for each receive.
struct ReceiveBuffers {
    entries: AlignedBuffer,
    memory: AlignedBuffer,
    tail: u16,
}

impl ReceiveBuffers {
    fn new(ring: &IoUring) -> io::Result<Self> {
        let mut entries =
            AlignedBuffer::new(usize::from(BUFFERS) * std::mem::size_of::<BufRingEntry>());
        let memory = AlignedBuffer::new(usize::from(BUFFERS) * BUFFER_BYTES);
        let address = entries.as_mut_pointer() as u64;
        // SAFETY: page-aligned memory of that many entries, which lives as long as the ring: both
        // belong to one `Ring`, and the entries are dropped after the ring itself.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, BUFFERS, BUFFER_GROUP, 0)?;
        }
        let mut buffers = Self { entries, memory, tail: 0 };
        for buffer in 0..BUFFERS {
            buffers.give(buffer);
        }
        Ok(buffers)
    }

    fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        &self.memory[usize::from(buffer) * BUFFER_BYTES..][..length]
    }

    fn give(&mut self, buffer: u16) {
        let at = usize::from(self.tail % BUFFERS);
        let base: *mut BufRingEntry = self.entries.as_mut_pointer().cast();
        let address = self.memory[usize::from(buffer) * BUFFER_BYTES..].as_ptr();
        // SAFETY: `at` is below the number of entries. The kernel reads an entry only after the tail
        // has moved past it, and the tail (the unused last field of the first entry) is only written
        // here.
        unsafe {
            let entry = &mut *base.add(at);
            entry.set_addr(address as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}
