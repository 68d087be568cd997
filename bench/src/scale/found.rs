//! What the loads of `scale` found: figures beside what they are compared to, tables and JSON.

use crate::machine::Machine;
use crate::report::{columns, median, print_table, thousands};
use crate::scale::targets::{self, Verdict};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One of the things that took turns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    /// The figure of each round.
    pub values: Vec<f64>,
    /// Other figures of each round, by their names with units.
    pub details: BTreeMap<String, Vec<f64>>,
}

/// One figure: what is measured stands first, behind it what it is compared to, where there is such.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub id: String,
    pub title: String,
    pub unit: String,
    pub sides: Vec<Side>,
}

/// A zdb of one mode with so many keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Growth {
    /// `user` or `seq`.
    pub mode: String,
    pub keys: u64,
    pub fill_keys_per_s: f64,
    /// Resident memory above that of a warmed server without keys: of the server that took the newest
    /// of them, and of one that started with all.
    pub bytes_per_key: f64,
    pub bytes_per_key_started: f64,
    /// The same, above a server that has done nothing yet.
    pub bytes_per_key_above_empty: f64,
    pub sidecar_bytes: u64,
    pub is_cold: bool,
    /// From starting the program to the first PONG with all keys served, each start.
    pub start_s: Vec<f64>,
}

/// What reached the disk while so many clients wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Amplification {
    pub sync: String,
    pub clients: usize,
    pub requests: u64,
    /// Of the records that were acknowledged, with their heads; of keys and values alone.
    pub record_bytes: u64,
    pub user_bytes: u64,
    /// By the block device's own count, where the system has one, and by the kernel's count for the
    /// process.
    pub device_bytes: Option<u64>,
    pub process_bytes: u64,
}

impl Amplification {
    /// What counts: the device's number has the file system's own writes in it, too.
    pub fn written_bytes(&self) -> u64 {
        self.device_bytes.unwrap_or(self.process_bytes)
    }

    pub fn per_record_byte(&self) -> f64 {
        self.written_bytes() as f64 / self.record_bytes as f64
    }

    pub fn per_user_byte(&self) -> f64 {
        self.written_bytes() as f64 / self.user_bytes as f64
    }
}

/// A second of a load over time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Second {
    pub requests: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timeline {
    pub name: String,
    pub round: usize,
    pub requests_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub data_bytes: u64,
    pub seconds: Vec<Second>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScaleReport {
    pub machine: Machine,
    pub fio: String,
    pub quick: bool,
    pub rounds: usize,
    pub pinned: Option<(usize, usize)>,
    pub findings: Vec<Finding>,
    pub growth: Vec<Growth>,
    pub amplification: Vec<Amplification>,
    pub timelines: Vec<Timeline>,
    /// What could not be measured, and why.
    pub skipped: Vec<String>,
}

impl Side {
    pub fn median(&self) -> f64 {
        median(self.values.iter().copied()).unwrap_or(f64::NAN)
    }

    fn details(&self) -> String {
        let details = self.details.iter().filter_map(|(name, values)| {
            let value = median(values.iter().copied())?;
            let digits = if value < 100.0 { format!("{value:.2}") } else { thousands(value) };
            Some(format!("{name} {digits}"))
        });
        details.collect::<Vec<_>>().join(", ")
    }
}

impl Finding {
    /// The median of what the rounds found: the first side, divided by the second where there is one. The
    /// two of a round follow each other closely, so what disturbs the machine mostly meets both.
    pub fn figure(&self) -> Option<f64> {
        let values = |place: usize| self.sides.get(place).map(|side| side.values.as_slice());
        match (values(0)?, values(1)) {
            (own, Some(base)) => median(own.iter().zip(base).map(|(own, base)| own / base)),
            (own, None) => median(own.iter().copied()),
        }
    }
}

impl Growth {
    pub fn start_median(&self) -> Option<f64> {
        median(self.start_s.iter().copied())
    }
}

impl ScaleReport {
    pub fn find(&self, id: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.id == id)
    }

    /// Adds the figure of one round to one side of a finding.
    pub fn add(
        &mut self,
        (id, title, unit): (&str, &str, &str),
        side: &str,
        value: f64,
        details: &[(&str, f64)],
    ) {
        eprintln!("{id:<22} {side:<22} {} {unit}", number(value));
        if self.find(id).is_none() {
            let (id, title, unit) = (id.into(), title.into(), unit.into());
            self.findings.push(Finding { id, title, unit, sides: Vec::new() });
        }
        let found = self.findings.iter_mut().find(|finding| finding.id == id);
        let sides = &mut found.expect("it was just added").sides;
        let place = sides.iter().position(|known| known.name == side).unwrap_or_else(|| {
            let (name, values) = (side.into(), Vec::new());
            sides.push(Side { name, values, details: BTreeMap::new() });
            sides.len() - 1
        });
        sides[place].values.push(value);
        for &(name, value) in details {
            sides[place].details.entry(name.into()).or_default().push(value);
        }
    }

    pub fn skip(&mut self, line: String) {
        eprintln!("skipped: {line}");
        self.skipped.push(line);
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// None where the file is a result, but of the other loads.
    pub fn read_json(path: &Path) -> Result<Option<ScaleReport>> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON", path.display()))?;
        if value.get("findings").is_none() {
            return Ok(None);
        }
        let report = serde_json::from_value(value);
        report.map(Some).with_context(|| format!("cannot understand {}", path.display()))
    }

    pub fn print(&self) {
        println!("\n{}", self.machine.headline());
        println!("zdb: {}; {}", self.machine.zdb, self.fio);
        println!("Medians of {} round(s), the sides taking turns within each.", self.rounds);
        if self.quick {
            println!(
                "This was the quick form: it shows that everything runs, it measures nothing."
            );
        }
        self.print_findings();
        self.print_growth();
        self.print_amplification();
        self.print_timelines();
        for line in &self.skipped {
            println!("\nnot measured: {line}");
        }
        self.print_targets();
    }

    fn print_findings(&self) {
        if self.findings.is_empty() {
            return;
        }
        let mut rows = vec![columns(&["load", "side", "", "ratio", "unit", "beside it"])];
        for finding in &self.findings {
            for (place, side) in finding.sides.iter().enumerate() {
                let ratio = match (place, finding.sides.len()) {
                    (0, 2..) => finding.figure().map_or_else(String::new, |r| format!("{r:.3}")),
                    _ => String::new(),
                };
                let title = if place == 0 { finding.title.clone() } else { String::new() };
                let value = number(side.median());
                rows.push(vec![
                    title,
                    side.name.clone(),
                    value,
                    ratio,
                    finding.unit.clone(),
                    side.details(),
                ]);
            }
        }
        print_table(&rows, &[0, 1, 4, 5]);
    }

    fn print_growth(&self) {
        if self.growth.is_empty() {
            return;
        }
        let mut rows = vec![columns(&[
            "mode",
            "keys",
            "fill keys/s",
            "bytes/key",
            "after a start",
            "above empty",
            "sidecars MiB",
            "start s",
            "keys/s",
        ])];
        for growth in &self.growth {
            let start = growth.start_median();
            rows.push(vec![
                growth.mode.clone(),
                thousands(growth.keys as f64),
                thousands(growth.fill_keys_per_s),
                format!("{:.1}", growth.bytes_per_key),
                format!("{:.1}", growth.bytes_per_key_started),
                format!("{:.1}", growth.bytes_per_key_above_empty),
                format!("{:.0}", growth.sidecar_bytes as f64 / f64::from(1 << 20)),
                start.map_or_else(String::new, |seconds| format!("{seconds:.3}")),
                start.map_or_else(String::new, |seconds| thousands(growth.keys as f64 / seconds)),
            ]);
        }
        print_table(&rows, &[0]);
        let caches = if self.growth.iter().all(|growth| growth.is_cold) {
            "dropped"
        } else {
            "NOT dropped, which takes root,"
        };
        println!(
            "start: on all cores, the page cache {caches} before it. bytes/key: above a warmed server without keys."
        );
    }

    fn print_amplification(&self) {
        if self.amplification.is_empty() {
            return;
        }
        let mut rows = vec![columns(&[
            "sync",
            "clients",
            "requests",
            "written MiB",
            "by the process",
            "÷ record bytes",
            "÷ key + value",
        ])];
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        for row in &self.amplification {
            rows.push(vec![
                row.sync.clone(),
                row.clients.to_string(),
                thousands(row.requests as f64),
                mib(row.written_bytes()),
                mib(row.process_bytes),
                format!("{:.2}", row.per_record_byte()),
                format!("{:.2}", row.per_user_byte()),
            ]);
        }
        print_table(&rows, &[0]);
        println!(
            "written: by the block device's count, so with the file system's own and all strangers' writes."
        );
    }

    fn print_timelines(&self) {
        if self.timelines.is_empty() {
            return;
        }
        let mut rows =
            vec![columns(&["mixed load", "requests/s", "p50 us", "p99 us", "max us", "data MiB"])];
        for line in &self.timelines {
            rows.push(vec![
                format!("{}, round {}", line.name, line.round + 1),
                thousands(line.requests_per_s),
                thousands(line.p50_us),
                thousands(line.p99_us),
                thousands(line.max_us),
                thousands(line.data_bytes as f64 / f64::from(1 << 20)),
            ]);
        }
        print_table(&rows, &[0]);
    }

    fn print_targets(&self) {
        let verdicts = targets::judge(self);
        if verdicts.is_empty() || self.quick {
            return;
        }
        let mut rows = vec![columns(&["load", "target", "measured", ""])];
        rows.extend(verdicts.iter().map(|Verdict { title, target, measured, met }| {
            let verdict = if *met { "met" } else { "missed" };
            vec![title.clone(), target.clone(), format!("{measured:.3}"), verdict.into()]
        }));
        print_table(&rows, &[0, 1]);
    }
}

fn number(value: f64) -> String {
    if value.abs() < 1000.0 { format!("{value:.2}") } else { thousands(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_the_rounds_ratios() {
        let side = |values: &[f64]| Side {
            name: String::new(),
            values: values.to_vec(),
            details: BTreeMap::new(),
        };
        let (id, title, unit) = (String::new(), String::new(), String::new());
        let mut finding = Finding { id, title, unit, sides: vec![side(&[8.0, 4.0, 9.0])] };
        assert_eq!(finding.figure(), Some(8.0));
        finding.sides.push(side(&[10.0, 5.0, 9.0]));
        assert_eq!(finding.figure(), Some(0.8));
        finding.sides.clear();
        assert_eq!(finding.figure(), None);
    }
}
