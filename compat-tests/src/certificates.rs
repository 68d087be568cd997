//! Certificates for a test: an authority of its own, a server's, and a client's.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// PEM files that go with it.
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub fn new() -> Certificates {
        let dir = crate::server::scratch_dir();
        let mut authority = params(&[], "Test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let write = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).expect("the certificate can be written");
        };
        write("ca.crt", authority.pem());
        let ends = [
            ("server", &["localhost", "127.0.0.1", "::1"][..], ExtendedKeyUsagePurpose::ServerAuth),
            ("client", &[], ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (name, places, purpose) in ends {
            let key = key();
            let mut end = params(places, name);
            end.extended_key_usages.push(purpose);
            let certificate = end.signed_by(&key, &authority).expect("a certificate");
            write(&format!("{name}.crt"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn authority(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The server's certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.path("server.crt"), self.path("server.key"))
    }

    /// The flags that make a server speak TLS with them, on any free port.
    pub fn server_flags(&self) -> Vec<String> {
        let (certificate, key) = self.server();
        ["--tls-port", "0", "--tls-cert", text(&certificate), "--tls-key", text(&key)]
            .map(str::to_owned)
            .into()
    }

    /// A client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.path("client.crt"), self.path("client.key"))
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key pair")
}

fn params(places: &[&str], name: &str) -> CertificateParams {
    let places: Vec<String> = places.iter().map(|place| (*place).to_owned()).collect();
    let mut params = CertificateParams::new(places).expect("the names are valid");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A path as a flag's value.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}
