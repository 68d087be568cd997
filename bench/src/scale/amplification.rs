//! What reaches the disk for a byte of records: under `everysec`, and under `always` as clients become more.

use super::Bench;
use super::found::{Amplification, ScaleReport};
use crate::client::{self, KEY_SIZE};
use crate::load::{CACHE, Command, Load, RANDOM, Sync, plain};
use crate::measure::{Run, empty};
use crate::server::{Kind, Server};
use anyhow::{Context, Result};
use nix::sys::stat::{major, minor, stat};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const ID: &str = "amplification";
pub const EVERYSEC: &str = "amplification-everysec";

const VALUE_BYTES: usize = 100;
/// The head of a record; records are multiples of eight bytes.
const RECORD_HEAD_BYTES: usize = 44;
const RECORD_BYTES: usize = (RECORD_HEAD_BYTES + KEY_SIZE + VALUE_BYTES).next_multiple_of(8);
/// Clients and requests: each takes some seconds.
const EVERYSEC_CLIENTS: usize = 50;
const EVERYSEC_REQUESTS: u64 = 1_000_000;
const ALWAYS: &[(usize, u64)] =
    &[(1, 8_000), (5, 20_000), (20, 60_000), (50, 100_000), (200, 200_000)];
const EVERYSEC_REQUESTS_QUICK: u64 = 20_000;
const ALWAYS_QUICK: &[(usize, u64)] = &[(1, 100), (50, 2_000)];
/// Longer than the period of flushes: when nothing was written for so long, nothing waits to be.
const QUIET: Duration = Duration::from_millis(1_300);
const QUIET_QUICK: Duration = Duration::from_millis(300);
const SECTOR_BYTES: u64 = 512;
/// The place of the number of written sectors in a block device's `stat`.
const SECTORS_WRITTEN: usize = 6;

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let run = &bench.run;
    let (everysec, always) = match run.quick {
        true => (EVERYSEC_REQUESTS_QUICK, ALWAYS_QUICK),
        false => (EVERYSEC_REQUESTS, ALWAYS),
    };
    let found = measure(run, Sync::EverySecond, EVERYSEC_CLIENTS, everysec)?;
    let details = [
        ("per byte of key + value", found.per_user_byte()),
        ("by the process", found.process_bytes as f64 / found.record_bytes as f64),
    ];
    let title = "bytes written, SET 100 B, 50 clients, everysec";
    report.add((EVERYSEC, title, "per record byte"), "zdb", found.per_record_byte(), &details);
    report.amplification.push(found);
    for &(clients, requests) in always {
        let found = measure(run, Sync::Always, clients, requests)?;
        eprintln!("always, {clients} clients: {:.2} per record byte", found.per_record_byte());
        report.amplification.push(found);
    }
    Ok(())
}

fn measure(run: &Run, sync: Sync, clients: usize, requests: u64) -> Result<Amplification> {
    let setup = run.setup(Kind::Zdb, sync, CACHE, "amplification");
    empty(&setup.directory)?;
    let mut server = Server::start(&run.programs, &setup)?;
    let device = device_stat(&setup.directory);
    let load = Load { sync, clients, ..plain(Command::Set, RANDOM) };
    let quiet = if run.quick { QUIET_QUICK } else { QUIET };
    let count = || -> Result<Amplification> {
        settle(&server, &run.directory, quiet)?;
        let (process_before, device_before) =
            (server.written_bytes()?, written(device.as_deref())?);
        let requests = client::send_some(server.address, &load, requests)?;
        settle(&server, &run.directory, quiet)?;
        let device_after = written(device.as_deref())?;
        Ok(Amplification {
            sync: sync.flag().into(),
            clients,
            requests,
            record_bytes: requests * RECORD_BYTES as u64,
            user_bytes: requests * (KEY_SIZE + VALUE_BYTES) as u64,
            device_bytes: device_after.zip(device_before).map(|(after, before)| after - before),
            process_bytes: server.written_bytes()? - process_before,
        })
    };
    let found = count().map_err(|error| server.explain(error))?;
    server.stop()?;
    empty(&setup.directory)?;
    Ok(found)
}

/// Waits until the server has written all it has, and has the file system do the same.
fn settle(server: &Server, directory: &Path, quiet: Duration) -> Result<()> {
    let (mut last, mut since) = (server.written_bytes()?, Instant::now());
    while since.elapsed() < quiet {
        std::thread::sleep(Duration::from_millis(20));
        let now = server.written_bytes()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    nix::unistd::syncfs(&File::open(directory)?).context("cannot sync the file system")
}

/// Where the kernel counts what the block device under `directory` does; none for a file system without
/// one of its own.
fn device_stat(directory: &Path) -> Option<PathBuf> {
    let device = stat(directory).ok()?.st_dev;
    let path = PathBuf::from(format!("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
    path.exists().then_some(path)
}

fn written(device: Option<&Path>) -> Result<Option<u64>> {
    let Some(path) = device else { return Ok(None) };
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let sectors: Option<u64> =
        text.split_whitespace().nth(SECTORS_WRITTEN).and_then(|field| field.parse().ok());
    let sectors = sectors.with_context(|| format!("{} has no written sectors", path.display()))?;
    Ok(Some(sectors * SECTOR_BYTES))
}
