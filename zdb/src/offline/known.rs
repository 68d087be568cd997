//! What is known of lost records, in words: from what is left of them, and from the sidecar.

use super::stored::Lost;
use crate::engine::log::format::Kind;
use crate::import::report::shown_key;

/// Lost records that a line names one by one.
const NAMED_MAX: usize = 3;

/// How a namespace is called, and whether its keys are ids; by its id.
pub type Named<'a> = &'a dyn Fn(u32) -> Option<(String, bool)>;

/// Lost records of keys and namespaces, or none where nothing is known of them.
pub fn records(lost: &Lost, named: Named<'_>) -> Option<String> {
    let mut words = Vec::new();
    let mut count = 0;
    if let Some((head, key)) = &lost.head
        && let Some(what) = kind_word(head.kind)
    {
        count += 1;
        words.push(match head.kind {
            Kind::Set | Kind::Delete => {
                let sequential = named(head.namespace).is_some_and(|(_, sequential)| sequential);
                let namespace = name_of(head.namespace, named);
                format!("{what} {} of namespace {namespace}", shown_key(key, sequential))
            }
            _ => format!("{what} {:?}", String::from_utf8_lossy(key)),
        });
    }
    let is_head = |position: u64| lost.head.is_some() && position == lost.start;
    for entry in lost.entries.iter().filter(|entry| !is_head(entry.position)) {
        let Some(what) = kind_word(entry.kind) else { continue };
        count += 1;
        if words.len() == NAMED_MAX {
            continue;
        }
        let namespace = name_of(entry.namespace, named);
        let is_key = matches!(entry.kind, Kind::Set | Kind::Delete);
        let sequential = named(entry.namespace).is_some_and(|(_, sequential)| sequential);
        words.push(match (is_key, sequential) {
            (true, true) => format!("{what} id {} of namespace {namespace}", entry.key),
            (true, false) => {
                format!("{what} a key of {} bytes of namespace {namespace}", entry.key_length)
            }
            (false, _) => format!("{what} {namespace}"),
        });
    }
    if count == 0 {
        return None;
    }
    let mut text = words.join(", ");
    if count > words.len() {
        text.push_str(&format!(" and {} more", count - words.len()));
    }
    Some(text)
}

/// How many records of keys and namespaces were lost, as far as that is known.
pub fn count(lost: &Lost) -> u64 {
    let is_head = |position: u64| lost.head.is_some() && position == lost.start;
    let entries = lost.entries.iter().filter(|entry| !is_head(entry.position));
    let entries = entries.filter(|entry| kind_word(entry.kind).is_some()).count() as u64;
    let head = lost.head.as_ref().is_some_and(|(head, _)| kind_word(head.kind).is_some());
    entries + u64::from(head)
}

fn name_of(id: u32, named: Named<'_>) -> String {
    named(id).map_or_else(|| format!("number {id}"), |(name, _)| format!("{name:?}"))
}

fn kind_word(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Set => Some("a version of"),
        Kind::Delete => Some("the delete of"),
        Kind::Namespace => Some("settings of namespace"),
        Kind::NamespaceEnd => Some("the removal of namespace"),
        Kind::Padding | Kind::Seal | Kind::Batch | Kind::Term => None,
    }
}
