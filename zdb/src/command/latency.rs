//! LATENCY: histograms by command, and the worst times of the last minutes.

use super::measure::{CommandCost, Latencies};
use super::{Context, Outcome, help};
use crate::output::Output;
use crate::resp::{ReplyWriter, Request};

/// Redis shows powers of two of 1024 ns as microseconds.
const FIRST_BUCKET_NS: u64 = 1024;

pub fn latency(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"HISTOGRAM", _) => histogram(context, request, out),
        (b"LATEST", 2) => {
            let events = &context.server.latencies.events;
            let mut writer = context.writer(out);
            writer.array(events.len());
            for (name, event) in events {
                let (at_s, ms) = event.samples.back().copied().unwrap_or_default();
                writer.array(4);
                writer.bulk(name.as_bytes());
                [at_s, ms, event.max_ms].into_iter().for_each(|n| writer.integer(n as i64));
            }
            Outcome::Done
        }
        (b"HISTORY", 3) => {
            let name = String::from_utf8_lossy(request.get(2)).to_ascii_lowercase();
            let event = context.server.latencies.events.get(name.as_str());
            let samples = event.map(|event| event.samples.iter()).into_iter().flatten();
            let mut writer = context.writer(out);
            writer.array(event.map_or(0, |event| event.samples.len()));
            for (at_s, ms) in samples {
                writer.array(2);
                writer.integer(*at_s as i64);
                writer.integer(*ms as i64);
            }
            Outcome::Done
        }
        (b"RESET", count) => {
            let events = &mut context.server.latencies.events;
            let before = events.len();
            if count == 2 {
                events.clear();
            }
            for name in request.iter().skip(2) {
                events.retain(|event, _| !event.as_bytes().eq_ignore_ascii_case(name));
            }
            let ended = before - events.len();
            context.writer(out).integer(ended as i64);
            Outcome::Done
        }
        (b"HELP", 2) => context.help(out, help::LATENCY),
        (b"LATEST" | b"HISTORY" | b"HELP", _) => context.error(out, "Unexpected arguments"),
        _ => context.unknown_subcommand(out, request),
    }
}

fn histogram(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let named = |name: &str| {
        request.len() == 2
            || request.iter().skip(2).any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    let latencies: &Latencies = &context.server.latencies;
    let found: Vec<(&str, &CommandCost)> =
        latencies.iter().filter(|(name, cost)| cost.calls > 0 && named(name)).collect();
    let mut writer = context.writer(out);
    writer.map(found.len());
    for (name, cost) in found {
        writer.bulk(name.as_bytes());
        write_histogram(&mut writer, cost);
    }
    Outcome::Done
}

fn write_histogram(writer: &mut ReplyWriter<'_>, cost: &CommandCost) {
    writer.map(2);
    writer.bulk(b"calls");
    writer.integer(cost.calls as i64);
    writer.bulk(b"histogram_usec");
    let mut steps: Vec<(u64, u64)> = Vec::new();
    if let Some(histogram) = &cost.histogram {
        for power in 0..u64::BITS - FIRST_BUCKET_NS.ilog2() {
            let count = histogram.count_below(FIRST_BUCKET_NS << power);
            if count > steps.last().map_or(0, |step| step.1) {
                steps.push((1 << power, count));
            }
            if count == histogram.count() {
                break;
            }
        }
    }
    writer.map(steps.len());
    for (us, count) in steps {
        writer.integer(us as i64);
        writer.integer(count as i64);
    }
}
