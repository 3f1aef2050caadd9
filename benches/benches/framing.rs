//! Cutting received bytes into lines: `LineDecoder` with a sink that only counts.
//!
//! Each corpus comes in receive buffers of 64 KiB, and in pieces of 1,448 bytes, the payload of one TCP segment, where
//! nearly every line of some length lies across two buffers. Before anything is timed, the lines found are compared with
//! those of `slice::split`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::buf::BufferPool;
use engine::framing::{LineDecoder, LineSink};
use engine::wire::Token;

const LINE_BYTES_MAX: usize = 256 * 1024;
const POOL_BYTES: usize = 4 << 20;

type Corpus = (&'static str, fn() -> Vec<u8>);

const CORPORA: [Corpus; 8] = [
    ("token_first_256", benches::token_first_256),
    ("token_first_64", benches::token_first_64),
    ("token_first_1024", benches::token_first_1024),
    ("token_first_mixed", benches::token_first_mixed),
    ("token_middle_256", benches::token_middle_256),
    ("long_lines", benches::long_lines),
    ("one_byte_lines", benches::one_byte_lines),
    ("no_lf", benches::no_lf),
];

const PIECES: [(&str, usize); 2] = [("64KiB", 64 * 1024), ("1448B", 1448)];

/// What was found: enough to see that two ways found the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    lines: usize,
    bytes: usize,
    /// Lengths, each weighted by the number of its line.
    folded: usize,
}

impl Found {
    #[inline]
    fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += line.len();
        self.folded = self.folded.wrapping_add(self.lines.wrapping_mul(line.len()));
    }
}

struct Counter {
    found: Found,
    pool: BufferPool,
}

impl LineSink for Counter {
    #[inline]
    fn line(&mut self, line: &[u8], token: Option<&Token>) {
        black_box(token);
        self.found.line(line);
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        self.found.line(piece);
        true
    }

    fn further_piece(&mut self, piece: &[u8]) {
        self.found.line(piece);
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.pool
    }
}

fn decode(corpus: &[u8], piece_bytes: usize, sink: &mut Counter) -> Found {
    sink.found = Found::default();
    let mut decoder = LineDecoder::default();
    let fed = corpus.chunks(piece_bytes).try_for_each(|piece| decoder.feed(piece, LINE_BYTES_MAX, sink));
    fed.and_then(|()| decoder.finish(LINE_BYTES_MAX, sink)).expect("no corpus is another protocol");
    sink.found
}

fn expected(corpus: &[u8]) -> Found {
    let mut found = Found::default();
    let lines = corpus.strip_suffix(b"\n").unwrap_or(corpus).split(|&byte| byte == b'\n');
    lines.flat_map(|line| line.chunks(LINE_BYTES_MAX)).for_each(|piece| found.line(piece));
    found
}

fn framing_benches(criterion: &mut Criterion) {
    let mut sink = Counter { found: Found::default(), pool: BufferPool::new(POOL_BYTES) };
    for (name, corpus) in CORPORA {
        let corpus = corpus();
        let expected = expected(&corpus);
        let mut group = criterion.benchmark_group(format!("framing/{name}"));
        group.throughput(Throughput::Bytes(corpus.len() as u64));
        for (pieces, piece_bytes) in PIECES {
            assert_eq!(decode(&corpus, piece_bytes, &mut sink), expected, "{name} in pieces of {pieces}");
            group.bench_function(pieces, |bencher| bencher.iter(|| decode(black_box(&corpus), piece_bytes, &mut sink)));
        }
        group.finish();
    }
}

criterion_group!(benches, framing_benches);
criterion_main!(benches);
