//! Connections in all their ways: deep pipelines, requests in pieces, clients that are silent, deaf or
//! forgetful, and many of them.
//!
//! The long run of clients that come and go:
//! `ZDB_CONNECTION_COUNT=100000 cargo test --release -p compat-tests --test connections come_and_go`.

use compat_tests::client::{REPLY_TIME_MAX, encode, encoded};
use compat_tests::server::poll;
use compat_tests::{Client, Reply, Server, args, count_from_env, seed};
use fastrand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// What a server may keep for the next clients, however many have come and gone: buffers for as many
/// as were there at once.
const SPARE_BYTES_MAX: u64 = 40 << 20;
/// How much the server may grow beyond its buffers for one connection, whatever it does, in bytes.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Raises this process's limit of open files, and so its servers', as far as it may.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("up to the hard limit");
}

// Pipelines

#[test]
fn pipelines_answer_in_order() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    for depth in [1, 2, 1023, 1024, 1025, 5000] {
        let mut requests = Vec::new();
        for number in 0..depth {
            encode(args!["ECHO", number.to_string()], &mut requests);
        }
        client.send_raw(&requests).expect("5000 short requests fit the socket");
        for number in 0..depth {
            assert_eq!(client.receive().expect("a reply"), Reply::bulk(number.to_string()));
        }
    }
}

/// Writes and reads of the same keys: every GET sees the SET before it, whatever waits for the disk.
#[test]
fn a_pipeline_beyond_any_buffer() {
    let server = Server::start(&["--cache", "1M"]);
    let mut client = server.connect();
    let depth = 200_000;
    let value = |number: usize| format!("value {number} {}", "x".repeat(number % 300));
    let mut requests = Vec::new();
    for number in 0..depth {
        let key = format!("key{}", number % 1000);
        encode(args!["SET", key, value(number)], &mut requests);
        encode(args!["GET", key], &mut requests);
        encode(args!["NOSUCHCOMMAND"], &mut requests);
    }
    let (replies, ending) = client.pipeline(&requests, depth * 3);
    ending.expect("all replies come");
    for (number, replies) in replies.chunks_exact(3).enumerate() {
        assert_eq!(replies[0], Reply::bulk(format!("key{}", number % 1000)));
        assert_eq!(replies[1], Reply::bulk(value(number)));
        assert_eq!(replies[2], Reply::error("Command not supported"));
    }
    client.expect(args!["DBSIZE"], Reply::Integer(1000));
}

#[test]
fn a_half_closed_connection_gets_its_replies() {
    let server = Server::start::<&str>(&[]);
    for round in 0..50 {
        let mut client = server.connect();
        let key = format!("key{round}");
        let mut requests = encoded(args!["SET", key, "value"]);
        encode(args!["GET", key], &mut requests);
        client.send_raw(&requests).expect("the requests are sent");
        client.tcp().shutdown(Shutdown::Write).expect("a half-close");
        assert_eq!(client.receive().expect("a reply"), Reply::bulk(&key));
        assert_eq!(client.receive().expect("a reply"), Reply::bulk("value"));
        client.wait_closed().expect("the server closes its half as well");
    }
}

/// A client that writes and goes without a goodbye: what arrived whole is done.
#[test]
fn a_closed_connection_has_its_requests_done() {
    let server = Server::start::<&str>(&[]);
    for round in 0..50 {
        let mut client = server.connect();
        client
            .send_raw(&encoded(args!["SET", format!("key{round}"), "value"]))
            .expect("it is sent");
    }
    let mut client = server.connect();
    let done =
        poll(REPLY_TIME_MAX, || (client.call(args!["DBSIZE"]) == Reply::Integer(50)).then_some(()));
    assert!(done.is_some(), "{:?} of 50 requests were done", client.call(args!["DBSIZE"]));
}

// Requests in pieces

#[test]
fn requests_split_at_every_byte() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let mut bytes = Vec::new();
    encode(args!["SET", "key", "a value\r\n*1\r\n$4\r\nPING\r\n"], &mut bytes);
    encode(args!["GET", "key"], &mut bytes);
    encode(args!["GET", ""], &mut bytes);
    bytes.extend_from_slice(b"ECHO \"quoted \\x41\"\r\n");
    encode(args!["MGET", "key", "", "missing"], &mut bytes);
    encode(args!["DEL", "key"], &mut bytes);
    let value = Reply::bulk("a value\r\n*1\r\n$4\r\nPING\r\n");
    let expected = [
        Reply::bulk("key"),
        value.clone(),
        Reply::error("Invalid argument"),
        Reply::bulk("quoted A"),
        Reply::Array(vec![value, Reply::Nil, Reply::Nil]),
        Reply::ok(),
    ];
    // In two pieces, at every place; then byte by byte.
    let mut splits: Vec<Vec<&[u8]>> =
        (1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]).collect();
    splits.push(bytes.chunks(1).collect());
    splits.push(bytes.chunks(3).collect());
    for pieces in splits {
        let first = pieces[0].len();
        for piece in pieces {
            client.send_raw(piece).expect("a piece is sent");
            // The server sees the pieces apart: each send is a segment of its own, and this one is read.
            other_turn(&server);
        }
        for reply in &expected {
            assert_eq!(client.receive().expect("a reply"), *reply, "first piece of {first} bytes");
        }
    }
}

/// A request of another connection: when it is answered, the server has read what was sent before.
fn other_turn(server: &Server) {
    thread_local! {
        static OTHER: std::cell::RefCell<Option<(SocketAddr, Client)>> = const { std::cell::RefCell::new(None) };
    }
    OTHER.with_borrow_mut(|other| {
        if other.as_ref().is_none_or(|(address, _)| *address != server.address()) {
            *other = Some((server.address(), server.connect()));
        }
        let (_, client) = other.as_mut().expect("it was opened above");
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
    });
}

#[test]
fn a_large_value_in_odd_pieces() {
    let server = Server::start::<&str>(&[]);
    let seed = seed("odd pieces");
    let mut random = Rng::with_seed(seed);
    let mut client = server.connect();
    for round in 0..10 {
        let size = random.usize(MIB..4 * MIB);
        let value: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        let request = encoded(args!["SET", "key", value]);
        let mut rest = &request[..];
        while !rest.is_empty() {
            let count = random.usize(1..=200_000).min(rest.len());
            client.send_raw(&rest[..count]).expect("a piece is sent");
            rest = &rest[count..];
        }
        assert_eq!(
            client.receive().expect("a reply"),
            Reply::bulk("key"),
            "round {round}, ZDB_SEED={seed}"
        );
        assert_eq!(
            client.call(args!["GET", "key"]),
            Reply::bulk(&value),
            "round {round}, ZDB_SEED={seed}"
        );
    }
}

/// Half-sent requests on a thousand connections, of every length up to a megabyte.
#[test]
fn half_sent_requests_hold_nobody_up() {
    raise_descriptor_limit();
    let server = Server::start::<&str>(&[]);
    let request = encoded(args!["SET", "never", vec![b'v'; MIB]]);
    let before = server.resident_bytes();
    let mut silent: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
    for (number, client) in silent.iter_mut().enumerate() {
        let length = match number {
            0..900 => 1 + number % 40,
            900..990 => number * 70,
            _ => request.len() - 1,
        };
        client.send_raw(&request[..length]).expect("half a request is sent");
        if number % 100 == 0 {
            server.ask_others();
        }
    }
    server.ask_others();
    server.connect().expect(args!["GET", "never"], Reply::Nil);
    // What they sent, twice over, and a page for each.
    let sent: u64 = 90 * 66_150 + 10 * MIB as u64;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX + 2 * sent, "{grown} bytes for {sent} bytes of half requests");
    // The last ones finish theirs; the others go.
    for mut client in silent.drain(990..) {
        client.send_raw(&request[request.len() - 1..]).expect("the rest is sent");
        assert!(matches!(client.receive().expect("a reply"), Reply::Bulk(_) | Reply::Nil));
    }
    drop(silent);
    server.ask_others();
    let mut client = server.connect();
    client.expect(args!["GET", "never"], Reply::bulk(vec![b'v'; MIB]));
}

/// A header that announces a lot makes nobody reserve a lot.
#[test]
fn announced_sizes_reserve_nothing() {
    raise_descriptor_limit();
    let server = Server::start::<&str>(&[]);
    server.ask_others();
    let before = server.resident_bytes();
    let silent: Vec<Client> = (0..500)
        .map(|_| {
            let mut client = server.connect();
            client.send_raw(b"*1024\r\n$8388608\r\nstart").expect("the header is sent");
            client
        })
        .collect();
    server.ask_others();
    let grown = server.resident_bytes().saturating_sub(before);
    // 500 of 8 MiB would be 4 GiB.
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes for 500 headers");
    drop(silent);
}

/// What all connections together have sent of requests without an end is limited: the one that goes
/// beyond is told so, and what it sent is forgotten.
#[test]
fn unfinished_requests_share_a_limit() {
    const LIMIT_BYTES: usize = 2 << 30;
    let server = Server::start::<&str>(&[]);
    let part = vec![b'v'; 7 * MIB];
    let mut start = b"*4\r\n$4\r\nMGET\r\n".to_vec();
    for _ in 0..2 {
        start.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        start.extend_from_slice(&part);
        start.extend_from_slice(b"\r\n");
    }
    let mut silent: Vec<Client> = Vec::new();
    let enough = LIMIT_BYTES / start.len();
    for _ in 0..enough {
        let mut client = server.connect();
        client.send_raw(&start).expect("within the limit all is read");
        silent.push(client);
    }
    server.ask_others();
    assert!(silent.iter_mut().all(Client::is_quiet), "{enough} unfinished requests are too many");
    let mut last = server.connect();
    let (replies, _) = last.pipeline(&start, 1);
    let text = "Too many unfinished requests on all connections, try again later";
    assert_eq!(replies, [Reply::error(text)]);
    server.ask_others();
    // The others can finish theirs.
    let mut first = silent.remove(0);
    first.send_raw(b"$1\r\nk\r\n").expect("the rest is sent");
    assert_eq!(first.receive().expect("a reply"), Reply::error("Invalid key"));
}

// Clients that do not read

#[test]
fn a_client_that_never_reads_is_slowed_down() {
    let server = Server::start(&["--cache", "16M"]);
    let mut client = server.connect();
    client.expect(args!["SET", "large", vec![b'v'; MIB]], Reply::bulk("large"));
    client.expect(args!["SET", "small", "v"], Reply::bulk("small"));
    client.call(args!["GET", "large"]);
    server.ask_others();
    let before = server.resident_bytes();
    for request in
        [args!["GET", "large"], args!["GET", "small"], args!["PING"], args!["NOSUCHCOMMAND"]]
    {
        let mut deaf = server.connect();
        let request = encoded(request);
        let batch = request.repeat(65536 / request.len());
        deaf.tcp().set_nonblocking(true).expect("a socket can be non-blocking");
        let started = Instant::now();
        let mut sent = 0usize;
        let mut full_since = None;
        // The server stops reading: nothing more can be sent for a while.
        while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
            match deaf.tcp().write(&batch[sent % request.len()..]) {
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
            assert!(
                grown < GROWTH_BYTES_MAX,
                "{grown} bytes after {sent} bytes of requests without a reader"
            );
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the server reads on and on: {sent} bytes"
            );
        }
        // Slowed down, not forgotten: it gets all its replies once it reads.
        deaf.tcp().set_nonblocking(false).expect("a socket can be blocking");
        let whole = sent / request.len();
        for number in 0..whole.min(200) {
            deaf.receive().unwrap_or_else(|error| panic!("reply {number} of {whole}: {error}"));
        }
    }
    server.ask_others();
}

#[test]
fn a_large_mget_to_a_slow_reader() {
    let server = Server::start(&["--cache", "8M"]);
    let mut client = server.connect();
    let value = |number: usize| {
        let mut value = number.to_le_bytes().to_vec();
        value.resize(64 * 1024, number as u8);
        value
    };
    let mut requests = Vec::new();
    (0..1023)
        .for_each(|number| encode(args!["SET", number.to_string(), value(number)], &mut requests));
    let (replies, ending) = client.pipeline(&requests, 1023);
    ending.expect("all replies come");
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Bulk(_))));
    let mut mget = vec![b"MGET".to_vec()];
    mget.extend((0..1023).map(|number| number.to_string().into_bytes()));
    let before = server.resident_bytes();
    for _ in 0..3 {
        let values = client.call(&mget).into_array();
        assert_eq!(values.len(), 1023);
        for (number, reply) in values.into_iter().enumerate() {
            assert_eq!(reply, Reply::bulk(value(number)), "value {number}");
        }
        server.ask_others();
    }
    // Many of them unread: 64 MiB each.
    let mut deaf = server.connect();
    deaf.send_raw(&encoded(&mget).repeat(8)).expect("eight requests fit the socket");
    server.ask_others();
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 2 * 64 * MIB as u64 + GROWTH_BYTES_MAX, "{grown} bytes for eight unread MGETs");
    for _ in 0..8 {
        assert_eq!(deaf.receive().expect("a reply").into_array().len(), 1023);
    }
    mget.push(b"one too many".to_vec());
    client.expect(&mget, Reply::error("Too many arguments"));
    client.wait_closed().expect("the framing is lost");
}

// Clients that come and go

#[test]
fn clients_come_and_go() {
    let server = Server::start::<&str>(&[]);
    let address = server.address();
    let mut observer = server.connect();
    // The first thousands warm up what stays.
    visits(address, 2_000);
    wait_until_alone(&mut observer);
    let (descriptors, resident) = (server.descriptor_count(), server.resident_bytes());
    let count = count_from_env("ZDB_CONNECTION_COUNT", 10_000);
    visits(address, count);
    wait_until_alone(&mut observer);
    let after = server.descriptor_count();
    assert_eq!(after, descriptors, "descriptors after {count} clients");
    let grown = server.resident_bytes().saturating_sub(resident);
    println!("{grown} bytes more after {count} clients");
    assert!(grown < SPARE_BYTES_MAX, "{grown} bytes after {count} clients");
    server.ask_others();
}

/// Waits until the server knows of no other client.
fn wait_until_alone(observer: &mut Client) {
    let alone = poll(REPLY_TIME_MAX, || {
        let list = observer.call(args!["CLIENT", "LIST"]).into_bytes();
        let count = list.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
        (count == 1).then_some(())
    });
    assert!(alone.is_some(), "the server keeps clients that have gone");
}

/// Clients that leave in every way: after a reply, without one, amid a request, with a reset.
fn visits(address: SocketAddr, count: usize) {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in (thread..count).step_by(THREADS) {
                    visit(address, number);
                }
            });
        }
    });
}

fn visit(address: SocketAddr, number: usize) {
    let mut stream = connect_with_patience(address);
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    let mut buffer = [0; 64];
    match number % 4 {
        0 => {
            stream.write_all(b"*1\r\n$4\r\nQUIT\r\n").expect("it is sent");
            let mut replies = Vec::new();
            stream.read_to_end(&mut replies).expect("the server closes");
            assert_eq!(replies, b"+OK\r\n");
            return;
        }
        1 => {
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").expect("it is sent");
            stream.read_exact(&mut buffer[..7]).expect("a reply");
            assert_eq!(&buffer[..7], b"+PONG\r\n");
        }
        2 => stream
            .write_all(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$100000\r\nhalf")
            .expect("it is sent"),
        _ => stream.write_all(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n").expect("it is sent"),
    }
    // A reset frees the port at once: 28,000 of them would be used up in a minute's waiting.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket lingers not");
}

/// Connects; where all local ports wait for their time, waits with them.
fn connect_with_patience(address: SocketAddr) -> TcpStream {
    let stream = poll(Duration::from_secs(60), || match TcpStream::connect(address) {
        Ok(stream) => Some(stream),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
        Err(error) => panic!("no connection: {error}"),
    });
    stream.expect("a local port becomes free within a minute")
}

/// Many idle connections at once: as many as the test may open files.
#[test]
fn thousands_of_idle_connections() {
    raise_descriptor_limit();
    let server = Server::start::<&str>(&[]);
    let address: SockAddr = server.address().into();
    let idle: Vec<Socket> = (0..5_000)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
                .expect("a socket: allow 6000 open files (ulimit -Hn)");
            socket.connect(&address).expect("the server accepts");
            socket
        })
        .collect();
    server.ask_others();
    let mut last = TcpStream::from(idle.into_iter().next_back().expect("there are thousands"));
    last.write_all(b"*1\r\n$4\r\nPING\r\n").expect("it is sent");
    let mut reply = [0; 7];
    last.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"+PONG\r\n");
}

// Many at once, many of them slow

/// What each connection costs at most while it is idle, in bytes: its state and its two small buffers.
const CONNECTION_BYTES_MAX: u64 = 24 << 10;
/// Replies of one connection that wait before its requests wait too, in bytes (`output_bytes_max` in INFO).
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Replies of all connections together, beyond which each has only its share, in bytes.
const OUTPUT_BYTES_TOTAL_MAX: u64 = 1 << 30;
const OUTPUT_BYTES_SHARE: u64 = 16 << 10;

/// Ten thousand clients, a thousand of which ask for large values and never read them.
#[test]
fn ten_thousand_connections_a_thousand_slow() {
    const CLIENTS: usize = 10_000;
    const SLOW: usize = 1_000;
    // Below the size that is sent from the cache without a copy: each reply that waits costs its own.
    const VALUE_BYTES: usize = 12 << 10;
    const KEYS: usize = 64;
    const REQUESTS: usize = 400;
    raise_descriptor_limit();
    let server = Server::start(&["--maxclients", "11000"]);
    let mut filler = server.connect();
    for number in 0..KEYS {
        let value = vec![number as u8; VALUE_BYTES];
        filler.expect(
            args!["SET", format!("key{number}"), value],
            Reply::bulk(format!("key{number}")),
        );
    }
    (0..KEYS).for_each(|number| drop(filler.call(args!["GET", format!("key{number}")])));
    server.ask_others();
    let before = server.resident_bytes();
    let address: SockAddr = server.address().into();
    let connect = |receive_bytes: Option<usize>| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
            .expect("a socket: allow 11000 open files (ulimit -Hn)");
        if let Some(bytes) = receive_bytes {
            // A small window keeps the unread bytes in the server, where they are to be counted.
            socket.set_recv_buffer_size(bytes).expect("a smaller buffer");
        }
        socket.connect(&address).expect("the server accepts");
        TcpStream::from(socket)
    };
    let mut others: Vec<TcpStream> = (0..CLIENTS - SLOW).map(|_| connect(None)).collect();
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(REPLY_TIME_MAX)).expect("a time limit");
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").expect("it is sent");
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"+PONG\r\n");
    };
    others.iter_mut().for_each(ask);
    let idle = server.resident_bytes().saturating_sub(before);
    let mut requests = Vec::new();
    for number in 0..REQUESTS {
        encode(args!["GET", format!("key{}", number % KEYS)], &mut requests);
    }
    let mut slow: Vec<TcpStream> = (0..SLOW).map(|_| connect(Some(4096))).collect();
    for stream in &mut slow {
        stream.write_all(&requests).expect("some requests fit the socket");
    }
    let of_connections = CLIENTS as u64 * CONNECTION_BYTES_MAX;
    let of_each = OUTPUT_BYTES_MAX + VALUE_BYTES as u64;
    let of_all = OUTPUT_BYTES_TOTAL_MAX + SLOW as u64 * (OUTPUT_BYTES_SHARE + VALUE_BYTES as u64);
    let of_replies = (SLOW as u64 * of_each).min(of_all);
    // Whoever reads is served meanwhile, again and again, until nothing grows any more. The kernel takes
    // megabytes of each slow reader's replies first.
    let mut highest = 0;
    let mut since = Instant::now();
    let started = Instant::now();
    while (highest < of_replies / 4 || since.elapsed() < Duration::from_secs(2))
        && started.elapsed() < Duration::from_secs(120)
    {
        others.iter_mut().step_by(500).for_each(ask);
        let grown = server.resident_bytes().saturating_sub(before);
        if grown > highest + highest / 50 {
            since = Instant::now();
        }
        highest = highest.max(grown);
    }
    let allowed = of_connections + of_replies + GROWTH_BYTES_MAX;
    println!(
        "{highest} bytes grown, {idle} of them with {} idle clients; allowed {allowed} = {CLIENTS} * \
         {CONNECTION_BYTES_MAX} + min({SLOW} * ({OUTPUT_BYTES_MAX} + {VALUE_BYTES}), \
         {OUTPUT_BYTES_TOTAL_MAX} + {SLOW} * ({OUTPUT_BYTES_SHARE} + {VALUE_BYTES})) + {GROWTH_BYTES_MAX}",
        CLIENTS - SLOW
    );
    assert!(idle < of_connections, "{idle} bytes for {} idle clients", CLIENTS - SLOW);
    assert!(highest < allowed, "{highest} bytes grown, {allowed} allowed");
    // A test that fills nothing proves nothing.
    assert!(highest > of_replies / 4, "{highest} bytes: the slow readers hold nothing");
    others.iter_mut().for_each(ask);
    // Slowed down, not forgotten.
    for stream in slow.iter_mut().step_by(100) {
        stream.set_read_timeout(Some(REPLY_TIME_MAX)).expect("a time limit");
        for number in (0..REQUESTS).map(|number| number % KEYS) {
            let mut reply = vec![0; format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2];
            stream.read_exact(&mut reply).expect("a reply");
            assert_eq!(reply[reply.len() - 3], number as u8);
        }
    }
    server.ask_others();
}

/// Beside clients that always want more than a turn gives, large values come in piece by piece.
#[test]
fn pipelines_take_turns() {
    const FLOODS: usize = 8;
    const DEPTH: usize = 100;
    const UPLOADS: usize = 8;
    const LARGE_BYTES: usize = 8_000_000;
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let value = vec![b'x'; 100_000];
    client.expect(args!["SET", "flood", value], Reply::bulk("flood"));
    let requests = encoded(args!["GET", "flood"]).repeat(DEPTH);
    let reply_bytes = format!("$100000\r\n{}\r\n", "x".repeat(100_000)).len();
    let is_done = AtomicBool::new(false);
    let flood = || {
        let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
        stream.set_read_timeout(Some(REPLY_TIME_MAX)).expect("a time limit");
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        let mut asked = 0;
        while !is_done.load(Ordering::Relaxed) {
            if asked * reply_bytes <= bytes + DEPTH / 2 * reply_bytes {
                stream.write_all(&requests).expect("it is sent");
                asked += DEPTH;
            }
            bytes += stream.read(&mut buffer).expect("replies");
        }
        bytes
    };
    let taken: Vec<usize> = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..FLOODS).map(|_| scope.spawn(flood)).collect();
        for number in 0..UPLOADS {
            let large = vec![number as u8; LARGE_BYTES];
            client.expect(args!["SET", "large", large], Reply::bulk("large"));
        }
        is_done.store(true, Ordering::Relaxed);
        floods.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    // Of each turn the others get a megabyte, and a large value comes in eighths of one.
    let times = taken.iter().sum::<usize>() / (UPLOADS * LARGE_BYTES);
    assert!(times < 64, "while values came in, {times} times their bytes went out");
}
