//! Changes to namespaces themselves: each is one record in the log.

use super::index::Place;
use super::log::Refusal;
use super::log::format::{self, Head, Kind};
use super::namespace::Settings;
use super::{Engine, Event, control_entry};

impl Engine {
    pub(super) fn count_refusal(&mut self, slot: usize, refusal: Refusal) {
        let now_s = self.now.unix_s();
        if let (Refusal::Failed, Some(namespace)) = (refusal, self.namespaces.get_mut(slot)) {
            namespace.write_errors += 1;
            namespace.write_error_last = now_s;
        }
    }

    /// `default` comes into being without a record; its first key brings one.
    pub(super) fn record_namespace(&mut self, slot: usize) -> Result<(), Refusal> {
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        if namespace.recorded {
            return Ok(());
        }
        let (id, name, settings) =
            (namespace.id, namespace.name.clone(), namespace.settings.clone());
        self.append_control(Kind::Namespace, id, &name, &settings.encode())?;
        self.namespaces.get_mut(slot).expect("still there").recorded = true;
        Ok(())
    }

    pub(super) fn append_control(
        &mut self,
        kind: Kind,
        id: u32,
        name: &[u8],
        payload: &[u8],
    ) -> Result<u64, Refusal> {
        self.begin_term_if_due()?;
        let head = Head {
            kind,
            flags: 0,
            key_length: name.len() as u8,
            payload_length: payload.len() as u32,
            payload_check: format::payload_check(self.log.seed, payload),
            sequence: 0,
            timestamp: self.now.unix_s() as u32,
            namespace: id,
            previous: Place::NONE,
            replaced: None,
        };
        let (position, end) = self.log.append(self.now.monotonic_ms, head, name, payload)?;
        self.log.note(&[control_entry(position, &head, name)], end);
        Ok(end)
    }

    /// Limits `default` for this run, as `--maxsize` asks; nothing of it is stored.
    pub fn limit_default(&mut self, max_bytes: u64) {
        self.run_limit = max_bytes;
    }

    pub fn create_namespace(&mut self, name: &[u8], settings: Settings) -> Result<u64, Refusal> {
        let id = self.namespaces.next_id();
        let end = self.append_control(Kind::Namespace, id, name, &settings.encode())?;
        let since = self.now.unix_s() as u32;
        let slot = self.namespaces.insert(id, name, settings, since);
        self.namespaces.get_mut(slot).expect("just inserted").recorded = true;
        self.events.push(Event::NamespaceCreated(name.into()));
        Ok(end)
    }

    pub fn change_namespace(&mut self, slot: usize, settings: Settings) -> Result<u64, Refusal> {
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        let (id, name) = (namespace.id, namespace.name.clone());
        let end = self.append_control(Kind::Namespace, id, &name, &settings.encode())?;
        self.namespaces.change(slot, settings, self.now.unix_s() as u32);
        self.namespaces.get_mut(slot).expect("still there").recorded = true;
        self.events.push(Event::NamespaceUpdated(name));
        Ok(end)
    }

    /// Ends everything in a namespace, history too, and goes on with an empty one of the same name and
    /// settings: one record, in which a new id takes the name.
    pub fn flush_namespace(&mut self, slot: usize) -> Result<u64, Refusal> {
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        let (name, settings) = (namespace.name.clone(), namespace.settings.clone());
        let id = self.namespaces.next_id();
        let end = self.append_control(Kind::Namespace, id, &name, &settings.encode())?;
        self.namespaces.replace(slot, id, settings, self.now.unix_s() as u32, &mut self.pool);
        let namespace = self.namespaces.get_mut(slot).expect("still there");
        namespace.recorded = true;
        namespace.deleted_until = end;
        Ok(end)
    }

    pub fn remove_namespace(&mut self, slot: usize) -> Result<u64, Refusal> {
        let namespace = self.namespaces.get(slot).expect("the command looked the namespace up");
        let (id, name) = (namespace.id, namespace.name.clone());
        let end = self.append_control(Kind::NamespaceEnd, id, &name, &[])?;
        self.namespaces.remove(slot, &mut self.pool);
        self.events.push(Event::NamespaceDeleted(name));
        Ok(end)
    }
}
