//! Makes a socket drop what comes to it, without any privilege: packets with a time to live below 255, which are all but
//! those of the few hosts on the same link that start at 255.
//!
//! `IP_MINTTL` and `IPV6_MINHOPCOUNT` (ip(7), `net/ipv4/tcp_ipv4.c`): the packet is dropped before TCP sees it.

use std::io;
use std::os::fd::AsFd;

use libc::{IP_MINTTL, IPPROTO_IP, IPPROTO_IPV6, IPV6_MINHOPCOUNT, c_int};

use super::socket_option::set;

/// The largest time to live there is.
const TTL_MAX: c_int = 255;

/// From now on packets for this TCP socket, IPv4 or IPv6, are dropped unless their time to live is 255.
///
/// # Errors
/// Those of setsockopt.
pub(super) fn require_full_ttl(socket: &impl AsFd) -> io::Result<()> {
    let ipv6 = set(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, TTL_MAX);
    // A dual-stack socket takes both, one for IPv4 only this one.
    set(socket, IPPROTO_IP, IP_MINTTL, TTL_MAX).or(ipv6)
}
