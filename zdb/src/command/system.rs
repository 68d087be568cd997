//! Commands about the server and the connection.

use super::table::{COMMANDS, Command};
use super::{Context, Outcome, Session, auth};
use crate::engine::log::Policy;
use crate::limits::{CLIENT_NAME_BYTES_MAX, OUTPUT_BYTES_MAX, PUSH_OUTPUT_BYTES_MAX};
use crate::output::Output;
use crate::resp::{Protocol, ReplyWriter, Request};
use std::fmt::Write;

pub fn ping(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.writer(out).simple("PONG");
    Outcome::Done
}

pub fn echo(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 2 {
        return context.error(out, "Unexpected arguments");
    }
    context.writer(out).bulk(request.get(1));
    Outcome::Done
}

pub fn quit(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.ok(out);
    Outcome::Close
}

pub fn dbsize(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    context.writer(out).integer(context.namespace().live_keys as i64);
    Outcome::Done
}

pub fn time(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let now = context.engine.now.unix_us;
    let mut writer = context.writer(out);
    writer.array(2);
    writer.bulk((now / 1_000_000).to_string().as_bytes());
    writer.bulk((now % 1_000_000).to_string().as_bytes());
    Outcome::Done
}

/// Whoever could start the server may stop it: an admin with the password or, on a server without
/// one, somebody on this machine.
pub fn stop(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let session = &context.session;
    let allowed =
        if context.server.admin_password.is_some() { session.authenticated } else { session.local };
    if !allowed {
        return context.error(out, "Unauthorized");
    }
    context.writer(out).simple("Stopping");
    Outcome::Stop
}

// -------------------------------------------------------------------- INFO

pub fn info(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let text = describe(context).expect("writing to a string does not fail");
    context.writer(out).bulk(text.as_bytes());
    Outcome::Done
}

fn describe(context: &Context<'_>) -> Result<String, std::fmt::Error> {
    let server = &context.server;
    let engine = &context.engine;
    let stats = &server.stats;
    let log = &engine.log.stats;
    let mut text = String::new();
    let out = &mut text;
    let version = env!("CARGO_PKG_VERSION");
    let mut field = |name: &str, value: &dyn std::fmt::Display| writeln!(out, "{name}: {value}");
    let both =
        |name: &str,
         bytes: u64,
         field: &mut dyn FnMut(&str, &dyn std::fmt::Display) -> std::fmt::Result| {
            field(&format!("{name}_bytes"), &bytes)?;
            field(&format!("{name}_mb"), &format_args!("{:.2}", bytes as f64 / (1 << 20) as f64))
        };
    field("# server\nserver_name", &"zdb")?;
    field("server_revision", &version)?;
    field("engine_revision", &version)?;
    field("instance_id", &server.instance_id)?;
    field("boot_time", &server.boot_s)?;
    field("uptime", &engine.now.unix_s().saturating_sub(server.boot_s))?;
    field("\n# clients\nclients_lifetime", &stats.clients_lifetime)?;
    field("connected_clients", &stats.clients_now)?;
    field("maxclients", &server.clients_max)?;
    field("timeout_s", &server.timeout_s)?;
    field("output_bytes_max", &OUTPUT_BYTES_MAX)?;
    field("push_output_bytes_max", &PUSH_OUTPUT_BYTES_MAX)?;
    field("rejected_connections", &stats.rejected_connections)?;
    field("timed_out_connections", &stats.timed_out_connections)?;
    field("output_limit_disconnections", &stats.output_limit_disconnections)?;
    field("tls_handshakes", &stats.tls_handshakes)?;
    field("tls_handshakes_failed", &stats.tls_handshakes_failed)?;
    field("passwords_wrong", &stats.passwords_wrong)?;
    field("passwords_not_looked_at", &stats.passwords_not_looked_at)?;
    field("\n# internals\nsequential_key_size", &8)?;
    field("data_version", &crate::engine::log::format::VERSION)?;
    field("index_version", &1)?;
    field("\n# stats\ncommands_executed", &stats.commands)?;
    field("commands_failed", &stats.commands_failed)?;
    field("commands_unauthorized", &stats.commands_unauthorized)?;
    field("index_disk_read_failed", &engine.stats.index_read_errors)?;
    field("index_disk_write_failed", &0)?;
    field("data_disk_read_failed", &engine.stats.read_errors)?;
    field("data_disk_write_failed", &log.write_errors)?;
    both("index_disk_read", engine.stats.index_read_bytes, &mut field)?;
    both("index_disk_write", log.sidecar_bytes, &mut field)?;
    both("data_disk_read", engine.stats.read_bytes, &mut field)?;
    both("data_disk_write", log.written_bytes, &mut field)?;
    both("network_rx", stats.received_bytes, &mut field)?;
    both("network_tx", stats.sent_bytes, &mut field)?;
    let policy = match engine.log.policy {
        Policy::Always => "always",
        Policy::Every { .. } => "everysec",
        Policy::No => "no",
    };
    field("\n# engine\nsync_policy", &policy)?;
    field("log_record_bytes", &log.record_bytes)?;
    field("log_zeroed_bytes", &log.zeroed_bytes)?;
    field("log_writes", &log.writes)?;
    field("log_flushes", &log.flushes)?;
    field("log_segments", &engine.log.segments.list().len())?;
    field("log_position", &engine.log.appended())?;
    field("log_broken", &engine.log.broken().unwrap_or("no"))?;
    field("index_memory_bytes", &engine.index_bytes())?;
    field("cache_bytes", &engine.cache.bytes())?;
    field("cache_records", &engine.cache.len())?;
    let keys: u64 = engine.namespaces.iter().map(|namespace| namespace.live_keys).sum();
    field("namespaces", &engine.namespaces.len())?;
    field("keys", &keys)?;
    Ok(text)
}

// -------------------------------------------------------------------- what Redis tools send

pub fn hello(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let mut at = 1;
    let mut protocol = context.session.protocol;
    if request.len() > 1 {
        protocol = match request.get(1) {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            _ => return context.error(out, "NOPROTO unsupported protocol version"),
        };
        at = 2;
    }
    let mut name = None;
    while at < request.len() {
        let word = request.get(at);
        if word.eq_ignore_ascii_case(b"AUTH") && at + 2 < request.len() {
            if request.get(at + 1) != auth::USER {
                return context.error(out, "WRONGPASS the only user is default");
            }
            if let Err(text) = auth::authenticate(context, request.get(at + 2)) {
                return context.error(out, text);
            }
            at += 3;
        } else if word.eq_ignore_ascii_case(b"SETNAME") && at + 1 < request.len() {
            name = Some(request.get(at + 1));
            at += 2;
        } else {
            return context.error(out, "Syntax error in HELLO");
        }
    }
    if let Some(name) = name {
        if let Err(text) = check_client_name(name) {
            return context.error(out, text);
        }
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
        (b"SETINFO", 4) => {
            let value = request.get(3);
            if let Err(text) = check_client_name(value) {
                return context.error(out, text);
            }
            match request.get(2).to_ascii_uppercase().as_slice() {
                b"LIB-NAME" => context.session.library_name = value.to_vec(),
                b"LIB-VER" => context.session.library_version = value.to_vec(),
                _ => return context.error(out, "Unrecognized option of CLIENT SETINFO"),
            }
            return context.ok(out);
        }
        (b"INFO", 2) => {
            let namespace = &context.namespace().name;
            let line = client_line(context.session, namespace, context.engine.now.unix_s());
            context.writer(out).bulk(line.as_bytes());
        }
        (b"LIST", 2) => return Outcome::ListClients,
        (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO" | b"LIST", _) => {
            return context.error(out, "Unexpected arguments");
        }
        _ => {
            return context.error(
                out,
                "Unknown CLIENT subcommand (SETINFO, SETNAME, GETNAME, ID, LIST and INFO are there)",
            );
        }
    }
    Outcome::Done
}

/// One line of CLIENT LIST, with Redis's names for the fields.
pub fn client_line(session: &Session, namespace: &[u8], now_s: u64) -> String {
    format!(
        "id={} addr={} name={} age={} idle={} ns={} cmd={} resp={} lib-name={} lib-ver={}\n",
        session.id,
        session.peer,
        String::from_utf8_lossy(&session.name),
        now_s.saturating_sub(session.connected_s),
        now_s.saturating_sub(session.last_command_s),
        String::from_utf8_lossy(namespace).escape_default(),
        session.last_command,
        if session.protocol == Protocol::Resp3 { 3 } else { 2 },
        String::from_utf8_lossy(&session.library_name),
        String::from_utf8_lossy(&session.library_version),
    )
}

pub fn command(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word =
        if request.len() > 1 { request.get(1).to_ascii_uppercase() } else { b"INFO".to_vec() };
    let named: Vec<Option<&Command>> = if request.len() > 2 {
        request.iter().skip(2).map(|name| context.server.table.find(name)).collect()
    } else {
        COMMANDS.iter().map(Some).collect()
    };
    let mut writer = context.writer(out);
    match word.as_slice() {
        b"COUNT" => writer.integer(COMMANDS.len() as i64),
        b"LIST" => {
            writer.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| writer.bulk(command.name.as_bytes()));
        }
        b"INFO" => {
            writer.array(named.len());
            for command in named {
                match command {
                    Some(command) => write_info(&mut writer, command),
                    None => writer.nil(),
                }
            }
        }
        b"DOCS" => {
            let named: Vec<&Command> = named.into_iter().flatten().collect();
            writer.map(named.len());
            named.into_iter().for_each(|command| write_docs(&mut writer, command));
        }
        _ => {
            return context
                .error(out, "Unknown COMMAND subcommand (COUNT, DOCS, INFO and LIST are there)");
        }
    }
    Outcome::Done
}

/// The ten fields of Redis 7: after the keys come categories, tips, key specifications, subcommands.
fn write_info(writer: &mut ReplyWriter<'_>, command: &Command) {
    writer.array(10);
    writer.bulk(command.name.as_bytes());
    writer.integer(command.arity.redis());
    writer.array(command.flags.len());
    command.flags.iter().for_each(|flag| writer.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|number| writer.integer(number));
    (0..4).for_each(|_| writer.array(0));
}

fn write_docs(writer: &mut ReplyWriter<'_>, command: &Command) {
    writer.bulk(command.name.as_bytes());
    let arguments: Vec<&str> =
        if command.arguments.is_empty() { Vec::new() } else { vec![command.arguments] };
    writer.map(4);
    for (name, value) in
        [("summary", command.summary), ("since", "0.1.0"), ("group", command.group)]
    {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    writer.bulk(b"arguments");
    writer.array(arguments.len());
    for text in arguments {
        writer.map(3);
        for (name, value) in [("name", text), ("type", "string"), ("display_text", text)] {
            writer.bulk(name.as_bytes());
            writer.bulk(value.as_bytes());
        }
    }
}

pub fn config(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !request.get(1).eq_ignore_ascii_case(b"GET") {
        return context
            .error(out, "CONFIG can only GET: settings are the flags of the command line");
    }
    if request.len() < 3 {
        return context.error(out, "Missing arguments");
    }
    let found: Vec<&(&str, String)> = context
        .server
        .settings
        .iter()
        .filter(|(name, _)| request.iter().skip(2).any(|pattern| matches(pattern, name.as_bytes())))
        .collect();
    let mut writer = context.writer(out);
    writer.map(found.len());
    for (name, value) in found {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    Outcome::Done
}

/// `*` and `?` in a pattern, letters in any case.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last star was, and how much text it had taken: the only place to go back to.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("save", "save", true),
            ("S*", "save", true),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?ave", "save", true),
            ("sav", "save", false),
            ("", "save", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
