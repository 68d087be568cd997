//! Compares zdb with Redis and with a server that answers a constant, on this machine.

mod chart;
mod client;
mod crowd;
mod load;
mod machine;
mod many_keys;
mod measure;
mod report;
mod scale;
mod server;
mod targets;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use load::{CROSS_CHECK, CROWD, LOADS, MEMORY, START};
use machine::Machine;
use measure::Run;
use report::Report;
use scale::ScaleLoad;
use scale::found::ScaleReport;
use server::{Kind, Programs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const ROUNDS: usize = 5;
/// What a run may leave on the disk at its fullest, which is 64 KiB values; 50 million keys take 6.
const SPACE_GIB: u64 = 20;
const SPACE_QUICK_GIB: u64 = 3;

/// Compares zdb with Redis and with a server that answers a constant, on this machine.
///
/// Builds zdb, starts it, Debian's redis-server (appendonly yes, appendfsync everysec, then always)
/// and the null server (zdb's own loops with a constant for an engine) in turn, gives each the same
/// loads, and prints medians, ratios and which targets were met. The loads of the group scale measure
/// zdb with much data, many keys and many tenants, beside fio and beside itself. A full run takes about
/// 45 minutes and writes latest.json, latest.svg, scale.json, scale.svg and latency.svg into
/// bench/results; any shorter one writes under target/.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    /// Run a reduced form of everything in about a minute; fails when a program fails, never on a
    /// time
    #[arg(long)]
    quick: bool,

    /// How often each load is measured on each server [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,

    /// Run only these: loads or groups of loads, as --list names them
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,

    /// List the names for --only and end
    #[arg(long)]
    list: bool,

    /// Start only these servers
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        value_enum,
        default_value = "zdb,redis,null"
    )]
    servers: Vec<Kind>,

    /// Keep the servers' data here while they run; decides which disk is measured [default:
    /// target/bench-data]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Write the JSON files and charts here [default: bench/results for a full run, else
    /// target/bench-results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Run the servers on core 0 and the load generator on core 1, so that neither takes the
    /// other's time [default: yes with two cores or more]
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    pin: Option<bool>,

    /// Measure this zdb instead of building one
    #[arg(long, value_name = "FILE", env = "ZDB_BIN")]
    zdb: Option<PathBuf>,

    /// Print the tables of an earlier run and draw its chart again beside it, measuring nothing
    #[arg(long, value_name = "JSON")]
    show: Option<PathBuf>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no".into()),
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.list {
        return list();
    }
    if let Some(path) = &options.show {
        if let Some(report) = ScaleReport::read_json(path)? {
            report.print();
            return scale::chart::write(&report, path.parent().unwrap_or(Path::new(".")));
        }
        let report = Report::read_json(path)?;
        report.print();
        return chart::write(&report, &path.with_extension("svg"));
    }
    check_names(&options.only)?;
    let run = prepare(options)?;
    let out = prepare_out(options)?;
    let report = measure_all(options, &run)?;
    let scale = measure_scale(options, &run)?;
    if let Some(report) = &report {
        report.print();
        report.write_json(&out.join("latest.json"))?;
        chart::write(report, &out.join("latest.svg"))?;
        println!(
            "\nAll rounds are in {0}/latest.json, the chart is {0}/latest.svg.",
            out.display()
        );
    }
    if let Some(scale) = &scale {
        scale.print();
        scale.write_json(&out.join("scale.json"))?;
        scale::chart::write(scale, &out)?;
        println!("\nAll rounds are in {0}/scale.json, the charts are {0}/*.svg.", out.display());
    }
    if report.is_none() && scale.is_none() {
        bail!("none of the chosen servers runs any of the chosen loads");
    }
    Ok(())
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = LOADS.iter().map(|load| load.group).collect();
    groups.dedup();
    groups
}

fn list() -> Result<()> {
    for group in groups() {
        println!("{group}");
        for load in LOADS.iter().filter(|load| load.group == group) {
            println!("    {:<16} {}", load.id, load.title);
        }
    }
    println!(
        "{CROSS_CHECK}\n    the real redis-benchmark, -t set,get -r 1000000000 -d 100 -c 50, -P 1 and 16"
    );
    println!("{CROWD}\n    10,000 connections, with and without 1,000 that hardly read");
    println!("{MEMORY}\n    resident memory before and after 10 million keys");
    println!("{START}\n    time of a start with 10 million keys");
    println!("{}", scale::GROUP);
    for load in scale::LOADS {
        println!("    {:<16} {}", load.id, load.title);
    }
    Ok(())
}

fn check_names(names: &[String]) -> Result<()> {
    for name in names {
        let known = LOADS.iter().any(|load| load.id == name || load.group == name)
            || [CROSS_CHECK, CROWD, MEMORY, START, scale::GROUP].contains(&name.as_str())
            || scale::LOADS.iter().any(|load| load.id == name);
        ensure!(known, "--only {name}: no load or group has that name; --list shows them");
    }
    Ok(())
}

/// Finds the programs and a place for their data, and pins the load generator.
fn prepare(options: &Options) -> Result<Run> {
    let directory = options.dir.clone().unwrap_or_else(|| target().join("bench-data"));
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let programs = Programs {
        redis: server::find_program("redis-server", "redis-server")?,
        zdb: server::find_zdb(options.zdb.as_deref(), workspace())?,
    };
    if !options.scale_loads().is_empty() {
        // Not after half an hour of other loads.
        server::find_program("fio", "fio")?;
    }
    warn_of_space(&directory, if options.quick { SPACE_QUICK_GIB } else { SPACE_GIB })?;
    let cores = server::core_count();
    let pinned = options.pin.unwrap_or(cores >= 2).then_some((0, 1));
    if let Some((_, generator)) = pinned {
        ensure!(cores >= 2, "--pin yes needs two cores, this machine has {cores}");
        server::pin_self(Some(generator))?;
    }
    let rounds = options.rounds.map_or(if options.quick { 1 } else { ROUNDS }, usize::from);
    Ok(Run {
        programs,
        directory,
        quick: options.quick,
        rounds,
        servers: options.servers.clone(),
        pinned,
    })
}

fn prepare_out(options: &Options) -> Result<PathBuf> {
    let partial = options.quick
        || !options.only.is_empty()
        || options.servers.len() < 3
        || options.rounds.is_some_and(|rounds| rounds < 3);
    let out = match &options.out {
        Some(out) => out.clone(),
        None if partial => target().join("bench-results"),
        None => workspace().join("bench/results"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out)
}

impl Options {
    fn chosen(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn scale_loads(&self) -> Vec<&'static ScaleLoad> {
        if !self.servers.contains(&Kind::Zdb) {
            return Vec::new();
        }
        let loads = scale::LOADS.iter();
        loads.filter(|load| self.chosen(scale::GROUP) || self.chosen(load.id)).collect()
    }
}

fn measure_scale(options: &Options, run: &Run) -> Result<Option<ScaleReport>> {
    let loads = options.scale_loads();
    if loads.is_empty() { Ok(None) } else { scale::run(run, &loads).map(Some) }
}

/// The loads beside Redis and the null server.
fn measure_all(options: &Options, run: &Run) -> Result<Option<Report>> {
    let chosen = |name: &str| options.chosen(name);
    let mut report = Report {
        machine: Machine::look(&run.directory, &run.programs)?,
        quick: run.quick,
        rounds: run.rounds,
        pinned: run.pinned,
        series: Vec::new(),
        scale: Vec::new(),
    };
    for round in 0..run.rounds {
        for group in groups() {
            let loads: Vec<_> = LOADS
                .iter()
                .filter(|load| load.group == group && (chosen(group) || chosen(load.id)))
                .collect();
            if !loads.is_empty() {
                measure::run_group(run, &loads, round, &mut report)?;
            }
        }
        if chosen(CROSS_CHECK) {
            measure::run_cross_check(
                run,
                &server::find_program("redis-benchmark", "redis-tools")?,
                round,
                &mut report,
            )?;
        }
        if chosen(CROWD) {
            crowd::run(run, round, &mut report)?;
        }
    }
    if chosen(MEMORY) || chosen(START) {
        report.scale = many_keys::run(run, chosen(START))?;
    }
    let is_empty = report.series.is_empty() && report.scale.is_empty();
    Ok((!is_empty).then_some(report))
}

fn warn_of_space(directory: &Path, wanted_gib: u64) -> Result<()> {
    let space = nix::sys::statvfs::statvfs(directory)
        .with_context(|| format!("cannot look at {}", directory.display()))?;
    let free_gib = (space.blocks_available() * space.fragment_size()) >> 30;
    if free_gib < wanted_gib {
        eprintln!(
            "warning: {} has {free_gib} GiB free, this run may need {wanted_gib}; --dir names another place",
            directory.display()
        );
    }
    Ok(())
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Cargo's target directory: that of this program, wherever it was configured to be.
fn target() -> PathBuf {
    let program = std::env::current_exe().ok();
    let found = program.and_then(|program| Some(program.parent()?.parent()?.to_path_buf()));
    found.unwrap_or_else(|| workspace().join("target"))
}
