//! Listening sockets: binding them so that a restart succeeds and a second engine does not, and ending them exactly.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use super::min_ttl::require_full_ttl;
use crate::error::StartError;
use crate::limits::{BACKLOG, BIND_RETRY, BIND_TRY, KEEPALIVE};
use crate::shard::PeerAddress;

/// Classic BPF `ret 0`: drop every packet (linux/filter.h, `BPF_RET | BPF_K`).
const DROP_ALL: (u16, u32) = (0x06, 0);

/// A bound address with a listening socket for every shard; the kernel spreads connections over them.
#[derive(Debug)]
pub struct Listener {
    /// The listening sockets, one a shard.
    pub fds: Vec<OwnedFd>,
    /// Where they listen; a port of 0 has become a real one.
    pub address: SocketAddr,
}

/// Binds and listens, a socket for each of `shards`. A busy port is tried for [`BIND_RETRY`]: a killed predecessor frees
/// it late. `flag` is the one that gave the address.
///
/// # Errors
/// The address cannot be bound; says what to do.
pub fn listen(address: SocketAddr, flag: &str, shards: usize) -> Result<Listener, StartError> {
    let refused = |error: io::Error| bind_refused(address, flag, error);
    // The first one binds alone: shared from the start, the port of a second engine would be shared too, and each would
    // get half of the connections.
    let probe = bind_patiently(|| bind(address, false)).map_err(refused)?;
    let address = probe.local_addr().map_err(refused)?.as_socket().unwrap_or(address);
    drop(probe);
    let listen = || {
        let socket = bind(address, true)?;
        socket.listen(i32::from(BACKLOG))?;
        Ok(socket.into())
    };
    let fds = (0..shards).map(|_| listen()).collect::<io::Result<_>>().map_err(refused)?;
    Ok(Listener { fds, address })
}

/// The address that a flag gives cannot be bound.
pub(super) fn bind_refused(address: SocketAddr, flag: &str, error: io::Error) -> StartError {
    let problem = match error.kind() {
        io::ErrorKind::AddrInUse => format!("in use by another process; stop it or choose another {flag}"),
        io::ErrorKind::PermissionDenied => {
            "not allowed for this user; give the engine CAP_NET_BIND_SERVICE or choose a port above 1023".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => format!("not an address of this host; choose another {flag}"),
        _ => format!("cannot be bound; choose another {flag}"),
    };
    StartError::new(address.to_string(), problem).because(error)
}

/// Binds; a busy port is tried for [`BIND_RETRY`].
///
/// # Errors
/// Those of the system call.
#[expect(clippy::disallowed_methods, reason = "the deadline of a start, before there is a shard")]
pub fn bind_patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + BIND_RETRY;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(BIND_TRY);
            }
            result => return result,
        }
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a predecessor in TIME_WAIT would refuse a restart for a minute.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit it.
    let (idle, interval, count) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// From now on no handshake is answered: what peers send to this listener is dropped before TCP sees it. Connections
/// that the kernel has accepted stay in the queue, and taking them no longer waits.
///
/// # Errors
/// Those of fcntl.
pub fn refuse_new(listener: &impl AsFd) -> io::Result<()> {
    deafen(listener);
    SockRef::from(listener).set_nonblocking(true)
}

/// From now on what is sent to this socket is dropped before TCP sees it. What TCP has received stays readable, and is
/// still acknowledged.
///
/// Some kernels (6.18 is one) let only `CAP_NET_ADMIN` filter TCP: everybody else asks for a time to live that hardly any
/// packet has. A socket that refuses both hears on: a drain goes on, only less exact.
pub fn deafen(socket: &impl AsFd) {
    let (code, value) = DROP_ALL;
    let filtered = SockRef::from(socket).attach_filter(&[SockFilter::new(code, 0, 0, value)]);
    let _deaf = filtered.or_else(|_| require_full_ttl(socket));
}

/// Takes a connection out of the accept queue; `WouldBlock` when there is none.
///
/// # Errors
/// Those of accept4.
pub fn accept_now(listener: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// Who a connection is of; `None` if the peer has left again.
pub fn peer_address(connection: &impl AsFd) -> Option<PeerAddress> {
    let address = SockRef::from(connection).peer_addr().ok()?.as_socket()?;
    Some(address.ip().into())
}

/// Makes the close of a connection a reset: a peer that waits on a closed window would hang for 40 s otherwise.
pub fn reset_on_close(connection: &impl AsFd) {
    // A connection that is gone already needs no reset.
    let _result = SockRef::from(connection).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    /// `[::]` takes IPv4 too, and its peers are who they are on a listener of their own.
    #[test]
    fn the_address_of_all_takes_both_versions() {
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            // The host has no IPv6.
            return;
        }
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into(), "--tcp", 1).expect("a free port");
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let _peer = TcpStream::connect((host, listener.address.port())).expect("it listens");
            let accepted = accept_now(&listener.fds[0]).expect("it is in the queue");
            assert_eq!(peer_address(&accepted), Some(host.into()));
        }
    }

    /// A dead peer's connection ends: no flag does that, so it must not be lost unnoticed.
    #[test]
    fn accepted_connections_look_after_dead_peers() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), "--tcp", 1).expect("a free port");
        let _peer = TcpStream::connect(listener.address).expect("it listens");
        let accepted = accept_now(&listener.fds[0]).expect("it is in the queue");
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().expect("a socket says so"));
        let found = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval(), socket.tcp_keepalive_retries());
        assert_eq!(
            (found.0.ok(), found.1.ok(), found.2.ok()),
            (Some(KEEPALIVE.0), Some(KEEPALIVE.1), Some(KEEPALIVE.2))
        );
        assert_eq!(KEEPALIVE, (Duration::from_mins(1), Duration::from_secs(10), 6));
    }
}
