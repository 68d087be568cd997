//! MSET: values of many keys, all of them or none, over a crash too.

use super::condition::{NEEDS_USER_MODE, Newest, newest};
use super::write::{NO_SPACE, WORM};
use super::{Context, Outcome};
use crate::engine::log::Refusal;
use crate::engine::log::format::{self, BATCH_BYTES_MAX};
use crate::engine::namespace::Keys;
use crate::engine::{Change, Predecessor};
use crate::limits::KEY_BYTES_MAX;
use crate::output::Output;
use crate::resp::Request;
use std::collections::HashMap;

pub fn multi_set(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() < 3 || request.len().is_multiple_of(2) {
        return context.error(out, "Unexpected arguments");
    }
    // Of a key that is named twice the last value counts.
    let mut pairs: HashMap<&[u8], (usize, &[u8])> = HashMap::new();
    for at in (1..request.len()).step_by(2) {
        let key = request.get(at);
        if key.len() > KEY_BYTES_MAX {
            return context.error(out, "Key too large");
        }
        if key.is_empty() {
            return context.error(out, "Invalid argument, key needed");
        }
        pairs.insert(key, (at, request.get(at + 1)));
    }
    let mut pairs: Vec<(&[u8], usize, &[u8])> =
        pairs.into_iter().map(|(key, (at, value))| (key, at, value)).collect();
    pairs.sort_unstable_by_key(|(_, at, _)| *at);
    if let Some(refused) = context.refuse_write(out) {
        return refused;
    }
    if matches!(context.namespace().keys, Keys::Sequential(_)) {
        return context.error(out, NEEDS_USER_MODE);
    }
    let bytes: u64 =
        pairs.iter().map(|(key, _, value)| format::record_bytes(key.len(), value.len())).sum();
    if bytes > BATCH_BYTES_MAX as u64 {
        return context.error(out, "Too many bytes for one MSET");
    }
    // The hash that the hub has is that of the first key.
    context.hash = None;
    let timestamp = context.engine.now.unix_s() as u32;
    let seed = context.engine.log.seed;
    let mut changes = Vec::with_capacity(pairs.len());
    for (key, _, value) in pairs {
        let predecessor = match follows(context, key) {
            Ok(predecessor) => predecessor,
            Err(wait) => return wait,
        };
        if predecessor.is_some_and(|before| before.replaced.is_some())
            && context.namespace().settings.worm
        {
            return context.error(out, WORM);
        }
        let value = Some((value, format::payload_check(seed, value)));
        changes.push(Change { key, value, timestamp, predecessor });
    }
    if !all_fit(context, &changes) {
        return context.error(out, NO_SPACE);
    }
    match context.engine.change_all(context.session.slot, &changes) {
        Ok(end) => {
            context.ok(out);
            context.done_at(end)
        }
        Err(Refusal::Wait) => Outcome::NeedsLog,
        Err(Refusal::Failed) => context.error(out, "Cannot write data right now"),
    }
}

/// What the new version of a key follows. As with SET, a live key is taken for ours by its hash where
/// its record is not in memory; what is refused for a live key is not decided by the hash alone.
fn follows(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Predecessor>, Outcome> {
    let hash = context.engine.hash(key);
    let Some(entry) = context.engine.find(context.namespace(), hash) else { return Ok(None) };
    let is_known = context.engine.peek(entry.place).is_some();
    if !is_known && !entry.is_dead() && !context.namespace().settings.worm {
        let replaced = Some(entry.length);
        return Ok(Some(Predecessor { place: entry.place, verified: false, replaced }));
    }
    Ok(match newest(context, key, false)? {
        Newest::Missing(predecessor) => predecessor,
        Newest::Live { predecessor, .. } | Newest::Lost(predecessor) => Some(predecessor),
    })
}

/// Whether the namespace's limit of payload bytes lets all of them in.
fn all_fit(context: &Context<'_>, changes: &[Change<'_>]) -> bool {
    let namespace = context.namespace();
    let limit = context.engine.max_bytes(namespace);
    let new: u64 =
        changes.iter().filter_map(|change| change.value).map(|(value, _)| value.len() as u64).sum();
    let replaced: u64 =
        changes.iter().filter_map(|change| change.predecessor?.replaced).map(u64::from).sum();
    limit == 0 || new == 0 || namespace.live_bytes + new <= limit.saturating_add(replaced)
}
