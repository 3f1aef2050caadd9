//! Who we are to TLS clients: certificates and their keys, and what all shards share of them.
//!
//! Which certificate a client gets: the first one for the name that it asks for, in the order of the flags, whose kind of
//! key it can verify; without a name, or with one that nobody has, the first one that it can verify.
//!
//! Resumption is by tickets only: there is no table of sessions, and nothing to lock. New credentials come with new
//! ticket keys, so that nobody resumes what the new ones would refuse.
//!
//! Tickets go out in TLS 1.2 only, where they are part of the handshake. In TLS 1.3 they follow it, and a client that
//! never reads has them in its socket's buffer when it closes: its kernel then resets the connection and drops what it has
//! not sent yet. Of 50,000 lines that such clients wrote and closed behind, 39,687 arrived with tickets, all without.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, UnbufferedServerConnection,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ServerConfig};

use super::expiry::not_after;

/// What is wrong with a certificate and its key, and what to do: for the operator. Says nothing of the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPair {
    /// The certificate.
    Certificate(&'static str),
    /// The key.
    Key(&'static str),
}

/// What becomes of clients that show no certificate where they are asked for one. One that is shown has to be valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are turned away.
    #[default]
    Required,
    /// They are let in.
    Optional,
}

/// Certificates with their keys, and whom clients must be known to.
#[derive(Debug, Default)]
pub struct Credentials {
    certificates: Vec<Arc<CertifiedKey>>,
    valid_until: Vec<Option<i64>>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Credentials {
    /// Adds a chain of certificates and the key of its first one, both as PEM.
    ///
    /// # Errors
    /// One of them cannot be used, or they do not belong together.
    pub fn add(&mut self, chain: &[u8], key: &[u8]) -> Result<(), BadPair> {
        let damaged =
            |_| BadPair::Certificate("not PEM, or damaged; give a PEM file with the chain, own certificate first");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(damaged)?;
        let Some(own) = chain.first() else {
            return Err(BadPair::Certificate(
                "holds no certificate; give a PEM file with the chain, own certificate first",
            ));
        };
        let valid_until = not_after(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            BadPair::Key(
                "holds no private key that can be read; give an unencrypted one as PEM (PKCS #8, PKCS #1 or SEC 1)",
            )
        })?;
        let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                BadPair::Key("does not belong to its certificate; give --cert and --key in pairs")
            }
            Error::InvalidCertificate(_) => BadPair::Certificate("cannot be used; give an X.509 version 3 certificate"),
            _ => BadPair::Key("of an unknown kind; give an RSA (2048 bits or more), ECDSA or Ed25519 key"),
        })?;
        self.certificates.push(Arc::new(pair));
        self.valid_until.push(valid_until);
        Ok(())
    }

    /// The last second in which each certificate is valid, counted from 1970; `None` where that cannot be told.
    #[must_use]
    pub fn valid_until(&self) -> &[Option<i64>] {
        &self.valid_until
    }

    /// From now on clients are asked for a certificate of one of these authorities (PEM).
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub fn ask_clients(&mut self, authorities: &[u8], certificates: ClientCertificates) -> Result<(), &'static str> {
        const UNUSABLE: &str = "holds no usable authority; give a PEM file of CA certificates";
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            roots.add(authority.map_err(|_| UNUSABLE)?).map_err(|_| UNUSABLE)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match certificates {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        self.clients = Some(builder.build().map_err(|_| UNUSABLE)?);
        Ok(())
    }

    fn into_shown(self) -> Shown {
        let first_expiry = self.valid_until.iter().flatten().copied().min();
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions");
        let builder = match self.clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Choice(self.certificates)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.ticketer = aws_lc_rs::Ticketer::new().expect("the system has random numbers");
        Shown { config: Arc::new(config), first_expiry }
    }
}

/// What those who connect now are shown.
#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    first_expiry: Option<i64>,
}

/// What the TLS connections of all shards share. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Server(Arc<RwLock<Shown>>);

impl Server {
    /// Shows these credentials to clients; there is at least one certificate.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(RwLock::new(credentials.into_shown())))
    }

    /// Shows other credentials to those who connect from now on.
    pub fn replace(&self, credentials: Credentials) {
        let shown = credentials.into_shown();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// The last second in which all certificates are valid, counted from 1970, where that can be told: the metric
    /// `tls_certificate_expiry_timestamp_seconds`.
    #[must_use]
    pub fn first_expiry(&self) -> Option<i64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).first_expiry
    }

    pub(super) fn accept(&self) -> UnbufferedServerConnection {
        let config = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).config);
        UnbufferedServerConnection::new(config).expect("a configuration without a fragment size is in order")
    }
}

/// Certificates in the order of the flags.
#[derive(Debug)]
struct Choice(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_for = |pair: &CertifiedKey| {
            let certificate = pair.cert.first().and_then(|own| ParsedCertificate::try_from(own).ok());
            certificate.zip(name.as_ref()).is_some_and(|(own, name)| verify_server_name(&own, name).is_ok())
        };
        let verifiable = || self.0.iter().filter(|pair| pair.key.choose_scheme(schemes).is_some());
        let named = verifiable().find(|pair| self.0.len() > 1 && is_for(pair));
        named.or_else(|| verifiable().next()).cloned()
    }
}
