//! HELLO and CLIENT: what a client says of itself, and what an admin does with others.

use super::order::{ClientFilter, ClientType, Order};
use super::session::Replies;
use super::{Context, Outcome, auth, help};
use crate::limits::{CLIENT_NAME_BYTES_MAX, CLIENT_PAUSE_MS_MAX};
use crate::output::Output;
use crate::resp::{Protocol, Request};

pub fn hello(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let mut protocol = context.session.protocol;
    if request.len() > 1 {
        protocol = match request.get(1) {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            word if !word.is_empty() && word.iter().all(u8::is_ascii_digit) => {
                return context.error(out, "NOPROTO unsupported protocol version");
            }
            _ => return context.error(out, "Protocol version is not an integer or out of range"),
        };
    }
    let mut name = None;
    let mut login = None;
    let mut at = 2;
    while at < request.len() {
        let word = request.get(at);
        if word.eq_ignore_ascii_case(b"AUTH") && at + 2 < request.len() {
            login = Some((request.get(at + 1), request.get(at + 2)));
            at += 3;
        } else if word.eq_ignore_ascii_case(b"SETNAME") && at + 1 < request.len() {
            name = Some(request.get(at + 1));
            at += 2;
        } else {
            let word = super::shown(word);
            return context.error(out, &format!("Syntax error in HELLO option '{word}'"));
        }
    }
    if let Some(Err(text)) = name.map(check_client_name) {
        return context.error(out, text);
    }
    if let Some((user, password)) = login {
        let allowed = match user == auth::USER {
            true => auth::authenticate(context, password),
            false => Err("Access denied"),
        };
        match allowed {
            Ok(()) => {}
            Err("Access denied") => {
                let text = "WRONGPASS invalid username-password pair or user is disabled.";
                return context.error(out, text);
            }
            Err(text) => return context.error(out, text),
        }
    }
    if let Some(name) = name {
        context.session.name = name.to_vec();
    }
    context.session.protocol = protocol;
    let id = context.session.id as i64;
    let mut writer = context.writer(out);
    writer.map(7);
    let mut text = |name: &str, value: &str| {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    };
    text("server", "zdb");
    text("version", env!("CARGO_PKG_VERSION"));
    text("mode", "standalone");
    text("role", "master");
    writer.bulk(b"proto");
    writer.integer(match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    });
    writer.bulk(b"id");
    writer.integer(id);
    writer.bulk(b"modules");
    writer.array(0);
    Outcome::Done
}

fn check_client_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err("Argument too long");
    }
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err("Client names cannot contain spaces, newlines or special characters.");
    }
    Ok(())
}

pub fn client(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    if matches!(&word[..], b"LIST" | b"KILL" | b"PAUSE" | b"UNPAUSE") && !context.session.admin {
        context.server.stats.commands_unauthorized += 1;
        return context.error(out, "Permission denied");
    }
    match (word.as_slice(), request.len()) {
        (b"ID", 2) => context.writer(out).integer(context.session.id as i64),
        (b"GETNAME", 2) if context.session.name.is_empty() => context.writer(out).nil(),
        (b"GETNAME", 2) => {
            let name = context.session.name.clone();
            context.writer(out).bulk(&name);
        }
        (b"SETNAME", 3) => {
            if let Err(text) = check_client_name(request.get(2)) {
                return context.error(out, text);
            }
            context.session.name = request.get(2).to_vec();
            return context.ok(out);
        }
        (b"SETINFO", 4) => return set_info(context, request, out),
        (b"INFO", 2) => return Outcome::Order(Box::new(Order::Describe)),
        (b"LIST", _) => return list(context, request, out),
        (b"KILL", 3..) => return kill(context, request, out),
        (b"PAUSE", 3 | 4) => return pause(context, request, out),
        (b"UNPAUSE", 2) => return Outcome::Order(Box::new(Order::Unpause)),
        // Nothing is evicted and no key is touched here, so that both always hold.
        (b"NO-EVICT" | b"NO-TOUCH", 3) => {
            return match request.get(2).to_ascii_uppercase().as_slice() {
                b"ON" | b"OFF" => context.ok(out),
                _ => context.error(out, "Invalid argument"),
            };
        }
        (b"REPLY", 3) => return reply(context, request, out),
        (b"HELP", 2) => return context.help(out, help::CLIENT),
        (
            b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO" | b"KILL" | b"PAUSE"
            | b"UNPAUSE" | b"NO-EVICT" | b"NO-TOUCH" | b"REPLY" | b"HELP",
            _,
        ) => return context.error(out, "Unexpected arguments"),
        _ => return context.unknown_subcommand(out, request),
    }
    Outcome::Done
}

fn set_info(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let value = request.get(3);
    if let Err(text) = check_client_name(value) {
        return context.error(out, text);
    }
    match request.get(2).to_ascii_uppercase().as_slice() {
        b"LIB-NAME" => context.session.library_name = value.to_vec(),
        b"LIB-VER" => context.session.library_version = value.to_vec(),
        _ => return context.error(out, "Unrecognized option of CLIENT SETINFO"),
    }
    context.ok(out)
}

/// Client ids are numbers from 1 on.
fn client_id(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|id| *id > 0)
}

fn list(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let mut filter = ClientFilter::default();
    if request.len() > 2 {
        let word = request.get(2);
        if word.eq_ignore_ascii_case(b"TYPE") && request.len() == 4 {
            let Some(client_type) = ClientType::parse(request.get(3)) else {
                return context.error(out, &unknown_type(request.get(3)));
            };
            filter.client_type = Some(client_type);
        } else if word.eq_ignore_ascii_case(b"ID") && request.len() > 3 {
            for word in request.iter().skip(3) {
                let Some(id) = client_id(word) else {
                    return context.error(out, "Invalid client ID");
                };
                filter.ids.push(id);
            }
        } else {
            return context.error(out, "Unexpected arguments");
        }
    }
    Outcome::Order(Box::new(Order::List(filter)))
}

fn unknown_type(word: &[u8]) -> String {
    format!("Unknown client type '{}'", super::shown(word))
}

fn kill(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let mut filter = ClientFilter { not_me: true, ..ClientFilter::default() };
    if request.len() == 3 {
        filter.not_me = false;
        filter.address = Some(request.get(2).to_vec());
        return Outcome::Order(Box::new(Order::Kill { filter, old_form: true }));
    }
    if !request.len().is_multiple_of(2) {
        return context.error(out, "Unexpected arguments");
    }
    for at in (2..request.len()).step_by(2) {
        let value = request.get(at + 1);
        match request.get(at).to_ascii_uppercase().as_slice() {
            b"ID" => match client_id(value) {
                Some(id) => filter.ids.push(id),
                None => return context.error(out, "client-id should be greater than 0"),
            },
            b"ADDR" => filter.address = Some(value.to_vec()),
            b"LADDR" => filter.local_address = Some(value.to_vec()),
            b"TYPE" => match ClientType::parse(value) {
                Some(client_type) => filter.client_type = Some(client_type),
                None => return context.error(out, &unknown_type(value)),
            },
            b"USER" if value == auth::USER => {}
            b"USER" => {
                return context.error(out, &format!("No such user '{}'", super::shown(value)));
            }
            b"SKIPME" => match value.to_ascii_uppercase().as_slice() {
                b"YES" => filter.not_me = true,
                b"NO" => filter.not_me = false,
                _ => return context.error(out, "Invalid argument"),
            },
            b"MAXAGE" => match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(age_s) => filter.age_s_min = Some(age_s),
                None => return context.error(out, "maxage is not an integer or out of range"),
            },
            _ => return context.error(out, "Unexpected arguments"),
        }
    }
    Outcome::Order(Box::new(Order::Kill { filter, old_form: false }))
}

fn pause(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let ms = std::str::from_utf8(request.get(2)).ok().and_then(|text| text.parse::<u64>().ok());
    let Some(ms) = ms.filter(|ms| *ms <= CLIENT_PAUSE_MS_MAX) else {
        return context.error(out, "timeout is not an integer or out of range");
    };
    let all = match request.len() {
        3 => true,
        _ => match request.get(3).to_ascii_uppercase().as_slice() {
            b"ALL" => true,
            b"WRITE" => false,
            _ => return context.error(out, "CLIENT PAUSE mode must be WRITE or ALL"),
        },
    };
    Outcome::Order(Box::new(Order::Pause { ms, all }))
}

fn reply(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let replies = match request.get(2).to_ascii_uppercase().as_slice() {
        b"ON" => Replies::On,
        b"OFF" => Replies::Off,
        b"SKIP" if context.session.replies == Replies::Off => Replies::Off,
        b"SKIP" => Replies::SkipNext,
        _ => return context.error(out, "Invalid argument"),
    };
    context.session.replies = replies;
    match replies {
        Replies::On => context.ok(out),
        _ => Outcome::Done,
    }
}
