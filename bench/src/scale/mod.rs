//! Many keys, many tenants, data much larger than memory: what a disk full of data costs, each figure beside
//! what it is compared to.

mod amplification;
pub mod chart;
mod disk;
mod fio;
pub mod found;
mod growth;
mod mixed;
mod namespaces;
mod replication;
pub mod targets;
mod threads;

use crate::machine::Machine;
use crate::measure::Run;
use crate::server::find_program;
use anyhow::{Context, Result};
use found::ScaleReport;
use std::path::PathBuf;
use std::process::Command;

pub const GROUP: &str = "scale";

/// What a start is to do in a second, unless the disk cannot give its bytes that fast.
const RESTART_KEYS_PER_S: f64 = 10e6;

/// What the loads need: the run that they are a part of, and fio.
pub struct Bench {
    pub run: Run,
    pub fio: PathBuf,
}

/// A load by its name for --only.
pub struct ScaleLoad {
    pub id: &'static str,
    pub title: &'static str,
    measure: fn(&Bench, &mut ScaleReport) -> Result<()>,
}

pub const LOADS: &[ScaleLoad] = &[
    ScaleLoad {
        id: disk::GET,
        title: "GET of random 4 KiB, data 20 times the cache, beside fio",
        measure: disk::get,
    },
    ScaleLoad { id: disk::SET, title: "SET of 1 MiB beside fio", measure: disk::set },
    ScaleLoad {
        id: growth::ID,
        title: "restart and memory with up to 50 million keys, and ids; some 6 GB",
        measure: growth::run,
    },
    ScaleLoad {
        id: amplification::ID,
        title: "bytes written for a byte of records",
        measure: amplification::run,
    },
    ScaleLoad {
        id: namespaces::ID,
        title: "200 namespaces at once beside one",
        measure: namespaces::run,
    },
    ScaleLoad { id: threads::ID, title: "--threads 2 beside 1", measure: threads::run },
    ScaleLoad {
        id: mixed::ID,
        title: "reads and overwrites over time, the cleaner off and on",
        measure: mixed::run,
    },
    ScaleLoad {
        id: replication::ID,
        title: "what a replica costs its master, how fast a new one catches up, how far it is behind",
        measure: replication::run,
    },
];

/// Runs the chosen loads, one after the other with all their rounds.
pub fn run(run: &Run, loads: &[&ScaleLoad]) -> Result<ScaleReport> {
    let fio = find_program("fio", "fio")?;
    let version = Command::new(&fio).arg("--version").output().context("cannot run fio")?;
    let mut report = ScaleReport {
        machine: Machine::look(&run.directory, &run.programs)?,
        fio: String::from_utf8_lossy(&version.stdout).trim().into(),
        quick: run.quick,
        rounds: run.rounds,
        pinned: run.pinned,
        findings: Vec::new(),
        growth: Vec::new(),
        amplification: Vec::new(),
        timelines: Vec::new(),
        skipped: Vec::new(),
    };
    let bench = Bench { run: run.clone(), fio };
    for load in loads {
        (load.measure)(&bench, &mut report).with_context(|| format!("load {}", load.id))?;
    }
    Ok(report)
}
