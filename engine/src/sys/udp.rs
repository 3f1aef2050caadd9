//! UDP sockets: bound like listeners, with a large receive buffer and the kernel's word on what it drops.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use libc::{SO_RCVBUFFORCE, SO_RXQ_OVFL, SOL_SOCKET, SOL_UDP, UDP_GRO, c_int};
use socket2::{Domain, Protocol, Socket, Type};

use super::listener::{bind_patiently, bind_refused};
use super::socket_option::set;
use crate::error::StartError;
use crate::limits::UDP_RECEIVE_BUFFER_BYTES;

/// A bound address with a socket for every shard; the kernel spreads senders over them.
#[derive(Debug)]
pub struct UdpListener {
    /// The sockets, one a shard.
    pub fds: Vec<OwnedFd>,
    /// Where they listen; a port of 0 has become a real one.
    pub address: SocketAddr,
    /// What the kernel granted each of them, in bytes as it counts them.
    pub receive_buffer_bytes: usize,
}

/// Binds a socket for each of `shards`. A busy port is tried for a while, as with TCP.
///
/// # Errors
/// The address cannot be bound; says what to do.
pub fn listen_udp(address: SocketAddr, shards: usize) -> Result<UdpListener, StartError> {
    let refused = |error: io::Error| bind_refused(address, "--udp", error);
    // Alone first, as with TCP; never with SO_REUSEADDR, which would let a second engine have the port.
    let probe = bind_patiently(|| bind(address, false)).map_err(refused)?;
    let address = probe.local_addr().map_err(refused)?.as_socket().unwrap_or(address);
    drop(probe);
    let mut receive_buffer_bytes = usize::MAX;
    let mut open = || {
        let socket = bind(address, true)?;
        receive_buffer_bytes = receive_buffer_bytes.min(prepare(&socket)?);
        Ok(socket.into())
    };
    let fds = (0..shards).map(|_| open()).collect::<io::Result<_>>().map_err(refused)?;
    Ok(UdpListener { fds, address, receive_buffer_bytes })
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Asks for room, for the number of drops, and for datagrams of one sender together. Says how much room there is.
///
/// Together: 256 B datagrams of a sender that leaves cutting to the kernel come 60 at a time, M datagrams per CPU-second
/// of the engine 3.2-3.5 with `UDP_GRO` and 0.7-0.85 without; sent one by one over loopback, where the kernel joins
/// nothing, 0.57-0.73 and 0.61-0.78 (one shard, 3 interleaved runs on a busy machine).
fn prepare(socket: &Socket) -> io::Result<usize> {
    let wanted = c_int::try_from(UDP_RECEIVE_BUFFER_BYTES).expect("some megabytes");
    // Only a privileged process may have more than net.core.rmem_max.
    if set(socket, SOL_SOCKET, SO_RCVBUFFORCE, wanted).is_err() {
        socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES)?;
    }
    set(socket, SOL_SOCKET, SO_RXQ_OVFL, 1)?;
    set(socket, SOL_UDP, UDP_GRO, 1)?;
    socket.recv_buffer_size()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::time::Duration;

    use super::*;

    /// `[::]` takes IPv4 too.
    #[test]
    fn the_address_of_all_takes_both_versions() {
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            // The host has no IPv6.
            return;
        }
        let mut listener = listen_udp((Ipv6Addr::UNSPECIFIED, 0).into(), 1).expect("a free port");
        let receiver = UdpSocket::from(listener.fds.remove(0));
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket takes that");
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let sender = UdpSocket::bind((host, 0)).expect("a free port");
            sender.send_to(b"datagram", (host, listener.address.port())).expect("loopback is up");
            let mut bytes = [0; 16];
            assert_eq!(receiver.recv(&mut bytes).expect("it has come"), 8);
        }
    }
}
