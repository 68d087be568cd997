//! MULTI, EXEC and DISCARD: requests that are run together, with nothing between them.
//!
//! Only requests that never wait can be, so that the hub runs them all in one go: what waits for the disk lets
//! others in. Requests are kept as they would come over the wire.

use super::table::COMMANDS;
use super::{Context, Outcome};
use crate::limits::{TRANSACTION_BYTES_MAX, TRANSACTION_REQUESTS_MAX};
use crate::output::Output;
use crate::resp::{CRLF, Progress, Request, RequestParser};

/// What came since MULTI.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Requests, one behind the other.
    bytes: Vec<u8>,
    count: usize,
    /// One of them was refused: EXEC runs none.
    is_spoilt: bool,
}

impl Transaction {
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    /// Calls `run` with each request.
    pub fn for_each(&self, mut run: impl FnMut(Request<'_>)) {
        let mut parser = RequestParser::new();
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            let Ok(Progress::Complete { consumed }) = parser.parse(rest) else {
                unreachable!("`push` has written whole requests")
            };
            run(parser.request(rest));
            rest = &rest[consumed..];
        }
    }

    /// Keeps a request for EXEC, where there is room.
    fn push(&mut self, request: Request<'_>) -> Result<(), String> {
        if self.count >= TRANSACTION_REQUESTS_MAX {
            return Err(format!(
                "Too many requests in one MULTI (at most {TRANSACTION_REQUESTS_MAX})"
            ));
        }
        let too_long = || {
            Err(format!("Too long requests in one MULTI (at most {TRANSACTION_BYTES_MAX} bytes)"))
        };
        let end = self.bytes.len();
        if end + request.iter().map(<[u8]>::len).sum::<usize>() > TRANSACTION_BYTES_MAX {
            return too_long();
        }
        self.bytes.extend(format!("*{}\r\n", request.len()).into_bytes());
        for word in request.iter() {
            self.bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            self.bytes.extend_from_slice(word);
            self.bytes.extend_from_slice(CRLF);
        }
        // Many short words: what stands before and behind each counts, too.
        if self.bytes.len() > TRANSACTION_BYTES_MAX {
            self.bytes.truncate(end);
            return too_long();
        }
        self.count += 1;
        Ok(())
    }
}

/// Commands that are not kept between MULTI and EXEC.
const AT_ONCE: &[&str] = &["discard", "exec", "multi", "quit", "reset"];

/// Keeps a request for EXEC or refuses it; `None`: it is run at once.
pub(super) fn queue(
    context: &mut Context<'_>,
    at: usize,
    request: Request<'_>,
    out: &mut Output,
) -> Option<Result<(), String>> {
    let command = &COMMANDS[at];
    let transaction = context.session.transaction.as_mut()?;
    if AT_ONCE.contains(&command.name) {
        return None;
    }
    // CLIENT REPLY would take away parts of the one reply that EXEC has.
    let is_reply = command.name == "client" && request.get(1).eq_ignore_ascii_case(b"REPLY");
    if is_reply || !context.server.table.may_be_queued(at) {
        let mut name = command.name.to_ascii_uppercase();
        name.push_str(if is_reply { " REPLY" } else { "" });
        return Some(Err(format!(
            "{name} cannot be between MULTI and EXEC: only commands about the server and its clients can, which \
             never wait, so that nothing comes between them. MSET and SET with NX, XX or IFEQ are atomic"
        )));
    }
    let pushed = transaction.push(request);
    if pushed.is_ok() {
        context.writer(out).simple("QUEUED");
    }
    Some(pushed)
}

pub fn multi(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    if context.session.transaction.is_some() {
        return context.error(out, "MULTI calls can not be nested");
    }
    context.session.transaction = Some(Box::default());
    context.ok(out)
}

/// Writes the head of the reply; the hub runs the requests, each of which writes its part.
pub fn exec(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let Some(transaction) = context.session.transaction.take() else {
        return context.error(out, "EXEC without MULTI");
    };
    if transaction.is_spoilt {
        let text = "EXECABORT Transaction discarded because of previous errors.";
        return context.error(out, text);
    }
    context.writer(out).array(transaction.count());
    Outcome::Transaction(transaction)
}

pub fn discard(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    if context.session.transaction.take().is_none() {
        return context.error(out, "DISCARD without MULTI");
    }
    context.ok(out)
}
