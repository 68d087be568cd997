//! How fast a new, empty replica gets the whole log of a master at rest, beside the disk and the network
//! alone.

use super::info::Watcher;
use super::{ID, LOOK_EVERY, fresh, replica_of, wait_for};
use crate::client;
use crate::load::{Command, Keys, Load, plain};
use crate::measure::{Run, awake, empty};
use crate::scale::Bench;
use crate::scale::fio::{self, Job};
use crate::scale::found::ScaleReport;
use crate::server::{Server, Setup};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// By the size of values.
pub const SIZES: [(&str, &str, usize); 3] = [
    ("replica-catch-up-100", "new replica, values of 100 B", 100),
    ("replica-catch-up-4k", "new replica, values of 4 KiB", 4 << 10),
    ("replica-catch-up-64k", "new replica, values of 64 KiB", 64 << 10),
];

const LOG_BYTES: u64 = 1 << 30;
const LOG_BYTES_QUICK: u64 = 64 << 20;
const RECORD_HEAD_BYTES: usize = 44;
/// Longer than the master's padding waits, which is the last that it writes.
const REST: Duration = Duration::from_secs(2);
const FIO_BLOCK_BYTES: u64 = 1 << 20;
/// As many as in the load of large SETs: what this disk needs to be at its fastest.
const FIO_DEPTH: usize = 8;
/// What a replica is sent at once.
const COPY_BYTES: usize = 256 << 10;

/// A master that has its records and is paused.
struct Filled {
    master: Server,
    setup: Setup,
    end: u64,
    count: u64,
}

/// A replica that has caught up.
struct Caught {
    bytes_per_s: f64,
    cpu_ns_per_byte: f64,
    master_cpu_ns_per_byte: f64,
    seconds: f64,
}

pub fn run(bench: &Bench, run: &Run, report: &mut ScaleReport) -> Result<()> {
    for (id, title, value_size) in SIZES {
        let mut filled = fill(run, value_size)?;
        for round in 0..run.rounds {
            // What the replica is compared to is measured before it and behind it in turn.
            let mut caught = None;
            if round % 2 == 0 {
                caught = Some(catch_up(run, &mut filled)?);
            }
            let (writing, disk) = copy_with_fio(bench, run, filled.end)?;
            let network = copy_over_tcp(filled.end)?;
            let caught = match caught {
                Some(caught) => caught,
                None => catch_up(run, &mut filled)?,
            };
            let (slower, name) = if disk < network { (disk, "disk") } else { (network, "network") };
            let details = [
                ("replica's CPU ns/byte", caught.cpu_ns_per_byte),
                ("master's", caught.master_cpu_ns_per_byte),
                ("s", caught.seconds),
            ];
            let id = (id, title, "MB/s");
            report.add(id, "replica", caught.bytes_per_s / 1e6, &details);
            report.add(id, "the slower of both", slower / 1e6, &[(name, slower / 1e6)]);
            report.add(id, "fio, reads and writes", disk / 1e6, &[]);
            report.add(id, "fio, writes alone", writing / 1e6, &[]);
            report.add(id, "TCP copy", network / 1e6, &[]);
        }
        filled.master.stop()?;
        empty(&filled.setup.directory)?;
    }
    Ok(())
}

fn fill(run: &Run, value_size: usize) -> Result<Filled> {
    let log_bytes = if run.quick { LOG_BYTES_QUICK } else { LOG_BYTES };
    let record = (RECORD_HEAD_BYTES + client::KEY_SIZE + value_size).next_multiple_of(8);
    let count = log_bytes / record as u64;
    let load = Load {
        value_size,
        pipeline: ((256 << 10) / value_size).clamp(1, 100),
        ..plain(Command::Set, Keys::EachScattered { first: 0, count })
    };
    let setup = fresh(run, "replication-master", &[])?;
    let master = Server::start(&run.programs, &setup)?;
    client::fill(master.address, &load)?;
    let mut watcher = Watcher::connect(master.address)?;
    let (mut end, mut since) = (watcher.end()?, Instant::now());
    wait_for("the master to rest", || {
        let now = watcher.end()?;
        if now != end {
            (end, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= REST)
    })?;
    master.pause()?;
    Ok(Filled { master, setup, end, count })
}

/// Starts an empty replica while its master is stopped, and lets the master go on: then the first byte comes.
fn catch_up(run: &Run, filled: &mut Filled) -> Result<Caught> {
    let of = replica_of(&filled.master);
    let setup = fresh(run, "replication-replica", &["--replicaof", &of])?;
    let mut replica = Server::start(&run.programs, &setup)?;
    let (end, count) = (filled.end, filled.count);
    let caught = awake(run, &mut filled.master, ID, |master| {
        let mut watcher = Watcher::connect(replica.address)?;
        let (mut begin, mut cpu, mut master_cpu) = (Instant::now(), replica.cpu()?, master.cpu()?);
        let mut is_moving = false;
        let mut last = begin;
        let mut now = 0;
        while now < end {
            // The last look that saw nothing is taken for the first byte.
            if !is_moving {
                (begin, cpu, master_cpu) = (Instant::now(), replica.cpu()?, master.cpu()?);
            }
            thread::sleep(LOOK_EVERY);
            let before = now;
            now = match watcher.end() {
                Ok(now) => now,
                // An empty server restarts inside its process to take its master's log.
                Err(_) if !is_moving => {
                    wait_for("the replica's restart", || {
                        Ok(replica.ask(&[b"PING"]).is_ok_and(|reply| reply == b"+PONG\r\n"))
                    })?;
                    watcher = Watcher::connect(replica.address)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            is_moving = now > 0;
            if now > before {
                last = Instant::now();
            }
            ensure!(last.elapsed() < client::SILENCE_MAX, "the replica stands at {now} of {end}");
        }
        let seconds = begin.elapsed().as_secs_f64();
        let per_byte = |time: Duration| time.as_secs_f64() * 1e9 / end as f64;
        let (replica_cpu, master_cpu) = (replica.cpu()? - cpu, master.cpu()? - master_cpu);
        let size = format!(":{count}\r\n");
        for server in [&replica, master] {
            let found = server.ask(&[b"DBSIZE"])?;
            let found = String::from_utf8_lossy(&found);
            ensure!(found == size, "DBSIZE is {}, not {count}", found.trim());
        }
        Ok(Caught {
            bytes_per_s: end as f64 / seconds,
            cpu_ns_per_byte: per_byte(replica_cpu),
            master_cpu_ns_per_byte: per_byte(master_cpu),
            seconds,
        })
    });
    let caught = caught.map_err(|error| replica.explain(error))?;
    replica.stop()?;
    empty(&setup.directory)?;
    Ok(caught)
}

/// Bytes/s that the disk takes, and that it takes while it gives as many: the log is read from the same disk.
fn copy_with_fio(bench: &Bench, run: &Run, bytes: u64) -> Result<(f64, f64)> {
    let directory = run.directory.join("replication-fio");
    empty(&directory)?;
    std::fs::create_dir_all(&directory)?;
    let (from, to) = ([directory.join("from")], [directory.join("to")]);
    let work = |kind, files| {
        let job = Job {
            kind,
            files,
            block_bytes: FIO_BLOCK_BYTES,
            depth: FIO_DEPTH,
            bytes: Some(bytes.next_multiple_of(FIO_BLOCK_BYTES)),
            seconds: None,
        };
        Ok::<f64, anyhow::Error>(fio::run(&bench.fio, &job)?.bytes_per_s)
    };
    let writing = work("write", &from)?;
    let (read, written) = thread::scope(|scope| {
        let reader = scope.spawn(|| work("read", &from));
        let written = work("write", &to);
        (reader.join().expect("no reader panics"), written)
    });
    empty(&directory)?;
    Ok((writing, read?.min(written?)))
}

/// Bytes/s from one thread to another.
fn copy_over_tcp(bytes: u64) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let sender = thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let chunk = vec![b'x'; COPY_BYTES];
        let mut rest = bytes;
        while rest > 0 {
            let count = rest.min(COPY_BYTES as u64);
            stream.write_all(&chunk[..count as usize])?;
            rest -= count;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut chunk = vec![0; COPY_BYTES];
    let mut received = stream.read(&mut chunk)? as u64;
    let begin = Instant::now();
    while received < bytes {
        let count = stream.read(&mut chunk).context("the copy over loopback broke")?;
        ensure!(count > 0, "the copy over loopback ended early");
        received += count as u64;
    }
    let seconds = begin.elapsed().as_secs_f64();
    sender.join().expect("no sender panics")?;
    Ok(bytes as f64 / seconds)
}
