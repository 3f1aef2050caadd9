//! Connections that come through a proxy: the first thing on them is its header, which says whose they are.
//!
//! ```text
//!  accepted ─► header ─► lines, or a TLS handshake, of the client's address
//!              no header, or none in time: counted and closed
//! ```
//! Peers are asked for a header by their own address, never by what they send: a client that is no proxy cannot claim
//! to be somebody else. The proxy itself has no share of connections. Who has reset the connection before it was accepted
//! has no address any more, and what it sent can be read all the same: a header is taken for one there.
//!
//! Where no TLS is spoken, the time for the header begins with its first byte: some proxies send it together with what
//! the client says first, and a client may be silent for long.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::Shard;
use super::connection::Life;
use super::op::{ConnectionId, ListenerId, Notice, Op, PeerAddress};
use crate::buf::RecvBuf;
use crate::framing::{Foreign, ProxyDecoder};
use crate::metrics::HandshakeResult;
use crate::time::Time;
use crate::wire::Reject;

/// A network: an address and how many of its first bits count, such as `10.0.0.0/8`; or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Whether this address is in it.
    #[must_use]
    pub fn contains(self, PeerAddress(bytes): PeerAddress) -> bool {
        self.0.contains(&IpAddr::from(bytes).to_canonical())
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse::<IpNet>().or_else(|_| single());
        let network =
            network.map_err(|_| format!("{text:?} is no network; give one such as 10.0.0.0/8 or 2001:db8::/32"))?;
        match network.addr() {
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
                Err(format!("{text:?} is a network of IPv4; write it as such, for example 10.0.0.0/8"))
            }
            _ => Ok(Self(network)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The header of a connection, while it is not all there.
#[derive(Debug, Default)]
pub(super) struct Header {
    decoder: ProxyDecoder,
    /// Nobody knows any more whose connection it is: it may well be no proxy's.
    is_guess: bool,
    /// It has to be all there then; `None` while nothing of it is, and where the hello has a deadline.
    pub(super) deadline: Option<Time>,
}

impl Header {
    /// Of a connection whose peer has reset it before it could be asked for its address.
    pub(super) fn guess() -> Self {
        Self { is_guess: true, ..Self::default() }
    }
}

impl Shard {
    /// Takes the header from the front of what came, as far as it is here.
    #[cold]
    pub(super) fn take_header(&mut self, id: ConnectionId, buf: &mut RecvBuf) {
        let Some(connection) = self.connection(id).filter(|connection| connection.life == Life::Open) else { return };
        let Some(header) = &mut connection.header else { return };
        let is_none = header.is_guess && !header.decoder.has_begun();
        match header.decoder.feed(buf) {
            Ok(None) => {
                buf.skip(buf.len());
                let first = header.deadline.is_none() && connection.tls.is_none();
                let deadline = if first { Some(self.deadline(id)) } else { None };
                if let Some(header) = self.connection(id).and_then(|connection| connection.header.as_deref_mut()) {
                    header.deadline = header.deadline.or(deadline);
                }
            }
            Ok(Some(header)) => {
                connection.header = None;
                buf.skip(header.taken);
                self.count_client(id, header.client);
            }
            Err(_) if is_none => connection.header = None,
            Err(_) => {
                self.end_handshake(id, HandshakeResult::Failed);
                self.refuse_header(id);
            }
        }
    }

    /// There is no header, or not in time.
    pub(super) fn refuse_header(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection(id) {
            connection.header = None;
        }
        self.foreign(id, Foreign::BadProxy);
    }

    /// From now on it is a connection of the client, if that may have one more.
    fn count_client(&mut self, id: ConnectionId, client: Option<IpAddr>) {
        let Some(client) = client.map(PeerAddress::from) else { return };
        let allowed = self.config.per_address.take(client);
        let Some(connection) = self.connection(id) else { return };
        if allowed {
            connection.counted_for = Some(client);
            return;
        }
        let listener = connection.listener;
        self.tell_crowded(listener, client);
        self.end_handshake(id, HandshakeResult::Failed);
        self.stop_taking(id);
        self.ops.push_back(Op::CancelReceive(id));
    }

    /// A connection past its address's share is turned away.
    pub(super) fn tell_crowded(&mut self, listener: ListenerId, peer: PeerAddress) {
        self.listener_counters[listener.0 as usize].refused += 1;
        self.counters.connections_refused += 1;
        let notice = |seen| Notice::Closed { reason: "connections_per_ip", seen, peer: Some(peer) };
        self.notices.extend(self.crowding.again(self.now).map(notice));
    }

    /// The stream has ended: of a header that had begun and is not all there, a line would have come.
    pub(super) fn lose_header(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id).filter(|connection| connection.life == Life::Open) else { return };
        if connection.header.take().is_some_and(|header| header.decoder.has_begun()) {
            self.reject_of(id, Reject::Cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses() {
        let network = |text: &str| text.parse::<Cidr>().expect("a network");
        let six = |text: &str| PeerAddress(text.parse::<core::net::Ipv6Addr>().expect("an address").octets());
        let ten = network("10.1.0.0/16");
        assert!(ten.contains(PeerAddress::v4([10, 1, 255, 255])) && !ten.contains(PeerAddress::v4([10, 2, 0, 0])));
        assert!(ten.contains(six("::ffff:10.1.2.3")) && !ten.contains(six("::10.1.2.3")));
        assert!(network("0.0.0.0/0").contains(PeerAddress::v4([192, 0, 2, 1])));
        assert!(!network("0.0.0.0/0").contains(six("2001:db8::1")));
        assert!(network("2001:db8::/32").contains(six("2001:db8:ffff::1")));
        let single = network("192.0.2.1");
        assert!(single.contains(PeerAddress::v4([192, 0, 2, 1])) && !single.contains(PeerAddress::v4([192, 0, 2, 0])));
    }

    #[test]
    fn what_is_no_network_is_told_so() {
        for (text, wanted) in [
            ("10.0.0.0/33", "10.0.0.0/8 or 2001:db8::/32"),
            ("ten", "10.0.0.0/8 or 2001:db8::/32"),
            ("", "10.0.0.0/8 or 2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "write it as such"),
        ] {
            let problem = text.parse::<Cidr>().expect_err("wrong on purpose");
            assert!(problem.contains(wanted) && problem.contains(text), "{problem}");
        }
    }
}
