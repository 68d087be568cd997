//! What the process asks of the kernel for itself: signals, randomness, limits, memory.

use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};

/// A line for the operator. Where nobody reads it any more it is dropped: a closed pipe must not stop
/// the server.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The same about something that is not as it should be.
pub fn warn(line: &str) {
    let _ = writeln!(io::stderr().lock(), "zdb: {line}");
}

/// Keeps SIGTERM and SIGINT for the loop. Before any thread is started, so that all inherit it.
pub fn block_signals() -> Result<OwnedFd, String> {
    // SAFETY: plain data on the stack, and a descriptor that is checked before it is owned.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let descriptor = libc::signalfd(-1, &set, libc::SFD_CLOEXEC);
        if descriptor < 0 {
            return Err(format!("cannot receive signals: {}", io::Error::last_os_error()));
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Random bytes from the kernel.
pub fn fill_random(bytes: &mut [u8]) {
    // SAFETY: a live buffer of that length; requests of up to 256 bytes are filled as a whole.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert!(filled == bytes.len() as isize, "the kernel gives no random bytes");
}

/// The start took more memory than the server needs: glibc keeps it unless told otherwise.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only gives free pages back.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every client and every segment is an open file: as many as the administrator allows. Returns how many
/// that are.
pub fn raise_open_files() -> u64 {
    // SAFETY: plain data on the stack.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return u64::MAX;
        }
        let allowed = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 { limit.rlim_max } else { allowed }
    }
}

/// How many files are open now.
pub fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}
