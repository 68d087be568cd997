//! The commands that look at the server and its clients.

use super::{Answer, Command, Model, Session, map, open};
use crate::reply::Reply;
use bytes::Bytes;

pub(super) const COMMANDS: &[Command] = &[
    open("INFO", Model::info),
    open("CLIENT", Model::client),
    open("CONFIG", Model::config),
    open("COMMAND", Model::command),
];

const CLIENT_NAME_BYTES_MAX: usize = 256;

/// What these commands keep for the whole server.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Replies that no request of their connection waits for, with its id.
    pub pushed: Vec<(u64, Reply)>,
}

/// What these commands keep for one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Watcher {
    /// As CLIENT SETNAME or HELLO gave it.
    pub name: Bytes,
}

impl Model {
    /// Called after each known command, however it was answered: what others see of it goes into
    /// `Watch::pushed`.
    pub(super) fn show_watchers(&mut self, _: &Session, _command: &'static str, _: &[&[u8]]) {}

    pub(super) fn info(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::bulk(INFO))
    }

    pub(super) fn client(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let sub = arguments.get(1).ok_or("Missing arguments")?.to_ascii_uppercase();
        match (&sub[..], &arguments[2..]) {
            (b"SETINFO", [_, _]) => Ok(Reply::ok()),
            (b"SETNAME", [name]) => {
                check_client_name(name)?;
                session.watcher.name = Bytes::copy_from_slice(name);
                Ok(Reply::ok())
            }
            (b"GETNAME", []) if session.watcher.name.is_empty() => Ok(Reply::Nil),
            (b"GETNAME", []) => Ok(Reply::Bulk(session.watcher.name.clone())),
            (b"ID", []) => Ok(Reply::Integer(session.id as i64)),
            (b"LIST" | b"INFO", _) => Ok(Reply::bulk(format!(
                "id={} addr=model name={}\n",
                session.id,
                String::from_utf8_lossy(&session.watcher.name)
            ))),
            _ => Err("Unknown CLIENT subcommand"),
        }
    }

    pub(super) fn config(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match arguments {
            [_, sub, names @ ..] if sub.eq_ignore_ascii_case(b"GET") && !names.is_empty() => {
                let known = [("save", ""), ("appendonly", "yes")];
                let asked = known.into_iter().filter(|(known, _)| {
                    names
                        .iter()
                        .any(|name| *name == b"*" || name.eq_ignore_ascii_case(known.as_bytes()))
                });
                Ok(map(asked.map(|(name, value)| (name, Reply::bulk(value)))))
            }
            _ => Err("Unknown CONFIG subcommand"),
        }
    }

    pub(super) fn command(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let names: Vec<String> = Model::command_names().map(str::to_ascii_lowercase).collect();
        let entry = |name: &String| {
            let none = || Reply::Array(Vec::new());
            let number = Reply::Integer;
            Reply::Array(vec![
                Reply::bulk(name),
                number(-1),
                none(),
                number(0),
                number(0),
                number(0),
                none(),
            ])
        };
        let asked =
            |given: &&[u8]| names.iter().find(|name| given.eq_ignore_ascii_case(name.as_bytes()));
        let sub = arguments.get(1).map(|sub| sub.to_ascii_uppercase());
        match (sub.as_deref(), arguments.get(2..).unwrap_or_default()) {
            (None, _) | (Some(b"INFO"), []) => Ok(Reply::Array(names.iter().map(entry).collect())),
            (Some(b"COUNT"), []) => Ok(Reply::Integer(names.len() as i64)),
            (Some(b"INFO"), given) => Ok(Reply::Array(
                given.iter().map(|given| asked(given).map_or(Reply::Nil, entry)).collect(),
            )),
            (Some(b"DOCS"), given) => {
                let all = given.is_empty();
                let listed = names
                    .iter()
                    .filter(|name| all || given.iter().any(|given| asked(given) == Some(name)));
                Ok(map(listed.map(|name| (name.as_str(), map([("summary", Reply::bulk(name))])))))
            }
            _ => Err("Unknown COMMAND subcommand"),
        }
    }
}

/// The names that a client may have.
pub(super) fn check_client_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err("Argument too long");
    }
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err("Client names cannot contain spaces, newlines or special characters.");
    }
    Ok(())
}

/// The text of INFO; the model counts nothing.
const INFO: &str = "# server
server_name: 0-db (zdb)
server_revision: model
engine_revision: model
instance_id: 1
boot_time: 0
uptime: 0

# clients
clients_lifetime: 1

# internals
sequential_key_size: 8
data_version: 3
index_version: 4

# stats
commands_executed: 0
commands_failed: 0
commands_unauthorized: 0
index_disk_read_failed: 0
index_disk_write_failed: 0
data_disk_read_failed: 0
data_disk_write_failed: 0
index_disk_read_bytes: 0
index_disk_read_mb: 0.00
index_disk_write_bytes: 0
index_disk_write_mb: 0.00
data_disk_read_bytes: 0
data_disk_read_mb: 0.00
data_disk_write_bytes: 0
data_disk_write_mb: 0.00
network_rx_bytes: 0
network_rx_mb: 0.00
network_tx_bytes: 0
network_tx_mb: 0.00
";
