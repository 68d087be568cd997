//! The `zdb` program: flags in, a running server out.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use zdb::command::replication::{Address, Replication, is_host};
use zdb::command::{
    Channels, HookRuns, Latencies, Machine, Rates, SETTINGS_FILE_NAME, ServerState, ServerStats,
    Settings, SlowLog, Table, Throttle,
};
use zdb::disk::Files;
use zdb::disk::system::SystemFiles;
use zdb::engine::Engine;
use zdb::engine::log::Policy;
use zdb::engine::log::format::segment_name;
use zdb::engine::namespace;
use zdb::engine::recovery::{self, StartOptions};
use zdb::hub::Hub;
use zdb::limits::{HOST_BYTES_MAX, OPEN_FILES_RESERVE};
use zdb::options::{Mode, Options, Password, SyncPolicy};
use zdb::server::background::{self, Forked, HangUp, LogFile, Terminal};
use zdb::server::hooks::{Hook, Went};
use zdb::server::metrics::MetricsListener;
use zdb::server::{
    Ended, Listener, MasterTls, MasterTlsFiles, Server, Tls, TlsFiles, Wire, crash, process,
};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "import") {
        return zdb::import::main(std::env::args_os().skip(2));
    }
    if let Some(word) = std::env::args_os().nth(1)
        && let Some(code) = zdb::offline::main(&word, std::env::args_os().skip(2))
    {
        return code;
    }
    if let Some(word) = std::env::args_os().nth(1)
        && let Some(code) = zdb::backup::main(&word, std::env::args_os().skip(2))
    {
        return code;
    }
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
    let has_files_to_read_again = options.logfile.is_some() || options.tls_port.is_some();
    let hears_hang_up =
        has_files_to_read_again || options.background || !process::ignores_hang_up();
    let signals = process::block_signals(hears_hang_up)?;
    let admin_password = options.admin_password()?;
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
        None if options.background || has_files_to_read_again => HangUp::Ignore,
        None => HangUp::Stop,
    };
    let start = Start { options, admin_password, signals, hears_hang_up, hang_up, inherited };
    let ended = start.run(Arc::new(files), &mut terminal);
    if let (Err(line), Some(mut terminal), Some(_)) = (&ended, terminal, &options.logfile) {
        terminal.warn(line);
    }
    ended
}

/// A server whose directories are locked.
struct Start<'a> {
    options: &'a Options,
    admin_password: Option<Password>,
    signals: OwnedFd,
    hears_hang_up: bool,
    hang_up: HangUp,
    /// Descriptors that whoever started us left open.
    inherited: Vec<RawFd>,
}

impl Start<'_> {
    /// Loads, listens, perhaps leaves the terminal, and serves.
    fn run(self, files: Arc<dyn Files>, terminal: &mut Option<Terminal>) -> Result<Ended, String> {
        let options = self.options;
        let open_files_max = process::raise_open_files();
        let mut hook = self.hook()?;
        if let Some(hook) = &mut hook {
            crash::prepare(hook);
            if hook.namespaces_init(self.signals.as_raw_fd()) == Went::Interrupted {
                return Ok(self.interrupted());
            }
        }
        let (went, missing) = self.look_for_missing(&*files, &mut hook)?;
        if went == Went::Interrupted {
            return Ok(self.interrupted());
        }
        let mode = options.mode().map(|mode| match mode {
            Mode::User => namespace::Mode::User,
            Mode::Sequential => namespace::Mode::Sequential,
        });
        let mut settings = settings(options)?;
        let mut engine = recover(options, &*files, mode, &settings)?;
        if options.dump {
            dump(&mut engine);
            return Ok(Ended::Command);
        }
        engine.limit_default(settings.default_bytes_max);
        let (listeners, tls) = listen(options)?;
        let metrics = options.metrics.as_deref().map(MetricsListener::bind).transpose()?;
        if let Some(metrics) = &metrics {
            process::say(&format!("metrics on {}", metrics.name()));
        }
        let names: Vec<String> = listeners.iter().map(Listener::name).collect();
        let clients_possible = clients_possible(settings.clients_max, open_files_max);
        settings.clients_max = settings.clients_max.min(clients_possible);
        let mut state = state(options, mode, settings, &listeners);
        state.clients_possible = clients_possible;
        state.tls_kernel = tls.as_ref().is_some_and(|tls| tls.kernel().is_ok());
        state.replication.master_password = options.master_password()?;
        state.admin_password =
            self.admin_password.as_ref().map(|password| password.as_bytes().to_vec());
        warn_of_strangers(&state, &listeners);
        if let Some(hook) = &mut hook
            && let Some(ended) = self.ask_ready(hook, &listeners)
        {
            engine.log.discard_buffer();
            return Ok(ended);
        }
        let child = if options.background {
            match background::fork(&self.inherited)? {
                Forked::Parent(parent) => parent.finish(terminal.as_mut()),
                Forked::Child(child) => Some(child),
            }
        } else {
            None
        };
        // Not before: a hook at the start waits for its own end, and the files were just opened.
        if self.hears_hang_up {
            process::hear_hang_up(&self.signals, true);
        }
        let hub = Hub::new(engine, state, options.null);
        let signals = (self.signals, self.hang_up);
        let reopen = {
            let options = options.clone();
            move |files: &dyn Files, settings: &Settings| {
                let more =
                    recovery::missing(files)?.into_iter().find(|base| !missing.contains(base));
                if let Some(base) = more {
                    return Err(format!(
                        "segment {} was moved away, and the log cannot be opened again without it: bring its file \
                         back, and start zdb again",
                        segment_name(base)
                    ));
                }
                let mut engine = recover(&options, files, mode, settings)?;
                engine.limit_default(settings.default_bytes_max);
                Ok(engine)
            }
        };
        let server = Server::new(
            hub,
            (files, Box::new(reopen)),
            listeners,
            (hook, metrics),
            (tls, master_tls(options)?),
            signals,
            options.threads(),
        )?;
        process::say(&format!("zdb ready on {}", names.join(" and ")));
        if let Some(child) = child {
            *terminal = None;
            child.detach(options.logfile.is_some())?;
        }
        server.run()
    }

    fn interrupted(&self) -> Ended {
        Ended::Signal(process::take_signal(&self.signals))
    }

    fn hook(&self) -> Result<Option<Hook>, String> {
        let options = self.options;
        let Some(path) = &options.hook else { return Ok(None) };
        let instance = options.instance(options.tcp_port().unwrap_or(0));
        let (data, index) = (absolute(&options.data), absolute(&options.index));
        Hook::new(path, instance, data, index).map(Some)
    }

    /// Segments whose files are gone: a hook may bring them back; what stays away is told, and returned.
    fn look_for_missing(
        &self,
        files: &dyn Files,
        hook: &mut Option<Hook>,
    ) -> Result<(Went, Vec<u64>), String> {
        let mut missing = recovery::missing(files)?;
        if let Some(hook) = hook.as_mut().filter(|_| !missing.is_empty()) {
            for base in missing {
                if hook.missing_data(base, self.signals.as_raw_fd()) == Went::Interrupted {
                    return Ok((Went::Interrupted, Vec::new()));
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
        Ok((Went::Ended(0), missing))
    }

    /// Runs the hook `ready`. Returns how the server ends where it is not to serve.
    fn ask_ready(&self, hook: &mut Hook, listeners: &[Listener]) -> Option<Ended> {
        let port = listeners.iter().find_map(Listener::port).unwrap_or(0);
        hook.set_instance(self.options.instance(port));
        crash::prepare(hook);
        match hook.ready(self.signals.as_raw_fd()) {
            Went::Ended(0) | Went::RunsOn => None,
            Went::Interrupted => Some(self.interrupted()),
            Went::Ended(_) => {
                process::warn("the hook ready says no: stopping");
                Some(Ended::Command)
            }
        }
    }
}

/// Opens the log and says what was found.
fn recover(
    options: &Options,
    files: &dyn Files,
    mode: Option<namespace::Mode>,
    settings: &Settings,
) -> Result<Engine, String> {
    let mut random = [0; 32];
    process::fill_random(&mut random);
    let begun = Instant::now();
    let (mut engine, report) = recovery::start(
        files,
        StartOptions {
            mode,
            policy: settings.policy,
            segment_bytes: options.datasize,
            cache_bytes: settings.cache_bytes,
            // Without links, since its place is noted for the next start.
            buffer: options.buffer().map(absolute),
            random,
        },
    )?;
    engine.log.rotate_ms = settings.rotate_s * 1000;
    engine.cleaner.options = zdb::engine::cleaner::Options {
        is_on: settings.cleaner,
        rate_bytes: settings.cleaner_rate_bytes,
    };
    engine.scrub.set(settings.scrub_rate, settings.scrub_days);
    engine.away.has_hook = options.hook.is_some();
    process::give_back_memory();
    if let Some(line) = &report.aside {
        process::warn(line);
    }
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

/// What `--dump` shows.
fn dump(engine: &mut Engine) {
    for namespace in engine.namespaces.iter() {
        process::say(&format!(
            "namespace {:?}: {} keys, {} bytes",
            String::from_utf8_lossy(&namespace.name),
            namespace.live_keys,
            namespace.live_bytes
        ));
    }
    engine.log.discard_buffer();
}

fn listen(options: &Options) -> Result<(Vec<Listener>, Option<Tls>), String> {
    let mut listeners = Vec::new();
    let address = options.listen.as_deref();
    if let Some(port) = options.tcp_port() {
        listeners.push(Listener::tcp(address, port, Wire::Plain)?);
    }
    if let Some(path) = &options.socket {
        listeners.push(Listener::unix(path)?);
    }
    let new_tls = |files| Tls::new(files, options.wants_kernel_tls());
    let tls = tls_files(options).map(new_tls).transpose()?;
    if let Some(Err(reason)) = tls.as_ref().map(Tls::kernel)
        && options.verbose
    {
        process::say(&format!("TLS without the kernel ({reason})"));
    }
    if let Some(port) = options.tls_port {
        let verifies = options.tls_ca.is_some();
        listeners.push(Listener::tcp(address, port, Wire::Tls { verifies })?);
    }
    Ok((listeners, tls))
}

/// The same place without links, where it can be found.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

/// The settings of the flags, and those that CONFIG REWRITE kept where no flag gives them.
fn settings(options: &Options) -> Result<Settings, String> {
    let mut settings = Settings {
        cache_bytes: options.cache,
        default_bytes_max: options.maxsize,
        rotate_s: options.rotate.into(),
        cleaner: options.cleaner,
        cleaner_rate_bytes: options.cleaner_rate,
        scrub_rate: options.scrub_rate,
        scrub_days: options.scrub_days,
        clients_max: options.maxclients.into(),
        timeout_s: options.timeout.into(),
        verbose: options.verbose,
        replica_of: options.replicaof.clone().unwrap_or_default(),
        min_replicas: options.min_replicas.into(),
        nodes: options.nodes.into(),
        replica_priority: options.replica_priority,
        announce_host: options.replica_announce_ip.clone().unwrap_or_default(),
        announce_port: options.replica_announce_port,
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
    if let Some(text) = &options.replicaof
        && Address::parse(text).is_none()
    {
        return Err(format!(
            "--replicaof {text:?}: it takes a host and a port, as in \"10.0.0.1 9900\""
        ));
    }
    if let Some(host) = &options.replica_announce_ip
        && !is_host(host)
    {
        return Err(format!(
            "--replica-announce-ip {host:?}: it takes the name or the address of a host, of up to {HOST_BYTES_MAX} signs \
             without blanks and commas"
        ));
    }
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

/// The files of TLS, where there is a port for it: the flags need each other.
fn tls_files(options: &Options) -> Option<TlsFiles> {
    options.tls_port?;
    Some(TlsFiles {
        certificate: options.tls_cert.clone()?,
        key: options.tls_key.clone()?,
        authority: options.tls_ca.clone(),
    })
}

/// How the way to a master is encrypted, if it is.
fn master_tls(options: &Options) -> Result<Option<MasterTls>, String> {
    let Some(authority) = options.master_tls_ca.clone() else { return Ok(None) };
    let certificate = options.master_tls_cert.clone().zip(options.master_tls_key.clone());
    MasterTls::new(&MasterTlsFiles { authority, certificate }).map(Some)
}

/// As many clients as may be open beside the files that the server needs.
fn clients_possible(wanted: u64, open_files_max: u64) -> u64 {
    let reserve = OPEN_FILES_RESERVE.min(open_files_max / 2);
    let spare = open_files_max.saturating_sub(process::open_files() + reserve).max(1);
    if spare < wanted {
        process::warn(&format!(
            "warning: at most {spare} clients instead of maxclients {wanted}: the limit of open files is \
             {open_files_max}; raise it (ulimit -n, LimitNOFILE)"
        ));
    }
    spare
}

/// Protected mode would otherwise show only where a client is turned away.
fn warn_of_strangers(state: &ServerState, listeners: &[Listener]) {
    let is_open = |one: &Listener| !one.is_local() && one.wire() != Wire::Tls { verifies: true };
    if state.admin_password.is_none() && listeners.iter().any(is_open) {
        process::warn(
            "protected mode: without --admin-file or --admin only clients of this machine are served (and \
             those with a certificate, where --tls-ca is given)",
        );
    }
}

/// What tells this run of the server from others: 40 hexadecimal digits, as in Redis.
fn run_id() -> String {
    let mut bytes = [0; 20];
    process::fill_random(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn state(
    options: &Options,
    mode: Option<namespace::Mode>,
    settings: Settings,
    listeners: &[Listener],
) -> ServerState {
    let boot_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let path = |path: &Path| absolute(path).display().to_string();
    let mut instance = [0; 4];
    process::fill_random(&mut instance);
    let is_plain = |one: &&Listener| one.wire() == Wire::Plain && one.port().is_some();
    let port = |found: Option<&Listener>| found.and_then(Listener::port).unwrap_or(0).to_string();
    let by_tls = |one: &&Listener| one.wire() != Wire::Plain;
    // Others reach this server as it reaches its master.
    let own_port = match &options.master_tls_ca {
        Some(_) => listeners.iter().find(by_tls).or(listeners.first()),
        None => listeners.iter().find(is_plain).or(listeners.first()),
    };
    let own_port = own_port.and_then(Listener::port).unwrap_or(0);
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    let fixed_settings = vec![
        ("appendonly", "yes".into()),
        ("bind", options.listen.clone().unwrap_or_else(|| "::".into())),
        ("databases", "1".into()),
        ("dir", path(&options.data)),
        ("io-threads", options.threads().0.to_string()),
        ("maxmemory", "0".into()),
        ("port", port(listeners.iter().find(is_plain))),
        ("protected-mode", yes_no(!options.has_password())),
        ("save", String::new()),
        ("tls-auth-clients", yes_no(options.tls_ca.is_some())),
        ("tls-port", port(listeners.iter().find(|one| one.wire() != Wire::Plain))),
        ("unixsocket", options.socket.as_deref().map(path).unwrap_or_default()),
    ];
    ServerState {
        table: Table::new(),
        admin_password: None,
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
        clients_possible: u64::MAX,
        throttle: Throttle::default(),
        hooks: HookRuns::default(),
        stats: ServerStats::default(),
        rates: Rates::default(),
        latencies: Latencies::default(),
        slow_log: SlowLog::default(),
        channels: Channels::default(),
        tls_kernel: false,
        replication: Replication { run_id: run_id(), port: own_port, ..Replication::default() },
    }
}
