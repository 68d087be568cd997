//! The `zdb` program: flags in, a running server out.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use zdb::command::{
    Latencies, Machine, Rates, SETTINGS_FILE_NAME, ServerState, ServerStats, Settings, SlowLog,
    Table,
};
use zdb::disk::Files;
use zdb::disk::system::SystemFiles;
use zdb::engine::log::Policy;
use zdb::engine::namespace;
use zdb::engine::recovery::{self, StartOptions};
use zdb::hub::Hub;
use zdb::options::{Mode, Options, SyncPolicy};
use zdb::server::{Ended, Listener, Server, process};

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
    match run(&options) {
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
    for line in options.warnings() {
        process::warn(&line);
    }
    let refused = options.not_built_yet();
    if !refused.is_empty() {
        return Err(refused.join("\nzdb: "));
    }
    let signals = process::block_signals()?;
    process::raise_open_files();
    let (files, warnings) = SystemFiles::open(&options.data, &options.index)?;
    for line in warnings {
        process::warn(&line);
    }
    let files: Arc<dyn Files> = Arc::new(files);
    let mut random = [0; 32];
    process::fill_random(&mut random);
    let mode = options.mode().map(|mode| match mode {
        Mode::User => namespace::Mode::User,
        Mode::Sequential => namespace::Mode::Sequential,
    });
    let settings = settings(options)?;
    let begun = Instant::now();
    let (mut engine, report) = recovery::start(
        &*files,
        StartOptions {
            mode,
            policy: settings.policy,
            segment_bytes: options.datasize,
            cache_bytes: settings.cache_bytes,
            // Absolute, since its place is noted for the next start.
            buffer: options.buffer().map(|place| place.canonicalize().unwrap_or(place.into())),
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
    engine.limit_default(settings.default_bytes_max);
    let mut listeners = Vec::new();
    if options.listens_on_tcp() {
        listeners.push(Listener::tcp(&options.listen, options.port)?);
    }
    if let Some(path) = &options.socket {
        listeners.push(Listener::unix(path)?);
    }
    let names: Vec<String> = listeners.iter().map(Listener::name).collect();
    let hub = Hub::new(engine, state(options, mode, settings, &listeners), options.null);
    let server = Server::new(hub, files, listeners, signals)?;
    process::say(&format!("zdb ready on {}", names.join(" and ")));
    server.run()
}

/// The settings of the flags, and those that CONFIG REWRITE kept where no flag gives them.
fn settings(options: &Options) -> Result<Settings, String> {
    let mut settings = Settings {
        cache_bytes: options.cache,
        default_bytes_max: options.maxsize,
        rotate_s: options.rotate.into(),
        verbose: options.verbose,
        ..Settings::default()
    };
    settings.policy = match options.sync_policy() {
        SyncPolicy::Always => Policy::Always,
        SyncPolicy::Every(period) => {
            settings.sync_period_ms = period.as_millis() as u64;
            Policy::Every { period_ms: settings.sync_period_ms }
        }
        SyncPolicy::No => Policy::No,
    };
    let path = options.data.join(SETTINGS_FILE_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => settings
            .apply_file(&text, |flag| options.is_given(flag))
            .map_err(|error| format!("{}: {error}; correct or remove it", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    }
    Ok(settings)
}

fn state(
    options: &Options,
    mode: Option<namespace::Mode>,
    settings: Settings,
    listeners: &[Listener],
) -> ServerState {
    let boot_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let path = |path: &std::path::Path| {
        path.canonicalize().unwrap_or_else(|_| path.into()).display().to_string()
    };
    let mut instance = [0; 4];
    process::fill_random(&mut instance);
    let port = listeners
        .iter()
        .map(Listener::name)
        .find_map(|name| name.rsplit_once(':').map(|(_, port)| port.to_string()))
        .unwrap_or_else(|| "0".into());
    let fixed_settings = vec![
        ("appendonly", "yes".into()),
        ("bind", options.listen.clone()),
        ("databases", "1".into()),
        ("dir", path(&options.data)),
        ("io-threads", options.threads.to_string()),
        ("maxmemory", "0".into()),
        ("port", port),
        ("save", String::new()),
    ];
    ServerState {
        table: Table::new(),
        admin_password: options.admin.as_ref().map(|password| password.as_bytes().to_vec()),
        protect: options.protect,
        mode,
        data_path: path(&options.data),
        index_path: path(&options.index),
        settings,
        fixed_settings,
        machine: Machine {
            clock_ns: process::clock_ns,
            sleep_us: process::sleep_us,
            usage: process::usage,
        },
        random: Box::new(process::fill_random),
        // As 0-db: 1 to 2^30.
        instance_id: (u32::from_le_bytes(instance) & ((1 << 30) - 1)).max(1),
        boot_s,
        stats: ServerStats::default(),
        rates: Rates::default(),
        latencies: Latencies::default(),
        slow_log: SlowLog::default(),
    }
}
