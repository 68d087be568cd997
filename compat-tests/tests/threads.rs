//! `--threads`: sockets in several threads, commands in one. Most of what concerns connections is shown by the
//! other tests, with `ZDB_TEST_THREADS`; here is what only threads have.

use compat_tests::client::{encode, encoded};
use compat_tests::{Client, Reply, Server, args};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// What a server with one more thread may take for clients while it does not look at their requests: what the
/// thread holds and the buffers that it gives to the kernel, in bytes.
const UNSEEN_BYTES_MAX: u64 = 40 << 20;

/// How often each thread of sockets has slept, by its name.
fn sleeps(server: &Server) -> BTreeMap<String, u64> {
    let tasks = format!("/proc/{}/task", server.pid());
    let tasks = std::fs::read_dir(tasks).expect("the server runs").flatten();
    let threads = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((name, line.trim().parse().expect("a number")))
    });
    threads.filter(|(name, _)| name.starts_with("zdb-sockets")).collect()
}

#[test]
fn all_threads_serve_and_the_hub_is_one() {
    let server = Server::start(&["--threads", "4", "--threads-busy", "0"]);
    let before = sleeps(&server);
    assert_eq!(before.len(), 3, "beside the hub's own: {before:?}");
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    // What one client writes the next one reads, in whichever thread it is.
    for number in 0..clients.len() {
        let value = number.to_string();
        clients[number].expect(args!["SET", "key", &value], Reply::bulk("key"));
        let next = (number + 1) % clients.len();
        clients[next].expect(args!["GET", "key"], Reply::bulk(value));
    }
    for (name, count) in sleeps(&server) {
        assert!(count > before[&name], "{name} had nothing to do: {count}");
    }
    let threads = clients[0].call(args!["CONFIG", "GET", "io-threads"]).into_array();
    assert_eq!(threads[1], Reply::bulk("4"));
    let info = clients[1].call(args!["INFO", "server"]).into_bytes();
    assert!(String::from_utf8_lossy(&info).contains("\r\nio_threads:4\r\n"));
}

/// Where the first thread has too much to do others take clients over, in the middle of what these say.
#[test]
fn clients_move_to_other_threads() {
    let server = Server::start(&["--threads", "3", "--threads-busy", "1"]);
    // Of 1 percent the half need not be idle elsewhere.
    let before = sleeps(&server);
    let moved = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (server, moved) = (&server, &moved);
            scope.spawn(move || {
                let mut client = server.connect();
                let mut at = 0;
                // On for a while after the last have moved.
                let mut more = 200;
                while more > 0 {
                    assert!(at < 2_000, "nobody moves");
                    let mut requests = Vec::new();
                    let value = "v".repeat(at % 5000);
                    for part in 0..8 {
                        let key = format!("{number}:{part}");
                        encode(args!["SET", key, format!("{at} {value}")], &mut requests);
                        encode(args!["GET", key], &mut requests);
                    }
                    let (replies, ending) = client.pipeline(&requests, 16);
                    ending.expect("all replies come");
                    for (part, reply) in replies.chunks(2).enumerate() {
                        assert_eq!(reply[0], Reply::bulk(format!("{number}:{part}")));
                        assert_eq!(reply[1], Reply::bulk(format!("{at} {value}")));
                    }
                    at += 1;
                    match moved.load(Ordering::Relaxed) {
                        count if count >= 8 => more -= 1,
                        _ if number == 0 && at % 50 == 0 => {
                            let info = client.call(args!["INFO", "clients"]).into_bytes();
                            let info = String::from_utf8_lossy(&info).into_owned();
                            let line = info.lines().find_map(|one| {
                                one.strip_prefix("moved_connections:")?.trim().parse().ok()
                            });
                            moved.store(line.expect("INFO counts them"), Ordering::Relaxed);
                        }
                        _ => {}
                    }
                }
            });
        }
    });
    for (name, count) in sleeps(&server) {
        assert!(count > before[&name] + 10, "{name} had nothing to do: {count}");
    }
}

/// The number behind a name in the list of clients.
fn listed(admin: &mut Client, id: i64, name: &str) -> u64 {
    let list = admin.call(args!["CLIENT", "LIST", "ID", id.to_string()]).into_bytes();
    let list = String::from_utf8_lossy(&list).into_owned();
    let value = list.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.expect("the list has it").parse().expect("a number")
}

/// A client that takes no reply before all its requests are out is read on while others move.
#[test]
fn a_client_that_takes_nothing_yet_is_not_waited_for() {
    let server = Server::start(&["--threads", "3", "--threads-busy", "1"]);
    let mut slow = server.connect();
    let Reply::Integer(id) = slow.call(args!["CLIENT", "ID"]) else { panic!("ids are numbers") };
    let value = "v".repeat(64 << 10);
    slow.expect(args!["SET", "big", &value], Reply::bulk("big"));
    let mut admin = server.connect();
    let mut replies = 0;
    let mut looks = 0;
    while looks < 200 {
        if listed(&mut admin, id, "obl") == 0 {
            assert!(replies < 1000, "the socket takes everything");
            slow.send_raw(&encoded(args!["GET", "big"])).expect("the server reads");
            replies += 1;
            looks = 0;
        }
        looks += 1;
    }
    // Others keep the first thread busy until some of them have moved.
    let moved = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            let (server, moved) = (&server, &moved);
            scope.spawn(move || {
                let mut client = server.connect();
                let requests = encoded(args!["PING"]).repeat(100);
                for round in 0.. {
                    assert!(round < 100_000, "nobody moves");
                    client.pipeline(&requests, 100).1.expect("all replies come");
                    let info = client.call(args!["INFO", "clients"]).into_bytes();
                    let info = String::from_utf8_lossy(&info).into_owned();
                    let line = info.lines().find_map(|one| one.strip_prefix("moved_connections:"));
                    let count = line.expect("INFO counts them").trim().parse().expect("a number");
                    moved.fetch_max(count, Ordering::Relaxed);
                    if moved.load(Ordering::Relaxed) >= 4 {
                        return;
                    }
                }
            });
        }
    });
    let mut requests = Vec::new();
    for number in 0..300 {
        encode(args!["SET", format!("key{number}"), &value], &mut requests);
    }
    slow.send_raw(&requests).expect("the server reads on");
    for _ in 0..replies {
        assert_eq!(slow.receive().expect("a reply"), Reply::bulk(&value));
    }
    for number in 0..300 {
        assert_eq!(slow.receive().expect("a reply"), Reply::bulk(format!("key{number}")));
    }
}

/// A client says hardly anything: it stays where it is served most cheaply.
#[test]
fn a_quiet_server_moves_nobody() {
    let server = Server::start(&["--threads", "2"]);
    let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    let info = clients[0].call(args!["INFO", "clients"]).into_bytes();
    assert!(String::from_utf8_lossy(&info).contains("\nmoved_connections: 0\n"));
}

/// Writers in all threads are stopped by a signal: what was acknowledged is there after the next start.
#[test]
fn a_stop_under_load() {
    let mut server = Server::start(&["--threads", "3", "--threads-busy", "0"]);
    for round in 0..3 {
        let address = server.address();
        let writers = 12;
        let acknowledged: Vec<AtomicUsize> = (0..writers).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for (writer, count) in acknowledged.iter().enumerate() {
                scope.spawn(move || {
                    let mut client = Client::connect(address).expect("the server listens");
                    loop {
                        let number = count.load(Ordering::Relaxed);
                        let mut requests = Vec::new();
                        for at in number..number + 16 {
                            let key = format!("{round}:{writer}:{at}");
                            encode(args!["SET", key, "x".repeat(at % 3000)], &mut requests);
                        }
                        let (replies, ending) = client.pipeline(&requests, 16);
                        count.fetch_add(replies.len(), Ordering::Relaxed);
                        if ending.is_err() {
                            return;
                        }
                    }
                });
            }
            while acknowledged.iter().any(|count| count.load(Ordering::Relaxed) < 200) {
                std::thread::yield_now();
            }
            assert_eq!(server.terminate().code(), Some(143));
        });
        server.resume();
        let mut client = server.connect();
        for (writer, count) in acknowledged.iter().enumerate() {
            for at in 0..count.load(Ordering::Relaxed) {
                let value = client.call(args!["GET", format!("{round}:{writer}:{at}")]);
                assert_eq!(value, Reply::bulk("x".repeat(at % 3000)), "{round}:{writer}:{at}");
            }
        }
    }
}

/// SHUTDOWN comes through one thread; the replies that others owe are out before the connections end.
#[test]
fn replies_are_out_before_the_end() {
    let mut server = Server::start(&["--threads", "3", "--threads-busy", "0", "--sync", "always"]);
    // What a segment has to be made for is not begun any more when the server stops.
    server.connect().expect(args!["SET", "first", "v"], Reply::bulk("first"));
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_raw(&encoded(args!["SET", number.to_string(), "v"])).expect("it is sent");
    }
    // All requests are with the hub once it has answered each thread's last client.
    let mut others: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for client in &mut others {
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    others[0].send_raw(&encoded(args!["SHUTDOWN"])).expect("it is sent");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.receive().expect("its reply"), Reply::bulk(number.to_string()));
        client.wait_closed().expect("its connection ends");
    }
    assert_eq!(server.wait().code(), Some(0));
}

/// A client says that nothing follows and reads: also what the hub made only when there was room for it.
#[test]
fn more_replies_than_there_is_room_for_to_a_half_closed_client() {
    // With so many threads the hub's own has no sockets.
    let server = Server::start(&["--threads", "9", "--threads-busy", "0"]);
    let value = vec![b'v'; MIB];
    server.connect().expect(args!["SET", "key", &value], Reply::bulk("key"));
    for count in [3, 200] {
        let mut client = server.connect();
        client.send_raw(&encoded(args!["GET", "key"]).repeat(count)).expect("it is sent");
        client.tcp().shutdown(Shutdown::Write).expect("a half-close");
        for number in 0..count {
            let reply = client.receive().unwrap_or_else(|error| panic!("{number}: {error}"));
            assert!(reply == Reply::bulk(&value), "{number} of {count}");
        }
        client.wait_closed().expect("its connection ends");
    }
}

/// While the hub is busy its threads take so much from their clients and no more.
#[test]
fn threads_take_no_more_than_the_hub_looks_at() {
    let server = Server::start(&["--threads", "2", "--threads-busy", "0", "--cache", "1M"]);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    let mut sleeper = clients.remove(0);
    let value = vec![b'v'; 100_000];
    clients[0].expect(args!["SET", "key", &value], Reply::bulk("key"));
    clients[1].expect(args!["SET", "key", &value], Reply::Nil);
    let before = server.resident_bytes();
    sleeper.send_raw(&encoded(args!["DEBUG", "SLEEP", "3"])).expect("it is sent");
    let request = encoded(args!["SET", "key", &value]);
    let mut sent = vec![0; clients.len()];
    for client in &clients {
        client.tcp().set_nonblocking(true).expect("a socket can be non-blocking");
    }
    // Until the sleep is over, as much as the server's kernel and its threads take.
    let mut most = 0;
    let mut total = 0;
    let mut grown = 0;
    sleeper.tcp().set_nonblocking(true).expect("a socket can be non-blocking");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        for (client, sent) in clients.iter().zip(&mut sent) {
            match client.tcp().write(&request[*sent % request.len()..]) {
                Ok(count) => {
                    *sent += count;
                    total += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("a client is thrown out: {error}"),
            }
        }
        grown = server.resident_bytes().saturating_sub(before);
        most = grown.max(most);
    }
    assert!(most < UNSEEN_BYTES_MAX, "{most} bytes for {total} that the hub did not look at");
    assert!(grown > MIB as u64, "the threads took what came: {grown} of {total} bytes");
    // Nothing is lost.
    for (client, sent) in clients.iter_mut().zip(sent) {
        client.tcp().set_nonblocking(false).expect("a socket can be blocking");
        let rest = sent.next_multiple_of(request.len()) - sent;
        client.send_raw(&request[request.len() - rest..]).expect("the rest of a request");
        for _ in 0..(sent + rest) / request.len() {
            assert_eq!(client.receive().expect("a reply"), Reply::Nil);
        }
    }
    sleeper.tcp().set_nonblocking(false).expect("a socket can be blocking");
    assert_eq!(sleeper.receive().expect("it wakes"), Reply::ok());
}

/// Who spoke while the hub was busy was not silent, however much there is to hear first.
#[test]
fn the_busy_hub_takes_nobody_for_silent() {
    // With so many threads the hub's own has no sockets.
    let server = Server::start(&["--threads", "9", "--threads-busy", "0", "--timeout", "5"]);
    let mut clients: Vec<Client> = (0..80).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    let mut sleeper = server.connect();
    let started = Instant::now();
    sleeper.send_raw(&encoded(args!["DEBUG", "SLEEP", "6"])).expect("it is sent");
    let mut speakers = Vec::new();
    for mut client in clients {
        // On a slow machine fewer speak in time.
        if started.elapsed() > Duration::from_secs(4) {
            break;
        }
        // Its thread tells of each apart: it has slept in between.
        let before = sleeps(&server);
        client.send_raw(&encoded(args!["PING"])).expect("it is sent");
        while sleeps(&server) == before {
            std::thread::yield_now();
        }
        speakers.push(client);
    }
    for client in &mut speakers {
        assert_eq!(client.receive().expect("a reply"), Reply::Simple("PONG".into()));
    }
    assert_eq!(sleeper.receive().expect("it wakes"), Reply::ok());
}
