//! Socket options that no crate of ours knows: a number each.

#![allow(unsafe_code, reason = "setsockopt takes a pointer")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, socklen_t};

/// Sets an option whose value is an int.
///
/// # Errors
/// Those of setsockopt.
pub(super) fn set(socket: &impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = socklen_t::try_from(size_of::<c_int>()).expect("an int has four bytes");
    // SAFETY: the descriptor is borrowed for the call, and the option's value is an int that lives as long.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
