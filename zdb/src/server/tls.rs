//! TLS 1.3: the certificates, and one encrypted connection between its socket and the hub. It moves no
//! bytes itself.

use crate::output::Output;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for encrypted bytes that an idle connection keeps.
const IDLE_BYTES_MAX: usize = 8 << 10;

/// Where the certificates are, as PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Of the server, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Of those who sign the clients' certificates; none: clients need no certificate.
    pub authority: Option<PathBuf>,
}

/// What new connections begin with.
pub struct Tls {
    files: TlsFiles,
    config: Arc<ServerConfig>,
}

impl Tls {
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let config = read(&files)?;
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections from now on. On an error the old ones stay in use.
    pub fn reload(&mut self) -> Result<(), String> {
        self.config = read(&self.files)?;
        Ok(())
    }

    pub fn session(&self) -> Result<TlsSession, rustls::Error> {
        Ok(TlsSession {
            connection: ServerConnection::new(self.config.clone())?,
            wire: Vec::new(),
            wire_sent: 0,
            said_goodbye: false,
        })
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("--tls-cert", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("--tls-key {}: {error}", files.key.display()))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| format!("cannot set TLS up: {error}"))?;
    let builder = match &files.authority {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!(
            "--tls-cert {} and --tls-key {} cannot be used: {error}",
            files.certificate.display(),
            files.key.display()
        )
    })?;
    // Connections live long, so a quicker second handshake is worth less than that each of them shows
    // its certificate anew.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |error: &dyn std::fmt::Display| format!("{flag} {}: {error}", path.display());
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| explain(&error))?.collect();
    let found = found.map_err(|error| explain(&error))?;
    if found.is_empty() { Err(explain(&"no certificate in it (PEM)")) } else { Ok(found) }
}

fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let explain = |error: &dyn std::fmt::Display| format!("--tls-ca {}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-ca", path)? {
        roots.add(certificate).map_err(|error| explain(&error))?;
    }
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| explain(&error))
}

/// One encrypted connection.
pub struct TlsSession {
    connection: ServerConnection,
    /// Encrypted bytes for the socket; not touched while the kernel sends them.
    wire: Vec<u8>,
    wire_sent: usize,
    said_goodbye: bool,
}

impl TlsSession {
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes bytes from the socket and puts what they say behind `plaintext`. True: the client will say
    /// no more. After an error the rest of the session is the alert that `fill` gives.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let mut has_closed = false;
        while !bytes.is_empty() && !has_closed {
            let taken = self.connection.read_tls(&mut bytes);
            let state = self.connection.process_new_packets()?;
            has_closed = state.peer_has_closed();
            let length = state.plaintext_bytes_to_read();
            let before = plaintext.len();
            plaintext.resize(before + length, 0);
            // All of it is there, so that its buffer is empty for the next bytes.
            self.connection
                .reader()
                .read_exact(&mut plaintext[before..])
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            if !matches!(taken, Ok(1..)) && !has_closed {
                return Err(rustls::Error::General("a record does not end".into()));
            }
        }
        Ok(has_closed)
    }

    /// Encrypts the next part of `sending`, from `sent` on, where all bytes before are on their way. What
    /// TLS itself has to say goes first.
    pub fn fill(&mut self, sending: &mut Output, sent: &mut usize) {
        if !self.wire.is_empty() {
            return;
        }
        if !self.is_handshaking() && !sending.is_empty() {
            let mut slices = Vec::new();
            sending.slices(*sent, &mut slices);
            for slice in slices {
                // It takes what its buffer of 64 KiB holds, and writing there does not fail.
                let taken = self.connection.writer().write(slice).unwrap_or(0);
                *sent += taken;
                if taken < slice.len() {
                    break;
                }
            }
            if *sent >= sending.len() {
                sending.clear();
                *sent = 0;
            }
        }
        while self.connection.wants_write() {
            // Writing to memory does not fail.
            if self.connection.write_tls(&mut self.wire).is_err() {
                break;
            }
        }
    }

    /// The encrypted bytes that are not out yet.
    pub fn rest(&self) -> &[u8] {
        &self.wire[self.wire_sent..]
    }

    /// So many of them are out.
    pub fn sent(&mut self, count: usize) {
        self.wire_sent += count;
        if self.wire_sent >= self.wire.len() {
            self.wire.clear();
            self.wire.shrink_to(IDLE_BYTES_MAX);
            self.wire_sent = 0;
        }
    }

    /// Tells the client, once, that nothing follows.
    pub fn say_goodbye(&mut self) {
        if !std::mem::replace(&mut self.said_goodbye, true) {
            self.connection.send_close_notify();
        }
    }
}
