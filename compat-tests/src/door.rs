//! A server behind its doors, TCP, TLS and a unix socket, as client programs find it.

use crate::certificates::{Certificates, text};
use crate::server::{Server, Setup};
use std::path::PathBuf;
use tempfile::TempDir;

/// The admin's password behind every door.
pub const PASSWORD: &str = "secret";
/// Both protocols that a client may choose.
pub const PROTOCOLS: [u8; 2] = [2, 3];
/// What stands behind the TLS address in the log line of the start.
const TLS: &str = " (TLS)";

/// A server with an admin's password, on a unix socket and TCP, and on TLS where that is asked for.
pub struct Door {
    pub server: Server,
    certificates: Option<Certificates>,
    port: u16,
    dir: TempDir,
}

impl Door {
    /// Clients go through TCP.
    #[track_caller]
    pub fn plain() -> Door {
        Door::open(None)
    }

    /// Clients go through TLS; the server has no authority for certificates of theirs.
    #[track_caller]
    pub fn tls() -> Door {
        Door::open(Some(Certificates::new()))
    }

    #[track_caller]
    fn open(certificates: Option<Certificates>) -> Door {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("zdb.sock");
        let mut setup =
            Setup::new().flags(&["--admin", PASSWORD, "--socket", text(&socket), "--dualnet"]);
        if let Some(certificates) = &certificates {
            setup = setup.flags(&certificates.server_flags());
        }
        let server = setup.start();
        let port = match certificates {
            Some(_) => tls_port(&server),
            None => server.address().port(),
        };
        Door { server, certificates, port, dir }
    }

    /// The port that clients use: TLS where the door has it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that clients trust, where the door is TLS.
    pub fn authority(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(Certificates::authority)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("zdb.sock")
    }

    /// What the client programs take after their own arguments: the authority, or nothing.
    pub fn authority_argument(&self) -> Vec<PathBuf> {
        self.authority().into_iter().collect()
    }

    /// A URL for this door.
    pub fn url(&self, protocol: u8) -> String {
        let scheme = if self.certificates.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://:{PASSWORD}@127.0.0.1:{}/?protocol=resp{protocol}", self.port)
    }
}

/// The port on which a server speaks TLS, from the log line that says it is ready.
#[track_caller]
pub fn tls_port(server: &Server) -> u16 {
    let line = server.wait_for_log("TLS", |line| line.contains(TLS));
    let before = line.split(TLS).next().expect("a split has a first part");
    before
        .rsplit(' ')
        .next()
        .and_then(|place| place.parse::<std::net::SocketAddr>().ok())
        .unwrap_or_else(|| panic!("no address before{TLS} in {line:?}"))
        .port()
}
