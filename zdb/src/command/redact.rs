//! Requests as others may see them: without passwords.

use crate::resp::Request;

/// What stands for a password, as in Redis.
const REDACTED: &[u8] = b"(redacted)";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// MONITOR and SLOWLOG.
    Operator,
    /// MIRROR: a peer that is to do the same. What sets a namespace's password is what it is for.
    Peer,
}

/// The words of a request with each password replaced.
pub fn redacted<'a>(
    request: Request<'a>,
    audience: Audience,
) -> impl ExactSizeIterator<Item = &'a [u8]> {
    let hidden = hidden(request, audience);
    request
        .iter()
        .enumerate()
        .map(move |(at, word)| if hidden & 1u64 << at.min(63) != 0 { REDACTED } else { word })
}

/// The words to hide, a bit for each; the last bit is for all further ones.
fn hidden(request: Request<'_>, audience: Audience) -> u64 {
    let is =
        |at: usize, word: &[u8]| at < request.len() && request.get(at).eq_ignore_ascii_case(word);
    let all_from = |at: usize| u64::MAX << at;
    let name = request.get(0);
    if name.eq_ignore_ascii_case(b"AUTH") {
        match request.len() {
            3 if is(1, b"SECURE") && is(2, b"CHALLENGE") => 0,
            3 if is(1, b"SECURE") => all_from(2),
            _ => all_from(1),
        }
    } else if name.eq_ignore_ascii_case(b"HELLO") {
        let bits = (2..request.len().min(61)).filter(|at| is(*at, b"AUTH"));
        // A bit beyond the last stands for all words from there on.
        let rest = if request.len() > 61 { all_from(61) } else { 0 };
        bits.fold(rest, |bits, at| bits | 6 << at)
    } else if name.eq_ignore_ascii_case(b"SELECT") {
        if is(2, b"SECURE") && request.len() > 3 { all_from(3) } else { all_from(2) }
    } else if name.eq_ignore_ascii_case(b"NSSET") {
        if audience == Audience::Operator && is(2, b"password") { all_from(3) } else { 0 }
    } else if name.eq_ignore_ascii_case(b"CONFIG") {
        (2..request.len().min(62))
            .filter(|at| is(*at, b"requirepass"))
            .fold(0, |bits, at| bits | 2 << at)
    } else {
        0
    }
}

/// A word in quotes, as Redis shows it.
pub fn quoted(word: &[u8], out: &mut String) {
    use std::fmt::Write;
    out.push('"');
    for byte in word {
        match byte {
            b'\\' | b'"' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x07 => out.push_str("\\a"),
            0x08 => out.push_str("\\b"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => write!(out, "\\x{byte:02x}").expect("writing to a string does not fail"),
        }
    }
    out.push('"');
}
