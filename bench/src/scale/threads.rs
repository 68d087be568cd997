//! One thread and more, on all cores of the machine, which the load generator shares.

use super::Bench;
use super::found::ScaleReport;
use crate::client;
use crate::load::{CACHE, Command, FIXED_100, Load, Sync, fill_for, plain};
use crate::measure::{Run, awake, empty};
use crate::server::{self, Kind, Server};
use anyhow::{Context, Result, ensure};

pub const ID: &str = "threads";
pub const LOADS: [(&str, &str, Command, usize); 4] = [
    ("threads-get", "GET 100 B", Command::Get, 1),
    ("threads-set", "SET 100 B, overwrite", Command::Set, 1),
    ("threads-get-p16", "GET 100 B, pipeline 16", Command::Get, 16),
    ("threads-set-p16", "SET 100 B, overwrite, pipeline 16", Command::Set, 16),
];

const CLIENTS: usize = 50;
/// Clients on machines with more cores, where one thread could not generate the load for many.
const CLIENTS_MORE: usize = 200;

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    let cores = server::core_count();
    // Nothing is pinned here: a second thread on the core of the first would measure nothing.
    let run = Run { pinned: None, ..bench.run.clone() };
    server::pin_self(None)?;
    let measured = measure(&run, cores, report);
    server::pin_self(bench.run.pinned.map(|(_, generator)| generator))?;
    measured
}

fn measure(run: &Run, cores: usize, report: &mut ScaleReport) -> Result<()> {
    // The first two are compared, more of them show how it scales.
    let counts: Vec<usize> = [2, 1, 4, 8, 16, 32]
        .into_iter()
        .filter(|&threads| threads <= 2 || threads < cores)
        .collect();
    let clients = if cores > 2 { CLIENTS_MORE } else { CLIENTS };
    let load = |command, pipeline| Load { clients, pipeline, ..plain(command, FIXED_100) };
    let mut servers = Vec::new();
    for &threads in &counts {
        let mut setup =
            run.setup(Kind::Zdb, Sync::EverySecond, CACHE, &format!("threads-{threads}"));
        setup.flags = vec!["--threads".into(), threads.to_string()];
        empty(&setup.directory)?;
        let server = match Server::start(&run.programs, &setup) {
            Ok(server) => server,
            Err(error) if format!("{error:#}").contains("--threads") => {
                for (server, _) in servers {
                    Server::stop(server)?;
                }
                report.skip(format!("zdb refuses --threads {threads}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let fill = fill_for(&load(Command::Set, 1)).context("a fixed set of keys")?;
        client::fill(server.address, &fill)?;
        server.pause()?;
        servers.push((server, threads));
    }
    for (id, title, command, pipeline) in LOADS {
        let load = load(command, pipeline);
        let generators = (cores / 2).max(1);
        let title = format!("{title}, {clients} clients, nothing pinned");
        for round in 0..run.rounds {
            for turn in 0..servers.len() {
                let place = (round + turn) % servers.len();
                let (server, threads) = &mut servers[place];
                let (rate, cpu_us, p99_us) =
                    awake(run, server, id, |server| generate(run, server, &load, generators))?;
                let side = format!("{threads} thread(s)");
                let details = [("p99 us", p99_us), ("CPU us/request", cpu_us)];
                report.add((id, &title, "requests/s"), &side, rate, &details);
            }
        }
    }
    for (server, threads) in servers {
        server.stop()?;
        empty(
            &run.setup(Kind::Zdb, Sync::EverySecond, CACHE, &format!("threads-{threads}"))
                .directory,
        )?;
    }
    Ok(())
}

/// Shares the clients among so many generators, each a thread: requests/s of all, server CPU a request, and
/// the worst generator's p99.
fn generate(run: &Run, server: &Server, load: &Load, generators: usize) -> Result<(f64, f64, f64)> {
    let load = Load { clients: load.clients / generators, ..*load };
    let window = run.window();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..generators)
            .map(|_| {
                let server_cpu = || server.cpu();
                let load = &load;
                let window = &window;
                scope.spawn(move || {
                    client::measure(server.address, load, false, window, &server_cpu)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no generator panics")).collect()
    });
    let (mut rate, mut cpu_us, mut p99_us) = (0.0, 0.0, 0.0_f64);
    for outcome in outcomes {
        let outcome = outcome?;
        ensure!(outcome.requests > 0, "no request was answered");
        let seconds = outcome.elapsed.as_secs_f64();
        rate += outcome.requests as f64 / seconds;
        // Each saw all of the server's time: the mean of their shares of a second.
        cpu_us += outcome.server_cpu.as_secs_f64() * 1e6 / seconds / generators as f64;
        p99_us = p99_us.max(outcome.latency.value_at_quantile(0.99) as f64 / 1e3);
    }
    Ok((rate, cpu_us / rate, p99_us))
}
