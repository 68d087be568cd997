//! Real programs against the server: run to their end, or watched while they run, within a deadline.
//!
//! A program that is missing is a failure: `./test.sh` installs them.

use crate::server::{poll, profile_dir, workspace_dir};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A program that runs longer hangs; a slow machine has its share in it.
const RUN_TIME_MAX: Duration = Duration::from_secs(120);
/// A line that takes longer does not come.
const LINE_TIME_MAX: Duration = Duration::from_secs(30);

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    match command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            panic!("{command:?} does not run ({error}): run ./test.sh, which installs it")
        }
    }
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A program that is killed takes its pipe with it: what came is what counts.
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a program to its end with these bytes on its standard input.
#[track_caller]
pub fn finish(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = spawn(command);
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    let writing = std::thread::spawn(move || {
        // A program may end without reading everything.
        let _ = stdin.write_all(&input);
    });
    let status = poll(RUN_TIME_MAX, || child.try_wait().expect("our own child can be waited for"));
    if status.is_none() {
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }
    writing.join().expect("the writing thread lives");
    let stdout = stdout.join().expect("the reading thread lives");
    let stderr = stderr.join().expect("the reading thread lives");
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    match status {
        Some(status) => Ended { status, stdout, stderr },
        None => {
            panic!("{command:?} hangs; it printed\n{}\n{stderr}", String::from_utf8_lossy(&stdout))
        }
    }
}

/// Runs a program to its end, without complaints, and returns what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    run_with(command, b"")
}

/// The same with these bytes on its standard input.
#[track_caller]
pub fn run_with(command: &mut Command, input: &[u8]) -> String {
    let ended = finish(command, input);
    let (status, stdout) = (ended.status, ended.text());
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{}", ended.stderr);
    assert_eq!(ended.stderr, "", "{command:?} complains, and prints {stdout}");
    stdout
}

/// Runs a program that prints a line for each of its checks, `ok WHAT`, and `done` as its last.
///
/// The programs go on after a difference, so that one run shows them all.
#[track_caller]
pub fn run_checks(command: &mut Command) {
    let ended = finish(command, b"");
    let stdout = ended.text();
    let differences: Vec<&str> =
        stdout.lines().filter(|line| !line.starts_with("ok ") && *line != "done").collect();
    assert!(
        ended.status.success() && differences.is_empty() && ended.stderr.is_empty(),
        "{command:?}: {}\n{}\n{}",
        ended.status,
        differences.join("\n"),
        ended.stderr
    );
    let mut lines = stdout.lines().rev();
    assert_eq!(lines.next(), Some("done"), "{command:?} ends early: {stdout}");
    assert!(lines.next().is_some(), "{command:?} has checked nothing");
}

/// A program that runs until it is dropped.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Running {
        let mut child = spawn(command);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sources: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("stdout is piped")),
            Box::new(child.stderr.take().expect("stderr is piped")),
        ];
        for source in sources {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    lines.lock().expect("no reader of the lines panics").push(line);
                }
            });
        }
        Running { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// `kill -9`; returns when the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// SIGSTOP: it is there, keeps its connections, and does nothing. Returns when it does nothing.
    #[track_caller]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let stopped = poll(LINE_TIME_MAX, || (self.state() == Some('T')).then_some(()));
        assert!(stopped.is_some(), "it does not stop: state {:?}", self.state());
    }

    /// SIGCONT.
    #[track_caller]
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child takes signals");
    }

    /// The letter of proc(5).
    fn state(&self) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader of the lines panics").clone()
    }

    /// Waits for a line that satisfies `wanted`.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match poll(LINE_TIME_MAX, || self.lines().into_iter().find(|line| wanted(line))) {
            Some(line) => line,
            None => panic!("no line about {what}: {:#?}", self.lines()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that has the packages of `clients/python/requirements.txt`: `ZDB_PYTHON`, or the one
/// in the environment that `./test.sh` makes.
pub fn python() -> Command {
    Command::new(match std::env::var_os("ZDB_PYTHON") {
        Some(path) => path.into(),
        None => target_dir().join("python/bin/python"),
    })
}

/// Node with the packages of `clients/node/packages-*`: under `ZDB_NODE_MODULES`, or where
/// `./test.sh` puts them.
pub fn node() -> Command {
    let mut command = Command::new(std::env::var_os("ZDB_NODE").unwrap_or("node".into()));
    let modules: PathBuf = match std::env::var_os("ZDB_NODE_MODULES") {
        Some(path) => path.into(),
        None => target_dir().join("node/node_modules"),
    };
    assert!(
        modules.is_dir(),
        "{} is not there: run ./test.sh, which installs the packages",
        modules.display()
    );
    command.env("NODE_PATH", modules);
    command
}

/// Cargo's target directory.
fn target_dir() -> PathBuf {
    profile_dir().parent().expect("the profile lives in target").into()
}

/// A program or a source under `compat-tests/clients`.
pub fn client_path(name: &str) -> PathBuf {
    let path = workspace_dir().join("compat-tests/clients").join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}
