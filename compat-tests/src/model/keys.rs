//! The commands on keys that 0-db has.

use super::habits::SetOptions;
use super::namespace::{Mode, Namespace, State, Version};
use super::{Answer, Command, Model, Session, exact, is_number, open};
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
    open("HISTORY", Model::history),
    open("DBSIZE", Model::dbsize),
];

const KEY_BYTES_MAX: usize = 255;

/// A key and its value.
pub(super) type Value<'a> = (&'a [u8], &'a [u8]);

/// The limit of a key that is written.
pub(super) fn key_of_write(key: &[u8]) -> Result<(), &'static str> {
    if key.len() > KEY_BYTES_MAX { Err("Key too large") } else { Ok(()) }
}

/// The limit of a key that is looked up.
pub(super) fn key_of_read(key: &[u8]) -> Result<(), &'static str> {
    if key.len() > KEY_BYTES_MAX { Err("Invalid key") } else { Ok(()) }
}

impl Model {
    pub(super) fn set(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let (key, value, options) = match arguments {
            [_, key, value, options @ ..] => (*key, *value, options),
            _ => return Err("Unexpected arguments"),
        };
        let options = match SetOptions::parse(options) {
            Ok(options) => options,
            Err(refusal) => return Ok(refusal),
        };
        if options.timestamp.is_some() && !session.admin {
            return Err("Permission denied");
        }
        key_of_write(key)?;
        if !options.is_plain() {
            return self.set_if(session, (key, value), &options);
        }
        let timestamp = options.timestamp.unwrap_or(self.now.as_secs() as u32);
        let namespace = self.writable(session)?;
        let current = namespace.current(key);
        if namespace.worm && current.is_some() {
            return Err("Namespace is protected by worm mode");
        }
        namespace.make_room(&[(key, value)])?;
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
        match arguments {
            [_, _, word] if !is_number(word) => {
                return Err("Invalid timestamp (DEL takes one key; UNLINK takes many)");
            }
            [_, _, _] if !session.admin => return Err("Permission denied"),
            [_, _, _] => {}
            _ => exact(arguments, 2)?,
        }
        let key = arguments[1];
        key_of_read(key)?;
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
    pub(super) fn writable(&mut self, session: &Session) -> Result<&mut Namespace, &'static str> {
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
    pub(super) fn readable(&mut self, session: &Session) -> Result<&mut Namespace, &'static str> {
        let namespace = self.current(session);
        match namespace.state {
            State::Frozen => Err("Namespace is temporarily frozen (read-write disabled)"),
            _ => Ok(namespace),
        }
    }

    /// The one key of a reading command.
    pub(super) fn one_key<'a>(
        &'a mut self,
        session: &Session,
        arguments: &[&[u8]],
    ) -> Result<Option<&'a Version>, &'static str> {
        exact(arguments, 2)?;
        key_of_read(arguments[1])?;
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
        keys.iter().try_for_each(|key| key_of_read(key))?;
        let namespace = self.readable(session)?;
        let value = |key: &&[u8]| {
            namespace.current(key).map_or(Reply::Nil, |version| Reply::Bulk(version.value.clone()))
        };
        Ok(Reply::Array(keys.iter().map(value).collect()))
    }

    pub(super) fn dbsize(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::Integer(self.current(session).live_count() as i64))
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
                let (version, is_gone) =
                    namespace.version(index as usize).ok_or("Invalid arguments (index query)")?;
                if is_gone || version.key != key {
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
