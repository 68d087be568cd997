//! What zdb is to reach, as data, and whether a run reached it.

use crate::crowd;
use crate::load::{LOADS, MEMORY, START};
use crate::report::{Report, Series};
use crate::server::Kind;

/// Which figure of a load is compared.
#[derive(Clone, Copy, Debug)]
enum Figure {
    RequestsPerSecond,
    BytesPerSecond,
    CpuPerRequest,
    BytesPerKey,
    StartTime,
    /// Divided by that of another load of the same server.
    LatencyP99Of(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub fn is_met(self, measured: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => measured >= bound,
            Bound::AtMost(bound) => measured <= bound,
        }
    }

    pub fn words(self) -> String {
        match self {
            Bound::AtLeast(bound) => format!("at least {bound:.2}"),
            Bound::AtMost(bound) => format!("at most {bound:.2}"),
        }
    }
}

/// zdb's figure divided by that of the other server, or by one where `against` is none.
#[derive(Clone, Copy, Debug)]
struct Target {
    load: &'static str,
    figure: Figure,
    against: Option<Kind>,
    bound: Bound,
}

const fn redis(load: &'static str, figure: Figure, bound: Bound) -> Target {
    Target { load, figure, against: Some(Kind::Redis), bound }
}

const fn null(load: &'static str, bound: Bound) -> Target {
    Target { load, figure: Figure::RequestsPerSecond, against: Some(Kind::Null), bound }
}

/// Slow readers make the others wait at most twice as long.
const fn crowd(load: &'static str, without: &'static str) -> Target {
    Target { load, figure: Figure::LatencyP99Of(without), against: None, bound: Bound::AtMost(2.0) }
}

const TARGETS: &[Target] = &[
    redis("get-100", Figure::RequestsPerSecond, Bound::AtLeast(1.0)),
    redis("get-100", Figure::CpuPerRequest, Bound::AtMost(0.90)),
    redis("set-100", Figure::RequestsPerSecond, Bound::AtLeast(1.0)),
    redis("set-100", Figure::CpuPerRequest, Bound::AtMost(0.85)),
    redis("insert-100", Figure::RequestsPerSecond, Bound::AtLeast(1.0)),
    redis("insert-100", Figure::CpuPerRequest, Bound::AtMost(0.85)),
    redis("set-100-p16", Figure::RequestsPerSecond, Bound::AtLeast(2.0)),
    redis("set-100-p16", Figure::CpuPerRequest, Bound::AtMost(0.40)),
    redis("insert-100-p16", Figure::RequestsPerSecond, Bound::AtLeast(2.0)),
    redis("insert-100-p16", Figure::CpuPerRequest, Bound::AtMost(0.40)),
    redis("get-100-p16", Figure::CpuPerRequest, Bound::AtMost(0.60)),
    redis("always-100", Figure::RequestsPerSecond, Bound::AtLeast(1.5)),
    redis("always-100-p16", Figure::RequestsPerSecond, Bound::AtLeast(3.0)),
    redis("set-100-c1", Figure::RequestsPerSecond, Bound::AtLeast(1.0)),
    redis("set-64k", Figure::BytesPerSecond, Bound::AtLeast(3.0)),
    null("get-100", Bound::AtLeast(0.95)),
    null("get-100-p16", Bound::AtLeast(0.80)),
    Target { load: MEMORY, figure: Figure::BytesPerKey, against: None, bound: Bound::AtMost(20.0) },
    crowd("crowd-busy-slow", "crowd-busy"),
    crowd("crowd-all-slow", "crowd-all"),
    redis(START, Figure::StartTime, Bound::AtMost(0.1)),
];

/// One line of the table of targets.
#[derive(Debug)]
pub struct Verdict {
    pub title: String,
    pub target: String,
    pub measured: f64,
    pub met: bool,
}

/// Judges every target that the run measured.
pub fn judge(report: &Report) -> Vec<Verdict> {
    let judged = TARGETS.iter().filter_map(|target| {
        let zdb = figure(report, target, Kind::Zdb)?;
        let base = match target.against {
            Some(kind) => figure(report, target, kind)?,
            None => 1.0,
        };
        let measured = zdb / base;
        let met = target.bound.is_met(measured);
        Some(Verdict { title: title(target), target: describe(target), measured, met })
    });
    judged.collect()
}

fn figure(report: &Report, target: &Target, server: Kind) -> Option<f64> {
    let series = report.find(target.load, server);
    let scale = report.scale.iter().find(|scale| scale.server == server);
    match target.figure {
        Figure::RequestsPerSecond => series.map(Series::requests_per_s),
        Figure::BytesPerSecond => {
            series.map(|series| series.median(|sample| sample.value_mb_per_s))
        }
        Figure::CpuPerRequest => series.map(Series::cpu_us_per_request),
        Figure::BytesPerKey => scale.map(|scale| scale.bytes_per_key),
        Figure::LatencyP99Of(other) => {
            let p99 = |series: &Series| series.median(|sample| sample.latency_p99_us);
            Some(series.map(p99)? / report.find(other, server).map(p99)?)
        }
        Figure::StartTime => scale.and_then(|scale| scale.start_median()),
    }
}

fn title(target: &Target) -> String {
    let load = LOADS.iter().find(|load| load.id == target.load);
    let crowd = crowd::LOADS.iter().find(|(id, _)| *id == target.load);
    match (load, crowd) {
        (Some(load), _) => load.title.into(),
        (None, Some((id, _))) => format!("slow readers: {id}"),
        (None, None) => format!("many keys: {}", target.load),
    }
}

fn describe(target: &Target) -> String {
    let figure = match target.figure {
        Figure::RequestsPerSecond => "requests/s",
        Figure::BytesPerSecond => "bytes/s",
        Figure::CpuPerRequest => "server CPU/request",
        Figure::BytesPerKey => "bytes/key",
        Figure::StartTime => "start",
        Figure::LatencyP99Of(_) => "p99 with them / without",
    };
    let bound = target.bound.words();
    match target.against {
        Some(kind) => format!("{figure} {bound} of {}'s", kind.name()),
        None => format!("{figure} {bound}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_names_a_load() {
        for target in TARGETS {
            let known = LOADS.iter().any(|load| {
                load.id == target.load && (load.null || target.against != Some(Kind::Null))
            });
            let is_crowd = crowd::LOADS.iter().any(|(id, _)| *id == target.load);
            assert!(known || is_crowd || [MEMORY, START].contains(&target.load), "{target:?}");
        }
    }
}
