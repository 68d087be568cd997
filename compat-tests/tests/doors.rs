//! Who is let in: protected mode, passwords and how often they may be wrong, how many clients there may
//! be and how long they may be silent, and who may read what the server stores.

use compat_tests::client::{REPLY_TIME_MAX, encoded};
use compat_tests::server::{Setup, binary, poll, scratch_dir};
use compat_tests::tls::{Certificates, Identity};
use compat_tests::{Client, Reply, Server, args};
use sha1::{Digest, Sha1};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DENIED: &str = "DENIED zdb is running in protected mode";
const THROTTLED: &str = "Too many failed passwords, try again later";
/// What HELLO says to one: client libraries look for the word.
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// Wrong passwords that one peer may send at once.
const FAILURES_MAX: usize = 32;

fn pong() -> Reply {
    Reply::Simple("PONG".into())
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

/// An address of this machine that others could use. Nothing is sent to find it.
fn outer_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP socket");
    socket
        .connect("198.51.100.1:9")
        .and_then(|()| socket.local_addr())
        .expect(
            "protected mode is tested over an address that is not loopback: give this machine one",
        )
        .ip()
}

fn info_field(client: &mut Client, name: &str) -> u64 {
    let text = client.call(args!["INFO"]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[track_caller]
fn expect_denied(mut client: Client) {
    let reply = client.try_call(args!["PING"]).expect("it is told why");
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with(DENIED)), "{reply:?}");
    client.wait_closed().expect("it is let go");
}

// Protected mode

#[test]
fn strangers_are_told_to_use_a_password() {
    let server = Server::start(&["--listen", "::"]);
    let port = server.address().port();
    let outer = SocketAddr::new(outer_address(), port);
    for _ in 0..3 {
        expect_denied(Client::connect(outer).expect("it connects"));
    }
    // Also one that writes a lot first.
    let mut eager = Client::connect(outer).expect("it connects");
    let _ = eager.send_raw(&encoded(args!["SET", "key", vec![b'x'; 100_000]]));
    let reply = eager.receive().expect("it is told why");
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with(DENIED)), "{reply:?}");
    // However many they are, and however long they stay, they take no place from those who are served.
    let strangers: Vec<_> = (0..300).filter_map(|_| Client::connect(outer).ok()).collect();
    for local in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(local.parse().expect("an address"), port);
        let mut client = Client::connect(address).expect("loopback is served");
        client.expect(args!["DBSIZE"], Reply::Integer(0));
        assert!(info_field(&mut client, "rejected_connections") >= 4);
    }
    drop(strangers);
}

#[test]
fn a_password_lets_strangers_in() {
    let server = Server::start(&["--listen", "::", "--admin", "secret"]);
    let address = SocketAddr::new(outer_address(), server.address().port());
    let mut client = Client::connect(address).expect("it connects");
    client.expect(args!["PING"], pong());
    client.expect(args!["NSNEW", "ns"], Reply::error("Permission denied"));
    client.expect(args!["AUTH", "secret"], Reply::ok());
    client.expect(args!["NSNEW", "ns"], Reply::ok());
}

#[test]
fn a_certificate_lets_strangers_in() {
    let certificates = Certificates::new();
    let mut flags = certificates.flags_with_clients();
    flags.extend(owned(&["--listen", "::"]));
    let server = Server::start(&flags);
    let tls = SocketAddr::new(outer_address(), server.tls_address().port());
    let mut client =
        Client::connect_tls(tls, certificates.client(Identity::Client)).expect("it connects");
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    let plain = SocketAddr::new(outer_address(), server.address().port());
    expect_denied(Client::connect(plain).expect("it connects"));
    // TLS that asks for no certificate shows nothing.
    let mut flags = certificates.flags();
    flags.extend(owned(&["--listen", "::"]));
    let server = Server::start(&flags);
    let tls = SocketAddr::new(outer_address(), server.tls_address().port());
    let mut client =
        Client::connect_tls(tls, certificates.client(Identity::Nothing)).expect("it connects");
    let reply = client.try_call(args!["PING"]).expect("it is told why");
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with(DENIED)), "{reply:?}");
}

#[test]
fn listens_everywhere_unless_told_otherwise() {
    let server = Setup::new().without_port().flags(&["--port", "0"]).start();
    assert!(server.address().ip().is_unspecified(), "{}", server.address());
    let port = server.address().port();
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).expect("IPv4 is served");
    client.expect(args!["PING"], pong());
    expect_denied(Client::connect((outer_address(), port).into()).expect("it connects"));
    server.wait_for_log("the start says so", |line| line.contains("protected mode: without"));
}

/// The start-up line of zos, word for word.
#[test]
fn the_flags_of_zos() {
    let home = scratch_dir();
    let socket = home.path().join("zdb.sock");
    let port = TcpListener::bind("[::]:0").and_then(|one| one.local_addr()).expect("a port").port();
    let (port, path) = (port.to_string(), socket.to_str().expect("a path"));
    let words = ["--protect", "--admin", "zos-password", "--listen", "::", "--port", &port];
    let mut server = Setup::new()
        .without_port()
        .home(home.path())
        .flags(&words)
        .flags(&["--socket", path, "--dualnet"])
        .start();
    let outer = SocketAddr::new(outer_address(), server.address().port());
    let mut over_unix = Client::connect_unix(&socket).expect("the unix socket");
    let mut over_tcp = Client::connect(outer).expect("TCP");
    for client in [&mut over_unix, &mut over_tcp] {
        client.expect(args!["SET", "key", "value"], Reply::error("Namespace is in read-only mode"));
        client.expect(args!["NSNEW", "ns"], Reply::error("Permission denied"));
        client.expect(args!["SELECT", "default", "zos-password"], Reply::ok());
        client.call(args!["SET", "key", "value"]);
        client.expect(args!["GET", "key"], Reply::bulk("value"));
    }
    over_unix.expect(args!["AUTH", "zos-password"], Reply::ok());
    over_unix.expect(args!["NSNEW", "ns"], Reply::ok());
    server.terminate();
    assert!(!socket.exists(), "the socket goes with the server");
}

// Passwords

#[test]
fn wrong_passwords_are_slowed_down() {
    let home = scratch_dir();
    let socket = home.path().join("zdb.sock");
    let server = Setup::new()
        .flags(&["--admin", "secret", "--dualnet", "--socket", socket.to_str().expect("a path")])
        .start();
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    let started = Instant::now();
    // All connections of one peer count together, whatever the command.
    let mut looked_at = 0;
    for number in 0.. {
        let client = &mut clients[number % 4];
        let reply = match number % 3 {
            0 => client.call(args!["AUTH", "wrong"]),
            1 => client.call(args!["AUTH", "default", "wrong"]),
            _ => client.call(args!["HELLO", "2", "AUTH", "default", "wrong"]),
        };
        if reply == Reply::error(THROTTLED) {
            break;
        }
        let denied = if number % 3 < 2 { "Access denied" } else { WRONGPASS };
        assert_eq!(reply, Reply::error(denied));
        looked_at += 1;
    }
    let forgiven = started.elapsed().as_secs() as usize;
    assert!(
        (FAILURES_MAX..=FAILURES_MAX + forgiven + 1).contains(&looked_at),
        "{looked_at} looked at"
    );
    // Others are not concerned, nor is what needs no password.
    let mut other = Client::connect_unix(&socket).expect("the unix socket");
    other.expect(args!["AUTH", "secret"], Reply::ok());
    clients[0].expect(args!["PING"], pong());
    other.expect(args!["NSNEW", "ns"], Reply::ok());
    other.expect(args!["NSSET", "ns", "password", "ns-password"], Reply::ok());
    assert!(info_field(&mut other, "passwords_wrong") >= FAILURES_MAX as u64);
    assert!(info_field(&mut other, "passwords_not_looked_at") >= 1);
    // One a second: the right one is looked at after that time, from any of its connections.
    let accepted = poll(REPLY_TIME_MAX, || {
        (clients[1].call(args!["AUTH", "secret"]) == Reply::ok()).then_some(())
    });
    assert!(accepted.is_some(), "the right password is never looked at again");
    // A wrong one more, and SELECT is held up too.
    let held_up = poll(REPLY_TIME_MAX, || {
        clients[2].call(args!["AUTH", "wrong"]);
        let reply = clients[2].call(args!["SELECT", "ns", "ns-password"]);
        (reply == Reply::error(THROTTLED)).then_some(())
    });
    assert!(held_up.is_some(), "SELECT looks at every password");
}

#[test]
fn a_challenge_is_used_once() {
    let server = Server::start(&["--admin", "secret"]);
    let mut admin = server.connect();
    admin.expect(args!["AUTH", "default", "secret"], Reply::ok());
    admin.expect(args!["NSNEW", "ns"], Reply::ok());
    admin.expect(args!["NSSET", "ns", "password", "ns-password"], Reply::ok());
    let answer = |client: &mut Client, password: &str| {
        let Reply::Simple(challenge) = client.call(args!["AUTH", "SECURE", "CHALLENGE"]) else {
            panic!("no challenge")
        };
        let text = format!("{challenge}:{password}");
        Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let none = Reply::error("No CHALLENGE requested, secure authentication not available");
    let mut client = server.connect();
    let right = answer(&mut client, "ns-password");
    client.expect(args!["SELECT", "ns", "SECURE", right], Reply::ok());
    client.expect(args!["SELECT", "ns", "SECURE", right], none.clone());
    let wrong = answer(&mut client, "no");
    client.expect(args!["SELECT", "ns", "SECURE", wrong], Reply::error("Access denied"));
    client.expect(args!["SELECT", "ns", "SECURE", wrong], none.clone());
    let right = answer(&mut client, "secret");
    client.expect(args!["AUTH", "SECURE", right], Reply::ok());
    client.expect(args!["AUTH", "SECURE", right], none.clone());
    // What one command has used up is gone for the other.
    let right = answer(&mut client, "ns-password");
    client.expect(args!["SELECT", "ns", "SECURE", right], Reply::ok());
    client.expect(args!["AUTH", "SECURE", right], none);
}

#[test]
fn passwords_show_nowhere() {
    let home = scratch_dir();
    let file = home.path().join("admin");
    std::fs::write(&file, "hidden-admin\nsecond line\n").expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let path = file.to_str().expect("a path");
    let mut server = Server::start(&["--verbose", "--protect", "--admin-file", path]);
    let mut client = server.connect();
    client.expect(args!["AUTH", "hidden-wrong"], Reply::error("Access denied"));
    client.expect(args!["HELLO", "3", "AUTH", "default", "hidden-wrong"], Reply::error(WRONGPASS));
    client.expect(args!["AUTH", "hidden-admin"], Reply::ok());
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    client.expect(args!["NSSET", "ns", "password", "hidden-ns"], Reply::ok());
    client.expect(args!["SELECT", "ns", "hidden-wrong"], Reply::error("Access denied"));
    client.expect(args!["SELECT", "ns", "hidden-ns"], Reply::ok());
    let mut shown = Vec::new();
    for request in [
        args!["INFO"],
        args!["CONFIG", "GET", "*"],
        args!["NSINFO", "ns"],
        args!["NSINFO", "default"],
        args!["CLIENT", "LIST"],
        args!["CLIENT", "INFO"],
    ] {
        shown.push(format!("{:?}", client.call(request)));
    }
    let process = format!("/proc/{}", server.pid());
    for name in ["cmdline", "environ"] {
        let bytes = std::fs::read(Path::new(&process).join(name)).expect("the server runs");
        shown.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    server.terminate();
    shown.extend(server.log());
    for text in shown {
        assert!(!text.contains("hidden-"), "{text}");
    }
}

#[test]
fn an_admin_file_that_does_not_serve() {
    let home = scratch_dir();
    let file = home.path().join("admin");
    let path = file.to_str().expect("a path");
    for (text, expected) in [(None, "cannot read it"), (Some("\n"), "needs a password")] {
        if let Some(text) = text {
            std::fs::write(&file, text).expect("a file");
        }
        let refusal = Setup::new().flags(&["--admin-file", path]).try_start().err();
        let refusal = refusal.expect("it refuses");
        assert_eq!(refusal.code, Some(1));
        assert!(refusal.log.iter().any(|line| line.contains(expected)), "{:?}", refusal.log);
    }
}

/// Whatever the umask, and also where others could read it before.
#[test]
fn what_is_stored_is_the_owners_alone() {
    let home = scratch_dir();
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    let mut server = Setup::new().home(home.path()).flags(&["--datasize", "524288"]).start();
    let fill = |server: &Server| {
        let mut client = server.connect();
        for number in 0..8 {
            client.call(args!["SET", format!("key{number}"), vec![b'v'; 200_000]]);
        }
    };
    fill(&server);
    rustix::process::umask(old);
    server.terminate();
    assert!(check_modes(home.path(), 0) > 4, "there are files");
    // An older server, or a copy, left them open.
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    for directory in ["data", "index"].map(|name| home.path().join(name)) {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            std::fs::set_permissions(path, mode(0o666)).expect("ours");
        }
        std::fs::set_permissions(&directory, mode(0o777)).expect("ours");
    }
    server.resume();
    fill(&server);
    check_modes(home.path(), 0);
    server.terminate();
    // Where somebody else's files are, the directory stays as it is, and ours are closed.
    let shared = scratch_dir();
    for name in ["data", "index"] {
        let directory = shared.path().join(name);
        std::fs::create_dir(&directory).expect("a directory");
        std::fs::write(directory.join("somebody's"), "text").expect("a file");
        std::fs::set_permissions(directory.join("somebody's"), mode(0o644)).expect("ours");
        std::fs::set_permissions(&directory, mode(0o755)).expect("ours");
    }
    let server = Setup::new().home(shared.path()).start();
    fill(&server);
    assert_eq!(std::fs::metadata(shared.path().join("data")).expect("it").mode() & 0o777, 0o755);
    assert_eq!(check_modes(shared.path(), 0o055), 2, "the two that are not ours");
}

/// Looks at both directories and all files in them; returns how many files there are or, where the
/// directories have other rights than the owner's, how many of the files do.
#[track_caller]
fn check_modes(home: &Path, directory_rights: u32) -> usize {
    let mut count = 0;
    for directory in ["data", "index"].map(|name| home.join(name)) {
        let mode = std::fs::metadata(&directory).expect("a directory").mode();
        assert_eq!(mode & 0o077, directory_rights, "{}: {mode:o}", directory.display());
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("a file").mode();
            let is_ours = entry.file_name() != "somebody's";
            assert!(mode & 0o077 == 0 || !is_ours, "{}: {mode:o}", entry.path().display());
            count += usize::from(directory_rights == 0 || mode & 0o077 != 0);
        }
    }
    count
}

// How many, and how long

#[test]
fn as_many_clients_as_allowed() {
    let server = Server::start(&["--maxclients", "5"]);
    let mut served: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    served.iter_mut().for_each(|client| client.expect(args!["PING"], pong()));
    for number in 0..200 {
        let mut refused = server.connect();
        // What it sends meanwhile does not keep it from reading why.
        if number % 2 == 0 {
            let _ = refused.send_raw(&encoded(args!["PING"]));
        }
        let expected = Reply::error("max number of clients reached");
        // Beyond a hundred at once they are closed without a word.
        match refused.receive() {
            Ok(reply) => assert_eq!(reply, expected),
            Err(error) => assert!(number > 100, "client {number}: {error}"),
        }
    }
    assert!(info_field(&mut served[0], "rejected_connections") >= 200);
    assert_eq!(info_field(&mut served[0], "maxclients"), 5);
    assert_eq!(info_field(&mut served[0], "connected_clients"), 5);
    drop(served.pop());
    let next = poll(REPLY_TIME_MAX, || {
        server.connect().try_call(args!["PING"]).ok().filter(|reply| *reply == pong())
    });
    assert!(next.is_some(), "a place becomes free");
    served.iter_mut().for_each(|client| client.expect(args!["PING"], pong()));
}

/// The limit of open files leaves room for the server's own.
#[test]
fn fewer_clients_where_files_are_few() {
    let home = scratch_dir();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 400 && exec \"$0\" \"$@\""])
        .arg(binary())
        .args([
            "--data",
            "d",
            "--index",
            "i",
            "--listen",
            "127.0.0.1",
            "--port",
            "0",
            "--buffer",
            "none",
        ])
        .current_dir(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut ready = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    while !ready.contains("zdb ready on ") {
        ready.clear();
        assert!(out.read_line(&mut ready).expect("a line") > 0, "the server ended");
    }
    let address = ready.trim().rsplit(' ').next().and_then(|place| place.parse().ok());
    let mut client = Client::connect(address.expect("an address")).expect("it serves");
    let clients_max = info_field(&mut client, "maxclients");
    assert!((150..272).contains(&clients_max), "{clients_max}");
    child.kill().expect("our own child can be killed");
    let mut err = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
    child.wait().expect("our own child");
    assert!(err.contains("instead of maxclients 10000: the limit of open files is 400"), "{err}");
}

#[test]
fn silent_clients_are_let_go() {
    let server = Server::start(&["--timeout", "2", "--cache", "16M"]);
    let mut talking = server.connect();
    talking.expect(args!["SET", "large", vec![b'v'; 4 << 20]], Reply::bulk("large"));
    let started = Instant::now();
    let mut silent = server.connect();
    silent.expect(args!["PING"], pong());
    // One that asks for a lot and does not read.
    let mut deaf = server.connect();
    deaf.send_raw(&encoded(args!["GET", "large"]).repeat(50)).expect("it is sent");
    silent.tcp().set_nonblocking(true).expect("a socket can be non-blocking");
    let gone = poll(Duration::from_secs(20), || {
        talking.expect(args!["PING"], pong());
        match silent.tcp().read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    });
    let elapsed = started.elapsed();
    assert!(matches!(gone, Some(Ok(0))), "{gone:?} after {elapsed:?}");
    assert!(elapsed >= Duration::from_millis(1900), "let go after {elapsed:?}");
    let both = poll(Duration::from_secs(20), || {
        (info_field(&mut talking, "timed_out_connections") == 2).then_some(())
    });
    assert!(both.is_some(), "the deaf one stays");
    let alone = poll(Duration::from_secs(20), || {
        (info_field(&mut talking, "connected_clients") == 1).then_some(())
    });
    assert!(alone.is_some(), "their connections stay");
    assert_eq!(info_field(&mut talking, "timeout_s"), 2);
    talking.expect(args!["GET", "missing"], Reply::Nil);
}
