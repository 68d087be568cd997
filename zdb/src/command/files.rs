//! Commands about the files behind the namespaces: INDEX, NSJUMP, RELOAD.

use super::namespaces::{NOT_FOUND, TOO_LONG};
use super::{Context, Outcome};
use crate::engine::log::Refusal;
use crate::limits::{NAMESPACE_NAME_BYTES_MAX, SUBCOMMAND_BYTES_MAX};
use crate::output::Output;
use crate::resp::Request;

/// 0-db tells here which index files it modified in place. No file of ours ever is.
pub fn index(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if let Some(text) = refuse_words(request) {
        return context.error(out, text);
    }
    if !request.get(1).eq_ignore_ascii_case(b"DIRTY") {
        return context.error(out, "Unknown INDEX subcommand");
    }
    if request.len() != 3 {
        context.writer(out).array(0);
        return Outcome::Done;
    }
    if !request.get(2).eq_ignore_ascii_case(b"RESET") {
        return context.error(out, "Unknown INDEX DIRTY subcommand");
    }
    context.ok(out)
}

/// What INDEX and DATA refuse before they look at their subcommand.
pub fn refuse_words(request: Request<'_>) -> Option<&'static str> {
    if request.iter().any(<[u8]>::is_empty) {
        return Some("Invalid argument");
    }
    (request.get(1).len() > SUBCOMMAND_BYTES_MAX).then_some("Argument too long")
}

/// The log is that of all namespaces, so this goes on in a new segment for all of them.
pub fn jump(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let now_ms = context.engine.now.monotonic_ms;
    let begun = context.engine.begin_term_if_due();
    match begun.and_then(|()| context.engine.log.jump(now_ms)) {
        Ok(()) => context.ok(out),
        Err(Refusal::Wait) => Outcome::NeedsLog,
        Err(Refusal::Failed) => context.error(out, "Cannot write data right now"),
    }
}

/// Memory and files never differ here, so there is only the cache to read anew.
pub fn reload(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let name = request.get(1);
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    let Some(slot) = context.engine.namespaces.find(name) else {
        return context.error(out, NOT_FOUND);
    };
    context.engine.reload_namespace(slot);
    context.ok(out)
}
