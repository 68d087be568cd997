//! Memory and restart as keys become more: one fill with stops, after each of which the server starts again.

use super::fio::{self, Job};
use super::found::{Growth, ScaleReport};
use super::{Bench, RESTART_KEYS_PER_S};
use crate::client::{self, KEY_SIZE, STAMP_SIZE};
use crate::load::{Command, Keys, Load, Sync, churn, plain};
use crate::many_keys::{self, ensure_complete};
use crate::measure::{Run, empty};
use crate::report::thousands;
use crate::server::{Kind, Memory, Server, Setup};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub const ID: &str = "growth";
pub const RESTART: &str = "restart";
pub const MEMORY_USER: &str = "memory-user";
pub const MEMORY_SEQ: &str = "memory-seq";

const STOPS: &[u64] = &[1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000];
const STOPS_QUICK: &[u64] = &[10_000, 50_000];
/// Starts with the most keys, and with fewer.
const STARTS: usize = 3;
const STARTS_BEFORE: usize = 2;
/// Small values, for what counts here is how many there are.
const VALUE_BYTES: usize = STAMP_SIZE + KEY_SIZE;
const READ_BYTES: u64 = 1 << 20;
const READ_DEPTH: usize = 8;
/// Full segments, 256 MiB each: enough to know the disk's rate.
const READ_FILES: usize = 4;

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let run = &bench.run;
    for (mode, memory_id, title) in
        [("user", MEMORY_USER, "memory, user mode"), ("seq", MEMORY_SEQ, "memory, sequential mode")]
    {
        let mut setup = run.setup(Kind::Zdb, Sync::EverySecond, many_keys::CACHE, "growth");
        setup.flags = vec!["--mode".into(), mode.into()];
        let before = before(run, &setup, mode)?;
        let mut first = 0;
        let stops = if run.quick { STOPS_QUICK } else { STOPS };
        for &keys in stops {
            let is_last = Some(&keys) == stops.last();
            let growth = grow(run, &setup, mode, first..keys, before, is_last)?;
            if is_last {
                let title = format!("{title}, {} keys", thousands(keys as f64));
                let after_start = [
                    ("above empty", growth.bytes_per_key_above_empty),
                    ("after a start", growth.bytes_per_key_started),
                ];
                report.add(
                    (memory_id, &title, "bytes/key"),
                    mode,
                    growth.bytes_per_key,
                    &after_start,
                );
                if mode == "user" {
                    compare(bench, &setup, &growth, report)?;
                }
            }
            report.growth.push(growth);
            first = keys;
        }
        empty(&setup.directory)?;
    }
    Ok(())
}

/// Memory without the keys.
#[derive(Clone, Copy)]
struct Before {
    empty: Memory,
    /// With hardly a key, but with buffers of their full size: after the same requests as those that bring the
    /// keys, over and over for the same few.
    warmed: Memory,
}

fn before(run: &Run, setup: &Setup, mode: &str) -> Result<Before> {
    empty(&setup.directory)?;
    let server = Server::start(&run.programs, setup)?;
    let memory_empty = server.memory()?;
    let command = if mode == "seq" { Command::SetId } else { Command::Set };
    let churn = churn(command, VALUE_BYTES);
    if let (Command::SetId, Keys::Fixed { count, .. }) = (command, churn.keys) {
        let ids = Keys::EachScattered { first: 0, count };
        client::fill(server.address, &Load { keys: ids, command: Command::Add, ..churn })?;
    }
    many_keys::warm(run, &server, &churn)?;
    let before = Before { empty: memory_empty, warmed: server.memory()? };
    server.stop()?;
    empty(&setup.directory)?;
    Ok(before)
}

/// Adds keys to what is there, stops the server, and starts it again.
fn grow(
    run: &Run,
    setup: &Setup,
    mode: &str,
    numbers: std::ops::Range<u64>,
    before: Before,
    is_last: bool,
) -> Result<Growth> {
    let keys = numbers.end;
    let count = numbers.end - numbers.start;
    let command = if mode == "seq" { Command::Add } else { Command::Set };
    let each = Keys::EachScattered { first: numbers.start, count };
    let fill = Load { value_size: VALUE_BYTES, pipeline: 100, ..plain(command, each) };
    let mut server = Server::start(&run.programs, setup)?;
    let begin = Instant::now();
    client::fill(server.address, &fill).map_err(|error| server.explain(error))?;
    let fill_keys_per_s = count as f64 / begin.elapsed().as_secs_f64();
    let filled = server.memory()?;
    server.stop()?;
    let (mut start_s, mut started, mut is_cold) = (Vec::new(), filled, true);
    for _ in 0..if is_last { STARTS } else { STARTS_BEFORE } {
        is_cold &= !run.quick && drop_caches();
        // No load generator needs a core, so the server may use all of them.
        let setup = Setup { core: None, ..setup.clone() };
        let mut server = Server::start(&run.programs, &setup)?;
        start_s.push(server.started_in.as_secs_f64());
        started = server.memory()?;
        let checked = match command {
            Command::Add => ensure_ids(&server, keys),
            _ => ensure_complete(&server, keys, VALUE_BYTES),
        };
        checked.map_err(|error| server.explain(error).context("after a start"))?;
        server.stop()?;
    }
    let above = |memory: Memory, before: Memory| {
        (memory.resident_kib as f64 - before.resident_kib as f64) * 1024.0 / keys as f64
    };
    let mut sidecar_bytes = 0;
    for file in files(&setup.directory.join("index"), "sidecar")? {
        sidecar_bytes += fs::metadata(file)?.len();
    }
    let growth = Growth {
        mode: mode.into(),
        keys,
        fill_keys_per_s,
        bytes_per_key: above(filled, before.warmed),
        bytes_per_key_started: above(started, before.warmed),
        bytes_per_key_above_empty: above(filled, before.empty),
        sidecar_bytes,
        is_cold,
        start_s,
    };
    eprintln!(
        "{mode}: {} keys, {:.1} bytes/key, start {:.3} s",
        thousands(keys as f64),
        growth.bytes_per_key,
        growth.start_median().unwrap_or(f64::NAN)
    );
    Ok(growth)
}

/// A start beside the rate that was asked for, or beside the disk where that is slower: as many bytes as the
/// sidecars have at the rate with which fio reads the log.
fn compare(bench: &Bench, setup: &Setup, growth: &Growth, report: &mut ScaleReport) -> Result<()> {
    let mut files = files(&setup.directory.join("data"), "log")?;
    files.truncate(READ_FILES);
    let id = (RESTART, "restart, all keys", "keys/s");
    for &seconds in &growth.start_s {
        if growth.is_cold {
            drop_caches();
        }
        let job = Job {
            kind: "read",
            files: &files,
            block_bytes: READ_BYTES,
            depth: READ_DEPTH,
            bytes: None,
            seconds: None,
        };
        let rate = fio::run(&bench.fio, &job)?;
        let disk = growth.keys as f64 / (growth.sidecar_bytes as f64 / rate.bytes_per_s);
        let details = [("MB/s", rate.bytes_per_s / 1e6), ("keys/s", disk)];
        report.add(id, "zdb", growth.keys as f64 / seconds, &[("seconds", seconds)]);
        report.add(id, "10 M/s or the disk", disk.min(RESTART_KEYS_PER_S), &details);
    }
    Ok(())
}

/// The files of a kind, oldest first.
fn files(directory: &Path, wanted: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let mut files = Vec::new();
    for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == wanted) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Makes the kernel forget what it has read; false where it may not be told to.
fn drop_caches() -> bool {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn ensure_ids(server: &Server, count: u64) -> Result<()> {
    let reply = server.ask(&[b"DBSIZE"])?;
    ensure!(
        reply == format!(":{count}\r\n").as_bytes(),
        "DBSIZE answered {:?}, but {count} ids were given out",
        String::from_utf8_lossy(&reply)
    );
    for id in (0..count).step_by((count / many_keys::PROBES).max(1) as usize) {
        let reply = server.ask(&[b"GET", &id.to_le_bytes()])?;
        ensure!(
            reply.starts_with(format!("${VALUE_BYTES}\r\n").as_bytes()),
            "GET of id {id} answered {:?}",
            String::from_utf8_lossy(&reply)
        );
    }
    Ok(())
}
