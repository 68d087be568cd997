//! Another program as a child: started without a shell, waited for without a signal.
//!
//! The child gets our output, /dev/null as its input, no blocked signal, a process group of its own (a
//! Ctrl-C at our terminal is not meant for it) and no other descriptor: all of ours are closed on exec.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a child is looked at whose end cannot be heard.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub struct Program {
    path: CString,
    /// `NAME=value`, as it was when the server started.
    environment: Vec<CString>,
}

/// A child that was not waited for yet.
pub struct Child {
    pub pid: libc::pid_t,
    /// Readable once the child has ended. None: no descriptor was free, so it is looked for now and then.
    end: Option<OwnedFd>,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// With its exit status, or 128 and the number of the signal that ended it.
    Ended(i32),
    TimeOut,
    /// The other descriptor has something to read.
    Interrupted,
}

impl Program {
    pub fn new(path: &Path) -> Result<Self, String> {
        let environment = std::env::vars_os().map(|(name, value)| {
            let mut text = name.as_bytes().to_vec();
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
            terminated(&text)
        });
        let environment = environment.collect();
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(format!("{} is no path", path.display()));
        }
        Ok(Self { path: terminated(path.as_os_str().as_bytes()), environment })
    }

    pub fn path(&self) -> &OsStr {
        OsStr::from_bytes(self.path.as_bytes())
    }

    /// The words of a call with these arguments, for `exec`.
    pub fn words<A: AsRef<[u8]>>(&self, arguments: impl IntoIterator<Item = A>) -> Vec<CString> {
        let arguments = arguments.into_iter().map(|argument| terminated(argument.as_ref()));
        std::iter::once(self.path.clone()).chain(arguments).collect()
    }

    pub fn environment(&self) -> &[CString] {
        &self.environment
    }

    /// Starts it. Not with fork: a copy of our page tables would stall the loop.
    pub fn start<A: AsRef<[u8]>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Child> {
        let words = self.words(arguments);
        let (words, environment) = (pointers(&words), pointers(&self.environment));
        let check = |code: libc::c_int| match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        };
        let mut pid = 0;
        // SAFETY: plain data on the stack, initialised and destroyed by the calls made for it; the
        // words and the environment are terminated lists of terminated strings that outlive the call.
        unsafe {
            let mut attributes: libc::posix_spawnattr_t = std::mem::zeroed();
            let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
            let mut signals: libc::sigset_t = std::mem::zeroed();
            check(libc::posix_spawnattr_init(&mut attributes))?;
            check(libc::posix_spawn_file_actions_init(&mut actions))?;
            libc::sigemptyset(&mut signals);
            libc::posix_spawnattr_setsigmask(&mut attributes, &signals);
            // The runtime of Rust ignores it, and programs expect it as it is by default.
            libc::sigaddset(&mut signals, libc::SIGPIPE);
            libc::posix_spawnattr_setsigdefault(&mut attributes, &signals);
            let flags = libc::POSIX_SPAWN_SETSIGMASK
                | libc::POSIX_SPAWN_SETSIGDEF
                | libc::POSIX_SPAWN_SETPGROUP;
            libc::posix_spawnattr_setflags(&mut attributes, flags as libc::c_short);
            libc::posix_spawnattr_setpgroup(&mut attributes, 0);
            let null = c"/dev/null".as_ptr();
            libc::posix_spawn_file_actions_addopen(&mut actions, 0, null, libc::O_RDONLY, 0);
            let path = self.path.as_ptr();
            let code = libc::posix_spawn(
                &mut pid,
                path,
                &actions,
                &attributes,
                words.as_ptr(),
                environment.as_ptr(),
            );
            libc::posix_spawn_file_actions_destroy(&mut actions);
            libc::posix_spawnattr_destroy(&mut attributes);
            check(code)?;
        }
        // SAFETY: a system call without memory; the descriptor is checked before it is owned. The id is
        // the child's as long as nobody has waited for it.
        let end = unsafe {
            let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd;
            (descriptor >= 0).then(|| OwnedFd::from_raw_fd(descriptor))
        };
        Ok(Child { pid, end })
    }
}

impl Child {
    /// For `poll`, which skips a negative one.
    pub fn end(&self) -> RawFd {
        self.end.as_ref().map_or(-1, OwnedFd::as_raw_fd)
    }

    /// When to look at it even if nothing was heard, at `until` at the latest.
    pub fn look_at(&self, until: Option<Instant>) -> Option<Instant> {
        if self.end.is_some() {
            return until;
        }
        let soon = Instant::now() + LOOK_AGAIN;
        Some(until.map_or(soon, |until| until.min(soon)))
    }

    /// The status of a child that has ended; takes it off the kernel's list.
    pub fn ended(&self) -> Option<i32> {
        let mut status = 0;
        // SAFETY: a live integer.
        let found = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        if found == 0 {
            return None;
        }
        if found < 0 {
            // Somebody else has waited for it: nobody knows how it ended.
            return Some(128);
        }
        Some(if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            128 + libc::WTERMSIG(status)
        })
    }

    /// Waits for its end, but not beyond a time, and not once there is something to read elsewhere.
    pub fn wait(&self, until: Option<Instant>, other: RawFd) -> Waited {
        loop {
            if let Some(status) = self.ended() {
                return Waited::Ended(status);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Waited::TimeOut;
            }
            let ready = poll(&[self.end(), other], self.look_at(until));
            if ready[1] && !ready[0] {
                return Waited::Interrupted;
            }
        }
    }
}

/// Waits until one of the descriptors has something to read or a time is there, and tells which have.
pub fn poll(descriptors: &[RawFd], until: Option<Instant>) -> Vec<bool> {
    let mut entries: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let timeout_ms = until.map_or(-1, |until| {
        let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
        left.min(i32::MAX as u128) as libc::c_int
    });
    // SAFETY: a live array of that length.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) };
    entries.iter().map(|entry| entry.revents != 0).collect()
}

/// For `exec`: what is behind a zero byte would be lost anyway.
fn terminated(text: &[u8]) -> CString {
    let length = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    CString::new(&text[..length]).expect("zero bytes were cut off")
}

/// A list of strings as C has them; it must not outlive the strings.
pub fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let all = strings.iter().map(|string| string.as_ptr().cast_mut());
    all.chain([std::ptr::null_mut()]).collect()
}
