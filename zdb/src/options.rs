//! The flags of the server: one table, read by clap, and the rules that bind one flag to another.
//!
//! 0-db reads its flags with `getopt_long_only`, so start-up lines in the field hold `-port 9900`,
//! `--port=9900` and `--po 9900` alike: all three work. A flag given twice counts as given last.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::limits::{ADMIN_PASSWORD_BYTES_MAX, SCRUB_DAYS_MAX, SEGMENT_BYTES_MIN, THREADS_MAX};

/// First size of a segment that is too large: places in a segment fit 32 bits.
const SEGMENT_BYTES_END: u64 = u32::MAX as u64;
/// Time between two syncs where `--synctime` names none.
const DEFAULT_SYNC_PERIOD: Duration = Duration::from_secs(1);
/// Digits of a size before and behind the point: enough for 64 bits, and no overflow inside.
const SIZE_DIGITS_MAX: usize = 18;
/// What `--buffer` takes for "no buffer".
const NO_BUFFER: &str = "none";

/// How the server was started. SIZE is a number of bytes with an optional suffix k, M, G or T
/// (1024-based; fractions such as 1.5G are fine).
#[derive(Parser, Clone)]
#[command(
    name = "zdb",
    version,
    infer_long_args = true,
    args_override_self = true,
    about = "Append-only key-value server for one disk, speaking the Redis protocol.",
    after_help = "SIZE is bytes, or a number with a suffix k, M, G or T (1024-based, fractions \
                  allowed): 536870912, 512M, 1.5G.\n\
                  Flags may be shortened while unambiguous and written with one dash: -po 9900.\n\n\
                  zdb import --help tells how to copy the directories of a 0-db v2 into new ones; zdb check, \
                  zdb dump and zdb repair (--help) look at the directories of a stopped server.\n\
                  Example: zdb --data /disk1/data --index /disk1/index --mode seq --socket /run/zdb.sock"
)]
pub struct Options {
    /// Directory of the values; created if missing.
    #[arg(long, value_name = "DIR", default_value = "./zdb-data", help_heading = STORAGE)]
    pub data: PathBuf,
    /// Directory of the index; created if missing, must not be the one of --data.
    #[arg(long, value_name = "DIR", default_value = "./zdb-index", help_heading = STORAGE)]
    pub index: PathBuf,
    /// Open only namespaces of this mode, and create new ones in it [default: both, new ones user].
    /// user: the client names the key; seq: the server does; direct: old name of seq.
    #[arg(long, value_name = "MODE", value_enum, hide_possible_values = true, help_heading = STORAGE)]
    mode: Option<ModeFlag>,
    /// Size at which a data file is closed and the next begins, from 512k to just below 4G.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size, help_heading = STORAGE)]
    pub datasize: u64,
    /// Bytes the default namespace may hold during this run; 0 = no limit. Example: 10G.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size, help_heading = STORAGE)]
    pub maxsize: u64,

    /// Address to listen on [default: ::, which is all of IPv6 and IPv4; 0.0.0.0 where there is no IPv6].
    /// Without a password or client certificates only this machine is served.
    #[arg(long, value_name = "ADDR", help_heading = NETWORK)]
    pub listen: Option<String>,
    /// TCP port; 0 = any free one, none = no TCP but --tls-port.
    #[arg(long, value_name = "PORT|none", default_value = "9900", value_parser = parse_port, help_heading = NETWORK)]
    pub port: Port,
    /// Listen on this unix socket instead of TCP. Example: /run/zdb.sock.
    #[arg(long, value_name = "PATH", help_heading = NETWORK)]
    pub socket: Option<PathBuf>,
    /// Listen on TCP beside --socket.
    #[arg(long, help_heading = NETWORK)]
    pub dualnet: bool,

    /// TCP port for TLS 1.3, beside the others; 0 = any free one.
    #[arg(long, value_name = "PORT", requires_all = ["tls_cert", "tls_key"], help_heading = NETWORK)]
    pub tls_port: Option<u16>,
    /// Certificate of the server and those between it and its authority, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_port", help_heading = NETWORK)]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_port", help_heading = NETWORK)]
    pub tls_key: Option<PathBuf>,
    /// Authorities of the clients, as PEM: a TLS client must then show a certificate of theirs.
    #[arg(long, value_name = "FILE", requires = "tls_port", help_heading = NETWORK)]
    pub tls_ca: Option<PathBuf>,
    /// Whether the kernel encrypts TLS connections after the handshake. auto: where it can; never.
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        default_value = "auto",
        requires = "tls_port",
        help_heading = NETWORK
    )]
    tls_kernel: KernelFlag,
    /// Most clients at once; less where the limit of open files is lower.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..), help_heading = NETWORK)]
    pub maxclients: u32,
    /// Seconds of silence after which a client is let go; 0 = never.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = seconds(), help_heading = NETWORK)]
    pub timeout: u32,

    /// Password of the administrator, up to 128 bytes; without one every client is administrator. The
    /// command line shows in ps: --admin-file does not.
    #[arg(long, value_name = "PASS", help_heading = ACCESS)]
    pub admin: Option<Password>,
    /// The same from the first line of a file.
    #[arg(long, value_name = "FILE", conflicts_with = "admin", help_heading = ACCESS)]
    admin_file: Option<PathBuf>,
    /// The default namespace is read-only until SELECT with the password of --admin.
    #[arg(long, help_heading = ACCESS)]
    pub protect: bool,

    /// When writes reach the disk. always: before the reply; everysec: within a second (or
    /// --synctime); no: when the system likes. --sync alone means always.
    #[arg(
        long,
        value_name = "POLICY",
        value_enum,
        num_args = 0..=1,
        default_value = "everysec",
        default_missing_value = "always",
        help_heading = DURABILITY
    )]
    sync: SyncFlag,
    /// Seconds between two syncs, with --sync everysec; 0 = one second.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, help_heading = DURABILITY)]
    synctime: u32,
    /// Accepted and always on: a data file is synced before the next one begins.
    #[arg(long, help_heading = DURABILITY)]
    pub secure: bool,
    /// Where the write buffer lives that survives a kill of the server: a directory in memory, or
    /// none = each write waits for the disk.
    #[arg(long, value_name = "DIR|none", default_value = "/dev/shm", help_heading = DURABILITY)]
    buffer: PathBuf,

    /// Copy this server, and take no writes: host and port in one word. What REPLICAOF says later counts for
    /// more, where CONFIG REWRITE has kept it. Example: "10.0.0.1 9900".
    #[arg(long, value_name = "HOST PORT", help_heading = REPLICATION)]
    pub replicaof: Option<String>,
    /// Password that the master wants, from the first line of a file.
    #[arg(long, value_name = "FILE", help_heading = REPLICATION)]
    masterauth_file: Option<PathBuf>,
    /// Authorities of masters, as PEM: the way to the master is then encrypted by TLS 1.3, and its certificate must
    /// have the host that --replicaof names.
    #[arg(long, value_name = "FILE", help_heading = REPLICATION)]
    pub master_tls_ca: Option<PathBuf>,
    /// Certificate of this server for masters that want one (--tls-ca there), as PEM.
    #[arg(long, value_name = "FILE", requires_all = ["master_tls_ca", "master_tls_key"], help_heading = REPLICATION)]
    pub master_tls_cert: Option<PathBuf>,
    /// Private key of that certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "master_tls_cert", help_heading = REPLICATION)]
    pub master_tls_key: Option<PathBuf>,
    /// Acknowledge a write when so many replicas have it, too, as safe as --sync says. A master then begins to
    /// write only when it is sure that no other one does.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16), help_heading = REPLICATION)]
    pub min_replicas: u8,
    /// Servers that have the log, this one included; the same on each; 0 = two for each of --min-replicas, and
    /// one.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=32), help_heading = REPLICATION)]
    pub nodes: u8,
    /// Tell masters that this replica is reached under this address or name: behind NAT they see another one.
    #[arg(long, value_name = "HOST", help_heading = REPLICATION)]
    pub replica_announce_ip: Option<String>,
    /// Tell masters this port; 0 = the server's own.
    #[arg(long, value_name = "PORT", default_value_t = 0, help_heading = REPLICATION)]
    pub replica_announce_port: u16,
    /// Which replica Sentinel takes first: the lowest; 0 = never this one.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = REPLICATION)]
    pub replica_priority: u32,

    /// Threads serving clients: what clients cost in the kernel is shared by them, commands run in one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)), help_heading = RESOURCES)]
    threads: u16,
    /// How busy the first thread has to be before others take clients from it, in percent of a core; 0 = they always do.
    #[arg(long, value_name = "PERCENT", default_value_t = 95, value_parser = clap::value_parser!(u8).range(0..=100), help_heading = RESOURCES)]
    threads_busy: u8,
    /// Memory for values read lately; 0 = none.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size, help_heading = RESOURCES)]
    pub cache: u64,

    /// Program to run on events, as FILE name instance argument...; see the README for the names.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub hook: Option<PathBuf>,
    /// Close a data file so many seconds after its first record, full or not; 0 = when it is full.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = seconds(), help_heading = OPERATION)]
    pub rotate: u32,
    /// Give back the space of what no namespace wants any more (NSSET ns history): yes or no.
    #[arg(long, value_name = "yes|no", default_value = "yes", value_parser = yes_or_no, action = clap::ArgAction::Set, help_heading = OPERATION)]
    pub cleaner: bool,
    /// Bytes of data files that this works through in a second at most; 0 = no limit.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size, help_heading = OPERATION)]
    pub cleaner_rate: u64,
    /// Read closed data files again at so many bytes a second to verify them, while no client waits for
    /// the disk; 0 = never.
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size, help_heading = OPERATION)]
    pub scrub_rate: u64,
    /// Days from the beginning of one such pass to that of the next; 0 = only on DEBUG SCRUB START.
    #[arg(long, value_name = "DAYS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=SCRUB_DAYS_MAX), help_heading = OPERATION)]
    pub scrub_days: u64,
    /// Leave the terminal once the server listens.
    #[arg(long, help_heading = OPERATION)]
    pub background: bool,
    /// Write the log lines to this file, begun anew with --background; SIGHUP opens it again.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub logfile: Option<PathBuf>,
    /// Serve the numbers of the server to Prometheus, at http://ADDR/metrics, to whoever asks.
    /// Example: 127.0.0.1:9901.
    #[arg(long, value_name = "ADDR", help_heading = OPERATION)]
    pub metrics: Option<String>,
    /// Write more log lines.
    #[arg(long, help_heading = OPERATION)]
    pub verbose: bool,
    /// Load everything, print what was found, and exit without listening.
    #[arg(long, help_heading = OPERATION)]
    pub dump: bool,
    /// Answer SET and GET with constants: the limit of the loops on this machine, for the benchmark.
    #[arg(long, hide = true)]
    pub null: bool,

    /// The flags of the command line, by their long names.
    #[arg(skip)]
    given: Vec<String>,
}

const STORAGE: &str = "Storage";
const NETWORK: &str = "Network";
const ACCESS: &str = "Access";
const DURABILITY: &str = "Durability";
const REPLICATION: &str = "Replication";
const RESOURCES: &str = "Resources";
const OPERATION: &str = "Operation";

/// Where plain TCP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Number(u16),
    None,
}

/// Who names the keys of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The client, with each SET.
    User,
    /// The server: 0, 1, 2 ...
    Sequential,
}

/// When a write is on the disk for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before its reply.
    Always,
    /// At most this long after its reply.
    Every(Duration),
    /// When the kernel writes it.
    No,
}

/// A password that does not show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The server must not start: print `text`, to the standard output when `code` is 0 and else to the
/// standard error, and exit with `code`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 for --help and --version (0-db exits 1 after --help), 1 for everything refused.
    pub code: u8,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    User,
    Seq,
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelFlag {
    Auto,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SyncFlag {
    Always,
    Everysec,
    No,
}

impl Options {
    /// From the whole argument vector, program name first.
    pub fn from_args<I>(args: I) -> Result<Self, Exit>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let command = Self::command();
        let args = getopt_long_only(&command, args.into_iter().map(Into::into));
        command
            .clone()
            .try_get_matches_from(args)
            .and_then(|matches| {
                let mut options = Self::from_arg_matches(&matches)?;
                options.given = matches
                    .ids()
                    .map(clap::Id::as_str)
                    .filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
                    .map(str::to_owned)
                    .collect();
                options.check().map_err(|(kind, text)| Self::command().error(kind, text))?;
                Ok(options)
            })
            .map_err(|error| Exit {
                code: u8::from(error.use_stderr()),
                text: error.render().to_string(),
            })
    }

    /// With paths that mean the same from any directory, but for that of the socket: it is used once,
    /// and may be too long as a whole.
    pub fn with_absolute_paths(mut self) -> Result<Self, String> {
        let buffer = (self.buffer != Path::new(NO_BUFFER)).then_some(&mut self.buffer);
        let paths = [&mut self.data, &mut self.index].into_iter().chain(buffer);
        let paths = paths.chain(&mut self.hook).chain(&mut self.logfile);
        let paths = paths.chain(&mut self.tls_cert).chain(&mut self.tls_key);
        let paths = paths.chain(&mut self.tls_ca).chain(&mut self.masterauth_file);
        let paths = paths.chain(&mut self.master_tls_ca).chain(&mut self.master_tls_cert);
        let paths = paths.chain(&mut self.master_tls_key);
        for path in paths {
            *path = std::path::absolute(&*path)
                .map_err(|error| format!("no absolute path for {}: {error}", path.display()))?;
        }
        Ok(self)
    }

    /// The server's address as hooks get it, once it listens on a port.
    pub fn instance(&self, port: u16) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => format!("tcp://{}:{port}", self.listen.as_deref().unwrap_or("::")),
        }
    }

    /// Whether a flag was on the command line, by its long name.
    pub fn is_given(&self, flag: &str) -> bool {
        self.given.iter().any(|given| given == flag)
    }

    /// The mode that namespaces must have; None: any.
    pub fn mode(&self) -> Option<Mode> {
        self.mode.map(|flag| match flag {
            ModeFlag::User => Mode::User,
            ModeFlag::Seq | ModeFlag::Direct => Mode::Sequential,
        })
    }

    pub fn sync_policy(&self) -> SyncPolicy {
        match (self.sync, self.synctime) {
            (SyncFlag::Always, _) => SyncPolicy::Always,
            (SyncFlag::No, _) => SyncPolicy::No,
            (SyncFlag::Everysec, 0) => SyncPolicy::Every(DEFAULT_SYNC_PERIOD),
            (SyncFlag::Everysec, seconds) => SyncPolicy::Every(Duration::from_secs(seconds.into())),
        }
    }

    pub fn wants_kernel_tls(&self) -> bool {
        self.tls_kernel == KernelFlag::Auto
    }

    /// Directory of the write buffer; None: each write waits for the disk.
    pub fn buffer(&self) -> Option<&Path> {
        (self.buffer != Path::new(NO_BUFFER)).then_some(&self.buffer)
    }

    /// How many threads serve clients, and how busy the first is before the others do.
    pub fn threads(&self) -> (u16, u8) {
        (self.threads, self.threads_busy)
    }

    /// The port of plain TCP, where it is served.
    pub fn tcp_port(&self) -> Option<u16> {
        match self.port {
            Port::Number(port) if self.socket.is_none() || self.dualnet => Some(port),
            _ => None,
        }
    }

    pub fn has_password(&self) -> bool {
        self.admin.is_some() || self.admin_file.is_some()
    }

    /// The administrator's password, from the flag or the file.
    pub fn admin_password(&self) -> Result<Option<Password>, String> {
        match &self.admin_file {
            Some(path) => password_in("--admin-file", path).map(Some),
            None => Ok(self.admin.clone()),
        }
    }

    /// The password for the master.
    pub fn master_password(&self) -> Result<Option<Vec<u8>>, String> {
        let path = self.masterauth_file.as_deref();
        let password = path.map(|path| password_in("--masterauth-file", path)).transpose()?;
        Ok(password.map(|password| password.as_bytes().to_vec()))
    }

    /// Lines for the log: what was accepted but should be written otherwise.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.mode == Some(ModeFlag::Direct) {
            lines.push("--mode direct is an old name: running as --mode seq".to_string());
        }
        if self.dualnet && self.socket.is_none() {
            lines.push("--dualnet without --socket: listening on TCP only".to_string());
        }
        if self.port == Port::Number(0) && self.tls_port.is_some() {
            let text =
                "--port 0 serves plain TCP on any free port: for TLS alone write --port none";
            lines.push(text.to_string());
        }
        lines
    }

    /// The rules between flags, and those whose message must not repeat a password.
    fn check(&self) -> Result<(), (ErrorKind, String)> {
        let invalid = |text: String| Err((ErrorKind::InvalidValue, text));
        let conflict = |text: &str| Err((ErrorKind::ArgumentConflict, text.to_string()));

        if plain_path(&self.data) == plain_path(&self.index) {
            return conflict("--data and --index must not be the same directory");
        }
        if self.datasize < SEGMENT_BYTES_MIN || self.datasize >= SEGMENT_BYTES_END {
            return invalid(format!(
                "--datasize must be at least 512k ({SEGMENT_BYTES_MIN}) and below \
                 {SEGMENT_BYTES_END} bytes, not {}",
                self.datasize
            ));
        }
        if self.listen.as_ref().is_some_and(String::is_empty) {
            return invalid("--listen needs an address; :: for all".to_string());
        }
        if self.port == Port::None && self.tls_port.is_none() && self.socket.is_none() {
            return conflict("--port none needs --tls-port or --socket: nobody could connect");
        }
        if self.protect && !self.has_password() {
            return conflict("--protect needs --admin or --admin-file");
        }
        if let Some(text) = self.admin.as_ref().and_then(refuse_password) {
            return invalid(format!("--admin {text}"));
        }
        if self.synctime > 0 && self.sync != SyncFlag::Everysec {
            return conflict(
                "--synctime sets the period of --sync everysec: it cannot go with --sync always \
                 (or --sync alone) or --sync no",
            );
        }
        Ok(())
    }
}

/// The flags of 0-db: where a shortened word names one of them alone, it is that one.
const FLAGS_OF_0_DB: &[&str] = &[
    "data",
    "index",
    "mode",
    "datasize",
    "maxsize",
    "listen",
    "port",
    "socket",
    "dualnet",
    "admin",
    "protect",
    "sync",
    "synctime",
    "secure",
    "hook",
    "rotate",
    "background",
    "logfile",
    "verbose",
    "dump",
    "help",
    "version",
];

/// An argument vector of `getopt_long_only` in clap's terms: `-port` becomes `--port`. A word with
/// one dash after a flag that needs a value is that value (`--admin -secret`), unless it names a
/// flag itself: then a value was forgotten, and clap says so.
fn getopt_long_only(
    command: &Command,
    args: impl Iterator<Item = OsString>,
) -> impl Iterator<Item = OsString> {
    let mut given: Vec<OsString> = Vec::new();
    let mut needs_value = false;
    for (index, arg) in args.enumerate() {
        let (is_first, text) = (index == 0, arg.to_str().unwrap_or_default());
        let single_dash =
            text.strip_prefix('-').filter(|name| !name.is_empty() && !name.starts_with('-'));
        let flag = match single_dash {
            Some(name) if !is_first => whole_flag(&format!("--{name}")),
            _ => whole_flag(text),
        };
        match find_flag(command, &flag) {
            _ if is_first => given.push(arg),
            None if needs_value && single_dash.is_some() => {
                if let Some(last) = given.last_mut() {
                    last.push("=");
                    last.push(arg);
                }
                needs_value = false;
            }
            None if needs_value && !text.starts_with("--") => {
                given.push(arg);
                needs_value = false;
            }
            found => {
                needs_value = found.is_some_and(|takes_value| takes_value) && !flag.contains('=');
                // clap has these two short flags, and says what is wrong with any other.
                let is_short = matches!(text, "-h" | "-V");
                let is_flag = single_dash.is_some() || find_flag(command, &flag).is_some();
                given.push(if is_flag && !is_short { flag.into() } else { arg });
            }
        }
    }
    given.into_iter()
}

/// The word with its flag written out, where it shortens one flag of 0-db and is no whole flag of that.
fn whole_flag(word: &str) -> String {
    let (name, value) = match word.split_once('=') {
        Some((name, _)) => (name, &word[name.len()..]),
        None => (word, ""),
    };
    let Some(name) = name.strip_prefix("--").filter(|name| !name.is_empty()) else {
        return word.to_string();
    };
    let mut meant = FLAGS_OF_0_DB.iter().filter(|flag| flag.starts_with(name));
    match (FLAGS_OF_0_DB.contains(&name), meant.next(), meant.next()) {
        (false, Some(only), None) => format!("--{only}{value}"),
        _ => word.to_string(),
    }
}

/// Whether `word` is a flag, whole or shortened, perhaps with `=value`; Some(true) where the flag
/// cannot stand without a value.
fn find_flag(command: &Command, word: &str) -> Option<bool> {
    let name = word.strip_prefix("--")?.split('=').next().filter(|name| !name.is_empty())?;
    let flags = || command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    let exact = flags().find(|(long, _)| *long == name);
    let mut shortened = flags().filter(|(long, _)| long.starts_with(name));
    let (_, arg) = match (exact, shortened.next(), shortened.next()) {
        (Some(exact), _, _) => exact,
        (None, Some(only), None) => only,
        (None, Some(_), Some(_)) => return Some(false),
        (None, None, _) => return None,
    };
    let may_be_bare = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    Some(matches!(arg.get_action(), ArgAction::Set) && !may_be_bare)
}

/// The first line of a file.
pub fn password_in(flag: &str, path: &Path) -> Result<Password, String> {
    let refused = |what: &str| format!("{flag} {}: {what}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| refused(&format!("cannot read it: {error}")))?;
    let password = Password(text.lines().next().unwrap_or_default().to_string());
    match refuse_password(&password) {
        Some(text) => Err(refused(&text)),
        None => Ok(password),
    }
}

/// What is wrong with a password, in words that do not show it.
fn refuse_password(password: &Password) -> Option<String> {
    match password.as_bytes().len() {
        0 => Some("needs a password, not an empty word".to_string()),
        bytes if bytes > ADMIN_PASSWORD_BYTES_MAX => Some(format!(
            "takes a password of at most {ADMIN_PASSWORD_BYTES_MAX} bytes, not {bytes}"
        )),
        _ => None,
    }
}

fn parse_port(text: &str) -> Result<Port, String> {
    match text {
        "none" => Ok(Port::None),
        number => number
            .parse()
            .map(Port::Number)
            .map_err(|_| "a port is a number up to 65535, or none".to_string()),
    }
}

/// As CONFIG SET takes them, so that what a flag set can be read from `zdb.conf` again.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..=i64::from(i32::MAX))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no".into()),
    }
}

/// Bytes: digits, perhaps a fraction, perhaps k, M, G or T. `m` is refused as in 0-db.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let help = "a number with an optional suffix k, M, G or T (1024-based), as in 512k or 1.5G";
    let refused = || format!("a size is {help}");
    let (number, shift) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || whole.len() + fraction.len() == 0 {
        return Err(refused());
    }
    if whole.len() > SIZE_DIGITS_MAX || fraction.len() > SIZE_DIGITS_MAX {
        return Err(format!("at most {SIZE_DIGITS_MAX} digits on either side of the point"));
    }
    // 18 digits and 40 bits are 100 bits: u128 holds every product.
    let value =
        |digits: &str| digits.bytes().fold(0u128, |sum, byte| sum * 10 + u128::from(byte - b'0'));
    let bytes =
        (value(whole) << shift) + (value(fraction) << shift) / 10u128.pow(fraction.len() as u32);
    u64::try_from(bytes).map_err(|_| "more than 64 bits of bytes".to_string())
}

/// The path from the root with `.` and `..` folded away, to compare two that may not exist yet.
/// Two names of one directory through a link are caught by its lock file.
fn plain_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            _ => plain.push(part),
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Exit> {
        Options::from_args(std::iter::once("zdb").chain(line.split_whitespace()))
    }

    #[track_caller]
    fn accepted(line: &str) -> Options {
        parse(line).unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
    }

    /// Refused with exit code 1 and a text that holds `needle`.
    #[track_caller]
    fn refused(line: &str, needle: &str) {
        match parse(line) {
            Ok(_) => panic!("{line}: accepted"),
            Err(exit) => {
                assert_eq!(exit.code, 1, "{line}");
                assert!(exit.text.contains(needle), "{line}: {}", exit.text);
            }
        }
    }

    #[test]
    fn table_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let options = accepted("");
        assert_eq!(options.data, Path::new("./zdb-data"));
        assert_eq!(options.index, Path::new("./zdb-index"));
        assert_eq!(options.mode(), None);
        assert_eq!(options.datasize, 256 << 20);
        assert_eq!(options.maxsize, 0);
        assert_eq!((options.listen.as_ref(), options.tcp_port()), (None, Some(9900)));
        assert_eq!(options.socket, None);
        assert_eq!((options.tls_port, options.maxclients, options.timeout), (None, 10_000, 0));
        assert_eq!(options.admin_password(), Ok(None));
        assert_eq!(options.sync_policy(), SyncPolicy::Every(Duration::from_secs(1)));
        assert_eq!(options.buffer(), Some(Path::new("/dev/shm")));
        assert_eq!((options.threads(), options.cache), ((1, 95), 256 << 20));
        assert!(!options.protect && !options.verbose && !options.dump && !options.dualnet);
        assert!(options.warnings().is_empty());
    }

    #[test]
    fn what_was_given() {
        let options = accepted("--sync -cache=1M");
        assert!(options.is_given("sync") && options.is_given("cache"));
        assert!(!options.is_given("synctime") && !options.is_given("mode"));
    }

    #[test]
    fn all_spellings_of_a_flag() {
        for line in
            ["--port 1", "--port=1", "-port 1", "-port=1", "--po 1", "-po=1", "--port 2 -port 1"]
        {
            assert_eq!(accepted(line).port, Port::Number(1), "{line}");
        }
        assert!(accepted("--verbose -verbose").verbose);
        // A whole name wins over the longer names that begin with it.
        assert_eq!(accepted("-data a").data, Path::new("a"));
        refused("--dat a", "--dat");
        refused("--nothing", "unexpected argument '--nothing'");
        refused("-nothing", "unexpected argument '--nothing'");
        refused("stray", "stray");
    }

    #[test]
    fn values_that_begin_with_a_dash() {
        let password = |line: &str| accepted(line).admin.unwrap().as_bytes().to_vec();
        assert_eq!(password("--admin -hidden-"), b"-hidden-");
        assert_eq!(password("-admin -hidden- --protect"), b"-hidden-");
        assert_eq!(password("--admin=-port"), b"-port");
        assert_eq!(password("--admin=--protect"), b"--protect");
        refused("--admin -port 1", "a value is required for '--admin");
        refused("--admin --protect", "a value is required for '--admin");
        refused("--port", "a value is required for '--port");
        refused("--port -1", "invalid value '-1'");
        refused("--port 65536", "invalid value '65536'");
    }

    #[test]
    fn help_and_version() {
        for line in ["--help", "-help", "-h", "--he", "--version", "-V", "--port 1 --help"] {
            assert_eq!(parse(line).err().map(|exit| exit.code), Some(0), "{line}");
        }
        let help = parse("--help").err().unwrap().text;
        for heading in [STORAGE, NETWORK, ACCESS, DURABILITY, RESOURCES, OPERATION] {
            assert!(help.contains(&format!("\n{heading}:\n")), "{heading}");
        }
        let version = parse("--version").err().unwrap().text;
        assert_eq!(version, format!("zdb {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn mode() {
        assert_eq!(accepted("--mode user").mode(), Some(Mode::User));
        assert_eq!(accepted("--mode seq").mode(), Some(Mode::Sequential));
        let direct = accepted("--mode direct");
        assert_eq!(direct.mode(), Some(Mode::Sequential));
        assert_eq!(direct.warnings().len(), 1);
        refused("--mode mixed", "[possible values: user, seq, direct]");
    }

    #[test]
    fn sync() {
        let always = SyncPolicy::Always;
        let every = |seconds| SyncPolicy::Every(Duration::from_secs(seconds));
        for (line, policy) in [
            ("--sync", always),
            ("-sync", always),
            ("--sync always", always),
            ("--sync=always", always),
            ("--sync everysec", every(1)),
            ("--sync no", SyncPolicy::No),
            ("--sync=no", SyncPolicy::No),
            ("--synctime 7", every(7)),
            ("--synctime 0", every(1)),
            ("--sync everysec --synctime 7", every(7)),
            ("--sync --synctime 0", always),
            ("--sync no --sync always", always),
        ] {
            assert_eq!(accepted(line).sync_policy(), policy, "{line}");
        }
        for line in ["--sync --port 1", "--sync -port 1", "-sync -po=1"] {
            let options = accepted(line);
            assert_eq!((options.sync_policy(), options.tcp_port()), (always, Some(1)), "{line}");
        }
        for line in ["--sync --synctime 1", "--sync=no --synctime 1", "--synctime 1 --sync always"]
        {
            refused(line, "--synctime sets the period of --sync everysec");
        }
        refused("--sync sometimes", "invalid value 'sometimes'");
        refused("--synctime -1", "invalid value '-1'");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("524288", 524288),
            ("1k", 1024),
            ("1.5k", 1536),
            (".5M", 512 << 10),
            ("2.M", 2 << 20),
            ("1.5G", 1536 << 20),
            ("1T", 1 << 40),
            ("1.999", 1),
            ("0.000000000000000001T", 0),
            ("16777215T", 16777215 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            ".",
            "k",
            ".k",
            "1m",
            "1K",
            "1g",
            "1kk",
            "1 k",
            "-1",
            "+1",
            "1e3",
            "0x10",
            "1.2.3",
            "inf",
            "NaN",
            "1\u{e9}",
            "16777216T",
            "9999999999999999999",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn datasize_limits() {
        assert_eq!(accepted("--datasize 524288").datasize, 524288);
        assert_eq!(accepted("--datasize 4294967294").datasize, 4294967294);
        assert_eq!(accepted("--datasize 1.5M").datasize, 1536 << 10);
        refused("--datasize 524287", "--datasize must be at least 512k");
        refused("--datasize 4294967295", "--datasize must be at least 512k");
        refused("--datasize 4G", "--datasize must be at least 512k");
        refused("--datasize 3m", "suffix k, M, G or T");
    }

    #[test]
    fn admin_and_protect() {
        refused("--protect", "--protect needs --admin");
        assert!(accepted("--protect --admin x").protect);
        let with_password = |bytes| Options::from_args(["zdb", "--admin", &"x".repeat(bytes)]);
        assert!(with_password(ADMIN_PASSWORD_BYTES_MAX).is_ok());
        let exit = with_password(ADMIN_PASSWORD_BYTES_MAX + 1).err().unwrap();
        assert!(exit.text.contains("at most 128 bytes, not 129"));
        assert!(!exit.text.contains("xxx"), "the password is repeated");
        assert!(with_password(0).err().unwrap().text.contains("--admin needs a password"));
        refused("--admin=", "--admin needs a password");
        assert_eq!(format!("{:?}", accepted("--admin secret").admin), "Some(Password(..))");
    }

    #[test]
    fn data_and_index_differ() {
        for line in [
            "--data x --index x",
            "--data x --index ./x/",
            "--data x --index y/../x",
            "--data zdb-index",
            "--data /x --index /../x",
        ] {
            refused(line, "--data and --index must not be the same directory");
        }
        accepted("--data x --index x/index");
        refused("--data=", "a value is required for '--data");
    }

    #[test]
    fn sockets() {
        assert_eq!(accepted("--socket s").tcp_port(), None);
        assert_eq!(accepted("--socket s --dualnet").tcp_port(), Some(9900));
        assert_eq!(accepted("--socket s --port none").tcp_port(), None);
        assert_eq!(accepted("--dualnet").warnings().len(), 1);
        assert_eq!(accepted("--listen ::").listen.as_deref(), Some("::"));
        refused("--port nowhere", "a port is a number up to 65535, or none");
        refused("--port none", "--port none needs --tls-port or --socket");
        refused("--listen=", "--listen needs an address");
    }

    #[test]
    fn tls() {
        let all = "--tls-port 6380 --tls-cert c --tls-key k";
        assert_eq!(accepted(all).tls_port, Some(6380));
        assert_eq!(accepted(&format!("{all} --port none")).tcp_port(), None);
        assert_eq!(accepted(&format!("{all} --port 0 --tls-ca a")).warnings().len(), 1);
        assert!(accepted(all).wants_kernel_tls());
        assert!(!accepted(&format!("{all} --tls-kernel never")).wants_kernel_tls());
        refused("--tls-kernel never", "--tls-port <PORT>");
        refused("--tls-port 6380", "--tls-cert <FILE>");
        refused("--tls-port 6380 --tls-cert c", "--tls-key <FILE>");
        refused("--tls-ca a", "--tls-port <PORT>");
    }

    #[test]
    fn the_password_in_a_file() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("zdb-admin-file-{}", std::process::id()));
        let line = format!("--protect --admin-file {}", path.display());
        for (text, expected) in
            [("secret\n", Some("secret")), ("two\r\nlines", Some("two")), ("\n", None)]
        {
            std::fs::write(&path, text).expect("a temporary file");
            let password = accepted(&line).admin_password();
            assert_eq!(password.ok().flatten(), expected.map(|text| text.to_string().into()));
        }
        std::fs::remove_file(&path).expect("it is there");
        let text = accepted(&line).admin_password().expect_err("there is no file");
        assert!(text.contains("cannot read it"), "{text}");
        refused("--admin x --admin-file y", "cannot be used with");
    }

    /// Shortened flags that 0-db understands mean the same here, whatever flags came since.
    #[test]
    fn shortened_flags_of_0_db() {
        assert_eq!(accepted("-ma 5").maxsize, 5);
        assert_eq!(accepted("--max=6").maxsize, 6);
        assert_eq!(accepted("--maxc 6").maxclients, 6);
        assert!(accepted("--b").background);
        assert_eq!(accepted("--ad x").admin, accepted("--admin x").admin);
        assert_eq!(accepted("--adm -x").admin, accepted("--admin=-x").admin);
    }

    #[test]
    fn buffer_and_cache() {
        assert_eq!(accepted("--buffer none").buffer(), None);
        assert_eq!(accepted("--buffer ./none").buffer(), Some(Path::new("./none")));
        assert_eq!(accepted("--buffer /tmp").buffer(), Some(Path::new("/tmp")));
        assert_eq!(accepted("--cache 0").cache, 0);
        refused("--buffer=", "a value is required for '--buffer");
    }

    #[test]
    fn threads() {
        assert_eq!(accepted("--threads 64 --threads-busy 0").threads(), (64, 0));
        refused("--threads-busy 101", "invalid value '101'");
        refused("--threads 0", "invalid value '0'");
        refused("--threads 65", "invalid value '65'");
    }

    #[cfg(unix)]
    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(vec![b'd', 0xff]);
        let options = Options::from_args(["zdb".into(), "--data".into(), path.clone()]);
        assert_eq!(options.ok().map(|options| options.data), Some(path.into()));
    }
}
