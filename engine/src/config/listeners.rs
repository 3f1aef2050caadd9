//! Where to listen: addresses of flags and `[[listen]]` tables of the file, each with what is spoken there.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::{AdminAddress, CertificateFiles, RunFlags, wrong};
use crate::error::ConfigError;
use crate::framing::Framing;
use crate::shard::{Cidr, ListenerConfig};
use crate::tls::ClientCertificates;

/// Where connections and datagrams are taken unless somebody says otherwise.
pub(super) const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_000);

/// What is spoken at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Connections that speak TLS.
    Tls,
}

impl Proto {
    fn flag(self) -> &'static str {
        match self {
            Self::Tcp => "--tcp",
            Self::Udp => "--udp",
            Self::Tls => "--tls",
        }
    }
}

/// A place to listen: an address of a flag, or a `[[listen]]` of the configuration file.
#[derive(Clone, Debug)]
pub struct Listen {
    /// What is spoken there.
    pub proto: Proto,
    /// The address.
    pub address: SocketAddr,
    /// How connections are cut into lines; `None`: as `--framing` says.
    pub framing: Option<Framing>,
    /// Its own certificate chains; those of `--cert` if it has none.
    pub cert: Vec<PathBuf>,
    /// Their keys.
    pub key: Vec<PathBuf>,
    /// Its own authorities of clients; those of `--client-ca` if it has none.
    pub client_ca: Option<PathBuf>,
    /// Whether its clients have to have a certificate; `None`: as `--client-certs` says.
    pub client_certs: Option<ClientCertificates>,
    /// Its own proxies; those of `--proxy-from` if it has none.
    pub proxy_from: Vec<Cidr>,
    /// Where the file says so, as `FILE:LINE`; `None` for an address of a flag.
    pub place: Option<String>,
}

impl Listen {
    fn of_flag(proto: Proto, address: SocketAddr) -> Self {
        let (cert, key, proxy_from) = (Vec::new(), Vec::new(), Vec::new());
        Self { proto, address, framing: None, cert, key, client_ca: None, client_certs: None, proxy_from, place: None }
    }

    /// What an error about one of its keys is about.
    fn subject(&self, key: &'static str, flag: &'static str) -> Cow<'static, str> {
        self.place.as_ref().map_or(Cow::Borrowed(flag), |place| Cow::Owned(format!("{place}: {key}")))
    }

    fn address_subject(&self) -> Cow<'static, str> {
        self.subject("addr", self.proto.flag())
    }
}

/// Where connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpListen {
    /// The address.
    pub address: SocketAddr,
    /// What is spoken there.
    pub spoken: ListenerConfig,
    /// Which of the certificate sets those who speak TLS there are shown.
    pub certificates: Option<usize>,
}

/// All places to listen. Every relation between values holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    pub(super) tcp: Vec<TcpListen>,
    pub(super) udp: Vec<SocketAddr>,
    pub(super) certificates: Vec<CertificateFiles>,
}

impl Listeners {
    /// Those of the flags, without TLS first, then those of the file; the defaults if there are none.
    pub(super) fn of(flags: &RunFlags) -> Result<Self, ConfigError> {
        let of_flags = |proto| move |address: &SocketAddr| Listen::of_flag(proto, *address);
        let plain = flags.tcp.iter().map(of_flags(Proto::Tcp));
        let tls = flags.tls.iter().map(of_flags(Proto::Tls));
        let udp = flags.udp.iter().map(of_flags(Proto::Udp));
        let mut all: Vec<Listen> = plain.chain(tls).chain(udp).chain(flags.listen.iter().cloned()).collect();
        if all.is_empty() {
            all = [Proto::Tcp, Proto::Udp].map(|proto| Listen::of_flag(proto, LISTEN_DEFAULT)).into();
        }
        all.iter().try_for_each(|listen| check_reach(listen, flags))?;
        check_overlaps(&all, flags)?;
        check_use_of_certificates(&all, flags)?;
        let mut listeners = Self::default();
        for listen in &all {
            listeners.add(listen, flags)?;
        }
        Ok(listeners)
    }

    fn add(&mut self, listen: &Listen, flags: &RunFlags) -> Result<(), ConfigError> {
        let certificates = match listen.proto {
            Proto::Udp => {
                self.udp.push(listen.address);
                return Ok(());
            }
            Proto::Tcp => None,
            Proto::Tls => Some(self.certificate_set(certificate_files(listen, flags)?)),
        };
        let framing = listen.framing.unwrap_or(flags.framing);
        let proxy_from = if listen.proxy_from.is_empty() { &flags.proxy_from } else { &listen.proxy_from };
        let spoken = ListenerConfig { framing, tls: certificates.is_some(), proxy_from: Arc::from(&proxy_from[..]) };
        self.tcp.push(TcpListen { address: listen.address, spoken, certificates });
        Ok(())
    }

    /// Listeners with the same files share one set, so that clients resume a session at any of them.
    fn certificate_set(&mut self, files: CertificateFiles) -> usize {
        let clients = |files: &CertificateFiles| (files.client_ca.clone(), files.client_certs);
        let same = |known: &CertificateFiles| known.pairs == files.pairs && clients(known) == clients(&files);
        self.certificates.iter().position(same).unwrap_or_else(|| {
            self.certificates.push(files);
            self.certificates.len() - 1
        })
    }
}

/// Without a token list everybody who can connect can make logs.
fn check_reach(listen: &Listen, flags: &RunFlags) -> Result<(), ConfigError> {
    let address = listen.address;
    if address.ip().is_loopback() || flags.open || flags.tokens.is_some() {
        return Ok(());
    }
    let problem = format!(
        "{address} is reachable from other hosts, and any line with a UUID makes a log; list the tokens with --tokens FILE, add --open to allow that, or listen on 127.0.0.1"
    );
    Err(wrong(listen.address_subject(), problem))
}

/// Each address is bound once: a second time it would be found busy, and somebody else be suspected.
fn check_overlaps(all: &[Listen], flags: &RunFlags) -> Result<(), ConfigError> {
    let is_datagrams = |listen: &Listen| listen.proto == Proto::Udp;
    for (index, listen) in all.iter().enumerate() {
        let before = all[..index]
            .iter()
            .find(|before| is_datagrams(before) == is_datagrams(listen) && overlap(before.address, listen.address));
        if let Some(before) = before {
            let (address, other) = (listen.address, before.address);
            let problem = format!("{address} is taken by {} {other}; give each address once", before.address_subject());
            return Err(wrong(listen.address_subject(), problem));
        }
        if let AdminAddress::Tcp(admin) = &flags.admin
            && !is_datagrams(listen)
            && overlap(*admin, listen.address)
        {
            let problem = format!(
                "{admin} is taken by {} {}; give another port, or off",
                listen.address_subject(),
                listen.address
            );
            return Err(wrong("--admin", problem));
        }
    }
    Ok(())
}

/// Whether one of the addresses takes in the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `::` takes IPv4 as well.
    let covers = |all: SocketAddr, part: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || part.is_ipv4());
    let same_port = one.port() != 0 && one.port() == other.port();
    same_port && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

/// Nothing but TLS needs certificates, and nothing but a stream a framing or a proxy's header.
fn check_use_of_certificates(all: &[Listen], flags: &RunFlags) -> Result<(), ConfigError> {
    let is_tls = |listen: &Listen| listen.proto == Proto::Tls;
    let given = [
        ("--cert", !flags.cert.is_empty()),
        ("--key", !flags.key.is_empty()),
        ("--client-ca", flags.client_ca.is_some()),
        ("--client-certs", flags.client_certs.is_some()),
    ];
    if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given).filter(|_| !all.iter().any(is_tls)) {
        return Err(wrong(flag, "is of no use without --tls; add --tls ADDR".into()));
    }
    if !flags.proxy_from.is_empty() && all.iter().all(|listen| listen.proto == Proto::Udp) {
        return Err(wrong("--proxy-from", "is of no use for datagrams; add --tcp ADDR or --tls ADDR".into()));
    }
    for listen in all.iter().filter(|listen| !is_tls(listen)) {
        let given = [
            ("cert", !listen.cert.is_empty()),
            ("key", !listen.key.is_empty()),
            ("client_ca", listen.client_ca.is_some()),
            ("client_certs", listen.client_certs.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(wrong(listen.subject(key, key), "is of no use here; give it where proto = \"tls\"".into()));
        }
        if listen.proto == Proto::Udp && listen.framing.is_some() {
            let subject = listen.subject("framing", "framing");
            return Err(wrong(subject, "is of no use here; a datagram has no framing".into()));
        }
        if listen.proto == Proto::Udp && !listen.proxy_from.is_empty() {
            let subject = listen.subject("proxy_from", "proxy_from");
            return Err(wrong(subject, "is of no use here; a datagram has no PROXY header".into()));
        }
    }
    Ok(())
}

/// Its own certificates and keys, or else those of the flags, in pairs.
fn certificate_files(listen: &Listen, flags: &RunFlags) -> Result<CertificateFiles, ConfigError> {
    let own = !listen.cert.is_empty() || !listen.key.is_empty();
    let (certificates, keys) = if own { (&listen.cert, &listen.key) } else { (&flags.cert, &flags.key) };
    if certificates.is_empty() {
        let problem = if listen.place.is_some() {
            "needs a certificate; add cert = FILE and key = FILE (PEM)"
        } else {
            "needs a certificate; add --cert FILE --key FILE (PEM)"
        };
        return Err(wrong(listen.address_subject(), problem.into()));
    }
    if certificates.len() != keys.len() {
        let subject = if own { listen.subject("key", "--key") } else { "--key".into() };
        let (given, wanted) = (keys.len(), certificates.len());
        let problem = format!("{given} given, and {wanted} of --cert; give a --key for each --cert, in the same order");
        return Err(wrong(subject, problem));
    }
    let pairs = certificates.iter().cloned().zip(keys.iter().cloned()).collect();
    let client_ca = listen.client_ca.as_ref().or(flags.client_ca.as_ref()).cloned();
    let client_certs = listen.client_certs.or(flags.client_certs);
    if client_certs.is_some() && client_ca.is_none() {
        let subject = match listen.client_certs {
            Some(_) => listen.subject("client_certs", "--client-certs"),
            None => "--client-certs".into(),
        };
        return Err(wrong(subject, "is of no use where no client is asked; add --client-ca FILE".into()));
    }
    let place = listen.place.clone().filter(|_| own || listen.client_ca.is_some());
    Ok(CertificateFiles { pairs, client_ca, client_certs: client_certs.unwrap_or_default(), place })
}
