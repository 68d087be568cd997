//! The end of a log that is stopped in order.

use super::{Log, Prepared};
use crate::disk::FileId;

impl Log {
    /// Seals the open segment. The log is closed when `is_closed`.
    pub fn begin_close(&mut self) {
        self.closing = true;
        self.rotate_due_ms = None;
        self.rotating = false;
        if self.open && self.broken.is_none() && self.switch.is_none() {
            let end = match self.is_copy {
                true => {
                    self.segments.end_page(self.appended);
                    if self.durable >= self.appended {
                        return;
                    }
                    let end = self.fill_with_zeroes();
                    self.filled_to = Some(end);
                    end
                }
                false => self.seal(),
            };
            self.flush_target = Some(end);
            self.flush_due_ms = None;
        }
    }

    /// After a recovery that nothing was appended to: everything is on the disk.
    pub fn discard_buffer(&mut self) {
        assert!(self.appended == self.durable, "only before the first append");
        self.buffer.remove();
    }

    /// True while a segment change must end before `begin_close`.
    pub fn is_switching(&self) -> bool {
        self.switch.is_some() && self.broken.is_none()
    }

    /// Everything appended is durable and every page is in its sidecar.
    pub fn is_closed(&self) -> bool {
        let idle = self.creating.is_none()
            && self.truncating.is_none()
            && self.zero.is_none()
            && self.flights.iter().all(|flight| flight.done || flight.failed)
            && self.sync.is_none();
        let settled = self.broken.is_some() || !self.open || self.durable >= self.appended;
        idle && settled && self.segments.pages_settled()
    }

    /// The prepared segment that nobody wrote to, and where the log ends: for the last tidying of a
    /// clean stop.
    pub fn finish_close(&mut self) -> CloseSummary {
        let clean = self.broken.is_none();
        if clean {
            self.buffer.remove();
        }
        let unused = match std::mem::replace(&mut self.prepared, Prepared::Nothing) {
            Prepared::Ready(segment, _) => Some((segment.base, segment.file)),
            _ => None,
        };
        let cut = match self.segments.last() {
            Some(last) if self.open && clean => Some((last.file, self.appended - last.base)),
            _ => None,
        };
        CloseSummary { unused, cut }
    }
}

/// What is left to do with files after the last record is durable.
pub struct CloseSummary {
    /// A segment that was made ahead and never used: to be removed.
    pub unused: Option<(u64, FileId)>,
    /// The last segment and the bytes it uses: the rest is given back.
    pub cut: Option<(FileId, u64)>,
}
