//! What any program must pay: receives from sockets into 64 KiB and writes each receive to one file per connection,
//! without looking at a byte. The divisor of every ratio that `scripts/bench` prints.
//!
//! ```text
//!  socket ─► 64 KiB buffer ─► write, as it came ─► DATA/<number of the connection>
//! ```
//! `--by` chooses how; one thread in each case, and the page cache takes the writes by plain calls:
//! - `ring`, the default and the faster one: io_uring, multishot receives into provided buffers;
//! - `epoll`: one `read` of 64 KiB a ready socket, always into the same buffer.
//!
//! GB per CPU-second, interleaved, on a tmpfs of a machine that was busy with other work: `ring` 1.75 and 1.30 at 8
//! connections, 1.46 at 64; `epoll` 1.18, 1.18 and 1.05.
//!
//! A program that need not look at what it receives could also `splice` it. That is left out on purpose: it would be the
//! floor of a proxy, not of a receiver.
//!
//! Speaks like the engine where a script listens: `listening`, `ready`, and at SIGTERM `drained` with its counts. What
//! has not been received by then is lost; who counts ends the senders first.

#![allow(unsafe_code, reason = "the kernel fills buffers of a ring that it shares with us")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::epoll;
use signal_hook::consts::{SIGINT, SIGTERM};

/// 1 MiB in all. With 64 or 256 buffers medians were 1 to 21 % lower (three interleaved comparisons, at 8 and 64
/// connections); a guess why: the kernel goes through all buffers in turn, and more do not stay in the cache.
const BUFFERS: u16 = 16;
const BUFFER_BYTES: usize = 64 * 1024;
const BUFFER_GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;
const SUBMISSION_ENTRIES: u32 = 4096;
const COMPLETION_ENTRIES: u32 = 16_384;
/// How often to look for the signal when nothing comes.
const SIGNAL_LOOK: Duration = Duration::from_millis(50);
/// `user_data` of the listener; connections are counted from 0.
const LISTENER: u64 = u64::MAX;

const USAGE: &str = "usage: floor --tcp ADDR --data DIR [--by ring|epoll]";

#[derive(Debug)]
struct Args {
    tcp: SocketAddr,
    data: PathBuf,
    by: fn(&mut Floor, &AtomicBool) -> io::Result<()>,
}

impl Args {
    fn parse(mut typed: impl Iterator<Item = String>) -> Option<Self> {
        let (mut tcp, mut data, mut by) = (None, None, Floor::by_ring as fn(&mut Floor, &AtomicBool) -> _);
        while let Some(flag) = typed.next() {
            let value = typed.next()?;
            match (flag.as_str(), value.as_str()) {
                ("--tcp", address) => tcp = Some(address.parse().ok()?),
                ("--data", folder) => data = Some(PathBuf::from(folder)),
                ("--by", "ring") => by = Floor::by_ring,
                ("--by", "epoll") => by = Floor::by_epoll,
                _ => return None,
            }
        }
        Some(Self { tcp: tcp?, data: data?, by })
    }
}

#[expect(clippy::print_stderr, reason = "the words of a receiver: listening, ready, drained")]
fn main() -> ExitCode {
    let Some(args) = Args::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&args) {
        Ok(floor) => {
            let Floor { accepted, received_bytes, writes, .. } = floor;
            eprintln!("info drained connections={accepted} received_bytes={received_bytes} batches={writes}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the words of a receiver: listening, ready, drained")]
fn run(args: &Args) -> io::Result<Floor> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    std::fs::create_dir_all(&args.data)?;
    let mut floor = Floor::new(args.tcp, &args.data)?;
    eprintln!("info listening proto=tcp addr={}", floor.listener.local_addr()?);
    eprintln!("info ready");
    (args.by)(&mut floor, &stop)?;
    Ok(floor)
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    file: File,
}

#[derive(Debug)]
struct Floor {
    listener: TcpListener,
    data: PathBuf,
    /// By number; absent once ended. Numbers are not used again.
    connections: Vec<Option<Connection>>,
    accepted: usize,
    received_bytes: u64,
    writes: u64,
}

impl Floor {
    fn new(address: SocketAddr, data: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let data = data.to_owned();
        Ok(Self { listener, data, connections: Vec::new(), accepted: 0, received_bytes: 0, writes: 0 })
    }

    /// Takes all connections that wait; returns the number of the first new one.
    fn accept(&mut self) -> io::Result<usize> {
        let first = self.connections.len();
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let file = File::create_new(self.data.join(self.accepted.to_string()))?;
                    self.connections.push(Some(Connection { socket, file }));
                    self.accepted += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(first),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        self.received_bytes += bytes.len() as u64;
        self.writes += 1;
        let connection = self.connections[number].as_mut().expect("what has ended receives nothing");
        connection.file.write_all(bytes)
    }

    fn by_epoll(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let interest = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&interest, &self.listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let look = SIGNAL_LOOK.try_into().expect("a fraction of a second");
        let mut events = Vec::with_capacity(usize::from(BUFFERS));
        let mut buffer = vec![0; BUFFER_BYTES];
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(&interest, rustix::buffer::spare_capacity(&mut events), Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                if event.data.u64() == LISTENER {
                    for number in self.accept()?..self.connections.len() {
                        let socket = &self.connections[number].as_ref().expect("it is new").socket;
                        let data = epoll::EventData::new_u64(number as u64);
                        epoll::add(&interest, socket, data, epoll::EventFlags::IN)?;
                    }
                    continue;
                }
                let number = number_of(event.data.u64());
                let connection = self.connections[number].as_mut().expect("what has ended is not watched");
                match connection.socket.read(&mut buffer) {
                    Ok(count @ 1..) => self.write(number, &buffer[..count])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => self.connections[number] = None,
                }
            }
        }
        Ok(())
    }

    fn by_ring(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut ring = Ring::new()?;
        let events = u32::try_from(libc::POLLIN).expect("POLLIN is 1");
        let watch_listener = opcode::PollAdd::new(Fd(self.listener.as_raw_fd()), events).multi(true).build();
        ring.push(&watch_listener.user_data(LISTENER))?;
        while !stop.load(Ordering::Relaxed) {
            ring.wait()?;
            while let Some(entry) = ring.next() {
                let more = cqueue::more(entry.flags());
                if entry.user_data() == LISTENER {
                    for number in self.accept()?..self.connections.len() {
                        self.receive(number, &mut ring)?;
                    }
                    continue;
                }
                let number = number_of(entry.user_data());
                let buffer = cqueue::buffer_select(entry.flags());
                if let (Some(buffer), Ok(count)) = (buffer, usize::try_from(entry.result())) {
                    self.write(number, ring.filled(buffer, count))?;
                }
                if let Some(buffer) = buffer {
                    ring.provide(buffer);
                }
                if more {
                    continue;
                }
                if entry.result() > 0 || entry.result() == -libc::ENOBUFS {
                    self.receive(number, &mut ring)?;
                } else {
                    self.connections[number] = None;
                }
            }
            ring.publish();
        }
        Ok(())
    }

    fn receive(&self, number: usize, ring: &mut Ring) -> io::Result<()> {
        let socket = &self.connections[number].as_ref().expect("it goes on").socket;
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), BUFFER_GROUP).build();
        ring.push(&entry.user_data(number as u64))
    }
}

fn number_of(user_data: u64) -> usize {
    usize::try_from(user_data).expect("it was a usize")
}

/// An io_uring and its ring of provided buffers, whose memory lives as long as the process.
struct Ring {
    uring: IoUring,
    entries: NonNull<BufRingEntry>,
    tail: u16,
    memory: NonNull<u8>,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        let count = usize::from(BUFFERS);
        let entries = for_ever(count * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        let memory = for_ever(count * BUFFER_BYTES);
        let address = entries.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory holds BUFFERS entries, is zeroed and aligned to a page, and is never freed.
        unsafe { uring.submitter().register_buf_ring_with_flags(address, BUFFERS, BUFFER_GROUP, 0)? };
        let mut ring = Self { uring, entries, tail: 0, memory };
        (0..BUFFERS).for_each(|buffer| ring.provide(buffer));
        ring.publish();
        Ok(ring)
    }

    fn buffer(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < BUFFERS);
        // SAFETY: the memory holds BUFFERS buffers.
        unsafe { self.memory.add(usize::from(buffer) * BUFFER_BYTES) }
    }

    /// What the kernel has put into a buffer that it handed over; valid until the buffer is provided again.
    fn filled(&self, buffer: u16, count: usize) -> &[u8] {
        assert!(count <= BUFFER_BYTES);
        // SAFETY: the memory is initialised and lives for ever; the kernel has taken this buffer out of the ring and
        // writes to it again only after `provide`, which needs `self` mutably and so ends this borrow.
        unsafe { std::slice::from_raw_parts(self.buffer(buffer).as_ptr(), count) }
    }

    fn provide(&mut self, buffer: u16) {
        let address = self.buffer(buffer).as_ptr().expose_provenance() as u64;
        // SAFETY: the place is below BUFFERS, a power of two, and so inside the ring's memory.
        let entry = unsafe { self.entries.add(usize::from(self.tail & (BUFFERS - 1))) };
        // SAFETY: initialised memory that the kernel does not read before the tail that covers it is published.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("64 KiB"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the pointer is that of the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: it lies in the ring's memory, is aligned, and both sides access it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the entries of this program name no memory, and no descriptor before its last answer is closed.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.uring.submit()?;
        }
    }

    fn next(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }

    fn wait(&self) -> io::Result<()> {
        let look = Timespec::from(SIGNAL_LOOK);
        match self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&look)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => Err(error),
            _ => Ok(()),
        }
    }
}

const _: () = assert!(BUFFERS.is_power_of_two());

/// Zeroed memory, aligned to a page, that is never freed.
fn for_ever(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("some MiB fit the address space");
    assert!(bytes > 0);
    // SAFETY: the size is above zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}
