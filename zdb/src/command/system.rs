//! Commands about the server and the connection.

use super::{Context, Outcome, Session};
use crate::limits::ADMIN_PASSWORD_BYTES_MAX;
use crate::output::Output;
use crate::resp::Request;
use sha1::{Digest, Sha1};
use std::fmt::Write;

pub fn ping(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.writer(out).simple("PONG");
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

// -------------------------------------------------------------------- AUTH

/// Compares without telling by its time where two secrets differ.
pub fn equal_in_constant_time(one: &[u8], two: &[u8]) -> bool {
    // Hashes have one length, so that of the secret does not show either.
    let (one, two) = (Sha1::digest(one), Sha1::digest(two));
    one.iter().zip(two.iter()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Checks the answer to the outstanding challenge, which is used up by a well-formed answer.
pub fn check_response(
    session: &mut Session,
    password: &[u8],
    response: &[u8],
) -> Result<(), &'static str> {
    const HASH_CHARACTERS: usize = 40;
    let Some(challenge) = session.challenge else {
        return Err("No CHALLENGE requested, secure authentication not available");
    };
    if response.len() != HASH_CHARACTERS {
        return Err("Invalid hash length");
    }
    session.challenge = None;
    let mut hash = Sha1::new();
    hash.update(challenge);
    hash.update(b":");
    hash.update(password);
    let expected = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    });
    if equal_in_constant_time(expected.as_bytes(), response) {
        Ok(())
    } else {
        Err("Access denied")
    }
}

pub fn auth(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    match request.len() {
        2 => auth_plain(context, request.get(1), out),
        3 => auth_secure(context, request.get(1), request.get(2), out),
        _ => context.error(out, "Unexpected arguments"),
    }
}

fn auth_plain(context: &mut Context<'_>, password: &[u8], out: &mut Output) -> Outcome {
    match plain_password(context, password) {
        Ok(()) => context.ok(out),
        Err(text) => context.error(out, text),
    }
}

pub fn plain_password(context: &mut Context<'_>, password: &[u8]) -> Result<(), &'static str> {
    let Some(expected) = &context.server.admin_password else {
        return Err("Authentication disabled");
    };
    if password.is_empty() {
        return Err("Invalid argument");
    }
    if password.len() > ADMIN_PASSWORD_BYTES_MAX {
        return Err("Password too long");
    }
    if !equal_in_constant_time(password, expected) {
        return Err("Access denied");
    }
    context.session.admin = true;
    context.session.authenticated = true;
    Ok(())
}

fn auth_secure(
    context: &mut Context<'_>,
    method: &[u8],
    argument: &[u8],
    out: &mut Output,
) -> Outcome {
    if method.is_empty() || argument.is_empty() {
        return context.error(out, "Invalid argument");
    }
    if !method.eq_ignore_ascii_case(b"SECURE") {
        return context.error(out, "Only SECURE extra method supported");
    }
    if argument.eq_ignore_ascii_case(b"CHALLENGE") {
        let mut random = [0; 8];
        (context.server.random)(&mut random);
        let text = format!("{:016x}", u64::from_be_bytes(random));
        context.session.challenge = text.as_bytes().try_into().ok();
        context.writer(out).simple(&text);
        return Outcome::Done;
    }
    let Some(password) = context.server.admin_password.clone() else {
        return context.error(out, "Authentication disabled");
    };
    match check_response(context.session, &password, argument) {
        Ok(()) => {
            context.session.admin = true;
            context.session.authenticated = true;
            context.ok(out)
        }
        Err(text) => context.error(out, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_compare() {
        assert!(equal_in_constant_time(b"abc", b"abc"));
        assert!(!equal_in_constant_time(b"abc", b"abd"));
        assert!(!equal_in_constant_time(b"abc", b"abcd"));
    }
}
