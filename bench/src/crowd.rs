//! Ten thousand connections: how long the others wait while a thousand of them hardly read.
//!
//! The slow readers ask for large values again and again and take a few bytes now and then, so that the
//! server always has more for them than it can send. zdb alone is measured: the question is what they
//! cost the others, not what another server does.

use crate::client;
use crate::load::{CACHE, Command, FIXED_64K, FIXED_100, Load, Sync, fill_for, plain};
use crate::measure::{Run, empty, measure_one, say};
use crate::report::Report;
use crate::server::{Kind, Server};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const CONNECTIONS: usize = 10_000;
const SLOW_READERS: usize = 1_000;
/// With --quick, where the limit of open files may be low.
const CONNECTIONS_QUICK: usize = 500;
const SLOW_READERS_QUICK: usize = 50;
const BUSY: usize = 50;
/// One slow reader takes so many bytes, then the next: each of them some 64 KiB a second.
const SIP_BYTES: usize = 64 << 10;
const SIP_EVERY: Duration = Duration::from_millis(1);
/// A small window, so that what it does not read waits in the server rather than in the kernel.
const SLOW_BUFFER_BYTES: usize = 64 << 10;
/// The server has done what the slow readers asked for at first when it answers this quickly again, so
/// often one after the other.
const SETTLED: Duration = Duration::from_millis(20);
const SETTLED_COUNT: usize = 20;
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Requests of a slow reader before it waits for replies: 32 MiB of them.
const GREED: usize = 512;

/// The loads without slow readers, then with them.
pub const LOADS: &[(&str, &str)] = &[
    ("crowd-busy", "GET 100 B, 50 of 10,000 clients"),
    ("crowd-busy-slow", "... beside 1,000 slow readers"),
    ("crowd-all", "GET 100 B, 9,000 of 10,000 clients"),
    ("crowd-all-slow", "... beside 1,000 slow readers"),
];

pub fn run(run: &Run, round: usize, report: &mut Report) -> Result<()> {
    if !run.servers.contains(&Kind::Zdb) {
        return Ok(());
    }
    raise_open_files()?;
    let setup = run.setup(Kind::Zdb, Sync::EverySecond, CACHE, "crowd");
    empty(&setup.directory)?;
    let mut server = Server::start(&run.programs, &setup)?;
    measure(run, &server, round, report)
        .map_err(|error| server.explain(error).context("slow readers"))?;
    server.stop()?;
    empty(&setup.directory)
}

fn measure(run: &Run, server: &Server, round: usize, report: &mut Report) -> Result<()> {
    let (connections, slow_readers) = match run.quick {
        true => (CONNECTIONS_QUICK, SLOW_READERS_QUICK),
        false => (CONNECTIONS, SLOW_READERS),
    };
    let load =
        |clients, value_size, keys| Load { value_size, clients, ..plain(Command::Get, keys) };
    let all = connections - slow_readers;
    let small = |clients| load(clients, 100, FIXED_100);
    for load in [small(BUSY), load(BUSY, 64 << 10, FIXED_64K)] {
        client::fill(server.address, &fill_for(&load).context("a load with a fixed set of keys")?)?;
    }
    for (beside, (id, title)) in LOADS.iter().enumerate() {
        let busy = if beside < 2 { BUSY.min(all) } else { all };
        let _idle = connect(server.address, all - busy)?;
        let slow = connect(server.address, slow_readers)?;
        for stream in &slow {
            setsockopt(stream, sockopt::RcvBuf, &SLOW_BUFFER_BYTES)?;
        }
        let is_done = AtomicBool::new(false);
        let sample = std::thread::scope(|scope| {
            if beside % 2 == 1 {
                scope.spawn(|| read_slowly(&slow, &is_done));
            }
            let settled = if beside % 2 == 1 { settle(server) } else { Ok(()) };
            let sample = settled.and_then(|()| measure_one(run, server, &small(busy), round));
            is_done.store(true, Ordering::Relaxed);
            sample
        })?;
        say(title, Kind::Zdb, &sample, run, round);
        report.add_named(id, title, 100, Kind::Zdb, sample);
    }
    Ok(())
}

fn connect(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let connect = |place| {
        let stream = TcpStream::connect(address)
            .with_context(|| format!("cannot connect client {place} to {address}"))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

/// Waits until the first rush is over, and says how long that was: gigabytes are asked for at once, and
/// whoever asks then waits its turn.
fn settle(server: &Server) -> Result<()> {
    let begin = Instant::now();
    let mut quick = 0;
    while quick < SETTLED_COUNT {
        let asked = Instant::now();
        server.ask(&[b"PING"])?;
        quick = if asked.elapsed() < SETTLED { quick + 1 } else { 0 };
        ensure!(begin.elapsed() < SETTLE_MAX, "slow readers keep the server busy for a minute");
        std::thread::sleep(SIP_EVERY);
    }
    eprintln!("slow readers are full after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Asks for a lot on each connection, and takes a sip from one after the other.
fn read_slowly(streams: &[TcpStream], is_done: &AtomicBool) {
    let mut requests = Vec::new();
    for number in 0..GREED {
        requests.extend_from_slice(
            format!("*2\r\n$3\r\nGET\r\n$16\r\n64k:{number:012}\r\n").as_bytes(),
        );
    }
    let mut buffer = vec![0; SIP_BYTES];
    let mut sent = vec![0; streams.len()];
    for place in (0..streams.len()).cycle() {
        if is_done.load(Ordering::Relaxed) {
            return;
        }
        let mut stream = &streams[place];
        // It asks on as soon as the server reads on: the bytes go on where they stopped.
        if let Ok(count) = stream.write(&requests[sent[place]..]) {
            sent[place] = (sent[place] + count) % requests.len();
        }
        match stream.read(&mut buffer) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                eprintln!("bench: a slow reader was let go: {error}");
                return;
            }
            _ => std::thread::sleep(SIP_EVERY),
        }
    }
}

/// This program has as many connections as its server.
fn raise_open_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, maximum) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, maximum, maximum)
        .context("cannot raise the limit of open files")
}
