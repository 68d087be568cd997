//! The `zdb` program: flags in, a running server out.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use zdb::command::{HookRuns, ServerState, ServerStats, Table};
use zdb::disk::Files;
use zdb::disk::system::SystemFiles;
use zdb::engine::Engine;
use zdb::engine::log::Policy;
use zdb::engine::log::format::segment_name;
use zdb::engine::namespace;
use zdb::engine::recovery::{self, StartOptions};
use zdb::hub::Hub;
use zdb::options::{Mode, Options, SyncPolicy};
use zdb::server::background::{self, Forked, HangUp, LogFile, Terminal};
use zdb::server::hooks::{Hook, Went};
use zdb::server::{Ended, Listener, Server, crash, process};

fn main() -> ExitCode {
    let options = match Options::from_args(std::env::args_os()) {
        Ok(options) => options,
        Err(exit) => {
            if exit.code == 0 {
                print!("{}", exit.text);
            } else {
                eprint!("{}", exit.text);
            }
            return ExitCode::from(exit.code);
        }
    };
    match options.with_absolute_paths().and_then(|options| run(&options)) {
        Ok(Ended::Command) => ExitCode::SUCCESS,
        // As 0-db and the shell: 130 for SIGINT, 143 for SIGTERM.
        Ok(Ended::Signal(number)) => ExitCode::from(128 + number as u8),
        Err(line) => {
            process::warn(&line);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Ended, String> {
    let inherited = process::inherited_descriptors();
    for line in options.warnings() {
        process::warn(&line);
    }
    let refused = options.not_built_yet();
    if !refused.is_empty() {
        return Err(refused.join("\nzdb: "));
    }
    let hears_hang_up =
        options.logfile.is_some() || options.background || !process::ignores_hang_up();
    let signals = process::block_signals(hears_hang_up)?;
    process::raise_open_files();
    let (files, warnings) = SystemFiles::open(&options.data, &options.index)?;
    let mut terminal = options.background.then(Terminal::keep).transpose()?;
    // Not before the directories are locked: a second server must not empty the first one's log.
    let log = match &options.logfile {
        Some(path) => Some(LogFile::begin(path, options.background)?),
        None => None,
    };
    for line in warnings {
        process::warn(&line);
    }
    let hang_up = match log {
        Some(log) => HangUp::Reopen(log),
        None if options.background => HangUp::Ignore,
        None => HangUp::Stop,
    };
    let ended = start(options, Arc::new(files), (signals, hang_up), (&mut terminal, &inherited));
    if let (Err(line), Some(mut terminal), Some(_)) = (&ended, terminal, &options.logfile) {
        terminal.warn(line);
    }
    ended
}

/// From locked directories to the end of the server.
fn start(
    options: &Options,
    files: Arc<dyn Files>,
    (signals, hang_up): (OwnedFd, HangUp),
    (terminal, inherited): (&mut Option<Terminal>, &[RawFd]),
) -> Result<Ended, String> {
    let mut hook = match &options.hook {
        Some(path) => Some(Hook::new(
            path,
            options.instance(options.port),
            absolute(&options.data),
            absolute(&options.index),
        )?),
        None => None,
    };
    if let Some(hook) = &mut hook {
        crash::prepare(hook);
        if hook.namespaces_init(signals.as_raw_fd()) == Went::Interrupted {
            return Ok(Ended::Signal(process::take_signal(&signals)));
        }
    }
    if look_for_missing(&*files, &mut hook, &signals)? == Went::Interrupted {
        return Ok(Ended::Signal(process::take_signal(&signals)));
    }
    let mode = options.mode().map(|mode| match mode {
        Mode::User => namespace::Mode::User,
        Mode::Sequential => namespace::Mode::Sequential,
    });
    let policy = match options.sync_policy() {
        SyncPolicy::Always => Policy::Always,
        SyncPolicy::Every(period) => Policy::Every { period_ms: period.as_millis() as u64 },
        SyncPolicy::No => Policy::No,
    };
    let mut engine = recover(options, &*files, mode, policy)?;
    if options.dump {
        for namespace in engine.namespaces.iter() {
            process::say(&format!(
                "namespace {:?}: {} keys, {} bytes",
                String::from_utf8_lossy(&namespace.name),
                namespace.live_keys,
                namespace.live_bytes
            ));
        }
        engine.log.discard_buffer();
        return Ok(Ended::Command);
    }
    engine.log.rotate_ms = u64::from(options.rotate) * 1000;
    if options.maxsize > 0 {
        engine.limit_default(options.maxsize);
    }
    let mut listeners = Vec::new();
    if options.listens_on_tcp() {
        listeners.push(Listener::tcp(&options.listen, options.port)?);
    }
    if let Some(path) = &options.socket {
        listeners.push(Listener::unix(path)?);
    }
    let names: Vec<String> = listeners.iter().map(Listener::name).collect();
    let state = state(options, mode, policy, &listeners);
    if let Some(hook) = &mut hook {
        let port = listeners.iter().find_map(Listener::port).unwrap_or(options.port);
        hook.set_instance(options.instance(port));
        crash::prepare(hook);
        match hook.ready(signals.as_raw_fd()) {
            Went::Ended(0) | Went::RunsOn => {}
            went => {
                engine.log.discard_buffer();
                return Ok(match went {
                    Went::Interrupted => Ended::Signal(process::take_signal(&signals)),
                    _ => {
                        process::warn("the hook ready says no: stopping");
                        Ended::Command
                    }
                });
            }
        }
    }
    let child = if options.background {
        match background::fork(inherited)? {
            Forked::Parent(parent) => parent.finish(terminal.as_mut()),
            Forked::Child(child) => Some(child),
        }
    } else {
        None
    };
    let hub = Hub::new(engine, state, options.null);
    let server = Server::new(hub, files, listeners, hook, (signals, hang_up), options.verbose)?;
    process::say(&format!("zdb ready on {}", names.join(" and ")));
    if let Some(child) = child {
        *terminal = None;
        child.detach(options.logfile.is_some())?;
    }
    server.run()
}

/// Segments whose files are gone: a hook may bring them back; what stays away is told.
fn look_for_missing(
    files: &dyn Files,
    hook: &mut Option<Hook>,
    signals: &OwnedFd,
) -> Result<Went, String> {
    let mut missing = recovery::missing(files)?;
    if let Some(hook) = hook.as_mut().filter(|_| !missing.is_empty()) {
        for base in missing {
            if hook.missing_data(base, signals.as_raw_fd()) == Went::Interrupted {
                return Ok(Went::Interrupted);
            }
        }
        missing = recovery::missing(files)?;
    }
    if let Some(first) = missing.first() {
        process::warn(&format!(
            "damage: {} segments have a sidecar in --index but no file in --data, from {} on: their \
             records are out of reach until the files are back and zdb is started again",
            missing.len(),
            segment_name(*first)
        ));
    }
    Ok(Went::Ended(0))
}

/// Opens the log and says what was found.
fn recover(
    options: &Options,
    files: &dyn Files,
    mode: Option<namespace::Mode>,
    policy: Policy,
) -> Result<Engine, String> {
    let mut random = [0; 32];
    process::fill_random(&mut random);
    let begun = Instant::now();
    let (engine, report) = recovery::start(
        files,
        StartOptions {
            mode,
            policy,
            segment_bytes: options.datasize,
            cache_bytes: options.cache,
            // Without links, since its place is noted for the next start.
            buffer: options.buffer().map(absolute),
            random,
        },
    )?;
    process::give_back_memory();
    for line in &report.damage {
        process::warn(&format!("damage: {line}"));
    }
    process::say(&format!(
        "{} keys in {} namespaces, {} segments; {} records scanned, {} of them from the write buffer; {} ms",
        report.keys,
        report.namespaces,
        report.segments,
        report.scanned,
        report.replayed,
        begun.elapsed().as_millis()
    ));
    Ok(engine)
}

/// The same place without links, where it can be found.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

fn state(
    options: &Options,
    mode: Option<namespace::Mode>,
    policy: Policy,
    listeners: &[Listener],
) -> ServerState {
    let boot_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let path = |path: &Path| absolute(path).display().to_string();
    let mut instance = [0; 4];
    process::fill_random(&mut instance);
    let appendfsync = match policy {
        Policy::Always => "always",
        Policy::Every { .. } => "everysec",
        Policy::No => "no",
    };
    let port = listeners.iter().find_map(Listener::port).unwrap_or(0).to_string();
    let settings = vec![
        ("appendfsync", appendfsync.into()),
        ("appendonly", "yes".into()),
        ("bind", options.listen.clone()),
        ("databases", "1".into()),
        ("dir", path(&options.data)),
        ("io-threads", options.threads.to_string()),
        ("maxmemory", "0".into()),
        ("port", port),
        ("save", String::new()),
        ("timeout", "0".into()),
    ];
    ServerState {
        table: Table::new(),
        admin_password: options.admin.as_ref().map(|password| password.as_bytes().to_vec()),
        protect: options.protect,
        mode,
        data_path: path(&options.data),
        index_path: path(&options.index),
        settings,
        random: Box::new(process::fill_random),
        // As 0-db: 1 to 2^30.
        instance_id: (u32::from_le_bytes(instance) & ((1 << 30) - 1)).max(1),
        boot_s,
        hooks: HookRuns::default(),
        stats: ServerStats::default(),
    }
}
