//! Makes a socket drop what comes to it, without any privilege: packets with a time to live below 255, which are all but
//! those of the few hosts on the same link that start at 255.
//!
//! `IP_MINTTL` and `IPV6_MINHOPCOUNT` (ip(7), `net/ipv4/tcp_ipv4.c`): the packet is dropped before TCP sees it.
#![allow(unsafe_code, reason = "two socket options that no crate of ours knows")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use libc::{IP_MINTTL, IPPROTO_IP, IPPROTO_IPV6, IPV6_MINHOPCOUNT, c_int, socklen_t};

/// The largest time to live there is.
static TTL_MAX: c_int = 255;

/// From now on packets for this TCP socket, IPv4 or IPv6, are dropped unless their time to live is 255.
///
/// # Errors
/// Those of setsockopt.
pub(super) fn require_full_ttl(socket: &impl AsFd) -> io::Result<()> {
    let ipv6 = set(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT);
    // A dual-stack socket takes both, one for IPv4 only this one.
    set(socket, IPPROTO_IP, IP_MINTTL).or(ipv6)
}

fn set(socket: &impl AsFd, level: c_int, option: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = socklen_t::try_from(size_of::<c_int>()).expect("an int has four bytes");
    // SAFETY: the descriptor is borrowed for the call, and the option's value is an int that lives as long.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const TTL_MAX).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
