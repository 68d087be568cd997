//! RESET, SHUTDOWN, DEBUG and ROLE, as Redis has them.

use super::order::Order;
use super::{Context, Outcome, help, system};
use crate::limits::DEBUG_SLEEP_US_MAX;
use crate::output::Output;
use crate::resp::Request;

/// The connection is as if it were new, but for its number.
pub fn reset(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 1 {
        return context.error(out, "Unexpected arguments");
    }
    let session = &mut *context.session;
    context.server.channels.forget(context.client.connection, &mut session.subscriptions);
    session.reset();
    context.writer(out).simple("RESET");
    Outcome::Order(Box::new(Order::Unwatch))
}

/// STOP without a reply. Everything that was acknowledged is kept in any case, so that the words of
/// Redis make no difference.
pub fn shutdown(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !system::may_stop(context) {
        return context.error(out, "Unauthorized");
    }
    for word in request.iter().skip(1) {
        match word.to_ascii_uppercase().as_slice() {
            b"SAVE" | b"NOSAVE" | b"NOW" | b"FORCE" => {}
            b"ABORT" => return context.error(out, "No shutdown in progress."),
            _ => return context.error(out, "Unexpected arguments"),
        }
    }
    Outcome::Stop
}

pub fn debug(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"SLEEP", 3) => {
            let text = std::str::from_utf8(request.get(2)).unwrap_or_default();
            let us = text.parse::<f64>().map_or(f64::NAN, |seconds| seconds * 1e6);
            if !(0.0..=DEBUG_SLEEP_US_MAX as f64).contains(&us) {
                return context.error(out, "Invalid argument (0 to 60 seconds)");
            }
            (context.server.machine.sleep_us)(us as u64);
            context.ok(out)
        }
        (b"CLEAN", 2) => {
            context.engine.cleaner.ask();
            context.ok(out)
        }
        (b"SCRUB", 3) => scrub(context, request, out),
        (b"HELP", 2) => context.help(out, help::DEBUG),
        (b"CLEAN" | b"SCRUB" | b"SLEEP" | b"HELP", _) => context.error(out, "Unexpected arguments"),
        _ => context.unknown_subcommand(out, request),
    }
}

fn scrub(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    match request.get(2).to_ascii_uppercase().as_slice() {
        b"START" if context.engine.scrub.rate() == 0 => {
            return context.error(out, "The scrub is off: scrub-rate is 0");
        }
        b"START" => context.engine.start_scrub(),
        b"STOP" => context.engine.stop_scrub(),
        _ => return context.error(out, "Invalid argument (START or STOP)"),
    }
    context.ok(out)
}
