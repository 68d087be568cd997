//! How far a replica is behind while its master is under load.

use super::info::Watcher;
use super::{ID, Pair};
use crate::client::{self, Window};
use crate::load::{Command, Load, RANDOM, plain};
use crate::measure::{Run, awake};
use crate::report::median;
use crate::scale::found::ScaleReport;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LAG: &str = "replica-lag";

const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const SECONDS: u64 = 10;
const SECONDS_QUICK: u64 = 1;

/// Where a log ended, and when the reply that says so was there: seconds since the first request.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at_s: f64,
    end: u64,
}

pub fn run(run: &Run, report: &mut ScaleReport) -> Result<()> {
    let load = Load { pipeline: 16, ..plain(Command::Set, RANDOM) };
    let length = Duration::from_secs(if run.quick { SECONDS_QUICK } else { SECONDS });
    for _ in 0..run.rounds {
        let mut pair = Pair::start(run, true, &[])?;
        let replica = pair.replica.as_ref().expect("it was asked for").address;
        let (rate, behind) = awake(run, &mut pair.master, ID, |master| {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                let watch = |address| scope.spawn(move || watch(address, begin, length));
                let (of_master, of_replica) = (watch(master.address), watch(replica));
                let window = Window {
                    warmup: Duration::ZERO,
                    wall_min: length,
                    server_cpu_min: Duration::ZERO,
                    wall_max: length,
                };
                let outcome =
                    client::measure(master.address, &load, false, &window, &|| master.cpu())?;
                let of_master = of_master.join().expect("no watcher panics")?;
                let of_replica = of_replica.join().expect("no watcher panics")?;
                let rate = outcome.requests as f64 / outcome.elapsed.as_secs_f64();
                anyhow::Ok((rate, compare(&of_master, &of_replica)))
            })
        })?;
        pair.stop()?;
        let middle = |values: &[f64]| median(values.iter().copied()).context("no sample was taken");
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let (ms, bytes): (Vec<f64>, Vec<f64>) = behind.into_iter().unzip();
        let details = [
            ("longest ms", most(&ms)),
            ("median KB", middle(&bytes)? / 1e3),
            ("most KB", most(&bytes) / 1e3),
            ("requests/s", rate),
        ];
        let id = (LAG, "replica behind, SET 100 B, insert, pipeline 16", "ms");
        report.add(id, "median", middle(&ms)?, &details);
    }
    Ok(())
}

/// Looks at fixed times, so that the two who watch look at the same ones.
fn watch(address: SocketAddr, begin: Instant, length: Duration) -> Result<Vec<Seen>> {
    let mut watcher = Watcher::connect(address)?;
    let mut seen = Vec::new();
    let mut next = Duration::ZERO;
    while next < length {
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
        let end = watcher.end()?;
        seen.push(Seen { at_s: begin.elapsed().as_secs_f64(), end });
        next += SAMPLE_EVERY;
    }
    Ok(seen)
}

/// Milliseconds and bytes of each sample. The first ones, before all connections are under load, do not count.
fn compare(of_master: &[Seen], of_replica: &[Seen]) -> Vec<(f64, f64)> {
    let begin = of_master.len() / 10 + 1;
    let pairs = of_master.iter().zip(of_replica).skip(begin);
    let behind = pairs.map(|(master, replica)| {
        let ms = (replica.at_s - time_of(of_master, replica.end)).max(0.0) * 1e3;
        (ms, master.end.saturating_sub(replica.end) as f64)
    });
    behind.collect()
}

/// When the master was at a place, on a straight line between the samples around it, or behind the last two.
fn time_of(of_master: &[Seen], place: u64) -> f64 {
    let after = of_master.partition_point(|seen| seen.end < place);
    let after = after.clamp(1, of_master.len() - 1);
    let (left, right) = (of_master[after - 1], of_master[after]);
    let bytes = right.end.saturating_sub(left.end).max(1) as f64;
    left.at_s + (place as f64 - left.end as f64) / bytes * (right.at_s - left.at_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_in_time_is_since_the_master_was_there() {
        let seen = |at_s, end| Seen { at_s, end };
        let master = [seen(0.0, 0), seen(0.1, 1000), seen(0.2, 3000)];
        assert!((time_of(&master, 500) - 0.05).abs() < 1e-9);
        assert!((time_of(&master, 2000) - 0.15).abs() < 1e-9);
        assert!((time_of(&master, 4000) - 0.25).abs() < 1e-9);
        let replica = [seen(0.0, 0), seen(0.1, 500), seen(0.2, 2000)];
        let behind = compare(&master, &replica);
        assert_eq!(behind.len(), 2);
        assert!((behind[0].0 - 50.0).abs() < 1e-6, "{behind:?}");
        assert_eq!(behind[1].1, 1000.0);
    }
}
