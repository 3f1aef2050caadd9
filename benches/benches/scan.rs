//! Finding line ends and tokens: the engine's scan as it is used, its scalar reference, and the usual way.
//!
//! Each contender gets a corpus in receive buffers of 64 KiB and does what the engine does with it: every line's end, and
//! the first token of every line that has one. What is left behind the last LF of a buffer counts as a line. Before
//! anything is timed, all must have found the same lines and tokens.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::scan::{self, LineMark};
use engine::wire::Token;
use uuid::Uuid;

const RECV_BYTES: usize = 64 * 1024;
const MARKS: usize = 128;
const TOKEN_BYTES: usize = 36;
const FIRST_DASH: usize = 8;

type Corpus = (&'static str, fn() -> Vec<u8>);

const CORPORA: [Corpus; 14] = [
    ("token_first_256", benches::token_first_256),
    ("token_first_64", benches::token_first_64),
    ("token_first_1024", benches::token_first_1024),
    ("token_first_mixed", benches::token_first_mixed),
    ("token_middle_256", benches::token_middle_256),
    ("token_middle_64", benches::token_middle_64),
    ("token_last_256", benches::token_last_256),
    ("no_token_256", benches::no_token_256),
    ("all_dashes", benches::all_dashes),
    ("all_hex", benches::all_hex),
    ("near_tokens", benches::near_tokens),
    ("dash_patterns", benches::dash_patterns),
    ("one_byte_lines", benches::one_byte_lines),
    ("no_lf", benches::no_lf),
];

/// What was found: enough to see that two contenders found the same.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    lines: usize,
    tokens: usize,
    /// All tokens, and all line ends, folded together.
    folded: u64,
}

impl Found {
    #[inline]
    fn line(&mut self, end: usize, token: Option<[u8; 16]>) {
        self.lines += 1;
        self.folded ^= end as u64;
        if let Some(token) = token {
            let [first, second] = [&token[..8], &token[8..]].map(|half| half.try_into().map(u64::from_le_bytes));
            self.tokens += 1;
            self.folded ^= first.unwrap_or_default() ^ second.unwrap_or_default();
        }
    }
}

/// The scan as the engine uses it: marks first, then a search in the lines that do not begin with a token.
#[inline]
fn by_marks(
    buffer: &[u8],
    found: &mut Found,
    mark_lines: impl Fn(&[u8], &mut [LineMark]) -> usize,
    find_token: impl Fn(&[u8], usize) -> Option<usize>,
    token_at_start: impl Fn(&[u8]) -> Option<Token>,
) {
    let value = Token::to_bytes;
    let search = |line: &[u8], from| find_token(line, from).and_then(|at| token_at_start(&line[at..]));
    let mut marks = [LineMark::EMPTY; MARKS];
    let mut rest = buffer;
    loop {
        let count = mark_lines(rest, &mut marks);
        let mut start = 0;
        for mark in &marks[..count] {
            let end = mark.end as usize;
            let token = mark.token.or_else(|| search(&rest[start..end], 1));
            found.line(end - start, token.map(value));
            start = end + 1;
        }
        rest = &rest[start..];
        if count < MARKS {
            break;
        }
    }
    if !rest.is_empty() {
        found.line(rest.len(), search(rest, 0).map(value));
    }
}

fn engine(buffer: &[u8], found: &mut Found) {
    by_marks(buffer, found, scan::mark_lines, scan::find_token, scan::token_at_start);
}

fn scalar(buffer: &[u8], found: &mut Found) {
    by_marks(buffer, found, scan::scalar::mark_lines, scan::scalar::find_token, scan::scalar::token_at_start);
}

/// The usual way: memchr for LF; `Uuid` at the start of the line, then wherever memchr finds a dash.
fn memchr_uuid(buffer: &[u8], found: &mut Found) {
    let mut rest = buffer;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        let token = uuid_at(line, 0)
            .or_else(|| memchr::memchr_iter(b'-', line).find_map(|dash| uuid_at(line, dash.checked_sub(FIRST_DASH)?)));
        found.line(end, token.map(Uuid::into_bytes));
        rest = rest.get(end + 1..).unwrap_or_default();
    }
}

fn uuid_at(line: &[u8], at: usize) -> Option<Uuid> {
    Uuid::try_parse_ascii(line.get(at..at + TOKEN_BYTES)?).ok()
}

type Contender = (&'static str, fn(&[u8], &mut Found));

const CONTENDERS: [Contender; 3] = [("engine", engine), ("scalar", scalar), ("memchr_uuid", memchr_uuid)];

fn run(contender: fn(&[u8], &mut Found), corpus: &[u8]) -> Found {
    let mut found = Found::default();
    for buffer in corpus.chunks(RECV_BYTES) {
        contender(buffer, &mut found);
    }
    found
}

fn scan_benches(criterion: &mut Criterion) {
    for (name, corpus) in CORPORA {
        let corpus = corpus();
        let expected = run(memchr_uuid, &corpus);
        let mut group = criterion.benchmark_group(format!("scan/{name}"));
        group.throughput(Throughput::Bytes(corpus.len() as u64));
        for (contender, function) in CONTENDERS {
            assert_eq!(run(function, &corpus), expected, "{contender} on {name}");
            group.bench_function(contender, |bencher| bencher.iter(|| run(function, black_box(&corpus))));
        }
        group.finish();
    }
}

criterion_group!(benches, scan_benches);
criterion_main!(benches);
