//! What the process asks of the kernel for itself: signals, randomness, limits, memory.

use crate::command::ProcessUsage;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A line for the operator. Where nobody reads it it is dropped: neither a closed pipe nor a full one may
/// stop the server.
pub fn say(line: &str) {
    if takes_a_line(libc::STDOUT_FILENO) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// The same about something that is not as it should be.
pub fn warn(line: &str) {
    if takes_a_line(libc::STDERR_FILENO) {
        let _ = writeln!(io::stderr().lock(), "zdb: {line}");
    }
}

/// A pipe that can be written to has room for 4096 bytes, more than nearly every line.
fn takes_a_line(descriptor: RawFd) -> bool {
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one live entry, and no waiting.
    unsafe { libc::poll(&mut entry, 1, 0) != 0 }
}

/// What whoever started us left open beside the three standard ones. Programs that we start do not get
/// it. Called before anything of ours is open.
pub fn inherited_descriptors() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let numbers: Vec<RawFd> = names.filter_map(|name| name.parse().ok()).collect();
    // The directory itself was among them, and is closed by now.
    // SAFETY: fcntl touches no memory.
    let is_open = |number: &RawFd| unsafe {
        *number > libc::STDERR_FILENO && libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) == 0
    };
    numbers.into_iter().filter(is_open).collect()
}

/// What a read of the descriptor of signals gives, in bytes.
pub const SIGNAL_INFO_BYTES: usize = std::mem::size_of::<libc::signalfd_siginfo>();

/// Keeps SIGTERM and SIGINT for the loop, and SIGHUP where it has a meaning. Before any thread is
/// started, so that all inherit it.
pub fn block_signals(hang_up: bool) -> Result<OwnedFd, String> {
    // SAFETY: plain data on the stack, and a descriptor that is checked before it is owned.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        if hang_up {
            libc::sigaddset(&mut set, libc::SIGHUP);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let descriptor = libc::signalfd(-1, &heard(false), libc::SFD_CLOEXEC);
        if descriptor < 0 {
            return Err(format!("cannot receive signals: {}", io::Error::last_os_error()));
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Whether a SIGHUP that `block_signals` keeps is told, or waits.
pub fn hear_hang_up(signals: &OwnedFd, yes: bool) {
    // SAFETY: plain data on the stack, and our own descriptor.
    unsafe { libc::signalfd(signals.as_raw_fd(), &heard(yes), 0) };
}

fn heard(hang_up: bool) -> libc::sigset_t {
    // SAFETY: plain data on the stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        if hang_up {
            libc::sigaddset(&mut set, libc::SIGHUP);
        }
        set
    }
}

/// Which signal the bytes that were read are about.
pub fn signal_number(info: &[u8; SIGNAL_INFO_BYTES]) -> i32 {
    i32::from_ne_bytes([info[0], info[1], info[2], info[3]])
}

/// The signal that came, taken without the loop.
pub fn take_signal(signals: &OwnedFd) -> i32 {
    let mut info = [0; SIGNAL_INFO_BYTES];
    // SAFETY: an open descriptor and a live buffer of that length.
    let read =
        unsafe { libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast(), SIGNAL_INFO_BYTES) };
    if read == SIGNAL_INFO_BYTES as isize { signal_number(&info) } else { libc::SIGTERM }
}

/// Whether whoever started us wants us to outlive the terminal, as `nohup` does.
pub fn ignores_hang_up() -> bool {
    // SAFETY: plain data on the stack, filled by the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut action);
        action.sa_sigaction == libc::SIG_IGN
    }
}

/// Random bytes from the kernel.
pub fn fill_random(bytes: &mut [u8]) {
    // SAFETY: a live buffer of that length; requests of up to 256 bytes are filled as a whole.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert!(filled == bytes.len() as isize, "the kernel gives no random bytes");
}

/// Nanoseconds of the clock that never goes back.
pub fn clock_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live structure; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Microseconds that the processors were idle which this process may use, all together; by /proc/stat, which counts
/// hundredths of a second. 0 where it cannot be read.
pub fn idle_time_us() -> u64 {
    // SAFETY: plain data, for which zeroes are valid.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let bytes = size_of_val(&allowed);
    // SAFETY: a live structure of that length.
    if unsafe { libc::sched_getaffinity(0, bytes, &raw mut allowed) } != 0 {
        return 0;
    }
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let idle_of = |line: &str| -> Option<u64> {
        let mut words = line.strip_prefix("cpu")?.split(' ');
        let number: usize = words.next()?.parse().ok()?;
        // SAFETY: the structure was filled, and the number lies in it.
        let is_allowed = number < 8 * bytes && unsafe { libc::CPU_ISSET(number, &allowed) };
        // user, nice, system, idle, iowait
        let mut idle = words.skip(3).take(2).map_while(|word| word.parse::<u64>().ok());
        is_allowed.then(|| idle.by_ref().sum())
    };
    text.lines().filter_map(idle_of).sum::<u64>() * 10_000
}

/// Microseconds that the calling thread has had a processor.
pub fn thread_time_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live structure; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Stops the calling thread.
pub fn sleep_us(us: u64) {
    std::thread::sleep(std::time::Duration::from_micros(us));
}

/// What this process has taken so far.
pub fn usage() -> ProcessUsage {
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let times = |who: libc::c_int| {
        // SAFETY: plain data on the stack, which the kernel fills.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: a live structure; all of `who` are known to Linux.
        unsafe { libc::getrusage(who, &mut usage) };
        (microseconds(usage.ru_utime), microseconds(usage.ru_stime))
    };
    let (user_us, system_us) = times(libc::RUSAGE_SELF);
    let (main_user_us, main_system_us) = times(libc::RUSAGE_THREAD);
    let (children_user_us, children_system_us) = times(libc::RUSAGE_CHILDREN);
    // SAFETY: sysconf only returns numbers.
    let (page_bytes, pages) = unsafe {
        (libc::sysconf(libc::_SC_PAGESIZE) as u64, libc::sysconf(libc::_SC_PHYS_PAGES) as u64)
    };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    ProcessUsage {
        id: std::process::id(),
        allocated_bytes: allocated_bytes(),
        resident_bytes: resident * page_bytes,
        system_memory_bytes: pages * page_bytes,
        user_us,
        system_us,
        main_user_us,
        main_system_us,
        children_user_us,
        children_system_us,
    }
}

/// Bytes that the allocator has handed out.
fn allocated_bytes() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallinfo2 only counts.
    unsafe {
        let info = libc::mallinfo2();
        (info.uordblks + info.hblkhd) as u64
    }
    #[cfg(not(target_env = "gnu"))]
    0
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
