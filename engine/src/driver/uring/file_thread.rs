//! The shard's file thread: creates and opens segments with plain system calls, one whole operation after the other.
//!
//! In the ring each of the four or five calls would be a hop to a kernel worker of its own, in line behind data.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::mailbox::{Mail, Mailbox};
use crate::route::LogId;
use crate::segment::{LogName, Offset, Position};
use crate::sys::DataDir;

/// What the file thread is to do.
#[derive(Debug)]
pub(super) enum FileRequest {
    Create { log: LogId, name: LogName, base: Offset },
    Open { log: LogId, name: LogName, base: Offset, length: Position },
}

/// Ends when it is dropped, after all that it was asked.
#[derive(Debug)]
pub(super) struct FileThread {
    requests: Option<Sender<FileRequest>>,
    thread: Option<JoinHandle<()>>,
}

impl FileThread {
    pub(super) fn start(data: Arc<DataDir>, mailbox: Mailbox) -> io::Result<Self> {
        let (requests, inbox) = channel();
        let work = move || {
            for request in inbox {
                mailbox.post(execute(&data, &request));
            }
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(work)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    pub(super) fn request(&self, request: FileRequest) {
        let requests = self.requests.as_ref().expect("the sender lives until drop");
        requests.send(request).expect("the file thread ends only after its sender");
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already, or is a test's own failure.
            let _ended = thread.join();
        }
    }
}

fn execute(data: &DataDir, request: &FileRequest) -> Mail {
    match *request {
        FileRequest::Create { log, name, base } => Mail::Opened { log, result: data.create_segment(name, base) },
        FileRequest::Open { log, name, base, length } => {
            Mail::Opened { log, result: data.open_segment(name, base, length.0) }
        }
    }
}
