//! A terminal that a program runs in, typed into and read through tmux.

use crate::certificates::text;
use crate::program::run;
use crate::server::poll;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Wide enough for any line of a test, so that none is broken.
const COLUMNS: &str = "160";
const ROWS: &str = "50";
/// What takes longer does not come.
const SCREEN_TIME_MAX: Duration = Duration::from_secs(30);

/// Stands behind the exit status on the screen.
const END_SIGN: &str = " (ended)";

pub struct Terminal {
    dir: TempDir,
}

impl Terminal {
    /// Starts a program in a terminal of its own; the screen stays when the program has ended.
    #[track_caller]
    pub fn start(program: &Command) -> Terminal {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("tmux.conf"), "set -g remain-on-exit on\n")
            .expect("the settings can be written");
        let terminal = Terminal { dir };
        let mut command = terminal.tmux();
        command.arg("-f").arg(terminal.dir.path().join("tmux.conf"));
        command.args(["new-session", "-d", "-x", COLUMNS, "-y", ROWS, "--"]);
        // tmux forgets a status now and then; the shell does not.
        command.args(["sh", "-c", &format!("\"$@\"; echo exit status $?'{END_SIGN}'"), "sh"]);
        command.arg(program.get_program()).args(program.get_args());
        run(&mut command);
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        // A home of its own: no settings of the user, no history in the user's files.
        command.env("HOME", self.dir.path()).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        command.args(["-S", text(&self.dir.path().join("socket"))]);
        command
    }

    /// Types this text, without a key at its end.
    pub fn write(&self, text: &str) {
        run(self.tmux().args(["send-keys", "-l", "--", text]));
    }

    /// Presses a key by tmux's name for it: `Enter`, `C-c`, `Tab`.
    pub fn press(&self, key: &str) {
        run(self.tmux().args(["send-keys", key]));
    }

    /// Types a line and ends it.
    pub fn enter(&self, line: &str) {
        self.write(line);
        self.press("Enter");
    }

    pub fn screen(&self) -> String {
        run(self.tmux().args(["capture-pane", "-p"])).trim_end().to_owned()
    }

    /// Waits until the screen satisfies `wanted`, and returns it.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match poll(SCREEN_TIME_MAX, || Some(self.screen()).filter(|screen| wanted(screen))) {
            Some(screen) => screen,
            None => panic!("no {what} on the screen:\n{}", self.screen()),
        }
    }

    /// Waits until the program has ended, and returns its exit status as the shell tells it.
    #[track_caller]
    pub fn wait_for_end(&self) -> i32 {
        // tmux writes lines of its own below.
        let status = |screen: &str| {
            let line = screen.lines().find_map(|line| line.strip_suffix(END_SIGN))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let screen = self.wait_for("end of the program", |screen| status(screen).is_some());
        status(&screen).expect("the screen has just shown it")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The server of tmux goes, and the program with it; there is nobody left to tell.
        let _ = self.tmux().arg("kill-server").output();
    }
}
