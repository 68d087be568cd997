//! REPLICAOF, ROLE and their kin, of one server without another.

use super::{Answer, Command, Model, Session, admin, open};
use crate::reply::Reply;
use crate::wire::check_of;
use std::collections::BTreeSet;

pub(super) const COMMANDS: &[Command] = &[
    admin("REPLICAOF", Model::replica_of),
    admin("SLAVEOF", Model::replica_of),
    admin("REPLCONF", Model::replconf),
    admin("PSYNC", Model::psync),
    open("ROLE", Model::role),
];

/// What a replica refuses.
const WRITES: &[&str] = &[
    "SET", "SETX", "DEL", "MSET", "SETNX", "UNLINK", "FLUSH", "NSNEW", "NSDEL", "NSSET", "NSJUMP",
];

/// What these commands keep for the whole server.
#[derive(Clone, Debug, Default)]
pub(super) struct Replicas {
    /// Whom the server follows.
    master: Option<(String, u16)>,
    /// Connections that said something of themselves.
    known: BTreeSet<u64>,
}

impl Model {
    /// Why nobody may write now.
    pub(super) fn refuse_writes(&self, command: &str) -> Result<(), &'static str> {
        if !WRITES.contains(&command) {
            return Ok(());
        }
        if self.replicas.master.is_some() {
            return Err("READONLY You can't write against a read only replica.");
        }
        if self.setting("min-replicas-to-write") != "0" {
            return Err("NOREPLICAS Not enough good replicas to write.");
        }
        Ok(())
    }

    fn replica_of(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let [_, host, port] = arguments else { return Err("Invalid arguments") };
        let wanted = if host.eq_ignore_ascii_case(b"NO") && port.eq_ignore_ascii_case(b"ONE") {
            None
        } else {
            let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
            let is_host = !host.is_empty() && host.iter().all(is_plain);
            let port = std::str::from_utf8(port).ok().and_then(|text| text.parse().ok());
            let port = port.filter(|port| is_host && host.len() < 256 && *port > 0);
            let error = "Invalid master: REPLICAOF takes a host and a port, or NO ONE";
            Some((String::from_utf8_lossy(host).into_owned(), port.ok_or(error)?))
        };
        let is_new = self.replicas.master != wanted;
        self.replicas.master = wanted;
        let text = if is_new { "OK" } else { "OK Already connected to specified master" };
        Ok(Reply::Simple(text.into()))
    }

    fn replconf(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let words = &arguments[1..];
        if words.is_empty() || !words.len().is_multiple_of(2) {
            return Err("Invalid arguments");
        }
        let has_check = words[words.len() - 2].eq_ignore_ascii_case(b"check");
        if has_check && !is_checked(arguments) {
            return Err("REPLCONF was damaged on its way");
        }
        self.replicas.known.insert(session.id());
        for pair in words.chunks_exact(2) {
            let value = std::str::from_utf8(pair[1]).unwrap_or_default();
            match &pair[0].to_ascii_lowercase()[..] {
                b"listening-port" if value.parse::<u16>().is_ok() => {}
                b"listening-port" => return Err("Invalid listening-port"),
                b"node" if u32::from_str_radix(value, 16).is_ok_and(|node| node != 0) => {}
                b"node" => return Err("Invalid node"),
                b"ack" if words.len() > 2 && !has_check => return Err("Invalid arguments"),
                b"ack" if value.parse::<u64>().is_ok() => {
                    session.silent = true;
                    return Ok(Reply::Nil);
                }
                b"ack" => return Err("Invalid position"),
                b"ip-address"
                    if value.is_empty()
                        || !value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') =>
                {
                    return Err("Invalid ip-address");
                }
                b"ip-address" | b"capa" | b"version" | b"check" => {}
                _ => {
                    let option = pair[0].escape_ascii();
                    return Ok(Reply::Error(format!("Unrecognized REPLCONF option: {option}")));
                }
            }
        }
        Ok(Reply::ok())
    }

    /// A request that is whole is answered by what the model does not have.
    fn psync(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if arguments.len() < 11 || !is_checked(arguments) {
            return Err(
                "PSYNC here is zdb's own: only another zdb can be a replica (REPLICAOF), of this version",
            );
        }
        if !self.replicas.known.contains(&session.id()) {
            return Err("REPLCONF comes before PSYNC");
        }
        Err("a replica has to name its node")
    }

    fn role(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        if arguments.len() != 1 {
            return Err("Unexpected arguments");
        }
        Ok(Reply::Array(match &self.replicas.master {
            None => vec![Reply::bulk("master"), Reply::Integer(0), Reply::Array(Vec::new())],
            Some((host, port)) => vec![
                Reply::bulk("slave"),
                Reply::bulk(host),
                Reply::Integer(i64::from(*port)),
                Reply::bulk("connect"),
                Reply::Integer(0),
            ],
        }))
    }
}

/// Whether the last word is right of those before it.
fn is_checked(words: &[&[u8]]) -> bool {
    words.split_last().is_some_and(|(check, words)| check_of(words).as_bytes() == *check)
}
