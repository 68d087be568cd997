//! The server as a process: its binary, its directories, its signals, its log lines.

use crate::args;
use crate::client::Client;
use crate::reply::Reply;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A start that takes longer has hung.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A stop that takes longer has hung.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
/// Others are answered within this time; a slow machine has its share in it.
const OTHERS_TIME_MAX: Duration = Duration::from_secs(2);
/// The server prints this and its address once it serves.
const READY: &str = "zdb ready on ";
/// Segment size unless a test asks for another: files stay small, rotation stays rare.
const DATASIZE_DEFAULT: &str = "33554432";

/// The binary under test: `ZDB_BIN`, or the one that cargo builds in the profile of this test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("ZDB_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "ZDB_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// `target/<profile>`, where this test program lives too.
pub fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its own path");
    let dir = program.parent().expect("a program lives in a directory");
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.parent().expect("it lives in target").into()
    } else {
        dir.into()
    }
}

/// Cargo decides whether the binary is fresh: a test of yesterday's server would prove nothing.
fn build() -> PathBuf {
    let profile_dir = profile_dir();
    let target_dir = profile_dir.parent().expect("the profile lives in target");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "zdb", "--bin", "zdb", "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(workspace_dir().join("Cargo.toml"))
        .status()
        .expect("cargo runs");
    assert!(
        status.success(),
        "the server does not build: run `cargo build -p zdb`, or set ZDB_BIN"
    );
    profile_dir.join("zdb")
}

/// The root of the repository.
pub fn workspace_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("compat-tests lives in the workspace")
}

/// A directory of its own on the disk that holds the build: not /tmp, which may be memory.
pub fn scratch_dir() -> TempDir {
    let base = profile_dir().parent().expect("the profile lives in target").join("tmp");
    std::fs::create_dir_all(&base).expect("target/tmp can be created");
    tempfile::Builder::new().prefix("zdb-test-").tempdir_in(base).expect("a scratch directory")
}

/// Where the write buffer lives that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// A directory under /dev/shm that goes with the server: a killed server leaves nothing behind.
    Private,
    /// `--buffer none`.
    None,
    /// No flag at all: the server's own choice. Such a server must be stopped, not killed.
    Default,
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    flags: Vec<String>,
    home: Option<PathBuf>,
    buffer: Buffer,
    port: bool,
}

impl Setup {
    pub fn new() -> Setup {
        Setup { flags: Vec::new(), home: None, buffer: Buffer::Private, port: true }
    }

    pub fn flags<S: AsRef<str>>(mut self, flags: &[S]) -> Setup {
        self.flags.extend(flags.iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Puts `data` and `index` into this directory, which stays when the server is dropped.
    pub fn home(mut self, home: &Path) -> Setup {
        self.home = Some(home.into());
        self
    }

    pub fn buffer(mut self, buffer: Buffer) -> Setup {
        self.buffer = buffer;
        self
    }

    /// Leaves `--listen` and `--port` out, for a server on a unix socket.
    pub fn without_port(mut self) -> Setup {
        self.port = false;
        self
    }

    /// Starts the server; panics with its log where it does not serve.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(refusal) => panic!("the server did not start: {refusal:?}"),
        }
    }

    /// Starts the server, or says how it refused.
    pub fn try_start(self) -> Result<Server, Refusal> {
        let mut server = self.prepare();
        server.try_resume()?;
        Ok(server)
    }

    /// Starts the server and does not wait until it serves: for one whose lines go to a file.
    pub fn start_unready(self) -> Server {
        let mut server = self.prepare();
        server.resume_unready();
        server
    }

    fn prepare(self) -> Server {
        let scratch = self.home.is_none().then(scratch_dir);
        let home = match (&self.home, &scratch) {
            (Some(home), _) => home.clone(),
            (None, Some(scratch)) => scratch.path().into(),
            (None, None) => unreachable!("a scratch directory stands in for a missing home"),
        };
        let buffer = (self.buffer == Buffer::Private).then(|| {
            tempfile::Builder::new()
                .prefix("zdb-test-")
                .tempdir_in("/dev/shm")
                .expect("/dev/shm takes a directory")
        });
        Server {
            setup: self,
            home,
            buffer,
            scratch,
            child: None,
            address: None,
            log: Arc::new(Mutex::new(Vec::new())),
        }
    }
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

/// A server that ended before it served.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub log: Vec<String>,
}

pub struct Server {
    setup: Setup,
    home: PathBuf,
    buffer: Option<TempDir>,
    scratch: Option<TempDir>,
    child: Option<Child>,
    address: Option<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// A server in a directory of its own, with these flags.
    #[track_caller]
    pub fn start<S: AsRef<str>>(flags: &[S]) -> Server {
        Setup::new().flags(flags).start()
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("the server listens on TCP")
    }

    /// Where it serves TLS.
    #[track_caller]
    pub fn tls_address(&self) -> SocketAddr {
        let log = self.log();
        let ready = log.iter().rev().find(|line| line.contains(READY)).expect("it is ready");
        let place = ready.split(READY).nth(1).and_then(|places| places.split(" (TLS)").next());
        let place =
            place.filter(|_| ready.contains("(TLS)")).and_then(|p| p.split(' ').next_back());
        place.and_then(|place| place.parse().ok()).expect("the server listens for TLS")
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        match Client::connect(self.address()) {
            Ok(client) => client,
            Err(error) => {
                panic!("no connection to {}: {error}; log: {:#?}", self.address(), self.log())
            }
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn index_dir(&self) -> PathBuf {
        self.home.join("index")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// All lines that the server printed since it was first started, stdout and stderr.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no reader of the log panics").clone()
    }

    /// Waits for a log line that satisfies `wanted`.
    #[track_caller]
    pub fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let found = poll(REPORT_TIME_MAX, || self.log().into_iter().find(|line| wanted(line)));
        match found {
            Some(line) => line,
            None => panic!("no line about {what} in the log: {:#?}", self.log()),
        }
    }

    /// A connection of its own writes and is answered, while somebody else misbehaves.
    #[track_caller]
    pub fn ask_others(&self) {
        let started = Instant::now();
        let mut other = self.connect();
        let value = other.call(args!["TIME"]).into_array().remove(1).into_bytes();
        let reply = other.call(args!["SET", "others", value]);
        assert!(matches!(reply, Reply::Bulk(_) | Reply::Nil), "SET of another client: {reply:?}");
        let elapsed = started.elapsed();
        assert!(elapsed < OTHERS_TIME_MAX, "others wait {elapsed:?}");
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the server runs");
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has VmRSS");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is a number");
        kib * 1024
    }

    /// Open file descriptors.
    pub fn descriptor_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// `kill -9`; returns when the process is gone. No effect on a server that has ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// `kill -9` from another thread, while this one goes on; follow with [`Server::kill`].
    /// As when the machine loses its power: what was in memory is gone. The process must have ended.
    pub fn lose_buffer(&self) {
        let buffer = self.buffer.as_ref().expect("a buffer of its own");
        for entry in std::fs::read_dir(buffer.path()).expect("the directory is there") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("our own file");
        }
    }

    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let pid = self.process_id();
        move || {
            // The child is not yet waited for, so the id is still its own.
            kill_process(pid, Signal::KILL).expect("our own child can be killed");
        }
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM)
    }

    /// SIGINT, then waits for the end.
    #[track_caller]
    pub fn interrupt(&mut self) -> ExitStatus {
        self.signal(Signal::INT)
    }

    #[track_caller]
    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill_process(self.process_id(), signal).expect("our own child takes signals");
        self.wait()
    }

    /// Waits for the end of a server that was asked to stop.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the server runs");
        let status =
            poll(STOP_TIME_MAX, || child.try_wait().expect("our own child can be waited for"));
        match status {
            Some(status) => {
                self.child = None;
                status
            }
            None => panic!("the server does not stop; log: {:#?}", self.log()),
        }
    }

    fn process_id(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the server runs"))
    }

    /// Starts again on the same directories.
    #[track_caller]
    pub fn resume(&mut self) {
        if let Err(refusal) = self.try_resume() {
            panic!("the server did not start again: {refusal:?}");
        }
    }

    /// Other flags from the next start on.
    pub fn set_flags<S: AsRef<str>>(&mut self, flags: &[S]) {
        self.setup.flags = flags.iter().map(|flag| flag.as_ref().to_owned()).collect();
    }

    /// Starts again on the same directories, or says how the server refused.
    pub fn try_resume(&mut self) -> Result<(), Refusal> {
        assert!(self.child.is_none(), "the server runs already");
        let (child, lines) = self.spawn();
        self.child = Some(child);
        self.wait_until_ready(lines)
    }

    /// Starts again and does not wait until it serves: for a kill during recovery.
    pub fn resume_unready(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        self.child = Some(self.spawn().0);
    }

    /// Starts a second server on the same directories while the first runs; it must refuse.
    pub fn start_second(&self) -> Refusal {
        let (mut child, lines) = self.spawn();
        let deadline = Instant::now() + START_TIME_MAX;
        let mut log = Vec::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let served = line.contains(READY);
                    log.push(line);
                    if served {
                        child.kill().expect("our own child can be killed");
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill().expect("our own child can be killed");
                    break;
                }
            }
        }
        let status = child.wait().expect("our own child can be waited for");
        Refusal { code: status.code(), log }
    }

    fn spawn(&self) -> (Child, Receiver<String>) {
        let mut command = Command::new(binary());
        command.arg("--data").arg(self.data_dir()).arg("--index").arg(self.index_dir());
        if self.setup.port {
            command.args(["--listen", "127.0.0.1", "--port", "0"]);
        }
        match (&self.setup.buffer, &self.buffer) {
            (Buffer::None, _) => drop(command.args(["--buffer", "none"])),
            (Buffer::Private, Some(dir)) => drop(command.arg("--buffer").arg(dir.path())),
            _ => {}
        }
        if !self.setup.flags.iter().any(|flag| flag == "--datasize") {
            command.args(["--datasize", DATASIZE_DEFAULT]);
        }
        if let Some(threads) = std::env::var_os("ZDB_TEST_THREADS")
            && !self.setup.flags.iter().any(|flag| flag == "--threads")
        {
            command.arg("--threads").arg(threads).args(["--threads-busy", "0"]);
        }
        command.args(&self.setup.flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not run: {error}", binary().display()));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let sources: [Box<dyn std::io::Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
        for source in sources {
            let (sender, log) = (sender.clone(), self.log.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    log.lock().expect("no reader of the log panics").push(line.clone());
                    // Nobody listens any more once the server is ready.
                    let _ = sender.send(line);
                }
            });
        }
        (child, lines)
    }

    fn wait_until_ready(&mut self, lines: Receiver<String>) -> Result<(), Refusal> {
        let deadline = Instant::now() + START_TIME_MAX;
        let mut log = Vec::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(place) = line.split(READY).nth(1) {
                        self.address =
                            place.split_whitespace().next().and_then(|place| place.parse().ok());
                        return Ok(());
                    }
                    log.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let mut child = self.child.take().expect("it was spawned");
                    let status = child.wait().expect("our own child can be waited for");
                    return Err(Refusal { code: status.code(), log });
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    log.push(format!("(killed by the test: not ready after {START_TIME_MAX:?})"));
                    return Err(Refusal { code: None, log });
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking()
                && let Ok(Some(status)) = child.try_wait()
            {
                eprintln!("the server had ended by itself: {status}");
            }
            // There is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            // Its last words may still be in the pipe.
            std::thread::sleep(LAST_WORDS_TIME);
            let log = self.log();
            eprintln!("the server's last lines: {:#?}", &log[log.len().saturating_sub(20)..]);
            if std::env::var_os("ZDB_KEEP").is_some() {
                for dir in [&mut self.scratch, &mut self.buffer].into_iter().flatten() {
                    dir.disable_cleanup(true);
                    eprintln!("kept: {}", dir.path().display());
                }
            }
        }
    }
}

/// How long a server's last lines may take from its pipe to its log here.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);
/// A report that takes longer is missing.
const REPORT_TIME_MAX: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Looks again and again until the condition holds or the time is up.
pub fn poll<T>(time_max: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
