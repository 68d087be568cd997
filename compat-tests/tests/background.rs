//! Leaving the terminal: the daemon as /proc shows it, its log, and SIGHUP.

use compat_tests::server::{Setup, binary, poll, scratch_dir};
use compat_tests::{Client, Reply, args};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TIME_MAX: Duration = Duration::from_secs(30);

/// A server that has left its terminal; stopped when it goes out of scope.
struct Daemon {
    home: TempDir,
    pid: Pid,
    /// Tells it from another process that gets its id later.
    born: String,
    address: SocketAddr,
    output: String,
}

/// Starts a server in the background; its paths are relative to `home`.
fn start(home: &Path, port: u16, flags: &[&str]) -> Output {
    fs::create_dir_all(home.join("buffer")).expect("a place for the buffer");
    Command::new(binary())
        .current_dir(home)
        .args(["--data", "data", "--index", "index", "--buffer", "buffer"])
        .args(["--listen", "127.0.0.1", "--port", &port.to_string(), "--datasize", "8M"])
        .arg("--background")
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .expect("the server can be run")
}

/// A port that nobody has, or had a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

impl Daemon {
    #[track_caller]
    fn start(flags: &[&str]) -> Daemon {
        Daemon::start_in(scratch_dir(), flags)
    }

    #[track_caller]
    fn start_in(home: TempDir, flags: &[&str]) -> Daemon {
        let port = free_port();
        // `output` returns when the pipes are closed: the daemon holds none of them.
        let output = start(home.path(), port, flags);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{output_text}{error}");
        let pid = output_text.lines().find_map(|line| line.strip_prefix("pid: "));
        let pid = pid.unwrap_or_else(|| panic!("no line with the pid: {output_text}{error}"));
        let pid = Pid::from_raw(pid.parse().expect("a number")).expect("not zero");
        let (_, born) = state_of(pid).expect("it runs");
        Daemon {
            home,
            pid,
            born,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            output: output_text,
        }
    }

    #[track_caller]
    fn connect(&self) -> Client {
        Client::connect(self.address).expect("it listens before its parent ends")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the server is there");
    }

    fn is_running(&self) -> bool {
        // It is nobody's child here, so it is gone when it has ended, or waits for the init process.
        state_of(self.pid).is_some_and(|(state, born)| state != "Z" && born == self.born)
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid.as_raw_nonzero()).into()
    }

    #[track_caller]
    fn stop(&self) {
        self.signal(Signal::TERM);
        let ended = poll(TIME_MAX, || (!self.is_running()).then_some(()));
        assert!(ended.is_some(), "it does not stop");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// The state of a process, and when it was made.
fn state_of(pid: Pid) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    Some(((*fields.first()?).into(), (*fields.get(19)?).into()))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill_process(self.pid, Signal::KILL);
            poll(TIME_MAX, || (!self.is_running()).then_some(()));
        }
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_daemon_has_let_go_of_everything() {
    for has_log in [false, true] {
        let flags: &[&str] =
            if has_log { &["--socket", "s", "--dualnet", "--logfile", "log"] } else { &[] };
        let daemon = Daemon::start(flags);
        let mut client = daemon.connect();
        client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
        // pid (comm) state ppid pgrp session
        let stat = text(daemon.proc("stat"));
        let fields: Vec<&str> =
            stat.rsplit_once(") ").expect("stat").1.split_whitespace().collect();
        let pid = daemon.pid.as_raw_nonzero().to_string();
        assert_eq!((fields[2], fields[3]), (&*pid, &*pid), "its own group and session");
        assert_eq!(fields[4], "0", "no terminal");
        let link = |name: &str| fs::read_link(daemon.proc(name)).expect("a link");
        assert_eq!(link("cwd"), Path::new("/"));
        assert_eq!(link("fd/0"), Path::new("/dev/null"));
        let log = daemon.file("log").canonicalize().unwrap_or("/dev/null".into());
        assert_eq!((link("fd/1"), link("fd/2")), (log.clone(), log));
        for entry in fs::read_dir(daemon.proc("fd")).expect("its files") {
            let file = fs::read_link(entry.expect("an entry").path()).unwrap_or_default();
            let file = file.to_string_lossy();
            assert!(!file.starts_with("pipe:") && !file.starts_with("/dev/pts"), "{file}");
        }
        if has_log {
            assert!(text(daemon.file("log")).contains("zdb ready on"), "the log has the start");
            assert_eq!(daemon.output, format!("pid: {pid}\n"));
            let mut local = Client::connect_unix(&daemon.file("s")).expect("the socket");
            local.expect(args!["GET", "key"], Reply::bulk("value"));
        }
        daemon.stop();
        // What it was started with meant the directory of its start.
        assert!(!daemon.file("s").exists(), "the socket is removed");
        assert!(daemon.file("data/identity").is_file());
        assert_eq!(fs::read_dir(daemon.file("buffer")).expect("it is there").count(), 0);
    }
}

/// The parent's exit status says whether there is a server.
#[test]
fn what_keeps_a_daemon_from_starting_is_said_at_once() {
    let daemon = Daemon::start(&["--logfile", "log"]);
    daemon.connect().expect(args!["SET", "key", "value"], Reply::bulk("key"));
    let log = text(daemon.file("log"));
    let said = |output: &Output, part: &str| {
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(part), "{error}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("pid:"));
    };
    let second = start(daemon.home.path(), free_port(), &["--logfile", "log"]);
    said(&second, "another zdb is running");
    assert_eq!(text(daemon.file("log")), log, "the log of the first is untouched");
    let other = scratch_dir();
    let port_taken = start(other.path(), daemon.address.port(), &["--logfile", "log"]);
    said(&port_taken, "cannot listen");
    assert!(text(other.path().join("log")).contains("cannot listen"));
    let no_log = start(other.path(), free_port(), &["--logfile", "missing/log"]);
    said(&no_log, "cannot write the log file");
    daemon.connect().expect(args!["GET", "key"], Reply::bulk("value"));
}

#[test]
fn the_log_begins_anew_with_each_daemon() {
    let daemon = Daemon::start(&["--logfile", "log"]);
    daemon.stop();
    fs::write(daemon.file("log"), "old lines\n").expect("it can be written");
    let home = scratch_dir();
    for name in ["data", "index", "log"] {
        fs::rename(daemon.file(name), home.path().join(name)).expect("it can be moved");
    }
    let again = Daemon::start_in(home, &["--logfile", "log"]);
    let log = text(again.file("log"));
    assert!(!log.contains("old lines") && log.contains("zdb ready on"), "{log}");
}

/// The hooks of the start run before the server leaves, those of the end behind it.
#[test]
fn a_daemon_runs_its_hooks() {
    let home = scratch_dir();
    let script = format!(
        "#!/bin/sh\necho \"$1 $(pwd) $(readlink /proc/$$/fd/0)\" >> {}/calls\n",
        home.path().display()
    );
    fs::write(home.path().join("hook"), script).expect("the script");
    fs::set_permissions(home.path().join("hook"), fs::Permissions::from_mode(0o755))
        .expect("a program");
    let daemon = Daemon::start_in(home, &["--hook", "hook"]);
    let here = daemon.home.path().canonicalize().expect("it is there");
    let here = here.display();
    assert_eq!(
        text(daemon.file("calls")),
        format!("namespaces-init {here} /dev/null\nready {here} /dev/null\n")
    );
    daemon.connect().expect(args!["NSNEW", "ns"], Reply::ok());
    let created = poll(TIME_MAX, || text(daemon.file("calls")).contains("created /").then_some(()));
    assert!(created.is_some(), "{}", text(daemon.file("calls")));
    daemon.stop();
    let calls = text(daemon.file("calls"));
    assert!(
        calls.ends_with(
            "close / /dev/null\nnamespace-closing / /dev/null\nnamespace-closing / /dev/null\n"
        ),
        "{calls}"
    );
}

// SIGHUP

#[test]
fn hang_ups_without_a_log() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    for number in 0..3 {
        daemon.signal(Signal::HUP);
        let value = number.to_string();
        client.expect(args!["SET", "key", value], Reply::bulk("key"));
    }
    daemon.stop();
    // In the foreground the terminal is gone: a stop in order.
    let mut server = Setup::new().start();
    server.connect().expect(args!["SET", "key", "value"], Reply::bulk("key"));
    let pid = Pid::from_raw(server.pid() as i32).expect("not zero");
    kill_process(pid, Signal::HUP).expect("our own child");
    assert_eq!(server.wait().code(), Some(129));
    server.resume();
    assert!(server.log().iter().any(|line| line.contains("0 of them from the write buffer")));
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
}

/// Rotation by rename, again and again, under load: no line is lost, and none goes to the old file.
#[test]
fn the_log_is_opened_again() {
    for background in [true, false] {
        let home = scratch_dir();
        let log = home.path().join("log");
        let log_flag = log.to_string_lossy().into_owned();
        let flags = ["--verbose", "--logfile", &log_flag];
        let (pid, address, _daemon, _server) = if background {
            let daemon = Daemon::start(&flags);
            (daemon.pid, daemon.address, Some(daemon), None)
        } else {
            // Its first lines are in the log, so it cannot be waited for there.
            let port = free_port().to_string();
            let setup = Setup::new().flags(&flags).without_port();
            let setup = setup.flags(&["--listen", "127.0.0.1", "--port", &port]);
            let mut server = setup.start_unready();
            let address = format!("127.0.0.1:{port}").parse().expect("an address");
            poll(TIME_MAX, || Client::connect(address).ok()).expect("it listens");
            poll(TIME_MAX, || text(&log).contains("connected").then_some(())).expect("its line");
            assert!(server.is_running());
            let pid = Pid::from_raw(server.pid() as i32).expect("not zero");
            (pid, address, None, Some(server))
        };
        let before = text(&log).matches("connected").count();
        let load = std::thread::spawn(move || {
            for _ in 0..600 {
                let mut client = Client::connect(address).expect("a connection");
                client.expect(args!["PING"], Reply::Simple("PONG".into()));
            }
        });
        let mut moved = Vec::new();
        while !load.is_finished() {
            let old = home.path().join(format!("log.{}", moved.len()));
            fs::rename(&log, &old).expect("the log is there");
            kill_process(pid, Signal::HUP).expect("the server is there");
            let back = poll(TIME_MAX, || log.exists().then_some(()));
            assert!(back.is_some(), "no new log");
            moved.push(old);
        }
        load.join().expect("the load ends");
        assert!(moved.len() > 1, "hardly rotated");
        let total = poll(TIME_MAX, || {
            let files = moved.iter().chain([&log]);
            let count: usize = files.map(|file| text(file).matches("connected").count()).sum();
            (count == before + 600).then_some(count)
        });
        let count = |file: &PathBuf| text(file).matches("connected").count();
        let counts: Vec<usize> = moved.iter().chain([&log]).map(count).collect();
        assert!(total.is_some(), "lines are lost: {before} before, then {counts:?}");
        // A log that cannot be made again is told in the old one, and the server goes on.
        let away = home.path().join("away");
        fs::create_dir(&away).expect("a directory");
        let last = away.join("log");
        fs::rename(&log, &last).expect("the log is there");
        fs::create_dir(&log).expect("a directory in its place");
        kill_process(pid, Signal::HUP).expect("the server is there");
        let told =
            poll(TIME_MAX, || text(&last).contains("cannot write the log file").then_some(()));
        assert!(told.is_some(), "{}", text(&last));
        Client::connect(address)
            .expect("it serves")
            .expect(args!["PING"], Reply::Simple("PONG".into()));
    }
}

/// `nohup` asks to outlive the terminal.
#[test]
fn a_server_under_nohup_stays() {
    let home = scratch_dir();
    let port = free_port();
    let mut child = Command::new("nohup")
        .arg(binary())
        .current_dir(home.path())
        .args(["--data", "data", "--index", "index", "--buffer", "none"])
        .args(["--listen", "127.0.0.1", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nohup can be run");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = poll(TIME_MAX, || Client::connect(address).ok()).expect("it listens");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).expect("our own child");
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    kill_process(pid, Signal::TERM).expect("our own child");
    assert_eq!(child.wait().expect("our own child").code(), Some(143));
}
