//! The commands on the connection and on the server.

use super::{Answer, COMMANDS, Model, Session};
use crate::reply::Reply;
use bytes::Bytes;
use sha1::{Digest, Sha1};

const ADMIN_PASSWORD_BYTES_MAX: usize = 128;
const HASH_BYTES: usize = 40;

/// What a client must answer to a challenge.
pub fn secure_answer(challenge: &[u8], password: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(challenge);
    hash.update(b":");
    hash.update(password);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the answer to the challenge, which is used up unless the answer is no hash at all.
pub(super) fn challenge_answer(
    session: &mut Session,
    answer: &[u8],
    password: &[u8],
) -> Result<(), &'static str> {
    if session.challenge.is_none() {
        return Err("No CHALLENGE requested, secure authentication not available");
    }
    if answer.len() != HASH_BYTES {
        return Err("Invalid hash length");
    }
    let challenge = session.challenge.take().expect("it was there");
    if answer != secure_answer(challenge.as_bytes(), password).as_bytes() {
        return Err("Access denied");
    }
    Ok(())
}

impl Model {
    pub(super) fn auth(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let password = self.options.admin.clone();
        match arguments {
            [_, given] => {
                let password = password.ok_or("Authentication disabled")?;
                if given.is_empty() {
                    return Err("Invalid argument");
                }
                if given.len() > ADMIN_PASSWORD_BYTES_MAX {
                    return Err("Password too long");
                }
                if *given != password.as_bytes() {
                    return Err("Access denied");
                }
            }
            [_, method, second] => {
                if method.is_empty() || second.is_empty() {
                    return Err("Invalid argument");
                }
                if *method == b"default" {
                    return self.auth(session, &[b"AUTH", second]);
                }
                if !method.eq_ignore_ascii_case(b"SECURE") {
                    return Err("Only SECURE extra method supported");
                }
                if second.eq_ignore_ascii_case(b"CHALLENGE") {
                    self.challenge_count += 1;
                    // An odd factor: distinct counts give distinct challenges.
                    let challenge = self.challenge_count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let challenge = format!("{challenge:016x}");
                    session.challenge = Some(challenge.clone());
                    return Ok(Reply::Simple(challenge));
                }
                let password = password.ok_or("Authentication disabled")?;
                challenge_answer(session, second, password.as_bytes())?;
            }
            _ => return Err("Unexpected arguments"),
        }
        session.admin = true;
        session.authenticated = true;
        Ok(Reply::ok())
    }

    pub(super) fn stop(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        if self.options.admin.is_some() && !session.authenticated {
            return Err("Unauthorized");
        }
        self.stopped = true;
        session.closed = true;
        Ok(Reply::Simple("Stopping".into()))
    }

    pub(super) fn time(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::Array(vec![
            Reply::bulk(self.now.as_secs().to_string()),
            Reply::bulk(self.now.subsec_micros().to_string()),
        ]))
    }

    pub(super) fn info(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::bulk(INFO))
    }

    pub(super) fn echo(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match arguments {
            [_, message] => Ok(Reply::bulk(message)),
            _ => Err("Unexpected arguments"),
        }
    }

    pub(super) fn quit(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        session.closed = true;
        Ok(Reply::ok())
    }

    pub(super) fn hello(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let protocol = match arguments.get(1) {
            None => session.protocol,
            Some(&b"2") => 2,
            Some(&b"3") => 3,
            Some(_) => return Err("NOPROTO unsupported protocol version"),
        };
        let mut name = None;
        let mut rest = arguments.get(2..).unwrap_or_default();
        while !rest.is_empty() {
            rest = match rest {
                [option, _user, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    self.auth(session, &[b"AUTH", password])?;
                    rest
                }
                [option, given, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                    name = Some(Bytes::copy_from_slice(given));
                    rest
                }
                _ => return Err("Invalid arguments"),
            };
        }
        session.protocol = protocol;
        session.name = name.unwrap_or_else(|| session.name.clone());
        let fields = [
            ("server", Reply::bulk("zdb")),
            ("version", Reply::bulk(env!("CARGO_PKG_VERSION"))),
            ("proto", Reply::Integer(protocol.into())),
            ("id", Reply::Integer(session.id as i64)),
            ("mode", Reply::bulk("standalone")),
            ("role", Reply::bulk("master")),
            ("modules", Reply::Array(Vec::new())),
        ];
        Ok(map(fields))
    }

    pub(super) fn client(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let sub = arguments.get(1).ok_or("Missing arguments")?.to_ascii_uppercase();
        match (&sub[..], &arguments[2..]) {
            (b"SETINFO", [_, _]) => Ok(Reply::ok()),
            (b"SETNAME", [name]) if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) => {
                Err("Invalid argument")
            }
            (b"SETNAME", [name]) => {
                session.name = Bytes::copy_from_slice(name);
                Ok(Reply::ok())
            }
            (b"GETNAME", []) if session.name.is_empty() => Ok(Reply::Nil),
            (b"GETNAME", []) => Ok(Reply::Bulk(session.name.clone())),
            (b"ID", []) => Ok(Reply::Integer(session.id as i64)),
            (b"LIST" | b"INFO", _) => Ok(Reply::bulk(format!(
                "id={} addr=model name={}\n",
                session.id,
                String::from_utf8_lossy(&session.name)
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
        let names: Vec<String> =
            COMMANDS.iter().map(|command| command.name.to_ascii_lowercase()).collect();
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

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Reply)>) -> Reply {
    Reply::Map(pairs.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect())
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
