//! System calls that no crate offers safely.
//!
//! **`TCP_INFO`**, what the kernel knows of a connection: its state, and how many bytes the peer's kernel has acknowledged.
//! `getsockopt(TCP_INFO)` answers on a connection that was reset as well, for as long as its descriptor is open. The
//! kernel writes as much of `struct tcp_info` (linux/tcp.h) as the caller has room for; the struct grows at its end from
//! release to release. So the bytes go into a buffer, and two fields are taken from their offsets:
//!
//! | field | offset | since |
//! | --- | --- | --- |
//! | `tcpi_state` | 0 | 2.4 |
//! | `tcpi_bytes_acked` | 120 | Linux 4.1; RFC 4898 `tcpEStatsAppHCThruOctetsAcked` |
//!
//! **`UDP_SEGMENT`** (Linux 4.18) makes datagrams of one size out of each write, all but the last one.
//!
//! **`SCHED_FIFO`** lets a thread run whenever it can, before all ordinary ones.
//!
//! **The clock of a process**, the processor time of all its threads, ended ones and the kernel's workers for it too, in
//! nanoseconds: `/proc/PID/stat` has the same in hundredths of a second.
//!
//! Unsafe, because neither std, rustix nor socket2 offers these.
#![allow(unsafe_code, reason = "TCP_INFO, UDP_SEGMENT, SCHED_FIFO and clocks of others have no safe wrapper")]

use std::io;
use std::mem::offset_of;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const STATE_AT: usize = offset_of!(libc::tcp_info, tcpi_state);
const BYTES_ACKED_AT: usize = offset_of!(libc::tcp_info, tcpi_bytes_acked);
/// Room for the struct: more than the two fields need.
const ROOM_BYTES: usize = 256;
/// `TCP_CLOSE` of the kernel's `include/net/tcp_states.h`.
const TCP_CLOSE: u8 = 7;

const _: () = assert!(STATE_AT == 0 && BYTES_ACKED_AT == 120);

/// A connection as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Sequence numbers that the peer has acknowledged: bytes, and one each for SYN and FIN.
    pub acknowledged: u64,
    /// Nothing can change any more: both sides have ended, or one has reset the connection.
    pub closed: bool,
}

/// Asks the kernel about a connection.
///
/// # Errors
///
/// When the kernel refuses, or is older than the fields.
pub fn tcp_info(stream: &TcpStream) -> io::Result<TcpInfo> {
    let mut info = [0_u8; ROOM_BYTES];
    let mut length: libc::socklen_t = 256;
    debug_assert_eq!(length as usize, info.len());
    // SAFETY: the descriptor is open while `stream` is borrowed. `info` is writable for the `length` bytes given beside
    // it (ROOM_BYTES, a literal 256), any bytes are valid in it, and the kernel keeps neither pointer.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < BYTES_ACKED_AT + size_of::<u64>() {
        return Err(io::Error::other("this kernel does not tell tcpi_bytes_acked; Linux 4.1 or newer does"));
    }
    Ok(TcpInfo { acknowledged: u64_at(&info, BYTES_ACKED_AT), closed: info[STATE_AT] == TCP_CLOSE })
}

/// Makes datagrams of so many bytes out of each write; 0: each write is one.
///
/// # Errors
///
/// When the kernel refuses, or has no such option.
pub fn set_udp_segment(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let pointer = (&raw const value).cast();
    // SAFETY: the descriptor is open while `socket` is borrowed. `pointer` is to a c_int, of which the four bytes given
    // beside it are readable, and the kernel does not keep it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, pointer, 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets this thread run before all ordinary ones from now on, and before those of a lower priority (1 to 99).
///
/// # Errors
///
/// When this user may not.
pub fn run_first(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads the struct, which outlives the call, and keeps no pointer to it. 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::host_endian_bytes, reason = "the kernel writes a native integer into memory of this process")]
fn u64_at(info: &[u8; ROOM_BYTES], at: usize) -> u64 {
    let mut bytes = [0; size_of::<u64>()];
    bytes.copy_from_slice(&info[at..at + size_of::<u64>()]);
    u64::from_ne_bytes(bytes)
}

/// Processor time that a process of this host has taken.
///
/// # Errors
///
/// When there is no such process.
pub fn process_time(process: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is writable, and the kernel does not keep the pointer. Any number may be asked for.
    let error = unsafe { libc::clock_getcpuclockid(process.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable, and the kernel does not keep the pointer. A clock that is gone is an error.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    Ok(Duration::new(u64::try_from(time.tv_sec).map_err(invalid)?, u32::try_from(time.tv_nsec).map_err(invalid)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    fn wait_until_closed(stream: &TcpStream) -> TcpInfo {
        loop {
            let info = tcp_info(stream).unwrap();
            if info.closed {
                return info;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn acknowledged_bytes_are_counted() {
        let (mut sender, mut receiver) = pair();
        let before = tcp_info(&sender).unwrap();
        assert!(!before.closed);
        sender.write_all(&[7; 1000]).unwrap();
        receiver.read_exact(&mut [0; 1000]).unwrap();
        drop(receiver);
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        // One more for the FIN.
        assert_eq!(wait_until_closed(&sender).acknowledged - before.acknowledged, 1001);
    }

    #[test]
    fn a_write_becomes_datagrams() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let next = || receiver.recv(&mut [0; 64]).unwrap();
        set_udp_segment(&sender, 10).unwrap();
        sender.send(&[7; 25]).unwrap();
        assert_eq!([next(), next(), next()], [10, 10, 5]);
        set_udp_segment(&sender, 0).unwrap();
        sender.send(&[7; 25]).unwrap();
        assert_eq!(next(), 25);
    }

    #[test]
    fn a_process_has_a_clock() {
        let before = process_time(std::process::id()).unwrap();
        let end = before + Duration::from_millis(1);
        while process_time(std::process::id()).unwrap() < end {}
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        assert_eq!(process_time(ended.id()).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_reset_connection_still_tells() {
        let (mut sender, mut receiver) = pair();
        let before = tcp_info(&sender).unwrap();
        sender.write_all(&[7; 1000]).unwrap();
        receiver.read_exact(&mut [0; 10]).unwrap();
        // Closing with unread bytes resets; all of them had been acknowledged.
        drop(receiver);
        assert_eq!(wait_until_closed(&sender).acknowledged - before.acknowledged, 1000);
    }
}
