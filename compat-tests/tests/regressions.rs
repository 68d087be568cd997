//! Defects that two reviews proved by scripts, each as the test that its mending must pass.
//!
//! Recovery, write buffer, failed writes, bytes of one client in another's requests, memory of idle
//! clients. The server is also started by a shell here, under limits that make its writes fail.

use compat_tests::client::{encode, encoded};
use compat_tests::server::{Buffer, Setup, binary, poll, scratch_dir};
use compat_tests::{Client, Reply, Server, args, seed};
use fastrand::Rng;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use socket2::SockRef;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
/// A condition that does not hold after this time will not.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Under `--sync no` records below 512 KiB in all reach the disk after 30 s, and until then the write
/// buffer only. Each takes 80 bytes.
const BUFFERED_COUNT: usize = 4_000;
const CANNOT_WRITE: &str = "Cannot write data right now";
const DETACHED: &str = "Your active namespace is not available anymore (probably removed).";

/// Directories of a server that outlive it, with a write buffer at a place that the test knows.
struct Place {
    home: TempDir,
    buffer: TempDir,
    sync: &'static str,
}

impl Place {
    fn new(sync: &'static str) -> Place {
        Place { home: scratch_dir(), buffer: shared_memory(), sync }
    }

    fn flags(&self) -> Vec<String> {
        flags(self.sync, &self.buffer.path().to_string_lossy())
    }

    fn setup(&self) -> Setup {
        // The flags name a buffer, the library adds none.
        Setup::new().home(self.home.path()).buffer(Buffer::Default).flags(&self.flags())
    }

    /// The server's command line in a shell that first runs `before`.
    fn command(&self, before: &str, more: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]).arg(binary());
        command.arg("--data").arg(self.home.path().join("data"));
        command.arg("--index").arg(self.home.path().join("index"));
        command.args(["--listen", "127.0.0.1", "--port", "0"]);
        command.args(self.flags()).args(more).stdin(Stdio::null());
        command
    }
}

fn shared_memory() -> TempDir {
    tempfile::Builder::new().prefix("zdb-test-").tempdir_in("/dev/shm").expect("/dev/shm")
}

fn flags(sync: &str, buffer: &str) -> Vec<String> {
    ["--sync", sync, "--datasize", "16M", "--buffer", buffer].map(str::to_owned).into()
}

/// A server that a shell started under limits.
struct Limited {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Limited {
    #[track_caller]
    fn start(mut command: Command) -> Limited {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell runs");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        while output.read_line(&mut line).expect("the server prints text") > 0 {
            if let Some((_, place)) = line.split_once("zdb ready on ") {
                let address = place.trim().parse().expect("an address");
                return Limited { child, output: Some(output), address };
            }
            line.clear();
        }
        let ended = child.wait_with_output().expect("our own child can be waited for");
        panic!("the server did not start: {}", String::from_utf8_lossy(&ended.stderr));
    }

    fn connect(&self) -> Client {
        Client::connect(self.address).expect("the server accepts")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn descriptor_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the server runs").count()
    }

    /// From now on no file of the server grows beyond so many bytes.
    fn limit_files(&self, bytes: u64) {
        self.limit(Resource::Fsize, bytes);
    }

    /// From now on the server has so many files open at most.
    fn limit_descriptors(&self, count: usize) {
        self.limit(Resource::Nofile, count as u64);
    }

    fn limit(&self, resource: Resource, value: u64) {
        let limit = Rlimit { current: Some(value), ..getrlimit(resource) };
        prlimit(Some(self.pid()), resource, limit).expect("limits of a child can be set");
    }

    /// Nobody reads stdout and stderr any more.
    fn close_output(&mut self) {
        self.output = None;
        self.child.stderr = None;
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("our own child takes signals");
        let ended =
            poll(WAIT_MAX, || self.child.try_wait().expect("our own child can be waited for"));
        ended.expect("SIGTERM ends the server")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(number: usize) -> String {
    format!("key{number:06}")
}

fn value(number: usize) -> String {
    format!("v{number:06}{}", "x".repeat(20))
}

#[track_caller]
fn write_all(client: &mut Client, numbers: Range<usize>) {
    let mut requests = Vec::new();
    for number in numbers.clone() {
        encode(args!["SET", key(number), value(number)], &mut requests);
    }
    let (replies, ending) = client.pipeline(&requests, numbers.len());
    ending.expect("the server answers");
    for (number, reply) in numbers.zip(replies) {
        assert_eq!(reply, Reply::bulk(key(number)));
    }
}

#[track_caller]
fn check_all(client: &mut Client, numbers: Range<usize>, when: &str) {
    let mut requests = Vec::new();
    numbers.clone().for_each(|number| encode(args!["GET", key(number)], &mut requests));
    let (replies, ending) = client.pipeline(&requests, numbers.len());
    ending.expect("the server answers");
    let right = |(number, reply): &(usize, Reply)| *reply == Reply::bulk(value(*number));
    let (count, missing) = (numbers.len(), numbers.zip(replies).find(|pair| !right(pair)));
    assert!(missing.is_none(), "{when}: of {count} records this is the first wrong: {missing:?}");
}

/// The only segment that has this text, and where in it.
fn find(data: &Path, text: &[u8]) -> (PathBuf, usize) {
    for entry in std::fs::read_dir(data).expect("the data directory can be read") {
        let path = entry.expect("its entries too").path();
        let bytes = std::fs::read(&path).expect("a file of the data directory can be read");
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            return (path, at);
        }
    }
    panic!("no file has \"{}\"", text.escape_ascii());
}

fn damage(path: &Path, offset: usize, change: impl Fn(u8) -> u8) {
    let mut bytes = std::fs::read(path).expect("the segment can be read");
    bytes[offset] = change(bytes[offset]);
    std::fs::write(path, bytes).expect("the segment can be written");
}

/// Raises this process's limit of open files, and so its servers', as far as it may.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("up to the hard limit");
}

// Recovery and the write buffer

/// Each start fails as it brings the records from the write buffer to the disk, at another place.
#[test]
fn a_start_that_fails_in_recovery_loses_no_acknowledged_write() {
    let place = Place::new("no");
    let mut server = place.setup().start();
    write_all(&mut server.connect(), 0..BUFFERED_COUNT);
    server.kill();
    // Blocks of 512 bytes: the header alone, a third and two thirds of the records.
    for blocks in [8, 200, 400, 200] {
        let before = format!("trap '' XFSZ; ulimit -f {blocks}");
        let ended = place.command(&before, &[]).output().expect("a shell runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "under `{before}`: {said}");
        assert!(said.contains("write buffer"), "the line names what is at stake: {said}");
    }
    server.resume();
    check_all(&mut server.connect(), 0..BUFFERED_COUNT, "after four failed starts");
    server.terminate();
    server.resume();
    check_all(&mut server.connect(), 0..BUFFERED_COUNT, "after a clean stop");
    server.terminate();
    std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
    server.resume();
    check_all(&mut server.connect(), 0..BUFFERED_COUNT, "with a new index");
    server.terminate();
}

#[test]
fn starts_killed_in_a_row_lose_no_acknowledged_write() {
    let seed = seed("killed starts");
    let mut random = Rng::with_seed(seed);
    let place = Place::new("no");
    let begun = Instant::now();
    let mut server = place.setup().start();
    // A start with records to bring over takes at least as long as one without.
    let start_us = begun.elapsed().as_micros() as u64;
    for round in 0..10 {
        let end = (round + 1) * BUFFERED_COUNT;
        write_all(&mut server.connect(), round * BUFFERED_COUNT..end);
        server.kill();
        for _ in 0..6 {
            server.resume_unready();
            // Not a wait for something: the moment of the kill is drawn.
            std::thread::sleep(Duration::from_micros(random.u64(..start_us * 5 / 4)));
            server.kill();
        }
        server.resume();
        check_all(&mut server.connect(), 0..end, &format!("round {round}, ZDB_SEED={seed}"));
    }
    server.terminate();
    server.resume();
    check_all(&mut server.connect(), 0..10 * BUFFERED_COUNT, "after a clean stop");
    server.terminate();
}

#[test]
fn a_server_on_a_copy_is_refused_while_the_first_runs() {
    for sync in ["no", "everysec", "always"] {
        let place = Place::new(sync);
        let mut server = place.setup().start();
        write_all(&mut server.connect(), 0..10);
        server.terminate();
        let copy = scratch_dir();
        std::fs::create_dir(copy.path().join("data")).expect("a directory can be made");
        for entry in std::fs::read_dir(server.data_dir()).expect("the data can be listed") {
            let entry = entry.expect("its entries too");
            std::fs::copy(entry.path(), copy.path().join("data").join(entry.file_name()))
                .expect("the data can be copied");
        }
        server.resume();
        write_all(&mut server.connect(), 10..500);
        let second = || place.setup().home(copy.path()).try_start();
        let refusal = match second() {
            Ok(_) => panic!("two servers share one write buffer, --sync {sync}"),
            Err(refusal) => refusal,
        };
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        let buffer = place.buffer.path().to_string_lossy();
        assert!(
            refusal.log.iter().any(|line| line.contains(&*buffer)),
            "no line names the write buffer: {refusal:?}"
        );
        write_all(&mut server.connect(), 500..1000);
        check_all(&mut server.connect(), 0..1000, "beside the refused one");
        server.kill();
        server.resume();
        check_all(&mut server.connect(), 0..1000, "after a kill");
        server.terminate();
        // The buffer is free: the copy has what was copied.
        let mut second = second().unwrap_or_else(|refusal| panic!("{refusal:?}"));
        check_all(&mut second.connect(), 0..10, "in the copy");
        second.connect().expect(args!["DBSIZE"], Reply::Integer(10));
        second.terminate();
    }
}

#[test]
fn a_left_write_buffer_is_not_passed_over() {
    let place = Place::new("no");
    let mut server = place.setup().start();
    write_all(&mut server.connect(), 0..BUFFERED_COUNT);
    server.kill();
    let other = shared_memory();
    let left = place.buffer.path().to_string_lossy();
    // Again and again: a refused start must not forget what it refused for.
    for buffer in ["none", "none", &other.path().to_string_lossy(), "none"] {
        server.set_flags(&flags("no", buffer));
        let refusal = server.try_resume().expect_err("it would lose acknowledged writes");
        assert_eq!(refusal.code, Some(1), "--buffer {buffer}: {refusal:?}");
        assert!(
            refusal.log.iter().any(|line| line.contains(&*left)),
            "no line names the place of the left buffer: {refusal:?}"
        );
    }
    server.set_flags(&place.flags());
    server.resume();
    check_all(&mut server.connect(), 0..BUFFERED_COUNT, "with the buffer that was left");
    server.terminate();
    // After a clean stop nothing is left, and any place will do.
    server.set_flags(&flags("no", "none"));
    server.resume();
    check_all(&mut server.connect(), 0..BUFFERED_COUNT, "without a buffer");
}

// Damage

#[test]
fn neighbours_with_damaged_payloads_never_show_older_values() {
    let place = Place::new("everysec");
    let mut server = place.setup().start();
    let mut client = server.connect();
    let new = |number: usize| format!("new{number}").repeat(3_000);
    for number in [0, 1] {
        client.expect(args!["SET", key(number), "old"], Reply::bulk(key(number)));
    }
    for number in [0, 1] {
        client.expect(args!["SET", key(number), new(number)], Reply::bulk(key(number)));
    }
    write_all(&mut client, 2..3);
    server.terminate();
    for number in [0, 1] {
        let (segment, at) = find(&server.data_dir(), &new(number).as_bytes()[..400]);
        damage(&segment, at + 5_000, |_| 0);
    }
    std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
    for _ in 0..2 {
        server.resume();
        let mut client = server.connect();
        for number in [0, 1] {
            client.expect(args!["GET", key(number)], Reply::error("Internal Error"));
        }
        check_all(&mut client, 2..3, "behind the damage");
        server.terminate();
    }
}

/// With the index the name is lost, without it the scan still finds it in the record.
#[test]
fn keys_of_a_damaged_namespace_are_in_a_locked_stand_in() {
    for index_lost in [false, true] {
        let place = Place::new("always");
        let mut server = place.setup().start();
        let mut client = server.connect();
        client.expect(args!["NSNEW", "tenant"], Reply::ok());
        client.expect(args!["SELECT", "tenant"], Reply::ok());
        write_all(&mut client, 0..100);
        server.terminate();
        let (segment, at) = find(&server.data_dir(), b"tenant");
        // A bit of the size limit in the settings behind the name.
        damage(&segment, at + "tenant".len() + 5, |byte| byte ^ 1);
        if index_lost {
            std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
        }
        server.resume();
        let mut client = server.connect();
        let name = only_other_namespace(&mut client);
        client.expect(args!["SELECT", name], Reply::ok());
        check_all(&mut client, 0..100, "in the stand-in");
        let locked = Reply::error("Namespace is temporarily locked (read-only)");
        client.expect(args!["SET", "new", "value"], locked);
        server.wait_for_log("the lost settings", |line| line.contains("settings of namespace"));
        // Somebody has looked, and opens it for good.
        client.expect(args!["NSSET", name, "lock", "0"], Reply::ok());
        client.expect(args!["SET", "new", "value"], Reply::bulk("new"));
        server.terminate();
        server.resume();
        let mut client = server.connect();
        let name = only_other_namespace(&mut client);
        client.expect(args!["SELECT", name], Reply::ok());
        check_all(&mut client, 0..100, "after another restart");
        client.expect(args!["GET", "new"], Reply::bulk("value"));
        server.terminate();
    }
}

/// The name of the one namespace beside `default`.
#[track_caller]
fn only_other_namespace(client: &mut Client) -> Vec<u8> {
    let mut names = client.call(args!["NSLIST"]).into_array();
    names.retain(|name| *name != Reply::bulk("default"));
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0).into_bytes().to_vec()
}

#[test]
fn lives_without_writes_leave_no_damage_behind() {
    let place = Place::new("everysec");
    let mut server = place.setup().start();
    write_all(&mut server.connect(), 0..1);
    server.kill();
    server.resume();
    server.terminate();
    server.resume();
    write_all(&mut server.connect(), 1..2);
    server.terminate();
    std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
    // This start reads every record, says what it found, and ends: no line can come too late.
    let ended = place.command("true", &["--dump"]).output().expect("a shell runs");
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("2 keys"), "{said}");
    assert!(!said.contains("damage"), "{said}");
    server.resume();
    check_all(&mut server.connect(), 0..2, "after the dump");
    server.terminate();
}

// Failed writes

#[test]
fn a_failed_write_is_one_error_and_reads_go_on() {
    let place = Place::new("always");
    let mut server = Limited::start(place.command("trap '' XFSZ", &[]));
    let (mut writer, mut reader) = (server.connect(), server.connect());
    write_all(&mut writer, 0..2);
    server.limit_files(8192);
    let mut requests = Vec::new();
    for number in 2..10 {
        encode(args!["SET", key(number), value(number)], &mut requests);
    }
    encode(args!["DEL", key(1)], &mut requests);
    encode(args!["PING"], &mut requests);
    encode(args!["ECHO", "last"], &mut requests);
    // Nobody knows which of them are on the disk, so no later reply may be taken for theirs.
    let (replies, ending) = writer.pipeline(&requests, 11);
    assert_eq!(replies, [Reply::error(CANNOT_WRITE)]);
    ending.expect_err("the connection is closed");
    for client in [&mut reader, &mut server.connect()] {
        check_all(client, 0..1, "beside a broken log");
        client.expect(args!["GET", "missing"], Reply::Nil);
        // Written, and not known to be on the disk: an answer in any case.
        client.call(args!["GET", key(5)]);
        client.expect(args!["SET", "more", "value"], Reply::error(CANNOT_WRITE));
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    assert_eq!(server.terminate().code(), Some(1), "it ends, and says that not all is well");
    let mut server = place.setup().start();
    check_all(&mut server.connect(), 0..1, "after a restart");
    write_all(&mut server.connect(), 10..20);
    server.terminate();
}

#[test]
fn a_failed_write_behind_the_replies_loses_nothing() {
    let place = Place::new("everysec");
    let mut server = Limited::start(place.command("trap '' XFSZ", &[]));
    let mut client = server.connect();
    write_all(&mut client, 0..1);
    server.limit_files(4096);
    let mut written = 1;
    let refused = poll(WAIT_MAX, || {
        let reply = client.call(args!["SET", key(written), value(written)]);
        if reply == Reply::error(CANNOT_WRITE) {
            return Some(());
        }
        assert_eq!(reply, Reply::bulk(key(written)));
        written += 1;
        None
    });
    assert!(refused.is_some(), "{written} writes were taken by a disk that takes none");
    check_all(&mut client, 0..written, "beside a broken log");
    assert_eq!(server.terminate().code(), Some(1), "it ends, and says that not all is well");
    // What was acknowledged is in the write buffer still.
    let mut server = place.setup().start();
    check_all(&mut server.connect(), 0..written, "after a restart");
    server.terminate();
}

/// Each kind of change is refused with its own text, and changes nothing.
#[test]
fn a_broken_log_refuses_every_change() {
    let place = Place::new("everysec");
    let mut server = Limited::start(place.command("trap '' XFSZ", &[]));
    let mut client = server.connect();
    write_all(&mut client, 0..1);
    for request in [
        &["NSNEW", "private"][..],
        &["NSSET", "private", "password", "secret"],
        &["NSSET", "private", "public", "0"],
        &["NSNEW", "ids"],
        &["NSSET", "ids", "mode", "seq"],
    ] {
        client.expect(request, Reply::ok());
    }
    server.limit_files(4096);
    let mut number = 1;
    let refused = poll(WAIT_MAX, || {
        number += 1;
        let reply = client.call(args!["SET", key(number), value(number)]);
        (reply == Reply::error(CANNOT_WRITE)).then_some(())
    });
    assert!(refused.is_some(), "a disk that takes nothing took {number} writes");
    let key = key(0);
    for (request, text) in [
        (&["SET", "new", "value"][..], CANNOT_WRITE),
        (&["SET", &key, "value"], CANNOT_WRITE),
        (&["SET", &key, "value", "XX"], CANNOT_WRITE),
        (&["SETNX", "new", "value"], CANNOT_WRITE),
        (&["MSET", "new", "value", &key, "value"], CANNOT_WRITE),
        (&["DEL", &key], "Cannot delete key (data)"),
        (&["UNLINK", "missing", &key], "Cannot delete key (data)"),
        (&["NSNEW", "new"], "Could not create namespace"),
        (&["NSDEL", "ids"], "Could not delete this namespace"),
        (&["NSSET", "ids", "maxsize", "5"], CANNOT_WRITE),
        (&["NSSET", "ids", "mode", "user"], CANNOT_WRITE),
    ] {
        client.expect(request, Reply::error(text));
    }
    let names = ["default", "private", "ids"].map(Reply::bulk);
    client.expect(args!["NSLIST"], Reply::Array(names.into()));
    client.expect(args!["MGET", "new"], Reply::Array(vec![Reply::Nil]));
    client.expect(args!["SELECT", "ids"], Reply::ok());
    client.expect(args!["SET", "", "value"], Reply::error(CANNOT_WRITE));
    client.expect(args!["SELECT", "private", "secret"], Reply::ok());
    client.expect(args!["FLUSH"], Reply::error("Internal Server Error"));
    assert_eq!(server.terminate().code(), Some(1), "it ends, and says that not all is well");
}

// Stopping

#[test]
fn a_stop_behind_a_request_that_reads_ends_the_server() {
    for request in [args!["SET", key(0), value(0)], args!["GET", key(0)], args!["MGET", key(0)]] {
        let place = Place::new("everysec");
        let mut server = place.setup().start();
        write_all(&mut server.connect(), 0..1);
        server.terminate();
        // Now the record is on the disk only.
        server.resume();
        let mut client = server.connect();
        client
            .send_raw(&[encoded(request), encoded(args!["STOP"])].concat())
            .expect("the requests are sent");
        assert_eq!(server.wait().code(), Some(0), "STOP while its client stays");
        let reply = client.receive().expect("a reply");
        assert!(!reply.is_error(), "{reply:?}");
        assert_eq!(client.receive().expect("a reply"), Reply::Simple("Stopping".into()));
    }
}

#[test]
fn closed_stdout_and_stderr_do_not_stop_the_server() {
    const DESCRIPTORS_MAX: usize = 48;
    let place = Place::new("everysec");
    let mut server = Limited::start(place.command("true", &["--verbose"]));
    server.close_output();
    let pong = Reply::Simple("PONG".into());
    // Each is a line on stdout.
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.expect(args!["PING"], pong.clone()));
    // Each that cannot be accepted is a line on stderr. The server knows of no such limit: below one that it
    // starts with it turns clients away before it comes to that.
    server.limit_descriptors(DESCRIPTORS_MAX);
    let full = poll(WAIT_MAX, || {
        clients.push(server.connect());
        (server.descriptor_count() >= DESCRIPTORS_MAX).then_some(())
    });
    assert!(full.is_some(), "{} clients fill no table", clients.len());
    let mut beyond = server.connect();
    (0..10).for_each(|_| clients[0].expect(args!["PING"], pong.clone()));
    clients.truncate(1);
    beyond.expect(args!["PING"], pong);
    write_all(&mut clients[0], 0..1);
    assert_eq!(server.terminate().code(), Some(143));
}

// Requests

/// The bytes of one client stay in the parser that the next client's requests are parsed with, at every
/// place that a request can be broken at: there a value begins to be a request of its own.
#[test]
fn malformed_bytes_change_no_other_clients_requests() {
    let server = Server::start::<&str>(&[]);
    let mut victim = server.connect();
    let mut value = b"$1\r\na\r\n".to_vec();
    encode(args!["NSNEW", "pwned"], &mut value);
    value.extend_from_slice(b"zzzz");
    for length in 1..64 {
        let word = "q".repeat(length);
        for bytes in [
            format!("*2\r\n${length}\r\n{word}\r\nX"),
            format!("*1024\r\n${length}\r\n{word}\r\n*"),
            "*1\r\nX".to_owned(),
        ] {
            let mut attacker = server.connect();
            attacker.send_raw(bytes.as_bytes()).expect("it is sent");
            expect_refusal(&mut attacker);
            victim.expect(args!["SET", key(length), value], Reply::bulk(key(length)));
            victim.expect(args!["GET", key(length)], Reply::bulk(&value));
            victim.expect(args!["DEL", key(length)], Reply::ok());
        }
    }
    victim.expect(args!["NSLIST"], Reply::Array(vec![Reply::bulk("default")]));
}

/// One error, then the end of the connection.
#[track_caller]
fn expect_refusal(client: &mut Client) {
    let reply = client.receive().expect("a reply");
    assert!(reply.is_error(), "{reply:?}");
    client.wait_closed().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_web_page_cannot_make_a_browser_run_requests() {
    let mut server = Server::start::<&str>(&[]);
    let body = "SET evil 1\r\nNSNEW owned\r\nSTOP\r\n";
    let post = format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:9900\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\
         Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\nOrigin: https://evil.example\r\n\
         Connection: keep-alive\r\n\r\n{body}",
        body.len()
    );
    // As browsers send it, without its first line, and as other programs write it.
    let headless = post.split_once("\r\n").expect("it has lines").1;
    let lower = post.replacen("POST", "post", 1).replacen("Host", "host", 1);
    for bytes in [&post, headless, &lower, &post.replacen("POST", "GET", 1)] {
        let mut browser = server.connect();
        browser.send_raw(bytes.as_bytes()).expect("it is sent");
        expect_refusal(&mut browser);
    }
    let mut client = server.connect();
    client.expect(args!["GET", "evil"], Reply::Nil);
    client.expect(args!["NSLIST"], Reply::Array(vec![Reply::bulk("default")]));
    assert!(server.is_running());
}

/// The namespace goes while most of the values have no room on their way to a slow reader, and another
/// may take its slot.
#[test]
fn an_mget_of_a_namespace_that_goes_ends_in_errors() {
    const COUNT: usize = 20;
    for reused in [false, true] {
        let server = Server::start::<&str>(&[]);
        let mut reader = server.connect();
        SockRef::from(reader.tcp()).set_recv_buffer_size(64 << 10).expect("a small socket buffer");
        reader.expect(args!["NSNEW", "gone"], Reply::ok());
        reader.expect(args!["SELECT", "gone"], Reply::ok());
        let value = |number: usize| vec![b'a' + number as u8; 200_000];
        for number in 0..COUNT {
            reader.expect(args!["SET", key(number), value(number)], Reply::bulk(key(number)));
        }
        let mut mget = vec!["MGET".to_owned()];
        mget.extend((0..300).map(|number| key(number % COUNT)));
        reader.send_raw(&encoded(&mget)).expect("it is sent");
        // Its first bytes are here, so it is under way.
        assert_eq!(reader.tcp().peek(&mut [0]).expect("the reply begins"), 1);
        let mut other = server.connect();
        other.expect(args!["NSDEL", "gone"], Reply::ok());
        if reused {
            other.expect(args!["NSNEW", "secret"], Reply::ok());
            other.expect(args!["NSSET", "secret", "password", "word"], Reply::ok());
            other.expect(args!["NSSET", "secret", "public", "0"], Reply::ok());
            other.expect(args!["SELECT", "secret", "word"], Reply::ok());
        }
        for number in 0..COUNT {
            other.expect(args!["SET", key(number), "a secret"], Reply::bulk(key(number)));
        }
        let elements = reader.receive().expect("the reply goes on").into_array();
        assert_eq!(elements.len(), 300);
        let first =
            elements.iter().position(Reply::is_error).expect("the namespace went meanwhile");
        for (number, element) in elements.into_iter().enumerate() {
            let expected = match number < first {
                true => Reply::bulk(value(number % COUNT)),
                false => Reply::error(DETACHED),
            };
            assert_eq!(element, expected, "element {number}; the errors begin at {first}");
        }
        assert!(first > 0, "the first values were on their way");
        reader.expect(args!["GET", key(0)], Reply::error(DETACHED));
        reader.wait_closed().expect("it is told and closed");
        other.expect(args!["GET", key(0)], Reply::bulk("a secret"));
        server.ask_others();
    }
}

#[test]
fn overwrites_pass_a_size_limit_of_minus_one() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    client.expect(args!["NSSET", "ns", "maxsize", "-1"], Reply::ok());
    client.expect(args!["SELECT", "ns"], Reply::ok());
    for value in ["aaaa", "bbbbb", "c", "dddddddddd"] {
        client.expect(args!["SET", "key", value], Reply::bulk("key"));
        client.expect(args!["GET", "key"], Reply::bulk(value));
    }
    server.ask_others();
}

// Memory

#[test]
fn idle_clients_do_not_keep_room_for_large_replies() {
    const CLIENT_COUNT: usize = 2_000;
    const PIPELINE: usize = 8;
    // Kept, the replies would be 240 MB.
    const GROWTH_BYTES_MAX: u64 = 80 << 20;
    raise_descriptor_limit();
    let server = Server::start::<&str>(&[]);
    let value = vec![b'v'; 15_000];
    server.connect().expect(args!["SET", "key", value], Reply::bulk("key"));
    let mut clients: Vec<TcpStream> = (0..CLIENT_COUNT)
        .map(|_| TcpStream::connect(server.address()).expect("the server accepts"))
        .collect();
    server.ask_others();
    let before = server.resident_bytes();
    let requests = encoded(args!["GET", "key"]).repeat(PIPELINE);
    let mut replies = vec![0; PIPELINE * ("$15000\r\n".len() + value.len() + "\r\n".len())];
    for _ in 0..2 {
        for client in &mut clients {
            client.write_all(&requests).expect("it is sent");
            client.read_exact(&mut replies).expect("the replies");
        }
    }
    assert!(replies.ends_with(b"vvv\r\n"));
    server.ask_others();
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{grown} bytes for {CLIENT_COUNT} idle clients");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes for {CLIENT_COUNT} idle clients");
}

#[test]
fn unread_replies_share_one_value() {
    const CLIENT_COUNT: usize = 60;
    // One copy for each would be 480 MiB.
    const GROWTH_BYTES_MAX: u64 = 128 << 20;
    let server = Server::start::<&str>(&[]);
    let value = vec![b'v'; 8 * MIB];
    server.connect().expect(args!["SET", "key", value], Reply::bulk("key"));
    let before = server.resident_bytes();
    let mut clients: Vec<Client> = (0..CLIENT_COUNT).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send_raw(&encoded(args!["GET", "key"])).expect("it is sent");
    }
    for client in &clients {
        assert_eq!(client.tcp().peek(&mut [0]).expect("the reply begins"), 1);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{grown} bytes for {CLIENT_COUNT} unread replies");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes for {CLIENT_COUNT} unread replies");
    // Nothing was cut short for that.
    assert_eq!(clients[CLIENT_COUNT - 1].receive().expect("a reply"), Reply::bulk(&value));
}
