//! What the numbers were measured on: the machine, the file system, the versions, and how quiet it was.

use crate::server::{Programs, core_count};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub filesystem: String,
    pub zdb: String,
    pub redis: String,
}

impl Machine {
    pub fn look(directory: &Path, programs: &Programs) -> Result<Machine> {
        Ok(Machine {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: core_count(),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0_u64)
                / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_string(),
            filesystem: filesystem(directory)?,
            zdb: version(&programs.zdb),
            redis: version(&programs.redis),
        })
    }
}

impl Machine {
    /// One line about it.
    pub fn headline(&self) -> String {
        format!(
            "{}, {} cores, Linux {}, {}; {}",
            self.cpu,
            self.cores,
            self.kernel,
            self.filesystem,
            self.date.split('T').next().unwrap_or_default()
        )
    }
}

/// CPU time that the whole machine spent on anything, stolen time included, in clock ticks.
pub fn busy_time() -> Result<Duration> {
    let text = read("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user time.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(busy as f64 / per_second as f64))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// Type and device of the file system that holds `directory`.
fn filesystem(directory: &Path) -> Result<String> {
    let directory =
        directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
    let mounts = read("/proc/self/mounts")?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let holding = fields.filter(|(_, place, _)| directory.starts_with(place));
    // The last of the longest: a later mount covers an earlier one.
    let found = holding.max_by_key(|(_, place, _)| place.len());
    Ok(found.map_or("unknown".into(), |(device, _, kind)| format!("{kind} on {device}")))
}

/// The first line of what a program says about its version.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_string()
}
