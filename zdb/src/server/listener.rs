//! Listening sockets, and what is to be known of an accepted one.

use crate::command::Source;
use crate::hub::Peer;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Where it listens unless told otherwise, and where that is not possible.
const ANYWHERE: &str = "::";
const ANYWHERE_V4: &str = "0.0.0.0";

/// How bytes travel over a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls {
        /// Clients must show a certificate.
        verifies: bool,
    },
}

pub enum Listener {
    Tcp { listener: TcpListener, wire: Wire },
    Unix { listener: UnixListener, path: PathBuf },
}

impl Listener {
    /// On an address, or on all there are.
    pub fn tcp(address: Option<&str>, port: u16, wire: Wire) -> Result<Self, String> {
        let listener = match address {
            Some(address) => bind(address, port).map_err(|error| explain(address, port, &error))?,
            None => match bind(ANYWHERE, port) {
                Err(error) if lacks_ipv6(&error) => {
                    bind(ANYWHERE_V4, port).map_err(|error| explain(ANYWHERE_V4, port, &error))?
                }
                other => other.map_err(|error| explain(ANYWHERE, port, &error))?,
            },
        };
        // The standard library asks for a backlog of 128; many clients that come at once want more.
        // SAFETY: listen on an open socket touches no memory.
        unsafe { libc::listen(listener.as_raw_fd(), libc::SOMAXCONN) };
        Ok(Self::Tcp { listener, wire })
    }

    /// Replaces a socket that an earlier server left, but not a file of another kind.
    pub fn unix(path: &Path) -> Result<Self, String> {
        use std::os::unix::fs::FileTypeExt;
        let explain = |error: io::Error| format!("cannot listen on {}: {error}", path.display());
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(format!("cannot listen on {}: there is a file", path.display()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(format!("cannot listen on {}: a server is there", path.display()));
            }
            std::fs::remove_file(path).map_err(explain)?;
        }
        let listener = UnixListener::bind(path).map_err(explain)?;
        // The directory may change until the socket is removed.
        let path = std::path::absolute(path).map_err(explain)?;
        Ok(Self::Unix { listener, path })
    }

    pub fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp { listener, .. } => listener.as_raw_fd(),
            Self::Unix { listener, .. } => listener.as_raw_fd(),
        }
    }

    /// The address for people.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp { listener, wire } => {
                let address = listener.local_addr();
                let address = address.map_or_else(|_| "tcp".into(), |address| address.to_string());
                match wire {
                    Wire::Plain => address,
                    Wire::Tls { .. } => format!("{address} (TLS)"),
                }
            }
            Self::Unix { path, .. } => path.display().to_string(),
        }
    }

    /// The port, where it listens on one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix { .. } => None,
        }
    }

    pub fn wire(&self) -> Wire {
        match self {
            Self::Tcp { wire, .. } => *wire,
            Self::Unix { .. } => Wire::Plain,
        }
    }

    /// Whether only programs of this machine can come this way.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { listener, .. } => {
                listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
            }
            Self::Unix { .. } => true,
        }
    }

    /// Sets an accepted socket up and finds out who is there.
    pub fn welcome(&self, socket: OwnedFd) -> (OwnedFd, Peer) {
        match self {
            Self::Unix { path, .. } => {
                let name = format!("{}:0", path.display());
                let peer = Peer {
                    local_address: name.clone(),
                    name,
                    local: true,
                    encrypted: false,
                    verified: false,
                    source: Source::Unix,
                };
                (socket, peer)
            }
            Self::Tcp { wire, .. } => {
                let stream = TcpStream::from(socket);
                // Failing here means that the client is gone, which the first receive will tell.
                let _ = stream.set_nodelay(true);
                let on: libc::c_int = 1;
                // SAFETY: a live integer of the length that is named.
                unsafe {
                    libc::setsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_KEEPALIVE,
                        (&raw const on).cast(),
                        std::mem::size_of_val(&on) as libc::socklen_t,
                    )
                };
                // A client that is gone has no address any more, and no rights either.
                let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
                let peer = stream.peer_addr().unwrap_or(nobody);
                let address = peer.ip().to_canonical();
                let own = stream.local_addr().unwrap_or(nobody);
                let own = SocketAddr::new(own.ip().to_canonical(), own.port());
                // SAFETY: the descriptor was just taken out of the stream.
                let socket = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
                let peer = Peer {
                    name: SocketAddr::new(address, peer.port()).to_string(),
                    local_address: own.to_string(),
                    local: address.is_loopback(),
                    encrypted: *wire != Wire::Plain,
                    verified: *wire == Wire::Tls { verifies: true },
                    source: Source::of(address),
                };
                (socket, peer)
            }
        }
    }
}

fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = (address, port).to_socket_addrs()?.collect();
    TcpListener::bind(&addresses[..])
}

/// Whether the reason is that this machine has no IPv6, or has it switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn explain(address: &str, port: u16, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => ": another program has the port, choose one with --port",
        io::ErrorKind::AddrNotAvailable => ": this machine does not have the address",
        _ => "",
    };
    format!("cannot listen on {address} port {port}: {error}{remedy}")
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
