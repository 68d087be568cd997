//! The measurements: rounds in which the servers take turns, load by load.

use crate::client::{self, Window};
use crate::load::{CACHE, Load, Sync, fill_for};
use crate::machine::busy_time;
use crate::report::{Report, Sample, thousands};
use crate::server::{Kind, Programs, Server, Setup};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What stays the same for a whole run.
#[derive(Clone, Debug)]
pub struct Run {
    pub programs: Programs,
    pub directory: PathBuf,
    pub quick: bool,
    pub rounds: usize,
    pub servers: Vec<Kind>,
    /// Cores of the servers and of the load generator.
    pub pinned: Option<(usize, usize)>,
}

impl Run {
    pub fn window(&self) -> Window {
        let ms = Duration::from_millis;
        if self.quick {
            Window {
                warmup: ms(50),
                wall_min: ms(250),
                server_cpu_min: Duration::ZERO,
                wall_max: ms(250),
            }
        } else {
            Window {
                warmup: ms(500),
                wall_min: ms(2_000),
                server_cpu_min: ms(2_000),
                wall_max: ms(6_000),
            }
        }
    }

    pub fn setup(&self, kind: Kind, sync: Sync, cache: &'static str, place: &str) -> Setup {
        let directory = self.directory.join(format!("{place}-{}", kind.name().to_lowercase()));
        let core = self.pinned.map(|(server, _)| server);
        Setup { kind, directory, sync, cache, core, flags: Vec::new() }
    }

    /// The servers of a round, each round with another one first.
    fn turn_order(&self, round: usize) -> Vec<Kind> {
        let mut order = self.servers.clone();
        order.rotate_left(round % self.servers.len());
        order
    }
}

/// Runs the chosen loads of one group in one round, on servers that start empty.
pub fn run_group(run: &Run, loads: &[&Load], round: usize, report: &mut Report) -> Result<()> {
    let sync = loads[0].sync;
    let order: Vec<Kind> = run
        .turn_order(round)
        .into_iter()
        .filter(|&kind| kind != Kind::Null || loads.iter().any(|load| load.null))
        .collect();
    let mut servers = start_paused(run, &order, sync)?;
    let fills = fills(loads);
    for server in servers.iter_mut().filter(|server| server.kind != Kind::Null) {
        for fill in &fills {
            awake(run, server, fill.title, |server| client::fill(server.address, fill))?;
        }
    }
    for load in loads {
        for server in &mut servers {
            if server.kind == Kind::Null && !load.null {
                continue;
            }
            let sample =
                awake(run, server, load.title, |server| measure_one(run, server, load, round))?;
            say(load.title, server.kind, &sample, run, round);
            report.add(load, server.kind, sample);
        }
    }
    end(run, servers)
}

/// What puts the keys of `loads` in place, once for each set of keys.
fn fills(loads: &[&Load]) -> Vec<Load> {
    let mut fills: Vec<Load> = Vec::new();
    for fill in loads.iter().filter_map(|load| fill_for(load)) {
        if !fills.iter().any(|other| other.keys == fill.keys) {
            fills.push(fill);
        }
    }
    fills
}

/// Runs the real redis-benchmark against each server in one round; the null server, which answers
/// its questions about the configuration with a constant too, is left out.
pub fn run_cross_check(
    run: &Run,
    redis_benchmark: &Path,
    round: usize,
    report: &mut Report,
) -> Result<()> {
    let order: Vec<Kind> =
        run.turn_order(round).into_iter().filter(|&kind| kind != Kind::Null).collect();
    let mut servers = start_paused(run, &order, Sync::EverySecond)?;
    for pipeline in [1, 16] {
        for command in ["set", "get"] {
            let id = format!("redis-benchmark-{command}-p{pipeline}");
            // Keys out of a billion: hardly a GET finds one.
            let misses = if command == "get" { " (misses)" } else { "" };
            let title = format!("redis-benchmark -t {command} -P {pipeline}{misses}");
            for server in &mut servers {
                let check = |server: &Server| {
                    cross_check_one(run, redis_benchmark, server, command, pipeline, round)
                };
                let sample = awake(run, server, &title, check)?;
                say(&title, server.kind, &sample, run, round);
                report.add_named(&id, &title, 100, server.kind, sample);
            }
        }
    }
    end(run, servers)
}

/// Starts the servers in empty directories; they are paused when this returns.
fn start_paused(run: &Run, order: &[Kind], sync: Sync) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for &kind in order {
        let setup = run.setup(kind, sync, CACHE, "load");
        empty(&setup.directory)?;
        let server = Server::start(&run.programs, &setup)?;
        server.pause()?;
        servers.push(server);
    }
    Ok(servers)
}

fn end(run: &Run, servers: Vec<Server>) -> Result<()> {
    let kinds: Vec<Kind> = servers.iter().map(|server| server.kind).collect();
    for server in servers {
        server.stop()?;
    }
    for kind in kinds {
        empty(&run.setup(kind, Sync::EverySecond, CACHE, "load").directory)?;
    }
    Ok(())
}

pub fn empty(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Wakes a server for one piece of work and pauses it again.
pub fn awake<T>(
    run: &Run,
    server: &mut Server,
    what: &str,
    work: impl Fn(&Server) -> Result<T>,
) -> Result<T> {
    // Nobody is to pay for files that another server, or another program, left dirty.
    let place = File::open(&run.directory)?;
    nix::unistd::syncfs(&place).context("cannot sync the file system")?;
    server.resume()?;
    match work(server) {
        Ok(value) => {
            server.pause()?;
            Ok(value)
        }
        Err(error) => Err(server.explain(error).context(format!("{what}, {}", server.kind.name()))),
    }
}

pub fn measure_one(run: &Run, server: &Server, load: &Load, round: usize) -> Result<Sample> {
    let constant = server.kind == Kind::Null;
    let (busy_before, begin) = (busy_time()?, Instant::now());
    let (all_before, own_before) = (server.cpu()?, client::own_cpu()?);
    let server_cpu = || {
        // Again and again, because the kernel makes io_uring workers when it needs them.
        if let Some((core, _)) = run.pinned {
            server.gather_threads(core)?;
        }
        server.cpu()
    };
    let outcome = client::measure(server.address, load, constant, &run.window(), &server_cpu)?;
    let known = (server.cpu()? - all_before) + (client::own_cpu()? - own_before);
    let elsewhere = (busy_time()? - busy_before).saturating_sub(known);
    let seconds = outcome.elapsed.as_secs_f64();
    ensure!(outcome.requests > 0, "no request was answered within {seconds:.1} s");
    let requests = outcome.requests as f64;
    let quantile = |share| outcome.latency.value_at_quantile(share) as f64 / 1e3;
    Ok(Sample {
        round,
        requests: outcome.requests,
        requests_per_s: requests / seconds,
        value_mb_per_s: requests * load.value_size as f64 / seconds / 1e6,
        server_cpu_us_per_request: outcome.server_cpu.as_secs_f64() * 1e6 / requests,
        server_cpu_s: outcome.server_cpu.as_secs_f64(),
        latency_p50_us: quantile(0.50),
        latency_p99_us: quantile(0.99),
        generator_cores: outcome.client_cpu.as_secs_f64() / seconds,
        elsewhere_cores: elsewhere.as_secs_f64() / begin.elapsed().as_secs_f64(),
    })
}

fn cross_check_one(
    run: &Run,
    redis_benchmark: &Path,
    server: &Server,
    command: &str,
    pipeline: usize,
    round: usize,
) -> Result<Sample> {
    let requests = match (run.quick, pipeline) {
        (true, 1) => 10_000,
        (true, _) => 100_000,
        (false, 1) => 200_000,
        (false, _) => 1_000_000,
    };
    let (busy_before, server_before, begin) = (busy_time()?, server.cpu()?, Instant::now());
    let children_before = children_cpu()?;
    // Started by this thread, it runs on the core of the load generator, in whose place it is.
    let port = server.address.port();
    let arguments = format!(
        "-h 127.0.0.1 -p {port} -t {command} -d 100 -c 50 -r 1000000000 -P {pipeline} -n {requests} --csv"
    );
    let output = Command::new(redis_benchmark)
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .context("cannot run redis-benchmark")?;
    let wall = begin.elapsed();
    let server_cpu = server.cpu()? - server_before;
    let generator_cpu = children_cpu()? - children_before;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "redis-benchmark failed ({}): {} {}",
        output.status,
        text.trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let row = CsvRow::read(&text, command)?;
    let elsewhere = (busy_time()? - busy_before).saturating_sub(server_cpu + generator_cpu);
    Ok(Sample {
        round,
        requests,
        requests_per_s: row.number("rps")?,
        value_mb_per_s: row.number("rps")? * 100.0 / 1e6,
        server_cpu_us_per_request: server_cpu.as_secs_f64() * 1e6 / requests as f64,
        server_cpu_s: server_cpu.as_secs_f64(),
        latency_p50_us: row.number("p50_latency_ms")? * 1e3,
        latency_p99_us: row.number("p99_latency_ms")? * 1e3,
        generator_cores: generator_cpu.as_secs_f64() / wall.as_secs_f64(),
        elsewhere_cores: elsewhere.as_secs_f64() / wall.as_secs_f64(),
    })
}

/// The CPU time of programs that were started and have ended.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

/// The line of redis-benchmark's CSV output that is about one command.
struct CsvRow<'a> {
    names: Vec<&'a str>,
    values: Vec<&'a str>,
    text: &'a str,
}

impl<'a> CsvRow<'a> {
    fn read(text: &'a str, command: &str) -> Result<Self> {
        let split = |line: &'a str| line.split(',').map(|cell| cell.trim_matches('"')).collect();
        let names = text.lines().find(|line| line.starts_with("\"test\""));
        let values =
            text.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{command}\"")));
        match (names, values) {
            (Some(names), Some(values)) => {
                Ok(CsvRow { names: split(names), values: split(values), text })
            }
            _ => bail!("redis-benchmark printed no line about {command}: {}", text.trim()),
        }
    }

    fn number(&self, name: &str) -> Result<f64> {
        let place = self.names.iter().position(|&found| found == name);
        let value = place.and_then(|place| self.values.get(place)?.parse().ok());
        value.with_context(|| format!("redis-benchmark printed no {name}: {}", self.text.trim()))
    }
}

pub fn say(title: &str, server: Kind, sample: &Sample, run: &Run, round: usize) {
    eprintln!(
        "round {}/{}  {:<36} {:<5} {:>11} requests/s {:>8.2} us CPU/request",
        round + 1,
        run.rounds,
        title,
        server.name(),
        thousands(sample.requests_per_s),
        sample.server_cpu_us_per_request
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_of_redis_benchmark() {
        let text = "\"test\",\"rps\",\"p50_latency_ms\"\n\"SET\",\"1000.50\",\"0.2\"\n";
        let row = CsvRow::read(text, "set").unwrap();
        assert_eq!(row.number("rps").unwrap(), 1000.5);
        assert!(row.number("p99_latency_ms").is_err());
        assert!(CsvRow::read(text, "get").is_err());
    }
}
