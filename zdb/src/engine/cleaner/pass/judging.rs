//! What becomes of the records in a window: their verdicts, with what has to be looked up for these, and what
//! follows from them.

use super::{Item, Pass, Phase, Step, Tally};
use crate::engine::cleaner::verdict::{Case, Look, Newest, Verdict};
use crate::engine::index::Place;
use crate::engine::log::format::{FLAG_UNVERIFIED, Head, Kind, RECORD_HEAD_BYTES, Verified};
use crate::engine::log::packed::Residue;
use crate::engine::log::sidecar::PageEnd;
use crate::engine::namespace::{Keys, Namespace, Retention};
use crate::engine::{Engine, Waiter, control_entry, entry_of, sequential_id};
use crate::limits::CLEANER_READS_MAX;
use crate::planted::{self, Bug};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

impl Pass {
    pub(super) fn judge(&mut self, engine: &mut Engine) -> Step {
        let mut asked = BTreeSet::new();
        for (at, ended_at) in self.ended_at(engine).into_iter().enumerate() {
            while self.items[at].verdict.is_none() && asked.len() < CLEANER_READS_MAX {
                match self.judge_one(engine, at, ended_at) {
                    Verdict::Ask(position) if self.learn(engine, position) => {}
                    Verdict::Ask(position) => {
                        asked.insert(position);
                        break;
                    }
                    verdict => {
                        self.items[at].verdict = Some(verdict);
                        if verdict == Verdict::Drop {
                            self.note_dropped(at);
                        }
                    }
                }
            }
        }
        for position in &asked {
            let question = engine.new_question();
            self.questions.insert(question);
            engine.cleaner.stats.questions += 1;
            engine.fetch(Waiter::Cleaner(question), None, Place::new(*position), 0, false);
        }
        if !asked.is_empty() {
            return Step::Wait;
        }
        self.apply(engine);
        self.phase = Phase::Write;
        Step::Go
    }

    /// For each record of the window, the time of the oldest later one of its key in it. A key that is written
    /// over and over has more versions than are followed from the newest one down. A record that the index does
    /// not know, though it is the latest, ends none: it may not count for a reason that is not known here.
    fn ended_at(&self, engine: &Engine) -> Vec<Option<u32>> {
        let mut ended_at = vec![None; self.items.len()];
        let mut later: HashMap<(u32, &[u8]), u32> = HashMap::new();
        for (at, item) in self.items.iter().enumerate().rev() {
            let slot = engine.namespaces.slot_of(item.head.namespace);
            let namespace = slot.and_then(|slot| engine.namespaces.get(slot));
            let is_days = |one: &&Namespace| matches!(one.settings.retention, Retention::Days(_));
            let is_of_key = matches!(item.head.kind, Kind::Set | Kind::Delete);
            if let Some(namespace) = namespace.filter(is_days).filter(|_| is_of_key) {
                let bytes = &self.bytes[item.bytes.clone()];
                let key = &bytes[RECORD_HEAD_BYTES..item.head.payload_offset()];
                let newest = newest_of(engine, namespace, key);
                if newest.is_none_or(|newest| newest.position < item.position) {
                    continue;
                }
                let time = item.head.timestamp;
                let entry = later.entry((item.head.namespace, key));
                ended_at[at] = match entry {
                    Entry::Occupied(mut later) => {
                        let known = *later.get();
                        later.insert(known.min(time));
                        Some(known)
                    }
                    Entry::Vacant(later) => {
                        later.insert(time);
                        None
                    }
                };
            }
        }
        ended_at
    }

    fn judge_one(&self, engine: &Engine, at: usize, ended_at: Option<u32>) -> Verdict {
        let item = &self.items[at];
        if !matches!(item.head.kind, Kind::Set | Kind::Delete) {
            return Verdict::Keep;
        }
        let slot = engine.namespaces.slot_of(item.head.namespace);
        let Some(namespace) = slot.and_then(|slot| engine.namespaces.get(slot)) else {
            return Verdict::Drop;
        };
        let record = Verified::with_head(item.head, &self.bytes[item.bytes.clone()]);
        let newest = newest_of(engine, namespace, record.key());
        let case = self.case(engine, item, &record, newest, namespace);
        Case { ended_at, ..case }.judge(&mut |position| self.look(position))
    }

    fn case<'a>(
        &self,
        engine: &Engine,
        item: &'a Item,
        record: &Verified<'a>,
        newest: Option<Newest>,
        namespace: &Namespace,
    ) -> Case<'a> {
        Case {
            position: item.position,
            head: &item.head,
            key: record.key(),
            newest,
            is_sequential: matches!(namespace.keys, Keys::Sequential(_)),
            retention: namespace.settings.retention,
            retention_since: namespace.retention_since,
            now_s: engine.now.unix_s(),
            ended_at: None,
            older_are_clean: !self.is_undecided && self.older_clean_until > item.position,
        }
    }

    fn look(&self, position: u64) -> Look<'_> {
        match (self.facts.get(&position), self.missing.get(&position)) {
            (Some(fact), _) => Look::Record(fact),
            (None, Some(true)) => Look::Gone,
            (None, Some(false)) => Look::Lost,
            (None, None) => Look::Unknown,
        }
    }

    /// Below a record that may be dropped there is nothing but older versions of its key: who comes to it need
    /// not look further.
    fn note_dropped(&mut self, at: usize) {
        let mut head = self.items[at].head;
        head.flags &= !FLAG_UNVERIFIED;
        self.note_item(at, head);
    }

    fn note_item(&mut self, at: usize, head: Head) {
        let bytes = std::mem::take(&mut self.bytes);
        let Item { bytes: range, position, .. } = &self.items[at];
        let (record, position) = (Verified::with_head(head, &bytes[range.clone()]), *position);
        self.note_fact(position, &record);
        self.bytes = bytes;
    }

    /// Looks at a record that is in memory. False: it has to be read.
    fn learn(&mut self, engine: &Engine, position: u64) -> bool {
        if let Ok(at) = self.items.binary_search_by_key(&position, |item| item.position) {
            self.note_item(at, self.items[at].head);
            return true;
        }
        let Some(record) = engine.peek(Place::new(position)) else { return false };
        self.note_fact(position, &record);
        true
    }

    /// Does what the verdicts say.
    fn apply(&mut self, engine: &mut Engine) {
        self.rests_on = engine.log.appended();
        for item in std::mem::take(&mut self.items) {
            // While others were judged a namespace may have ended.
            let is_of_key = matches!(item.head.kind, Kind::Set | Kind::Delete);
            let has_ended = engine.namespaces.slot_of(item.head.namespace).is_none();
            let verdict = match item.verdict.expect("every item was judged") {
                _ if is_of_key && has_ended => Verdict::Drop,
                verdict => verdict,
            };
            self.is_undecided |= verdict == Verdict::KeepUndecided;
            let bytes = std::mem::take(&mut self.bytes);
            let record = Verified::with_head(item.head, &bytes[item.bytes.clone()]);
            self.count_id(engine, &record);
            match verdict {
                Verdict::Drop => self.forget(engine, item.position, &record),
                _ => self.keep(engine, item.position, &record),
            }
            self.bytes = bytes;
        }
        self.bytes.drain(..self.window);
        self.offset += self.window as u64;
        self.window = 0;
    }

    /// In sequential mode every version uses up an id, whether it stays or not.
    fn count_id(&mut self, engine: &Engine, record: &Verified<'_>) {
        let id = record.head.namespace;
        let slot = engine.namespaces.slot_of(id);
        let Some(namespace) = slot.and_then(|slot| engine.namespaces.get(slot)) else { return };
        if let (Keys::Sequential(_), Kind::Set) = (&namespace.keys, record.head.kind) {
            let tally = self.tally(id);
            if let (false, Some(id)) = (tally.has_ids, sequential_id(record.key())) {
                tally.residue.use_id(id);
            }
        }
    }

    /// What is behind the end of a source, where a start found damage, is not there any more for later starts:
    /// the residue tells of the ids.
    pub(super) fn lose_ids(&mut self, engine: &Engine) {
        let count = self.source().ids_lost_max;
        if count == 0 {
            return;
        }
        for namespace in engine.namespaces.iter() {
            if matches!(namespace.keys, Keys::Sequential(_)) {
                let tally = self.tally(namespace.id);
                tally.is_needed = true;
                tally.residue.lose_ids(count);
            }
        }
    }

    fn tally(&mut self, namespace: u32) -> &mut Tally {
        self.local
            .entry(namespace)
            .or_insert_with(|| Tally { residue: Residue::new(namespace), ..Tally::default() })
    }

    fn forget(&mut self, engine: &Engine, position: u64, record: &Verified<'_>) {
        self.dropped_records += 1;
        let id = record.head.namespace;
        *self.forgotten.entry(id).or_default() += record.head.bytes();
        let slot = engine.namespaces.slot_of(id);
        let Some(namespace) = slot.and_then(|slot| engine.namespaces.get(slot)) else { return };
        if let (Keys::User(_), Kind::Delete) = (&namespace.keys, record.head.kind) {
            self.buried.push((id, engine.hash(record.key()).get(), position));
        }
        let tally = self.tally(id);
        tally.is_needed = !planted::is(Bug::NoResidue);
        tally.residue.forget(&record.head);
    }

    fn keep(&mut self, engine: &Engine, position: u64, record: &Verified<'_>) {
        self.kept_records += 1;
        let head = &record.head;
        let entry = match head.kind {
            Kind::Set | Kind::Delete => {
                let slot = engine.namespaces.slot_of(head.namespace);
                let namespace = slot.and_then(|slot| engine.namespaces.get(slot));
                let namespace = namespace.expect("records of namespaces that ended are dropped");
                entry_of(position, head, record.key(), namespace, || engine.hash(record.key()))
            }
            _ => control_entry(position, head, record.key()),
        };
        let end = position + head.bytes();
        self.builder.push(position, record.bytes());
        self.page.push(&entry, end);
        if self.page.is_full() {
            self.pages.push(self.page.finish(self.page_seed, PageEnd::Open, end));
        }
    }
}

/// What the index holds for a key.
fn newest_of(engine: &Engine, namespace: &Namespace, key: &[u8]) -> Option<Newest> {
    let place = match &namespace.keys {
        Keys::User(table) => table.get(&engine.pool, engine.hash(key))?.place,
        Keys::Sequential(table) => table.get(sequential_id(key)?)?,
    };
    Some(Newest { position: place.get() })
}
