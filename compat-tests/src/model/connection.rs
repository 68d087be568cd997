//! The commands on the connection and on the server.

use super::watch::check_client_name;
use super::{Answer, Command, Model, Session, map, open};
use crate::reply::Reply;
use bytes::Bytes;
use sha1::{Digest, Sha1};

pub(super) const COMMANDS: &[Command] = &[
    open("PING", Model::ping),
    open("TIME", Model::time),
    open("AUTH", Model::auth),
    open("HELLO", Model::hello),
    open("ECHO", Model::echo),
    open("QUIT", Model::quit),
];

const ADMIN_PASSWORD_BYTES_MAX: usize = 128;
const HASH_BYTES: usize = 40;
/// The only user there is.
const USER: &[u8] = b"default";
/// Wrong passwords that are looked at at once.
const FAILURES_MAX: f64 = 32.0;

/// What a client must answer to a challenge.
pub fn secure_answer(challenge: &[u8], password: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(challenge);
    hash.update(b":");
    hash.update(password);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Session {
    fn become_admin(&mut self) -> Answer {
        self.admin = true;
        self.authenticated = true;
        Ok(Reply::ok())
    }
}

impl Model {
    pub(super) fn auth(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        match arguments {
            [_, password] => self.authenticate(session, password),
            [_, first, second] if first.is_empty() || second.is_empty() => Err("Invalid argument"),
            [_, USER, password] => self.authenticate(session, password),
            [_, method, _] if !method.eq_ignore_ascii_case(b"SECURE") => {
                Err("Only SECURE extra method supported")
            }
            [_, _, word] if word.eq_ignore_ascii_case(b"CHALLENGE") => {
                self.challenge_count += 1;
                // An odd factor: distinct counts give distinct challenges.
                let challenge = self.challenge_count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let challenge = format!("{challenge:016x}");
                session.challenge = Some(challenge.clone());
                Ok(Reply::Simple(challenge))
            }
            [_, _, answer] => {
                let password = self.options.admin.clone().ok_or("Authentication disabled")?;
                self.check_answer(session, answer, password.as_bytes())?;
                session.become_admin()
            }
            _ => Err("Unexpected arguments"),
        }
    }

    fn authenticate(&mut self, session: &mut Session, given: &[u8]) -> Answer {
        let password = self.options.admin.clone().ok_or("Authentication disabled")?;
        if given.is_empty() {
            return Err("Invalid argument");
        }
        if given.len() > ADMIN_PASSWORD_BYTES_MAX {
            return Err("Password too long");
        }
        self.check_password(given, password.as_bytes())?;
        session.become_admin()
    }

    /// Looks at a password, unless too many were wrong of late. The model's clients are one peer.
    pub(super) fn check_password(
        &mut self,
        given: &[u8],
        password: &[u8],
    ) -> Result<(), &'static str> {
        // Each failure fills the bucket by one, each second empties it by one.
        let passed = self.now.saturating_sub(self.failures_at).as_secs_f64();
        let failures = (self.failures - passed).max(0.0);
        if failures > FAILURES_MAX - 1.0 {
            return Err("Too many failed passwords, try again later");
        }
        if given != password {
            (self.failures, self.failures_at) = (failures + 1.0, self.now);
            return Err("Access denied");
        }
        Ok(())
    }

    /// Checks the answer to the challenge, which is used up unless the answer is no hash at all.
    pub(super) fn check_answer(
        &mut self,
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
        self.check_password(answer, secure_answer(challenge.as_bytes(), password).as_bytes())
    }

    /// Between messages it looks like one.
    fn ping(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if !self.hears_messages_only(session) {
            return Ok(Reply::Simple("PONG".into()));
        }
        let message = arguments.get(1).copied().unwrap_or_default();
        Ok(Reply::Array(vec![Reply::bulk("pong"), Reply::bulk(message)]))
    }

    pub(super) fn time(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        Ok(Reply::Array(vec![
            Reply::bulk(self.now.as_secs().to_string()),
            Reply::bulk(self.now.subsec_micros().to_string()),
        ]))
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
            Some(word) if word.iter().all(u8::is_ascii_digit) => {
                return Err("NOPROTO unsupported protocol version");
            }
            Some(_) => return Err("Protocol version is not an integer or out of range"),
        };
        let mut name = None;
        let mut login = None;
        let mut rest = arguments.get(2..).unwrap_or_default();
        while let [option, ..] = rest {
            rest = match rest {
                [_, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    login = Some((*user, *password));
                    rest
                }
                [_, given, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                    name = Some(Bytes::copy_from_slice(given));
                    rest
                }
                _ => {
                    let option = String::from_utf8_lossy(option);
                    return Err(format!("Syntax error in HELLO option '{option}'").leak());
                }
            };
        }
        if let Some(name) = &name {
            check_client_name(name)?;
        }
        if let Some((user, password)) = login {
            let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
            if user != USER {
                return Err(wrong);
            }
            self.authenticate(session, password).map_err(|error| match error {
                "Access denied" => wrong,
                other => other,
            })?;
        }
        session.protocol = protocol;
        session.watcher.name = name.unwrap_or_else(|| session.watcher.name.clone());
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
}
