//! The shard's pool of write buffers: power-of-two size classes, one account for all of them.
//!
//! ```text
//! class      0     1     2      …   10        …   17
//! capacity   256   512   1 KiB  …   256 KiB   …   32 MiB
//! ```
//! Exact powers of two: one byte more, and the allocator would round each up by a quarter.
//!
//! Invariant: `used` is the capacity of all buffers that the pool has handed out and not got back; `used + free` stays
//! at or below the limit whenever `used` does: before the pool asks the allocator, it lets free buffers go.

use bytes::{BufMut as _, BytesMut};

use super::fetch::fetch_for_write;
use crate::limits::LINE_BYTES_MAX_MAX;
use crate::time::Time;

const CLASS_BYTES_MIN: usize = 256;
/// Number of size classes; the largest holds 32 MiB.
pub const CLASSES: usize = 18;

const _: () = assert!(2 * LINE_BYTES_MAX_MAX <= (CLASS_BYTES_MIN << (CLASSES - 1)) as u64);

/// Owned memory of one size class with a cursor: bytes before it are already where they belong.
///
/// Invariant: `done <= bytes.len() <= capacity`, and the capacity never changes.
#[derive(Debug)]
pub struct WriteBuf {
    bytes: BytesMut,
    done: usize,
    class: u8,
    since: Time,
    lines: u32,
}

impl WriteBuf {
    fn new(class: usize) -> Self {
        let class_index = u8::try_from(class).expect("there are fewer than 256 size classes");
        let bytes = BytesMut::with_capacity(class_bytes(class));
        Self { bytes, done: 0, class: class_index, since: Time::default(), lines: 0 }
    }

    /// The size class.
    #[must_use]
    pub fn class(&self) -> usize {
        usize::from(self.class)
    }

    /// Bytes it can hold in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        class_bytes(self.class())
    }

    /// Bytes it can still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity() - self.bytes.len()
    }

    /// All content, whether done or not.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.bytes
    }

    /// All content, to be changed in place.
    pub fn content_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Removes bytes at the front; the others move up.
    pub fn drop_front(&mut self, count: usize) {
        debug_assert!(self.done == 0, "what is being written does not move");
        self.bytes.copy_within(count.., 0);
        self.bytes.truncate(self.bytes.len() - count);
    }

    /// The content that is not done yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    /// Asks for the memory of the next bytes to be pushed.
    #[inline]
    pub fn fetch_room(&mut self, bytes: usize) {
        fetch_for_write(self.bytes.spare_capacity_mut(), bytes);
    }

    /// Appends; the caller has checked the room.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room(), "a write buffer never grows");
        self.bytes.put_slice(bytes);
    }

    /// Replaces bytes of the content.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Moves the cursor over `count` bytes that have been written.
    pub fn advance(&mut self, count: usize) {
        self.done += count;
        assert!(self.done <= self.bytes.len(), "the driver wrote more than it was given");
    }

    /// Whether some of it has been written.
    #[must_use]
    pub const fn is_begun(&self) -> bool {
        self.done > 0
    }

    /// Moves the cursor back to the start: all of it is to be written again. Gives the bytes in between.
    pub fn rewind(&mut self) -> usize {
        std::mem::take(&mut self.done)
    }

    /// Removes what has been written.
    pub fn drop_done(&mut self) {
        let done = self.rewind();
        self.drop_front(done);
        let lines = memchr::memchr_iter(b'\n', self.content()).count();
        self.lines = u32::try_from(lines).expect("a buffer is below 4 GiB");
    }

    /// When its first byte came, as its user has said.
    #[must_use]
    pub const fn since(&self) -> Time {
        self.since
    }

    /// Says when its first byte came.
    pub fn begin(&mut self, now: Time) {
        self.since = now;
    }

    /// LFs in the content, as its user has said.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        self.lines
    }

    /// Says that so many of the bytes that were pushed are LFs.
    #[inline]
    pub fn add_lines(&mut self, lines: u32) {
        self.lines += lines;
    }

    /// Empties it, to be filled again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.done = 0;
        self.lines = 0;
    }
}

/// The smallest class that holds `bytes`.
#[must_use]
pub fn class_for(bytes: usize) -> usize {
    let blocks = bytes.div_ceil(CLASS_BYTES_MIN).max(1);
    (blocks.next_power_of_two().trailing_zeros() as usize).min(CLASSES - 1)
}

/// Capacity of a buffer of this class.
#[must_use]
pub const fn class_bytes(class: usize) -> usize {
    CLASS_BYTES_MIN << class
}

/// Hands out write buffers and keeps account of their capacity.
#[derive(Debug)]
pub struct BufferPool {
    free: [Vec<WriteBuf>; CLASSES],
    free_bytes: usize,
    used_bytes: usize,
    limit_bytes: usize,
}

impl BufferPool {
    /// A pool that keeps at most `limit_bytes` in all while no more than that is in use.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { free: [const { Vec::new() }; CLASSES], free_bytes: 0, used_bytes: 0, limit_bytes }
    }

    /// Capacity of all buffers handed out, in bytes.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used_bytes
    }

    /// An empty buffer of this class. Never refuses: who asks looks at [`BufferPool::used`] and stops taking input.
    pub fn take(&mut self, class: usize) -> WriteBuf {
        let bytes = class_bytes(class);
        self.used_bytes += bytes;
        if let Some(buf) = self.free[class].pop() {
            self.free_bytes -= bytes;
            return buf;
        }
        self.allocate(class)
    }

    #[cold]
    #[inline(never)]
    fn allocate(&mut self, class: usize) -> WriteBuf {
        while self.free_bytes > 0 && self.used_bytes + self.free_bytes > self.limit_bytes {
            let Some(largest) = self.free.iter_mut().rev().find_map(Vec::pop) else { break };
            self.free_bytes -= largest.capacity();
        }
        WriteBuf::new(class)
    }

    /// Takes a buffer back; its content is gone.
    pub fn give(&mut self, mut buf: WriteBuf) {
        buf.clear();
        self.used_bytes -= buf.capacity();
        self.free_bytes += buf.capacity();
        self.free[buf.class()].push(buf);
    }

    /// Exchanges a buffer for a larger one with the same content.
    pub fn grow(&mut self, buf: &mut WriteBuf, class: usize) {
        debug_assert!(buf.done == 0 && class > buf.class());
        let mut large = self.take(class);
        large.push(buf.content());
        large.begin(buf.since());
        large.add_lines(buf.lines());
        self.give(std::mem::replace(buf, large));
    }

    /// Appends to a buffer, which becomes a larger one if it has to, or to a new one.
    pub fn append(&mut self, buf: Option<WriteBuf>, bytes: &[u8]) -> WriteBuf {
        let mut buf = buf.unwrap_or_else(|| self.take(class_for(bytes.len())));
        if buf.room() < bytes.len() {
            let class = class_for(buf.content().len() + bytes.len());
            self.grow(&mut buf, class);
        }
        buf.push(bytes);
        buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_say() {
        for bytes in [0, 1, 256, 257, 512, 513, 4096, 262_143, 262_144, 262_145] {
            let class = class_for(bytes);
            assert!(class_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || class_bytes(class - 1) < bytes, "{bytes}");
        }
    }

    #[test]
    fn memory_never_moves_and_never_grows() {
        let mut pool = BufferPool::new(1 << 20);
        let mut buf = pool.take(0);
        let start = buf.content().as_ptr();
        buf.push(&[b'x'; 256]);
        assert_eq!((buf.room(), buf.content().as_ptr()), (0, start));
        pool.give(buf);
        let again = pool.take(0);
        assert_eq!((again.content().as_ptr(), again.room()), (start, 256));
    }

    #[test]
    fn what_is_appended_finds_room() {
        let mut pool = BufferPool::new(1 << 20);
        let mut buf = pool.append(None, &[b'a'; 200]);
        buf = pool.append(Some(buf), &[b'b'; 56]);
        assert_eq!((buf.capacity(), pool.used()), (256, 256));
        buf = pool.append(Some(buf), &[b'c'; 300]);
        assert_eq!((buf.capacity(), pool.used(), buf.content()[556 - 301]), (1024, 1024, b'b'));
        buf.drop_front(256);
        buf.content_mut()[0] = b'd';
        assert_eq!(buf.content(), [&[b'd'][..], &[b'c'; 299]].concat());
        pool.give(buf);
    }

    #[test]
    fn free_buffers_make_room_for_other_classes() {
        let mut pool = BufferPool::new(1 << 20);
        let large: Vec<_> = (0..3).map(|_| pool.take(10)).collect();
        for buf in large {
            pool.give(buf);
        }
        assert_eq!(pool.used(), 0);
        let small: Vec<_> = (0..2048).map(|_| pool.take(0)).collect();
        assert!(pool.used() + pool.free_bytes <= 1 << 20);
        for buf in small {
            pool.give(buf);
        }
        assert_eq!(pool.used(), 0);
    }
}
