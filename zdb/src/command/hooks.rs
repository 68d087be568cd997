//! HOOKS, and the list it shows: the hooks that run and those that ended a while ago.

use super::{Context, Outcome};
use crate::limits::HOOK_ENTRIES_MAX;
use crate::output::Output;
use crate::resp::Request;

/// How long a hook is shown after its end, in seconds.
const SHOWN_S: u64 = 300;

/// One run of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// Tells runs apart: process ids come again.
    pub number: u64,
    pub name: &'static str,
    /// Behind the name and the instance.
    pub arguments: Vec<Vec<u8>>,
    /// 0 where no process could be made.
    pub pid: u32,
    /// Unix seconds.
    pub created_s: u64,
    /// Unix seconds; 0 while it runs.
    pub finished_s: u64,
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub status: i32,
}

#[derive(Debug, Default)]
pub struct HookRuns(Vec<HookRun>);

impl HookRuns {
    pub fn begun(&mut self, run: HookRun) {
        if self.0.len() >= HOOK_ENTRIES_MAX {
            // Never more of them run at once, so there is one that has ended.
            let ended = self.0.iter().position(|run| run.finished_s != 0).unwrap_or(0);
            self.0.remove(ended);
        }
        self.0.push(run);
    }

    pub fn ended(&mut self, number: u64, finished_s: u64, status: i32) {
        if let Some(run) = self.0.iter_mut().find(|run| run.number == number) {
            run.finished_s = finished_s.max(1);
            run.status = status;
        }
    }

    /// As in 0-db nothing is forgotten while a hook runs.
    fn forget_old(&mut self, now_s: u64) {
        if self.0.iter().all(|run| run.finished_s != 0) {
            self.0.retain(|run| now_s < run.finished_s + SHOWN_S);
        }
    }
}

pub fn hooks(context: &mut Context<'_>, _request: Request<'_>, out: &mut Output) -> Outcome {
    let now_s = context.engine.now.unix_s();
    context.server.hooks.forget_old(now_s);
    let mut writer = context.writer(out);
    let HookRuns(runs) = &context.server.hooks;
    writer.array(runs.len());
    for run in runs {
        writer.array(6);
        writer.bulk(run.name.as_bytes());
        writer.array(run.arguments.len());
        run.arguments.iter().for_each(|argument| writer.bulk(argument));
        writer.integer(run.pid.into());
        writer.integer(run.created_s as i64);
        writer.integer(run.finished_s as i64);
        writer.integer(run.status.into());
    }
    Outcome::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u64) -> HookRun {
        HookRun {
            number,
            name: "ready",
            arguments: Vec::new(),
            pid: 1,
            created_s: 100,
            finished_s: 0,
            status: 0,
        }
    }

    #[test]
    fn an_end_is_forgotten_after_a_while_but_never_beside_a_running_hook() {
        let mut runs = HookRuns::default();
        runs.begun(run(1));
        runs.begun(run(2));
        runs.ended(1, 110, 3);
        runs.forget_old(110 + 2 * SHOWN_S);
        assert_eq!(runs.0.len(), 2, "one runs");
        assert_eq!((runs.0[0].finished_s, runs.0[0].status), (110, 3));
        runs.ended(2, 200, 0);
        runs.forget_old(110 + SHOWN_S);
        assert_eq!(runs.0.iter().map(|run| run.number).collect::<Vec<_>>(), [2]);
        runs.forget_old(200 + SHOWN_S);
        assert!(runs.0.is_empty());
    }

    #[test]
    fn the_list_does_not_grow_for_ever() {
        let mut runs = HookRuns::default();
        runs.begun(run(0));
        for number in 1..3 * HOOK_ENTRIES_MAX as u64 {
            runs.begun(run(number));
            runs.ended(number, 100, 0);
        }
        assert_eq!(runs.0.len(), HOOK_ENTRIES_MAX);
        assert_eq!(runs.0[0].number, 0, "the one that runs stays");
    }
}
