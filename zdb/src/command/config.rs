//! CONFIG: the settings of the running server.

use super::glob::matches;
use super::settings::{self, SETTINGS, Setting, Settings};
use super::task::TaskKind;
use super::{Context, Outcome, help};
use crate::engine::cleaner::Options;
use crate::limits::UNKNOWN_REPLY_BYTES;
use crate::output::Output;
use crate::resp::Request;

/// The file in `--data` that CONFIG REWRITE writes and a start reads.
pub const FILE_NAME: &str = "zdb.conf";

pub fn config(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"GET", 3..) => get(context, request, out),
        (b"SET", 4..) if request.len().is_multiple_of(2) => match changed(context, request) {
            Ok(settings) => {
                context.change_settings(settings);
                context.ok(out)
            }
            Err(text) => context.error(out, &text),
        },
        (b"REWRITE", 2) => rewrite(context),
        (b"RESETSTAT", 2) => {
            context.server.latencies.reset();
            let stats = &mut context.server.stats;
            *stats = super::ServerStats { clients_now: stats.clients_now, ..Default::default() };
            context.server.rates.reset();
            context.ok(out)
        }
        (b"HELP", 2) => context.help(out, help::CONFIG),
        (b"GET", 2) => context.error(out, "Missing arguments"),
        (b"GET" | b"SET" | b"REWRITE" | b"RESETSTAT" | b"HELP", _) => {
            context.error(out, "Unexpected arguments")
        }
        _ => context.unknown_subcommand(out, request),
    }
}

fn get(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let server = &context.server;
    let wanted = |name: &str| {
        request
            .iter()
            .skip(2)
            .any(|pattern| matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let fixed = server.fixed_settings.iter().map(|(name, value)| (*name, value.clone()));
    let changing = SETTINGS.iter().map(|setting| (setting.name, (setting.get)(&server.settings)));
    let mut found: Vec<(&str, String)> =
        fixed.chain(changing).filter(|(name, _)| wanted(name)).collect();
    found.sort();
    let mut writer = context.writer(out);
    writer.map(found.len());
    for (name, value) in found {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    Outcome::Done
}

/// The settings as CONFIG SET wants them.
fn changed(context: &Context<'_>, request: Request<'_>) -> Result<Settings, String> {
    let mut settings = context.server.settings.clone();
    for at in (2..request.len()).step_by(2) {
        let name = request.get(at);
        let setting = find(context, name)?;
        if setting.name == "replicaof" {
            return Err("replicaof is changed by REPLICAOF".into());
        }
        let value = std::str::from_utf8(request.get(at + 1)).unwrap_or("\u{fffd}");
        settings.set(setting, value)?;
    }
    let possible = context.server.clients_possible;
    if settings.clients_max > possible {
        return Err(format!(
            "maxclients can be {possible} at most: raise the limit of open files (ulimit -n)"
        ));
    }
    Ok(settings)
}

fn find(context: &Context<'_>, name: &[u8]) -> Result<&'static Setting, String> {
    if let Some(setting) = settings::find(name) {
        return Ok(setting);
    }
    let text = String::from_utf8_lossy(name).to_ascii_lowercase();
    if text == "requirepass" {
        return Err(
            "requirepass cannot be changed while the server runs (it is the flag --admin)".into()
        );
    }
    match context.server.fixed_settings.iter().any(|(fixed, _)| *fixed == text) {
        true => Err(format!("{text} cannot be changed while the server runs")),
        false => Err(format!("Unknown setting: {}", super::shown(name))),
    }
}

fn rewrite(context: &mut Context<'_>) -> Outcome {
    let waiter = context.add_task(TaskKind::WriteFile);
    let text = context.server.settings.to_file();
    context.engine.write_file(waiter, FILE_NAME, text.into_bytes());
    Outcome::Later { bytes: UNKNOWN_REPLY_BYTES, alone: false }
}

impl Context<'_> {
    /// Puts settings in force.
    fn change_settings(&mut self, settings: Settings) {
        let before = std::mem::replace(&mut self.server.settings, settings);
        let settings = &self.server.settings;
        if settings.policy != before.policy {
            self.engine.set_policy(settings.policy);
        }
        if settings.cache_bytes != before.cache_bytes {
            self.engine.cache.resize(settings.cache_bytes);
        }
        if settings.default_bytes_max != before.default_bytes_max {
            self.engine.limit_default(settings.default_bytes_max);
        }
        if settings.rotate_s != before.rotate_s {
            self.engine.log.set_rotation(settings.rotate_s * 1000);
        }
        let options = Options { is_on: settings.cleaner, rate_bytes: settings.cleaner_rate_bytes };
        self.engine.cleaner.options = options;
        if (settings.scrub_rate, settings.scrub_days) != (before.scrub_rate, before.scrub_days) {
            self.engine.scrub.set(settings.scrub_rate, settings.scrub_days);
        }
        self.server.slow_log.shorten(settings.slowlog_entries_max);
    }
}
