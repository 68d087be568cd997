//! TLS where the kernel takes over after the handshake: what passes from one to the other, records that are
//! no data, ends of both sides. Where the kernel cannot, the same clients meet rustls alone.
//!
//! `ZDB_KERNEL_TLS`, which `compat-tests/kernel-tls` sets in its virtual machine, demands the kernel.

use compat_tests::client::{REPLY_TIME_MAX, encode, encoded};
use compat_tests::server::poll;
use compat_tests::tls::{Certificates, Identity};
use compat_tests::{Client, Reply, Server, args};
use rustls::{ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Connections that come and go, and what may stay of them.
const CONNECTION_COUNT: usize = 2000;
const GROWTH_BYTES_MAX: u64 = 8 << 20;
/// The log may have opened some files meanwhile.
const FILES_MAX: usize = 4;
/// Clients that are silent in the middle of a record; the server may have other work for a few threads.
const CLIENTS_SILENT: usize = 30;
/// How long a client is silent in the middle of a record, and what the server may work meanwhile.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_WORK_MAX: Duration = Duration::from_millis(500);
/// Of the kernel's clock for the time of processes.
const TICK: Duration = Duration::from_millis(10);

fn serve(certificates: &Certificates) -> Server {
    let server = Server::start(&certificates.flags());
    if std::env::var_os("ZDB_KERNEL_TLS").is_some() {
        assert_eq!(info(&server, "tls_kernel"), 1, "the kernel has what it takes");
    }
    server
}

#[track_caller]
fn connect(server: &Server, certificates: &Certificates) -> Client {
    let config = certificates.client(Identity::Nothing);
    let mut client = Client::connect_tls(server.tls_address(), config).expect("it connects");
    client.expect(args!["PING"], Reply::Simple("PONG".into()));
    client
}

#[track_caller]
fn info(server: &Server, field: &str) -> u64 {
    let text = server.connect().call(args!["INFO"]).into_bytes();
    let text = String::from_utf8(text.to_vec()).expect("INFO is text");
    let start = format!("{field}: ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{field} in {text}"))
}

/// Whether the connections of this server are the kernel's.
fn has_kernel(server: &Server) -> bool {
    info(server, "tls_kernel") == 1
}

/// Waits until nobody but the one who asks is connected.
#[track_caller]
fn expect_all_gone(server: &Server) {
    let gone = poll(REPLY_TIME_MAX, || (info(server, "connected_clients") == 1).then_some(()));
    assert!(gone.is_some(), "{} clients are still there", info(server, "connected_clients") - 1);
}

/// What the server and the kernel's threads for it have worked.
fn worked(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u32>().expect("a number");
    TICK * (ticks(11) + ticks(12))
}

fn thread_count(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs").count()
}

/// The handshake up to the client's last part of it, which the session still holds.
fn shake_hands(server: &Server, config: Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    let mut session =
        ClientConnection::new(config, "localhost".try_into().expect("a name")).expect("a client");
    let mut socket = TcpStream::connect(server.tls_address()).expect("it connects");
    socket.set_read_timeout(Some(REPLY_TIME_MAX)).expect("a time limit");
    session.write_tls(&mut socket).expect("the hello is sent");
    while session.is_handshaking() {
        session.read_tls(&mut socket).expect("the server answers");
        session.process_new_packets().expect("the server can be believed");
    }
    (session, socket)
}

/// The bytes of requests and of whatever else the session has to say.
fn records(session: &mut ClientConnection, requests: &[u8]) -> Vec<u8> {
    session.writer().write_all(requests).expect("it is in memory");
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("it is in memory");
    }
    bytes
}

/// All that the server says until its goodbye; without one it is an error.
fn read_to_goodbye(session: &mut ClientConnection, socket: &mut TcpStream) -> Vec<u8> {
    let mut text = Vec::new();
    rustls::Stream::new(session, socket).read_to_end(&mut text).expect("all of it and a goodbye");
    text
}

#[test]
fn it_can_be_switched_off() {
    let certificates = Certificates::new();
    let mut flags = certificates.flags();
    flags.extend(["--tls-kernel".to_owned(), "never".to_owned()]);
    let server = Server::start(&flags);
    connect(&server, &certificates);
    assert_eq!((info(&server, "tls_kernel"), info(&server, "tls_handshakes_kernel")), (0, 0));
    assert_eq!(info(&server, "tls_handshakes"), 1);
}

#[test]
fn connections_are_counted() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    connect(&server, &certificates);
    let has_kernel = has_kernel(&server);
    assert_eq!(info(&server, "tls_handshakes_kernel"), u64::from(has_kernel));
    if has_kernel {
        let stat = std::fs::read_to_string("/proc/net/tls_stat").expect("the kernel counts");
        for name in ["TlsTxSw", "TlsRxSw"] {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(line.trim().parse::<u64>().expect("a number") > 0, "{stat}");
        }
    }
}

/// A client that knows AES alone stays with rustls.
#[test]
fn a_client_with_aes_alone() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut config = (*certificates.client(Identity::Nothing)).clone();
    let mut provider = (**config.crypto_provider()).clone();
    provider.cipher_suites.retain(|one| format!("{:?}", one.suite()).contains("AES"));
    assert!(!provider.cipher_suites.is_empty());
    let mut roots = rustls::RootCertStore::empty();
    let authority = std::fs::read(certificates.path("authority.pem")).expect("an authority");
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&authority).expect("PEM")).unwrap();
    config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = Client::connect_tls(server.tls_address(), config.into()).expect("it connects");
    client.expect(args!["SET", "key", vec![b'v'; MIB]], Reply::bulk("key"));
    client.expect(args!["GET", "key"], Reply::bulk(vec![b'v'; MIB]));
    assert_eq!(info(&server, "tls_handshakes_kernel"), 0);
}

/// Requests in the same segment as the end of the handshake, and an end of the client right behind them.
#[test]
fn requests_right_behind_the_handshake() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let config = certificates.client(Identity::Nothing);
    for count in [1, 2000] {
        for (says_goodbye, closes) in [(false, false), (true, false), (false, true), (true, true)] {
            let (mut session, mut socket) = shake_hands(&server, config.clone());
            let mut requests = encoded(args!["ECHO", "x"]).repeat(count);
            if !says_goodbye && !closes {
                encode(args!["QUIT"], &mut requests);
            }
            let mut bytes = records(&mut session, &requests);
            if says_goodbye {
                session.send_close_notify();
                session.write_tls(&mut bytes).expect("it is in memory");
            }
            socket.write_all(&bytes).expect("it is sent");
            if closes {
                socket.shutdown(Shutdown::Write).expect("a half-close");
            }
            let text = read_to_goodbye(&mut session, &mut socket);
            let replies = b"$1\r\nx\r\n".repeat(count);
            assert!(text.starts_with(&replies), "{count} {says_goodbye} {closes}: {}", text.len());
        }
    }
    expect_all_gone(&server);
}

/// The handshake byte by byte, and requests behind it.
#[test]
fn a_handshake_in_pieces() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let (mut session, mut socket) = shake_hands(&server, certificates.client(Identity::Nothing));
    socket.set_nodelay(true).expect("a socket takes options");
    let mut requests = encoded(args!["ECHO", "x"]);
    encode(args!["QUIT"], &mut requests);
    for byte in records(&mut session, &requests) {
        socket.write_all(&[byte]).expect("it is sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    let text = read_to_goodbye(&mut session, &mut socket);
    assert!(text.starts_with(b"$1\r\nx\r\n"), "{}", text.escape_ascii());
}

/// A client's goodbye ends its connection, with or without data before it and bytes behind it.
#[test]
fn goodbyes_of_clients() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    for (requests, behind) in
        [(0, &b""[..]), (3, b""), (0, b"more"), (3, b"more"), (3, &[23; 4000])]
    {
        let mut client = connect(&server, &certificates);
        let stream = client.tls();
        let mut bytes = records(&mut stream.conn, &encoded(args!["ECHO", "x"]).repeat(requests));
        stream.conn.send_close_notify();
        stream.conn.write_tls(&mut bytes).expect("it is in memory");
        bytes.extend_from_slice(behind);
        stream.sock.write_all(&bytes).expect("it is sent");
        if behind.is_empty() {
            for _ in 0..requests {
                assert_eq!(client.receive().expect("a reply"), Reply::bulk("x"));
            }
            assert_eq!(client.tls().read(&mut [0; 16]).expect("a goodbye"), 0);
        }
        expect_all_gone(&server);
    }
    assert!(!server.log().iter().any(|line| line.contains("TLS: ")), "{:?}", server.log());
}

/// Clients that are gone without a word.
#[test]
fn clients_that_vanish() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    for _ in 0..20 {
        let client = connect(&server, &certificates);
        socket2::SockRef::from(client.tcp()).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(client);
        let mut client = connect(&server, &certificates);
        let stream = client.tls();
        let bytes = records(&mut stream.conn, &encoded(args!["PING"]));
        stream.sock.write_all(&bytes[..bytes.len() - 1]).expect("it is sent");
    }
    expect_all_gone(&server);
}

/// A new key is refused by a connection of the kernel, and rustls takes it.
#[test]
fn a_new_key() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut client = connect(&server, &certificates);
    client.tls().conn.refresh_traffic_keys().expect("rustls can");
    let reply = client.try_call(args!["PING"]);
    if has_kernel(&server) {
        reply.expect_err("the kernel has the old one");
        server.wait_for_log("the new key", |line| line.contains("a new key, which only rustls"));
    } else {
        assert_eq!(reply.expect("a reply"), Reply::Simple("PONG".into()));
        drop(client);
    }
    expect_all_gone(&server);
    server.ask_others();
}

/// Bytes that are no record, or none of this connection.
#[test]
fn garbage() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut witness = connect(&server, &certificates);
    let whole = |kind: u8, length: u16, fill: u8| {
        let mut record = vec![kind, 3, 3];
        record.extend_from_slice(&length.to_be_bytes());
        record.resize(5 + usize::from(length), fill);
        record
    };
    for bytes in [
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        whole(23, 100, 7),
        whole(21, 2, 0),
        whole(21, 19, 0),
        whole(22, 40, 9),
        whole(20, 1, 1),
        whole(255, 300, 0),
        whole(23, 0, 0),
        whole(23, 1, 0),
        whole(23, 17, 0),
        whole(23, 16640, 1),
        whole(23, 16641, 1),
        whole(23, 65535, 1),
        [&[23, 1, 1], &[0; 100][..]].concat(),
        vec![0; 100_000],
        vec![255; 100_000],
    ] {
        let mut client = connect(&server, &certificates);
        // The server may have closed before all is out.
        let _ = client.tls().sock.write_all(&bytes);
        let _ = client.tls().sock.shutdown(Shutdown::Write);
        let ended = client.receive().expect_err("no reply to garbage");
        assert!(ended.kind() != ErrorKind::WouldBlock, "it goes on behind {:?}", &bytes[..5]);
        witness.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    drop(witness);
    expect_all_gone(&server);
    let lines = server.log().iter().filter(|line| line.contains("TLS: client")).count();
    assert!(lines >= 1, "{:?}", server.log());
}

/// Half a record and silence cost nothing, and no thread.
#[test]
fn half_a_record() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut clients: Vec<Client> =
        (0..CLIENTS_SILENT).map(|_| connect(&server, &certificates)).collect();
    server.ask_others();
    let threads = thread_count(&server);
    let mut rests = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        let stream = client.tls();
        let bytes = records(&mut stream.conn, &encoded(args!["ECHO", vec![b'x'; 1000]]));
        let cut = [1, 4, 5, 500][at % 4];
        stream.sock.write_all(&bytes[..cut]).expect("it is sent");
        rests.push(bytes[cut..].to_vec());
    }
    server.ask_others();
    let before = worked(&server);
    std::thread::sleep(SILENCE);
    let (work, grown) = (worked(&server) - before, thread_count(&server).saturating_sub(threads));
    println!("{work:?} of work in {SILENCE:?}, {grown} more threads than {threads}");
    assert!(work < SILENCE_WORK_MAX, "{work:?} of work in {SILENCE:?} of silence");
    assert!(grown < CLIENTS_SILENT / 4, "{grown} more threads, of {threads}");
    for (client, rest) in clients.iter_mut().zip(rests) {
        client.tls().sock.write_all(&rest).expect("it is sent");
        assert_eq!(client.receive().expect("a reply"), Reply::bulk(vec![b'x'; 1000]));
    }
}

/// A client that does not read for a while and then takes all: its last bytes wait in the kernel with the
/// server's goodbye behind them.
#[test]
fn a_slow_reader() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let value: Vec<u8> = (0..MIB).map(|at| (at * 7 + at / 251) as u8).collect();
    server.connect().expect(args!["SET", "key", value], Reply::bulk("key"));
    for (count, closes) in [(64, false), (64, true), (3, false)] {
        let mut client = connect(&server, &certificates);
        let mut requests = encoded(args!["GET", "key"]).repeat(count);
        if !closes {
            encode(args!["QUIT"], &mut requests);
        }
        client.send_raw(&requests).expect("it is sent");
        if closes {
            client.tcp().shutdown(Shutdown::Write).expect("a half-close");
        }
        server.ask_others();
        std::thread::sleep(Duration::from_millis(1500));
        for _ in 0..count {
            assert_eq!(client.receive().expect("a reply"), Reply::bulk(&value));
        }
        if !closes {
            client.receive().expect("the reply to QUIT");
        }
        assert_eq!(client.tls().read(&mut [0; 16]).expect("a goodbye"), 0);
    }
    expect_all_gone(&server);
}

/// What comes unasked, to many at once.
#[test]
fn a_monitor() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let mut monitor = connect(&server, &certificates);
    monitor.expect(args!["MONITOR"], Reply::Simple("OK".into()));
    let mut client = connect(&server, &certificates);
    for number in 0..100 {
        client.expect(args!["ECHO", number.to_string()], Reply::bulk(number.to_string()));
    }
    let mut seen = 0;
    while seen < 100 {
        let Reply::Simple(line) = monitor.receive().expect("a line") else {
            panic!("no line of MONITOR")
        };
        seen += usize::from(format!("{line:?}").contains("ECHO"));
    }
}

#[test]
fn nothing_stays_of_those_who_go() {
    let certificates = Certificates::new();
    let server = serve(&certificates);
    let config = certificates.client(Identity::Nothing);
    let come_and_go = |count: usize| {
        for number in 0..count {
            let mut client =
                Client::connect_tls(server.tls_address(), config.clone()).expect("TCP");
            client.expect(args!["PING"], Reply::Simple("PONG".into()));
            if number % 2 == 0 {
                client.tls().conn.send_close_notify();
                client.tls().flush().expect("it is sent");
            }
        }
        expect_all_gone(&server);
    };
    come_and_go(CONNECTION_COUNT / 10);
    let before = (server.descriptor_count(), server.resident_bytes());
    come_and_go(CONNECTION_COUNT);
    let after = (server.descriptor_count(), server.resident_bytes());
    println!("descriptors {} -> {}, bytes {} -> {}", before.0, after.0, before.1, after.1);
    assert!(after.0 <= before.0 + FILES_MAX, "{} descriptors, {} before", after.0, before.0);
    assert!(after.1 < before.1 + GROWTH_BYTES_MAX, "{} bytes, {} before", after.1, before.1);
}

/// A stop with clients of all kinds: idle ones are told, deaf ones do not hold it up.
#[test]
fn a_stop() {
    let certificates = Certificates::new();
    let mut server = serve(&certificates);
    server.connect().expect(args!["SET", "key", vec![b'v'; MIB]], Reply::bulk("key"));
    let mut idle: Vec<Client> = (0..20).map(|_| connect(&server, &certificates)).collect();
    let mut deaf = connect(&server, &certificates);
    deaf.send_raw(&encoded(args!["GET", "key"]).repeat(50)).expect("it is sent");
    let (_session, _socket) = shake_hands(&server, certificates.client(Identity::Nothing));
    server.ask_others();
    let started = Instant::now();
    server.terminate();
    println!("stopped after {:?}", started.elapsed());
    for client in &mut idle {
        assert_eq!(client.tls().read(&mut [0; 16]).expect("a goodbye"), 0);
    }
}
