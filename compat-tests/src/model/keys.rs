//! The commands on keys.

use super::namespace::{Mode, Namespace, State, Version};
use super::{Answer, Command, Model, Session, atoll, exact, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] = &[
    open("SET", Model::set),
    open("SETX", Model::set),
    open("GET", Model::get),
    open("MGET", Model::mget),
    open("DEL", Model::del),
    open("EXISTS", Model::exists),
    open("CHECK", Model::check),
    open("LENGTH", Model::length),
    open("KEYTIME", Model::keytime),
    open("SCAN", Model::scan),
    open("SCANX", Model::scan),
    open("RSCAN", Model::rscan),
    open("KEYCUR", Model::keycur),
    open("HISTORY", Model::history),
    open("DBSIZE", Model::dbsize),
];

const KEY_BYTES_MAX: usize = 255;
const CURSOR_BYTES: usize = 17;
/// Ends each of the model's cursors, so that no guess is one.
const CURSOR_MARK: &[u8; 9] = b"model-cur";

impl Model {
    pub(super) fn set(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let now = self.now.as_secs() as u32;
        let timestamp = match arguments {
            [_, _, _] => now,
            [_, _, _, _] if !session.admin => return Err("Permission denied"),
            [_, _, _, text] => atoll(text) as u32,
            _ => return Err("Unexpected arguments"),
        };
        let (key, value) = (arguments[1], arguments[2]);
        if key.len() > KEY_BYTES_MAX {
            return Err("Key too large");
        }
        let namespace = self.writable(session)?;
        let current = namespace.current(key);
        if namespace.worm && current.is_some() {
            return Err("Namespace is protected by worm mode");
        }
        let replaced = current.map_or(0, |version| version.value.len() as u64);
        if namespace.maxsize > 0
            && namespace.value_bytes + value.len() as u64 > namespace.maxsize + replaced
        {
            return Err("No space left on this namespace");
        }
        match namespace.mode {
            Mode::User if key.is_empty() => return Err("Invalid argument, key needed"),
            Mode::Sequential if !key.is_empty() && current.is_none() => {
                return Err("Invalid key, only update authorized");
            }
            _ => {}
        }
        if current.is_some_and(|version| version.value == value) {
            return Ok(Reply::Nil);
        }
        Ok(Reply::Bulk(namespace.write(key, value, timestamp)))
    }

    pub(super) fn del(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        match arguments.len() {
            3 if !session.admin => return Err("Permission denied"),
            3 => {}
            _ => exact(arguments, 2)?,
        }
        let key = arguments[1];
        if key.len() > KEY_BYTES_MAX {
            return Err("Invalid key");
        }
        let namespace = self.writable(session)?;
        if namespace.current(key).is_none() {
            return Err("Key not found");
        }
        if namespace.worm {
            return Err("Cannot delete a key when namespace is in worm mode");
        }
        namespace.remove(key);
        Ok(Reply::ok())
    }

    /// The current namespace, if this connection may write into it now.
    fn writable(&mut self, session: &Session) -> Result<&mut Namespace, &'static str> {
        if !session.writable {
            return Err("Namespace is in read-only mode");
        }
        let namespace = self.readable(session)?;
        match namespace.state {
            State::Locked => Err("Namespace is temporarily locked (read-only)"),
            _ => Ok(namespace),
        }
    }

    /// The current namespace, if it may be read now.
    fn readable(&mut self, session: &Session) -> Result<&mut Namespace, &'static str> {
        let namespace = self.current(session);
        match namespace.state {
            State::Frozen => Err("Namespace is temporarily frozen (read-write disabled)"),
            _ => Ok(namespace),
        }
    }

    /// The one key of a reading command.
    fn one_key<'a>(
        &'a mut self,
        session: &Session,
        arguments: &[&[u8]],
    ) -> Result<Option<&'a Version>, &'static str> {
        exact(arguments, 2)?;
        if arguments[1].len() > KEY_BYTES_MAX {
            return Err("Invalid key");
        }
        Ok(self.readable(session)?.current(arguments[1]))
    }

    pub(super) fn get(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(version.map_or(Reply::Nil, |version| Reply::Bulk(version.value.clone())))
    }

    pub(super) fn exists(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(Reply::Integer(i64::from(version.is_some())))
    }

    pub(super) fn check(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(version.map_or(Reply::Nil, |_| Reply::Integer(1)))
    }

    pub(super) fn length(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(version.map_or(Reply::Nil, |version| Reply::Integer(version.value.len() as i64)))
    }

    pub(super) fn keytime(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let version = self.one_key(session, arguments)?;
        Ok(version.map_or(Reply::Nil, |version| Reply::Integer(version.timestamp.into())))
    }

    pub(super) fn mget(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let keys = &arguments[1..];
        if keys.is_empty() {
            return Err("Invalid arguments");
        }
        if keys.iter().any(|key| key.len() > KEY_BYTES_MAX) {
            return Err("Invalid key");
        }
        let namespace = self.readable(session)?;
        let value = |key: &&[u8]| {
            namespace.current(key).map_or(Reply::Nil, |version| Reply::Bulk(version.value.clone()))
        };
        Ok(Reply::Array(keys.iter().map(value).collect()))
    }

    pub(super) fn dbsize(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::Integer(self.current(session).live_count() as i64))
    }

    pub(super) fn scan(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        self.walk(session, arguments, false)
    }

    pub(super) fn rscan(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        self.walk(session, arguments, true)
    }

    fn walk(&mut self, session: &mut Session, arguments: &[&[u8]], reverse: bool) -> Answer {
        let namespace = self.readable(session)?;
        let after = match arguments.get(1) {
            Some(cursor) => Some(parse_cursor(cursor).ok_or("Invalid key format")?),
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
            Reply::bulk(cursor(*last)),
            Reply::Array(entries.iter().map(entry).collect()),
        ]))
    }

    pub(super) fn keycur(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 2)?;
        let place = self.readable(session)?.place_of(arguments[1]);
        Ok(Reply::bulk(cursor(place.ok_or("Key not found")?)))
    }

    pub(super) fn history(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let (key, token) = match arguments {
            [_, key] => (key, None),
            [_, key, token] => (key, Some(token)),
            _ => return Err("Invalid arguments"),
        };
        let namespace = self.readable(session)?;
        let version = match token {
            None => namespace.current(key).ok_or("Key not found")?,
            Some(token) => {
                let token: [u8; 8] = (*token).try_into().map_err(|_| "Invalid arguments")?;
                let index = u64::from_le_bytes(token).checked_sub(1).ok_or("No more history")?;
                let version =
                    namespace.version(index as usize).ok_or("Invalid arguments (index query)")?;
                if version.key != key {
                    return Err("Invalid arguments (invalid key)");
                }
                version
            }
        };
        Ok(Reply::Array(vec![
            version
                .previous
                .map_or(Reply::Nil, |index| Reply::bulk((index as u64 + 1).to_le_bytes())),
            Reply::bulk(version.timestamp.to_string()),
            Reply::Bulk(version.value.clone()),
        ]))
    }
}

fn cursor(place: u64) -> [u8; CURSOR_BYTES] {
    let mut bytes = [0; CURSOR_BYTES];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..].copy_from_slice(CURSOR_MARK);
    bytes
}

fn parse_cursor(bytes: &[u8]) -> Option<u64> {
    let (place, mark) = bytes.split_first_chunk::<8>()?;
    (mark == CURSOR_MARK).then(|| u64::from_le_bytes(*place))
}
