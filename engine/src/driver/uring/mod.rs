//! The io_uring driver: one ring, made and used on the shard's own thread.
//!
//! ```text
//!  Op ──► submission entry, user_data = kind and slot ──► kernel ──► completion entry ──► Completion
//!  files to open or to make ──► file thread ──► mailbox ──► eventfd ──► Completion
//!  Index ──► queue ──► file thread, which looks into it from time to time
//! ```
//! `user_data` is a kind and a slot of a table here, never a pointer. A slot is freed only by the last answer that can
//! name it: a socket's by its close, which waits for its shutdowns and follows its last receive and transmit; a write's by its one
//! answer. So no answer can reach a slot's next user.
//!
//! Memory safety rests on two facts: the buffer of a write or a transmit stays here until its completion was seen; receive buffers
//! live in the arena until the ring is gone. A driver that ends with requests in flight leaks both (see `drop`).

#![allow(unsafe_code, reason = "submission entries name memory and descriptors that the kernel uses later")]

mod datagrams;
mod file_thread;
mod mailbox;
mod neighbours;
mod probe;
mod recv_ring;
mod sync_thread;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use slab::Slab;

pub use mailbox::Mailbox;
pub use neighbours::Neighbours;
pub use probe::{Feature, RING_LOCKED_BYTES, features, probe, refused, rings_of};
pub use sync_thread::SyncThread;

use crate::buf::WriteBuf;
use crate::handover::{Inlet, queue};
use crate::limits::{
    COMPLETION_ENTRIES, CONNECTION_SLOTS, INDEX_QUEUE, INLINE_WRITE_BYTES_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS,
    RING_RETRY, RING_TRY, SUBMISSION_ENTRIES,
};
use crate::metrics::Load;
use crate::route::LogId;
use crate::segment::FileId;
use crate::shard::{
    Completion, ConnectionId, ListenerId, Newcomer, Notice, Op, Outcome, Received, Shard, ShutdownSide, Sync, UdpId,
};
use crate::sys::listener;
use crate::time::Time;

use datagrams::UdpSockets;
pub use file_thread::Files;
use file_thread::{FileRequest, FileThread, Noted};
use mailbox::Mail;
use recv_ring::{BUFFER_GROUP, RecvRing};
use sync_thread::Request;

/// Why a message to another ring fails and may do better the next time: no memory for it here, or there.
const NO_MEMORY: i32 = -libc::ENOMEM;
const OVERFLOW: i32 = -libc::EOVERFLOW;

/// What a completion entry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Wake,
    Accept,
    Receive,
    Datagrams,
    Transmit,
    Shutdown,
    Close,
    Write,
    /// Another shard has sent something.
    Bell,
    /// Another shard's bell could not be rung.
    NotRung,
    /// Answers that say nothing: cancels, closed segments.
    Ignored,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Wake,
        Self::Accept,
        Self::Receive,
        Self::Datagrams,
        Self::Transmit,
        Self::Shutdown,
        Self::Close,
        Self::Write,
        Self::Bell,
        Self::NotRung,
        Self::Ignored,
    ];

    fn tag(self, slot: u32) -> u64 {
        u64::from(self as u8) << u32::BITS | u64::from(slot)
    }

    fn untag(user_data: u64) -> (Self, u32) {
        let kind = Self::ALL[usize::try_from(user_data >> u32::BITS).expect("only tags of ours come back")];
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the slot")]
        let slot = user_data as u32;
        (kind, slot)
    }
}

#[derive(Debug)]
struct Socket {
    /// Absent once the close has been submitted.
    fd: Option<OwnedFd>,
    /// What is on its way to the peer.
    transmit: Option<WriteBuf>,
    shutdowns: u32,
    /// A close that waits for the shutdowns, and whether it is a reset.
    close: Option<bool>,
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), transmit: None, shutdowns: 0, close: None }
    }
}

#[derive(Debug)]
struct WriteInFlight {
    written: Written,
    buf: WriteBuf,
}

/// Whom the answer to a write is for.
#[derive(Clone, Copy, Debug)]
enum Written {
    Log(LogId),
    Journal,
}

impl Written {
    fn completion(self, buf: WriteBuf, result: io::Result<usize>) -> Completion {
        match self {
            Self::Log(log) => Completion::Written { log, buf, result },
            Self::Journal => Completion::JournalWritten { buf, result },
        }
    }
}

/// Executes one shard's operations on an io_uring.
pub struct Uring {
    // Dropped first: until then the kernel knows the memory below.
    ring: IoUring,
    recv_ring: RecvRing,
    /// Absent where no UDP is spoken.
    udp: Option<UdpSockets>,
    writes: Slab<WriteInFlight>,
    receives: usize,
    transmits: usize,
    sockets: Slab<Socket>,
    /// Shared with a sync that is under way.
    files: Slab<Arc<OwnedFd>>,
    listeners: Vec<Option<OwnedFd>>,
    ready: VecDeque<Completion>,
    file_thread: FileThread,
    sync_thread: SyncThread,
    mailbox: Mailbox,
    neighbours: Neighbours,
    /// Blocks for the file thread, which is not woken for them.
    index: Inlet<Noted>,
    start: Instant,
    overflows: u64,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("sockets", &self.sockets.len())
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// Sets up the ring on the calling thread, which is the one that must call [`Uring::run`].
    ///
    /// # Errors
    /// The kernel refuses the ring, its buffers or a thread.
    #[expect(clippy::disallowed_methods, reason = "the driver is where the core's time comes from")]
    pub fn new(
        listeners: Vec<OwnedFd>,
        udp: Vec<OwnedFd>,
        files: Files,
        sync_thread: SyncThread,
        mailbox: Mailbox,
        neighbours: Neighbours,
    ) -> io::Result<Self> {
        let start = Instant::now();
        let (index, blocks) = queue(INDEX_QUEUE);
        let file_thread = FileThread::start(files, mailbox.clone(), blocks, start)?;
        let ring = build_ring()?;
        neighbours.move_in(ring.as_raw_fd());
        let recv_ring = RecvRing::register(&ring.submitter(), BUFFER_GROUP, RECV_BUFFERS, RECV_BUFFER_BYTES)?;
        let udp = (!udp.is_empty()).then(|| UdpSockets::register(&ring.submitter(), udp)).transpose()?;
        // From here on the order of the fields decides what is dropped first.
        let driver = Self {
            ring,
            recv_ring,
            udp,
            writes: Slab::new(),
            receives: 0,
            transmits: 0,
            sockets: Slab::with_capacity(CONNECTION_SLOTS),
            files: Slab::new(),
            listeners: listeners.into_iter().map(Some).collect(),
            ready: VecDeque::new(),
            file_thread,
            sync_thread,
            mailbox,
            neighbours,
            index,
            start,
            overflows: 0,
        };
        enable(&driver.ring)?;
        Ok(driver)
    }

    /// What the driver knows of its own work. To be asked on the shard's thread.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { busy: thread_time(), wall: self.start.elapsed(), ring_overflow: self.overflows }
    }

    /// Runs the shard to its end. `notify` gets its messages for the operator.
    ///
    /// # Errors
    /// The ring itself fails.
    pub fn run(&mut self, shard: &mut Shard, mut notify: impl FnMut(Notice)) -> io::Result<Outcome> {
        self.watch_mailbox()?;
        loop {
            let now = Time::new(self.start.elapsed());
            self.deliver(shard, now)?;
            shard.end_turn(now);
            while let Some(op) = shard.poll_op() {
                self.start(op)?;
            }
            self.recv_ring.publish();
            if let Some(udp) = &self.udp {
                udp.publish();
            }
            self.overflows += u64::from(self.ring.submission().cq_overflow());
            self.ring_bells()?;
            while let Some(mut notice) = shard.poll_notice() {
                if let Notice::Report(report) = &mut notice {
                    report.load = self.load();
                }
                notify(notice);
            }
            if let Some(outcome) = shard.outcome() {
                self.ring.submit()?;
                return Ok(outcome);
            }
            self.wait(shard.timeout().map(|at| at.since(now)))?;
        }
    }

    /// Hands every completion that is there to the shard.
    fn deliver(&mut self, shard: &mut Shard, now: Time) -> io::Result<()> {
        while let Some((from, message)) = self.neighbours.receive() {
            shard.handle(Completion::Sent { from, message }, now);
        }
        while let Some(completion) = self.ready.pop_front() {
            shard.handle(completion, now);
        }
        loop {
            let Some(entry) = self.ring.completion().next() else { return Ok(()) };
            if let Some(completion) = self.complete(&entry)? {
                shard.handle(completion, now);
            }
            while let Some(completion) = self.ready.pop_front() {
                shard.handle(completion, now);
            }
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> io::Result<Option<Completion>> {
        let (kind, slot) = Kind::untag(entry.user_data());
        let more = cqueue::more(entry.flags());
        let result = result_of(entry);
        Ok(match kind {
            Kind::Receive => Some(self.received(slot, entry, result, more)),
            Kind::Datagrams => {
                self.receives -= usize::from(!more);
                let udp = self.udp.as_mut().expect("only a UDP socket receives datagrams");
                let received = udp.received(result, cqueue::buffer_select(entry.flags()));
                Some(Completion::Datagrams { socket: UdpId(slot), received, more })
            }
            Kind::Transmit => {
                self.transmits -= 1;
                let buf = self.sockets[slot as usize].transmit.take().expect("it stays there until the answer");
                let result = result.map(|count| count as usize);
                Some(Completion::Transmitted { connection: ConnectionId(slot), buf, result })
            }
            Kind::Write => {
                let WriteInFlight { written, buf } = self.writes.remove(slot as usize);
                Some(written.completion(buf, result.map(|count| count as usize)))
            }
            Kind::Accept => {
                let result = result.map(|fd| self.accepted(fd));
                Some(Completion::Accepted { listener: ListenerId(slot), result, more })
            }
            Kind::Close => {
                self.sockets.remove(slot as usize);
                Some(Completion::Closed(ConnectionId(slot)))
            }
            Kind::Shutdown => {
                self.shut_down(slot)?;
                None
            }
            Kind::Wake => {
                self.take_mail();
                if !more {
                    self.watch_mailbox()?;
                }
                None
            }
            Kind::NotRung => {
                // Not if the other one has ended, which takes all that it is sent first.
                if matches!(entry.result(), NO_MEMORY | OVERFLOW) {
                    self.neighbours.ring_again(slot);
                }
                None
            }
            // What was sent is taken at the start of a turn, as this one is.
            Kind::Bell | Kind::Ignored => None,
        })
    }

    fn received(&mut self, slot: u32, entry: &cqueue::Entry, result: io::Result<u32>, more: bool) -> Completion {
        let buffer = cqueue::buffer_select(entry.flags());
        self.receives -= usize::from(!more);
        let received = match (result, buffer) {
            (Ok(length @ 1..), Some(index)) => Received::Data(self.recv_ring.lend(index, length as usize)),
            (result, buffer) => {
                if let Some(index) = buffer {
                    self.recv_ring.provide(index);
                }
                match result {
                    Ok(_) => Received::End,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Received::NoBuffer,
                    Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Received::Cancelled,
                    Err(error) => Received::Failed(error),
                }
            }
        };
        Completion::Received { connection: ConnectionId(slot), received, more }
    }

    fn accepted(&mut self, fd: u32) -> Newcomer {
        let fd = RawFd::try_from(fd).expect("descriptors are not negative");
        // SAFETY: a successful accept gives a new descriptor that nobody else owns.
        self.add_socket(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn add_socket(&mut self, fd: OwnedFd) -> Newcomer {
        let from = listener::peer_address(&fd);
        let id = ConnectionId(slot_of(self.sockets.insert(Socket::new(fd))));
        Newcomer { id, from }
    }

    fn take_mail(&mut self) {
        for mail in self.mailbox.take() {
            let completion = match mail {
                Mail::Command(command) => Completion::Command(command),
                Mail::Opened { log, result } => {
                    let result = result.map(|fd| FileId(slot_of(self.files.insert(Arc::new(fd)))));
                    Completion::Opened { log, result }
                }
                Mail::JournalOpened(result) => {
                    let result = result.map(|fd| FileId(slot_of(self.files.insert(Arc::new(fd)))));
                    Completion::JournalOpened(result)
                }
                Mail::Synced { sync, result } => Completion::Synced { sync, result },
            };
            self.ready.push_back(completion);
        }
    }

    /// Starts one operation of the shard.
    #[expect(clippy::too_many_lines, reason = "a table of operations")]
    fn start(&mut self, op: Op) -> io::Result<()> {
        match op {
            Op::Recycle(buf) => {
                self.recv_ring.recycle(buf);
                Ok(())
            }
            Op::RecycleDatagrams(buf) => {
                self.udp.as_mut().expect("these buffers are theirs").recycle(buf);
                Ok(())
            }
            Op::ReceiveDatagrams { socket, rest } => self.start_receive_datagrams(socket, rest),
            Op::DeafenUdp(socket) => {
                if let Some(udp) = &self.udp {
                    udp.deafen(socket);
                }
                self.cancel(Kind::Datagrams.tag(socket.0))
            }
            Op::CloseUdp(socket) => {
                if let Some(udp) = &mut self.udp {
                    udp.close(socket);
                }
                Ok(())
            }
            Op::Write { log, file, position, buf } => self.start_write(Written::Log(log), file, position.0, buf),
            Op::WriteJournal { file, position, buf } => self.start_write(Written::Journal, file, position.0, buf),
            Op::Receive(ConnectionId(slot)) => self.start_receive(slot, false),
            Op::ReceiveOnce(ConnectionId(slot)) => self.start_receive(slot, true),
            Op::Transmit { connection: ConnectionId(slot), buf } => self.start_transmit(slot, buf),
            Op::CancelReceive(ConnectionId(slot)) => self.cancel(Kind::Receive.tag(slot)),
            Op::Deafen(ConnectionId(slot)) => {
                if let Some(fd) = &self.sockets[slot as usize].fd {
                    listener::deafen(fd);
                }
                Ok(())
            }
            Op::Shutdown(ConnectionId(slot), side) => self.start_shutdown(slot, side),
            Op::Close { connection: ConnectionId(slot), reset } => {
                self.sockets[slot as usize].close = Some(reset);
                self.close_if_idle(slot)
            }
            op @ (Op::CreateSegment { .. }
            | Op::OpenSegment { .. }
            | Op::CutSegment { .. }
            | Op::OpenJournal { .. }
            | Op::CreateJournal(_)
            | Op::RemoveJournals(_)
            | Op::Index { .. }) => {
                self.tell_file_thread(op);
                Ok(())
            }
            Op::Sync(sync) => {
                self.start_sync(sync);
                Ok(())
            }
            Op::Send { to, message } => {
                self.neighbours.send(to, message);
                Ok(())
            }
            Op::CloseSegment(FileId(slot)) => {
                match Arc::try_unwrap(self.files.remove(slot as usize)) {
                    Ok(fd) => self.close(fd, Kind::Ignored.tag(0)),
                    // A sync holds it, and closes it.
                    Err(_) => Ok(()),
                }
            }
            Op::Accept(listener) => self.start_accept(listener, true),
            Op::AcceptOne(listener) => self.start_accept(listener, false),
            Op::CancelAccept(ListenerId(slot)) => self.cancel(Kind::Accept.tag(slot)),
            Op::RefuseNew(ListenerId(slot)) => match &self.listeners[slot as usize] {
                Some(fd) => listener::refuse_new(fd),
                None => Ok(()),
            },
            Op::AcceptRest(listener) => {
                self.accept_rest(listener);
                Ok(())
            }
            Op::CloseListener(ListenerId(slot)) => {
                self.listeners[slot as usize] = None;
                Ok(())
            }
        }
    }

    fn tell_file_thread(&mut self, op: Op) {
        let request = match op {
            Op::CreateSegment { log, name, base, replaces } => FileRequest::Create { log, name, base, replaces },
            Op::OpenSegment { log, name, base, length, indexed } => {
                FileRequest::Open { log, name, base, length, indexed }
            }
            Op::CutSegment { name, base, length } => FileRequest::Cut { name, base, length },
            Op::OpenJournal { journal, length } => FileRequest::OpenJournal { journal, length },
            Op::CreateJournal(journal) => FileRequest::CreateJournal(journal),
            Op::RemoveJournals(journal) => FileRequest::RemoveJournals(journal),
            Op::Index { name, block } => {
                // With no place for it, the file thread makes up for it from the text when the next one comes.
                let _full = self.index.push(Noted { name, block });
                return;
            }
            other => unreachable!("{other:?} is no business of the file thread"),
        };
        self.file_thread.request(request);
    }

    fn start_sync(&self, sync: Sync) {
        let file = |file: FileId| Arc::clone(&self.files[file.0 as usize]);
        let segments = sync.segments.iter().map(|(_, segment)| file(*segment)).collect();
        let (journal, mailbox, root) = (file(sync.journal), self.mailbox.clone(), self.sync_thread.root());
        self.sync_thread.request(Request { sync, segments, journal, mailbox, root });
    }

    fn start_write(&mut self, written: Written, file: FileId, position: u64, buf: WriteBuf) -> io::Result<()> {
        let file = &self.files[file.0 as usize];
        if buf.rest().len() <= INLINE_WRITE_BYTES_MAX {
            let result = rustix::io::pwrite(file, buf.rest(), position).map_err(io::Error::from);
            self.ready.push_back(written.completion(buf, result));
            return Ok(());
        }
        let fd = Fd(file.as_raw_fd());
        let slot = self.writes.insert(WriteInFlight { written, buf });
        let rest = self.writes[slot].buf.rest();
        let length = u32::try_from(rest.len()).expect("write buffers are below 4 GiB");
        let entry = opcode::Write::new(fd, rest.as_ptr(), length).offset(position).build();
        // SAFETY: the buffer's memory does not move with the WriteBuf and stays in `writes` until the completion; the
        // shard does not close a segment with a write in flight.
        unsafe { self.push(&entry.user_data(Kind::Write.tag(slot_of(slot)))) }
    }

    fn start_receive(&mut self, slot: u32, once: bool) -> io::Result<()> {
        let Some(fd) = &self.sockets[slot as usize].fd else { return Ok(()) };
        let fd = Fd(fd.as_raw_fd());
        let entry = if once {
            let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build();
            entry.flags(Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build()
        };
        self.receives += 1;
        // SAFETY: the kernel takes buffers from the registered ring, which outlives the io_uring.
        unsafe { self.push(&entry.user_data(Kind::Receive.tag(slot))) }
    }

    fn start_transmit(&mut self, slot: u32, buf: WriteBuf) -> io::Result<()> {
        let socket = &mut self.sockets[slot as usize];
        let Some(fd) = socket.fd.as_ref().map(|fd| Fd(fd.as_raw_fd())) else { return Ok(()) };
        let rest = socket.transmit.insert(buf).rest();
        let length = u32::try_from(rest.len()).expect("write buffers are below 4 GiB");
        let entry = opcode::Send::new(fd, rest.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build();
        self.transmits += 1;
        // SAFETY: the buffer's memory does not move with the WriteBuf and stays in the socket's slot until the completion;
        // the shard does not close a connection with a transmit in flight.
        unsafe { self.push(&entry.user_data(Kind::Transmit.tag(slot))) }
    }

    fn start_receive_datagrams(&mut self, socket: UdpId, rest: bool) -> io::Result<()> {
        let Some(entry) = self.udp.as_ref().and_then(|udp| udp.receive(socket, rest)) else { return Ok(()) };
        self.receives += 1;
        // SAFETY: the kernel takes buffers from the registered ring, which outlives the io_uring; the message header is never
        // freed.
        unsafe { self.push(&entry.user_data(Kind::Datagrams.tag(socket.0))) }
    }

    fn start_accept(&mut self, ListenerId(slot): ListenerId, many: bool) -> io::Result<()> {
        let Some(fd) = &self.listeners[slot as usize] else { return Ok(()) };
        let fd = Fd(fd.as_raw_fd());
        let entry = if many {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
        };
        // SAFETY: the entry names no memory.
        unsafe { self.push(&entry.user_data(Kind::Accept.tag(slot))) }
    }

    fn accept_rest(&mut self, listener: ListenerId) {
        let Some(fd) = self.listeners[listener.0 as usize].take() else { return };
        loop {
            let result = listener::accept_now(&fd);
            let more = result.is_ok();
            let result = result.map(|socket| self.add_socket(socket));
            self.ready.push_back(Completion::Accepted { listener, result, more });
            if !more {
                break;
            }
        }
        self.listeners[listener.0 as usize] = Some(fd);
    }

    fn start_shutdown(&mut self, slot: u32, side: ShutdownSide) -> io::Result<()> {
        let socket = &mut self.sockets[slot as usize];
        let (Some(fd), None) = (&socket.fd, socket.close) else { return Ok(()) };
        let how = match side {
            ShutdownSide::Write => libc::SHUT_WR,
            ShutdownSide::Both => libc::SHUT_RDWR,
        };
        socket.shutdowns += 1;
        let entry = opcode::Shutdown::new(Fd(fd.as_raw_fd()), how).build();
        // SAFETY: the entry names no memory; the socket is not closed before the answer.
        unsafe { self.push(&entry.user_data(Kind::Shutdown.tag(slot))) }
    }

    fn shut_down(&mut self, slot: u32) -> io::Result<()> {
        self.sockets[slot as usize].shutdowns -= 1;
        self.close_if_idle(slot)
    }

    fn close_if_idle(&mut self, slot: u32) -> io::Result<()> {
        let socket = &mut self.sockets[slot as usize];
        let Some(reset) = socket.close else { return Ok(()) };
        if socket.shutdowns > 0 {
            return Ok(());
        }
        let Some(fd) = socket.fd.take() else { return Ok(()) };
        if reset {
            listener::reset_on_close(&fd);
        }
        self.close(fd, Kind::Close.tag(slot))
    }

    fn close(&mut self, fd: OwnedFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::Close::new(Fd(fd.into_raw_fd())).build();
        // SAFETY: the entry names no memory; the descriptor was ours and nobody else closes it.
        unsafe { self.push(&entry.user_data(user_data)) }
    }

    fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(&entry.user_data(Kind::Ignored.tag(0))) }
    }

    /// Wakes the shards that something was sent to in this turn, if they sleep.
    fn ring_bells(&mut self) -> io::Result<()> {
        while let Some((sleeper, ring)) = self.neighbours.next_to_wake() {
            let entry = opcode::MsgRingData::new(Fd(ring), 0, Kind::Bell.tag(0), None).build();
            let entry = entry.flags(Flags::SKIP_SUCCESS).user_data(Kind::NotRung.tag(sleeper));
            // SAFETY: the entry names no memory.
            unsafe { self.push(&entry)? };
        }
        Ok(())
    }

    fn watch_mailbox(&mut self) -> io::Result<()> {
        let fd = Fd(self.mailbox.wake().as_raw_fd());
        let events = u32::try_from(libc::POLLIN).expect("POLLIN is 1");
        let entry = opcode::PollAdd::new(fd, events).multi(true).build();
        // SAFETY: the entry names no memory; the mailbox lives as long as the driver.
        unsafe { self.push(&entry.user_data(Kind::Wake.tag(0))) }
    }

    /// Queues a submission entry, submitting those before it if the queue is full.
    ///
    /// # Safety
    ///
    /// What the entry names stays valid until its last completion.
    unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
        }
    }

    /// Submits and waits for a completion, at most for `timeout`.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let sleeps = self.ready.is_empty() && self.neighbours.fall_asleep();
        let want = usize::from(sleeps);
        let timespec = timeout.map(Timespec::from).unwrap_or_default();
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        let waited = self.ring.submitter().submit_with_args(want, &args);
        self.neighbours.awake();
        match waited {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.receives > 0 || self.transmits > 0 || !self.writes.is_empty() {
            // The kernel ends requests of a closed ring in its own time, and may use their memory until then.
            std::mem::forget(std::mem::take(&mut self.writes));
            for (_, socket) in &mut self.sockets {
                std::mem::forget(socket.transmit.take());
            }
            self.recv_ring.leak();
            if let Some(udp) = &mut self.udp {
                udp.leak();
            }
        }
    }
}

/// Makes a ring. Memory that is short is waited for: the kernel gives back that of a closed ring some time later, and the
/// probe's may be the last that the user's memlock limit holds.
#[expect(clippy::disallowed_methods, reason = "the deadline of a start, before there is a shard")]
fn build_ring() -> io::Result<IoUring> {
    let deadline = Instant::now() + RING_RETRY;
    loop {
        match try_build_ring() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                std::thread::sleep(RING_TRY);
            }
            result => return result,
        }
    }
}

fn try_build_ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(COMPLETION_ENTRIES)
        .setup_clamp()
        .setup_r_disabled()
        .build(SUBMISSION_ENTRIES)
}

/// The operations that the driver uses, and what each is for.
const OPERATIONS: [(u8, &str); 10] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::RecvMsgMulti::CODE, "receive datagrams"),
    (opcode::Write::CODE, "write"),
    (opcode::Close::CODE, "close"),
    (opcode::Shutdown::CODE, "shutdown"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::MsgRingData::CODE, "messages between rings"),
];

/// Ends the set-up: from now on the ring carries out these operations with these flags, and nothing else, whoever asks.
fn enable(ring: &IoUring) -> io::Result<()> {
    let flags = Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    let operations = OPERATIONS.into_iter().map(|(code, _)| Restriction::sqe_op(code));
    let mut allowed: Vec<Restriction> = operations.chain([Restriction::sqe_flags_allowed(flags.bits())]).collect();
    ring.submitter().register_restrictions(&mut allowed)?;
    ring.submitter().register_enable_rings()
}

fn result_of(entry: &cqueue::Entry) -> io::Result<u32> {
    u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))
}

/// Processor time that the calling thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}

fn slot_of(index: usize) -> u32 {
    u32::try_from(index).expect("tables are bounded by the descriptor limit")
}

/// The wait ended without a completion, or completions must be taken first: the next turn does it.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
