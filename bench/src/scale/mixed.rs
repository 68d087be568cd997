//! Reads and overwrites over time: second by second, with the cleaner off and with it at work.
//!
//! A fixed set of keys of a namespace that keeps no old versions is overwritten with values of all sizes, so
//! that every segment becomes garbage bit by bit and what lives in it has to be moved before it can go.

use super::Bench;
use super::found::{ScaleReport, Second, Timeline};
use crate::client::{self, KEY_SIZE, STAMP_SIZE};
use crate::load::{Command, Keys, Load, Spaces, Sync, fill_for, plain, write_key};
use crate::measure::{Run, awake, empty};
use crate::server::{Kind, Server};
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Instant;

pub const ID: &str = "mixed";
pub const RATE: &str = "mixed-rate";
pub const P99: &str = "mixed-p99";
/// The sides: what the flag --cleaner says.
pub const SIDES: [&str; 2] = ["cleaner on", "cleaner off"];

const CLIENTS: usize = 50;
const PREFIX: [u8; 4] = *b"mix:";
const KEYS: u64 = 100_000;
const KEYS_QUICK: u64 = 2_000;
const VALUE_BYTES: RangeInclusive<usize> = 100..=4096;
const FILL_BYTES: usize = 2048;
/// Small, so that there are many to clean in a minute.
const SEGMENT: &str = "16M";
/// A third of the values: part of the reads come from the disk, beside the cleaner's.
const CACHE: &str = "64M";
/// Until the first segments are garbage; in the chart, not in the figures.
const LEAD_S: usize = 10;
const SECONDS: usize = 60;
const LEAD_S_QUICK: usize = 0;
const SECONDS_QUICK: usize = 1;
const ROUNDS_MAX: usize = 2;
const SPACE: Spaces = Spaces { first: 0, count: 1 };

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let run = &bench.run;
    for round in 0..run.rounds.min(ROUNDS_MAX) {
        for turn in 0..2 {
            let side = SIDES[(round + turn + 1) % 2];
            match one(run, side, round)? {
                Ok(timeline) => add(report, timeline),
                Err(why) => {
                    report.skip(format!("{ID}: {why}"));
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn add(report: &mut ScaleReport, timeline: Timeline) {
    let load = "50 clients, half GETs, half overwrites of 100 to 4096 bytes";
    let data_mib = timeline.data_bytes as f64 / f64::from(1 << 20);
    let details = [("max us", timeline.max_us), ("data MiB", data_mib)];
    let id = (RATE, load, "requests/s");
    report.add(id, &timeline.name, timeline.requests_per_s, &details);
    let title = format!("{load}: p99");
    let id = (P99, title.as_str(), "us");
    report.add(id, &timeline.name, timeline.p99_us, &[("p50 us", timeline.p50_us)]);
    // The side of interest first, whoever had the first turn.
    for finding in report.findings.iter_mut().filter(|finding| [RATE, P99].contains(&&*finding.id))
    {
        finding.sides.sort_by_key(|side| side.name != SIDES[0]);
    }
    report.timelines.push(timeline);
}

/// One server over its whole time; the inner error says why it cannot be.
fn one(run: &Run, side: &str, round: usize) -> Result<Result<Timeline, String>> {
    let mut setup = run.setup(Kind::Zdb, Sync::EverySecond, CACHE, "mixed");
    let cleaner = if side == SIDES[0] { "yes" } else { "no" };
    setup.flags = ["--datasize", SEGMENT, "--cleaner", cleaner].map(String::from).into();
    empty(&setup.directory)?;
    let mut server = match Server::start(&run.programs, &setup) {
        Ok(server) => server,
        Err(error) if format!("{error:#}").contains("--cleaner") => {
            return Ok(Err(format!("this zdb knows no --cleaner {cleaner}")));
        }
        Err(error) => return Err(error),
    };
    let name = Spaces::name(SPACE.first);
    let reply = server.ask(&[b"NSNEW", name.as_bytes()])?;
    ensure!(reply == b"+OK\r\n", "NSNEW answered {:?}", String::from_utf8_lossy(&reply));
    let reply = server.ask(&[b"NSSET", name.as_bytes(), b"history", b"0"])?;
    if reply != b"+OK\r\n" {
        server.stop()?;
        empty(&setup.directory)?;
        let reply = String::from_utf8_lossy(&reply).trim().to_string();
        return Ok(Err(format!("not built: NSSET history 0 is answered with {reply:?}")));
    }
    let count = if run.quick { KEYS_QUICK } else { KEYS };
    let keys = Keys::Fixed { prefix: PREFIX, count };
    let load = Load { value_size: FILL_BYTES, spaces: SPACE, ..plain(Command::Set, keys) };
    client::fill(server.address, &fill_for(&load).context("a fixed set of keys")?)?;
    let (lead_s, seconds) = match run.quick {
        true => (LEAD_S_QUICK, SECONDS_QUICK),
        false => (LEAD_S, SECONDS),
    };
    let histograms = awake(run, &mut server, ID, |server| {
        Mixed::connect(server, count)?.measure(lead_s + seconds)
    })?;
    let mut all = client::new_histogram()?;
    for histogram in &histograms[lead_s..] {
        all.add(histogram)?;
    }
    let data_bytes = files_bytes(&setup.directory.join("data"))?;
    server.stop()?;
    empty(&setup.directory)?;
    let us = |histogram: &Histogram<u64>, share| histogram.value_at_quantile(share) as f64 / 1e3;
    let second = |histogram: &Histogram<u64>| Second {
        requests: histogram.len(),
        p50_us: us(histogram, 0.50),
        p99_us: us(histogram, 0.99),
        max_us: histogram.max() as f64 / 1e3,
    };
    let whole = second(&all);
    Ok(Ok(Timeline {
        name: side.into(),
        round,
        requests_per_s: whole.requests as f64 / seconds as f64,
        p50_us: whole.p50_us,
        p99_us: whole.p99_us,
        max_us: whole.max_us,
        data_bytes,
        seconds: histograms.iter().map(second).collect(),
    }))
}

fn files_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        // A segment may go while it is counted.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

/// The load generator of this load: one request at a time on each connection.
struct Mixed {
    epoll: Epoll,
    clients: Vec<Client>,
    random: fastrand::Rng,
    count: u64,
    /// What values are cut from: nothing on the way can compress it.
    noise: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    key: [u8; KEY_SIZE],
    is_get: bool,
    reply: Vec<u8>,
    sent_at: Instant,
}

impl Mixed {
    fn connect(server: &Server, count: u64) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
        let mut clients = Vec::new();
        for place in 0..CLIENTS {
            let stream = TcpStream::connect(server.address).context("cannot connect")?;
            stream.set_nodelay(true)?;
            client::select(&stream, &Spaces::name(SPACE.first))?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            let (key, reply) = ([0; KEY_SIZE], Vec::with_capacity(8 << 10));
            clients.push(Client { stream, key, is_get: false, reply, sent_at: Instant::now() });
        }
        let mut random = fastrand::Rng::new();
        let noise = (0..2 * VALUE_BYTES.end()).map(|_| random.u8(..)).collect();
        Ok(Mixed { epoll, clients, random, count, noise })
    }

    /// A histogram of the nanoseconds of each second's replies.
    fn measure(mut self, seconds: usize) -> Result<Vec<Histogram<u64>>> {
        let mut histograms = Vec::new();
        for _ in 0..seconds {
            histograms.push(client::new_histogram()?);
        }
        for place in 0..self.clients.len() {
            self.send(place)?;
        }
        let begin = Instant::now();
        let mut last_reply = begin;
        let mut chunk = vec![0; 8 << 10];
        loop {
            let mut events = [EpollEvent::empty(); CLIENTS];
            let ready = match self.epoll.wait(&mut events, EpollTimeout::from(100_u16)) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll_wait failed"),
            };
            for event in &events[..ready] {
                let place = event.data() as usize;
                let client = &mut self.clients[place];
                let read = (&client.stream).read(&mut chunk).context("receiving a reply failed")?;
                ensure!(read > 0, "the server closed a connection");
                client.reply.extend_from_slice(&chunk[..read]);
                if !client.is_answered()? {
                    continue;
                }
                last_reply = Instant::now();
                let waited = last_reply - client.sent_at;
                let Some(histogram) = histograms.get_mut((last_reply - begin).as_secs() as usize)
                else {
                    return Ok(histograms);
                };
                histogram.record((waited.as_nanos() as u64).min(client::LATENCY_MAX_NS))?;
                self.send(place)?;
            }
            ensure!(
                last_reply.elapsed() < client::SILENCE_MAX,
                "no reply for {:?}",
                last_reply.elapsed()
            );
        }
    }

    fn send(&mut self, place: usize) -> Result<()> {
        let client = &mut self.clients[place];
        write_key(&mut client.key, PREFIX, self.random.u64(..self.count));
        client.reply.clear();
        client.is_get = self.random.bool();
        let mut request = Vec::with_capacity(8 << 10);
        if client.is_get {
            request.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
            request.extend_from_slice(&client.key);
        } else {
            let size = self.random.usize(VALUE_BYTES);
            request.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
            request.extend_from_slice(&client.key);
            request.extend_from_slice(format!("\r\n${size}\r\n").as_bytes());
            request.extend_from_slice(&self.random.u64(..).to_le_bytes());
            request.extend_from_slice(&client.key);
            let from = self.random.usize(..self.noise.len() - size);
            request.extend_from_slice(&self.noise[from..from + size - STAMP_SIZE - KEY_SIZE]);
        }
        request.extend_from_slice(b"\r\n");
        client.sent_at = Instant::now();
        // One request of a few KiB always fits the socket's buffer.
        client.stream.write_all(&request).context("sending a request failed")
    }
}

impl Client {
    /// Whether the whole reply is there, and then that it is the right one.
    fn is_answered(&self) -> Result<bool> {
        let reply = &self.reply;
        let Some(line_end) = reply.iter().position(|&byte| byte == b'\n') else { return Ok(false) };
        let size: Option<usize> = std::str::from_utf8(&reply[..line_end - 1])
            .ok()
            .and_then(|line| line.strip_prefix('$')?.parse().ok());
        let Some(size) = size else {
            bail!("the server answered {:?}", String::from_utf8_lossy(&reply[..line_end]));
        };
        let value = &reply[line_end + 1..];
        if value.len() < size + 2 {
            return Ok(false);
        }
        let (is_right_size, key_at) = match self.is_get {
            true => (VALUE_BYTES.contains(&size), STAMP_SIZE),
            false => (size == KEY_SIZE, 0),
        };
        ensure!(
            is_right_size && value.get(key_at..key_at + KEY_SIZE) == Some(&self.key),
            "a request for {:?} got the reply of another",
            String::from_utf8_lossy(&self.key)
        );
        Ok(true)
    }
}
