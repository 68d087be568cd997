//! Listening sockets, and what is to be known of an accepted one.

use crate::hub::Peer;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

pub enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

impl Listener {
    pub fn tcp(address: &str, port: u16) -> Result<Self, String> {
        let explain = |error: io::Error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    ": another program has the port, choose one with --port"
                }
                io::ErrorKind::AddrNotAvailable => ": this machine does not have the address",
                _ => "",
            };
            format!("cannot listen on {address} port {port}: {error}{remedy}")
        };
        let addresses = (address, port).to_socket_addrs().map_err(explain)?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(explain)?;
        // The standard library asks for a backlog of 128; many clients that come at once want more.
        // SAFETY: listen on an open socket touches no memory.
        unsafe { libc::listen(listener.as_raw_fd(), libc::SOMAXCONN) };
        Ok(Self::Tcp(listener))
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
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix { listener, .. } => listener.as_raw_fd(),
        }
    }

    /// The address for people.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "tcp".into(), |address| address.to_string())
            }
            Self::Unix { path, .. } => path.display().to_string(),
        }
    }

    /// The port, where it listens on one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix { .. } => None,
        }
    }

    /// Sets an accepted socket up and finds out who is there.
    pub fn welcome(&self, socket: OwnedFd) -> (OwnedFd, Peer) {
        match self {
            Self::Unix { path, .. } => {
                (socket, Peer { name: format!("{}:0", path.display()), local: true })
            }
            Self::Tcp(_) => {
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
                let address = stream.peer_addr();
                let local =
                    address.as_ref().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
                let name = address.map_or_else(|_| "?:0".into(), |peer| peer.to_string());
                // SAFETY: the descriptor was just taken out of the stream.
                let socket = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
                (socket, Peer { name, local })
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
