//! SELECT and the NS commands.

use super::number::atoll;
use super::{Context, Outcome, auth};
use crate::engine::log::Refusal;
use crate::engine::namespace::{
    Access, DEFAULT_NAME, Keys, Mode, Namespace, Retention, Settings, Space,
};
use crate::limits::{
    NAMESPACE_NAME_BYTES_MAX, PROPERTY_NAME_BYTES_MAX, PROPERTY_VALUE_BYTES_MAX,
    SELECT_PASSWORD_BYTES_MAX,
};
use crate::output::Output;
use crate::resp::Request;
use std::fmt::Write;

pub const TOO_LONG: &str = "Namespace too long";
pub const NOT_FOUND: &str = "Namespace not found";
const BAD_HISTORY: &str = "Invalid property value (expected: forever, a number of versions up to 4294967294, \
                           or days from 1d to 36500d)";
/// 0-db counts the memory of its index this way, and clients show it.
const INDEX_BYTES_PER_KEY: u64 = 64;

pub fn select(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() < 2 {
        return context.error(out, "Invalid argument");
    }
    let name = request.get(1);
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    // Redis knows its databases by numbers, and clients choose the first unasked.
    let namespaces = &context.engine.namespaces;
    let found = namespaces.find(name);
    let default = || if name == b"0" { namespaces.find(DEFAULT_NAME) } else { None };
    let Some(slot) = found.or_else(default) else {
        return context.error(out, NOT_FOUND);
    };
    let namespace = context.engine.namespaces.get(slot).expect("found by name");
    let (id, origin) = (namespace.id, namespace.origin);
    let password = password_of(context, namespace);
    let writable = match password {
        None => true,
        Some(password) => match request.len() {
            2 if !namespace.settings.public => {
                return context.error(out, "Namespace protected and private");
            }
            2 => false,
            3 if request.get(2).len() > SELECT_PASSWORD_BYTES_MAX => {
                return context.error(out, "Password too long");
            }
            3 => match auth::check_password(context, &password, request.get(2)) {
                Ok(()) => true,
                Err(text) => return context.error(out, text),
            },
            4 => {
                if !b"SECURE".eq_ignore_ascii_case(request.get(2)) {
                    return context.error(out, "Only SECURE extra method supported");
                }
                if let Err(text) = auth::check_response(context, &password, request.get(3)) {
                    return context.error(out, text);
                }
                true
            }
            _ => return context.error(out, "Too many arguments"),
        },
    };
    context.session.slot = slot;
    context.session.namespace = id;
    context.session.origin = origin;
    context.session.writable = writable;
    context.ok(out)
}

/// With `--protect`, `default` has the admin's password; it is nowhere stored.
fn password_of(context: &Context<'_>, namespace: &Namespace) -> Option<Vec<u8>> {
    if context.server.protect && *namespace.name == *DEFAULT_NAME {
        return context.server.admin_password.clone();
    }
    namespace.settings.password.clone()
}

/// Answers where the log did not take a change.
fn refused(context: &Context<'_>, refusal: Refusal, text: &str, out: &mut Output) -> Outcome {
    match refusal {
        Refusal::Wait => Outcome::NeedsLog,
        Refusal::Failed => context.error(out, text),
    }
}

pub fn create(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let name = request.get(1);
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    if name.contains(&0) {
        return context.error(out, "Invalid argument");
    }
    if [b".", b"..".as_slice(), DEFAULT_NAME].contains(&name) || name.contains(&b'/') {
        return context.error(out, "This name is not allowed");
    }
    if context.engine.namespaces.find(name).is_some() {
        return context.error(out, "This namespace is not available");
    }
    let settings = Settings::new(context.server.mode.unwrap_or(Mode::User));
    match context.engine.create_namespace(name, settings) {
        Ok(end) => {
            context.ok(out);
            context.done_at(end)
        }
        Err(refusal) => refused(context, refusal, "Could not create namespace", out),
    }
}

pub fn remove(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let name = request.get(1);
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    if name == DEFAULT_NAME {
        return context.error(out, "Cannot remove default namespace");
    }
    let Some(slot) = context.engine.namespaces.find(name) else {
        return context.error(out, "This namespace doesn't exists");
    };
    if slot == context.session.slot {
        return context.error(out, "Cannot remove namespace you're currently using.");
    }
    match context.engine.remove_namespace(slot) {
        Ok(end) => {
            context.ok(out);
            context.done_at(end)
        }
        Err(refusal) => refused(context, refusal, "Could not delete this namespace", out),
    }
}

/// Ends everything in the current namespace, which must be private: one that anybody may write to is
/// not emptied by anybody.
pub fn flush(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let namespace = context.namespace();
    if namespace.settings.public || password_of(context, namespace).is_none() {
        return context.error(out, "Flushing public namespace denied");
    }
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    if context.namespace().settings.worm {
        return context.error(out, "Cannot delete a key when namespace is in worm mode");
    }
    match context.engine.flush_namespace(context.session.slot) {
        Ok(end) => {
            context.ok(out);
            context.done_at(end)
        }
        Err(refusal) => refused(context, refusal, "Internal Server Error", out),
    }
}

pub fn list(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let mut writer = context.writer(out);
    writer.array(context.engine.namespaces.len());
    for namespace in context.engine.namespaces.iter() {
        writer.bulk(&namespace.name);
    }
    Outcome::Done
}

pub fn set(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let (name, property, value) = (request.get(1), request.get(2), request.get(3));
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    if property.len() > PROPERTY_NAME_BYTES_MAX || value.len() > PROPERTY_VALUE_BYTES_MAX {
        return context.error(out, "Argument too long");
    }
    if value.contains(&0) {
        return context.error(out, "Invalid argument");
    }
    let Some(slot) = context.engine.namespaces.find(name) else {
        return context.error(out, NOT_FOUND);
    };
    let namespace = context.engine.namespaces.get(slot).expect("found by name");
    let mut settings = namespace.settings.clone();
    let yes = value[0] == b'1';
    match property {
        b"mode" => {
            if context.server.mode.is_some() {
                return context
                    .error(out, "This server instance is configured to use a single runtime mode");
            }
            if namespace.used {
                return context.error(out, "Cannot change mode of used namespace");
            }
            settings.mode = match value {
                b"user" => Mode::User,
                b"seq" => Mode::Sequential,
                _ => return context.error(out, "Invalid property value (expected: user, seq)"),
            };
        }
        b"lock" => settings.access = if yes { Access::Locked } else { Access::Open },
        b"freeze" => settings.access = if yes { Access::Frozen } else { Access::Open },
        // 0-db has no such property. Without it, the space of overwritten values of `default` would never
        // come back.
        b"history" => match Retention::parse(value) {
            Some(retention) => settings.retention = retention,
            None => return context.error(out, BAD_HISTORY),
        },
        _ if name == DEFAULT_NAME => {
            return context.error(out, "Cannot update default namespace");
        }
        b"maxsize" => settings.max_bytes = atoll(value),
        b"password" => settings.password = (value != b"*").then(|| value.to_vec()),
        b"public" => settings.public = yes,
        b"worm" => settings.worm = yes,
        _ => return context.error(out, "Invalid property"),
    }
    match context.engine.change_namespace(slot, settings) {
        Ok(end) => {
            context.ok(out);
            context.done_at(end)
        }
        Err(refusal) => refused(context, refusal, "Cannot write data right now", out),
    }
}

pub fn info(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let name = request.get(1);
    if name.len() > NAMESPACE_NAME_BYTES_MAX {
        return context.error(out, TOO_LONG);
    }
    let Some(slot) = context.engine.namespaces.find(name) else {
        return context.error(out, NOT_FOUND);
    };
    context.engine.refresh_free_space();
    let namespace = context.engine.namespaces.get(slot).expect("found by name");
    let text = describe(context, namespace).expect("writing to a string does not fail");
    context.writer(out).bulk(text.as_bytes());
    Outcome::Done
}

fn describe(context: &Context<'_>, namespace: &Namespace) -> Result<String, std::fmt::Error> {
    let settings = &namespace.settings;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let megabytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let index_bytes = namespace.live_keys * INDEX_BYTES_PER_KEY + namespace.key_bytes;
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "# namespace")?;
    writeln!(out, "name: {}", String::from_utf8_lossy(&namespace.name))?;
    writeln!(out, "entries: {}", namespace.live_keys)?;
    writeln!(out, "public: {}", yes_no(settings.public))?;
    writeln!(out, "worm: {}", yes_no(settings.worm))?;
    writeln!(out, "locked: {}", yes_no(settings.access != Access::Open))?;
    let password = password_of(context, namespace);
    writeln!(out, "password: {}", yes_no(password.is_some()))?;
    if context.session.is_master {
        let raw = password.unwrap_or_default();
        writeln!(out, "password_raw: {}", String::from_utf8_lossy(&raw))?;
    }
    writeln!(out, "data_size_bytes: {}", namespace.live_bytes)?;
    writeln!(out, "data_size_mb: {:.2}", megabytes(namespace.live_bytes))?;
    let max_bytes = context.engine.max_bytes(namespace);
    writeln!(out, "data_limits_bytes: {max_bytes}")?;
    writeln!(out, "index_size_bytes: {index_bytes}")?;
    writeln!(out, "index_size_kb: {:.2}", index_bytes as f64 / 1024.0)?;
    writeln!(out, "next_internal_id: {:#010x}", namespace.next_id().swap_bytes())?;
    let mode = match namespace.keys {
        Keys::User(_) => "userkey",
        Keys::Sequential(_) => "sequential",
    };
    writeln!(out, "mode: {mode}")?;
    writeln!(out, "history: {}", settings.retention)?;
    let Space { live, history, dead } = namespace.space();
    writeln!(out, "data_live_bytes: {live}")?;
    writeln!(out, "data_history_bytes: {history}")?;
    writeln!(out, "data_dead_bytes: {dead}")?;
    writeln!(out, "stats_index_io_errors: 0")?;
    writeln!(out, "stats_index_io_error_last: 0")?;
    writeln!(out, "stats_index_faults: 0")?;
    writeln!(out, "stats_data_io_errors: {}", namespace.read_errors + namespace.write_errors)?;
    let last = namespace.read_error_last.max(namespace.write_error_last);
    writeln!(out, "stats_data_io_error_last: {last}")?;
    writeln!(out, "stats_data_faults: 0")?;
    if max_bytes > 0 {
        let left = max_bytes.saturating_sub(namespace.live_bytes);
        writeln!(out, "space_available: {left}")?;
    }
    let (data, index) = context.engine.free_bytes;
    writeln!(out, "index_disk_freespace_bytes: {index}")?;
    writeln!(out, "index_disk_freespace_mb: {:.2}", megabytes(index))?;
    writeln!(out, "data_disk_freespace_bytes: {data}")?;
    writeln!(out, "data_disk_freespace_mb: {:.2}", megabytes(data))?;
    writeln!(out, "disk_full: {}", u8::from(context.engine.log.stats.disk_full))?;
    if context.session.admin {
        let log = &context.engine.log;
        let current = log.current();
        let (data_path, index_path) = (&context.server.data_path, &context.server.index_path);
        let names = (
            crate::engine::log::format::segment_name(current.base),
            crate::engine::log::format::sidecar_name(current.base),
        );
        writeln!(out, "data_path: {data_path}")?;
        writeln!(out, "data_active: {data_path}/{}", names.0)?;
        writeln!(out, "index_path: {index_path}")?;
        writeln!(out, "index_active: {index_path}/{}", names.1)?;
        writeln!(out, "data_current_id: {}", current.number)?;
        writeln!(out, "data_current_offset: {}", current.offset)?;
    }
    Ok(text)
}
