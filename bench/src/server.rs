//! The servers under test: started in an empty directory, pinned, stopped while idle, ended.

use crate::load::Sync;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ten million keys from an AOF take Redis some ten seconds; a slow machine may need many more.
const START_MAX: Duration = Duration::from_secs(600);
const STOP_MAX: Duration = Duration::from_secs(120);
const START_TRIES: usize = 3;
/// How many of its last lines a dead server is quoted with.
const LOG_LINES: usize = 12;

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Zdb,
    Redis,
    Null,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Zdb => "zdb",
            Kind::Redis => "Redis",
            Kind::Null => "null",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub zdb: PathBuf,
    pub redis: PathBuf,
}

/// How to start one server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub kind: Kind,
    pub directory: PathBuf,
    pub sync: Sync,
    pub cache: &'static str,
    /// The core that all its threads start on; none for all cores.
    pub core: Option<usize>,
    /// More flags, for zdb.
    pub flags: Vec<String>,
}

#[derive(Debug)]
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    /// From starting the program to the first PONG.
    pub started_in: Duration,
    child: Child,
    log: PathBuf,
    ended: bool,
}

/// Resident memory, KiB, as /proc/PID/status has it. `resident` includes the shared part.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    pub resident_kib: u64,
    pub shared_kib: u64,
    pub peak_kib: u64,
}

impl Server {
    /// Starts a server and waits until it answers PING. Data that is in the directory is served.
    pub fn start(programs: &Programs, setup: &Setup) -> Result<Server> {
        fs::create_dir_all(&setup.directory)
            .with_context(|| format!("cannot make {}", setup.directory.display()))?;
        let mut tried = 0;
        loop {
            tried += 1;
            let error = match Self::start_once(programs, setup) {
                Ok(server) => return Ok(server),
                Err(error) => error,
            };
            // Between choosing a free port and using it somebody else may take it.
            let busy = format!("{error:#}").to_lowercase().contains("in use");
            if !busy || tried == START_TRIES {
                return Err(error);
            }
        }
    }

    fn start_once(programs: &Programs, setup: &Setup) -> Result<Server> {
        let port = free_port()?;
        let log = setup.directory.join("server.log");
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = command_line(programs, setup, port);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let cores = match setup.core {
            Some(core) => one_core(core)?,
            None => all_cores()?,
        };
        // SAFETY: between fork and exec only two system calls are made, which allocate nothing and
        // take no lock.
        unsafe {
            command.pre_exec(move || {
                // A benchmark that is killed leaves no server behind, not even a stopped one.
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
            });
        }
        let begin = Instant::now();
        let child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server {
            kind: setup.kind,
            address,
            started_in: Duration::ZERO,
            child,
            log,
            ended: false,
        };
        server.wait_until_ready(begin)?;
        server.started_in = begin.elapsed();
        Ok(server)
    }

    fn wait_until_ready(&mut self, begin: Instant) -> Result<()> {
        loop {
            match self.ask(&[b"PING"]) {
                Ok(reply) if reply.starts_with(b"+PONG") => return Ok(()),
                Ok(reply) if reply.starts_with(b"-LOADING") => {}
                // Its constant may be anything.
                Ok(_) if self.kind == Kind::Null => return Ok(()),
                Ok(reply) => bail!(
                    "{} answered PING with {:?}",
                    self.kind.name(),
                    String::from_utf8_lossy(&reply)
                ),
                Err(_) => {
                    if let Some(status) = self.child.try_wait()? {
                        self.ended = true;
                        bail!(
                            "{} ended at its start ({status}); {}",
                            self.kind.name(),
                            self.last_log_lines()
                        );
                    }
                }
            }
            ensure!(
                begin.elapsed() < START_MAX,
                "{} did not answer PING within {} s; {}",
                self.kind.name(),
                START_MAX.as_secs(),
                self.last_log_lines()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends one command on a connection of its own and returns the start of the reply.
    pub fn ask(&self, words: &[&[u8]]) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        let mut reply = vec![0; 1024];
        let count = stream.read(&mut reply)?;
        ensure!(count > 0, "{} closed the connection", self.kind.name());
        reply.truncate(count);
        Ok(reply)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// User and system time of all its threads, those that ended included: the counter behind
    /// utime + stime of /proc/PID/stat, in nanoseconds instead of clock ticks.
    pub fn cpu(&self) -> Result<Duration> {
        let clock: ClockId =
            clock_getcpuclockid(self.pid()).context("cannot reach the server's CPU clock")?;
        Ok(Duration::from(clock_gettime(clock)?))
    }

    pub fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number =
                line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
            number.with_context(|| format!("{path} has no {name}"))
        };
        Ok(Memory {
            resident_kib: field("VmRSS")?,
            shared_kib: field("RssShmem")?,
            peak_kib: field("VmHWM")?,
        })
    }

    /// Bytes that it had written to the disk, or marked as to be written, as the kernel counts them.
    pub fn written_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/io", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let number = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
        number.with_context(|| format!("{path} has no write_bytes"))
    }

    /// Moves threads that the kernel made on another core back to `core`: workers of io_uring do
    /// not inherit the core of the thread they work for.
    pub fn gather_threads(&self, core: usize) -> Result<()> {
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            if let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                // One that just ended, or that the kernel wants where it is, stays as it is.
                let _ = sched_setaffinity(Pid::from_raw(thread), &one_core(core)?);
            }
        }
        Ok(())
    }

    /// An idle server is stopped, so that its timers cost the others nothing.
    pub fn pause(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP)
            .with_context(|| format!("cannot pause {}", self.kind.name()))
    }

    pub fn resume(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGCONT)
            .with_context(|| format!("cannot resume {}", self.kind.name()))
    }

    /// SIGTERM, and waits for the end. Anything but a clean one is an error.
    pub fn stop(mut self) -> Result<()> {
        self.resume()?;
        kill(self.pid(), Signal::SIGTERM)?;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                // zdb ends with 128 + 15 after a clean stop by SIGTERM, as 0-db does.
                let clean = status.success()
                    || status.code() == Some(128 + Signal::SIGTERM as i32)
                    || status.signal() == Some(Signal::SIGTERM as i32);
                ensure!(
                    clean,
                    "{} ended badly ({status}); {}",
                    self.kind.name(),
                    self.last_log_lines()
                );
                return Ok(());
            }
            ensure!(
                begin.elapsed() < STOP_MAX,
                "{} did not end within {} s of SIGTERM; {}",
                self.kind.name(),
                STOP_MAX.as_secs(),
                self.last_log_lines()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Adds to an error what is known of the server: whether it lives, and its last words.
    pub fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        // A process that is about to die may not be dead yet when its connections are.
        std::thread::sleep(Duration::from_millis(200));
        let state = match self.child.try_wait() {
            Ok(Some(status)) => {
                self.ended = true;
                format!("{} died ({status}); {}", self.kind.name(), self.last_log_lines())
            }
            _ => format!("{} still runs; {}", self.kind.name(), self.last_log_lines()),
        };
        anyhow!("{error:#}\n{state}")
    }

    fn last_log_lines(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "it logged nothing".into();
        }
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("its last log lines:\n    {}", last.join("\n    "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended {
            // Only on the way out of an error, which is what the user will read.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn command_line(programs: &Programs, setup: &Setup, port: u16) -> Command {
    let data = setup.directory.join("data");
    let mut command;
    match setup.kind {
        Kind::Zdb | Kind::Null => {
            command = Command::new(&programs.zdb);
            command.arg("--data").arg(data).arg("--index").arg(setup.directory.join("index"));
            command.args(["--listen", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--sync", setup.sync.flag(), "--cache", setup.cache]);
            // Those that a measurement leaves are still going when the next ones come.
            command.args(["--maxclients", "20000"]).args(&setup.flags);
            if setup.kind == Kind::Null {
                command.arg("--null");
            }
        }
        Kind::Redis => {
            command = Command::new(&programs.redis);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
            command.arg("--dir").arg(&setup.directory);
            command.args(["--appendonly", "yes", "--appendfsync", setup.sync.flag(), "--save", ""]);
            // A pure AOF that is never rewritten: the same work as an append log, and no child
            // process beside the measurement.
            command.args(["--auto-aof-rewrite-percentage", "0", "--aof-use-rdb-preamble", "no"]);
        }
    }
    command
}

fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

pub fn one_core(core: usize) -> Result<CpuSet> {
    let mut cores = CpuSet::new();
    cores.set(core).with_context(|| format!("core {core} is beyond what the system can name"))?;
    Ok(cores)
}

fn all_cores() -> Result<CpuSet> {
    let mut cores = CpuSet::new();
    for core in 0..core_count() {
        cores.set(core)?;
    }
    Ok(cores)
}

pub fn core_count() -> usize {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN) {
        Ok(Some(count)) => count as usize,
        _ => 1,
    }
}

/// Runs the load generator, which is this thread, on one core, or on all.
pub fn pin_self(core: Option<usize>) -> Result<()> {
    let cores = core.map_or_else(all_cores, one_core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
        .with_context(|| format!("cannot pin the load generator to core {core:?}"))
}

/// redis-server, redis-benchmark, fio: from Debian.
pub fn find_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file());
    found.with_context(|| {
        format!("{name} is not on the PATH; install it with: apt-get install -y {package}")
    })
}

/// ZDB_BIN, or what `cargo build --release -p zdb` makes.
pub fn find_zdb(named: Option<&Path>, workspace: &Path) -> Result<PathBuf> {
    if let Some(named) = named {
        ensure!(named.is_file(), "ZDB_BIN names {}, which is no file", named.display());
        return Ok(named.to_path_buf());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--release",
            "-p",
            "zdb",
            "--bin",
            "zdb",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(workspace)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo to build zdb; name a built one with ZDB_BIN")?;
    ensure!(output.status.success(), "zdb did not build; its errors are above");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executables =
        messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = executables
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    found.context("cargo built zdb but named no executable")
}
