//! The commands that walk over keys.

use super::namespace::{Mode, Namespace, Version};
use super::{Answer, Command, Model, Session, exact, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] = &[
    open("SCAN", Model::scan),
    open("SCANX", Model::scan),
    open("RSCAN", Model::rscan),
    open("KSCAN", Model::kscan),
    open("KEYCUR", Model::keycur),
];

const CURSOR_BYTES: usize = 17;
/// Ends each of the model's cursors, so that no guess is one.
const CURSOR_MARK: u8 = b'~';
/// Keys that one SCAN of the Redis form looks at, unless COUNT says otherwise, and at most.
const COUNT_DEFAULT: u64 = 10;
const COUNT_MAX: u64 = 512;

impl Model {
    fn scan(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        match arguments.get(1) {
            Some(cursor) if !cursor.is_empty() && cursor.iter().all(u8::is_ascii_digit) => {
                self.scan_keys(session, arguments)
            }
            _ => self.walk(session, arguments, false),
        }
    }

    fn rscan(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        self.walk(session, arguments, true)
    }

    /// 0-db's form: a binary cursor, keys with lengths and times, an error at the end.
    fn walk(&mut self, session: &mut Session, arguments: &[&[u8]], reverse: bool) -> Answer {
        let namespace = self.readable(session)?;
        let after = match arguments.get(1) {
            Some(cursor) => Some(parse_cursor(namespace, cursor).ok_or("Invalid key format")?),
            None => None,
        };
        let entries = namespace.scan_from(after, reverse);
        let (last, _) = entries.last().ok_or("No more data")?;
        let entry = |(_, version): &(u64, &Version)| {
            Reply::Array(vec![
                Reply::Bulk(version.key.clone()),
                Reply::Integer(version.value.len() as i64),
                Reply::Integer(version.timestamp.into()),
            ])
        };
        Ok(Reply::Array(vec![
            Reply::bulk(cursor(namespace, *last)),
            Reply::Array(entries.iter().map(entry).collect()),
        ]))
    }

    /// Redis's form: a number as the cursor, which is one more than the place of the last key looked at.
    fn scan_keys(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let namespace = self.readable(session)?;
        let after = number(arguments[1]).ok_or("Invalid key format")?.checked_sub(1);
        let (mut pattern, mut count, mut is_string) = (&b"*"[..], COUNT_DEFAULT, true);
        for option in arguments[2..].chunks(2) {
            let name = option[0].to_ascii_uppercase();
            if ![&b"MATCH"[..], b"COUNT", b"TYPE"].contains(&&name[..]) {
                let word = option[0].escape_ascii();
                return Ok(Reply::Error(format!("Invalid option: {word} (MATCH, COUNT or TYPE)")));
            }
            let given = *option.get(1).ok_or("Unexpected arguments")?;
            match &name[..] {
                b"MATCH" => pattern = given,
                b"TYPE" => is_string = given.eq_ignore_ascii_case(b"string"),
                _ => {
                    let given = number(given).filter(|given| (1..=i64::MAX as u64).contains(given));
                    let given = given.ok_or("value is not an integer or out of range")?;
                    count = given.min(COUNT_MAX);
                }
            }
        }
        let entries = namespace.scan_from(after, false);
        let page = &entries[..entries.len().min(count as usize)];
        let next = match page.last() {
            Some((place, _)) if page.len() < entries.len() => place + 1,
            _ => 0,
        };
        let keys = page
            .iter()
            .filter(|(_, version)| is_string && glob(pattern, &version.key))
            .map(|(_, version)| Reply::Bulk(version.key.clone()));
        Ok(Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(keys.collect())]))
    }

    fn kscan(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if self.current(session).mode == Mode::Sequential {
            return Err("Index running mode doesn't support this feature");
        }
        let prefix = match arguments {
            [_, prefix] | [_, prefix, _] => *prefix,
            _ => return Err("Unexpected arguments"),
        };
        // The model has one page only.
        if arguments.get(2).is_some_and(|cursor| *cursor != b"0") {
            return Err("Invalid key format");
        }
        if prefix.is_empty() {
            return Err("Invalid argument");
        }
        let keys: Vec<Reply> = self
            .current(session)
            .scan()
            .filter(|version| version.key.starts_with(prefix))
            .map(|version| Reply::Bulk(version.key.clone()))
            .collect();
        if keys.is_empty() {
            return Err("No keys match");
        }
        Ok(Reply::Array(vec![Reply::bulk("0"), Reply::Array(keys)]))
    }

    fn keycur(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 2)?;
        let namespace = self.readable(session)?;
        let place = namespace.place_of(arguments[1]).ok_or("Key not found")?;
        Ok(Reply::bulk(cursor(namespace, place)))
    }
}

/// A place, the namespace it is in, and how often that was flushed: a cursor is good for one of them.
fn cursor(namespace: &Namespace, place: u64) -> [u8; CURSOR_BYTES] {
    let mut bytes = [CURSOR_MARK; CURSOR_BYTES];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..12].copy_from_slice(&(namespace.id as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&(namespace.flush_count as u32).to_le_bytes());
    bytes
}

fn parse_cursor(namespace: &Namespace, bytes: &[u8]) -> Option<u64> {
    let place = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes == cursor(namespace, place)).then_some(place)
}

/// Redis's patterns, by trying everything: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, `\x`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], _) => text.is_empty(),
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| glob(rest, &text[taken..])),
        (_, []) => false,
        ([b'?', rest @ ..], [_, text @ ..]) => glob(rest, text),
        ([b'\\', byte, rest @ ..], [first, text @ ..]) => byte == first && glob(rest, text),
        ([b'[', class @ ..], [first, text @ ..]) => {
            let (taken, rest) = class_has(class, *first);
            taken && glob(rest, text)
        }
        ([byte, rest @ ..], [first, text @ ..]) => byte == first && glob(rest, text),
    }
}

/// Whether a class has a byte, and the pattern behind it. One that is not closed ends the pattern.
fn class_has(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let negated = class.first() == Some(&b'^');
    let mut rest = if negated { &class[1..] } else { class };
    let mut found = false;
    loop {
        rest = match rest {
            [] => return (found != negated, rest),
            [b']', rest @ ..] => return (found != negated, rest),
            [b'\\', one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
            [one, b'-', other, rest @ ..] => {
                found |= (*one.min(other)..=*one.max(other)).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
        };
    }
}
