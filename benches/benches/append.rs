//! Staging: entries copied into the batches of many logs, and the bookkeeping of batches around it. No write happens: a
//! batch that would be written goes back to the pool.
//!
//! One round stages 16 MiB of entries, a quarter of a shard's memory, over all logs in turn, then empties every log.
//! The fewer logs, the larger the batches, as in an engine. The bytes that come out are counted in every round.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::buf::BufferPool;
use engine::segment::{AppendOp, Appended, Appender, FileId, SegmentLimits, Wrote};
use engine::time::Time;
use engine::wire::{Entry, Token};

const ROUND_BYTES: usize = 16 << 20;
const POOL_BYTES: usize = 64 << 20;
const SEGMENT: SegmentLimits = SegmentLimits { bytes: u64::MAX, age: Duration::MAX };
/// Coprime with every number of logs here: its multiples reach all of them, far apart.
const STRIDE: usize = 7919;

struct Logs {
    appenders: Vec<Appender>,
    pool: BufferPool,
    out_bytes: usize,
}

impl Logs {
    fn new(count: usize) -> Self {
        let tokens = benches::tokens(count).into_iter();
        let appenders = tokens.map(|token| Appender::new(Token::from_bytes(token))).collect();
        Self { appenders, pool: BufferPool::new(POOL_BYTES), out_bytes: 0 }
    }

    /// Stages all entries; returns the bytes that came out.
    fn round(&mut self, entries: &[&[u8]]) -> usize {
        self.out_bytes = 0;
        let now = Time::new(Duration::ZERO);
        let mut log = 0;
        for &tail in entries {
            let entry = Entry { head: &[], tail };
            let appended = self.appenders[log].append(entry, 1, SEGMENT, &mut self.pool, now);
            if appended == Appended::Full {
                self.empty(log);
            }
            log = (log + STRIDE) % self.appenders.len();
        }
        for log in 0..self.appenders.len() {
            self.empty(log);
        }
        self.out_bytes
    }

    #[cold]
    #[inline(never)]
    fn empty(&mut self, log: usize) {
        let appender = &mut self.appenders[log];
        while let Some(op) = appender.start() {
            match op {
                AppendOp::Write { buf, .. } => {
                    let count = buf.rest().len();
                    self.out_bytes += count;
                    assert!(matches!(appender.wrote(buf, count, false, &mut self.pool), Wrote::Whole { .. }));
                }
                AppendOp::Create { .. } | AppendOp::Open { .. } => appender.opened(FileId(0)),
            }
        }
    }
}

fn append_benches(criterion: &mut Criterion) {
    for (size, corpus) in [
        ("64B", benches::token_first_64()),
        ("256B", benches::token_first_256()),
        ("1KiB", benches::token_first_1024()),
    ] {
        let lines: Vec<&[u8]> = corpus.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        let count = ROUND_BYTES / (lines[0].len() + 1);
        let entries: Vec<&[u8]> = lines.into_iter().cycle().take(count).collect();
        let mut group = criterion.benchmark_group(format!("append/{size}"));
        group.throughput(Throughput::Elements(count as u64));
        for logs_count in [100, 1_000, 10_000] {
            let mut logs = Logs::new(logs_count);
            group.bench_function(format!("{logs_count}_logs"), |bencher| {
                bencher.iter(|| assert_eq!(logs.round(black_box(&entries)), ROUND_BYTES));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, append_benches);
criterion_main!(benches);
