//! How the server ends: replies go out, the log is closed, and nobody waits for it any more.

use super::hooks::HookThread;
use super::{Listener, Server, process};
use crate::disk::{FileId, Root};
use crate::engine::log::format;
use std::os::fd::AsRawFd;

/// How long a stop waits for clients to take their last replies.
const DRAIN_MS: u64 = 1000;

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Command,
    Signal(i32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Replies still go out.
    Draining {
        until_ms: u64,
    },
    /// The log is being closed.
    Closing {
        begun: bool,
    },
}

impl Stop {
    pub(super) fn deadline_ms(self) -> Option<u64> {
        match self {
            Self::No | Self::Closing { .. } => None,
            Self::Draining { until_ms } => Some(until_ms),
        }
    }
}

impl Server {
    pub(super) fn step_stop(&mut self, now_ms: u64) {
        match self.stop {
            Stop::No if self.hub.stopping => {
                self.stop = Stop::Draining { until_ms: now_ms + DRAIN_MS };
                for key in self.hub.keys() {
                    self.hub.close_behind_replies(key);
                }
                // Those that wait for a flush get it now.
                self.hub.engine.log.flush();
                self.hub.engine.scrub.end();
                self.hub.engine.end_away();
                self.step_stop(now_ms);
            }
            Stop::Draining { until_ms } => {
                if !self.hub.is_draining() || now_ms >= until_ms {
                    if self.hub.restarts() {
                        self.hub.let_all_go();
                    }
                    self.stop = Stop::Closing { begun: false };
                    self.step_stop(now_ms);
                }
            }
            Stop::Closing { begun: false } if !self.hub.engine.log.is_switching() => {
                self.hub.engine.log.begin_close();
                self.stop = Stop::Closing { begun: true };
            }
            Stop::No | Stop::Closing { .. } => {}
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        let engine = &self.hub.engine;
        let is_closed = engine.log.is_closed() && !engine.scrub.is_busy();
        self.stop == Stop::Closing { begun: true } && is_closed
    }

    /// Whether nothing that was begun for this engine is still under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.hub.engine.is_quiet() && self.reads.is_empty() && self.hub.keys().is_empty()
    }

    /// Opens the log again and serves it, as another start would, on the same sockets.
    pub(super) fn begin_again(&mut self) -> Result<(), String> {
        self.close_log();
        self.hub.engine.close_files(&*self.files);
        if let Some(line) = self.hub.engine.log.broken() {
            return Err(format!("stopped, but the log is not closed: {line}"));
        }
        let engine = (self.reopen)(&*self.files, &self.hub.server.settings)?;
        self.hub.begin_again(engine);
        self.stop = Stop::No;
        self.hub.set_time(self.now());
        self.hub.begin_replication();
        Ok(())
    }

    /// The last work on the files of a log that is closed.
    fn close_log(&mut self) {
        let summary = self.hub.engine.log.finish_close();
        if let Some((base, file)) = summary.unused {
            self.files.close(file);
            // Left behind it costs space until the next start, which removes it.
            let _ = self.files.remove(Root::Data, &format::segment_name(base));
        }
        if let Some((FileId(file), length)) = summary.cut {
            let _ = self.files.truncate(FileId(file), length);
        }
    }

    pub(super) fn finish(mut self) -> Result<Ended, String> {
        self.close_log();
        // Nobody is to wait for a server that answers no more.
        for descriptor in self.listeners.iter().map(Listener::descriptor) {
            // SAFETY: shutdown on an open socket touches no memory.
            unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) };
        }
        self.sockets.shut_down();
        if let Some(crew) = &mut self.crew {
            crew.end();
        }
        self.close_hooks();
        match self.hub.engine.log.broken() {
            Some(line) => Err(format!("stopped, but the log is not closed: {line}")),
            None => Ok(self.ended),
        }
    }

    /// The last hooks, which find every file as it stays.
    fn close_hooks(&mut self) {
        let Some(hook) = self.hooks.take().and_then(HookThread::finish) else { return };
        process::hear_hang_up(&self.signals, false);
        let engine = &self.hub.engine;
        let names: Vec<&[u8]> = engine.namespaces.iter().map(|one| &*one.name).collect();
        hook.close(names.into_iter(), engine.log.current().base, self.signals.as_raw_fd());
    }
}
