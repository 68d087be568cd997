//! Many tenants at once: each client writes to a namespace of its own, then all of them to one.

use super::Bench;
use super::found::ScaleReport;
use crate::client;
use crate::load::{CACHE, Command, Keys, Load, Spaces, Sync, fill_for, plain};
use crate::measure::{awake, empty, measure_one};
use crate::server::{Kind, Server};
use anyhow::{Context, Result, ensure};

pub const ID: &str = "namespaces";
/// By pipeline.
pub const PIPELINES: [(&str, usize); 2] = [("namespaces-p1", 1), ("namespaces-p16", 16)];

const SPACES: usize = 200;
const SPACES_QUICK: usize = 20;
/// Keys of each of the many; the one has as many as they all.
const KEYS: u64 = 500;

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let run = &bench.run;
    let spaces = if run.quick { SPACES_QUICK } else { SPACES };
    let sides = [
        (format!("{spaces} namespaces"), Spaces { first: 0, count: spaces }, KEYS),
        ("one namespace".into(), Spaces { first: spaces, count: 1 }, KEYS * spaces as u64),
    ];
    let setup = run.setup(Kind::Zdb, Sync::EverySecond, CACHE, "namespaces");
    empty(&setup.directory)?;
    let mut server = Server::start(&run.programs, &setup)?;
    let load = |spaces, count, clients, pipeline| Load {
        spaces,
        clients,
        pipeline,
        ..plain(Command::Set, Keys::Fixed { prefix: *b"ns:_", count })
    };
    for number in 0..=spaces {
        let reply = server.ask(&[b"NSNEW", Spaces::name(number).as_bytes()])?;
        ensure!(reply == b"+OK\r\n", "NSNEW answered {:?}", String::from_utf8_lossy(&reply));
        let count = if number < spaces { KEYS } else { KEYS * spaces as u64 };
        let own = load(Spaces { first: number, count: 1 }, count, 1, 1);
        client::fill(server.address, &fill_for(&own).context("a fixed set of keys")?)?;
    }
    server.pause()?;
    for (id, pipeline) in PIPELINES {
        let title = format!("SET 100 B, {spaces} clients, pipeline {pipeline}");
        for round in 0..run.rounds {
            for turn in 0..2 {
                let (name, spaces_of_side, count) = &sides[(round + turn) % 2];
                let load = load(*spaces_of_side, *count, spaces, pipeline);
                let sample =
                    awake(run, &mut server, ID, |server| measure_one(run, server, &load, round))?;
                let details = [
                    ("p99 us", sample.latency_p99_us),
                    ("CPU us/request", sample.server_cpu_us_per_request),
                ];
                report.add((id, &title, "requests/s"), name, sample.requests_per_s, &details);
            }
        }
    }
    server.stop()?;
    empty(&setup.directory)
}
