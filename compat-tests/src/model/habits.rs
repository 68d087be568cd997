//! The commands on keys that Redis has and 0-db has not.

use super::keys::{Value, key_of_read, key_of_write};
use super::namespace::{Mode, Namespace};
use super::{Answer, Command, Model, Session, atoll, exact, is_number, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] = &[
    open("MSET", Model::mset),
    open("SETNX", Model::setnx),
    open("UNLINK", Model::unlink),
    open("STRLEN", Model::strlen),
    open("GETRANGE", Model::getrange),
    open("TYPE", Model::key_type),
    open("TTL", Model::ttl),
    open("PTTL", Model::ttl),
    open("RANDOMKEY", Model::randomkey),
    open("MEMORY", Model::memory),
    open("OBJECT", Model::object),
];

/// More bytes of records than one MSET may write.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// The bytes of a record beside its key and its value.
const RECORD_HEAD_BYTES: usize = 48;
/// What a key takes in memory, about.
const ENTRY_BYTES: i64 = 16;

/// When a SET with options writes.
#[derive(Clone, Copy)]
enum Condition<'a> {
    Missing,
    Present,
    Equals(&'a [u8]),
}

/// What follows key and value in a SET.
#[derive(Default)]
pub(super) struct SetOptions<'a> {
    pub timestamp: Option<u32>,
    condition: Option<Condition<'a>>,
    get: bool,
}

impl SetOptions<'_> {
    /// Whether it answers as 0-db does.
    pub fn is_plain(&self) -> bool {
        self.condition.is_none() && !self.get
    }

    pub fn parse<'a>(words: &[&'a [u8]]) -> Result<SetOptions<'a>, Reply> {
        let mut options = SetOptions::default();
        let mut rest = words.iter().copied().enumerate();
        while let Some((at, word)) = rest.next() {
            let condition = match &word.to_ascii_uppercase()[..] {
                b"NX" => Condition::Missing,
                b"XX" => Condition::Present,
                b"IFEQ" => match rest.next() {
                    Some((_, value)) => Condition::Equals(value),
                    None => return Err(Reply::error("Unexpected arguments")),
                },
                b"GET" => {
                    options.get = true;
                    continue;
                }
                _ if is_number(word) && at == 0 => {
                    options.timestamp = Some(atoll(word) as u32);
                    continue;
                }
                _ if is_number(word) => return Err(Reply::error("Unexpected arguments")),
                _ => {
                    return Err(Reply::Error(format!(
                        "Invalid option: {} (a timestamp, NX, XX, GET or IFEQ value)",
                        word.escape_ascii()
                    )));
                }
            };
            if options.condition.replace(condition).is_some() {
                return Err(Reply::error("NX, XX and IFEQ exclude each other"));
            }
        }
        Ok(options)
    }
}

impl Model {
    /// SET as Redis has it, with these options.
    pub(super) fn set_if(
        &mut self,
        session: &Session,
        (key, value): (&[u8], &[u8]),
        options: &SetOptions<'_>,
    ) -> Answer {
        let timestamp = options.timestamp.unwrap_or(self.now.as_secs() as u32);
        let namespace = self.writable(session)?;
        let sequential = namespace.mode == Mode::Sequential;
        if sequential && matches!(options.condition, Some(Condition::Missing)) {
            return Err("This needs a namespace in user mode");
        }
        if key.is_empty() {
            return Err("Invalid argument, key needed");
        }
        if sequential && options.condition.is_none() && namespace.current(key).is_none() {
            return Err("Invalid key, only update authorized");
        }
        let old = namespace.current(key).map(|version| version.value.clone());
        let holds = match options.condition {
            None => true,
            Some(Condition::Missing) => old.is_none(),
            Some(Condition::Present) => old.is_some(),
            Some(Condition::Equals(expected)) => old.as_deref() == Some(expected),
        };
        if holds {
            if namespace.worm && old.is_some() {
                return Err("Namespace is protected by worm mode");
            }
            namespace.make_room(&[(key, value)])?;
            if old.as_deref() != Some(value) {
                namespace.write(key, value, timestamp);
            }
        }
        Ok(match old {
            Some(old) if options.get => Reply::Bulk(old),
            None if options.get => Reply::Nil,
            _ if holds => Reply::ok(),
            _ => Reply::Nil,
        })
    }

    fn setnx(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let [_, key, value] = arguments else { return Err("Unexpected arguments") };
        key_of_write(key)?;
        let options = SetOptions { condition: Some(Condition::Missing), ..Default::default() };
        let reply = self.set_if(session, (key, value), &options)?;
        Ok(Reply::Integer(i64::from(reply == Reply::ok())))
    }

    fn mset(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let (pairs, rest) = arguments[1..].as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() {
            return Err("Unexpected arguments");
        }
        let mut last: Vec<Value<'_>> = Vec::new();
        for &[key, value] in pairs {
            key_of_write(key)?;
            if key.is_empty() {
                return Err("Invalid argument, key needed");
            }
            last.retain(|(other, _)| *other != key);
            last.push((key, value));
        }
        let now = self.now.as_secs() as u32;
        let namespace = self.writable(session)?;
        if namespace.mode == Mode::Sequential {
            return Err("This needs a namespace in user mode");
        }
        let bytes: usize =
            last.iter().map(|(key, value)| RECORD_HEAD_BYTES + key.len() + value.len()).sum();
        if bytes > BATCH_BYTES_MAX {
            return Err("Too many bytes for one MSET");
        }
        if namespace.worm && last.iter().any(|(key, _)| namespace.current(key).is_some()) {
            return Err("Namespace is protected by worm mode");
        }
        namespace.make_room(&last)?;
        for (key, value) in last {
            namespace.write(key, value, now);
        }
        Ok(Reply::ok())
    }

    fn unlink(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let keys = &arguments[1..];
        if keys.is_empty() {
            return Err("Missing arguments");
        }
        keys.iter().try_for_each(|key| key_of_read(key))?;
        let namespace = self.writable(session)?;
        if namespace.worm && keys.iter().any(|key| namespace.current(key).is_some()) {
            return Err("Cannot delete a key when namespace is in worm mode");
        }
        let count = keys.iter().filter(|key| namespace.remove(key).is_some()).count();
        Ok(Reply::Integer(count as i64))
    }

    fn strlen(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(Reply::Integer(version.map_or(0, |version| version.value.len() as i64)))
    }

    fn getrange(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 4)?;
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        let bounds = number(arguments[2]).zip(number(arguments[3]));
        let (first, last) = bounds.ok_or("value is not an integer or out of range")?;
        key_of_read(arguments[1])?;
        let version = self.readable(session)?.current(arguments[1]);
        let value = version.map(|version| &version.value[..]).unwrap_or_default();
        let count = value.len() as i128;
        // Negative ones count from the end; those that lie before the start stand for it.
        let place = |at: i64| (i128::from(at) + if at < 0 { count } else { 0 }).max(0);
        let end = (place(last) + 1).min(count);
        let is_backward = (i64::MIN..0).contains(&last) && last < first && first < 0;
        let part = if place(first) < end && !is_backward {
            &value[place(first) as usize..end as usize]
        } else {
            &[]
        };
        Ok(Reply::bulk(part))
    }

    fn key_type(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(Reply::Simple(if version.is_some() { "string" } else { "none" }.into()))
    }

    fn ttl(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(Reply::Integer(if version.is_some() { -1 } else { -2 }))
    }

    fn randomkey(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        let first = self.readable(session)?.scan().next();
        Ok(first.map_or(Reply::Nil, |version| Reply::Bulk(version.key.clone())))
    }

    fn memory(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let key = match arguments {
            [_] => return Err("Missing arguments"),
            [_, sub, ..] if !sub.eq_ignore_ascii_case(b"USAGE") => {
                return Err(
                    "Command not supported (MEMORY has USAGE; INFO tells about the server's memory)",
                );
            }
            [_, _, key] => key,
            [_, _, key, word, count]
                if word.eq_ignore_ascii_case(b"SAMPLES") && is_number(count) =>
            {
                key
            }
            _ => return Err("Unexpected arguments"),
        };
        key_of_read(key)?;
        let version = self.readable(session)?.current(key);
        Ok(version.map_or(Reply::Nil, |_| Reply::Integer(ENTRY_BYTES)))
    }

    fn object(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let key = match arguments {
            [_] => return Err("Missing arguments"),
            [_, sub, ..] if !sub.eq_ignore_ascii_case(b"ENCODING") => {
                return Err(
                    "Command not supported (OBJECT has ENCODING: keys are not counted or aged)",
                );
            }
            [_, _, key] => key,
            _ => return Err("Unexpected arguments"),
        };
        key_of_read(key)?;
        let version = self.readable(session)?.current(key);
        Ok(version.map_or(Reply::Nil, |_| Reply::bulk("raw")))
    }
}

impl Namespace {
    /// Whether its limit lets these values in, each in the place of the key's value now.
    pub(super) fn make_room(&self, values: &[Value<'_>]) -> Result<(), &'static str> {
        let new: u64 = values.iter().map(|(_, value)| value.len() as u64).sum();
        let replaced: u64 = values
            .iter()
            .filter_map(|(key, _)| self.current(key))
            .map(|version| version.value.len() as u64)
            .sum();
        if self.maxsize > 0 && new > 0 && self.value_bytes + new > self.maxsize + replaced {
            return Err("No space left on this namespace");
        }
        Ok(())
    }
}
