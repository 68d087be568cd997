//! The commands on namespaces.

use super::namespace::{Mode, Namespace, State};
use super::{Answer, Command, Model, Session, admin, atoll, exact, open};
use crate::reply::Reply;
use bytes::Bytes;
use std::fmt::Write;

pub(super) const COMMANDS: &[Command] = &[
    open("SELECT", Model::select),
    admin("NSNEW", Model::nsnew),
    admin("NSDEL", Model::nsdel),
    open("NSLIST", Model::nslist),
    open("NSINFO", Model::nsinfo),
    admin("NSSET", Model::nsset),
    open("FLUSH", Model::flush),
];

const NAME_BYTES_MAX: usize = 128;
const PROPERTY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 63;
const PASSWORD_BYTES_MAX: usize = 255;

pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("Namespace too long");
    }
    if name.contains(&0) {
        return Err("Invalid argument");
    }
    Ok(())
}

const BAD_HISTORY: &str = "Invalid property value (expected: forever, a number of versions up to 4294967294, or \
                           days from 1d to 36500d)";

impl Model {
    pub(super) fn nsnew(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 2)?;
        let name = arguments[1];
        check_name(name)?;
        if [&b"."[..], b"..", b"default"].contains(&name) || name.contains(&b'/') {
            return Err("This name is not allowed");
        }
        if self.find(name).is_some() {
            return Err("This namespace is not available");
        }
        let id = self.namespace_count_ever;
        self.namespace_count_ever += 1;
        let mode = self.options.mode.unwrap_or(Mode::User);
        self.namespaces.push(Namespace::new(id, Bytes::copy_from_slice(name), mode));
        Ok(Reply::ok())
    }

    pub(super) fn nsdel(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 2)?;
        let name = arguments[1];
        check_name(name)?;
        if name == b"default" {
            return Err("Cannot remove default namespace");
        }
        let namespace = self.find(name).ok_or("This namespace doesn't exists")?;
        let (id, record_bytes) = (namespace.id, namespace.record_bytes);
        if id == session.namespace {
            return Err("Cannot remove namespace you're currently using.");
        }
        self.ended_bytes += record_bytes;
        self.namespaces.retain(|namespace| namespace.id != id);
        Ok(Reply::ok())
    }

    pub(super) fn nslist(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::Array(
            self.namespaces.iter().map(|namespace| Reply::Bulk(namespace.name.clone())).collect(),
        ))
    }

    pub(super) fn select(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let name = *arguments.get(1).ok_or("Invalid argument")?;
        check_name(name)?;
        // What Redis calls its first database.
        let name = if name == b"0" && self.find(name).is_none() { b"default" } else { name };
        let namespace = self.find(name).ok_or("Namespace not found")?;
        let id = namespace.id;
        let mut writable = true;
        if let Some(password) = namespace.password.clone() {
            match &arguments[2..] {
                [] if !namespace.public => return Err("Namespace protected and private"),
                [] => writable = false,
                [given] if given.len() > PASSWORD_BYTES_MAX => return Err("Password too long"),
                [given] => self.check_password(given, &password)?,
                [method, answer] => {
                    if !method.eq_ignore_ascii_case(b"SECURE") {
                        return Err("Only SECURE extra method supported");
                    }
                    self.check_answer(session, answer, &password)?;
                }
                _ => return Err("Too many arguments"),
            }
        }
        session.namespace = id;
        session.writable = writable;
        Ok(Reply::ok())
    }

    pub(super) fn nsset(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 4)?;
        let [name, property, value] = [arguments[1], arguments[2], arguments[3]];
        check_name(name)?;
        if property.len() > PROPERTY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err("Argument too long");
        }
        let single_mode = self.options.mode.is_some();
        let namespace = self.find(name).ok_or("Namespace not found")?;
        let yes = value[0] == b'1';
        match property {
            b"mode" if single_mode => {
                return Err("This server instance is configured to use a single runtime mode");
            }
            b"mode" if !namespace.is_fresh() => return Err("Cannot change mode of used namespace"),
            b"mode" => {
                namespace.mode = match value {
                    b"user" => Mode::User,
                    b"seq" => Mode::Sequential,
                    _ => return Err("Invalid property value (expected: user, seq)"),
                };
            }
            b"lock" => namespace.state = if yes { State::Locked } else { State::Normal },
            b"freeze" => namespace.state = if yes { State::Frozen } else { State::Normal },
            b"history" => namespace.history = history(value)?,
            _ if name == b"default" => return Err("Cannot update default namespace"),
            b"maxsize" => namespace.maxsize = atoll(value) as u64,
            b"password" => {
                namespace.password = (value != b"*").then(|| Bytes::copy_from_slice(value));
            }
            b"public" => namespace.public = yes,
            b"worm" => namespace.worm = yes,
            _ => return Err("Invalid property"),
        }
        Ok(Reply::ok())
    }

    pub(super) fn flush(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        let namespace = self.current(session);
        if namespace.public || namespace.password.is_none() {
            return Err("Flushing public namespace denied");
        }
        let namespace = self.writable(session)?;
        if namespace.worm {
            return Err("Cannot delete a key when namespace is in worm mode");
        }
        let record_bytes = namespace.record_bytes;
        namespace.flush();
        self.ended_bytes += record_bytes;
        Ok(Reply::ok())
    }

    pub(super) fn nsinfo(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 2)?;
        check_name(arguments[1])?;
        let (admin, master) = (session.admin, session.watcher.is_master);
        let namespace = self.find(arguments[1]).ok_or("Namespace not found")?;
        Ok(Reply::bulk(describe(namespace, admin, master)))
    }
}

/// A number without leading zeroes, of days with their sign, or the word for no limit.
fn history(value: &[u8]) -> Result<String, &'static str> {
    let text = String::from_utf8_lossy(value);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|one| one.is_ascii_digit());
    let number = |text: &str| is_number(text).then(|| text.parse::<u64>().ok()).flatten();
    let accepted = match text.strip_suffix('d') {
        Some(days) => number(days).filter(|days| (1..=36_500).contains(days)),
        None => number(&text).filter(|count| *count <= 4_294_967_294),
    };
    let sign = if text.ends_with('d') { "d" } else { "" };
    match accepted {
        Some(number) => Ok(format!("{number}{sign}")),
        None if text == "forever" => Ok(text.into_owned()),
        None => Err(BAD_HISTORY),
    }
}

/// The text of NSINFO; what only a disk knows is zero.
fn describe(namespace: &Namespace, admin: bool, master: bool) -> String {
    let yes = |on: bool| if on { "yes" } else { "no" };
    let mut text = String::from("# namespace\n");
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name}: {value}").expect("a string takes all");
    };
    let mib = namespace.value_bytes as f64 / f64::from(1 << 20);
    let index_kib = namespace.index_bytes as f64 / 1024.0;
    field("name", &String::from_utf8_lossy(&namespace.name));
    field("entries", &namespace.live_count());
    field("public", &yes(namespace.public));
    field("worm", &yes(namespace.worm));
    field("locked", &yes(namespace.state != State::Normal));
    field("password", &yes(namespace.password.is_some()));
    if master {
        let raw = namespace.password.clone().unwrap_or_default();
        field("password_raw", &String::from_utf8_lossy(&raw));
    }
    field("data_size_bytes", &namespace.value_bytes);
    field("data_size_mb", &format!("{mib:.2}"));
    field("data_limits_bytes", &namespace.maxsize);
    field("index_size_bytes", &namespace.index_bytes);
    field("index_size_kb", &format!("{index_kib:.2}"));
    field("next_internal_id", &next_internal_id(namespace.id_next));
    field("mode", &if namespace.mode == Mode::User { "userkey" } else { "sequential" });
    field("history", &namespace.history);
    let [live, history, dead] = namespace.space();
    field("data_live_bytes", &live);
    field("data_history_bytes", &history);
    field("data_dead_bytes", &dead);
    for name in ["index", "data"] {
        field(&format!("stats_{name}_io_errors"), &0);
        field(&format!("stats_{name}_io_error_last"), &0);
        field(&format!("stats_{name}_faults"), &0);
    }
    if namespace.maxsize > 0 {
        field("space_available", &namespace.maxsize.saturating_sub(namespace.value_bytes));
    }
    for name in ["index", "data"] {
        field(&format!("{name}_disk_freespace_bytes"), &0);
        field(&format!("{name}_disk_freespace_mb"), &"0.00");
    }
    field("disk_full", &0);
    if admin {
        for (name, letter) in [("data", 'd'), ("index", 'i')] {
            field(&format!("{name}_path"), &name);
            field(&format!("{name}_active"), &format!("{name}/{letter}0"));
        }
        let (file, offset) = namespace.records.current();
        field("data_current_id", &file);
        field("data_current_offset", &offset);
    }
    text
}

/// The id with its bytes reversed, in hexadecimal without leading zeroes, but 8 digits at least.
fn next_internal_id(id: u64) -> String {
    format!("0x{:08x}", id.swap_bytes())
}
