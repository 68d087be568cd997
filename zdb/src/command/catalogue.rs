//! COMMAND: the table of commands, for client libraries and for the hints of redis-cli.

use super::argument::{self, Argument};
use super::glob::matches;
use super::table::{Arity, COMMANDS, Command};
use super::{Context, Outcome, help};
use crate::output::Output;
use crate::resp::{ReplyWriter, Request};

pub fn command(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() == 1 {
        return info(context, request, out);
    }
    let word = request.get(1).to_ascii_uppercase();
    match (word.as_slice(), request.len()) {
        (b"COUNT", 2) => {
            context.writer(out).integer(COMMANDS.len() as i64);
            Outcome::Done
        }
        (b"LIST", _) => list(context, request, out),
        (b"INFO", _) => info(context, request, out),
        (b"DOCS", _) => docs(context, request, out),
        (b"GETKEYS", 3..) => get_keys(context, request, out),
        (b"HELP", 2) => context.help(out, help::COMMAND),
        (b"COUNT" | b"GETKEYS" | b"HELP", _) => context.error(out, "Unexpected arguments"),
        _ => context.unknown_subcommand(out, request),
    }
}

fn list(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let is = |at: usize, word: &[u8]| request.get(at).eq_ignore_ascii_case(word);
    let pattern = match request.len() {
        2 => b"*".to_vec(),
        5 if is(2, b"FILTERBY") && is(3, b"PATTERN") => request.get(4).to_ascii_lowercase(),
        _ => return context.error(out, "Unexpected arguments"),
    };
    let names =
        || COMMANDS.iter().map(|one| one.name).filter(|name| matches(&pattern, name.as_bytes()));
    let mut writer = context.writer(out);
    writer.array(names().count());
    names().for_each(|name| writer.bulk(name.as_bytes()));
    Outcome::Done
}

fn info(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let named: Vec<Option<&Command>> = match request.len() {
        ..=2 => COMMANDS.iter().map(Some).collect(),
        _ => request.iter().skip(2).map(|name| context.server.table.find(name)).collect(),
    };
    let mut writer = context.writer(out);
    writer.array(named.len());
    for command in named {
        match command {
            Some(command) => write_info(&mut writer, command),
            None => writer.nil(),
        }
    }
    Outcome::Done
}

fn docs(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let named: Vec<&Command> = match request.len() {
        2 => COMMANDS.iter().collect(),
        _ => request.iter().skip(2).filter_map(|name| context.server.table.find(name)).collect(),
    };
    let mut writer = context.writer(out);
    writer.map(named.len());
    named.into_iter().for_each(|command| write_docs(&mut writer, command));
    Outcome::Done
}

fn get_keys(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let Some(command) = context.server.table.find(request.get(2)) else {
        return context.error(out, "Invalid command specified");
    };
    // Counted in the request that is asked about, whose name is argument 2 of this one.
    let count = request.len() as i64 - 2;
    let (first, last, step) = command.keys;
    if step == 0 {
        return context.error(out, "The command has no key arguments");
    }
    let fits = match command.arity {
        Arity::Any => true,
        Arity::Exact(words) => count == words as i64,
        Arity::AtLeast(words) => count >= words as i64,
    };
    let last = if last < 0 { count + last } else { last };
    if !fits || last < first || last >= count {
        return context.error(out, "Invalid number of arguments specified for command");
    }
    let keys = || (first..=last).step_by(step as usize).map(|at| request.get(at as usize + 2));
    let mut writer = context.writer(out);
    writer.array(keys().count());
    keys().for_each(|key| writer.bulk(key));
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
    let arguments = argument::parse(command.arguments);
    writer.map(3 + usize::from(!arguments.is_empty()));
    for (name, value) in
        [("summary", command.summary), ("since", "0.1.0"), ("group", command.group)]
    {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        writer.bulk(b"arguments");
        write_arguments(writer, &arguments);
    }
}

fn write_arguments(writer: &mut ReplyWriter<'_>, arguments: &[Argument]) {
    writer.array(arguments.len());
    for argument in arguments {
        let flags: Vec<&str> =
            [(argument.is_optional, "optional"), (argument.is_multiple, "multiple")]
                .into_iter()
                .filter_map(|(is_set, flag)| is_set.then_some(flag))
                .collect();
        let has_token = usize::from(argument.token.is_some());
        let has_parts = usize::from(!argument.parts.is_empty());
        writer.map(2 + has_token + usize::from(!flags.is_empty()) + has_parts);
        for (name, value) in [
            ("name", Some(argument.name.as_str())),
            ("type", Some(argument.kind())),
            ("token", argument.token.as_deref()),
        ] {
            if let Some(value) = value {
                writer.bulk(name.as_bytes());
                writer.bulk(value.as_bytes());
            }
        }
        if !flags.is_empty() {
            writer.bulk(b"flags");
            writer.array(flags.len());
            flags.iter().for_each(|flag| writer.simple(flag));
        }
        if !argument.parts.is_empty() {
            writer.bulk(b"arguments");
            write_arguments(writer, &argument.parts);
        }
    }
}
