//! The provided-buffer ring: receive buffers that the kernel may fill.
//!
//! ```text
//! ring    | address, length, index | … 16 bytes each …     head: the kernel's, it takes
//! tail    in the unused bytes of entry 0                   tail: ours, we add
//! ```
//! Invariant: a buffer is in the ring, or filled and not yet lent, or lent to the core; never two of them. The ring has
//! as many places as the arena has buffers, so it never overflows.
//! Layout: `struct io_uring_buf_ring`, `linux/io_uring.h`.

#![allow(unsafe_code, reason = "the ring of provided buffers is memory shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::buf::{RecvArena, RecvBuf};

/// The buffer group for connections.
pub(super) const BUFFER_GROUP: u16 = 0;
/// The buffer group for datagrams.
pub(super) const DATAGRAM_GROUP: u16 = 1;
const PAGE_BYTES: usize = 4096;

/// The kernel's side of the receive arena.
#[derive(Debug)]
pub(super) struct RecvRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
    arena: Rc<RecvArena>,
    leaked: bool,
}

impl RecvRing {
    /// Registers a ring for `count` buffers (a power of two) as this group and puts all of them in.
    ///
    /// The io_uring must be dropped before the returned value.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, count: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let layout = Self::layout(count);
        // SAFETY: the layout's size is count * 16, above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        #[expect(clippy::cast_ptr_alignment, reason = "the layout is aligned to a page")]
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        let mut ring = Self { entries, count, tail: 0, arena: RecvArena::new(count, buffer_bytes), leaked: false };
        let address = entries.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory holds `count` entries, is page-aligned and zeroed, and is freed in `drop`, which comes after
        // the ring's own end by the contract above.
        unsafe { submitter.register_buf_ring_with_flags(address, count, group, 0)? };
        for index in 0..count {
            ring.provide(index);
        }
        ring.publish();
        Ok(ring)
    }

    fn layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE_BYTES)
            .expect("at most 65,535 entries of 16 bytes")
    }

    /// The kernel has put `length` bytes into a buffer: the core's from now on.
    pub(super) fn lend(&self, index: u16, length: usize) -> RecvBuf {
        // SAFETY: the kernel took the buffer out of the ring and reported it once, which is why this is called; it writes
        // no buffer that is not in the ring, and the buffer goes in again only when the RecvBuf is given back.
        unsafe { self.arena.lend(index, length) }
    }

    /// Takes a buffer back from the core; the kernel sees it after [`RecvRing::publish`].
    pub(super) fn recycle(&mut self, buf: RecvBuf) {
        let index = buf.index();
        drop(buf);
        self.provide(index);
    }

    /// Puts a buffer in that the kernel took and did not fill.
    pub(super) fn provide(&mut self, index: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        let length = u32::try_from(self.arena.buffer_bytes()).expect("receive buffers are below 4 GiB");
        // SAFETY: place < count, inside the allocation.
        let entry = unsafe { self.entries.add(place) };
        // SAFETY: the entry is initialised memory of ours until the tail that covers it is published; the kernel does not
        // read it before, and no other reference to it exists.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(self.arena.address(index).as_ptr().expose_provenance() as u64);
        entry.set_len(length);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Keeps the memory for ever: the kernel may still use it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(Rc::clone(&self.arena));
        self.leaked = true;
    }

    /// Shows the kernel what was put in.
    pub(super) fn publish(&self) {
        // SAFETY: the pointer is that of the ring's first entry, which is initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail lies in our allocation and is two-byte aligned; we and the kernel only access it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated in `register` with the same layout; the io_uring that knew it has ended.
        unsafe { dealloc(self.entries.as_ptr().cast(), Self::layout(self.count)) };
    }
}
