//! The real engine as a process: the one in the same target directory as the sender.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any step of an engine should take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// An engine that runs until told to stop; dropped, it is killed.
pub(crate) struct Engine {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS, if it was told to.
    pub(crate) tls: Option<SocketAddr>,
    /// Its own log, line by line, once it is ready.
    log: mpsc::Receiver<String>,
}

impl Engine {
    /// Starts one that listens at an address, and waits until it does.
    pub(crate) fn start(data: &Path, tcp: &str) -> Self {
        Self::start_as(Command::new(engine_binary()), &[], data, tcp)
    }

    /// The same with a command that starts the binary, and with more flags.
    #[expect(clippy::zombie_processes, reason = "a test that panics here ends its process as well")]
    pub(crate) fn start_as(mut command: Command, flags: &[&str], data: &Path, tcp: &str) -> Self {
        let mut child = command
            .args(["run", "--tcp", tcp, "--admin", "off", "--drain-timeout", "1s", "--data"])
            .arg(data)
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line_in, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| line_in.send(line)));
        let mut said = Vec::new();
        loop {
            let line = log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("the engine is not ready: {said:#?}"));
            said.push(line);
            if said.last().is_some_and(|line| line.split_whitespace().any(|word| word == "ready")) {
                let address = |proto| said.iter().find_map(|line| address(line, proto));
                let tcp = address("proto=tcp").expect("said before it is ready");
                return Self { child, address: tcp, tls: address("proto=tls"), log };
            }
        }
    }

    /// Tells it to end in order.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for the end, which closes its log.
    pub(crate) fn wait(mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) => said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the engine does not end: {said:#?}"),
            }
        }
        assert!(!said.iter().any(|line| shows_a_token(line)), "{said:#?}");
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{said:#?}");
        said
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Already waited for, unless it is to be killed or the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a token stands there in full, which it must not in anything that the engine says.
fn shows_a_token(line: &str) -> bool {
    let words = line.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    words.map(|word| word.split('-').map(str::len).collect::<Vec<_>>()).any(|lengths| lengths == [8, 4, 4, 4, 12])
}

fn address(line: &str, proto: &str) -> Option<SocketAddr> {
    let words = || line.split_whitespace();
    let is_it = words().any(|word| word == "listening") && words().any(|word| word == proto);
    words().filter(|_| is_it).find_map(|word| word.strip_prefix("addr=")?.parse().ok())
}

pub(crate) fn engine_binary() -> PathBuf {
    let engine = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("engine");
    assert!(engine.is_file(), "{} is not built; `cargo test --workspace` builds it", engine.display());
    engine
}
