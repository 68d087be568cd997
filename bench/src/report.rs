//! What a run found: samples, medians, the tables on stdout and the JSON file.

use crate::load::Load;
use crate::machine::Machine;
use crate::server::{Kind, Memory};
use crate::targets::{self, Verdict};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// From this share of a core on, the load generator may have been what limited the server.
const GENERATOR_BUSY: f64 = 0.95;
/// From this share of a core on, something besides server and generator disturbed the run.
const ELSEWHERE_BUSY: f64 = 0.15;

/// One measurement of one load on one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub round: usize,
    pub requests: u64,
    pub requests_per_s: f64,
    /// Values moved, in units of a million bytes.
    pub value_mb_per_s: f64,
    /// User and system time of all threads of the server.
    pub server_cpu_us_per_request: f64,
    pub server_cpu_s: f64,
    /// From sending a pipeline's requests to its last reply.
    pub latency_p50_us: f64,
    pub latency_p99_us: f64,
    /// Shares of one core: the load generator, and everything but generator and server. The latter
    /// includes what kernel threads do for the server, as writing back its files.
    pub generator_cores: f64,
    pub elsewhere_cores: f64,
}

/// All rounds of one load on one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    pub load: String,
    pub title: String,
    pub server: Kind,
    pub value_size: usize,
    pub samples: Vec<Sample>,
}

/// Memory and start with many keys, one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scale {
    pub server: Kind,
    pub keys: u64,
    pub memory_empty: Memory,
    /// Another process, after overwriting a small set until buffers and caches had their size.
    pub memory_warmed: Memory,
    pub memory_full: Memory,
    pub bytes_per_key: f64,
    pub bytes_per_key_above_empty: f64,
    pub fill_keys_per_s: f64,
    /// From starting the program to the first PONG with all keys served, each start.
    pub start_s: Vec<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub quick: bool,
    pub rounds: usize,
    /// Cores of the server and of the load generator; none where they were not pinned.
    pub pinned: Option<(usize, usize)>,
    pub series: Vec<Series>,
    pub scale: Vec<Scale>,
}

impl Report {
    pub fn add(&mut self, load: &Load, server: Kind, sample: Sample) {
        self.add_named(load.id, load.title, load.value_size, server, sample);
    }

    pub fn add_named(
        &mut self,
        id: &str,
        title: &str,
        value_size: usize,
        server: Kind,
        sample: Sample,
    ) {
        let place =
            self.series.iter().position(|series| series.load == id && series.server == server);
        let place = place.unwrap_or_else(|| {
            let (load, title) = (id.to_string(), title.to_string());
            self.series.push(Series { load, title, server, value_size, samples: Vec::new() });
            self.series.len() - 1
        });
        self.series[place].samples.push(sample);
    }

    pub fn find(&self, load: &str, server: Kind) -> Option<&Series> {
        self.series.iter().find(|series| series.load == load && series.server == server)
    }

    /// The loads in the order in which they were first measured.
    pub fn loads(&self) -> Vec<&str> {
        let mut loads: Vec<&str> = Vec::new();
        for series in &self.series {
            if !loads.contains(&series.load.as_str()) {
                loads.push(&series.load);
            }
        }
        loads
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn read_json(path: &Path) -> Result<Report> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of this benchmark", path.display()))
    }

    pub fn print(&self) {
        println!("\n{}", self.machine.headline());
        for line in self.notes() {
            println!("{line}");
        }
        self.print_loads();
        self.print_scale();
        self.print_targets();
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!("zdb: {}; Redis: {}", self.machine.zdb, self.machine.redis),
            format!("Medians of {} round(s), the servers taking turns within each.", self.rounds),
        ];
        notes.push(match self.pinned {
            Some((server, generator)) => format!(
                "Every server runs on core {server} with all its threads, Redis's fsync thread and the kernel's \
                 io_uring workers included; the load generator runs on core {generator}."
            ),
            None => "Neither servers nor load generator are pinned to a core.".into(),
        });
        if self.quick {
            notes.push(
                "This was the quick form: it shows that everything runs, its times mean nothing."
                    .into(),
            );
        }
        notes
    }

    fn print_loads(&self) {
        if self.series.is_empty() {
            return;
        }
        let mut rows = vec![columns(&[
            "load",
            "server",
            "requests/s",
            "÷ Redis",
            "CPU us/req",
            "÷ Redis",
            "p50 us",
            "p99 us",
            "MB/s",
            "generator",
            "elsewhere",
        ])];
        let (mut generator_limits, mut disturbed) = (false, false);
        for load in self.loads() {
            let redis = self.find(load, Kind::Redis);
            let mut title = None;
            for series in [Kind::Zdb, Kind::Redis, Kind::Null]
                .iter()
                .filter_map(|&kind| self.find(load, kind))
            {
                let ratio = |figure: fn(&Series) -> f64| match redis {
                    Some(redis) if series.server != Kind::Redis => {
                        format!("{:.2}", figure(series) / figure(redis))
                    }
                    _ => String::new(),
                };
                let generator = series.median(|sample| sample.generator_cores);
                let elsewhere = series.median(|sample| sample.elsewhere_cores);
                generator_limits |= generator >= GENERATOR_BUSY;
                disturbed |= elsewhere >= ELSEWHERE_BUSY;
                let megabytes = series.median(|sample| sample.value_mb_per_s);
                rows.push(vec![
                    if title.replace(()).is_none() { series.title.clone() } else { String::new() },
                    series.server.name().into(),
                    thousands(series.requests_per_s()),
                    ratio(Series::requests_per_s),
                    format!("{:.2}", series.cpu_us_per_request()),
                    ratio(Series::cpu_us_per_request),
                    format!("{:.0}", series.median(|sample| sample.latency_p50_us)),
                    format!("{:.0}", series.median(|sample| sample.latency_p99_us)),
                    if series.value_size >= 4096 { thousands(megabytes) } else { String::new() },
                    percent(generator, GENERATOR_BUSY),
                    percent(elsewhere, ELSEWHERE_BUSY),
                ]);
            }
        }
        print_table(&rows, &[0, 1]);
        println!(
            "p50 and p99: from sending a pipeline's requests to its last reply. generator, elsewhere: share of a core."
        );
        if generator_limits {
            println!(
                "! in generator: the load generator had no time left; the server might do more."
            );
        }
        if disturbed {
            println!(
                "! in elsewhere: other programs, or kernel threads writing back the server's files, ran beside it."
            );
        }
    }

    fn print_scale(&self) {
        if self.scale.is_empty() {
            return;
        }
        let mut rows = vec![columns(&[
            "many keys",
            "server",
            "keys/s",
            "RSS empty",
            "warmed",
            "with keys",
            "of it shared",
            "peak",
            "bytes/key",
            "above empty",
            "start s",
        ])];
        for scale in &self.scale {
            let mib = |kib: u64| format!("{:.0} MiB", kib as f64 / 1024.0);
            rows.push(vec![
                format!("{} keys", thousands(scale.keys as f64)),
                scale.server.name().into(),
                thousands(scale.fill_keys_per_s),
                mib(scale.memory_empty.resident_kib),
                mib(scale.memory_warmed.resident_kib),
                mib(scale.memory_full.resident_kib),
                mib(scale.memory_full.shared_kib),
                mib(scale.memory_full.peak_kib),
                format!("{:.1}", scale.bytes_per_key),
                format!("{:.1}", scale.bytes_per_key_above_empty),
                scale.start_median().map_or_else(String::new, |seconds| format!("{seconds:.3}")),
            ]);
        }
        print_table(&rows, &[0, 1]);
        println!(
            "bytes/key: above a warmed server without these keys, whose buffers and caches have their size."
        );
        let starts = self.scale.iter().map(|scale| scale.start_s.len()).max();
        if let Some(starts @ 1..) = starts {
            println!(
                "start: until the first PONG with all keys served; median of {starts}, on all cores."
            );
        }
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

impl Series {
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure)).unwrap_or(f64::NAN)
    }

    pub fn requests_per_s(&self) -> f64 {
        self.median(|sample| sample.requests_per_s)
    }

    pub fn cpu_us_per_request(&self) -> f64 {
        self.median(|sample| sample.server_cpu_us_per_request)
    }
}

impl Scale {
    pub fn start_median(&self) -> Option<f64> {
        median(self.start_s.iter().copied())
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A whole number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn percent(share: f64, too_much: f64) -> String {
    format!("{:.0} %{}", share * 100.0, if share >= too_much { " !" } else { "" })
}

pub fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The columns `left` are words, the others numbers.
pub fn print_table(rows: &[Vec<String>], left: &[usize]) {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    println!();
    for (place, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if left.contains(&column) {
                line.push_str(&format!("{cell:<width$}  "));
            } else {
                line.push_str(&format!("{cell:>width$}  "));
            }
        }
        println!("{}", line.trim_end());
        if place == 0 {
            println!("{}", "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_thousands() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(123.0), "123");
    }
}
