//! Leaving the terminal, and the file that the lines for the operator go to instead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a SIGHUP asks for.
pub enum HangUp {
    /// The log file was moved away: a new one is begun.
    Reopen(LogFile),
    /// The terminal of a server that has left it is gone.
    Ignore,
    /// The terminal of the server is gone.
    Stop,
}

/// `--logfile`, as standard output and standard error.
pub struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// From here on all lines go to the file. A path that stays right when the directory changes.
    pub fn begin(path: &Path, truncate: bool) -> Result<Self, String> {
        let log = Self { path: path.into() };
        log.open(truncate)?;
        Ok(log)
    }

    /// Goes on in a file of the same name, which is made where it is missing.
    pub fn reopen(&self) -> Result<(), String> {
        self.open(false)
    }

    fn open(&self, truncate: bool) -> Result<(), String> {
        let explain = |error| format!("cannot write the log file {}: {error}", self.path.display());
        // Never both in one call: the hooks write to it too, and all lines go to its end.
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path);
        let file = file.map_err(explain)?;
        if truncate {
            file.set_len(0).map_err(explain)?;
        }
        replace(&file, &[libc::STDOUT_FILENO, libc::STDERR_FILENO]).map_err(explain)
    }
}

/// Puts a file in the place of descriptors.
fn replace(file: &File, places: &[RawFd]) -> io::Result<()> {
    for place in places {
        // SAFETY: dup2 on open descriptors touches no memory.
        if unsafe { libc::dup2(file.as_raw_fd(), *place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where the lines went at first: what keeps a server from starting is said there.
pub struct Terminal {
    output: File,
    error: File,
}

impl Terminal {
    pub fn keep() -> Result<Self, String> {
        let explain = |error| format!("cannot keep the terminal: {error}");
        let copy = |descriptor: io::Result<OwnedFd>| descriptor.map(File::from).map_err(explain);
        Ok(Self {
            output: copy(io::stdout().as_fd().try_clone_to_owned())?,
            error: copy(io::stderr().as_fd().try_clone_to_owned())?,
        })
    }

    pub fn warn(&mut self, line: &str) {
        // Where nobody reads, nobody is told.
        let _ = writeln!(self.error, "zdb: {line}");
    }
}

/// The two sides of a fork.
pub enum Forked {
    Parent(Parent),
    Child(Child),
}

/// The process that was started, and only waits for the other to say that it serves.
pub struct Parent {
    child: libc::pid_t,
    word: File,
}

/// The process that serves.
pub struct Child {
    word: File,
}

/// Makes the process that goes on without the terminal. Before any thread, ring or timer exists: none of
/// them would come along.
/// `inherited` are descriptors that whoever started us has left open: the child closes them, so that
/// nobody waits for their end.
pub fn fork(inherited: &[RawFd]) -> Result<Forked, String> {
    let explain = |error| format!("cannot go to the background: {error}");
    let (reader, writer) = io::pipe().map_err(explain)?;
    // SAFETY: this process has one thread, so the child is whole.
    match unsafe { libc::fork() } {
        -1 => Err(explain(io::Error::last_os_error())),
        0 => {
            drop(reader);
            // A session of its own: the terminal's signals do not come here any more.
            // SAFETY: setsid touches no memory.
            unsafe { libc::setsid() };
            for descriptor in inherited {
                // SAFETY: nobody in this program knows of them.
                unsafe { libc::close(*descriptor) };
            }
            Ok(Forked::Child(Child { word: OwnedFd::from(writer).into() }))
        }
        child => Ok(Forked::Parent(Parent { child, word: OwnedFd::from(reader).into() })),
    }
}

impl Parent {
    /// Says who serves, and ends without tidying up: everything belongs to the child now.
    pub fn finish(mut self, terminal: Option<&mut Terminal>) -> ! {
        let mut word = [0];
        // The pipe ends with the child, so this never waits for nothing.
        let serves = self.word.read_exact(&mut word).is_ok();
        if let Some(terminal) = terminal.filter(|_| serves) {
            let _ = writeln!(terminal.output, "pid: {}", self.child);
        }
        // SAFETY: ends the process; nothing is run on the way.
        unsafe { libc::_exit(if serves { 0 } else { 1 }) }
    }
}

impl Child {
    /// Lets go of the terminal and of the directory that it was started in, and tells the parent.
    pub fn detach(mut self, has_log: bool) -> Result<(), String> {
        let explain = |error| format!("cannot leave the terminal: {error}");
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(explain)?;
        let all = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];
        replace(&null, if has_log { &all[..1] } else { &all }).map_err(explain)?;
        std::env::set_current_dir("/").map_err(explain)?;
        self.word.write_all(&[1]).map_err(explain)
    }
}
