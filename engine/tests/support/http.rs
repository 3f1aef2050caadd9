//! The admin endpoint as a client sees it, and its metrics by name.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;

use super::process::{assert_shows_no_token, connect, wait_until};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One GET on a connection of its own.
pub fn get(addr: SocketAddr, path: &str) -> Answer {
    request(connect(addr), "GET", path)
}

/// One request, read to the end of the connection.
pub fn request(mut stream: impl Read + Write, method: &str, path: &str) -> Answer {
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_shows_no_token(path, &text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no end of the head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Asks until the path answers with this status, and returns that answer.
#[track_caller]
pub fn wait_for_status(addr: SocketAddr, path: &str, status: u16) -> Answer {
    let mut answer = get(addr, path);
    let came = wait_until(|| {
        answer = get(addr, path);
        answer.status == status
    });
    assert!(came, "{path} does not answer {status}: {answer:?}");
    answer
}

/// The samples of `/metrics` by name and labels, as they stand there.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks for them.
    pub fn of(addr: SocketAddr) -> Self {
        let answer = get(addr, "/metrics");
        assert_eq!(answer.status, 200);
        Self::parse(&answer.body)
    }

    fn parse(text: &str) -> Self {
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| line.rsplit_once(' ').unwrap())
                .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
                .collect(),
        )
    }

    /// A sample, which must be there.
    #[track_caller]
    pub fn real(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// The same, which is a whole number.
    #[track_caller]
    pub fn get(&self, name: &str) -> u64 {
        let value = self.real(name);
        assert!(value >= 0.0 && value.fract() == 0.0, "{name} is {value}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just seen to be whole and small")]
        let value = value as u64;
        value
    }

    /// All samples that begin so, added up.
    pub fn sum(&self, begins: &str) -> u64 {
        self.0.keys().filter(|name| name.starts_with(begins)).map(|name| self.get(name)).sum()
    }

    /// `lines + split_pieces = entries + rejected`
    #[track_caller]
    pub fn assert_conserved(&self) {
        let (taken, fates) = self.taken_and_fates();
        assert_eq!(taken, fates, "lines have two fates: {self:#?}");
    }

    /// Whether it is so: between shards, a line taken may not have met its fate yet.
    pub fn is_conserved(&self) -> bool {
        let (taken, fates) = self.taken_and_fates();
        taken == fates
    }

    fn taken_and_fates(&self) -> (u64, u64) {
        let taken = self.sum("engine_lines_total") + self.get("engine_split_pieces_total");
        let fates = self.get("engine_entries_total") + self.sum("engine_rejected_lines_total");
        (taken, fates)
    }

    /// Every counter is at least what it was.
    #[track_caller]
    pub fn assert_grown_from(&self, before: &Self) {
        let is_counter = |name: &str| {
            ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.split('{').next().unwrap().ends_with(end))
        };
        for (name, value) in before.0.iter().filter(|(name, _)| is_counter(name)) {
            assert!(self.real(name) >= *value, "{name} was {value} and is {}", self.real(name));
        }
    }
}
