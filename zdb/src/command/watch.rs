//! MONITOR, MIRROR, MASTER and WAIT: connections that are told what others do.

use super::order::Order;
use super::{Context, Outcome, replication};
use crate::limits::{WAIT_MS_DEFAULT, WAIT_MS_MAX, WAIT_MS_MIN, WAITS_MAX};
use crate::output::Output;
use crate::resp::Request;

pub fn monitor(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 1 {
        return context.error(out, "Unexpected arguments");
    }
    context.ok(out);
    Outcome::Order(Box::new(Order::Monitor))
}

pub fn mirror(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.writer(out).simple("Starting mirroring");
    Outcome::Order(Box::new(Order::Mirror))
}

/// From here on the last word of each request says who owns it.
pub fn master(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.session.is_master = true;
    context.writer(out).simple("Hello, master");
    Outcome::Done
}

/// Replies nothing now: the name of the command when another client runs it here, or `-Timeout`.
pub fn wait(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !(2..=3).contains(&request.len()) {
        return context.error(out, "Invalid arguments");
    }
    // 0-db's names a command, that of Redis a number of replicas.
    if request.len() == 3 && request.get(1).first().is_some_and(u8::is_ascii_digit) {
        return replication::wait_for_replicas(context, request, out);
    }
    let command = match request.get(1) {
        b"*" | b"" => None,
        name => match context.server.table.position(name) {
            Some(at) => Some(at),
            None => return context.error(out, "Unknown command to watch"),
        },
    };
    let ms = match request.len() {
        2 => WAIT_MS_DEFAULT,
        _ => {
            let text = std::str::from_utf8(request.get(2)).unwrap_or_default();
            match text.parse() {
                Ok(ms @ WAIT_MS_MIN..=WAIT_MS_MAX) => ms,
                _ => return context.error(out, "Invalid timeout"),
            }
        }
    };
    if context.server.stats.clients_blocked >= WAITS_MAX {
        return context.error(out, "Timeout");
    }
    Outcome::Order(Box::new(Order::Wait { command, ms }))
}
