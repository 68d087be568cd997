//! TLS: redis-cli and a client of our own, those who are refused, and connections that come in pieces,
//! stop half-way or do not read.

use compat_tests::client::{REPLY_TIME_MAX, encode, encoded};
use compat_tests::server::{Setup, poll};
use compat_tests::tls::{Certificates, Identity};
use compat_tests::{Client, Reply, Server, args};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// How long the server waits for a handshake, and some time for a slow machine.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(25);
/// How much the server may grow for one connection, whatever it does, in bytes.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

fn serve(certificates: &Certificates) -> Server {
    Server::start(&certificates.flags())
}

#[track_caller]
fn connect(server: &Server, certificates: &Certificates, identity: Identity) -> Client {
    Client::connect_tls(server.tls_address(), certificates.client(identity)).expect("it connects")
}

fn redis_cli(address: SocketAddr, flags: &[String], words: &[&str]) -> Output {
    let port = address.port().to_string();
    Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port])
        .args(flags)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("redis-cli runs: ./test.sh installs it")
}

#[track_caller]
fn expect_cli(address: SocketAddr, flags: &[String], words: &[&str], expected: &str) {
    let output = redis_cli(address, flags, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, expected, "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn redis_cli_over_tls() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let flags = certificates.redis_flags(Identity::Nothing);
    let address = server.tls_address();
    expect_cli(address, &flags, &["PING"], "PONG\n");
    expect_cli(address, &flags, &["SET", "key", "a value"], "key\n");
    expect_cli(address, &flags, &["-3", "GET", "key"], "a value\n");
    expect_cli(address, &flags, &["-r", "50", "ECHO", "x"], &"x\n".repeat(50));
    // The plain port beside it serves the same keys.
    server.connect().expect(args!["GET", "key"], Reply::bulk("a value"));
}

#[test]
fn redis_cli_with_a_certificate_of_its_own() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.flags_with_clients());
    let flags = certificates.redis_flags(Identity::Client);
    expect_cli(server.tls_address(), &flags, &["SET", "key", "value"], "key\n");
    expect_cli(server.tls_address(), &flags, &["GET", "key"], "value\n");
}

#[test]
fn redis_benchmark_over_tls() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.tls_address().port().to_string()])
        .args(certificates.redis_flags(Identity::Nothing))
        .args(["-t", "set,get", "-n", "3000", "-P", "4", "-c", "20", "--csv"])
        .output()
        .expect("redis-benchmark runs: ./test.sh installs it");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3, "{output:?}");
}

/// TLS alone: no plain port is open.
#[test]
fn tls_alone() {
    let certificates = Certificates::new();
    let mut flags = certificates.flags();
    flags.extend(["--port".to_owned(), "none".to_owned()]);
    let server = Server::start(&flags);
    assert_eq!(server.address(), server.tls_address());
    connect(&server, &certificates, Identity::Nothing)
        .expect(args!["PING"], Reply::Simple("PONG".into()));
}

/// Those who are not let in: each is told by an alert or a close, nobody else notices, and the log does
/// not grow with them.
#[test]
fn who_is_refused() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.flags_with_clients());
    let address = server.tls_address();
    for round in 0..30 {
        for identity in [Identity::Nothing, Identity::Stranger] {
            let mut client = connect(&server, &certificates, identity);
            let error = client.try_call(args!["PING"]).expect_err("it is not let in");
            let known = matches!(error.kind(), ErrorKind::InvalidData);
            assert!(known, "{identity:?}: an alert, not {error} in round {round}");
        }
        // Plain requests to the TLS port.
        let mut plain = Client::connect(address).expect("it connects");
        plain.send_raw(b"*1\r\n$4\r\nPING\r\n").expect("it is sent");
        let mut answer = Vec::new();
        let _ = plain.tcp().read_to_end(&mut answer);
        assert!(answer.len() <= 7 && !answer.starts_with(b"+"), "{}", answer.escape_ascii());
    }
    // A client of the server's own authority that does not trust the server.
    let stranger = Certificates::new();
    let mut client =
        Client::connect_tls(address, stranger.client(Identity::Client)).expect("it connects");
    client.try_call(args!["PING"]).expect_err("the client does not believe the server");
    server.ask_others();
    connect(&server, &certificates, Identity::Client)
        .expect(args!["SET", "key", "value"], Reply::bulk("key"));
    let lines = server.log().iter().filter(|line| line.contains("TLS: client")).count();
    assert!((1..45).contains(&lines), "{lines} lines about 91 failures");
    let info = server.connect().call(args!["INFO"]).into_bytes();
    let info = String::from_utf8(info.to_vec()).expect("INFO is text");
    assert!(info.contains("tls_handshakes_failed: 9"), "{info}");
}

#[test]
fn tls_to_the_plain_port() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let flags = certificates.redis_flags(Identity::Nothing);
    let output = redis_cli(server.address(), &flags, &["PING"]);
    assert!(!output.status.success(), "{output:?}");
    let mut client =
        Client::connect_tls(server.address(), certificates.client(Identity::Nothing)).expect("TCP");
    client.try_call(args!["PING"]).expect_err("no TLS there");
    server.ask_others();
}

#[test]
fn tls_1_2_is_refused() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let try_version = |version: &str| {
        Command::new("openssl")
            .args(["s_client", "-connect", &server.tls_address().to_string(), version])
            .args(["-CAfile", certificates.path("authority.pem").to_str().expect("a path")])
            .args(["-verify_return_error", "-brief"])
            .stdin(Stdio::null())
            .output()
            .expect("openssl runs: ./test.sh installs it")
    };
    let old = try_version("-tls1_2");
    let text = String::from_utf8_lossy(&old.stderr).into_owned();
    assert!(!old.status.success() && text.contains("protocol version"), "{text}");
    let new = try_version("-tls1_3");
    let text = String::from_utf8_lossy(&new.stderr).into_owned();
    assert!(new.status.success() && text.contains("TLSv1.3"), "{text}");
}

/// Clients that connect and say nothing, or say it too slowly.
#[test]
fn slow_handshakes_end() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let started = Instant::now();
    let mut silent = TcpStream::connect(server.tls_address()).expect("it connects");
    let slow = TcpStream::connect(server.tls_address()).expect("it connects");
    let mut connection = rustls::ClientConnection::new(
        certificates.client(Identity::Nothing),
        "localhost".try_into().expect("a name"),
    )
    .expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("it is in memory");
    let mut byte = hello[..hello.len() - 1].iter();
    slow.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut written = Instant::now();
    // A byte now and then does not make the time longer.
    let ended = poll(HANDSHAKE_TIME_MAX, || {
        if written.elapsed() > Duration::from_millis(50)
            && let Some(byte) = byte.next()
        {
            written = Instant::now();
            let _ = (&slow).write(&[*byte]);
        }
        match (&slow).read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    });
    let elapsed = started.elapsed();
    assert!(ended.is_some(), "a slow handshake goes on after {elapsed:?}");
    assert!(elapsed >= HANDSHAKE_TIME - Duration::from_secs(1), "ended after {elapsed:?}");
    silent.set_read_timeout(Some(HANDSHAKE_TIME_MAX)).expect("a time limit");
    let count = silent.read(&mut [0; 16]).unwrap_or(0);
    assert_eq!(count, 0, "the silent client is let go");
    server.ask_others();
    // One that was in time stays.
    connect(&server, &certificates, Identity::Nothing)
        .expect(args!["PING"], Reply::Simple("PONG".into()));
}

/// The client says that nothing follows, and gets all its replies and the server's goodbye.
#[test]
fn half_closed() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    for with_goodbye in [true, false] {
        let mut client = connect(&server, &certificates, Identity::Nothing);
        let mut requests = Vec::new();
        encode(args!["SET", "key", vec![b'v'; MIB]], &mut requests);
        (0..20).for_each(|_| encode(args!["GET", "key"], &mut requests));
        client.send_raw(&requests).expect("it is sent");
        if with_goodbye {
            let stream = client.tls();
            stream.conn.send_close_notify();
            stream.flush().expect("it is sent");
        }
        client.tcp().shutdown(Shutdown::Write).expect("a half-close");
        assert!(matches!(client.receive().expect("a reply"), Reply::Bulk(_) | Reply::Nil));
        for _ in 0..20 {
            assert_eq!(client.receive().expect("a reply"), Reply::bulk(vec![b'v'; MIB]));
        }
        // Without the server's close_notify this would be an error.
        assert_eq!(client.tls().read(&mut [0; 16]).expect("a goodbye"), 0);
    }
}

#[test]
fn ten_thousand_requests_in_one_go() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut client = connect(&server, &certificates, Identity::Nothing);
    let mut requests = Vec::new();
    for number in 0..10_000 {
        encode(args!["SET", format!("key{}", number % 100), number.to_string()], &mut requests);
        encode(args!["GET", format!("key{}", number % 100)], &mut requests);
    }
    client.send_raw(&requests).expect("it is sent");
    for number in 0..10_000 {
        assert!(matches!(client.receive().expect("a reply"), Reply::Bulk(_)));
        assert_eq!(client.receive().expect("a reply"), Reply::bulk(number.to_string()));
    }
}

#[test]
fn large_values_both_ways() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut client = connect(&server, &certificates, Identity::Nothing);
    let value: Vec<u8> = (0..8 * MIB).map(|at| (at * 7 + at / 251) as u8).collect();
    client.expect(args!["SET", "large", value], Reply::bulk("large"));
    for _ in 0..3 {
        client.expect(args!["GET", "large"], Reply::bulk(&value));
    }
    // Many at once, more than any buffer.
    client.send_raw(&encoded(args!["GET", "large"]).repeat(8)).expect("it is sent");
    for _ in 0..8 {
        assert_eq!(client.receive().expect("a reply"), Reply::bulk(&value));
    }
    client.expect(args!["ECHO", vec![b'x'; 8 * MIB + 1]], Reply::error("Payload too big"));
    client.wait_closed().expect("the framing is lost");
}

/// A record for each byte, and then each byte of a record on its own.
#[test]
fn byte_by_byte() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut client = connect(&server, &certificates, Identity::Nothing);
    let requests = [encoded(args!["SET", "key", "value"]), encoded(args!["GET", "key"])].concat();
    for byte in &requests {
        client.send_raw(&[*byte]).expect("it is sent");
    }
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("key"));
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("value"));
    let stream = client.tls();
    stream.conn.writer().write_all(&requests).expect("it is in memory");
    let mut records = Vec::new();
    stream.conn.write_tls(&mut records).expect("it is in memory");
    for byte in records {
        stream.sock.write_all(&[byte]).expect("it is sent");
    }
    assert_eq!(client.receive().expect("a reply"), Reply::Nil, "SET of the same value");
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("value"));
    // A record that was tampered with.
    let stream = client.tls();
    stream.conn.writer().write_all(&requests).expect("it is in memory");
    let mut records = Vec::new();
    stream.conn.write_tls(&mut records).expect("it is in memory");
    records[20] ^= 1;
    stream.sock.write_all(&records).expect("it is sent");
    client.receive().expect_err("nothing of it is done");
    server.ask_others();
}

#[test]
fn a_client_that_never_reads() {
    let certificates = Certificates::new();
    let mut flags = certificates.flags();
    flags.extend(["--cache".to_owned(), "16M".to_owned()]);
    let server = Server::start(&flags);
    server.connect().expect(args!["SET", "large", vec![b'v'; MIB]], Reply::bulk("large"));
    server.ask_others();
    let before = server.resident_bytes();
    let mut deaf = connect(&server, &certificates, Identity::Nothing);
    deaf.expect(args!["PING"], Reply::Simple("PONG".into()));
    let request = encoded(args!["GET", "large"]);
    deaf.tcp().set_nonblocking(true).expect("a socket can be non-blocking");
    let mut sent = 0usize;
    let mut full_since = None;
    while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        match deaf.tls().write(&request) {
            Ok(count) => {
                sent += count;
                full_since = None;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                full_since.get_or_insert_with(Instant::now);
                server.ask_others();
            }
            Err(error) => panic!("the deaf client is thrown out: {error}"),
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes after {sent} bytes of requests");
    }
    server.ask_others();
}

/// A stop says goodbye to everybody.
#[test]
fn a_stop_is_told() {
    let certificates = Certificates::new();
    let mut server = serve(&certificates);
    let mut client = connect(&server, &certificates, Identity::Nothing);
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    server.terminate();
    assert_eq!(client.tls().read(&mut [0; 16]).expect("a goodbye"), 0);
}

#[test]
fn files_that_do_not_fit() {
    let certificates = Certificates::new();
    let path = |name: &str| certificates.path(name).to_str().expect("a path").to_owned();
    for (certificate, key, ca, expected) in [
        ("nothing.pem", "server.key", None, "nothing.pem"),
        ("server.pem", "nothing.key", None, "nothing.key"),
        ("server.key", "server.key", None, "no certificate in it"),
        ("server.pem", "client.key", None, "cannot be used"),
        ("server.pem", "server.key", Some("server.key"), "no certificate in it"),
    ] {
        let mut flags = vec!["--tls-port".to_owned(), "0".to_owned()];
        flags.extend(["--tls-cert".to_owned(), path(certificate)]);
        flags.extend(["--tls-key".to_owned(), path(key)]);
        if let Some(ca) = ca {
            flags.extend(["--tls-ca".to_owned(), path(ca)]);
        }
        let refusal = Setup::new().flags(&flags).try_start().err().expect("it refuses");
        assert_eq!(refusal.code, Some(1), "{certificate} {key}");
        let named = refusal.log.iter().any(|line| line.contains(expected));
        assert!(named, "{expected} in {:?}", refusal.log);
    }
}

/// New certificates count from the next connection on; those that are there go on, and files that
/// cannot be used change nothing.
#[test]
fn certificates_are_read_again() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.flags_with_clients());
    let mut before = connect(&server, &certificates, Identity::Client);
    before.expect(args!["PING"], Reply::Simple("PONG".into()));
    let old = certificates.client(Identity::Client);
    let pid = Pid::from_raw(server.pid() as i32).expect("a process");
    let key = std::fs::read(certificates.path("server.key")).expect("a key");
    std::fs::write(certificates.path("server.key"), "no key").expect("a file");
    kill_process(pid, Signal::HUP).expect("our own child");
    server.wait_for_log("the refusal", |line| line.contains("the certificates stay as they were"));
    let mut still = connect(&server, &certificates, Identity::Client);
    still.expect(args!["PING"], Reply::Simple("PONG".into()));
    std::fs::write(certificates.path("server.key"), key).expect("a file");
    certificates.renew();
    kill_process(pid, Signal::HUP).expect("our own child");
    server.wait_for_log("the new certificates", |line| line.contains("certificates read again"));
    let mut after = connect(&server, &certificates, Identity::Client);
    after.expect(args!["PING"], Reply::Simple("PONG".into()));
    let mut outdated = Client::connect_tls(server.tls_address(), old).expect("it connects");
    outdated.try_call(args!["PING"]).expect_err("its authority is no more");
    before.expect(args!["PING"], Reply::Simple("PONG".into()));
}

/// Beside TCP and the unix socket, all with the same keys.
#[test]
fn three_doors() {
    let certificates = Certificates::new();
    let home = compat_tests::server::scratch_dir();
    let socket = home.path().join("zdb.sock");
    let mut flags = certificates.flags();
    flags.extend(["--socket".to_owned(), socket.to_str().expect("a path").to_owned()]);
    flags.push("--dualnet".to_owned());
    let mut server = Server::start(&flags);
    let mut unix = Client::connect_unix(&socket).expect("the unix socket");
    unix.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
    connect(&server, &certificates, Identity::Nothing)
        .expect(args!["GET", "key"], Reply::bulk("value"));
    let gone = poll(REPLY_TIME_MAX, || {
        let list = unix.call(args!["CLIENT", "LIST"]).into_bytes();
        (list.iter().filter(|&&byte| byte == b'\n').count() == 1).then_some(())
    });
    assert!(gone.is_some(), "the other two are gone");
    server.terminate();
    assert!(!socket.exists(), "the socket goes with the server");
}
