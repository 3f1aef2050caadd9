//! What the kernel says about changed files: inotify, one watch a log.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Bytes of one read of events: some hundred of them.
const EVENT_BYTES: usize = 64 * 1024;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// The watched file, or a file in the watched directory, has grown.
    Grown(usize),
    /// A name has appeared in the watched directory.
    Appeared(usize, &'a CStr),
    /// There were more changes than the kernel could remember: anything may have changed.
    Anything,
}

/// Watches, by a number of the caller's.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: OwnedFd,
    number_of: HashMap<i32, usize>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Watches {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { inotify, number_of: HashMap::new(), buffer: vec![MaybeUninit::uninit(); EVENT_BYTES] })
    }

    /// Watches a file or directory; `false` if it does not exist.
    pub(super) fn add(&mut self, path: &Path, number: usize) -> io::Result<bool> {
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(watch) => self.number_of.insert(watch, number),
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        Ok(true)
    }

    /// Waits for changes and hands them out; `false` if there are none in time.
    pub(super) fn wait(&mut self, time: Duration, mut take: impl FnMut(Change<'_>)) -> io::Result<bool> {
        let timeout = Timespec::try_from(time).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout))? == 0 {
            return Ok(false);
        }
        let mut events = Reader::new(&self.inotify, &mut self.buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                take(Change::Anything);
            }
            let Some(&number) = self.number_of.get(&event.wd()) else { continue };
            match event.file_name() {
                Some(name) if event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) => {
                    take(Change::Appeared(number, name));
                }
                _ if event.events().contains(ReadFlags::MODIFY) => take(Change::Grown(number)),
                _ => {}
            }
        }
    }
}
