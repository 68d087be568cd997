//! Large data beside fio: random reads of what is not in memory, and writes as fast as the disk takes them.

use super::Bench;
use super::fio::{self, Job};
use super::found::ScaleReport;
use crate::client;
use crate::load::{Command, Keys, Load, RANDOM, Sync, fill_for, plain};
use crate::measure::{Run, awake, empty, measure_one};
use crate::server::{self, Kind, Server};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Instant;

pub const GET: &str = "disk-get";
pub const SET: &str = "disk-set";

const CACHE: &str = "128M";
const CACHE_BYTES: u64 = 128 << 20;
const CACHE_QUICK: &str = "1M";
const CACHE_BYTES_QUICK: u64 = 1 << 20;
/// Values are so many times the cache.
const DATA_OF_CACHE: u64 = 20;
/// One request on each of so many connections, so many reads of fio.
const OUTSTANDING: usize = 32;
/// The same requests on a few connections, as clients send them that share a connection between threads.
const SHARED: usize = 4;
const FIO_SECONDS: f64 = 3.0;
const FIO_SECONDS_QUICK: f64 = 0.3;

const WRITTEN_BYTES: u64 = 2 << 30;
const WRITTEN_BYTES_QUICK: u64 = 32 << 20;
const LARGE: usize = 1 << 20;
/// Enough that zdb always has the next write at hand, and what fio has on its way.
const WRITERS: usize = 8;

/// GETs of random values, nearly all of which have to come from the disk.
///
/// Nothing is pinned: a virtual disk's interrupts come to one core, and fio on the other does a fifth less.
pub fn get(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    server::pin_self(None)?;
    let run = Run { pinned: None, ..bench.run.clone() };
    let measured = measure_gets(bench, &run, report);
    server::pin_self(bench.run.pinned.map(|(_, generator)| generator))?;
    measured
}

fn measure_gets(bench: &Bench, run: &Run, report: &mut ScaleReport) -> Result<()> {
    let (cache, cache_bytes, seconds) = match run.quick {
        true => (CACHE_QUICK, CACHE_BYTES_QUICK, FIO_SECONDS_QUICK),
        false => (CACHE, CACHE_BYTES, FIO_SECONDS),
    };
    let bytes = cache_bytes * DATA_OF_CACHE;
    let keys = Keys::Fixed { prefix: *b"dsk:", count: bytes >> 12 };
    let load = Load { value_size: 4 << 10, clients: OUTSTANDING, ..plain(Command::Get, keys) };
    let setup = run.setup(Kind::Zdb, Sync::EverySecond, cache, "disk");
    empty(&setup.directory)?;
    let server = Server::start(&run.programs, &setup)?;
    client::fill(server.address, &fill_for(&load).context("a load with a fixed set of keys")?)?;
    // The newest values are still in the write buffer of the server that took them.
    server.stop()?;
    let mut server = Server::start(&run.programs, &setup)?;
    server.pause()?;
    let files = [setup.directory.join("fio")];
    let job = |kind, block_bytes, depth, seconds| Job {
        kind,
        files: &files,
        block_bytes,
        depth,
        bytes: Some(bytes),
        seconds,
    };
    fio::run(&bench.fio, &job("write", 1 << 20, 4, None))?;
    let id = (GET, "GET of random 4 KiB, data 20 times the cache, 32 outstanding", "requests/s");
    let shared = Load { clients: SHARED, pipeline: OUTSTANDING / SHARED, ..load };
    let mut ask = |load: &Load, side: &str, round, report: &mut ScaleReport| {
        let sample = awake(run, &mut server, GET, |server| measure_one(run, server, load, round))?;
        let details = [
            ("p50 us", sample.latency_p50_us),
            ("p99 us", sample.latency_p99_us),
            ("CPU us/request", sample.server_cpu_us_per_request),
            ("generator cores", sample.generator_cores),
        ];
        report.add(id, side, sample.requests_per_s, &details);
        anyhow::Ok(())
    };
    for round in 0..run.rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ask(&load, "zdb", round, report)?;
            } else {
                // A record of a value of 4 KiB lies in two blocks: this disk's limit for them stands beside.
                for (side, block_bytes) in [("fio randread", 4 << 10), ("fio, two blocks", 8 << 10)]
                {
                    let job = job("randread", block_bytes, OUTSTANDING, Some(seconds));
                    let rate = fio::run(&bench.fio, &job)?;
                    report.add(id, side, rate.requests_per_s, &[("cores", rate.cores)]);
                }
            }
        }
        ask(&shared, "zdb, 8 on each of 4", round, report)?;
    }
    server.stop()?;
    empty(&setup.directory)
}

/// SETs of large values into an empty server.
pub fn set(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let run = &bench.run;
    let bytes = if run.quick { WRITTEN_BYTES_QUICK } else { WRITTEN_BYTES };
    let load = Load { value_size: LARGE, clients: WRITERS, ..plain(Command::Set, RANDOM) };
    let setup = run.setup(Kind::Zdb, Sync::EverySecond, CACHE, "disk");
    let id = (SET, "SET of 1 MiB, 8 clients", "MB/s");
    for round in 0..run.rounds {
        for turn in 0..2 {
            empty(&setup.directory)?;
            if (round + turn) % 2 == 0 {
                let mut server = Server::start(&run.programs, &setup)?;
                let (seconds, cpu_s, count) = awake(run, &mut server, SET, |server| {
                    let (begin, cpu_before) = (Instant::now(), server.cpu()?);
                    let count = client::send_some(server.address, &load, bytes / LARGE as u64)?;
                    let cpu = server.cpu()? - cpu_before;
                    Ok((begin.elapsed().as_secs_f64(), cpu.as_secs_f64(), count))
                })?;
                let rate = count as f64 * LARGE as f64 / seconds / 1e6;
                report.add(id, "zdb", rate, &[("cores", cpu_s / seconds)]);
                server.stop()?;
            } else {
                std::fs::create_dir_all(&setup.directory)?;
                let files: [PathBuf; 1] = [setup.directory.join("fio")];
                let job = Job {
                    kind: "write",
                    files: &files,
                    block_bytes: LARGE as u64,
                    depth: WRITERS,
                    bytes: Some(bytes),
                    seconds: None,
                };
                let rate = fio::run(&bench.fio, &job)?;
                report.add(id, "fio write", rate.bytes_per_s / 1e6, &[("cores", rate.cores)]);
            }
        }
    }
    empty(&setup.directory)
}
