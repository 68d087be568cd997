//! What the loads of `scale` are to reach, as data, and whether a run reached it.

use super::found::ScaleReport;
use super::{amplification, disk, growth, mixed, namespaces, replication, threads};
use crate::targets::Bound;

pub use crate::targets::Verdict;

/// A replica takes at most 15 % of its master's throughput.
const RATE_WITH_REPLICA: f64 = 0.85;

/// Of a finding's figure: a ratio where it has two sides, else the figure itself.
const TARGETS: &[(&str, Bound)] = &[
    (disk::GET, Bound::AtLeast(0.80)),
    (disk::SET, Bound::AtLeast(0.60)),
    (growth::RESTART, Bound::AtLeast(1.0)),
    (growth::MEMORY_USER, Bound::AtMost(20.0)),
    (growth::MEMORY_SEQ, Bound::AtMost(8.0)),
    (amplification::EVERYSEC, Bound::AtMost(1.15)),
    (namespaces::PIPELINES[0].0, Bound::AtLeast(0.90)),
    (namespaces::PIPELINES[1].0, Bound::AtLeast(0.90)),
    (threads::LOADS[0].0, Bound::AtLeast(1.0)),
    (threads::LOADS[1].0, Bound::AtLeast(1.0)),
    (threads::LOADS[2].0, Bound::AtLeast(1.0)),
    (threads::LOADS[3].0, Bound::AtLeast(1.0)),
    (mixed::RATE, Bound::AtLeast(0.80)),
    (mixed::P99, Bound::AtMost(2.0)),
    (replication::RATE_P16, Bound::AtLeast(RATE_WITH_REPLICA)),
    // With a core of its own a master does as many requests as its CPU is enough for.
    (replication::CPU_P16, Bound::AtMost(1.0 / RATE_WITH_REPLICA)),
    (replication::SIZES[0].0, Bound::AtLeast(0.70)),
    (replication::SIZES[1].0, Bound::AtLeast(0.70)),
    (replication::SIZES[2].0, Bound::AtLeast(0.70)),
];

/// Judges every target that the run measured.
pub fn judge(report: &ScaleReport) -> Vec<Verdict> {
    let judged = TARGETS.iter().filter_map(|(id, bound)| {
        let finding = report.find(id)?;
        let measured = finding.figure()?;
        let target = match finding.sides.get(1) {
            Some(base) => format!("{} {} of {}", finding.unit, bound.words(), base.name),
            None => format!("{} {}", finding.unit, bound.words()),
        };
        let title = finding.title.clone();
        Some(Verdict { title, target, measured, met: bound.is_met(measured) })
    });
    judged.collect()
}

/// What a finding is to reach, for the chart.
pub fn bound_of(id: &str) -> Option<Bound> {
    TARGETS.iter().find(|(known, _)| *known == id).map(|(_, bound)| *bound)
}
