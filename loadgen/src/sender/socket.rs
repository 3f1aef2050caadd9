//! The socket of a connection: what it takes of a batch, and what the receiver has acknowledged.
//!
//! | | one write takes | acknowledged |
//! | --- | --- | --- |
//! | TCP | as much as there is room for | bytes, by the receiver's kernel |
//! | TLS | the same of the records that the batch was sealed into | whole records, by the receiver's kernel |
//! | UDP | whole lines, a datagram each | nothing: all that was sent is owed |
//!
//! The kernel makes datagrams out of many lines at once where all have the same size (`UDP_SEGMENT`): a system call for
//! each would be most of a sender's work.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::task::JoinHandle;
use tokio_uring::buf::BoundedBuf;

use crate::error::RunError;
use crate::plan::{Plan, Proto};
use crate::sys::{set_udp_segment, tcp_info};
use crate::tls::{self, Records, Session};

/// How long to wait for a connection to be established, and for each answer of a handshake.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Receivers send nothing, or next to nothing over TLS; what comes is taken in pieces of this size.
const ANSWER_BYTES: usize = 512;
/// Most datagrams of one write: `UDP_MAX_SEGMENTS` of the oldest kernels that have it.
const SEGMENTS_MAX: usize = 64;
/// Most bytes that one write of datagrams, or a datagram, may have over IPv4.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A socket that is connected and in no ring yet.
#[derive(Debug)]
pub(super) enum Connected {
    /// TCP, or TLS over it, and the sequence number that its SYN has used up.
    Stream(TcpStream, u64, Option<Box<Session>>),
    /// UDP.
    Datagrams(UdpSocket),
}

impl Connected {
    /// Protocol version and cipher suite, over TLS.
    pub(super) fn suite(&self) -> Option<String> {
        match self {
            Self::Stream(.., Some(session)) => Some(session.suite()),
            _ => None,
        }
    }
}

/// Connects, and makes the handshake if there is one.
pub(super) fn connect(plan: &Plan) -> Result<Connected, RunError> {
    let refused = |error| {
        let target = plan.target;
        let problem = format!("--target: cannot connect to {target}; start the receiver first, or give its address");
        RunError::Environment(problem, error)
    };
    if let Proto::Udp = plan.proto {
        return bind_any(plan.target).map(Connected::Datagrams).map_err(refused);
    }
    let (mut socket, baseline) = connect_tcp(plan.target).map_err(refused)?;
    let Proto::Tls(tls) = &plan.proto else { return Ok(Connected::Stream(socket, baseline, None)) };
    let session = tls.handshake(&mut socket).and_then(|session| {
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        Ok(session)
    });
    let session = session.map_err(|error| {
        let advice = tls::advice(&error);
        RunError::Environment(format!("--target: no TLS handshake with {}; {advice}", plan.target), error)
    })?;
    Ok(Connected::Stream(socket, baseline, Some(Box::new(session))))
}

fn connect_tcp(target: SocketAddr) -> io::Result<(TcpStream, u64)> {
    let socket = TcpStream::connect_timeout(&target, CONNECT_WAIT)?;
    // A schedule is kept by sending when an entry is due, not when a segment is full.
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(CONNECT_WAIT))?;
    socket.set_write_timeout(Some(CONNECT_WAIT))?;
    let baseline = tcp_info(&socket)?.acknowledged;
    Ok((socket, baseline))
}

fn bind_any(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// The socket that a connection has now.
pub(super) struct Socket {
    /// Sequence of its first entry.
    pub(super) first: u64,
    /// Bytes of the lines that it has taken. Over TLS all bytes of a record of which it has taken one.
    pub(super) bytes_sent: u64,
    link: Link,
}

enum Link {
    Stream(Stream),
    Datagrams(Datagrams),
}

/// What a write came to: bytes of the lines that the socket has taken, and why it takes no more.
pub(super) struct Written {
    pub(super) bytes: usize,
    pub(super) result: io::Result<()>,
    /// The batch that was lent.
    pub(super) batch: Vec<u8>,
}

/// What became of a socket so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Nothing can change any more.
    pub(super) is_closed: bool,
    /// Bytes of the lines that the receiver has acknowledged, or over UDP owes without having.
    pub(super) bytes_acknowledged: u64,
}

impl Socket {
    /// A socket in the ring of this thread, whose first entry has a sequence.
    pub(super) fn new(plan: &Plan, connected: Connected, first: u64) -> io::Result<Self> {
        let link = match connected {
            Connected::Stream(socket, baseline, session) => Link::Stream(Stream::new(socket, baseline, session, plan)?),
            Connected::Datagrams(socket) => Link::Datagrams(Datagrams::new(socket, plan)?),
        };
        Ok(Self { first, bytes_sent: 0, link })
    }

    /// What may be shut down from elsewhere; datagrams need not be, nothing holds them up.
    pub(super) fn control(&self) -> Option<Rc<TcpStream>> {
        match &self.link {
            Link::Stream(stream) => Some(Rc::clone(&stream.control)),
            Link::Datagrams(_) => None,
        }
    }

    /// Writes some or all of a part of the batch, in which lines end at `ends`. After an error, lines of which a byte was
    /// taken cannot go on in another socket.
    pub(super) async fn write(
        &mut self,
        batch: Vec<u8>,
        part: Range<usize>,
        ends: impl Iterator<Item = usize>,
    ) -> Written {
        let written = match &mut self.link {
            Link::Stream(stream) => stream.write(batch, part, ends, self.bytes_sent).await,
            Link::Datagrams(datagrams) => datagrams.write(batch, part, ends).await,
        };
        self.bytes_sent += written.bytes as u64;
        written
    }

    /// Whether a write would be taken at once, at least a part of it. Nothing holds datagrams up.
    pub(super) fn has_room(&self) -> bool {
        let Link::Stream(stream) = &self.link else { return true };
        let mut asked = [PollFd::new(&*stream.control, PollFlags::OUT)];
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Says that nothing more will come; `false` if the receiver has ended the connection before.
    pub(super) async fn end_writing(&mut self) -> bool {
        match &mut self.link {
            Link::Stream(stream) => stream.end_writing().await,
            Link::Datagrams(_) => false,
        }
    }

    /// Waits until the receiver says that nothing more will come, or resets.
    pub(super) async fn await_end(&mut self) {
        if let Link::Stream(stream) = &mut self.link {
            stream.await_end().await;
        }
    }

    /// Ends what may still be under way on a connection that is over.
    pub(super) async fn close(&mut self) {
        if let Link::Stream(stream) = &mut self.link {
            stream.close().await;
        }
    }

    /// Asks the kernel.
    pub(super) fn state(&self) -> io::Result<State> {
        let Link::Stream(stream) = &self.link else {
            return Ok(State { is_closed: true, bytes_acknowledged: self.bytes_sent });
        };
        let info = tcp_info(&stream.control)?;
        let wire = info.acknowledged - stream.baseline;
        let bytes = stream.sealed.as_ref().map_or(wire, |sealed| sealed.session.borrow().lines_within(wire));
        // The FIN is acknowledged like a byte, but only after all bytes.
        Ok(State { is_closed: info.closed, bytes_acknowledged: bytes.min(self.bytes_sent) })
    }

    /// Whether it is over UDP, and no more than one write had gone when a datagram was refused: nobody was there.
    pub(super) fn was_never_heard(&self) -> bool {
        matches!(&self.link, Link::Datagrams(datagrams) if datagrams.writes <= 1)
    }
}

struct Stream {
    /// For questions and for shutting down, which do not go through the ring.
    control: Rc<TcpStream>,
    ring: Rc<tokio_uring::net::TcpStream>,
    baseline: u64,
    /// TLS, if that is spoken.
    sealed: Option<Sealed>,
}

/// TLS: the records of a batch, on their way.
struct Sealed {
    session: Rc<RefCell<Session>>,
    records: Records,
    wire: Vec<u8>,
    /// How much of these records the socket has taken.
    taken: usize,
    /// How much it has taken altogether, handshake included.
    wire_bytes: u64,
    /// Takes what the receiver sends, until its end.
    listener: Option<JoinHandle<()>>,
}

impl Stream {
    fn new(socket: TcpStream, baseline: u64, session: Option<Box<Session>>, plan: &Plan) -> io::Result<Self> {
        let ring = Rc::new(tokio_uring::net::TcpStream::from_std(socket.try_clone()?));
        let sealed = match (session, &plan.proto) {
            (Some(session), Proto::Tls(tls)) => Some(Sealed::new(*session, tls.records, &ring)),
            _ => None,
        };
        Ok(Self { control: Rc::new(socket), ring, baseline, sealed })
    }

    async fn write(
        &mut self,
        batch: Vec<u8>,
        part: Range<usize>,
        ends: impl Iterator<Item = usize>,
        bytes_before: u64,
    ) -> Written {
        let Some(sealed) = &mut self.sealed else {
            let (result, batch) = self.ring.write(batch.slice(part)).submit().await;
            let bytes = *result.as_ref().unwrap_or(&0);
            return Written { bytes, result: result.map(drop), batch: batch.into_inner() };
        };
        let result = match sealed.seal(&batch, part, ends) {
            Ok(()) => sealed.write(&self.ring).await,
            Err(error) => Err(error),
        };
        let mut session = sealed.session.borrow_mut();
        if session.remembers_many()
            && let Ok(info) = tcp_info(&self.control)
        {
            session.forget(info.acknowledged - self.baseline);
        }
        let until = match &result {
            Ok(()) => session.lines_within(sealed.wire_bytes),
            Err(_) => session.lines_begun(sealed.wire_bytes),
        };
        Written { bytes: (until - bytes_before) as usize, result, batch }
    }

    async fn end_writing(&mut self) -> bool {
        if let Some(sealed) = &mut self.sealed
            && sealed.write_end(&self.ring).await.is_err()
        {
            return false;
        }
        self.control.shutdown(Shutdown::Write).is_ok()
    }

    async fn await_end(&mut self) {
        match &mut self.sealed {
            Some(sealed) => sealed.await_listener().await,
            None => listen(&self.ring, |_| ()).await,
        }
    }

    async fn close(&mut self) {
        if let Some(sealed) = &mut self.sealed {
            // A connection that is over already refuses, and its listener has ended.
            drop(self.control.shutdown(Shutdown::Both));
            sealed.await_listener().await;
        }
    }
}

impl Sealed {
    fn new(session: Session, records: Records, stream: &Rc<tokio_uring::net::TcpStream>) -> Self {
        let wire_bytes = session.wire_bytes();
        let session = Rc::new(RefCell::new(session));
        let (stream, theirs) = (Rc::clone(stream), Rc::clone(&session));
        let listener = tokio_uring::spawn(async move {
            // A receiver that breaks the protocol ends the connection; until then its lines go on.
            listen(&stream, |answer| theirs.borrow_mut().take(answer).unwrap_or(())).await;
        });
        Self { session, records, wire: Vec::new(), taken: 0, wire_bytes, listener: Some(listener) }
    }

    /// Waits for the listener, which ends with the connection.
    async fn await_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            // It is aborted by nobody, and a panic would have ended the process.
            drop(listener.await);
        }
    }

    /// Seals a part of the batch, unless records of it are still on their way.
    fn seal(&mut self, batch: &[u8], part: Range<usize>, ends: impl Iterator<Item = usize>) -> io::Result<()> {
        if self.taken < self.wire.len() {
            return Ok(());
        }
        self.wire.clear();
        self.taken = 0;
        let mut session = self.session.borrow_mut();
        match self.records {
            Records::Full => session.seal(&batch[part], &mut self.wire),
            Records::Line | Records::Piece => {
                let mut start = part.start;
                ends.take_while(|end| *end <= part.end).try_for_each(|end| {
                    let line = &batch[start..end];
                    start = end;
                    if self.records == Records::Line {
                        return session.seal(line, &mut self.wire);
                    }
                    tls::four_pieces(line).into_iter().try_for_each(|piece| session.seal(piece, &mut self.wire))
                })
            }
        }
    }

    /// Gives the socket as many of the records as it takes at once.
    async fn write(&mut self, stream: &tokio_uring::net::TcpStream) -> io::Result<()> {
        let records = std::mem::take(&mut self.wire).slice(self.taken..);
        let (result, records) = stream.write(records).submit().await;
        self.wire = records.into_inner();
        let count = result?;
        self.taken += count;
        self.wire_bytes += count as u64;
        Ok(())
    }

    async fn write_end(&mut self, stream: &tokio_uring::net::TcpStream) -> io::Result<()> {
        self.wire.clear();
        self.taken = 0;
        self.session.borrow_mut().seal_end(&mut self.wire)?;
        while self.taken < self.wire.len() {
            self.write(stream).await?;
        }
        Ok(())
    }
}

/// Takes what the receiver sends, until it ends its side or resets.
async fn listen(stream: &tokio_uring::net::TcpStream, mut take: impl FnMut(&[u8])) {
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        let result;
        (result, answer) = stream.read(answer).await;
        match result {
            Ok(0) | Err(_) => return,
            Ok(count) => take(&answer[..count]),
        }
    }
}

struct Datagrams {
    /// For its options, which do not go through the ring.
    control: UdpSocket,
    socket: tokio_uring::net::UdpSocket,
    /// How much the kernel takes at once to make datagrams of; `None`: a datagram.
    bytes_max: Option<usize>,
    /// Writes that came through.
    writes: u64,
    /// A refused datagram ends nothing.
    is_patient: bool,
}

impl Datagrams {
    fn new(control: UdpSocket, plan: &Plan) -> io::Result<Self> {
        let socket = tokio_uring::net::UdpSocket::from_std(control.try_clone()?);
        let mut datagrams = Self { control, socket, bytes_max: None, writes: 0, is_patient: plan.reconnect };
        if let Some(line_bytes) = plan.lines.only_size() {
            let lines = SEGMENTS_MAX.min(DATAGRAM_BYTES_MAX / line_bytes);
            if lines > 1 && set_udp_segment(&datagrams.control, line_bytes).is_ok() {
                datagrams.bytes_max = Some(lines * line_bytes);
            }
        }
        Ok(datagrams)
    }

    async fn write(
        &mut self,
        mut batch: Vec<u8>,
        part: Range<usize>,
        mut ends: impl Iterator<Item = usize>,
    ) -> Written {
        let line_end = ends.next().unwrap_or(part.end);
        loop {
            let end = self.bytes_max.map_or(line_end, |most| part.end.min(part.start + most));
            let (result, lent) = self.socket.write(batch.slice(part.start..end)).submit().await;
            batch = lent.into_inner();
            match result {
                Ok(bytes) => {
                    self.writes += 1;
                    return Written { bytes, result: Ok(()), batch };
                }
                Err(error) if self.may_try_again(&error) => {}
                Err(error) => return Written { bytes: 0, result: Err(error), batch },
            }
        }
    }

    /// Whether the same datagrams may go the next time.
    fn may_try_again(&mut self, error: &io::Error) -> bool {
        match Errno::from_io_error(error) {
            // Said of an earlier datagram, once.
            Some(Errno::CONNREFUSED) => self.is_patient,
            // Lines longer than a packet, or a device that cannot do it: one by one then.
            Some(Errno::MSGSIZE | Errno::INVAL | Errno::IO) if self.bytes_max.is_some() => {
                self.bytes_max = None;
                set_udp_segment(&self.control, 0).is_ok()
            }
            _ => false,
        }
    }
}
