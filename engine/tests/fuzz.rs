//! The fuzz bodies on captures and on seeded cases. `engine/fuzz` runs the same bodies under a fuzzer.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use support::captures;
use support::fuzz;
use support::hostile::{Random, hostile_bytes};
use support::oracle::Framing;

const SEEDS: u64 = 300;

/// Runs a body on every capture and on these cases, each as it is and with some bytes changed.
fn run(body: fn(&[u8]), case: impl Fn(u64) -> Vec<u8>) {
    for capture in captures::all() {
        body(&capture.bytes);
    }
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut bytes = case(seed);
        bytes.extend(random.next().to_be_bytes());
        body(&bytes);
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, *random.pick(b"\r\n 0<-\x16")),
            }
        }
        body(&bytes);
    }
}

#[test]
fn lf() {
    run(fuzz::lf, |seed| hostile_bytes(Framing::Lf, seed, 64));
}

#[test]
fn octet() {
    run(fuzz::octet, |seed| hostile_bytes(Framing::Octet, seed, 64));
}

#[test]
fn auto() {
    run(fuzz::auto, |seed| hostile_bytes(Framing::Auto, seed, 64));
}

#[test]
fn datagram() {
    run(fuzz::datagram, |seed| hostile_bytes(Framing::Udp, seed, 64));
}

#[test]
fn tls_records() {
    run(fuzz::tls_records, |seed| {
        let mut random = Random::new(seed);
        (0..random.below(60)).map(|_| u8::try_from(random.below(256)).unwrap() | 0x0a).collect()
    });
}

#[test]
fn proxy_header() {
    run(fuzz::proxy_header, |seed| {
        let mut random = Random::new(seed);
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        if random.one_in(2) {
            header = b"PROXY ".to_vec();
            header.extend(random.text(&[b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"UNKNOWN "]));
            header.extend(random.text(&[b"192.0.2.1 203.0.113.1 ", b"2001:db8::1 ::1 ", b"192.0.2.1 ", b""]));
            header.extend(random.text(&[b"1 65535\r\n", b"1 2\r\r\n", b"1 +2\r\n", b"1\r\n", b" 1 2\n"]));
            return header;
        }
        let length = random.below(60);
        header.extend(random.text(&[b"\x20", b"\x21", b"\x21", b"\x22"]));
        header.extend(random.text(&[b"\x00", b"\x11", b"\x21", b"\x12", b"\x31", b"\x13"]));
        header.extend(u16::try_from(length).unwrap().to_be_bytes());
        header.extend((0..length).map(|_| u8::try_from(random.below(256)).unwrap()));
        header
    });
}

#[test]
fn token_list() {
    run(fuzz::token_list, |seed| {
        let mut random = Random::new(seed);
        let mut list = Vec::new();
        for _ in 0..random.below(6) {
            list.extend(random.token().bytes());
            list.extend(random.text(&[
                b" web",
                b"\tshop # a shop",
                b"",
                b" # none",
                b" 2bfbea1e-10c3-4419-bdad-7e6435882e1f",
            ]));
            list.extend(random.text(&[b"\n", b"\r\n", b"\n\n", b" \n", b"\n# all\n"]));
        }
        list
    });
}

#[test]
fn configuration() {
    const PIECES: [&[u8]; 10] = [
        b"data = 'x'\n",
        b"[limits]\ntokens_max = 5\n",
        b"[[listen]]\nproto = \"tcp\"\n",
        b"addr = '127.0.0.1:0'\r\n",
        b"udp = ['[::1]:5', ]\n",
        b"open = true # it is\n",
        b"a.b = {c = 1, d = []}\n",
        b"admin = \"\"\"\n\n\"\"\"\n",
        b"\"a\\nb\" = 0x10\n",
        b"linger = nan\n",
    ];
    run(fuzz::configuration, |seed| {
        let mut random = Random::new(seed);
        (0..random.below(8)).flat_map(|_| random.text(&PIECES).to_vec()).collect()
    });
}
