//! Certificates made for one test: an authority, what it signed, and what a stranger signed.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// PEM files: `authority.pem`; `server`, `client` and `stranger`, each with `.pem` and `.key`. The first
/// two are signed by the authority; the stranger's authority has the same name and another key.
pub struct Certificates {
    directory: TempDir,
}

/// What a client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    Nothing,
    Client,
    Stranger,
}

impl Certificates {
    pub fn new() -> Certificates {
        let certificates = Certificates { directory: TempDir::new().expect("a directory") };
        let authority = authority();
        std::fs::write(certificates.path("authority.pem"), authority.pem()).expect("a file");
        certificates.issue("server", &authority);
        certificates.issue("client", &authority);
        certificates.issue("stranger", &self::authority());
        certificates
    }

    /// Makes a new key and a certificate for `localhost` under this name.
    fn issue(&self, name: &str, authority: &CertifiedIssuer<'_, KeyPair>) {
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names of hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, authority).expect("it signs");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path of letters").to_owned()
    }

    /// The flags of a server on a free TLS port that asks clients for nothing.
    pub fn flags(&self) -> Vec<String> {
        let words = ["--tls-port", "0", "--tls-cert", &self.text("server.pem"), "--tls-key"];
        let mut flags: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        flags.push(self.text("server.key"));
        flags
    }

    /// The same, and clients must show a certificate of the authority.
    pub fn flags_with_clients(&self) -> Vec<String> {
        let mut flags = self.flags();
        flags.extend(["--tls-ca".to_owned(), self.text("authority.pem")]);
        flags
    }

    /// The words that make redis-cli and redis-benchmark speak TLS.
    pub fn redis_flags(&self, identity: Identity) -> Vec<String> {
        let mut flags = vec!["--tls".to_owned(), "--cacert".to_owned(), self.text("authority.pem")];
        if let Some(name) = file_name(identity) {
            flags.extend(["--cert".to_owned(), self.text(&format!("{name}.pem"))]);
            flags.extend(["--key".to_owned(), self.text(&format!("{name}.key"))]);
        }
        flags
    }

    /// For a client in this process.
    pub fn client(&self, identity: Identity) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("authority.pem"))).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots);
        let config = match file_name(identity) {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                let chain = vec![certificate(&self.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key.expect("a key")).expect("they fit")
            }
        };
        Arc::new(config)
    }

    /// A new certificate for the server in the old place, by a new authority.
    pub fn renew(&self) {
        let authority = authority();
        std::fs::write(self.path("authority.pem"), authority.pem()).expect("a file");
        self.issue("server", &authority);
        self.issue("client", &authority);
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

fn file_name(identity: Identity) -> Option<&'static str> {
    match identity {
        Identity::Nothing => None,
        Identity::Client => Some("client"),
        Identity::Stranger => Some("stranger"),
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("it signs")
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}
