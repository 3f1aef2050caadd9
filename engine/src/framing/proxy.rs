//! The header of the PROXY protocol, versions 1 and 2: what a proxy sends before anything else of a connection.
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>
//!
//! ```text
//!  PROXY TCP4 192.0.2.7 203.0.113.1 51234 10000 CR LF                     version 1, at most 107 bytes
//!  signature 12 │ version, command │ family │ length 2 │ addresses │ TLVs    version 2, 16 bytes and `length` more
//! ```
//! It comes once a connection and is taken byte by byte, so that cuts cannot matter. Of version 2 only the addresses are
//! kept: what follows them may be as long as it likes.
//!
//! Not one of the crates for it: those want the whole header in one piece, and refuse a LOCAL header that names a family,
//! which has to be ignored.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

const V1_START: &[u8] = b"PROXY ";
const V1_BYTES_MAX: usize = 107;
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Both addresses and both ports.
const TCP4_BYTES: usize = 12;
const TCP6_BYTES: usize = 36;
/// Datagrams and Unix sockets: in order, but no address of a TCP client.
const OTHERS: [u8; 4] = [0x12, 0x22, 0x31, 0x32];

const _: () = assert!(V2_FIXED_BYTES + TCP6_BYTES <= V1_BYTES_MAX);

/// No PROXY header where there has to be one, or one that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

/// What a whole header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the last input that were the header's.
    pub taken: usize,
    /// Who has connected to the proxy; `None`: the proxy itself, or one that it has no address for.
    pub client: Option<IpAddr>,
}

/// How far a header is.
enum Progress {
    Begun,
    Whole { client: Option<IpAddr> },
}

/// Reads the header at the start of a connection.
#[derive(Clone, Debug)]
pub struct ProxyDecoder {
    first: [u8; V1_BYTES_MAX],
    seen: usize,
}

impl Default for ProxyDecoder {
    fn default() -> Self {
        Self { first: [0; V1_BYTES_MAX], seen: 0 }
    }
}

impl ProxyDecoder {
    /// Takes the next bytes of the connection; gives the header once it is all there, and then wants no more.
    ///
    /// # Errors
    ///
    /// This is no header.
    pub fn feed(&mut self, input: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
        for (taken, &byte) in (1..).zip(input) {
            if let Some(slot) = self.first.get_mut(self.seen) {
                *slot = byte;
            }
            self.seen += 1;
            if let Progress::Whole { client } = self.judge()? {
                return Ok(Some(ProxyHeader { taken, client }));
            }
        }
        Ok(None)
    }

    /// Whether a part of a header has come.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.seen > 0
    }

    /// Judges the header as far as it is here.
    fn judge(&self) -> Result<Progress, BadHeader> {
        let first = &self.first[..self.seen.min(V1_BYTES_MAX)];
        let start = if first[0] == V1_START[0] { V1_START } else { V2_START };
        if first.iter().zip(start).any(|(byte, expected)| byte != expected) {
            return Err(BadHeader);
        }
        if start == V2_START { self.judge_v2(first) } else { judge_v1(first) }
    }

    fn judge_v2(&self, first: &[u8]) -> Result<Progress, BadHeader> {
        let &[command, ref after @ ..] = &first[V2_START.len().min(first.len())..] else { return Ok(Progress::Begun) };
        if command != LOCAL && command != PROXY {
            return Err(BadHeader);
        }
        let &[family, high, low, ref addresses @ ..] = after else { return Ok(Progress::Begun) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let addresses_bytes = match family {
            // Of a connection of the proxy's own the family means nothing.
            _ if command == LOCAL => 0,
            UNSPECIFIED => 0,
            TCP4 => TCP4_BYTES,
            TCP6 => TCP6_BYTES,
            other if OTHERS.contains(&other) => 0,
            _ => return Err(BadHeader),
        };
        if length < addresses_bytes {
            return Err(BadHeader);
        }
        if self.seen < V2_FIXED_BYTES + length {
            return Ok(Progress::Begun);
        }
        let client = match addresses_bytes {
            TCP4_BYTES => addresses.first_chunk::<4>().map(|source| Ipv4Addr::from(*source).into()),
            TCP6_BYTES => addresses.first_chunk::<16>().map(|source| Ipv6Addr::from(*source).into()),
            _ => None,
        };
        Ok(Progress::Whole { client })
    }
}

fn judge_v1(first: &[u8]) -> Result<Progress, BadHeader> {
    let Some(line) = first.strip_suffix(b"\r\n") else {
        return if first.len() < V1_BYTES_MAX { Ok(Progress::Begun) } else { Err(BadHeader) };
    };
    let text = std::str::from_utf8(&line[V1_START.len()..]).map_err(|_| BadHeader)?;
    let mut words = text.split(' ');
    let client = match words.next() {
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses_v1::<Ipv4Addr>(words)?.into()),
        Some("TCP6") => Some(addresses_v1::<Ipv6Addr>(words)?.into()),
        _ => return Err(BadHeader),
    };
    Ok(Progress::Whole { client })
}

/// Two addresses of one family, two ports, and nothing else; gives the first address.
fn addresses_v1<'a, A: FromStr>(mut words: impl Iterator<Item = &'a str>) -> Result<A, BadHeader> {
    let mut address = || words.next()?.parse::<A>().ok();
    let (source, destination) = (address(), address());
    let is_port = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<u16>().is_ok();
    let mut port = || words.next().is_some_and(is_port);
    let ports = port() && port();
    match (source, destination, words.next()) {
        (Some(source), Some(_), None) if ports => Ok(source),
        _ => Err(BadHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream's header says; cut anywhere and byte by byte it says the same.
    fn read(stream: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
        let whole = ProxyDecoder::default().feed(stream);
        for cut in 0..=stream.len() {
            let mut decoder = ProxyDecoder::default();
            let cut_up = match decoder.feed(&stream[..cut]) {
                Ok(None) => {
                    let more = decoder.feed(&stream[cut..]);
                    more.map(|header| header.map(|header| ProxyHeader { taken: cut + header.taken, ..header }))
                }
                early => early,
            };
            assert_eq!(cut_up, whole, "cut at {cut}: {}", stream.escape_ascii());
        }
        whole
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short");
        [V2_START, &[command, family], &length.to_be_bytes(), rest].concat()
    }

    /// A header that is followed by a line.
    #[track_caller]
    fn client_of(header: &[u8]) -> Option<String> {
        let said = read(&[header, b"line\n"].concat()).expect("a header").expect("a whole one");
        assert_eq!(said.taken, header.len(), "{}", header.escape_ascii());
        assert_eq!(read(&header[..header.len() - 1]), Ok(None), "not all there");
        said.client.map(|client| client.to_string())
    }

    #[test]
    fn version_1_names_the_client() {
        let long = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(client_of(b"PROXY TCP4 192.0.2.7 203.0.113.1 51234 10000\r\n").as_deref(), Some("192.0.2.7"));
        assert_eq!(client_of(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n").as_deref(), Some("2001:db8::7"));
        assert!(client_of(long.as_bytes()).is_some());
        assert_eq!(client_of(b"PROXY UNKNOWN\r\n"), None);
        let longest = format!("PROXY UNKNOWN {}\r\n", "\r".repeat(V1_BYTES_MAX - 16));
        assert_eq!(client_of(longest.as_bytes()), None);
    }

    #[test]
    fn version_2_names_the_client() {
        let four = [192, 0, 2, 7, 203, 0, 113, 1, 0xc8, 0x22, 0x27, 0x10];
        assert_eq!(client_of(&v2(PROXY, TCP4, &four)).as_deref(), Some("192.0.2.7"));
        let mut six = [0; TCP6_BYTES];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(client_of(&v2(PROXY, TCP6, &six)).as_deref(), Some("2001:db8::"));
        // TLVs behind the addresses, known or not, short or long.
        let with_tlvs = [&four[..], &[0x04, 0, 1, 0, 0xee, 0, 2, 1, 2]].concat();
        assert_eq!(client_of(&v2(PROXY, TCP4, &with_tlvs)).as_deref(), Some("192.0.2.7"));
        let long = [&four[..], &[7; 600]].concat();
        assert_eq!(client_of(&v2(PROXY, TCP4, &long)).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn version_2_may_name_nobody() {
        for nobody in [v2(LOCAL, 0, &[]), v2(LOCAL, TCP4, &[]), v2(LOCAL, 0x77, &[1; 40]), v2(PROXY, 0, &[3; 5])] {
            assert_eq!(client_of(&nobody), None);
        }
        for family in OTHERS {
            assert_eq!(client_of(&v2(PROXY, family, &[9; 216])), None);
        }
        let mut longest = v2(LOCAL, 0, &[]);
        longest[14..].fill(0xff);
        longest.resize(16 + 0xffff, 0);
        let said = ProxyDecoder::default().feed(&longest).expect("a header").expect("a whole one");
        assert_eq!((said.taken, said.client), (16 + 0xffff, None));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bad in [
            "2bfbea1e-10c3-4419-bdad-7e6435882e1f x\n",
            "GET / HTTP/1.1\r\n",
            "\x16\x03\x01",
            "PROXX TCP4",
            "PROXY TCP5 192.0.2.7 203.0.113.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 203.0.113.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.7 203.0.113.1 1 +2\r\n",
            "PROXY TCP4 192.0.2.7 203.0.113.1 1 \r\n",
            "PROXY TCP4 192.0.2.7 203.0.113.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.7  203.0.113.1 1 2\r\n",
            "PROXY TCP4 192.0.2.007 203.0.113.1 1 2\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 203.0.113.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "proxy UNKNOWN\r\n",
        ] {
            assert_eq!(read(bad.as_bytes()), Err(BadHeader), "{bad:?}");
        }
        assert_eq!(read(format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 15)).as_bytes()), Err(BadHeader));
        assert_eq!(read(b"PROXY UNKNOWN \xff\r\n"), Err(BadHeader));
        for bad in [v2(0x22, 0, &[]), v2(0x11, 0, &[]), v2(PROXY, 0x13, &[0; 40]), v2(PROXY, TCP4, &[0; 11])] {
            assert_eq!(read(&bad), Err(BadHeader));
        }
        assert_eq!(read(&v2(PROXY, TCP6, &[0; 35])), Err(BadHeader));
    }
}
