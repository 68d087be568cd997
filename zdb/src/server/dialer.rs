//! Connections that this server makes: the way to its master. A name is looked up and a connection made on a
//! thread of its own, since both may take seconds.

use super::bell::Bell;
use crate::command::Source;
use crate::command::replication::Address;
use crate::hub::Peer;
use crate::limits::REPLICA_DIAL_MS;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

pub struct Dialed {
    pub to: Address,
    pub result: Result<(OwnedFd, Peer), String>,
}

pub struct Dialer {
    report: Sender<Dialed>,
    pub dialed: Receiver<Dialed>,
    bell: Bell,
}

impl Dialer {
    pub fn new(bell: Bell) -> Self {
        let (report, dialed) = channel();
        Self { report, dialed, bell }
    }

    /// Begins to connect; `dialed` tells how it went.
    pub fn dial(&self, to: Address) {
        let (report, bell) = (self.report.clone(), self.bell.clone());
        let told = to.clone();
        let spawned = std::thread::Builder::new().name("zdb-dial".into()).spawn(move || {
            let result = connect(&to).map_err(|error| format!("cannot connect: {error}"));
            // The server may have ended meanwhile.
            let _ = report.send(Dialed { to, result });
            bell.ring();
        });
        if let Err(error) = spawned {
            let result = Err(format!("cannot start a thread to connect: {error}"));
            let _ = self.report.send(Dialed { to: told, result });
            self.bell.ring();
        }
    }
}

fn connect(to: &Address) -> io::Result<(OwnedFd, Peer)> {
    let addresses = (to.host.as_str(), to.port).to_socket_addrs()?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_millis(REPLICA_DIAL_MS)) {
            Ok(stream) => return prepare(stream, address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn prepare(stream: TcpStream, address: SocketAddr) -> io::Result<(OwnedFd, Peer)> {
    stream.set_nodelay(true)?;
    let peer = Peer {
        name: address.to_string(),
        local_address: stream.local_addr()?.to_string(),
        local: address.ip().to_canonical().is_loopback(),
        encrypted: false,
        verified: false,
        source: Source::of(address.ip().to_canonical()),
    };
    Ok((stream.into(), peer))
}
