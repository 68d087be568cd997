//! Hooks: real scripts that write down how they were called, that are slow, fail, and are killed.

use compat_tests::server::{Refusal, Setup, poll, scratch_dir};
use compat_tests::{Client, Reply, args};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TIME_MAX: Duration = Duration::from_secs(30);

/// A script that writes down its arguments, each in brackets, and does some more.
struct Hook {
    dir: TempDir,
}

impl Hook {
    /// `more` runs after the call was written down; `$1` is the name, `$dir` a place for its files.
    fn new(more: &str) -> Hook {
        let hook = Hook { dir: scratch_dir() };
        let dir = hook.dir.path().display();
        let text = format!(
            "#!/bin/sh\ndir={dir}\nline=\nfor word in \"$@\"; do line=\"$line[$word]\"; done\n\
             echo \"$line\" >> $dir/calls\n{more}\n"
        );
        std::fs::write(hook.path(), text).expect("the script can be written");
        std::fs::set_permissions(hook.path(), std::fs::Permissions::from_mode(0o755))
            .expect("it can be made a program");
        hook
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn setup(&self) -> Setup {
        Setup::new().flags(&["--hook", &self.path().to_string_lossy()])
    }

    /// All calls so far: the name, and what comes behind the instance.
    fn calls(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.file("calls")).unwrap_or_default();
        let call = |line: &str| {
            let (name, rest) = line.strip_prefix('[')?.split_once(']')?;
            let (_, arguments) = rest.split_once(']')?;
            Some((name.to_owned(), arguments.to_owned()))
        };
        text.lines().map(|line| call(line).unwrap_or_else(|| panic!("{line}"))).collect()
    }

    fn named(&self, name: &str) -> Vec<String> {
        let calls = self.calls().into_iter().filter(|(other, _)| other == name);
        calls.map(|(_, arguments)| arguments).collect()
    }

    /// Waits until there are so many calls of a name.
    #[track_caller]
    fn wait_for(&self, name: &str, count: usize) -> Vec<String> {
        let calls = poll(TIME_MAX, || {
            let calls = self.named(name);
            (calls.len() >= count).then_some(calls)
        });
        calls.unwrap_or_else(|| panic!("not {count} calls of {name}: {:#?}", self.calls()))
    }
}

/// The entries of HOOKS: name, arguments, and the four numbers.
fn entries(client: &mut Client) -> Vec<(String, Vec<String>, [i64; 4])> {
    let text = |reply: Reply| String::from_utf8_lossy(&reply.into_bytes()).into_owned();
    let entry = |reply: Reply| {
        let mut fields = reply.into_array().into_iter();
        let mut next = || fields.next().expect("six fields");
        let name = text(next());
        let arguments = next().into_array().into_iter().map(text).collect();
        (name, arguments, [(); 4].map(|()| next().into_integer()))
    };
    client.call(args!["HOOKS"]).into_array().into_iter().map(entry).collect()
}

#[test]
fn every_event_runs_its_hook() {
    let hook = Hook::new("");
    let mut server = hook.setup().start();
    let mut client = server.connect();
    let (data, index) = (server.data_dir(), server.index_dir());
    let place = |dir: &PathBuf, name: &str| format!("{}", dir.join(name).display());
    assert_eq!(
        hook.calls(),
        [
            ("namespaces-init".into(), format!("[{}][{}]", index.display(), data.display())),
            ("ready".into(), String::new()),
        ]
    );
    let first = std::fs::read_to_string(hook.file("calls")).expect("the calls");
    let instance = format!("[ready][tcp://127.0.0.1:{}]", server.address().port());
    assert_eq!(first.lines().nth(1), Some(&*instance));
    for (request, name, arguments) in [
        (args!["NSNEW", "name with blanks"], "namespace-created", "[name with blanks]"),
        (
            args!["NSSET", "name with blanks", "worm", "1"],
            "namespace-updated",
            "[name with blanks]",
        ),
        (args!["NSSET", "default", "lock", "0"], "namespace-updated", "[default]"),
        (args!["RELOAD", "default"], "namespace-reloaded", "[default]"),
        (args!["NSDEL", "name with blanks"], "namespace-deleted", "[name with blanks]"),
    ] {
        let before = hook.named(name).len();
        client.expect(request, Reply::ok());
        assert_eq!(hook.wait_for(name, before + 1)[before], arguments);
    }
    // What was refused is no event.
    assert!(client.call(args!["NSNEW", "default"]).is_error());
    assert!(client.call(args!["NSDEL", "missing"]).is_error());
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    let active = |client: &mut Client, name: &str| {
        let text = client.call(args!["NSINFO", "default"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().find_map(|line| line.strip_prefix(name)).expect(name).to_owned()
    };
    let old = (active(&mut client, "index_active: "), active(&mut client, "data_active: "));
    client.expect(args!["NSJUMP"], Reply::ok());
    let new = (active(&mut client, "index_active: "), active(&mut client, "data_active: "));
    let jumped = hook.wait_for("jump-data", 1);
    assert_eq!(jumped, [format!("[{}][{}]", old.1, new.1)]);
    assert_eq!(hook.named("jump-index"), [format!("[{}][{}][]", old.0, new.0)]);
    let calls = hook.calls();
    let at = |name: &str| calls.iter().position(|(other, _)| other == name).expect(name);
    assert!(at("jump-index") < at("jump-data"));
    assert_eq!(server.terminate().code(), Some(143));
    let closing = format!("[default][{}][{}][]", new.0, new.1);
    let calls = hook.calls();
    assert_eq!(
        calls[calls.len() - 2..],
        [("close".into(), String::new()), ("namespace-closing".into(), closing)]
    );
    assert!(place(&data, "").starts_with('/'), "paths are absolute");
}

/// The files of a jump are whole when its hooks run: a copy of them is the same for ever.
#[test]
fn a_jump_is_told_when_its_files_stay_as_they_are() {
    let hook = Hook::new(
        "case $1 in jump-*) cp \"$3\" $dir/copy-$1; [ \"$1\" = jump-data ] && touch $dir/done;; esac",
    );
    for policy in ["everysec", "always"] {
        let mut server = hook.setup().flags(&["--sync", policy, "--datasize", "8M"]).start();
        let mut client = server.connect();
        for number in 0..50 {
            let key = format!("{number}");
            client.expect(args!["SET", key, vec![number; 20_000]], Reply::bulk(&key));
        }
        let text = client.call(args!["NSINFO", "default"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        let path = |name: &str| {
            PathBuf::from(text.lines().find_map(|line| line.strip_prefix(name)).expect(name))
        };
        let (data, index) = (path("data_active: "), path("index_active: "));
        client.expect(args!["NSJUMP"], Reply::ok());
        for number in 0..50 {
            let key = format!("{number}");
            client.expect(args!["SET", key, vec![number; 30_000]], Reply::bulk(&key));
        }
        let done = poll(TIME_MAX, || hook.file("done").exists().then_some(()));
        assert!(done.is_some(), "{:#?}", hook.calls());
        server.terminate();
        let read = |path: PathBuf| std::fs::read(path).expect("it can be read");
        assert_eq!(read(hook.file("copy-jump-index")), read(index), "--sync {policy}");
        assert_eq!(read(hook.file("copy-jump-data")), read(data), "--sync {policy}");
        std::fs::remove_file(hook.file("done")).expect("it is there");
    }
}

/// Full files jump too.
#[test]
fn a_full_file_is_a_jump() {
    let hook = Hook::new("");
    let server = hook.setup().flags(&["--datasize", "512k"]).start();
    let mut client = server.connect();
    for number in 0..20 {
        let key = format!("{number}");
        client.expect(args!["SET", key, vec![number; 100_000]], Reply::bulk(&key));
    }
    assert!(hook.wait_for("jump-data", 3).len() >= 3);
    // Each file is left once, for the one that follows. The hooks run side by side, so their lines come
    // in any order; the names of the files are in that of the log.
    let mut jumps = hook.named("jump-data");
    jumps.sort();
    for pair in jumps.windows(2) {
        let new = pair[0].split("][").nth(1).and_then(|new| new.strip_suffix(']'));
        let old = pair[1].split("][").next().and_then(|old| old.strip_prefix('['));
        assert_eq!(new, old, "{jumps:#?}");
    }
}

#[test]
fn a_slow_hook_stalls_nobody() {
    let hook = Hook::new(
        "case $1 in jump-index|namespace-created) echo $$ >> $dir/pids; exec sleep 60;; esac",
    );
    let mut server = hook.setup().start();
    let mut client = server.connect();
    let started = Instant::now();
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
    hook.wait_for("jump-index", 1);
    hook.wait_for("namespace-created", 1);
    let mut slowest = Duration::ZERO;
    for number in 0..500 {
        let before = Instant::now();
        client.expect(args!["SET", "key", number.to_string()], Reply::bulk("key"));
        slowest = slowest.max(before.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "one SET took {slowest:?}");
    server.ask_others();
    // Other events are told meanwhile, the next jump is not.
    client.expect(args!["NSSET", "ns", "worm", "1"], Reply::ok());
    hook.wait_for("namespace-updated", 1);
    assert_eq!(hook.named("jump-index").len(), 1);
    assert!(hook.named("jump-data").is_empty(), "it follows jump-index");
    let running = entries(&mut client);
    let sleeping =
        |name: &str| running.iter().any(|(other, _, numbers)| other == name && numbers[2] == 0);
    assert!(sleeping("jump-index") && sleeping("namespace-created"), "{running:#?}");
    // A hook that never ends does not hinder the stop.
    let before = Instant::now();
    assert_eq!(server.terminate().code(), Some(143));
    assert!(before.elapsed() < Duration::from_secs(20), "the stop took {:?}", before.elapsed());
    assert!(started.elapsed() < Duration::from_secs(60), "the hooks were not waited for");
    assert_eq!(hook.named("close").len(), 1);
    kill_all(&hook);
}

/// Ends what a hook left running, by the ids that it wrote down.
fn kill_all(hook: &Hook) {
    for pid in std::fs::read_to_string(hook.file("pids")).unwrap_or_default().lines() {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() != "sleep" {
            continue;
        }
        let pid = rustix::process::Pid::from_raw(pid.parse().expect("an id")).expect("not zero");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn a_killed_hook_is_one_that_ended() {
    let hook = Hook::new(
        "case $1 in namespace-created) echo $$ > $dir/pids; exec sleep 60;; \
         namespace-updated) exit 7;; esac",
    );
    let server = hook.setup().start();
    let mut client = server.connect();
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    hook.wait_for("namespace-created", 1);
    let pid = poll(TIME_MAX, || {
        std::fs::read_to_string(hook.file("pids")).ok()?.trim().parse::<i64>().ok()
    });
    let pid = pid.expect("the hook has written its id");
    let entry = |client: &mut Client, name: &str| {
        entries(client).into_iter().find(|(other, ..)| other == name).expect(name)
    };
    let (_, arguments, numbers) = entry(&mut client, "namespace-created");
    assert_eq!(arguments, ["ns"]);
    assert_eq!((numbers[0], numbers[2], numbers[3]), (pid, 0, 0));
    // The shell writes its id first and becomes the sleep afterwards.
    let comm = format!("/proc/{pid}/comm");
    poll(TIME_MAX, || (std::fs::read_to_string(&comm).ok()?.trim() == "sleep").then_some(()))
        .expect("the hook sleeps");
    kill_all(&hook);
    let ended = poll(TIME_MAX, || {
        let (_, _, numbers) = entry(&mut client, "namespace-created");
        (numbers[2] != 0).then_some(numbers)
    });
    let numbers = ended.expect("its end is seen");
    assert_eq!(numbers[3], 128 + 9);
    assert!(numbers[2] >= numbers[1]);
    client.expect(args!["NSSET", "ns", "worm", "1"], Reply::ok());
    let failed = poll(TIME_MAX, || {
        entries(&mut client)
            .into_iter()
            .find(|(name, _, numbers)| name == "namespace-updated" && numbers[2] != 0)
    });
    assert_eq!(failed.expect("its end is seen").2[3], 7);
    // Nobody is left to be waited for.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid()));
    assert_eq!(children.expect("the list of children").trim(), "");
}

/// What a program shows of itself that the script becomes, by the name of the hook.
#[track_caller]
fn shown_by(program: &str) -> Vec<(&'static str, String)> {
    // Not what the shell shows of itself: it has files of its own, and blocks signals now and then.
    let hook = Hook::new(&format!("exec {program} > $dir/shown-$1"));
    let mut server = hook.setup().start();
    let mut client = server.connect();
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    client.expect(args!["NSNEW", "ns"], Reply::ok());
    hook.wait_for("namespace-created", 1);
    server.terminate();
    let names = ["ready", "namespace-created", "close"];
    let read = |name: &'static str| {
        let text = poll(TIME_MAX, || {
            let text = std::fs::read_to_string(hook.file(&format!("shown-{name}"))).ok()?;
            text.ends_with('\n').then_some(text)
        });
        (name, text.unwrap_or_else(|| panic!("{program} of {name}")))
    };
    names.map(read).into()
}

/// A hook starts with nothing of ours but its output.
#[test]
fn a_hook_inherits_nothing() {
    for (name, files) in shown_by("ls -l /proc/self/fd") {
        for (left, file) in files.lines().filter_map(|line| line.split_once(" -> ")) {
            let number = left.split_whitespace().last().unwrap_or_default();
            match number {
                "0" => assert_eq!(file, "/dev/null", "{name}"),
                "1" => assert!(file.ends_with(&format!("shown-{name}")), "{name}: {file}"),
                "2" => assert!(file.starts_with("pipe:"), "{name}: {file}"),
                // The directory that it lists.
                _ => assert!(file.starts_with("/proc/"), "{name}: {number} -> {file}"),
            }
        }
    }
    for (name, status) in shown_by("cat /proc/self/status") {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
        assert_eq!(u64::from_str_radix(mask.trim(), 16), Ok(0), "{name}: blocked signals");
    }
}

#[test]
fn a_server_that_is_not_ready_ends_in_order() {
    let hook = Hook::new("[ $1 != ready ]");
    let refusal: Refusal = match hook.setup().try_start() {
        Ok(_) => panic!("the hook said no"),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.code, Some(0), "{refusal:?}");
    assert!(refusal.log.iter().any(|line| line.contains("ready")), "{refusal:?}");
    // The same where there is no such program.
    let setup = Setup::new().flags(&["--hook", "/no/such/program"]);
    let refusal = setup.try_start().err().expect("there is no hook");
    assert_eq!(refusal.code, Some(0), "{refusal:?}");
    assert!(refusal.log.iter().any(|line| line.contains("/no/such/program")), "{refusal:?}");
    // Whatever else ends badly is no reason.
    let hook = Hook::new("[ $1 = ready ]");
    let mut server = hook.setup().start();
    server.connect().expect(args!["NSNEW", "ns"], Reply::ok());
    hook.wait_for("namespace-created", 1);
    assert_eq!(server.terminate().code(), Some(143));
}

/// A start that waits for its hook can be ended.
#[test]
fn a_stop_does_not_wait_for_ready() {
    let hook = Hook::new("if [ $1 = ready ]; then echo $$ > $dir/pids; exec sleep 60; fi");
    let mut server = Setup::new().start();
    server.terminate();
    server.set_flags(&["--hook", &hook.path().to_string_lossy()]);
    server.resume_unready();
    hook.wait_for("ready", 1);
    assert_eq!(server.terminate().code(), Some(143));
    kill_all(&hook);
}

/// The hook `close` is waited for, unless the stop is asked for again.
#[test]
fn a_second_stop_does_not_wait_for_close() {
    let hook = Hook::new("if [ $1 = close ]; then echo $$ > $dir/pids; exec sleep 60; fi");
    let mut server = hook.setup().start();
    let pid = rustix::process::Pid::from_raw(server.pid() as i32).expect("not zero");
    let stop = || rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    stop().expect("our own child");
    hook.wait_for("close", 1);
    let written = poll(TIME_MAX, || hook.file("pids").exists().then_some(()));
    assert!(written.is_some() && server.is_running(), "it waits");
    let before = Instant::now();
    assert_eq!(server.terminate().code(), Some(143));
    assert!(before.elapsed() < Duration::from_secs(20), "the stop took {:?}", before.elapsed());
    assert!(hook.named("namespace-closing").is_empty());
    kill_all(&hook);
}

/// A file that is missing is asked for, and used when it comes back.
#[test]
fn a_missing_file_comes_back() {
    let hook =
        Hook::new("if [ $1 = missing-data ]; then mv $dir/away/$(basename $3) $3 2>/dev/null; fi");
    let mut server = hook.setup().flags(&["--datasize", "512k"]).start();
    let mut client = server.connect();
    for number in 0..20 {
        let key = format!("{number}");
        client.expect(args!["SET", key, vec![number; 100_000]], Reply::bulk(&key));
    }
    server.terminate();
    let away = hook.file("away");
    std::fs::create_dir(&away).expect("a place for them");
    let mut names: Vec<_> = std::fs::read_dir(server.data_dir())
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().ends_with(".log"))
        .collect();
    names.sort();
    for name in &names[1..3] {
        std::fs::rename(server.data_dir().join(name), away.join(name)).expect("it can be moved");
    }
    server.resume();
    let asked: Vec<String> = names[1..3]
        .iter()
        .map(|name| format!("[{}]", server.data_dir().join(name).display()))
        .collect();
    assert_eq!(hook.named("missing-data"), asked);
    let mut client = server.connect();
    for number in 0..20 {
        client.expect(args!["GET", number.to_string()], Reply::bulk(vec![number; 100_000]));
    }
    assert!(!server.log().iter().any(|line| line.contains("out of reach")));
    // One that stays away is told.
    server.terminate();
    std::fs::remove_file(server.data_dir().join(&names[1])).expect("it can be removed");
    server.resume();
    server.wait_for_log("the missing file", |line| line.contains("out of reach"));
    server.connect().expect(args!["GET", "19"], Reply::bulk(vec![19; 100_000]));
}

#[test]
fn a_crash_runs_its_hook() {
    for signal in [rustix::process::Signal::SEGV, rustix::process::Signal::ABORT] {
        let hook = Hook::new("cat /proc/$$/status > $dir/status; touch $dir/done");
        let mut server = hook.setup().start();
        server.connect().expect(args!["SET", "key", "value"], Reply::bulk("key"));
        let pid = rustix::process::Pid::from_raw(server.pid() as i32).expect("not zero");
        rustix::process::kill_process(pid, signal).expect("our own child");
        let status = server.wait();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(signal.as_raw()), "it ends as it would have");
        let done = poll(TIME_MAX, || {
            (hook.named("crash").len() == 1 && hook.file("done").exists()).then_some(())
        });
        assert!(done.is_some(), "{:#?}", hook.calls());
        assert!(hook.named("close").is_empty());
        let instance = format!("[crash][tcp://127.0.0.1:{}]", server.address().port());
        let text = std::fs::read_to_string(hook.file("calls")).expect("the calls");
        assert_eq!(text.lines().last(), Some(&*instance));
        server.resume();
        server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
    }
}

/// Thousands of events: not thousands of processes at once, and none told twice or out of its order.
#[test]
fn a_storm_of_events() {
    let hook = Hook::new("");
    let mut server = hook.setup().start();
    let mut client = server.connect();
    for number in 0..200 {
        client.expect(args!["NSNEW", format!("ns{number}")], Reply::ok());
    }
    server.ask_others();
    let mut created = hook.wait_for("namespace-created", 200);
    created.sort();
    created.dedup();
    assert_eq!(created.len(), 200);
    let shown = entries(&mut client);
    assert!(shown.len() >= 200 && shown.len() <= 256, "{}", shown.len());
    server.terminate();
    assert_eq!(hook.named("namespace-closing").len(), 201);
}

#[test]
fn the_unix_socket_is_the_instance() {
    let hook = Hook::new("");
    let socket = hook.file("socket");
    let socket = socket.to_string_lossy();
    let mut server = hook.setup().flags(&["--socket", &socket]).without_port().start();
    server.terminate();
    let text = std::fs::read_to_string(hook.file("calls")).expect("the calls");
    for line in text.lines() {
        assert!(line.contains(&format!("][unix://{socket}]")), "{line}");
    }
    assert!(text.contains("[ready]") && text.contains("[close]"), "{text}");
}
