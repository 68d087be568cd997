//! Clients that take nothing while too much waits for all of them together.

use super::Hub;
use crate::limits::{OUTPUT_BYTES_LAST_MAX, OUTPUT_BYTES_SHARE, OUTPUT_STALLED_MS};

/// How often clients that do not read are looked for while too much waits for them, in milliseconds.
const STALLED_LOOK_MS: u64 = 200;

impl Hub {
    /// Too much waits for clients that do not read: lets go of those that have not taken a byte lately,
    /// those with most waiting first, until what is left is bearable.
    pub(super) fn let_stalled_go(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        if now_ms < self.stalled_looked_ms + STALLED_LOOK_MS {
            return;
        }
        self.stalled_looked_ms = now_ms;
        let mut left = self.output_bytes;
        let mut stalled: Vec<(usize, u64)> = Vec::new();
        for one in self.slots.iter().filter_map(|slot| slot.connection.as_deref()) {
            if one.is_overrun {
                left -= one.counted_bytes;
            } else if one.counted_bytes > OUTPUT_BYTES_SHARE
                && now_ms >= one.active_ms + OUTPUT_STALLED_MS
            {
                stalled.push((one.counted_bytes, one.key));
            }
        }
        stalled.sort_unstable();
        while left > OUTPUT_BYTES_LAST_MAX
            && let Some((bytes, key)) = stalled.pop()
            && let Some(mut connection) = self.take(key)
        {
            left -= bytes;
            connection.is_overrun = true;
            connection.closing = true;
            self.server.stats.output_limit_disconnections += 1;
            self.touch(&mut connection);
            self.put_back(connection);
        }
    }
}
