//! One server of a master and its replicas, in a host, whichever program it is.

use crate::args;
use crate::client::Client;
use crate::hosts::Host;
use crate::program::Running;
use crate::reply::Reply;
use crate::server::{binary, poll, scratch_dir};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Of every server, its replicas and its watchers.
pub const PASSWORD: &str = "secret";
/// A state that takes longer does not come; a failover and a full copy are in it.
const STATE_TIME_MAX: Duration = Duration::from_secs(40);
/// An answer of a server that is there takes no longer.
const REPLY_TIME_MAX: Duration = Duration::from_secs(5);

/// The server program. What differs between them stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    Redis,
    Zdb,
}

impl Product {
    fn command(self, dir: &Path, address: SocketAddr, master: Option<SocketAddr>) -> Command {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = match self {
            Product::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--bind", &ip, "--port", &port, "--save", "", "--dir"]).arg(dir);
                command.args(["--requirepass", PASSWORD, "--masterauth", PASSWORD]);
                // A copy begins at once, and a replica is heard of each second.
                command.args(["--repl-diskless-sync-delay", "0"]);
                command.args(["--repl-ping-replica-period", "1"]);
                command
            }
            Product::Zdb => {
                let mut command = Command::new(binary());
                command.args(["--listen", &ip, "--port", &port, "--admin", PASSWORD]);
                command.arg("--data").arg(dir.join("data")).arg("--index").arg(dir.join("index"));
                command.args(["--datasize", "33554432"]);
                let file = dir.join("masterauth");
                std::fs::write(&file, PASSWORD).expect("the directory takes a file");
                command.arg("--masterauth-file").arg(file);
                // The write buffer is memory, which a test that is killed would leave behind.
                command.args(["--buffer", "none"]);
                command
            }
        };
        if let Some(master) = master {
            command.args(["--replicaof", &format!("{} {}", master.ip(), master.port())]);
        }
        command
    }

    /// What it prints once it serves.
    fn ready(self) -> &'static str {
        match self {
            Product::Redis => "Ready to accept connections",
            Product::Zdb => "zdb ready on ",
        }
    }

    /// Whether old versions of a key can be read: HISTORY.
    pub fn has_history(self) -> bool {
        self == Product::Zdb
    }
}

/// It ends when it is dropped, and its directory with it.
pub struct Node {
    product: Product,
    host: Host,
    address: SocketAddr,
    master: Option<SocketAddr>,
    flags: Vec<String>,
    dir: TempDir,
    running: Running,
}

impl Node {
    /// Starts a server in a host, a replica where a master is given, and waits until it serves.
    #[track_caller]
    pub fn start(
        product: Product,
        host: &Host,
        master: Option<SocketAddr>,
        flags: &[&str],
    ) -> Node {
        let (dir, address) = (scratch_dir(), host.free_address());
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let running = launch(product, host, dir.path(), address, master, &flags);
        Node { product, host: host.clone(), address, master, flags, dir, running }
    }

    /// After [`Node::kill`]: the same program with the same flags, on the same directory and address.
    #[track_caller]
    pub fn resume(&mut self) {
        assert!(!self.running.is_running(), "{} runs", self.address);
        let dir = self.dir.path();
        self.running =
            launch(self.product, &self.host, dir, self.address, self.master, &self.flags);
    }

    pub fn product(&self) -> Product {
        self.product
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `kill -9`, SIGSTOP and SIGCONT are here.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// A client that has shown the password, beside the server in its host: links that are cut are not in its way.
    pub fn try_connect(&self) -> io::Result<Client> {
        let mut client = self.host.connect(self.address, REPLY_TIME_MAX)?;
        authenticate(&mut client)?;
        Ok(client)
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        self.try_connect().unwrap_or_else(|error| {
            panic!("no client of {}: {error}; {:#?}", self.address, self.running.lines())
        })
    }

    /// Asks INFO until it says this.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&Info) -> bool) -> Info {
        let mut client = None;
        let mut last = None;
        let found = poll(STATE_TIME_MAX, || {
            if client.is_none() {
                client = self.try_connect().ok();
            }
            // A role that changes may end its connections.
            match Info::read(client.as_mut()?) {
                Ok(info) => {
                    last = Some(info.clone());
                    holds(&info).then_some(info)
                }
                Err(_) => {
                    client = None;
                    None
                }
            }
        });
        let lines = || self.running.lines();
        found.unwrap_or_else(|| {
            let last = last.map(|info| info.replication());
            panic!("{}: no {what}: {last:#?}; {:#?}", self.address, lines())
        })
    }

    /// Waits until it is a replica of this master and has its link.
    #[track_caller]
    pub fn wait_for_link(&self, master: SocketAddr) -> Info {
        self.wait_for(&format!("link to {master}"), |info| {
            info.get("role") == "slave"
                && info.get("master_host") == master.ip().to_string()
                && info.get("master_port") == master.port().to_string()
                && info.get("master_link_status") == "up"
        })
    }
}

#[track_caller]
fn launch(
    product: Product,
    host: &Host,
    dir: &Path,
    address: SocketAddr,
    master: Option<SocketAddr>,
    flags: &[String],
) -> Running {
    let running = host.start(product.command(dir, address, master).args(flags));
    running.wait_for("a server that serves", |line| line.contains(product.ready()));
    running
}

/// Shows the password.
pub fn authenticate(client: &mut Client) -> io::Result<()> {
    match client.try_call(args!["AUTH", PASSWORD])? {
        Reply::Simple(text) if text == "OK" => Ok(()),
        reply => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("AUTH: {reply:?}"))),
    }
}

/// What INFO says, all sections together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    pub fn read(client: &mut Client) -> io::Result<Info> {
        match client.try_call(args!["INFO"])? {
            Reply::Bulk(text) => Ok(Info::parse(&String::from_utf8_lossy(&text))),
            reply => Err(io::Error::other(format!("INFO: {reply:?}"))),
        }
    }

    fn parse(text: &str) -> Info {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Info(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// The fields about replication, for a message.
    fn replication(&self) -> Vec<String> {
        let is_about = |name: &str| {
            ["role", "master", "slave", "connected_slaves", "repl"]
                .iter()
                .any(|start| name.starts_with(start))
        };
        let fields = self.0.iter().filter(|(name, _)| is_about(name));
        fields.map(|(name, value)| format!("{name}:{value}")).collect()
    }

    /// A field, empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}
