//! TLS 1.3: the certificates, and one encrypted connection between its socket and the hub. It moves no
//! bytes itself.

use super::kernel_tls::{self, Border};
use crate::output::Output;
use rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, ExtractedSecrets, RootCertStore, ServerConfig,
    ServerConnection,
};
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
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    config: Arc<ServerConfig>,
    /// Whether the kernel goes on after handshakes; if not, why.
    kernel: Result<(), String>,
}

impl Tls {
    pub fn new(files: TlsFiles, wants_kernel: bool) -> Result<Self, String> {
        let kernel =
            if wants_kernel { kernel_tls::probe() } else { Err("switched off".to_owned()) };
        let config = read(&files, kernel.is_ok())?;
        Ok(Self { files, config, kernel })
    }

    pub fn kernel(&self) -> &Result<(), String> {
        &self.kernel
    }

    /// Reads the files again, for connections from now on. On an error the old ones stay in use.
    pub fn reload(&mut self) -> Result<(), String> {
        self.config = read(&self.files, self.kernel.is_ok())?;
        Ok(())
    }

    /// For a connection that the kernel may take over, or not.
    pub fn session(&self, with_kernel: bool) -> Result<TlsSession, rustls::Error> {
        Ok(TlsSession {
            border: with_kernel.then(Border::default),
            connection: ServerConnection::new(self.config.clone())?.into(),
            wire: Vec::new(),
            wire_sent: 0,
            said_goodbye: false,
        })
    }
}

/// How this server, as a client, knows its master and shows who it is.
#[derive(Clone, Debug)]
pub struct MasterTlsFiles {
    /// Of those who sign masters' certificates.
    pub authority: PathBuf,
    /// This server's own and its key, where masters want one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What connections to a master begin with.
pub struct MasterTls(Arc<ClientConfig>);

impl MasterTls {
    pub fn new(files: &MasterTlsFiles) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = roots("--master-tls-ca", &files.authority)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| format!("cannot set TLS up: {error}"))?
            .with_root_certificates(roots);
        let config = match &files.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("--master-tls-cert", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("--master-tls-key {}: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    format!("--master-tls-cert {} cannot be used: {error}", certificate.display())
                })?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// The same without what a loop needs.
    pub fn connection(&self, host: &str) -> Result<ClientConnection, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no name that a certificate can have"))?;
        ClientConnection::new(self.0.clone(), name)
            .map_err(|error| format!("cannot begin TLS: {error}"))
    }

    /// For a connection to a host, by its name or address, which its certificate must have.
    pub fn session(&self, host: &str) -> Result<TlsSession, String> {
        Ok(TlsSession {
            border: None,
            connection: self.connection(host)?.into(),
            wire: Vec::new(),
            wire_sent: 0,
            said_goodbye: false,
        })
    }
}

fn read(files: &TlsFiles, with_kernel: bool) -> Result<Arc<ServerConfig>, String> {
    let mut provider = rustls::crypto::ring::default_provider();
    if with_kernel {
        // The one for the kernel first, whatever else the client would rather have.
        provider.cipher_suites.sort_by_key(|one| one.suite() != TLS13_CHACHA20_POLY1305_SHA256);
    }
    let provider = Arc::new(provider);
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
    config.ignore_client_order = with_kernel;
    config.enable_secret_extraction = with_kernel;
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
    WebPkiClientVerifier::builder_with_provider(roots("--tls-ca", path)?.into(), provider)
        .build()
        .map_err(|error| format!("--tls-ca {}: {error}", path.display()))
}

fn roots(flag: &str, path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(flag, path)? {
        roots.add(certificate).map_err(|error| format!("{flag} {}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// How a session's socket is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    Freely,
    AtMost(usize),
    /// What comes next is for the kernel.
    Nothing,
}

/// One encrypted connection.
pub struct TlsSession {
    connection: Connection,
    /// As long as the kernel may take over.
    border: Option<Border>,
    /// Encrypted bytes for the socket; not touched while the kernel sends them.
    wire: Vec<u8>,
    wire_sent: usize,
    said_goodbye: bool,
}

impl TlsSession {
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub fn receive(&self) -> Receive {
        match &self.border {
            None => Receive::Freely,
            Some(border) if self.is_handshaking() => Receive::AtMost(border.wanted()),
            Some(_) => Receive::Nothing,
        }
    }

    /// Whether the handshake is over, all of it is sent, and the kernel is to go on.
    pub fn is_for_kernel(&self) -> bool {
        self.receive() == Receive::Nothing && self.wire.is_empty() && !self.connection.wants_write()
    }

    /// The keys, and the numbers of the next records.
    pub fn into_secrets(self) -> Result<ExtractedSecrets, rustls::Error> {
        self.connection.dangerous_extract_secrets()
    }

    /// Takes bytes from the socket and puts what they say behind `plaintext`. True: the client will say
    /// no more. After an error the rest of the session is the alert that `fill` gives.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        if let Some(border) = &mut self.border {
            border.took(bytes);
        }
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
        let suite = self.connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let is_other = suite.is_some_and(|suite| suite != TLS13_CHACHA20_POLY1305_SHA256);
        // A handshake ends with a record, so this is no more than what rustls promises.
        let is_behind = !self.is_handshaking()
            && self.border.as_ref().is_some_and(|border| !border.is_reached());
        if has_closed || is_other || is_behind {
            self.border = None;
        }
        Ok(has_closed)
    }

    /// Encrypts the next part of `sending`, from `sent` on, where all bytes before are on their way. What
    /// TLS itself has to say goes first. Returns how many bytes `sending` held, where all of them are
    /// encrypted now.
    pub fn fill(&mut self, sending: &mut Output, sent: &mut usize) -> usize {
        if !self.wire.is_empty() {
            return 0;
        }
        let mut released = 0;
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
                released = sending.len();
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
        released
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
