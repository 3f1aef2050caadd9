//! Receive buffers: one arena of equal buffers, each either the driver's or lent to the core.
//!
//! ```text
//! arena   | buffer 0 | buffer 1 | buffer 2 | …      64 KiB each
//! owner     driver     core       driver            a bit each; `RecvBuf` is the core's claim
//! ```
//! Invariant: at most one [`RecvBuf`] exists for a buffer, and while it exists nobody writes that buffer.

#![allow(unsafe_code, reason = "memory that the kernel fills while a ring owns it cannot be a safe slice")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

const PAGE_BYTES: usize = 4096;

/// The memory behind all receive buffers of a shard.
#[derive(Debug)]
pub struct RecvArena {
    memory: NonNull<u8>,
    buffer_bytes: usize,
    lent: Vec<Cell<bool>>,
}

impl RecvArena {
    /// `count` zeroed buffers of `buffer_bytes` (a multiple of the page size). Pages are not touched until used.
    #[must_use]
    pub fn new(count: u16, buffer_bytes: usize) -> Rc<Self> {
        let layout = Self::layout(usize::from(count), buffer_bytes);
        // SAFETY: the layout has a size above zero: `layout` asserts it.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Rc::new(Self { memory, buffer_bytes, lent: vec![Cell::new(false); usize::from(count)] })
    }

    fn layout(count: usize, buffer_bytes: usize) -> Layout {
        assert!(count > 0 && buffer_bytes > 0 && buffer_bytes.is_multiple_of(PAGE_BYTES));
        Layout::from_size_align(count * buffer_bytes, PAGE_BYTES)
            .expect("65,535 buffers of 64 KiB fit the address space")
    }

    /// Number of buffers.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.lent.len()).expect("the arena was made with a u16 count")
    }

    /// Bytes of one buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Where a buffer starts, for the ring that lets the kernel fill it.
    #[must_use]
    pub fn address(&self, index: u16) -> NonNull<u8> {
        assert!(usize::from(index) < self.lent.len());
        // SAFETY: index < count, so the offset stays inside the allocation of count * buffer_bytes.
        unsafe { self.memory.add(usize::from(index) * self.buffer_bytes) }
    }

    /// Lends the first `length` bytes of a buffer to the core.
    ///
    /// # Safety
    ///
    /// Nobody writes to the buffer from now until the returned value is dropped: whoever gave its address to the kernel
    /// has the kernel's word that it is done with it.
    #[must_use]
    pub unsafe fn lend(self: &Rc<Self>, index: u16, length: usize) -> RecvBuf {
        assert!(length <= self.buffer_bytes && !self.lent[usize::from(index)].replace(true), "lent twice");
        RecvBuf { arena: Rc::clone(self), index, skipped: 0, length }
    }

    /// Copies `bytes` into a buffer and lends it, for drivers without a kernel.
    #[must_use]
    pub fn fill(self: &Rc<Self>, index: u16, bytes: &[u8]) -> RecvBuf {
        assert!(bytes.len() <= self.buffer_bytes && !self.lent[usize::from(index)].replace(true), "lent twice");
        // SAFETY: the buffer was not lent until now, and `bytes` has been checked to fit it; `bytes` cannot overlap it,
        // since only a RecvBuf lends this memory.
        unsafe { self.address(index).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        RecvBuf { arena: Rc::clone(self), index, skipped: 0, length: bytes.len() }
    }
}

impl Drop for RecvArena {
    fn drop(&mut self) {
        let layout = Self::layout(self.lent.len(), self.buffer_bytes);
        // SAFETY: allocated in `new` with the same layout; every RecvBuf holds an Rc, so none is left.
        unsafe { dealloc(self.memory.as_ptr(), layout) };
    }
}

/// What one receive brought: the core's claim on one buffer of the arena, until it is given back.
#[derive(Debug)]
pub struct RecvBuf {
    arena: Rc<RecvArena>,
    index: u16,
    /// Bytes at the front that are not what was received.
    skipped: usize,
    length: usize,
}

impl RecvBuf {
    /// Which buffer of the arena it is; the claim ends when the value is dropped.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Leaves out bytes at the front, which the kernel put there before what was received.
    pub fn skip(&mut self, bytes: usize) {
        assert!(self.skipped + bytes <= self.length, "skipped more than there is");
        self.skipped += bytes;
    }
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.arena.address(self.index);
        // SAFETY: the arena's memory is initialised (zeroed) and alive through the Rc; length was checked against the
        // buffer's size; `lend` and `fill` guarantee that nobody writes it while this claim exists.
        let all = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.length) };
        &all[self.skipped..]
    }
}

impl DerefMut for RecvBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.arena.address(self.index);
        // SAFETY: as for `deref`; this claim is the only one on the buffer, and it is borrowed for as long as the slice.
        let all = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.length) };
        &mut all[self.skipped..]
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        self.arena.lent[usize::from(self.index)].set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_was_filled_in() {
        let arena = RecvArena::new(2, 4096);
        let first = arena.fill(0, b"first");
        let second = arena.fill(1, &[7; 4096]);
        assert_eq!((&*first, second.len(), second.index()), (&b"first"[..], 4096, 1));
        drop(first);
        let mut again = arena.fill(0, b"head, again");
        again.skip(6);
        assert_eq!(&*again, b"again");
        again[0] = b'A';
        assert_eq!((&*again, second[0]), (&b"Again"[..], 7));
    }

    #[test]
    #[should_panic(expected = "lent twice")]
    fn a_buffer_is_lent_once() {
        let arena = RecvArena::new(1, 4096);
        let _first = arena.fill(0, b"first");
        let _second = arena.fill(0, b"second");
    }
}
