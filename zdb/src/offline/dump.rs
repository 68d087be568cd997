//! `zdb dump`: the log as text or JSON, record by record.

use super::known;
use super::output::{Lines, Object};
use super::stored::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use super::{EXIT_DAMAGED, EXIT_WHOLE, Places};
use crate::engine::chain::Link;
use crate::engine::log::format::{self, FLAG_ID, FLAG_MEMBER, FLAG_UNVERIFIED, Head, Kind};
use crate::engine::log::packed::Residue;
use crate::engine::namespace::{DEFAULT_ID, Mode, Settings};
use crate::engine::sequential_id;
use clap::Parser;
use std::collections::HashMap;

/// Prints the log of a stopped server, record by record. Nothing is changed.
#[derive(Parser)]
#[command(
    name = "zdb dump",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "A line of text shows position, sequence, time (Unix seconds), namespace, kind, flags (b: in a batch, u: of a \
                  key that was found by its hash alone), length of the value, position of the version before, and the \
                  key, escaped as in Rust. With --json, keys and values are in key_hex and value_hex, two hexadecimal \
                  digits for each byte, and in key and value where they are UTF-8. Damaged parts are lines of their own. \
                  Passwords of namespaces are not shown.\n\n\
                  Exit codes: 0 all that was asked for is whole; 1 some of it is damaged; 2 it could not be done.\n\n\
                  Example: zdb dump --data /disk1/data --index /disk1/index --namespace photos --limit 20"
)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Only this segment: the name of its file.
    #[arg(long, value_name = "NAME", value_parser = parse_segment)]
    segment: Option<u64>,
    /// Only records of this namespace.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Print keys alone.
    #[arg(long, conflicts_with = "payload")]
    keys_only: bool,
    /// Print values too.
    #[arg(long)]
    payload: bool,
    /// Begin at this position of the log.
    #[arg(long, value_name = "POSITION", default_value = "0")]
    from: u64,
    /// End after so many records.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

fn parse_segment(text: &str) -> Result<u64, String> {
    format::segment_base(text)
        .or_else(|| format::segment_base(&format!("{text}.log")))
        .ok_or_else(|| "not the name of a segment, as 0000000000000000.log".into())
}

pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let log = StoredLog::open(Box::new(arguments.places.open_to_read()?))?;
    if let Some(base) = arguments.segment
        && !log.chain.links.iter().any(|link| link.header.base == base)
    {
        return Err(format!("there is no segment {} with records", format::segment_name(base)));
    }
    let selection = Selection {
        json: arguments.json,
        segment: arguments.segment,
        namespace: arguments.namespace.clone(),
        keys_only: arguments.keys_only,
        payload: arguments.payload,
        from: arguments.from,
        limit: arguments.limit,
    };
    let mut lines = Lines::new();
    let is_whole = dump(&log, &selection, &mut lines)?;
    lines.flush();
    Ok(if is_whole { EXIT_WHOLE } else { EXIT_DAMAGED })
}

/// What is printed, and how.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub json: bool,
    pub segment: Option<u64>,
    pub namespace: Option<String>,
    pub keys_only: bool,
    pub payload: bool,
    pub from: u64,
    pub limit: Option<u64>,
}

/// Prints what was asked for; false where some of it is damaged.
pub fn dump(log: &StoredLog, selection: &Selection, lines: &mut Lines) -> Result<bool, String> {
    let mut dump = Dump {
        selection,
        lines,
        names: HashMap::from([(DEFAULT_ID, ("default".into(), false))]),
        is_wanted: false,
        count: 0,
        is_whole: true,
        residues: Vec::new(),
    };
    let is_wanted = |link: &Link| selection.has(link);
    match log.visit(&is_wanted, &mut dump).and_then(|()| dump.end_packed()) {
        Ok(()) | Err(Stop::Enough) => Ok(dump.is_whole),
        Err(Stop::Failed(line)) => Err(line),
    }
}

impl Selection {
    fn has(&self, link: &Link) -> bool {
        let header = link.header;
        self.segment.is_none_or(|base| base == header.base)
            && self.from < header.base.saturating_add(header.capacity)
    }
}

struct Dump<'a> {
    selection: &'a Selection,
    lines: &'a mut Lines,
    /// Name of each namespace, and whether its keys are ids.
    names: HashMap<u32, (String, bool)>,
    /// Whether the segment is one of those asked for.
    is_wanted: bool,
    count: u64,
    is_whole: bool,
    /// Of the packed segment whose records come.
    residues: Vec<Residue>,
}

impl Dump<'_> {
    fn print(&mut self, line: &str) -> Flow {
        self.lines.line(line);
        if self.lines.is_closed() { Err(Stop::Enough) } else { Ok(()) }
    }

    /// Whether a record of this namespace at this place is asked for.
    fn is_asked(&self, base: u64, position: u64, namespace: Option<u32>) -> bool {
        let selection = self.selection;
        let name = namespace.and_then(|id| self.names.get(&id)).map(|(name, _)| name.as_str());
        selection.segment.is_none_or(|segment| segment == base)
            && position >= selection.from
            && selection.namespace.as_deref().is_none_or(|wanted| name == Some(wanted))
    }

    fn name(&self, id: u32) -> (String, bool) {
        self.names.get(&id).cloned().unwrap_or_else(|| (format!("number {id}"), false))
    }

    fn note_name(&mut self, head: &Head, name: &[u8], payload: &[u8]) {
        if head.kind == Kind::Namespace {
            let settings = Settings::decode(payload);
            let sequential = settings.is_some_and(|settings| settings.mode == Mode::Sequential);
            let name = String::from_utf8_lossy(name).into_owned();
            self.names.insert(head.namespace, (name, sequential));
        }
    }

    fn text(&self, seen: &Seen<'_>) -> String {
        let (head, key) = (seen.record.head, seen.record.key());
        let is_key = matches!(head.kind, Kind::Set | Kind::Delete);
        let is_namespace = matches!(head.kind, Kind::Namespace | Kind::NamespaceEnd);
        let (name, sequential) = self.name(head.namespace);
        let key = match sequential_id(key).filter(|_| is_key && sequential) {
            Some(id) => id.to_string(),
            None => key.escape_ascii().to_string(),
        };
        if self.selection.keys_only {
            return key;
        }
        let name = if is_key || is_namespace { name } else { "-".into() };
        let mut flags = String::new();
        for (flag, sign) in [(FLAG_MEMBER, 'b'), (FLAG_ID, 'i'), (FLAG_UNVERIFIED, 'u')] {
            if head.flags & flag != 0 {
                flags.push(sign);
            }
        }
        if flags.is_empty() {
            flags.push('-');
        }
        let previous = match head.previous.get() {
            0 => "-".to_owned(),
            position => position.to_string(),
        };
        let mut line = format!(
            "{:>15} {:>14} {:>10} {:<16} {:<9} {:<2} {:>8} {:>15} {}",
            seen.position,
            head.sequence,
            head.timestamp,
            name,
            kind_word(head.kind),
            flags,
            head.payload_length,
            previous,
            key
        );
        if self.selection.payload && head.kind == Kind::Set {
            line.push_str(&format!(" \"{}\"", seen.record.payload().escape_ascii()));
        }
        line
    }

    fn json(&self, seen: &Seen<'_>) -> String {
        let (head, key) = (seen.record.head, seen.record.key());
        let (name, sequential) = self.name(head.namespace);
        let is_key = matches!(head.kind, Kind::Set | Kind::Delete);
        let is_namespace = matches!(head.kind, Kind::Namespace | Kind::NamespaceEnd);
        let mut object = Object::new("record");
        if !self.selection.keys_only {
            let mut flags = Vec::new();
            if head.flags & FLAG_MEMBER != 0 {
                flags.push("batch");
            }
            if head.flags & FLAG_ID != 0 {
                flags.push("id");
            }
            if head.flags & FLAG_UNVERIFIED != 0 {
                flags.push("unverified");
            }
            let previous = head.previous.get();
            object = object
                .text("segment", &format::segment_name(seen.base))
                .number("position", seen.position)
                .number("sequence", head.sequence)
                .number("time", head.timestamp.into())
                .text("kind", kind_word(head.kind))
                .texts("flags", &flags)
                .number("length", head.payload_length.into())
                .maybe("previous", (previous != 0).then_some(previous))
                .maybe("replaced", head.replaced.map(u64::from))
                .truth("in_write_buffer", seen.from_buffer);
        }
        if is_key || is_namespace {
            object = object.text("namespace", &name).number("namespace_id", head.namespace.into());
        }
        if is_key {
            object = object.bytes("key", key);
            if let Some(id) = sequential_id(key).filter(|_| sequential) {
                object = object.number("id", id);
            }
        }
        if let Some(settings) = settings_of(seen) {
            object = describe(object, &settings);
        }
        if self.selection.payload && head.kind == Kind::Set {
            object = object.bytes("value", seen.record.payload());
        }
        object.finish()
    }

    /// Prints what the records that are gone from a segment did, once its namespaces have their names.
    fn end_packed(&mut self) -> Flow {
        for residue in std::mem::take(&mut self.residues) {
            let (name, _) = self.name(residue.namespace);
            if self.selection.namespace.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let line = match self.selection.json {
                true => residue_json(&residue, &name),
                false => text_of(&residue, &name),
            };
            self.print(&line)?;
        }
        Ok(())
    }

    fn damaged(&mut self, file: &str, offset: u64, bytes: Option<u64>, line: &str) -> Flow {
        self.is_whole = false;
        if self.selection.json {
            let object = Object::new("damaged").text("file", file).number("offset", offset);
            return self.print(&object.maybe("bytes", bytes).text("text", line).finish());
        }
        let bytes = bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
        self.print(&format!("damaged: {file} at offset {offset}{bytes}: {line}"))
    }
}

/// What records that are gone did to a namespace.
fn text_of(residue: &Residue, name: &str) -> String {
    let Residue { keys_added, keys_removed, bytes_added, bytes_removed, .. } = residue;
    let mut line = format!(
        "cleaned away: namespace {name} (number {}): {keys_added} keys came and {keys_removed} went, {bytes_added} \
         bytes of values came and {bytes_removed} went, {} inserts",
        residue.namespace, residue.inserts
    );
    if residue.ids > 0 {
        line.push_str(&format!(", {} ids, next id at least {}", residue.ids, residue.ids_floor));
    }
    line
}

fn residue_json(residue: &Residue, name: &str) -> String {
    Object::new("residue")
        .text("namespace", name)
        .number("namespace_id", residue.namespace.into())
        .truth("used", residue.is_used)
        .number("keys_added", residue.keys_added)
        .number("keys_removed", residue.keys_removed)
        .number("bytes_added", residue.bytes_added)
        .number("bytes_removed", residue.bytes_removed)
        .number("key_bytes_added", residue.key_bytes_added)
        .number("key_bytes_removed", residue.key_bytes_removed)
        .number("inserts", residue.inserts)
        .number("ids", residue.ids)
        .number("next_id_least", residue.ids_floor)
        .finish()
}

fn settings_of(seen: &Seen<'_>) -> Option<Settings> {
    (seen.record.head.kind == Kind::Namespace).then(|| Settings::decode(seen.record.payload()))?
}

fn describe(object: Object, settings: &Settings) -> Object {
    use crate::engine::namespace::Access;
    let access = match settings.access {
        Access::Open => "open",
        Access::Locked => "locked",
        Access::Frozen => "frozen",
    };
    let mode = if settings.mode == Mode::Sequential { "sequential" } else { "user" };
    object
        .text("mode", mode)
        .text("access", access)
        .truth("public", settings.public)
        .truth("worm", settings.worm)
        .text("history", &settings.retention.to_string())
        .number("maxsize", settings.max_bytes)
        .truth("has_password", settings.password.is_some())
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Set => "set",
        Kind::Delete => "delete",
        Kind::Padding => "padding",
        Kind::Seal => "seal",
        Kind::Namespace => "namespace",
        Kind::NamespaceEnd => "removal",
        Kind::Batch => "batch",
        Kind::Term => "term",
    }
}

impl Visitor for Dump<'_> {
    fn segment(&mut self, link: &Link) -> Flow {
        self.end_packed()?;
        self.is_wanted = self.selection.has(link);
        if !self.is_wanted || self.selection.keys_only {
            return Ok(());
        }
        let header = link.header;
        let name = format::segment_name(header.base);
        if self.selection.json {
            let object = Object::new("segment")
                .text("file", &name)
                .number("position", header.base)
                .number("capacity", header.capacity)
                .number("bytes", link.size)
                .number("created", header.created);
            let object = match header.packed {
                None => object.truth("packed", false),
                Some(packed) => object
                    .truth("packed", true)
                    .number("end", packed.end)
                    .number("judged_until", packed.judged_until)
                    .number("record_bytes", packed.record_bytes)
                    .truth("undecided", packed.is_undecided),
            };
            return self.print(&object.finish());
        }
        let mut line = format!(
            "segment {name}: position {}, capacity {}, {} bytes, made at {}",
            header.base, header.capacity, link.size, header.created
        );
        if let Some(packed) = header.packed {
            line.push_str(&format!(
                "; cleaned: {} bytes of records of those up to {}, judged at {}{}",
                packed.record_bytes,
                packed.end,
                packed.judged_until,
                if packed.is_undecided { ", not all of them" } else { "" }
            ));
        }
        self.print(&line)
    }

    fn residues(&mut self, _: &Link, residues: Option<&[Residue]>) -> Flow {
        if self.is_wanted && !self.selection.keys_only {
            self.residues = residues.unwrap_or_default().to_vec();
        }
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let record = seen.record;
        self.note_name(&record.head, record.key(), record.payload());
        let is_key = matches!(record.head.kind, Kind::Set | Kind::Delete);
        let is_namespace = matches!(record.head.kind, Kind::Namespace | Kind::NamespaceEnd);
        let namespace = (is_key || is_namespace).then_some(record.head.namespace);
        let is_asked = self.is_wanted && self.is_asked(seen.base, seen.position, namespace);
        if !is_asked || (self.selection.keys_only && !is_key) {
            return Ok(());
        }
        if self.selection.limit.is_some_and(|limit| self.count >= limit) {
            return Err(Stop::Enough);
        }
        self.count += 1;
        let line = if self.selection.json { self.json(seen) } else { self.text(seen) };
        self.print(&line)
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        let is_asked = self.selection.segment.is_none_or(|segment| segment == lost.base)
            && lost.end > self.selection.from;
        if lost.is_part || !is_asked {
            return Ok(());
        }
        let named = |id: u32| self.names.get(&id).cloned();
        let known = known::records(&lost, &named).map_or(String::new(), |text| format!("; {text}"));
        let line = format!("{}{known}", lost.cause);
        let name = format::segment_name(lost.base);
        self.damaged(&name, lost.offset, Some(lost.bytes), &line)
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        // Sidecars are no part of what is shown.
        if trouble.what == "sidecar" || trouble.what == "identity" {
            return Ok(());
        }
        self.damaged(&trouble.file, trouble.offset, None, &trouble.line)
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, _: u64) {}
}
