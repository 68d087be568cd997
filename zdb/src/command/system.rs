//! Commands about the server and the connection.

use super::{Context, Outcome};
use crate::output::Output;
use crate::resp::Request;

pub fn ping(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let mut writer = context.writer(out);
    if context.session.hears_messages_only() {
        // Between messages it looks like one.
        writer.array(2);
        writer.bulk(b"pong");
        writer.bulk(if request.len() > 1 { request.get(1) } else { b"" });
    } else {
        writer.simple("PONG");
    }
    Outcome::Done
}

pub fn echo(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 2 {
        return context.error(out, "Unexpected arguments");
    }
    context.writer(out).bulk(request.get(1));
    Outcome::Done
}

pub fn quit(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.ok(out);
    Outcome::Close
}

pub fn dbsize(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.writer(out).integer(context.namespace().live_keys as i64);
    Outcome::Done
}

pub fn time(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let now = context.engine.now.unix_us;
    let mut writer = context.writer(out);
    writer.array(2);
    writer.bulk((now / 1_000_000).to_string().as_bytes());
    writer.bulk((now % 1_000_000).to_string().as_bytes());
    Outcome::Done
}

/// Whoever could start the server may stop it: an admin with the password or, on a server without
/// one, somebody on this machine.
pub fn may_stop(context: &Context<'_>) -> bool {
    let session = &context.session;
    if context.server.admin_password.is_some() { session.authenticated } else { session.local }
}

pub fn stop(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    if !may_stop(context) {
        return context.error(out, "Unauthorized");
    }
    context.writer(out).simple("Stopping");
    Outcome::Stop
}
