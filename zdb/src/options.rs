//! The flags of the server: one table, read by clap, and the rules that bind one flag to another.
//!
//! 0-db reads its flags with `getopt_long_only`, so start-up lines in the field hold `-port 9900`,
//! `--port=9900` and `--po 9900` alike: all three work. A flag given twice counts as given last.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Command, CommandFactory, Parser, ValueEnum};

use crate::limits::{ADMIN_PASSWORD_BYTES_MAX, SEGMENT_BYTES_MIN};

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

    /// Address to listen on; :: for all of IPv6 and IPv4.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1", help_heading = NETWORK)]
    pub listen: String,
    /// TCP port; 0 = any free one.
    #[arg(long, default_value_t = 9900, help_heading = NETWORK)]
    pub port: u16,
    /// Listen on this unix socket instead of TCP. Example: /run/zdb.sock.
    #[arg(long, value_name = "PATH", help_heading = NETWORK)]
    pub socket: Option<PathBuf>,
    /// Listen on TCP beside --socket.
    #[arg(long, help_heading = NETWORK)]
    pub dualnet: bool,

    /// Password of the administrator, up to 128 bytes; without it every client is one.
    #[arg(long, value_name = "PASS", help_heading = ACCESS)]
    pub admin: Option<Password>,
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

    /// Threads serving clients.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), help_heading = RESOURCES)]
    pub threads: u16,
    /// Memory for values read lately; 0 = none.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size, help_heading = RESOURCES)]
    pub cache: u64,

    /// Program to run on events, as FILE name instance argument...; see the README for the names.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub hook: Option<PathBuf>,
    /// Close a data file so many seconds after its first record, full or not; 0 = when it is full.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, help_heading = OPERATION)]
    pub rotate: u32,
    /// Leave the terminal once the server listens.
    #[arg(long, help_heading = OPERATION)]
    pub background: bool,
    /// Write the log lines to this file, begun anew with --background; SIGHUP opens it again.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub logfile: Option<PathBuf>,
    /// Write more log lines.
    #[arg(long, help_heading = OPERATION)]
    pub verbose: bool,
    /// Load everything, print what was found, and exit without listening.
    #[arg(long, help_heading = OPERATION)]
    pub dump: bool,
    /// Answer SET and GET with constants: the limit of the loops on this machine, for the benchmark.
    #[arg(long, hide = true)]
    pub null: bool,
}

const STORAGE: &str = "Storage";
const NETWORK: &str = "Network";
const ACCESS: &str = "Access";
const DURABILITY: &str = "Durability";
const RESOURCES: &str = "Resources";
const OPERATION: &str = "Operation";

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
        Self::try_parse_from(args)
            .and_then(|options| {
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
        let paths = [&mut self.data, &mut self.index].into_iter();
        for path in paths.chain(&mut self.hook).chain(&mut self.logfile).chain(buffer) {
            *path = std::path::absolute(&*path)
                .map_err(|error| format!("no absolute path for {}: {error}", path.display()))?;
        }
        Ok(self)
    }

    /// The server's address as hooks get it, once it listens on a port.
    pub fn instance(&self, port: u16) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => format!("tcp://{}:{port}", self.listen),
        }
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

    /// Directory of the write buffer; None: each write waits for the disk.
    pub fn buffer(&self) -> Option<&Path> {
        (self.buffer != Path::new(NO_BUFFER)).then_some(&self.buffer)
    }

    /// True where the server listens on `listen`:`port`.
    pub fn listens_on_tcp(&self) -> bool {
        self.socket.is_none() || self.dualnet
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
        lines
    }

    /// A line for each flag in use whose work is not built. The server refuses to start on any.
    pub fn not_built_yet(&self) -> Vec<String> {
        [("--threads above 1", self.threads > 1)]
            .into_iter()
            .filter(|(_, is_used)| *is_used)
            .map(|(flag, _)| {
                format!("{flag} is not built yet: refusing to start rather than ignore it")
            })
            .collect()
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
        if self.listen.is_empty() {
            return invalid("--listen needs an address; :: for all".to_string());
        }
        match self.admin.as_ref().map(|password| password.as_bytes().len()) {
            None if self.protect => return conflict("--protect needs --admin"),
            Some(0) => return invalid("--admin needs a password, not an empty word".to_string()),
            Some(bytes) if bytes > ADMIN_PASSWORD_BYTES_MAX => {
                return invalid(format!(
                    "--admin takes a password of at most {ADMIN_PASSWORD_BYTES_MAX} bytes, not {bytes}"
                ));
            }
            _ => {}
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
            Some(name) if !is_first => format!("--{name}"),
            _ => text.to_string(),
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
                given.push(if single_dash.is_some() && !is_short { flag.into() } else { arg });
            }
        }
    }
    given.into_iter()
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

/// Bytes: digits, perhaps a fraction, perhaps k, M, G or T. `m` is refused as in 0-db.
fn parse_size(text: &str) -> Result<u64, String> {
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
        assert_eq!((options.listen.as_str(), options.port), ("127.0.0.1", 9900));
        assert_eq!(options.socket, None);
        assert!(options.listens_on_tcp());
        assert_eq!(options.admin, None);
        assert_eq!(options.sync_policy(), SyncPolicy::Every(Duration::from_secs(1)));
        assert_eq!(options.buffer(), Some(Path::new("/dev/shm")));
        assert_eq!((options.threads, options.cache), (1, 256 << 20));
        assert!(!options.protect && !options.verbose && !options.dump && !options.dualnet);
        assert!(options.warnings().is_empty());
        assert!(options.not_built_yet().is_empty());
    }

    #[test]
    fn all_spellings_of_a_flag() {
        for line in
            ["--port 1", "--port=1", "-port 1", "-port=1", "--po 1", "-po=1", "--port 2 -port 1"]
        {
            assert_eq!(accepted(line).port, 1, "{line}");
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
            assert_eq!((options.sync_policy(), options.port), (always, 1), "{line}");
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
        assert!(!accepted("--socket s").listens_on_tcp());
        assert!(accepted("--socket s --dualnet").listens_on_tcp());
        assert_eq!(accepted("--dualnet").warnings().len(), 1);
        assert_eq!(accepted("--listen ::").listen, "::");
        refused("--listen=", "--listen needs an address");
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
    fn what_is_not_built_is_named() {
        let lines = accepted("--threads 2").not_built_yet();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("--threads above 1 is"), "{}", lines[0]);
        assert!(accepted("--rotate 7 --threads 1 --secure --dump").not_built_yet().is_empty());
        refused("--threads 0", "invalid value '0'");
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
