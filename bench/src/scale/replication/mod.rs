//! A master and its replica on this machine: what the one costs the other, how fast a new one catches up, and
//! how far it is behind.

mod catch_up;
mod cost;
mod info;
mod lag;

use super::Bench;
use super::found::ScaleReport;
use crate::load::{CACHE, Sync};
use crate::measure::{Run, empty};
use crate::server::{self, Kind, Server, Setup};
use anyhow::{Result, ensure};
use info::Watcher;
use std::time::{Duration, Instant};

pub use catch_up::SIZES;
pub use cost::{CPU_P16, RATE_P16};

pub const ID: &str = "replication";

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub fn run(bench: &Bench, report: &mut ScaleReport) -> Result<()> {
    // Nothing is pinned: with two cores, three programs would have to share one of them for good.
    let run = Run { pinned: None, ..bench.run.clone() };
    server::pin_self(None)?;
    let measured = cost::run(&run, report)
        .and_then(|()| lag::run(&run, report))
        .and_then(|()| catch_up::run(bench, &run, report));
    server::pin_self(bench.run.pinned.map(|(_, generator)| generator))?;
    measured
}

/// How a server of a pair is started, in an empty directory.
fn fresh(run: &Run, place: &str, flags: &[&str]) -> Result<Setup> {
    let mut setup = run.setup(Kind::Zdb, Sync::EverySecond, CACHE, place);
    setup.flags = flags.iter().map(|flag| (*flag).into()).collect();
    empty(&setup.directory)?;
    Ok(setup)
}

fn replica_of(master: &Server) -> String {
    format!("{} {}", master.address.ip(), master.address.port())
}

/// A master and its replica, which is in step with it, or none.
struct Pair {
    master: Server,
    replica: Option<Server>,
    setups: Vec<Setup>,
}

impl Pair {
    /// Both get `flags`. The master is paused when this returns.
    fn start(run: &Run, has_replica: bool, flags: &[&str]) -> Result<Self> {
        let setup = fresh(run, "replication-master", flags)?;
        let master = Server::start(&run.programs, &setup)?;
        let mut pair = Pair { master, replica: None, setups: vec![setup] };
        if has_replica {
            let of = replica_of(&pair.master);
            let flags = [flags, &["--replicaof", &of]].concat();
            let setup = fresh(run, "replication-replica", &flags)?;
            pair.replica = Some(Server::start(&run.programs, &setup)?);
            pair.setups.push(setup);
            let mut watcher = Watcher::connect(pair.master.address)?;
            wait_for("the replica", || Ok(watcher.look()?.number("connected_slaves")? == 1))?;
            // With --min-replicas it also has to begin a term.
            let master = &pair.master;
            wait_for("a first SET", || Ok(master.ask(&[b"SET", b"first", b""])?[0] != b'-'))?;
        }
        pair.master.pause()?;
        Ok(pair)
    }

    fn stop(self) -> Result<()> {
        if let Some(replica) = self.replica {
            replica.stop()?;
        }
        self.master.stop()?;
        self.setups.iter().try_for_each(|setup| empty(&setup.directory))
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_there()? {
        ensure!(begin.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
