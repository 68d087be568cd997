//! AUTH, and what every comparison of a password goes through.

use super::{Context, Outcome};
use crate::limits::ADMIN_PASSWORD_BYTES_MAX;
use crate::output::Output;
use crate::resp::Request;
use sha1::{Digest, Sha1};
use std::fmt::Write;

/// The only user name there is, of Redis's AUTH and HELLO.
pub const USER: &[u8] = b"default";
const DENIED: &str = "Access denied";
const THROTTLED: &str = "Too many failed passwords, try again later";

/// Compares without telling by its time where two secrets differ.
fn equal_in_constant_time(one: &[u8], two: &[u8]) -> bool {
    // Hashes have one length, so that of the secret does not show either.
    let (one, two) = (Sha1::digest(one), Sha1::digest(two));
    one.iter().zip(two.iter()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Looks at a password, unless too many from this peer were wrong.
pub fn check_password(
    context: &mut Context<'_>,
    expected: &[u8],
    given: &[u8],
) -> Result<(), &'static str> {
    let (source, now_ms) = (context.session.source, context.engine.now.monotonic_ms);
    if !context.server.throttle.allows(source, now_ms) {
        context.server.stats.passwords_not_looked_at += 1;
        return Err(THROTTLED);
    }
    if equal_in_constant_time(given, expected) {
        return Ok(());
    }
    context.server.throttle.failed(source, now_ms);
    context.server.stats.passwords_wrong += 1;
    Err(DENIED)
}

/// Checks the answer to the outstanding challenge, which is used up by a well-formed answer.
pub fn check_response(
    context: &mut Context<'_>,
    password: &[u8],
    response: &[u8],
) -> Result<(), &'static str> {
    const HASH_CHARACTERS: usize = 40;
    let Some(challenge) = context.session.challenge else {
        return Err("No CHALLENGE requested, secure authentication not available");
    };
    if response.len() != HASH_CHARACTERS {
        return Err("Invalid hash length");
    }
    context.session.challenge = None;
    let mut hash = Sha1::new();
    hash.update(challenge);
    hash.update(b":");
    hash.update(password);
    let expected = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    });
    check_password(context, expected.as_bytes(), response)
}

pub fn auth(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let result = match request.len() {
        2 => authenticate(context, request.get(1)),
        3 if request.get(1).is_empty() || request.get(2).is_empty() => Err("Invalid argument"),
        3 if request.get(1) == USER => authenticate(context, request.get(2)),
        3 if !request.get(1).eq_ignore_ascii_case(b"SECURE") => {
            Err("Only SECURE extra method supported")
        }
        3 if request.get(2).eq_ignore_ascii_case(b"CHALLENGE") => return challenge(context, out),
        3 => authenticate_by_response(context, request.get(2)),
        _ => Err("Unexpected arguments"),
    };
    match result {
        Ok(()) => context.ok(out),
        Err(text) => context.error(out, text),
    }
}

/// Makes the session an admin, if the password is right.
pub fn authenticate(context: &mut Context<'_>, password: &[u8]) -> Result<(), &'static str> {
    let Some(expected) = context.server.admin_password.clone() else {
        return Err("Authentication disabled");
    };
    if password.is_empty() {
        return Err("Invalid argument");
    }
    if password.len() > ADMIN_PASSWORD_BYTES_MAX {
        return Err("Password too long");
    }
    check_password(context, &expected, password)?;
    become_admin(context);
    Ok(())
}

fn authenticate_by_response(
    context: &mut Context<'_>,
    response: &[u8],
) -> Result<(), &'static str> {
    let Some(password) = context.server.admin_password.clone() else {
        return Err("Authentication disabled");
    };
    check_response(context, &password, response)?;
    become_admin(context);
    Ok(())
}

fn become_admin(context: &mut Context<'_>) {
    context.session.admin = true;
    context.session.authenticated = true;
}

/// SELECT uses challenges too, so they are there without an admin password.
fn challenge(context: &mut Context<'_>, out: &mut Output) -> Outcome {
    let mut random = [0; 8];
    (context.server.random)(&mut random);
    let text = format!("{:016x}", u64::from_be_bytes(random));
    context.session.challenge = text.as_bytes().try_into().ok();
    context.writer(out).simple(&text);
    Outcome::Done
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
