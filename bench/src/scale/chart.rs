//! The charts of `scale`: restart and memory against keys, written bytes against clients, ratios beside
//! their targets, and latency over time.

use super::found::{Finding, ScaleReport, Second, Timeline};
use super::{RESTART_KEYS_PER_S, mixed, targets};
use crate::chart::{STYLE, line, text};
use crate::report::thousands;
use crate::targets::Bound;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;

const WIDTH: f64 = 980.0;
const PLOT_WIDTH: f64 = 400.0;
const PLOT_HEIGHT: f64 = 200.0;
/// Room left of a plot for the numbers of its axis, and between rows for those below and the heads.
const MARGIN: f64 = 60.0;
const ROW: f64 = PLOT_HEIGHT + 96.0;
const TOP: f64 = 84.0;
const BAR: f64 = 14.0;
const BAR_GAP: f64 = 10.0;
/// About so many lines across a plot.
const TICKS: f64 = 5.0;

const OWN_STYLE: &str = "polyline{fill:none;stroke-width:2}.s0{stroke:#0969da}.s1{stroke:#c4432b}.s2{stroke:#8c959f}.s3{stroke:#8250df}\
.f0{fill:#0969da}.f1{fill:#c4432b}.f2{fill:#8c959f}.f3{fill:#8250df}.rule{stroke:#59636e;stroke-width:1;stroke-dasharray:3 3}\
@media(prefers-color-scheme:dark){.s0{stroke:#4493f8}.f0{fill:#4493f8}.s1{stroke:#f0775d}.f1{fill:#f0775d}.rule{stroke:#9198a1}}";

/// One line of a plot; its colour is that of its place.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    /// What was asked for, not what was measured.
    is_rule: bool,
}

/// What a line of the load over time shows, behind the name of its side.
type Figure = (&'static str, fn(&Second) -> f64);

struct Plot {
    head: String,
    lines: Vec<Line>,
    /// Numbers of the axis below, with their words.
    ticks: Vec<(f64, String)>,
    below: &'static str,
}

/// Draws what the run has: scale.svg, and latency.svg where the mixed load was measured.
pub fn write(report: &ScaleReport, directory: &Path) -> Result<()> {
    let save = |name: &str, svg: String| {
        let path = directory.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))
    };
    save("scale.svg", draw_scale(report))?;
    if !report.timelines.is_empty() {
        save("latency.svg", draw_latency(report))?;
    }
    Ok(())
}

fn draw_scale(report: &ScaleReport) -> String {
    let plots: Vec<Plot> = [restart(report), memory(report), amplification(report)]
        .into_iter()
        .filter(|plot| plot.lines.iter().any(|line| !line.is_rule))
        .collect();
    let ratios: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| finding.sides.len() > 1 && targets::bound_of(&finding.id).is_some())
        .collect();
    let mut body = String::new();
    let mut y = TOP;
    for pair in plots.chunks(2) {
        for (column, plot) in pair.iter().enumerate() {
            draw_plot(
                &mut body,
                plot,
                MARGIN + column as f64 * (PLOT_WIDTH + 2.0 * MARGIN),
                y,
                PLOT_WIDTH,
            );
        }
        y += ROW;
    }
    y = draw_ratios(&mut body, &ratios, y);
    frame(report, "zdb with much data, many keys, many tenants", y, &body)
}

fn draw_latency(report: &ScaleReport) -> String {
    let newest = |name: &str| report.timelines.iter().rev().find(|line| line.name == name);
    let timelines: Vec<&Timeline> = mixed::SIDES.iter().filter_map(|name| newest(name)).collect();
    let seconds = timelines.iter().map(|timeline| timeline.seconds.len()).max().unwrap_or(0);
    let ticks = (0..=seconds)
        .step_by((seconds / 7).max(1))
        .map(|second| (second as f64, second.to_string()));
    let ticks: Vec<_> = ticks.collect();
    let plot = |head: &str, figures: &[Figure]| {
        let mut lines = Vec::new();
        for (word, figure) in figures {
            for timeline in &timelines {
                let points = timeline.seconds.iter().enumerate();
                let points = points.map(|(at, second)| (at as f64 + 0.5, figure(second)));
                let name = format!("{}{word}", timeline.name);
                lines.push(Line { name, points: points.collect(), is_rule: false });
            }
        }
        Plot { head: head.into(), lines, ticks: ticks.clone(), below: "seconds" }
    };
    let mut body = String::new();
    let plots = [
        plot(
            "p99 and p50 of each second, ms",
            &[(", p99", |s| s.p99_us / 1e3), (", p50", |s| s.p50_us / 1e3)],
        ),
        plot("longest of each second, ms", &[("", |s| s.max_us / 1e3)]),
        plot("requests/s", &[("", |s| s.requests as f64)]),
    ];
    let mut y = TOP;
    for plot in &plots {
        draw_plot(&mut body, plot, MARGIN, y, WIDTH - 2.0 * MARGIN);
        y += ROW;
    }
    frame(
        report,
        "Half GETs, half overwrites of 100 to 4096 bytes, 50 clients, beside the cleaner",
        y,
        &body,
    )
}

/// Title, style and footer around what was drawn down to `y`.
fn frame(report: &ScaleReport, title: &str, y: f64, body: &str) -> String {
    let height = y + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n"
    );
    text(&mut svg, 0.0, 20.0, "title", title);
    let quick = if report.quick { "Quick form, it measures nothing. " } else { "" };
    let words =
        format!("{quick}Medians of {} round(s). {}.", report.rounds, report.machine.headline());
    text(&mut svg, 0.0, 39.0, "faint", &words);
    svg.push_str(body);
    svg.push_str("</svg>\n");
    svg
}

fn key_ticks(report: &ScaleReport) -> Vec<(f64, String)> {
    let most = report.growth.iter().map(|growth| growth.keys).max().unwrap_or(1) as f64;
    let word =
        |keys: f64| if most < 1e6 { thousands(keys) } else { format!("{:.0} M", keys / 1e6) };
    (0..=5).map(|part| most * f64::from(part) / 5.0).map(|keys| (keys, word(keys))).collect()
}

/// A line of each mode's figure.
fn by_mode(
    report: &ScaleReport,
    figure: impl Fn(&super::found::Growth) -> Option<f64>,
) -> Vec<Line> {
    let modes = [("user", "keys (user)"), ("seq", "ids (sequential)")];
    let lines = modes.iter().map(|(mode, name)| {
        let own = report.growth.iter().filter(|growth| growth.mode == *mode);
        let points = own.filter_map(|growth| Some((growth.keys as f64, figure(growth)?)));
        Line { name: (*name).into(), points: points.collect(), is_rule: false }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn rule(name: &str, ticks: &[(f64, String)], slope: f64) -> Line {
    let end = ticks.last().map_or(0.0, |(keys, _)| *keys);
    Line { name: name.into(), points: vec![(0.0, 0.0), (end, end * slope)], is_rule: true }
}

fn restart(report: &ScaleReport) -> Plot {
    let ticks = key_ticks(report);
    let mut lines = by_mode(report, super::found::Growth::start_median);
    lines.push(rule("10 million keys/s", &ticks, 1.0 / RESTART_KEYS_PER_S));
    Plot { head: "restart, seconds".into(), lines, ticks, below: "keys" }
}

fn memory(report: &ScaleReport) -> Plot {
    let ticks = key_ticks(report);
    let mut lines =
        by_mode(report, |growth| Some((growth.bytes_per_key * growth.keys as f64 / 1e6).max(0.0)));
    lines.push(rule("20 bytes a key", &ticks, 20.0 / 1e6));
    lines.push(rule("8 bytes an id", &ticks, 8.0 / 1e6));
    Plot { head: "memory for the keys, MB".into(), lines, ticks, below: "keys" }
}

fn amplification(report: &ScaleReport) -> Plot {
    let always: Vec<_> = report.amplification.iter().filter(|row| row.sync == "always").collect();
    let ticks = always
        .iter()
        .enumerate()
        .map(|(place, row)| (place as f64, row.clients.to_string()))
        .collect();
    let points = |figure: fn(&super::found::Amplification) -> f64| {
        always.iter().enumerate().map(|(place, row)| (place as f64, figure(row))).collect()
    };
    let line = |name: &str, points| Line { name: name.into(), points, is_rule: false };
    let mut lines = Vec::new();
    if !always.is_empty() {
        lines.push(line("for a byte of records", points(|row| row.per_record_byte())));
        lines.push(line("for a byte of keys and values", points(|row| row.per_user_byte())));
        if let Some(row) = report.amplification.iter().find(|row| row.sync != "always") {
            let name = format!("records, {} with {} clients", row.sync, row.clients);
            let end = always.len() as f64 - 1.0;
            let points = vec![(0.0, row.per_record_byte()), (end, row.per_record_byte())];
            lines.push(Line { name, points, is_rule: true });
        }
    }
    Plot {
        head: "bytes written to the disk, SET 100 B, always".into(),
        lines,
        ticks,
        below: "clients",
    }
}

/// A step of 1, 2 or 5 times a power of ten with which some `TICKS` lines reach `most`.
fn step(most: f64) -> f64 {
    let rough = (most / TICKS).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(rough)
}

fn draw_plot(svg: &mut String, plot: &Plot, left: f64, top: f64, width: f64) {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let most_x =
        points().map(|(x, _)| *x).chain(plot.ticks.iter().map(|(x, _)| *x)).fold(1e-9, f64::max);
    let most_y = points().map(|(_, y)| *y).filter(|y| y.is_finite()).fold(1e-9, f64::max);
    let step = step(most_y);
    let end_y = (most_y / step).ceil() * step;
    let bottom = top + PLOT_HEIGHT;
    let place = |(x, y): (f64, f64)| (left + x / most_x * width, bottom - y / end_y * PLOT_HEIGHT);
    text(svg, left - MARGIN, top - 28.0, "head", &plot.head);
    let mut x = left;
    for (number, line) in plot.lines.iter().enumerate() {
        let (class, y) =
            (if line.is_rule { "rule".into() } else { format!("s{number}") }, top - 12.0);
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" stroke-width=\"2\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>",
            x + 14.0
        );
        text(svg, x + 18.0, y + 4.0, "faint", &line.name);
        x += 30.0 + line.name.chars().count() as f64 * 5.6;
    }
    for number in 0..=(end_y / step).round() as usize {
        let value = number as f64 * step;
        let (_, y) = place((0.0, value));
        self::line(svg, "line", (left, y), (left + width, y));
        let digits = if step < 0.1 {
            format!("{value:.2}")
        } else if step < 1.0 {
            format!("{value:.1}")
        } else {
            thousands(value)
        };
        right(svg, left - 6.0, y + 4.0, &digits);
    }
    for (x, word) in &plot.ticks {
        let (x, _) = place((*x, 0.0));
        middle(svg, x, bottom + 16.0, word);
    }
    middle(svg, left + width / 2.0, bottom + 34.0, plot.below);
    for (number, line) in plot.lines.iter().enumerate() {
        let class = if line.is_rule { "rule".into() } else { format!("s{number}") };
        let points: Vec<String> = line
            .points
            .iter()
            .map(|&point| place(point))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        if !line.is_rule && line.points.len() < 20 {
            for &point in &line.points {
                let (x, y) = place(point);
                let _ = writeln!(
                    svg,
                    "<circle class=\"f{number}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
                );
            }
        }
    }
}

/// A bar for each finding with two sides: how long it is beside the other, with its target as a line.
fn draw_ratios(svg: &mut String, findings: &[&Finding], top: f64) -> f64 {
    if findings.is_empty() {
        return top;
    }
    text(svg, 0.0, top - 28.0, "head", "beside what each is compared to; dashed: the target");
    let (left, width) = (400.0, WIDTH - 400.0 - 200.0);
    let figures: Vec<f64> =
        findings.iter().map(|finding| finding.figure().unwrap_or(0.0)).collect();
    let most = figures.iter().copied().fold(1.0, f64::max);
    let mut y = top - 10.0;
    for (finding, figure) in findings.iter().zip(figures) {
        text(svg, 0.0, y + 11.0, "faint", &finding.title);
        let length = (figure / most * width).max(1.0);
        let _ = writeln!(
            svg,
            "<rect class=\"zdb\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"1.5\"/>"
        );
        let mut behind = length;
        if let Some(Bound::AtLeast(bound) | Bound::AtMost(bound)) = targets::bound_of(&finding.id) {
            let x = left + (bound / most * width).min(width);
            line(svg, "one", (x, y - 3.0), (x, y + BAR + 3.0));
            behind = behind.max(x - left);
        }
        let words = format!("{figure:.2} of {}", finding.sides[1].name);
        text(svg, left + behind + 6.0, y + 11.0, "number", &words);
        y += BAR + BAR_GAP;
    }
    y + 10.0
}

fn right(svg: &mut String, x: f64, y: f64, content: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"faint\" text-anchor=\"end\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"
    );
}

fn middle(svg: &mut String, x: f64, y: f64, content: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"faint\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(step(5.0), 1.0);
        assert_eq!(step(9.0), 2.0);
        assert_eq!(step(1_300.0), 500.0);
        assert!((step(0.4) - 0.1).abs() < 1e-12);
    }
}
