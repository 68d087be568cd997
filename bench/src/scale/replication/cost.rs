//! What a replica costs its master: requests a second, which include what the replica takes of shared cores,
//! and the master's own CPU for a request, which is what is left of it where each has a core.

use super::info::Watcher;
use super::{ID, Pair};
use crate::load::{Command, Load, RANDOM, plain};
use crate::measure::{Run, awake, measure_one};
use crate::scale::found::ScaleReport;
use anyhow::Result;
use std::time::Instant;

pub const RATE_P16: &str = "replica-rate-p16";
pub const CPU_P16: &str = "replica-cpu-p16";

struct Shape {
    pipeline: usize,
    rate: &'static str,
    cpu: &'static str,
    rate_confirmed: &'static str,
    cpu_confirmed: &'static str,
}

const SHAPES: [Shape; 2] = [
    Shape {
        pipeline: 16,
        rate: RATE_P16,
        cpu: CPU_P16,
        rate_confirmed: "min-replicas-rate-p16",
        cpu_confirmed: "min-replicas-cpu-p16",
    },
    Shape {
        pipeline: 1,
        rate: "replica-rate-p1",
        cpu: "replica-cpu-p1",
        rate_confirmed: "min-replicas-rate-p1",
        cpu_confirmed: "min-replicas-cpu-p1",
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Alone,
    Replica,
    Confirmed,
}

impl Side {
    const ALL: [Side; 3] = [Side::Replica, Side::Alone, Side::Confirmed];

    fn name(self) -> &'static str {
        match self {
            Side::Alone => "no replica",
            Side::Replica => "one replica",
            Side::Confirmed => "--min-replicas 1",
        }
    }
}

/// One measurement of a side.
struct Found {
    requests_per_s: f64,
    cpu_us: f64,
    details: Vec<(&'static str, f64)>,
}

pub fn run(run: &Run, report: &mut ScaleReport) -> Result<()> {
    for round in 0..run.rounds {
        let mut found: Vec<(Side, Vec<Found>)> = Vec::new();
        for turn in 0..Side::ALL.len() {
            let side = Side::ALL[(round + turn) % Side::ALL.len()];
            found.push((side, measure(run, side, round)?));
        }
        for (place, shape) in SHAPES.iter().enumerate() {
            let of = |side: Side| {
                let (_, own) = found.iter().find(|(known, _)| *known == side).expect("each was");
                &own[place]
            };
            let pairs = [
                (Side::Replica, shape.rate, shape.cpu),
                (Side::Confirmed, shape.rate_confirmed, shape.cpu_confirmed),
            ];
            for (side, rate, cpu) in pairs {
                let what = format!("SET 100 B, insert, pipeline {}", shape.pipeline);
                for side in [side, Side::Alone] {
                    let Found { requests_per_s, cpu_us, details } = of(side);
                    let id = (rate, what.as_str(), "requests/s");
                    report.add(id, side.name(), *requests_per_s, details);
                    let title = format!("master's CPU, {what}");
                    report.add((cpu, &title, "us/request"), side.name(), *cpu_us, &[]);
                }
            }
        }
    }
    Ok(())
}

/// All shapes on one pair that starts empty, so that each side's index has the same size.
fn measure(run: &Run, side: Side, round: usize) -> Result<Vec<Found>> {
    let flags: &[&str] = if side == Side::Confirmed { &["--min-replicas", "1"] } else { &[] };
    let mut pair = Pair::start(run, side != Side::Alone, flags)?;
    let mut all = Vec::new();
    for shape in &SHAPES {
        let load = Load { pipeline: shape.pipeline, ..plain(Command::Set, RANDOM) };
        let replica = pair.replica.as_ref();
        let found = awake(run, &mut pair.master, ID, |master| {
            let cpu = || replica.map_or(Ok(std::time::Duration::ZERO), |replica| replica.cpu());
            let (begin, cpu_before) = (Instant::now(), cpu()?);
            let sample = measure_one(run, master, &load, round)?;
            let (wall_s, cpu_s) =
                (begin.elapsed().as_secs_f64(), (cpu()? - cpu_before).as_secs_f64());
            let mut details = vec![
                ("p99 us", sample.latency_p99_us),
                ("generator cores", sample.generator_cores),
                ("cores of others", (sample.elsewhere_cores - cpu_s / wall_s).max(0.0)),
            ];
            if let Some(replica) = replica {
                let end = Watcher::connect(replica.address)?.end()?;
                let behind = Watcher::connect(master.address)?.end()?.saturating_sub(end);
                details.push(("replica's cores", cpu_s / wall_s));
                details.push(("behind at the end MB", behind as f64 / 1e6));
            }
            let cpu_us = sample.server_cpu_us_per_request;
            Ok(Found { requests_per_s: sample.requests_per_s, cpu_us, details })
        })?;
        all.push(found);
    }
    pair.stop()?;
    Ok(all)
}
