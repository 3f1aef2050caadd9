//! UDP sockets on the ring: multishot receives into buffers of their own, with what the kernel says about each.
//!
//! ```text
//! buffer   | header 16 | control messages 48      | payload: a datagram, or several of one size |
//!            io_uring_recvmsg_out (linux/io_uring.h)  SO_RXQ_OVFL: drops, UDP_GRO: size of each
//! ```

#![expect(clippy::host_endian_bytes, reason = "the kernel of the same machine wrote these numbers")]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{Submitter, opcode};
use libc::{cmsghdr, msghdr};

use super::recv_ring::{DATAGRAM_GROUP, RecvRing};
use crate::buf::RecvBuf;
use crate::limits::{UDP_BUFFER_BYTES, UDP_BUFFERS};
use crate::shard::{Datagrams, ReceivedDatagrams, UdpId};
use crate::sys::listener;

/// Four numbers of 32 bits: lengths of name, control messages and payload, and flags.
const HEADER_BYTES: usize = 16;
/// Two control messages of one number each, padded to eight bytes.
const CONTROL_BYTES: usize = 2 * (size_of::<cmsghdr>() + 8);
/// The largest payload that the kernel joins or receives.
const PAYLOAD_BYTES_MAX: usize = 65_535;

const _: () = assert!(HEADER_BYTES + CONTROL_BYTES + PAYLOAD_BYTES_MAX <= UDP_BUFFER_BYTES);

/// A shard's UDP sockets and the buffers that they are received into.
pub(super) struct UdpSockets {
    sockets: Vec<Option<OwnedFd>>,
    buffers: RecvRing,
    /// What every receive names: no room for the sender's address, some for control messages. Never freed: a ring that is
    /// closed ends its requests in its own time.
    message: &'static msghdr,
}

impl UdpSockets {
    /// Registers the buffers; the `io_uring` must be dropped before the returned value.
    pub(super) fn register(submitter: &Submitter<'_>, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let buffers = RecvRing::register(submitter, DATAGRAM_GROUP, UDP_BUFFERS, UDP_BUFFER_BYTES)?;
        // SAFETY: all fields are numbers and pointers, for which zero and null are values.
        let mut message: Box<msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_controllen = CONTROL_BYTES as _;
        Ok(Self { sockets: sockets.into_iter().map(Some).collect(), buffers, message: Box::leak(message) })
    }

    /// The request for datagrams; it names `self`'s memory. `None`: the socket is closed.
    pub(super) fn receive(&self, UdpId(slot): UdpId, rest: bool) -> Option<Entry> {
        let fd = Fd(self.sockets[slot as usize].as_ref()?.as_raw_fd());
        let flags = if rest { libc::MSG_DONTWAIT } else { 0 };
        let flags = u32::try_from(flags).expect("flags are not negative");
        Some(opcode::RecvMsgMulti::new(fd, self.message, DATAGRAM_GROUP).flags(flags).build())
    }

    /// What a receive ended with: `result` bytes in this buffer, or an error.
    pub(super) fn received(&mut self, result: io::Result<u32>, buffer: Option<u16>) -> ReceivedDatagrams {
        match (result, buffer) {
            (Ok(length), Some(index)) => {
                let buf = self.buffers.lend(index, length as usize);
                ReceivedDatagrams::Data(datagrams_in(buf))
            }
            (result, buffer) => {
                if let Some(index) = buffer {
                    self.buffers.provide(index);
                }
                match result {
                    Ok(_) => ReceivedDatagrams::Cancelled,
                    Err(error) => match error.raw_os_error() {
                        Some(libc::ENOBUFS) => ReceivedDatagrams::NoBuffer,
                        Some(libc::ECANCELED) => ReceivedDatagrams::Cancelled,
                        Some(libc::EAGAIN) => ReceivedDatagrams::Empty,
                        _ => ReceivedDatagrams::Failed(error),
                    },
                }
            }
        }
    }

    pub(super) fn deafen(&self, UdpId(slot): UdpId) {
        if let Some(fd) = &self.sockets[slot as usize] {
            listener::deafen(fd);
        }
    }

    pub(super) fn close(&mut self, UdpId(slot): UdpId) {
        self.sockets[slot as usize] = None;
    }

    pub(super) fn recycle(&mut self, buf: RecvBuf) {
        self.buffers.recycle(buf);
    }

    /// Shows the kernel which buffers came back.
    pub(super) fn publish(&self) {
        self.buffers.publish();
    }

    /// Keeps the memory for ever: the kernel may still use it.
    pub(super) fn leak(&mut self) {
        self.buffers.leak();
    }
}

/// Reads what the kernel says about a payload, and leaves only that in the buffer.
fn datagrams_in(mut buf: RecvBuf) -> Datagrams {
    let (mut each, mut drops) = (None, None);
    let said = number(&buf, 4).map_or(0, |bytes| bytes as usize).min(CONTROL_BYTES);
    let mut control = buf.get(HEADER_BYTES..HEADER_BYTES + said).unwrap_or_default();
    while let Some((bytes, level, kind)) = control_header(control) {
        let value = number(control, size_of::<cmsghdr>());
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => drops = value,
            (libc::SOL_UDP, libc::UDP_GRO) => each = value,
            _ => {}
        }
        control = control.get(bytes.next_multiple_of(8)..).unwrap_or_default();
    }
    buf.skip((HEADER_BYTES + CONTROL_BYTES).min(buf.len()));
    let each = each.map_or(buf.len(), |each| each as usize);
    Datagrams { buf, each, drops }
}

/// Length, level and type of the control message at the front.
fn control_header(control: &[u8]) -> Option<(usize, i32, i32)> {
    let length = control.get(offset_of!(cmsghdr, cmsg_len)..)?.first_chunk()?;
    let length = usize::from_ne_bytes(*length);
    let int = |at: usize| control.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let (level, kind) = (int(offset_of!(cmsghdr, cmsg_level))?, int(offset_of!(cmsghdr, cmsg_type))?);
    (length >= size_of::<cmsghdr>()).then_some((length, level, kind))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
