//! Certificates, and receivers that have one.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;

/// An authority, and the file that says so.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// For `--ca`.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A receiver with a certificate for a name or address, that speaks one version.
    pub(crate) fn receiver(&self, name: &str, version: &'static rustls::SupportedProtocolVersion) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Self::serve(certificate.der(), &key, version)
    }

    /// The same as files for an engine at 127.0.0.1: its flags.
    pub(crate) fn engine_flags(&self) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())].map(|(name, text)| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let [cert, key] = files;
        ["--tls", "127.0.0.1:0", "--cert", &cert, "--key", &key].map(str::to_owned).to_vec()
    }

    /// A receiver that uses the authority's own certificate.
    pub(crate) fn itself(&self) -> Arc<ServerConfig> {
        Self::serve(self.issuer.der(), self.issuer.key(), &TLS13)
    }

    fn serve(
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key);
        Arc::new(config.unwrap())
    }
}
