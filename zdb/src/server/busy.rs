//! How busy the hub's thread is, by the part of the time that it has a processor: as long as it has time left, it
//! serves a client more cheaply than it hands the client's words to another thread. Nor does it help to hand
//! them over where no other processor is idle: then the clients or other programs need them all.

/// How long it is watched at a time at least, in milliseconds.
const WINDOW_MS: u64 = 100;
/// So many busy windows in a row, behind a first one, are more than a moment's rush.
const WINDOWS: u32 = 2;
/// Percent of a core that count as busy, divided by this, have to be idle elsewhere.
const IDLE_DIVISOR: u64 = 2;

pub struct Busy {
    /// Percent of a window on a processor that count as busy. 0: anything.
    percent: u64,
    /// When the window began, in milliseconds, and how long the thread had had a processor then.
    window: Option<(u64, u64)>,
    /// How long all processors together had been idle then, where the window before was a busy one.
    idle_us: Option<u64>,
    busy_windows: u32,
}

impl Busy {
    pub fn new(percent: u8) -> Self {
        Self { percent: percent.into(), window: None, idle_us: None, busy_windows: 0 }
    }

    pub fn is_always(&self) -> bool {
        self.percent == 0
    }

    /// Looks at the clocks once in a window: how long this thread has had a processor, and, where that is much, how
    /// long all those that there are were idle. True: others are to take a part of its clients.
    pub fn look(
        &mut self,
        now_ms: u64,
        thread_time_us: impl FnOnce() -> u64,
        idle_time_us: impl FnOnce() -> u64,
    ) -> bool {
        let elapsed_ms = self.window.map_or(u64::MAX, |(begun_ms, _)| now_ms - begun_ms);
        if self.percent == 0 || elapsed_ms < WINDOW_MS {
            return false;
        }
        let percent = |us: u64| us / 10 / elapsed_ms;
        let thread_us = thread_time_us();
        let before = self.window.replace((now_ms, thread_us));
        if before.is_none_or(|(_, before_us)| percent(thread_us - before_us) < self.percent) {
            self.idle_us = None;
            self.busy_windows = 0;
            return false;
        }
        let idle_us = idle_time_us();
        let was_idle = self.idle_us.replace(idle_us);
        let has_room = was_idle
            .is_some_and(|was| percent(idle_us.saturating_sub(was)) >= self.percent / IDLE_DIVISOR);
        self.busy_windows = if has_room { self.busy_windows + 1 } else { 0 };
        if self.busy_windows < WINDOWS {
            return false;
        }
        self.busy_windows = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_busy_windows_in_a_row_are_asked_for() {
        let mut busy = Busy::new(95);
        let (mut thread_us, mut idle_us) = (0, 0);
        let mut window = |now_ms, busy_ms: u64, idle_ms: u64| {
            thread_us += busy_ms * 1000;
            idle_us += idle_ms * 1000;
            busy.look(now_ms, || thread_us, || idle_us)
        };
        assert!(!window(1, 0, 0));
        // Not looked at yet.
        assert!(!window(50, 50, 50));
        assert!(!window(101, 50, 50));
        assert!(!window(201, 96, 100));
        // A pause begins anew, and so does a time without an idle processor.
        assert!(!window(301, 90, 100));
        assert!(!window(401, 100, 100));
        assert!(!window(501, 100, 100));
        assert!(!window(601, 100, 40));
        assert!(!window(701, 100, 60));
        assert!(window(801, 95, 250));
        assert!(!window(901, 100, 100));
        assert!(!window(6001, 100, 100));
    }

    #[test]
    fn nothing_is_always_busy() {
        let mut busy = Busy::new(0);
        assert!(busy.is_always());
        assert!(!busy.look(1000, || 0, || 0));
    }
}
