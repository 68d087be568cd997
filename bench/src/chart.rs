//! The chart of a run as SVG: for each load one bar per server, as long as its share of Redis's.
//!
//! Loads differ by three orders of magnitude, so bars are relative to Redis in the same load and the
//! numbers beside them absolute.

use crate::load::LOADS;
use crate::report::{Report, Scale, Series, thousands};
use crate::server::Kind;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;

const WIDTH: f64 = 980.0;
const LABELS: f64 = 250.0;
const PANEL: f64 = 345.0;
const PANEL_GAP: f64 = 15.0;
/// Room in a panel for the number behind the longest bar.
const NUMBER: f64 = 130.0;
const BAR: f64 = 11.0;
const BAR_GAP: f64 = 2.0;
const LOAD_GAP: f64 = 13.0;
const TOP: f64 = 98.0;
const BOTTOM: f64 = 48.0;
/// Longer bars are cut here and marked; one outlier would make all others unreadable.
const RATIO_MAX: f64 = 6.0;

pub const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2328}\
.title{font-size:17px;font-weight:600}.head{font-weight:600}.faint{fill:#59636e;font-size:11px}.number{font-size:10.5px}\
.zdb{fill:#0969da}.redis{fill:#c4432b}.null{fill:#8c959f}.line{stroke:#d1d9e0;stroke-width:1}.one{stroke:#59636e;stroke-width:1;stroke-dasharray:3 3}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.faint{fill:#9198a1}.zdb{fill:#4493f8}.redis{fill:#f0775d}.null{fill:#7d8590}\
.line{stroke:#3d444d}.one{stroke:#9198a1}}";

struct Panel {
    head: &'static str,
    left: f64,
    figure: fn(&Series) -> f64,
    format: fn(f64) -> String,
}

const PANELS: [Panel; 2] = [
    Panel {
        head: "requests/s (longer is better)",
        left: LABELS,
        figure: Series::requests_per_s,
        format: thousands,
    },
    Panel {
        head: "server CPU, µs a request (shorter is better)",
        left: LABELS + PANEL + PANEL_GAP,
        figure: Series::cpu_us_per_request,
        format: |us| format!("{us:.2}"),
    },
];

/// Draws this program's own loads, as far as Redis ran them.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    let loads: Vec<&str> = report
        .loads()
        .into_iter()
        .filter(|load| LOADS.iter().any(|own| own.id == *load))
        .filter(|load| report.find(load, Kind::Redis).is_some())
        .collect();
    fs::write(path, draw(report, &loads))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn draw(report: &Report, loads: &[&str]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for load in loads {
        y = draw_load(&mut body, report, load, y);
    }
    let height = y + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>zdb and Redis on the same loads</title>\n<style>{STYLE}</style>\n"
    );
    text(&mut svg, 0.0, 20.0, "title", "zdb and Redis on the same loads");
    text(
        &mut svg,
        0.0,
        39.0,
        "faint",
        "Bars are relative to Redis in the same load (dashed line = Redis), numbers are absolute. 50 clients where not said.",
    );
    draw_legend(&mut svg, report, 60.0);
    for panel in &PANELS {
        text(&mut svg, panel.left, TOP - 14.0, "head", panel.head);
        let x = panel.left + unit_width(report, panel);
        line(&mut svg, "one", (x, TOP - 6.0), (x, y - LOAD_GAP + 4.0));
        line(&mut svg, "line", (panel.left, TOP - 6.0), (panel.left, y - LOAD_GAP + 4.0));
    }
    svg.push_str(&body);
    text(&mut svg, 0.0, height - 28.0, "", &scale_line(report));
    text(&mut svg, 0.0, height - 10.0, "faint", &footer(report));
    svg.push_str("</svg>\n");
    svg
}

/// Draws one load at `y` and returns where the next one starts.
fn draw_load(svg: &mut String, report: &Report, load: &str, y: f64) -> f64 {
    let kinds = [Kind::Zdb, Kind::Redis, Kind::Null];
    let bars: Vec<&Series> = kinds.iter().filter_map(|&kind| report.find(load, kind)).collect();
    let bars_height = bars.len() as f64 * (BAR + BAR_GAP) - BAR_GAP;
    text(svg, 0.0, y + bars_height / 2.0 + 4.0, "", &bars[0].title);
    for panel in &PANELS {
        let unit = unit_width(report, panel);
        for (place, series) in bars.iter().enumerate() {
            let bar_y = y + place as f64 * (BAR + BAR_GAP);
            let value = (panel.figure)(series);
            let ratio = ratio_to_redis(report, series, panel.figure).unwrap_or(0.0);
            let width = (ratio.min(RATIO_MAX) * unit).max(1.0);
            let class = series.server.name().to_lowercase();
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{bar_y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"1.5\"/>",
                panel.left
            );
            let cut = if ratio > RATIO_MAX { "» " } else { "" };
            let share = if series.server == Kind::Redis {
                String::new()
            } else {
                format!(" ({ratio:.2}×)")
            };
            let number = format!("{cut}{}{share}", (panel.format)(value));
            // Behind the line of Redis at least: the line would cross it out.
            text(svg, panel.left + width.max(unit) + 5.0, bar_y + BAR - 2.0, "number", &number);
        }
    }
    y + bars_height + LOAD_GAP
}

/// How long a bar is that equals Redis's.
fn unit_width(report: &Report, panel: &Panel) -> f64 {
    let ratios =
        report.series.iter().filter_map(|series| ratio_to_redis(report, series, panel.figure));
    let longest = ratios.fold(1.0, f64::max).min(RATIO_MAX);
    (PANEL - NUMBER) / longest
}

fn ratio_to_redis(report: &Report, series: &Series, figure: fn(&Series) -> f64) -> Option<f64> {
    let redis = figure(report.find(&series.load, Kind::Redis)?);
    let ratio = figure(series) / redis;
    ratio.is_finite().then_some(ratio)
}

fn draw_legend(svg: &mut String, report: &Report, y: f64) {
    let labels = [
        (Kind::Zdb, "zdb"),
        (Kind::Redis, "Redis (appendonly)"),
        (Kind::Null, "null server: zdb's loops answering a constant"),
    ];
    let shown = |kind: &Kind| report.series.iter().any(|series| series.server == *kind);
    let mut x = 0.0;
    for (kind, label) in labels.iter().filter(|(kind, _)| shown(kind)) {
        let class = kind.name().to_lowercase();
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"11\" height=\"11\" rx=\"1.5\"/>",
            y - 10.0
        );
        text(svg, x + 16.0, y, "", label);
        x += 34.0 + label.chars().count() as f64 * 6.6;
    }
}

/// Memory and start in words; empty where the run did not measure them.
fn scale_line(report: &Report) -> String {
    let of_server = |scale: &Scale| {
        let start = scale.start_median();
        let start = start.map_or_else(String::new, |seconds| format!(", starts in {seconds:.2} s"));
        format!("{} {:.1} bytes of memory a key{start}", scale.server.name(), scale.bytes_per_key)
    };
    let words: Vec<String> = report.scale.iter().map(of_server).collect();
    match report.scale.first() {
        Some(scale) => format!("With {} keys: {}.", thousands(scale.keys as f64), words.join("; ")),
        None => String::new(),
    }
}

fn footer(report: &Report) -> String {
    let quick = if report.quick { "Quick form, times mean nothing. " } else { "" };
    format!("{quick}Medians of {} round(s). {}.", report.rounds, report.machine.headline())
}

pub fn text(svg: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>");
}

pub fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}
