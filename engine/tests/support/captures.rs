//! The bytes of real clients in `tests/captures/`, and what its README says about each.

use std::path::{Path, PathBuf};

use super::oracle::Framing;

/// One row of the table: one connection, or one datagram.
#[derive(Debug)]
pub struct Capture {
    pub name: String,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// `TCP`, `TLS ...` or `UDP ...`.
    pub transport: String,
    /// What the receiver must be set to.
    pub framing: String,
    /// What the oracle counts, by the names of `oracle.py`.
    pub counts: Vec<(String, u64)>,
}

/// Every row of the table.
pub fn all() -> Vec<Capture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let table = std::fs::read_to_string(folder.join("README.md")).unwrap();
    table.lines().filter(|line| line.contains(".bin |")).map(|line| capture(&folder, line)).collect()
}

/// The rows that an LF listener takes: TCP ones, and TLS ones by their plain text.
pub fn lf() -> Vec<Capture> {
    all().into_iter().filter(|capture| capture.framing == "lf" && !capture.transport.starts_with("UDP")).collect()
}

/// The rows that an octet-counting listener takes.
pub fn octet() -> Vec<Capture> {
    all().into_iter().filter(|capture| capture.framing == "octet").collect()
}

/// The rows that are one datagram each.
pub fn udp() -> Vec<Capture> {
    all().into_iter().filter(|capture| capture.framing == "udp").collect()
}

/// Every stream with each framing that it may be sent in: `auto` takes both kinds.
pub fn streams() -> Vec<(Framing, Capture)> {
    let both = || lf().into_iter().chain(octet());
    let as_sent = lf().into_iter().map(|capture| (Framing::Lf, capture));
    let as_sent = as_sent.chain(octet().into_iter().map(|capture| (Framing::Octet, capture)));
    as_sent.chain(both().map(|capture| (Framing::Auto, capture))).collect()
}

fn capture(folder: &Path, row: &str) -> Capture {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [name, transport, framing, length, counts] = cells[..] else { panic!("not five cells: {row}") };
    let path = folder.join(name);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len().to_string(), length, "{name}");
    let counts = counts.split(", ").map(|count| count.split_once(' ').unwrap());
    let counts = counts.map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect();
    Capture { name: name.to_owned(), path, bytes, transport: transport.to_owned(), framing: framing.to_owned(), counts }
}
