//! COMMAND: the table of commands, for client libraries and for the hints of redis-cli.

use super::table::{COMMANDS, Command};
use super::{Context, Outcome};
use crate::output::Output;
use crate::resp::{ReplyWriter, Request};

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
